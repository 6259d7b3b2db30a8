//! The bodies of Firecracker's API, as far as banger uses it. Field names and types are those of its published
//! description (`src/firecracker/swagger/firecracker.yaml`); every field here exists since 1.14, because Firecracker refuses
//! a body with a field that it does not know.

use banger_contract::types::LinkName;
use banger_vmm::arch::FIRECRACKER_BOOT_LINE;
use banger_vmm::monitor::Machine;
use serde::{Deserialize, Serialize};

use crate::{program, vsock};

/// The identifier of the one network interface. Resource identifiers are letters, digits and `_`.
pub const INTERFACE_ID: &str = "eth0";

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Such as `1.14.0`.
    pub firecracker_version: String,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FaultMessage {
    /// Firecracker's words.
    pub fault_message: String,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineConfiguration {
    /// 1–32.
    pub vcpu_count: u8,
    /// MiB.
    pub mem_size_mib: u32,
}

/// `PUT /boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// An ELF; a bzImage is understood since 1.17 only.
    pub kernel_image_path: String,
    /// The initrd.
    pub initrd_path: String,
    /// The boot line, used as it is: Firecracker's own defaults go where one is given, `pci=off` is always added.
    pub boot_args: String,
}

/// What Firecracker makes of a guest's flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// Nothing. What the guest wrote is in the host's page cache and outlives guest and Firecracker, not the host.
    Unsafe,
}

/// How Firecracker reads and writes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IoEngine {
    /// With read(2) and write(2). `Async` is io_uring, which many hosts forbid.
    Sync,
}

/// A limit that refills with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// Bytes; with a `refill_time` of 0 there is no limit.
    pub size: u64,
    /// Milliseconds in which an empty bucket fills.
    pub refill_time: u64,
}

/// How much may go through a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// In bytes.
    pub bandwidth: TokenBucket,
}

impl RateLimiter {
    /// `rate` bytes a second.
    pub fn bytes_per_second(rate: u64) -> Self {
        Self { bandwidth: TokenBucket { size: rate, refill_time: 1000 } }
    }

    /// The same in a change of a running VM, where the absence of a limit must be said.
    pub fn changed_to(rate: Option<u64>) -> Self {
        rate.map_or(Self { bandwidth: TokenBucket { size: 0, refill_time: 0 } }, Self::bytes_per_second)
    }
}

/// `PATCH /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialDrive {
    /// As in the path.
    pub drive_id: String,
    /// The file, which is opened again: a larger one makes the disk larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<String>,
    /// How much may go through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PATCH /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialNetworkInterface {
    /// As in the path.
    pub iface_id: String,
    /// How much the guest may receive.
    pub rx_rate_limiter: RateLimiter,
    /// How much it may send.
    pub tx_rate_limiter: RateLimiter,
}

/// `PUT /metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// A file that takes one JSON object for each flush.
    pub metrics_path: String,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// As in the path.
    pub drive_id: String,
    /// A file or a block device.
    pub path_on_host: String,
    /// Always false: it makes Firecracker add `root=`, and banger-guest mounts the root by its UUID.
    pub is_root_device: bool,
    /// Whether Firecracker opens it read-only.
    pub is_read_only: bool,
    /// What a flush does.
    pub cache_type: CacheType,
    /// How it is read and written.
    pub io_engine: IoEngine,
    /// How much may go through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

impl Drive {
    fn new(drive_id: &str, path_on_host: &str, is_read_only: bool, rate: Option<u64>) -> Self {
        Self {
            drive_id: drive_id.to_owned(),
            path_on_host: path_on_host.to_owned(),
            is_root_device: false,
            is_read_only,
            // A VM is disposable: a host that crashes may cost it its disks, and builds in it are several times faster.
            cache_type: CacheType::Unsafe,
            io_engine: IoEngine::Sync,
            rate_limiter: rate.map(RateLimiter::bytes_per_second),
        }
    }
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// As in the path.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
    /// The guest's Ethernet address.
    pub guest_mac: String,
    /// The largest packet, of which the guest's driver is told; where this Firecracker can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How much the guest may receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How much it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// 3 or more.
    pub guest_cid: u32,
    /// The Unix socket that Firecracker makes. Relative to its working directory, so that it stays under the 107 bytes of a
    /// `sockaddr_un` wherever the state directory is.
    pub uds_path: String,
}

/// `PUT /entropy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntropyDevice {
    /// How much the guest may have of it.
    pub rate_limiter: RateLimiter,
}

/// `PUT /actions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boots the VM.
    InstanceStart,
    /// Writes what was counted since the last flush. Firecracker does so by itself every minute.
    FlushMetrics,
    /// Presses Ctrl, Alt and Del, on which a guest reboots. x86 only.
    SendCtrlAltDel,
}

/// Everything Firecracker is told before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Where it counts.
    pub metrics: Metrics,
    /// vCPUs and memory.
    pub machine: MachineConfiguration,
    /// Kernel, initrd and boot line.
    pub boot: BootSource,
    /// The drives, in the order in which the guest sees them.
    pub drives: Vec<Drive>,
    /// The network.
    pub interface: NetworkInterface,
    /// The agent's channel.
    pub vsock: Vsock,
}

impl Configuration {
    /// What `machine` asks for, with `tap` as its network; it counts into `metrics_path`. `version` is
    /// Firecracker's.
    pub fn new(machine: &Machine, tap: &LinkName, metrics_path: String, version: &str) -> Self {
        let Machine { vm, disk, .. } = machine;
        let rate = vm.disk_rate_bytes_s;
        let mut drives = vec![Drive::new("root", &disk.root_device, disk.root_read_only, rate)];
        drives.extend(disk.upper_device.as_deref().map(|path| Drive::new("upper", path, false, rate)));
        drives.push(Drive::new("work", &disk.work_device, false, rate));
        let net_rate = vm.net_rate_bytes_s.map(RateLimiter::bytes_per_second);
        Self {
            metrics: Metrics { metrics_path },
            machine: MachineConfiguration { vcpu_count: vm.vcpus, mem_size_mib: vm.memory_mib },
            boot: BootSource {
                kernel_image_path: disk.kernel_elf.clone(),
                initrd_path: disk.initrd.clone(),
                boot_args: FIRECRACKER_BOOT_LINE.to_owned(),
            },
            drives,
            interface: NetworkInterface {
                iface_id: INTERFACE_ID.to_owned(),
                host_dev_name: tap.to_string(),
                guest_mac: vm.mac.to_string(),
                mtu: vm.mtu.filter(|_| program::tells_mtu(version)),
                rx_rate_limiter: net_rate,
                tx_rate_limiter: net_rate,
            },
            vsock: Vsock { guest_cid: vm.cid, uds_path: vsock::SOCKET.to_owned() },
        }
    }
}
