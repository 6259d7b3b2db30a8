//! What `start` and the supervisor that it started say to each other, over one Unix socket: the order, then news, one JSON object
//! per line; at last [`KEEP`], by which `start` hands the VM over. A `start` that ends before it has said so has failed, and the
//! supervisor undoes everything.

use serde::{Deserialize, Serialize};

use super::monitor::Machine;
use super::shutdown::Deadlines;
use banger_contract::Fault;
use banger_contract::record::{Timing, VmmKind};

/// The last line that `start` sends: what the VM is was recorded.
pub const KEEP: &[u8] = b"keep\n";

/// The longest line, bytes. The order is made of sections of a record.
pub const MAX_LINE: usize = 8 << 20;

/// What `start` wants.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Which VMM.
    pub kind: VmmKind,
    /// The VM.
    pub machine: Machine,
    /// How long the guest may take to say "ready", seconds.
    pub ready_limit_s: u64,
    /// How long it may take to end where nobody says so: when its time to live is over.
    pub deadlines: Deadlines,
    /// Firecracker's program; `None`: the one in PATH.
    pub firecracker_bin: Option<String>,
}

/// What the supervisor reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "lowercase")]
pub enum News {
    /// Guest code runs.
    Started {
        /// The VMM's process.
        pid: i32,
        /// The VMM's version.
        version: String,
        /// RFC 3339.
        started_at: String,
        /// RFC 3339: when the VM's time is over.
        expires_at: Option<String>,
        /// When the VMM was begun to be started, microseconds of CLOCK_BOOTTIME.
        spawn_us: u64,
        /// When guest code began to run.
        boot_us: u64,
    },
    /// The guest says that it is ready.
    Ready {
        /// RFC 3339.
        ready_at: String,
        /// When that was, microseconds of CLOCK_BOOTTIME.
        ready_us: u64,
        /// What the guest says its boot cost, converted to the host's clock.
        steps: Vec<Timing>,
        /// Whether it takes commands over the agent's channel.
        exec: bool,
    },
    /// [`KEEP`] was heard: from here on the VM lives until it is ended.
    Kept,
    /// It did not work out, and everything was undone.
    Failed {
        /// Why.
        fault: Box<Fault>,
    },
}

/// The body of `POST /v1/ttl`, which the supervisor serves while the VM runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtlRequest {
    /// How long the VM has from now on, seconds; `None`: for ever.
    pub ttl_s: Option<u64>,
}
