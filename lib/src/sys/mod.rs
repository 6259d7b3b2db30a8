//! The host: one file per tool or kernel interface. Nothing here knows of VMs.

pub mod apt;
pub mod atomic;
pub mod clock;
pub mod cpio;
pub mod exec;
pub mod ext4;
pub mod fd;
pub mod forwarding;
pub mod git_identity;
pub mod inotify;
pub mod kvm;
pub mod link;
pub mod mmdebstrap;
pub mod netlink;
pub mod nft;
pub mod git;
pub mod random;
pub mod reflink;
pub mod rootlock;
pub mod route;
pub mod signal;
pub mod ssh;
pub mod sshkey;
pub mod tap;
pub mod unix;
pub mod vmlinuz;
