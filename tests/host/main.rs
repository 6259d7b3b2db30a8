//! Tier `host`: real kernel objects — namespaces, taps, nftables, loop devices, ext4, sshd. Needs root.

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod dm;
mod image_build;
mod import;
mod netd;
mod truth;
mod ws;
