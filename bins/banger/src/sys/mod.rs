//! Of the host what only `banger` uses.

pub mod getent;
pub mod package_lock;
pub mod sshkey;
