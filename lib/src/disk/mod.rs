//! Images and kernels, and a VM's disks: a copy-on-write root, a work disk, the initrd. The domain of `banger-disk`.

pub mod arch;
pub mod build;
mod build_error;
pub mod debian;
pub mod delete;
pub mod image;
pub mod initrd;
pub mod modules;
