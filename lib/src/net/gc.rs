//! Garbage collection: removes what carries a state directory's tag and belongs to none of the VMs that are to stay.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use super::NetError;
use super::attach::{LOCK, PATIENCE};
use super::caller::Caller;
use super::detach::{FORGET, bridge_links};
use super::firewall;
use super::host::Host;
use super::pool;
use super::request::dummy_name;
use super::rules::{self, Tables, remove_guest};
use super::tag::Tag;
use crate::sys::conntrack;
use crate::sys::link::{self, Link};
use crate::sys::rootlock::RootLock;
use crate::types::{StateId, VmId};

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Collected {
    /// Objects, in words.
    pub removed: Vec<String>,
    /// One per object that resisted.
    pub errors: Vec<NetError>,
}

impl Collected {
    fn note(&mut self, object: String, result: Result<(), NetError>) {
        match result {
            Ok(()) => self.removed.push(object),
            Err(error) => self.errors.push(NetError::Kept { object, source: Box::new(error) }),
        }
    }
}

/// Whether a link carries the tag of `state` and is the caller's to change.
fn is_ours(link: &Link, state: &StateId, caller: &Caller) -> bool {
    Tag::of(link).is_some_and(|tag| tag.state == *state && caller.may_act_for(tag.uid))
}

/// Collects what belongs to `state` but to none of `keep`.
///
/// # Errors
/// What keeps it from beginning; errors on the way are collected.
pub fn collect(state: &StateId, keep: &BTreeSet<VmId>, caller: &Caller) -> Result<Collected, NetError> {
    if !caller.has_net_admin() {
        let host = Host::read()?;
        let dead = |link: &Link| is_ours(link, state, caller) && !is_kept(link, state, keep);
        let any = host.links.iter().any(dead);
        return if any { Err(NetError::Unprivileged) } else { Ok(Collected::default()) };
    }
    let lock = RootLock::acquire(LOCK, PATIENCE)?;
    let mut host = Host::read()?;
    let mut collected = Collected::default();
    // Another user's bridge under this state id: neither it nor its rules are the caller's.
    let bridge = host.link(&state.bridge()).cloned();
    if bridge.as_ref().is_some_and(|b| b.alias.is_some() && !is_ours(b, state, caller)) {
        return Ok(collected);
    }
    let (dead, alive): (Vec<Link>, Vec<Link>) = host
        .links
        .iter()
        .filter(|link| is_tap(link, state) && is_ours(link, state, caller))
        .cloned()
        .partition(|link| !is_kept(link, state, keep));
    for tap in &dead {
        let result = link::delete(&mut host.netlink, tap).map_err(Into::into);
        collected.note(format!("tap {}", tap.name), result);
    }
    let is_dead = |port: &Link| dead.iter().any(|tap| tap.index == port.index);
    let dummy = dummy_name(state);
    let used =
        !alive.is_empty() || bridge.as_ref().is_some_and(|b| host.ports(b, &dummy).any(|p| !is_dead(p)));
    collect_rules(state, keep, used, &mut collected);
    let bridges = |link: &Link| link.alias.is_none() || is_ours(link, state, caller);
    let links = bridge_links(&host, state, bridges);
    if !used && !links.is_empty() {
        let held = [lock.as_fd()];
        let result = link::delete_together(&mut host.netlink, &links, &host.links, &held).map_err(Into::into);
        collected.note(format!("bridge {}", state.bridge()), result);
    }
    Ok(collected)
}

/// Whether a link is a tap of the name that a VM's has, or one that waits. A tap of another name has got our tag from somebody else.
fn is_tap(link: &Link, state: &StateId) -> bool {
    link.kind.as_deref() == Some("tun") && vm_of(link).is_some() || pool::is_slot(link, state)
}

/// The VM that a tap's name stands for.
fn vm_of(link: &Link) -> Option<VmId> {
    link.name.strip_prefix("bgt")?.parse().ok()
}

/// Whether a link is a tap of a VM that stays, or waits for one while any stays; the bridge and its dummy are decided on by their
/// ports.
fn is_kept(link: &Link, state: &StateId, keep: &BTreeSet<VmId>) -> bool {
    vm_of(link).is_some_and(|id| keep.contains(&id)) || pool::is_slot(link, state) && !keep.is_empty()
}

fn collect_rules(state: &StateId, keep: &BTreeSet<VmId>, used: bool, collected: &mut Collected) {
    let table = state.nft_table();
    let tables = match Tables::read(&table) {
        Err(error) if error.is_missing_program() => return,
        Err(error) => return collected.errors.push(NetError::from(error)),
        Ok(tables) => tables,
    };
    let dead: Vec<VmId> = tables.guests().into_iter().filter(|vm| !keep.contains(vm)).collect();
    let addresses: Result<Vec<_>, _> = dead.iter().map(|vm| rules::addresses_of(&table, vm)).collect();
    let forgotten =
        addresses.and_then(|lists| conntrack::forget(&lists.concat()).map_err(NetError::io(FORGET)));
    collected.errors.extend(forgotten.err());
    if !used && tables.exist() {
        let result = firewall::remove_tables(state).map(drop);
        return collected.note(format!("nftables tables {table}"), result);
    }
    for vm in dead {
        let result = remove_guest(&table, &vm).map(drop);
        collected.note(format!("rules of {} in {table}", vm.tap()), result);
    }
}
