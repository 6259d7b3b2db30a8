//! Names: which resolvers a guest is given, and the resolver that `banger-netd serve` is.
//!
//! The resolver answers `NAME.vm` and the reverse from the names file ([`zone`]), which the dispatcher keeps, and passes every
//! other question of a guest on to the host's resolvers ([`resolvers`]). [`question`] takes a packet apart and [`reply`] writes
//! the answer: both are pure. [`udp`] and [`tcp`] move packets, [`upstream`] asks others, [`serve`] begins, confines and ends it all.
//! [`hook`] has the host's own resolver ask ours.
//!
//! Everything that comes is hostile: guests send what they like, and so does whoever answers in an upstream resolver's name.
//! Nothing here grows with what they send: packets, questions on their way, connections and time are all bounded.

pub mod hook;
pub mod question;
pub mod reply;
pub mod resolvers;
pub mod serve;
pub mod serving;
mod shared;
pub mod site;
pub mod zone;

mod error;
mod inflight;
mod names_file;
mod tcp;
mod udp;
mod upstream;

/// What the resolver's sockets are marked with (SO_MARK in socket(7)), so that the rules tell it from another server on that port.
/// One byte, where nobody else looks for marks of their own.
pub const MARK: u32 = 0x62;

/// The port of DNS.
pub const PORT: u16 = 53;

#[cfg(test)]
mod reply_tests;
