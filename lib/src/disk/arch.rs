//! What of an image differs by architecture.

/// The architecture as `uname -m` says it.
#[cfg(target_arch = "x86_64")]
pub const NAME: &str = "x86_64";
/// Debian's package of the newest kernel for virtual machines.
#[cfg(target_arch = "x86_64")]
pub const DEBIAN_KERNEL: &str = "linux-image-cloud-amd64";

/// The architecture as `uname -m` says it.
#[cfg(target_arch = "aarch64")]
pub const NAME: &str = "aarch64";
/// Debian's package of the newest kernel for virtual machines.
#[cfg(target_arch = "aarch64")]
pub const DEBIAN_KERNEL: &str = "linux-image-cloud-arm64";
