//! Firecracker: told over its API socket what to boot, and heard through its vsock's Unix sockets.
