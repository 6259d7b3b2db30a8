//! Tier `host`: real kernel objects — namespaces, taps, nftables, loop devices, ext4, sshd. Needs root.

#![allow(clippy::disallowed_methods, unsafe_code, reason = "what is for the programs is not for tests")]

use banger_test_support as support;

mod disk;
mod dm;
mod image_build;
mod import;
mod netd;
mod truth;
mod ws;
