//! What root lets a user have (banger-netd.toml(5)): asked before anything is made, changed or answered for them.

use super::NetError;
use super::caller::Caller;
use super::host::Host;
use super::policy::PUBLISHED;
use super::realm::Realm;
use super::request::TapRequest;
use super::tag::Tag;
use crate::sys::nft;
use banger_contract::host_policy::{ConnectionLimits, HostPolicy};
use banger_host::host_policy::{self, NotPermitted};

/// A user's permission; root needs none.
#[derive(Debug)]
pub struct Permit(Option<(u32, HostPolicy)>);

impl Permit {
    /// That of the caller.
    ///
    /// # Errors
    /// The caller is not one of those who may, or the file does not say who may.
    pub fn of(caller: &Caller) -> Result<Self, NetError> {
        let Some(uid) = caller.uid().filter(|_| !caller.is_root()) else { return Ok(Self(None)) };
        let policy = host_policy::read()?;
        if !policy.admits(uid) {
            let allowed = "other users".to_owned();
            return Err(NotPermitted { uid, what: "a network".to_owned(), allowed, key: "uids" }.into());
        }
        Ok(Self(Some((uid, policy))))
    }

    /// How many connections a VM may open. Root's as well; where its own file is wrong root is not stopped by that.
    pub fn connections(&self) -> ConnectionLimits {
        match &self.0 {
            Some((_, policy)) => policy.connections,
            None => host_policy::read().unwrap_or_default().connections,
        }
    }

    /// # Errors
    /// The subnet is none of those that the user may take.
    pub fn require_subnet(&self, request: &TapRequest) -> Result<(), NetError> {
        let Some((uid, policy)) = &self.0 else { return Ok(()) };
        let subnet = request.subnet;
        if policy.subnets.iter().any(|allowed| allowed.holds(&subnet)) {
            return Ok(());
        }
        let allowed: Vec<String> = policy.subnets.iter().map(ToString::to_string).collect();
        let (what, allowed) = (format!("the subnet {subnet}"), allowed.join(", "));
        Err(NotPermitted { uid: *uid, what, allowed, key: "subnets" }.into())
    }

    /// # Errors
    /// `bridges` and `taps` more, and the VM's published ports, would be more than the user may have.
    pub fn require_room(
        &self,
        host: &Host,
        bridges: usize,
        taps: usize,
        publishing: Option<&TapRequest>,
    ) -> Result<(), NetError> {
        let Some((uid, policy)) = &self.0 else { return Ok(()) };
        let require = |more: usize, held: usize, most: u32, key: &'static str, thing: &str| {
            let fits = more == 0 || held + more <= most as usize;
            let what = format!("{} {thing}", held + more);
            let error = NotPermitted { uid: *uid, what, allowed: most.to_string(), key };
            if fits { Ok(()) } else { Err(NetError::from(error)) }
        };
        require(bridges, host.count_of(*uid, "bridge"), policy.networks, "networks", "networks")?;
        require(taps, host.count_of(*uid, "tun"), policy.taps, "taps", "taps")?;
        let Some(request) = publishing.filter(|request| !request.publish.is_empty()) else { return Ok(()) };
        let held = published(host, *uid)?;
        require(request.publish.len(), held, policy.published_ports, "published_ports", "published ports")
    }
}

/// How many ports lead to VMs of the user's.
fn published(host: &Host, uid: u32) -> Result<usize, NetError> {
    let bridges = host.links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let tables: Vec<String> = bridges
        .filter_map(Tag::of)
        .filter(|tag| tag.uid == uid)
        .map(|tag| Realm::of(&tag.state, uid).nft_table())
        .collect();
    if tables.is_empty() {
        return Ok(0);
    }
    let maps = nft::inet_maps()?;
    let of_user = |(table, elements): (&str, Vec<_>)| {
        if tables.iter().any(|name| name == table) { elements.len() } else { 0 }
    };
    Ok(PUBLISHED.iter().flat_map(|name| maps.named(name)).map(of_user).sum())
}
