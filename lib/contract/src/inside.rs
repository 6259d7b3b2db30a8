//! What a running VM uses, and which of its sockets wait for connections.
//!
//! What `guest` and `ports` hold is the guest's own word, bounded and of these shapes but no more to be believed than the guest.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Protocol;

/// The schema of [`Usage`].
pub const USAGE_SCHEMA: &str = "banger.usage/1";
/// The schema of [`Usages`].
pub const USAGES_SCHEMA: &str = "banger.usages/1";
/// The schema of [`Ports`].
pub const PORTS_SCHEMA: &str = "banger.ports/1";

/// The answer to `stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Always [`USAGE_SCHEMA`].
    pub schema: String,
    /// The VM's name.
    pub name: String,
    /// When, RFC 3339, UTC.
    pub at: String,
    /// What the VMM's process costs the host.
    pub vmm: VmmUse,
    /// The disks as the VMM counts them; `null` where it was not asked or did not answer.
    pub disks: Option<Vec<DiskIo>>,
    /// What its disks take of the host, and what the host has left.
    pub storage: Storage,
    /// The tap as the host counts it; `null` with user networking.
    pub net: Option<NetIo>,
    /// What the guest says of itself; `null` where its agent does not answer.
    pub guest: Option<GuestUse>,
}

/// The answer to `banger vm stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usages {
    /// Always [`USAGES_SCHEMA`].
    pub schema: String,
    /// One for each VM that was looked at.
    pub items: Vec<Usage>,
}

/// What the VMM's process costs the host (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmmUse {
    /// Its pid.
    pub pid: i32,
    /// Processor time of all its threads since it was started, microseconds.
    pub cpu_time_us: u64,
    /// That of the threads that execute guest code.
    pub vcpu_time_us: u64,
    /// Resident memory, the guest's included.
    pub rss_bytes: u64,
}

/// The room that a VM's disks take, and that of the filesystem on which they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Storage {
    /// What the changes to the VM's root take: the file is mostly hole.
    pub root_bytes: u64,
    /// The most that they may take; `null`: as much as the root is large.
    pub root_limit_bytes: Option<u64>,
    /// What its work disk takes.
    pub work_bytes: u64,
    /// Size of the filesystem of the state directory; `null` where it cannot be asked.
    pub size_bytes: Option<u64>,
    /// What is left of it; when nothing is, the guest gets I/O errors.
    pub free_bytes: Option<u64>,
}

/// What went through one disk since the VM was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskIo {
    /// The drive's name, as the VMM has it: `root`, `upper`, `work`.
    pub drive: String,
    /// Bytes that the guest read.
    pub read_bytes: u64,
    /// Bytes that the guest wrote.
    pub written_bytes: u64,
}

/// What went through the tap since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetIo {
    /// Bytes from the host to the guest.
    pub received_bytes: u64,
    /// Bytes from the guest to the host.
    pub sent_bytes: u64,
}

/// What a guest says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestUse {
    /// Since its boot, microseconds.
    pub uptime_us: u64,
    /// The load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Its memory.
    pub memory: GuestMemory,
    /// Its filesystems.
    pub disks: Vec<GuestDisk>,
}

/// A guest's memory (proc_meminfo(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestMemory {
    /// All that its kernel may use.
    pub total_bytes: Option<u64>,
    /// Unused.
    pub free_bytes: Option<u64>,
    /// What programs could get.
    pub available_bytes: Option<u64>,
}

/// A filesystem of a guest (statvfs(3)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestDisk {
    /// Where it is mounted.
    pub mount: String,
    /// Its size.
    pub size_bytes: u64,
    /// Unused.
    pub free_bytes: u64,
    /// Unused, and not reserved for root.
    pub available_bytes: u64,
}

/// The answer to `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ports {
    /// Always [`PORTS_SCHEMA`].
    pub schema: String,
    /// The VM's name.
    pub name: String,
    /// The sockets, by port.
    pub items: Vec<Port>,
}

/// A socket of the guest's that waits for connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address that it is bound to.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The first process that holds it, by its number in the guest.
    pub pid: Option<u32>,
    /// That process's name.
    pub process: Option<String>,
}
