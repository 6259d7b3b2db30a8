//! The formats that images and kernels come in, and that banger writes: bytes in, bytes out. Input is hostile.
//!
//! Of the host there is [`ext4`]'s file alone, of which the kernel is asked to share blocks.

pub mod apt;
pub mod cpio;
pub mod deb;
pub mod decompress;
pub mod ext4;
pub mod kconfig;
pub mod modinfo;
pub mod tar;
pub mod vmlinuz;
pub mod x509;
