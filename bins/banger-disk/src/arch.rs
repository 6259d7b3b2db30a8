//! What of an image differs by architecture.

/// The architecture as `uname -m` says it.
#[cfg(target_arch = "x86_64")]
pub const NAME: &str = "x86_64";
/// The architecture as OCI images name it.
#[cfg(target_arch = "x86_64")]
pub const OCI_NAME: &str = "amd64";
/// Debian's package of the newest kernel for virtual machines.
#[cfg(target_arch = "x86_64")]
pub const DEBIAN_KERNEL: &str = "linux-image-cloud-amd64";
/// Ubuntu's archive.
#[cfg(target_arch = "x86_64")]
pub const UBUNTU_ARCHIVE: &str = "http://archive.ubuntu.com/ubuntu";
/// Where Ubuntu's security updates are.
#[cfg(target_arch = "x86_64")]
pub const UBUNTU_SECURITY: &str = "http://security.ubuntu.com/ubuntu";
/// The kernel options of the serial ports that the VMMs have.
#[cfg(target_arch = "x86_64")]
pub const CONSOLES: [&str; 1] = ["SERIAL_8250_CONSOLE"];
/// The kernel options, of which one is needed, through which Firecracker's devices are found.
#[cfg(target_arch = "x86_64")]
pub const DISCOVERY: [&str; 2] = ["ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES"];

/// The architecture as `uname -m` says it.
#[cfg(target_arch = "aarch64")]
pub const NAME: &str = "aarch64";
/// The architecture as OCI images name it.
#[cfg(target_arch = "aarch64")]
pub const OCI_NAME: &str = "arm64";
/// Debian's package of the newest kernel for virtual machines.
#[cfg(target_arch = "aarch64")]
pub const DEBIAN_KERNEL: &str = "linux-image-cloud-arm64";
/// Ubuntu's archive.
#[cfg(target_arch = "aarch64")]
pub const UBUNTU_ARCHIVE: &str = "http://ports.ubuntu.com/ubuntu-ports";
/// Where Ubuntu's security updates are.
#[cfg(target_arch = "aarch64")]
pub const UBUNTU_SECURITY: &str = "http://ports.ubuntu.com/ubuntu-ports";
/// The kernel options of the serial ports that the VMMs have.
#[cfg(target_arch = "aarch64")]
pub const CONSOLES: [&str; 2] = ["SERIAL_8250_CONSOLE", "SERIAL_AMBA_PL011_CONSOLE"];
/// The kernel options, of which one is needed, through which Firecracker's devices are found.
#[cfg(target_arch = "aarch64")]
pub const DISCOVERY: [&str; 1] = ["OF"];
