//! The network of a VM: what `banger-netd` does.
//!
//! In `user` mode the VMM brings its own network and nothing on the host changes ([`user`]). In `tap` mode each state
//! directory has a bridge, and each VM a tap on it, with rules in two nftables tables of the state directory's
//! ([`rules`]): see [`attach`] for the order in which they come and [`detach`] for how they go.
//!
//! [`bridge`] makes the bridge, [`routing`] has it forwarded, [`chains`] names what a VM has in the tables, [`undo`] takes an attach back,
//! and [`lock`] keeps them apart.
//!
//! The record is hostile: it may come from an unprivileged user through sudo. [`request`] turns it into values that are
//! checked once; [`caller`] says on whose behalf this program may act; [`tag`] says whose a link is. The database is
//! never opened.

pub mod attach;
pub mod caller;
pub mod check;
pub mod claims;
pub mod detach;
pub mod dns;
pub mod error;
pub mod firewall;
pub mod gc;
pub mod hold;
pub mod networkd;
pub mod permit;
pub mod pool;
pub mod publish;
pub mod realm;
pub mod rebuild;
pub mod request;
pub mod rules;
pub mod status;
pub mod tag;
pub mod update;
pub mod user;
pub mod user_dns;

mod bridge;
mod chains;
#[allow(clippy::disallowed_methods, reason = "here the caller's world is read")]
pub mod cli;
mod host;
mod lock;
mod policy;
mod routing;
#[allow(unsafe_code, reason = "interfaces of the kernel")]
mod sys;
mod undo;

pub use error::NetError;
