//! What verbs without a record answer: versions, collections, checkups, checkouts.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::Fault;
use super::policy::{Egress, Publish};
use super::record::{NetMode, WorkspaceMode};
use crate::types::{LinkName, MacAddr, StateId, VmId, VmName};

/// The schema of [`Version`].
pub const VERSION_SCHEMA: &str = "banger.version/1";
/// The schema of [`Collected`].
pub const GC_SCHEMA: &str = "banger.gc/1";
/// The schema of [`Checkup`].
pub const DOCTOR_SCHEMA: &str = "banger.doctor/1";
/// The schema of [`CheckoutReply`].
pub const CHECKOUT_SCHEMA: &str = "banger.checkout/1";
/// The schema of [`NetworkReply`].
pub const NETWORK_SCHEMA: &str = "banger.network/1";

/// The schema of [`Resolver`].
pub const RESOLVER_SCHEMA: &str = "banger.resolver/1";

/// The answer to `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Always [`VERSION_SCHEMA`].
    pub schema: String,
    /// The program.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// The schemas that it reads and writes.
    pub schemas: Vec<String>,
    /// The VMM's own version; `null` where it is not installed or the program has none.
    pub vmm: Option<String>,
}

/// The answer to `gc`: what was removed. Where something could not be, the program fails, and its error's details hold both lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Collected {
    /// Always [`GC_SCHEMA`].
    pub schema: String,
    /// The program.
    pub tool: String,
    /// Objects, in words.
    pub removed: Vec<String>,
    /// What could not be removed: of `banger gc`, which goes on to the next program; empty otherwise.
    pub errors: Vec<Fault>,
}

impl Collected {
    /// The answer of `tool`.
    pub fn new(tool: &str, removed: Vec<String>, errors: Vec<Fault>) -> Self {
        Self { schema: GC_SCHEMA.to_owned(), tool: tool.to_owned(), removed, errors }
    }
}

/// How a thing of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// There, and good.
    Ok,
    /// The main job works without it, but less well.
    Note,
    /// The main job fails without it.
    Missing,
}

impl CheckState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Missing => "missing",
        }
    }
}

/// One finding of `banger doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// Where it is, or what it would be good for.
    pub detail: String,
}

/// The answer to `banger doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkup {
    /// Always [`DOCTOR_SCHEMA`].
    pub schema: String,
    /// Whether nothing is missing.
    pub ok: bool,
    /// The findings.
    pub items: Vec<Check>,
    /// The command that installs what is missing; `null` where nothing is, or no package manager is known.
    pub fix: Option<String>,
}

/// The answer to `banger-ws inspect`: what of a checkout would travel. Bytes of names that are not UTF-8 are replaced. Counts take
/// in the submodules that travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckoutReply {
    /// Always [`CHECKOUT_SCHEMA`].
    pub schema: String,
    /// The checkout's root.
    pub root: String,
    /// The commit that HEAD stands at; `null` on an unborn branch.
    pub head_commit: Option<String>,
    /// The branch; `null` where HEAD is detached.
    pub branch: Option<String>,
    /// What would travel beside the files.
    pub mode: WorkspaceMode,
    /// Files that travel.
    pub file_count: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// Whether a tracked file differs from HEAD.
    pub dirty: bool,
    /// How many do.
    pub changed_count: usize,
    /// Files that are neither tracked nor ignored.
    pub untracked_count: usize,
    /// Submodules, those included that are not checked out.
    pub submodule_count: usize,
    /// Untracked files that stay behind.
    pub left_behind_count: usize,
    /// Each submodule, by its path.
    pub submodules: Vec<SubmoduleReply>,
    /// Files that are pointers of Git LFS, not what they point at. They travel as pointers.
    pub lfs_pointer_count: usize,
    /// Tracked files that a sparse checkout leaves out: they are in the index alone.
    pub sparse_count: usize,
    /// Whether the host's own history is cut short (a shallow clone).
    pub shallow: bool,
    /// Whether the host's repository lacks objects that its remote has (a partial clone). They do not travel.
    pub partial: bool,
    /// The files that travel, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
}

/// A submodule in [`CheckoutReply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubmoduleReply {
    /// Where it is below the root.
    pub path: String,
    /// The commit that its HEAD stands at; `null` where it is not checked out, and travels as an empty directory.
    pub head_commit: Option<String>,
    /// How many of its tracked files differ from that commit.
    pub changed_count: usize,
}

/// What one of a VM's rules has counted since it was last changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleCount {
    /// What it does, for people: `published: …`, `let through: …`, `refused: …` or `dropped: …`.
    pub rule: String,
    /// Packets; connections where it is about a published port.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A firewall of the host that drops what VMs send and what is sent to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocked {
    /// Its name, for people.
    pub firewall: String,
    /// The command that has it let the VMs of this state directory through.
    pub fix: String,
}

/// The answer to `banger-netd status`: a VM's network, and what its rules have counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkReply {
    /// Always [`NETWORK_SCHEMA`].
    pub schema: String,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Tap or user networking.
    pub mode: NetMode,
    /// Whether the network is there.
    pub attached: bool,
    /// The guest's address, which is the VM's as long as the VM is there.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// The guest's Ethernet address.
    pub mac: MacAddr,
    /// The resolvers that the guest was given.
    pub dns: Vec<Ipv4Addr>,
    /// Whether the guest gets out of its subnet.
    pub nat: bool,
    /// What it may reach there.
    pub egress: Egress,
    /// Whether it and other such VMs reach each other.
    pub peer: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// What the VM's rules have counted; empty with user networking, which has none.
    pub rules: Vec<RuleCount>,
    /// Firewalls of the host that have to let the VM through and do not.
    pub blocked_by: Vec<Blocked>,
}

/// The answer to `banger-netd serve`: the resolver that answers from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resolver {
    /// Always [`RESOLVER_SCHEMA`].
    pub schema: String,
    /// The state directory.
    pub state_id: StateId,
    /// Its bridge.
    pub bridge: LinkName,
    /// The address at which questions are answered, port 53.
    pub address: Ipv4Addr,
    /// Whether it was started; `false`: it ran already.
    pub changed: bool,
}
