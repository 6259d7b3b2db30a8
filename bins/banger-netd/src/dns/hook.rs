//! The host's own resolver: has it ask ours about `*.vm`, and forget that again.
//!
//! Which of the host's resolvers can be told is looked up each time ([`choose`]), and what is asked for is a state directory's id and
//! nothing more: bridge, address and owner are the kernel's to tell. systemd-resolved keeps what it is told with the bridge, as
//! a link's settings ([`resolved`]), so that it goes with the bridge at the latest; NetworkManager's dnsmasq reads a file that is tagged
//! with the state id ([`dnsmasq`]). Where there is neither, a person can be told what to do ([`by_hand`]).

use std::time::Duration;

use thiserror::Error;

use super::site::{self, Site, SiteError};
use crate::NetError;
use crate::caller::Caller;
use crate::host::Host;
use crate::networkd::{self, Managed};
use crate::sys::bus::BusError;
use crate::sys::network_manager;
use banger_contract::dns::HostResolver;
use banger_contract::types::StateId;
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::atomic::WriteFileError;
use banger_host::fs::rootlock::RootLock;
use banger_host::net::link::Link;

pub mod by_hand;
pub mod dnsmasq;

mod resolved;

/// The domain.
pub const DOMAIN: &str = "vm";

/// Whether somebody else has the names is a question about all state directories, so all of them have one lock.
const LOCK: &str = "hook.lock";
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the host's resolver cannot be told, or not be made to forget.
#[derive(Debug, Error)]
pub enum HookError {
    /// There is none that can be told.
    #[error("this host has neither systemd-resolved nor NetworkManager's dnsmasq as its resolver")]
    NoResolver {
        /// What to do by hand.
        advice: String,
    },
    /// Others have the names.
    #[error("names that end in .{DOMAIN} are looked up by {by} already")]
    Claimed {
        /// Who, in words.
        by: String,
    },
    /// systemd-resolved takes no settings for it.
    #[error("systemd-networkd manages the link {} by {}, so systemd-resolved is told nothing about it", .0.link, .0.file)]
    Managed(Managed),
    /// A file of our name that is not ours.
    #[error("{path} is there and is not of this state directory")]
    Foreign {
        /// The file.
        path: String,
    },
    /// The directory of NetworkManager's dnsmasq.
    #[error("cannot use {path}")]
    File {
        /// The file or directory.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteFileError),
    /// A resolver of the host's.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// There is no bridge.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Links, locks, privilege.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Coded for HookError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoResolver { .. } => ErrorCode::Unsupported,
            Self::Claimed { .. } | Self::Foreign { .. } | Self::Managed(_) => ErrorCode::Conflict,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::File { .. } => ErrorCode::Failed,
            Self::Write(error) => error.code(),
            Self::Bus(error) => error.code(),
            Self::Site(error) => error.code(),
            Self::Net(error) => error.code(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoResolver { advice } => Some(advice.clone()),
            Self::Claimed { .. } => {
                Some("only one of them can have the names; take them from the other first (banger dns disable, where it is another state directory)".into())
            }
            Self::Managed(_) => Some(format!("have systemd-networkd leave banger's links alone: {}", networkd::REMEDY)),
            Self::Foreign { .. } => Some("look at it, and remove it if it is of no use".into()),
            Self::File { .. } | Self::Write(_) => None,
            Self::Bus(error) => error.hint(),
            Self::Site(error) => error.hint(),
            Self::Net(error) => error.hint(),
        }
    }
}

/// Somebody else who has names that end in `.vm` sent to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who, in words.
    pub by: String,
    /// Whose it is, where it is another state directory's.
    pub owner: Option<u32>,
}

/// Which resolver of the host's can be told: one that runs and that programs ask.
///
/// # Errors
/// The system bus does not answer.
pub fn choose() -> Result<Option<HostResolver>, HookError> {
    if resolved::is_asked() && crate::sys::resolved::runs()? {
        return Ok(Some(HostResolver::SystemdResolved));
    }
    Ok(network_manager::has_dnsmasq()?.then_some(HostResolver::NetworkmanagerDnsmasq))
}

/// Whether `resolver` knows of the site, and who else has the names. Everybody may look.
///
/// # Errors
/// It cannot be asked.
pub fn look(resolver: HostResolver, site: &Site) -> Result<(bool, Vec<Claim>), HookError> {
    match resolver {
        HostResolver::SystemdResolved => Ok((resolved::is_told(site)?, resolved::others(site)?)),
        HostResolver::NetworkmanagerDnsmasq => {
            Ok((dnsmasq::is_told(site)?, dnsmasq::others(site.realm.state())?))
        }
    }
}

/// A resolver of the host's that has been told.
#[derive(Debug)]
pub struct Hooked {
    /// Which one.
    pub resolver: HostResolver,
    /// Whether it had to be told.
    pub changed: bool,
    /// Who else has the names, in words: the same user's other state directories.
    pub shared_with: Vec<String>,
}

/// Has the host's resolver ask that of the bridge of `state` about names that end in `.vm`.
///
/// # Errors
/// There is no VM on the bridge, no resolver that can be told, or others have the names; then nothing has changed.
pub fn hook(state: &StateId, caller: &Caller) -> Result<Hooked, HookError> {
    caller.require_net_admin()?;
    let _lock = RootLock::acquire(LOCK, PATIENCE).map_err(NetError::from)?;
    let site = Site::find(state, caller)?;
    let resolver =
        choose()?.ok_or_else(|| HookError::NoResolver { advice: by_hand::advice(site.address) })?;
    let (told, others) = look(resolver, &site)?;
    let merges = resolver == HostResolver::SystemdResolved;
    let ours = |claim: &Claim| merges && claim.owner.is_some_and(|uid| caller.may_act_for(uid));
    if let Some(claim) = others.iter().find(|claim| !ours(claim)) {
        return Err(HookError::Claimed { by: claim.by.clone() });
    }
    if !told {
        match resolver {
            HostResolver::SystemdResolved => {
                if let Some(managed) = networkd::of(&site.bridge) {
                    return Err(HookError::Managed(managed));
                }
                resolved::tell(&site)?;
            }
            HostResolver::NetworkmanagerDnsmasq => dnsmasq::tell(&site)?,
        }
    }
    let shared_with = others.into_iter().map(|claim| claim.by).collect();
    Ok(Hooked { resolver, changed: !told, shared_with })
}

/// Has the host's resolvers forget the bridge of `state`, whichever of them was told. Gives what they knew, in words.
///
/// # Errors
/// One of them does not forget; the other has.
pub fn unhook(state: &StateId, caller: &Caller) -> Result<Vec<String>, HookError> {
    caller.require_net_admin()?;
    let _lock = RootLock::acquire(LOCK, PATIENCE).map_err(NetError::from)?;
    let link = own_bridge(state, caller)?;
    let file = dnsmasq::forget(state, caller);
    let settings = link.map_or(Ok(None), |link| resolved::forget(&link));
    Ok(file?.into_iter().chain(settings?).collect())
}

/// The bridge, where it is there.
fn own_bridge(state: &StateId, caller: &Caller) -> Result<Option<Link>, HookError> {
    match site::bridge_of(&Host::read()?, state, caller) {
        Some((link, Some(_))) => Ok(Some(link.clone())),
        Some((link, None)) => Err(SiteError::NotOwner(link.name.clone()).into()),
        None => Ok(None),
    }
}

/// What is to be done once a VM was detached: with the last one the host's resolver is to forget the bridge. Costs nothing where it
/// knows none.
///
/// # Errors
/// As [`unhook`].
pub fn release(state: &StateId, caller: &Caller) -> Result<Vec<String>, HookError> {
    let bridge = || own_bridge(state, caller).is_ok_and(|bridge| bridge.is_some());
    let may_know = dnsmasq::is_left(state) || caller.has_net_admin() && bridge();
    if !may_know {
        return Ok(Vec::new());
    }
    match Site::find(state, caller) {
        Err(SiteError::NoVm(_)) => unhook(state, caller),
        Ok(_) | Err(SiteError::NotOwner(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
