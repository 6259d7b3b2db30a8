//! Domain.

pub mod initrd;
pub mod modules;
