//! What differs by architecture under Firecracker: the boot line.

/// The kernel's boot line. Where one is given Firecracker adds only `pci=off` and the devices.
///
/// `quiet loglevel=1`: the serial port costs one exit to Firecracker per byte. `reboot=k panic=1 banger.halt=reboot`: a guest that
/// powers off does not end Firecracker on x86, one that reboots through the keyboard controller does (#598 of
/// firecracker-microvm/firecracker), and banger-guest reboots where it is told to. The rest spares probes of hardware that
/// is not there; no `nomodule`, which Firecracker's default has and which breaks the kernels of distributions.
#[cfg(target_arch = "x86_64")]
pub const BOOT_ARGS: &str = "console=ttyS0 quiet loglevel=1 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd \
     swiotlb=noforce random.trust_cpu=on net.ifnames=0 banger.halt=reboot";

/// The kernel's boot line. Firecracker ends when the guest powers off or resets through PSCI.
#[cfg(not(target_arch = "x86_64"))]
pub const BOOT_ARGS: &str = "console=ttyS0 quiet loglevel=1 reboot=k panic=1 keep_bootcon random.trust_cpu=on \
     net.ifnames=0 banger.halt=reboot";
