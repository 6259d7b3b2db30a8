//! The bridge that a resolver is for: all that it is follows from the state directory's id and the kernel.

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::NetError;
use crate::caller::Caller;
use crate::host::Host;
use crate::realm::Realm;
use crate::tag::Tag;
use banger_contract::types::{Cidr, StateId, VmId};
use banger_contract::{Coded, ErrorCode};
use banger_host::net::link::Link;

/// Why there is no bridge to serve.
#[derive(Debug, Error)]
pub enum SiteError {
    /// The state directory has no bridge, or no VM is on it.
    #[error("no VM of the state directory {0} is attached")]
    NoVm(StateId),
    /// The bridge is another user's.
    #[error("the bridge {0} is another user's")]
    NotOwner(String),
    /// The bridge is there and has no address.
    #[error("the bridge {0} has no address")]
    NoAddress(String),
    /// Links cannot be read.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Coded for SiteError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoVm(_) => ErrorCode::NotFound,
            Self::NotOwner(_) => ErrorCode::Denied,
            Self::NoAddress(_) => ErrorCode::Failed,
            Self::Net(error) => error.code(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoVm(_) => Some("it is started with the first VM: banger vm start".into()),
            Self::NotOwner(_) => Some("only root may act for another user".into()),
            Self::NoAddress(_) => None,
            Self::Net(error) => error.hint(),
        }
    }
}

/// What a bridge's resolver is.
#[derive(Debug, Clone)]
pub struct Site {
    /// The state directory, and whose it is.
    pub realm: Realm,
    /// The bridge.
    pub bridge: Link,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Cidr,
}

impl Site {
    /// The bridge of `state`, which the caller may act for and on which there is a VM.
    ///
    /// # Errors
    /// It is not there, another's, or empty.
    pub fn find(state: &StateId, caller: &Caller) -> Result<Self, SiteError> {
        let host = Host::read()?;
        let none = || SiteError::NoVm(state.clone());
        let (bridge, realm) = match bridge_of(&host, state, caller).ok_or_else(none)? {
            (bridge, Some(realm)) => (bridge.clone(), realm),
            (bridge, None) => return Err(SiteError::NotOwner(bridge.name.clone())),
        };
        if !has_vm(&host, bridge.index) {
            return Err(none());
        }
        let found = host.addresses_of(&bridge).first().copied();
        let network = found.and_then(|(address, len)| Some((address, Cidr::containing(address, len)?)));
        let (address, subnet) = network.ok_or_else(|| SiteError::NoAddress(bridge.name.clone()))?;
        Ok(Self { realm, bridge, address, subnet })
    }

    /// Whether a VM is on that very bridge now.
    ///
    /// # Errors
    /// Links cannot be read.
    pub fn is_used(&self) -> Result<bool, NetError> {
        Ok(has_vm(&Host::read()?, self.bridge.index))
    }
}

/// The bridge of `state` for whose owner the caller may act; without a realm, one of another user's.
pub(super) fn bridge_of<'h>(
    host: &'h Host,
    state: &StateId,
    caller: &Caller,
) -> Option<(&'h Link, Option<Realm>)> {
    let bridges = host.links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let tagged = bridges.filter_map(|link| Some((link, Tag::of(link).filter(|tag| tag.state == *state)?)));
    // Root may act for all, and has its own first.
    let (link, tag) = tagged.min_by_key(|(_, tag)| (!caller.may_act_for(tag.uid), tag.uid))?;
    Some((link, caller.may_act_for(tag.uid).then(|| Realm::of(state, tag.uid))))
}

/// Whether the tap of a VM is a port of the bridge with the number `bridge`.
fn has_vm(host: &Host, bridge: u32) -> bool {
    let is_vm = |name: &str| name.strip_prefix("bgt").is_some_and(|id| id.parse::<VmId>().is_ok());
    host.links.iter().any(|link| link.master == Some(bridge) && is_vm(&link.name))
}
