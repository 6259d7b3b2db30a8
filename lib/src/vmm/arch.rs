//! What of a virtual machine depends on the processor's architecture.

/// QEMU's system emulator.
#[cfg(target_arch = "x86_64")]
pub const QEMU: &str = "qemu-system-x86_64";
/// QEMU's system emulator.
#[cfg(target_arch = "aarch64")]
pub const QEMU: &str = "qemu-system-aarch64";

/// QEMU's machine type. `microvm` hangs in TSC calibration under emulation and is slower there: q35.
#[cfg(target_arch = "x86_64")]
pub const QEMU_MACHINE: &str = "q35";
/// QEMU's machine type.
#[cfg(target_arch = "aarch64")]
pub const QEMU_MACHINE: &str = "virt";

/// The part of the kernel's command line that names the console and the way to restart.
#[cfg(target_arch = "x86_64")]
pub const BOOT_LINE: &str = "console=ttyS0 reboot=k";
/// The part of the kernel's command line that names the console and the way to restart.
#[cfg(target_arch = "aarch64")]
pub const BOOT_LINE: &str = "console=ttyAMA0";
