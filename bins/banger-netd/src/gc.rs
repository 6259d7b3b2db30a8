//! Garbage collection: removes what carries a state directory's tag and belongs to none of the VMs that are to stay.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use banger_contract::types::{StateId, VmId};
use banger_host::fs::rootlock::RootLock;
use banger_host::net::link::{self, Link};

use crate::bridge::bridge_links;
use crate::caller::Caller;
use crate::detach::FORGET;
use crate::host::Host;
use crate::lock::{LOCK, PATIENCE};
use crate::realm::Realm;
use crate::rules::{self, Tables, remove_guest};
use crate::sys::conntrack;
use crate::tag::Tag;
use crate::{NetError, firewall, pool};

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
    let mut collected = Collected::default();
    if !caller.has_net_admin() {
        let host = Host::read()?;
        let any = realms(&host, state, caller).iter().any(|realm| {
            let keep = Kept::new(realm, keep);
            host.links.iter().any(|link| Tag::of(link).as_ref() == Some(realm.tag()) && !keep.has(link))
        });
        return if any { Err(NetError::Unprivileged) } else { Ok(collected) };
    }
    let lock = RootLock::acquire(LOCK, PATIENCE)?;
    let mut host = Host::read()?;
    for realm in realms(&host, state, caller) {
        collect_realm(&mut host, &Kept::new(&realm, keep), &lock, &mut collected);
    }
    Ok(collected)
}

/// The realms of `state` that the caller may act for: its own, and what links say.
fn realms(host: &Host, state: &StateId, caller: &Caller) -> Vec<Realm> {
    let tagged = host.links.iter().filter(|link| is_ours(link, state, caller)).filter_map(Tag::of);
    let uids: BTreeSet<u32> = tagged.map(|tag| tag.uid).chain([caller.uid().unwrap_or(0)]).collect();
    uids.into_iter().map(|uid| Realm::of(state, uid)).collect()
}

fn collect_realm(host: &mut Host, keep: &Kept<'_>, lock: &RootLock, collected: &mut Collected) {
    let realm = keep.realm;
    let ours = |link: &Link| Tag::of(link).as_ref() == Some(realm.tag());
    // Somebody else's bridge under this name: neither it nor its rules are the caller's.
    let bridge = host.link(&realm.bridge()).cloned();
    if bridge.as_ref().is_some_and(|b| b.alias.is_some() && !ours(b)) {
        return;
    }
    let (alive, dead): (Vec<Link>, Vec<Link>) = host
        .links
        .iter()
        .filter(|link| is_tap(link, realm) && ours(link))
        .cloned()
        .partition(|link| keep.has(link));
    for tap in &dead {
        let result = link::delete(&mut host.netlink, tap).map_err(Into::into);
        collected.note(format!("tap {}", tap.name), result);
    }
    let is_dead = |port: &Link| dead.iter().any(|tap| tap.index == port.index);
    let dummy = realm.dummy();
    let used =
        !alive.is_empty() || bridge.as_ref().is_some_and(|b| host.ports(b, &dummy).any(|p| !is_dead(p)));
    collect_rules(keep, used, collected);
    let links = bridge_links(host, realm, |link| link.alias.is_none() || ours(link));
    if !used && !links.is_empty() {
        let held = [lock.as_fd()];
        let result = link::delete_together(&mut host.netlink, &links, &host.links, &held).map_err(Into::into);
        collected.note(format!("bridge {}", realm.bridge()), result);
    }
}

/// Whether a link is a tap of the name that a VM's has, or one that waits. A tap of another name has got our tag from somebody else.
fn is_tap(link: &Link, realm: &Realm) -> bool {
    link.kind.as_deref() == Some("tun") && key_of(link).is_some() || pool::is_slot(link, realm)
}

/// What stands for a VM in the name of a tap.
fn key_of(link: &Link) -> Option<VmId> {
    link.name.strip_prefix("bgt")?.parse().ok()
}

/// The VMs of a realm that stay.
struct Kept<'r> {
    realm: &'r Realm,
    /// What stands for them in names.
    keys: BTreeSet<VmId>,
}

impl<'r> Kept<'r> {
    fn new(realm: &'r Realm, keep: &BTreeSet<VmId>) -> Self {
        Self { realm, keys: keep.iter().map(|vm| realm.vm(vm)).collect() }
    }

    /// Whether a link is a tap of a VM that stays, or waits for one while any stays; the bridge and its dummy are decided on by their
    /// ports.
    fn has(&self, link: &Link) -> bool {
        key_of(link).is_some_and(|key| self.keys.contains(&key))
            || pool::is_slot(link, self.realm) && !self.keys.is_empty()
    }
}

fn collect_rules(keep: &Kept<'_>, used: bool, collected: &mut Collected) {
    let table = keep.realm.nft_table();
    let tables = match Tables::read(&table) {
        Err(error) if error.is_missing_program() => return,
        Err(error) => return collected.errors.push(NetError::from(error)),
        Ok(tables) => tables,
    };
    let dead: Vec<VmId> = tables.guests().into_iter().filter(|key| !keep.keys.contains(key)).collect();
    let addresses: Result<Vec<_>, _> = dead.iter().map(|key| rules::addresses_of(&table, key)).collect();
    let forgotten =
        addresses.and_then(|lists| conntrack::forget(&lists.concat()).map_err(NetError::io(FORGET)));
    collected.errors.extend(forgotten.err());
    if !used && tables.exist() {
        let result = firewall::remove_tables(keep.realm).map(drop);
        return collected.note(format!("nftables tables {table}"), result);
    }
    for key in dead {
        let result = remove_guest(&table, &key).map(drop);
        collected.note(format!("rules of {} in {table}", key.tap()), result);
    }
}
