//! Firecracker: told over its API socket what to boot, and heard through its vsock's Unix sockets.

pub mod api;
pub mod arch;
pub mod client;
pub mod error;
pub mod explain;
pub mod launch;
pub mod vsock;
