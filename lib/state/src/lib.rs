//! The state directory: where everything is ([`dir`]), who may change it now ([`lock`]), and what is currently true of a VM
//! ([`handles`]), what is known of VMs ([`db`]) and to the resolver ([`names`]). banger-state(5) describes it for people.

pub mod db;
pub mod dir;
pub mod handles;
pub mod lock;
pub mod names;
