//! What can go wrong with a VM's network.

use std::io;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::claims::Claim;
use crate::sys::nft::NftError;
use banger_contract::policy::Publish;
use banger_contract::types::{Cidr, VmId};
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::rootlock::RootLockError;
use banger_host::host_policy::{NotPermitted, ReadPolicyError};
use banger_host::net::link::LinkError;
use banger_host::process::exec::ExecError;

/// A network that could not be attached, detached or checked.
#[derive(Debug, Error)]
pub enum NetError {
    /// A value in the record is not one that this program works with.
    #[error("{field} is not valid: {reason}")]
    Invalid {
        /// Where in the record.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The record asks for what this program or mode does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The record names another user than the caller.
    #[error("the record's owner is uid {owner}, the caller is uid {caller}")]
    NotOwner {
        /// `vm.owner_uid`.
        owner: u32,
        /// Who called.
        caller: u32,
    },
    /// sudo's variable is not what sudo writes.
    #[error("SUDO_UID is {0:?}, which is not a user id")]
    SudoUid(String),
    /// No CAP_NET_ADMIN.
    #[error("no privilege to change the network (CAP_NET_ADMIN)")]
    Unprivileged,
    /// The subnet is somebody else's.
    #[error("the subnet {subnet} overlaps {claim}")]
    Overlap {
        /// The record's subnet.
        subnet: Cidr,
        /// Whose it is.
        claim: Claim,
    },
    /// More than root lets this user have.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// What root allows cannot be told.
    #[error(transparent)]
    Policy(#[from] ReadPolicyError),
    /// Something of ours is there, but not as the record has it.
    #[error("{object} is there and differs: {what} is {found}, the record says {wanted}")]
    Differs {
        /// Which object.
        object: String,
        /// Which property.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The guest's address belongs to another VM.
    #[error("the address {0} is another VM's")]
    AddressTaken(Ipv4Addr),
    /// A published port is somebody else's.
    #[error("the port {port} cannot be published: {} has it", .holder.as_deref().unwrap_or("a process that cannot be seen"))]
    PortTaken {
        /// The published port, as people write it.
        port: String,
        /// Who has it, where that can be seen.
        holder: Option<String>,
    },
    /// A published port that this user may not have.
    #[error("the port {port} cannot be published")]
    PortRefused {
        /// The published port, as people write it.
        port: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A change of a network that is not there.
    #[error("VM {0} has no network that could be changed: its tap is not there")]
    NotAttached(VmId),
    /// Another firewall of the host could not be asked to let the VMs through, or to forget it again.
    #[error("cannot change what {firewall} lets through")]
    Firewall {
        /// Which one.
        firewall: String,
        /// Why not.
        #[source]
        source: ExecError,
    },
    /// A link with the wanted name is not ours.
    #[error("the link {link} is there and is not this VM's: its tag is {tag:?}")]
    Foreign {
        /// The link.
        link: String,
        /// Its alias.
        tag: String,
    },
    /// `check` found that the host and the record disagree.
    #[error("the network of VM {vm} is not as the record says: {}", .differences.join("; "))]
    Mismatch {
        /// Which VM.
        vm: VmId,
        /// Every difference.
        differences: Vec<String>,
    },
    /// `gc` could not remove something.
    #[error("cannot remove the {object}")]
    Kept {
        /// The object, in words.
        object: String,
        /// Why not.
        #[source]
        source: Box<NetError>,
    },
    /// Something of the host cannot be read or written.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The rules.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] RootLockError),
    /// An attach that failed and could not undo all of what it had done.
    #[error(transparent)]
    Undo(#[from] UndoError),
}

/// A failure after which not everything could be undone. It reads as the failure itself; `details` has the rest.
#[derive(Debug)]
pub struct UndoError {
    /// The failure.
    pub error: Box<NetError>,
    /// What could not be undone.
    pub undo_errors: Vec<String>,
}

impl std::fmt::Display for UndoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for UndoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl NetError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// The published port is taken by `holder`.
    pub fn port_taken(publish: &Publish, holder: Option<String>) -> Self {
        Self::PortTaken { port: publish.to_string(), holder }
    }

    /// The error and its causes on one line.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            line = format!("{line}: {cause}");
            next = cause.source();
        }
        line
    }
}

impl Coded for NetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } | Self::SudoUid(_) => ErrorCode::BadInput,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::NotOwner { .. } | Self::Unprivileged | Self::NotPermitted(_) => ErrorCode::Denied,
            Self::Policy(error) => error.code(),
            Self::Overlap { .. } | Self::Differs { .. } | Self::AddressTaken(_) => ErrorCode::Conflict,
            Self::Foreign { .. } | Self::Mismatch { .. } => ErrorCode::Conflict,
            Self::PortTaken { .. } => ErrorCode::InUse,
            Self::PortRefused { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::PortRefused { .. } => ErrorCode::Failed,
            Self::NotAttached(_) => ErrorCode::NotFound,
            Self::Firewall { source: ExecError::NotFound(_), .. } => ErrorCode::Unsupported,
            Self::Firewall { .. } => ErrorCode::Failed,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            Self::Io { .. } => ErrorCode::Failed,
            Self::Kept { source, .. } => source.code(),
            Self::Link(error) => error.code(),
            Self::Nft(error) => error.code(),
            Self::Lock(error) => error.code(),
            Self::Undo(undo) => undo.error.code(),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let value = match self {
            Self::Invalid { field, .. } => json!({ "field": field }),
            Self::Overlap { subnet, claim } => {
                json!({ "subnet": subnet, "route": claim.network, "link": claim.holder.to_string() })
            }
            Self::NotPermitted(NotPermitted { key, allowed, .. }) => {
                json!({ "key": key, "allowed": allowed })
            }
            Self::Differs { object, what, found, wanted } => {
                json!({ "object": object, "property": what, "found": found, "wanted": wanted })
            }
            Self::Foreign { link, tag } => json!({ "link": link, "tag": tag }),
            Self::AddressTaken(address) => json!({ "address": address }),
            Self::PortTaken { port, holder } => json!({ "port": port, "holder": holder }),
            Self::Mismatch { differences, .. } => json!({ "differences": differences }),
            Self::Undo(undo) => {
                let mut details = undo.error.details();
                details.insert("undo_errors".into(), json!(undo.undo_errors));
                return details;
            }
            _ => Value::Null,
        };
        if let Value::Object(map) = value { map } else { Map::new() }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unprivileged => {
                "run banger-netd as root or through sudo, or use user networking (vm.net_mode \"user\")"
            }
            Self::NotOwner { .. } => {
                "only root may act for another user, and root in a shell of sudo's is who called sudo until: unset SUDO_UID"
            }
            Self::Overlap { .. } => "plan the VM in another subnet",
            Self::NotPermitted(NotPermitted { key: "uids", .. }) => {
                "use user networking (vm.net_mode \"user\"), or have root list you in \"uids\" (banger-netd.toml(5))"
            }
            Self::NotPermitted(NotPermitted { key: "subnets", allowed, .. }) => {
                return Some(format!(
                    "plan the VM with a --subnet of {allowed}, or have root allow more (banger-netd.toml(5))"
                ));
            }
            Self::NotPermitted(NotPermitted { key, .. }) => {
                return Some(format!(
                    "detach VMs that are not needed, or have root raise {key} (banger-netd.toml(5))"
                ));
            }
            Self::Policy(error) => return error.hint(),
            Self::Differs { .. } => "run banger-netd detach first",
            Self::PortTaken { .. } => "publish another port of the host, or end what has it",
            Self::PortRefused { .. } => "publish a port from 1024 on, or run banger as root",
            Self::Firewall { .. } => {
                "leave out --open-firewall (vm.open_firewall) and let the bridge through yourself"
            }
            Self::NotAttached(_) => "run banger-netd attach first",
            Self::AddressTaken(_) => "run banger gc, or plan the VM anew",
            Self::Mismatch { .. } => "run banger-netd detach, then attach",
            Self::Link(error) => return error.hint(),
            Self::Nft(error) => return error.hint(),
            Self::Lock(error) => return error.hint(),
            Self::Undo(undo) => return undo.error.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}
