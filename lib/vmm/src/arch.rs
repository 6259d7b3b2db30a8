//! What of a virtual machine depends on the processor's architecture.

/// QEMU's system emulator.
#[cfg(target_arch = "x86_64")]
pub const QEMU: &str = "qemu-system-x86_64";
/// QEMU's system emulator.
#[cfg(target_arch = "aarch64")]
pub const QEMU: &str = "qemu-system-aarch64";

/// QEMU's machine type. `microvm` hangs in TSC calibration under emulation and is slower there: q35, without the devices of it that no
/// guest of ours uses: each is code of the host's that a guest talks to.
#[cfg(target_arch = "x86_64")]
pub const QEMU_MACHINE: &str = "q35,sata=off,smbus=off,vmport=off";
/// QEMU's machine type.
#[cfg(target_arch = "aarch64")]
pub const QEMU_MACHINE: &str = "virt";

/// How much of the host's randomness a guest may take in a second, bytes: it is work of the host's, and a kernel needs little of it.
pub const ENTROPY_BYTES_S: u64 = 64 << 10;

/// The part of the kernel's command line that names the console and the way to restart.
#[cfg(target_arch = "x86_64")]
pub const BOOT_LINE: &str = "console=ttyS0 reboot=k";
/// The part of the kernel's command line that names the console and the way to restart.
#[cfg(target_arch = "aarch64")]
pub const BOOT_LINE: &str = "console=ttyAMA0";

/// What the kernel's command line has besides where QEMU emulates the processor.
///
/// `cryptomgr.notests`: trying every cipher first takes long, and one of the tests was seen to never end there. `clearcpuid=141` (CX16): up to
/// version 7.2, QEMU's emulation of `cmpxchg16b` leaves anything in the flags, and an interrupt right behind it is a double fault; Linux
/// 6.12 with one vCPU allocates memory with it all the time. The kernel does without, at no cost that shows. Programs still see
/// `cx16`, since x86-64-v2 has it and whole distributions do not start without (`-cpu max,-cx16` would take it from them, too). The number
/// is in arch/x86/include/asm/cpufeatures.h: kernels before 5.18 know no names. `no_timer_check`: on a busy host the emulated timer is late,
/// and the kernel panics over it ("IO-APIC + timer doesn't work!").
#[cfg(target_arch = "x86_64")]
pub const EMULATED_BOOT_LINE: &str = "cryptomgr.notests clearcpuid=141 no_timer_check";
/// What the kernel's command line has besides where QEMU emulates the processor: see there for x86_64.
#[cfg(target_arch = "aarch64")]
pub const EMULATED_BOOT_LINE: &str = "cryptomgr.notests";

/// The kernel's boot line under Firecracker, which adds `pci=off` and the devices.
///
/// `quiet loglevel=1`: the serial port costs one exit to Firecracker per byte. `reboot=k panic=1 banger.halt=reboot`: a guest that
/// powers off does not end Firecracker on x86, one that reboots through the keyboard controller does (#598 of
/// firecracker-microvm/firecracker), and banger-guest reboots where it is told to. The rest spares probes of hardware that
/// is not there; no `nomodule`, which Firecracker's default has and which breaks the kernels of distributions.
#[cfg(target_arch = "x86_64")]
pub const FIRECRACKER_BOOT_LINE: &str = "console=ttyS0 quiet loglevel=1 reboot=k panic=1 i8042.noaux i8042.nomux \
     i8042.dumbkbd swiotlb=noforce random.trust_cpu=on net.ifnames=0 banger.halt=reboot";
/// The kernel's boot line under Firecracker, which ends when the guest resets through PSCI.
#[cfg(target_arch = "aarch64")]
pub const FIRECRACKER_BOOT_LINE: &str = "console=ttyS0 quiet loglevel=1 panic=1 keep_bootcon random.trust_cpu=on net.ifnames=0 banger.halt=reboot";
