//! The host's own resolver: whether it asks that of a bridge about `NAME.vm`, and what of that works.

use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{LinkName, StateId, VmName};

/// The schema of [`HookRequest`] and [`HookReply`].
pub const HOOK_SCHEMA: &str = "banger.hook/1";
/// The schema of [`DnsReply`].
pub const DNS_SCHEMA: &str = "banger.dns/1";

/// A resolver of the host's that can be told whom to ask about which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostResolver {
    /// systemd-resolved, by the settings of the bridge as a link.
    SystemdResolved,
    /// The dnsmasq that NetworkManager runs, by a file in its directory.
    NetworkmanagerDnsmasq,
}

impl HostResolver {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemdResolved => "systemd-resolved",
            Self::NetworkmanagerDnsmasq => "NetworkManager's dnsmasq",
        }
    }
}

/// What `banger-netd hook` and `unhook` are asked. All else is the bridge's own, which the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookRequest {
    /// Always [`HOOK_SCHEMA`].
    pub schema: String,
    /// The state directory, which the bridge is named after.
    pub state_id: StateId,
}

impl HookRequest {
    /// The request about `state_id`.
    pub fn new(state_id: StateId) -> Self {
        Self { schema: HOOK_SCHEMA.to_owned(), state_id }
    }
}

/// What `banger-netd hook` and `unhook` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookReply {
    /// Always [`HOOK_SCHEMA`].
    pub schema: String,
    /// The state directory.
    pub state_id: StateId,
    /// Which resolver of the host's asks the bridge's from now on; `null`: none.
    pub resolver: Option<HostResolver>,
    /// Whether anything was changed.
    pub changed: bool,
}

/// The answer to `banger dns status`: what was chosen, and what the host's resolver really does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsReply {
    /// Always [`DNS_SCHEMA`].
    pub schema: String,
    /// The state directory; `null` where it has not been used yet.
    pub state_id: Option<StateId>,
    /// Whether the host is to resolve the names of its VMs: `banger dns enable`.
    pub enabled: bool,
    /// The resolver of the host's that can be told; `null` where there is none.
    pub resolver: Option<HostResolver>,
    /// The bridge; `null` while no VM is attached.
    pub bridge: Option<LinkName>,
    /// Where `banger-netd serve` answers on that bridge.
    pub address: Option<Ipv4Addr>,
    /// Whether it runs.
    pub served: bool,
    /// Whether the host's resolver has been told to ask it.
    pub hooked: bool,
    /// Who else has names that end in `.vm` sent to them, in words.
    pub claimed_by: Vec<String>,
    /// What this host answers to those who ask about the VMs that are attached; at most 16 are tried.
    pub names: Vec<ResolvedName>,
    /// What to do by hand where the host has no resolver that can be told.
    pub advice: Option<String>,
}

/// A VM's name, as this host resolves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedName {
    /// The VM.
    pub name: VmName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What `NAME.vm` is to programs on this host; empty: unknown.
    pub answers: Vec<IpAddr>,
    /// Whether that is right.
    pub resolves: bool,
}
