//! The virtual machine monitor and its supervisor.
//!
//! `start` ([`start`]) starts the supervisor ([`supervisor`]), which starts the VMM, lives exactly as long as it, and is the only
//! process of banger's that outlives a command. What differs between QEMU and Firecracker is behind [`monitor::Monitor`].

pub mod arch;
pub mod firecracker;
pub mod monitor;
pub mod qemu;
