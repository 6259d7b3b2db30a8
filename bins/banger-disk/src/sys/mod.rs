//! Of the host what only images and disks use: one file for each tool or interface of the kernel.

pub mod dm;
pub mod git_identity;
pub mod host_ca;
pub mod lease;
pub mod loopdev;
pub mod memory;
pub mod mmdebstrap;
pub mod pump;
pub mod url;
pub mod web;
