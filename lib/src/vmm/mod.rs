//! Domain.

pub mod firecracker;
