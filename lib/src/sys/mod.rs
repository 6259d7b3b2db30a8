//! The host: one file per tool or kernel interface. Nothing here knows of VMs.

pub mod atomic;
pub mod clock;
pub mod cpio;
pub mod exec;
pub mod fd;
pub mod kvm;
pub mod random;
pub mod route;
pub mod signal;
pub mod sshkey;
