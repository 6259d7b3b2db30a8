//! Tier `host`: real kernel objects — namespaces, taps, nftables, loop devices, ext4, sshd. Needs root.

mod disk;
mod netd;
mod ws;
