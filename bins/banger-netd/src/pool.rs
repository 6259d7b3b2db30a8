//! A pool of ready taps: links that are ports of the state directory's bridge and wait for a VM, down, under names of their own.
//!
//! Attach claims one by renaming it, and detach gives it back. What that saves is not the making of a tap (0.2 ms) but what the kernel
//! does behind a removal ([`banger_host::net::linger`]): it waits for all processors, and twice for a bridge, which stays as long as the pool
//! has a tap.
//!
//! The links' group says that a tap is the pool's, under whatever name; so the kernel alone knows what belongs to it. All of it happens
//! under the lock of [`super::attach`], so two programs never claim the same.

use std::os::fd::{AsFd, BorrowedFd};

use banger_contract::policy::DEFAULT_MTU;
use banger_contract::types::LinkName;
use banger_host::clock::Timeline;
use banger_host::fs::rootlock::RootLock;
use banger_host::net::link::{self, Link};

use crate::bridge::{bridge_links, ensure_bridge, leave_ipv6, require_same_bridge};
use crate::caller::Caller;
use crate::host::Host;
use crate::lock::{LOCK, PATIENCE};
use crate::permit::Permit;
use crate::realm::Realm;
use crate::request::{Names, TapRequest};
use crate::sys::tap::Tap;
use crate::tag::Tag;
use crate::undo::{Made, undo};
use crate::{NetError, firewall, rules};

/// The most taps of a pool.
pub const MAX: u8 = 64;

/// The group of the pool's taps: "bgq" and a zero.
const GROUP: u32 = 0x6267_7100;

/// Where the pool's taps wait: under the realm's name for them and a number.
fn slot(realm: &Realm, n: u8) -> LinkName {
    format!("{}{n:02x}", realm.slots()).parse().expect("15 letters and digits are a link name")
}

/// Whether a link has the name of a waiting tap.
pub(super) fn is_slot(link: &Link, realm: &Realm) -> bool {
    let number = link.name.strip_prefix(&realm.slots());
    let is_number = |n: &str| n.len() == 2 && n.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    link.kind.as_deref() == Some("tun") && number.is_some_and(is_number)
}

/// Whether a tap goes back to the pool when its VM is detached.
pub(super) fn is_of_pool(tap: &Link) -> bool {
    tap.group == GROUP
}

fn is_ready(link: &Link, names: &Names) -> bool {
    is_slot(link, &names.realm) && is_of_pool(link) && Tag::of(link).as_ref() == Some(&names.tag)
}

/// Has `count` taps wait, and makes the bridge and the rules that all VMs share where they are not there yet. Gives whether any
/// tap was made.
///
/// # Errors
/// Any [`NetError`]; what had been done is undone.
pub fn fill(
    request: &TapRequest,
    count: u8,
    caller: &Caller,
    timeline: &mut Timeline,
) -> Result<bool, NetError> {
    caller.require_net_admin()?;
    let permit = Permit::of(caller)?;
    permit.require_subnet(request)?;
    let names = &request.names;
    let lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
    let mut host = timeline.step("inspect", Host::read)?;
    require_same_bridge(&host, request)?;
    host.require_free_subnet(request)?;
    let ready = host.links.iter().filter(|link| is_ready(link, names)).count();
    let missing = usize::from(count).saturating_sub(ready);
    if missing == 0 {
        return Ok(false);
    }
    let bridges = usize::from(host.link(&names.bridge).is_none());
    permit.require_room(&host, bridges, missing, None)?;
    let mut made = Made::default();
    let filled = (|| {
        let bridge = timeline.step("bridge", || ensure_bridge(&mut host, request, &mut made))?;
        timeline.step("nft", || rules::apply_shared(request, made.bridge))?;
        timeline.step("taps", || make(&mut host, names, &bridge, missing))
    })();
    filled.map(|()| true).map_err(|error| undo(error, request, &made, &lock))
}

/// Makes taps in free slots. They outlive this program all together or, when something fails, not at all.
fn make(host: &mut Host, names: &Names, bridge: &Link, count: usize) -> Result<(), NetError> {
    let mut taps = Vec::new();
    for name in free_slots(host, &names.realm).into_iter().take(count) {
        let tap = Tap::create(&name, names.tag.uid)?;
        link::set_alias(&mut host.netlink, &name, &names.tag.to_string())?;
        link::set_group(&mut host.netlink, &name, GROUP)?;
        leave_ipv6(&name)?;
        link::set_isolated_port(&mut host.netlink, &name, bridge.index)?;
        taps.push(tap);
    }
    Ok(taps.into_iter().try_for_each(Tap::persist)?)
}

fn free_slots(host: &Host, realm: &Realm) -> Vec<LinkName> {
    (0..=u8::MAX).map(|n| slot(realm, n)).filter(|name| host.link(name).is_none()).collect()
}

/// Gives a waiting tap the name of the VM's; `None` where none waits.
pub(super) fn claim(host: &mut Host, names: &Names) -> Result<Option<Link>, NetError> {
    let ready: Vec<Link> = host.links.iter().filter(|link| is_ready(link, names)).cloned().collect();
    for link in ready {
        let slot: LinkName = link.name.parse().expect("a slot's name is a link name");
        // Its owner may have opened it; then it is of no use to anybody else.
        if Tap::open_free(&slot)?.is_some() {
            link::rename(&mut host.netlink, &link, &names.tap)?;
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Gives a tap back, which is down; `false` where somebody still has it open, so that it cannot serve another VM.
pub(super) fn give_back(host: &mut Host, names: &Names, tap: &Link) -> Result<bool, NetError> {
    let Some(_held) = Tap::open_free(&names.tap)? else { return Ok(false) };
    let Some(slot) = free_slots(host, &names.realm).into_iter().next() else { return Ok(false) };
    if tap.mtu != u32::from(DEFAULT_MTU) {
        link::set_mtu(&mut host.netlink, &names.tap, DEFAULT_MTU.into())?;
    }
    link::rename(&mut host.netlink, tap, &slot)?;
    Ok(true)
}

/// Removes the taps that wait, and those in use do not come back; the bridge and the tables go where no VM is left. Gives whether
/// any waited.
///
/// # Errors
/// Any [`NetError`]; what could be removed is.
pub fn drain(names: &Names, caller: &Caller, timeline: &mut Timeline) -> Result<bool, NetError> {
    caller.require_net_admin()?;
    let lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
    let mut host = timeline.step("inspect", Host::read)?;
    let bridge = host.bridge(names)?.cloned();
    let is_ours = |link: &&Link| is_of_pool(link) && Tag::of(link).as_ref() == Some(&names.tag);
    let (waiting, in_use): (Vec<Link>, Vec<Link>) =
        host.links.iter().filter(is_ours).cloned().partition(|link| is_slot(link, &names.realm));
    for tap in &in_use {
        let name: LinkName = tap.name.parse().expect("a link's name that we gave");
        link::set_group(&mut host.netlink, &name, 0)?;
    }
    if waiting.is_empty() {
        return Ok(false);
    }
    let is_other = |port: &Link| !waiting.iter().any(|tap| tap.index == port.index);
    let others = bridge.is_some_and(|bridge| host.ports(&bridge, &names.dummy).any(is_other));
    let mut links = waiting.clone();
    let mut removed = None;
    if !others {
        removed = Some(timeline.step("nft", || firewall::remove_tables(&names.realm))?);
        links.extend(bridge_links(&host, &names.realm, |link| names.own(link)));
    }
    let held: Vec<BorrowedFd<'_>> =
        [lock.as_fd()].into_iter().chain(removed.as_ref().map(AsFd::as_fd)).collect();
    timeline.step("links", || link::delete_together(&mut host.netlink, &links, &host.links, &held))?;
    Ok(true)
}
