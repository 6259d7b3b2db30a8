//! The host: one file for each tool or interface of the kernel that more than one of banger's programs uses. Nothing here knows of VMs.
//!
//! What a single program uses is in its own `sys`.

#![allow(unsafe_code, reason = "interfaces of the kernel")]

pub mod clock;
pub mod digest;
pub mod fs;
pub mod git;
pub mod host_policy;
pub mod kvm;
pub mod net;
pub mod process;
pub mod random;
