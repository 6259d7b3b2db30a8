//! The host: one file per tool or kernel interface. Nothing here knows of VMs.

pub mod atomic;
pub mod clock;
pub mod cpio;
pub mod exec;
pub mod fd;
pub mod forwarding;
pub mod inotify;
pub mod kvm;
pub mod link;
pub mod netlink;
pub mod nft;
pub mod random;
pub mod rootlock;
pub mod route;
pub mod signal;
pub mod sshkey;
pub mod tap;
pub mod unix;
