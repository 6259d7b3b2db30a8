//! Detaching: the inverse of [`super::attach`], from names alone, whatever a crash left.
//!
//! The tap is down before its rules go, so here, too, there is no instant at which a guest's frame meets no rules. No program is
//! started, `nft` included. Nobody finds links and rules any more when this is through; the kernel takes some 40 ms longer to let go of
//! them, for which a process stays behind ([`banger_host::net::linger`]).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use banger_host::clock::Timeline;
use banger_host::fs::rootlock::RootLock;
use banger_host::net::linger;
use banger_host::net::link::{self, Link};

use crate::bridge::bridge_links;
use crate::caller::Caller;
use crate::host::Host;
use crate::lock::{LOCK, PATIENCE};
use crate::request::Names;
use crate::rules::{self, remove_guest};
use crate::sys::conntrack;
use crate::sys::nf_tables::Removed;
use crate::{NetError, firewall, hold, pool};

/// Removes the VM's tap and rules, and with the last VM the bridge and both tables. Gives whether anything was there.
///
/// # Errors
/// Any [`NetError`]; what could be removed is.
pub fn detach(names: &Names, caller: &Caller, timeline: &mut Timeline) -> Result<bool, NetError> {
    if !caller.has_net_admin() {
        // Links can be seen by anyone. Where there are none there is nothing to remove.
        let host = Host::read()?;
        let nothing = host.link(&names.tap).is_none() && host.link(&names.bridge).is_none();
        return if nothing { Ok(false) } else { Err(NetError::Unprivileged) };
    }
    let lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
    let mut host = timeline.step("inspect", Host::read)?;
    let (tap, bridge) = (host.tap(names)?.cloned(), host.bridge(names)?.cloned());
    let is_other = |port: &Link| port.name != names.tap.as_str();
    let mut others = bridge.is_some_and(|bridge| host.ports(&bridge, &names.dummy).any(is_other));
    let mut doomed = tap.clone();
    if let Some(tap) = &tap {
        timeline.step("down", || link::set_down(&mut host.netlink, tap))?;
        if pool::is_of_pool(tap) && timeline.step("pool", || pool::give_back(&mut host, names, tap))? {
            (doomed, others) = (None, true);
        }
    }
    let mut links = if others { Vec::new() } else { bridge_links(&host, &names.realm, |l| names.own(l)) };
    links.extend(doomed);
    let any_links = tap.is_some() || !links.is_empty();
    // The guest sends nothing any more. The kernel looks through the whole table, some 20 ms, for which a process stays behind.
    let addresses = if any_links { rules::addresses_of(&names.table, &names.key) } else { Ok(Vec::new()) };
    let rules = timeline.step("nft", || remove_rules(names, others, any_links));
    let removed = rules.as_ref().ok().and_then(Option::as_ref);
    let held: Vec<BorrowedFd<'_>> = [lock.as_fd()].into_iter().chain(removed.map(Removed::as_fd)).collect();
    // Whatever became of the rules.
    if any_links || removed.is_some() {
        timeline.step("links", || link::delete_together(&mut host.netlink, &links, &host.links, &held))?;
    }
    let any_rules = rules?.is_some();
    if any_rules || any_links {
        timeline.step("ports", || hold::release(names))?;
    }
    forget_behind(&addresses?).map_err(NetError::io(FORGET))?;
    Ok(any_rules || any_links)
}

/// Has a process that stays behind forget the connections of `addresses`, of which there is one at most.
fn forget_behind(addresses: &[Ipv4Addr]) -> io::Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let behind = linger::leave_behind(&[], || drop(conntrack::forget(addresses)));
    behind.or_else(|_| conntrack::forget(addresses).map(drop))
}

/// What is tried when a guest's connections are to go: they would keep their places for days, and its address may be another's next.
pub(super) const FORGET: &str = "forget the guest's connections";

/// The VM's rules, or both tables where no other VM is there; `None` where there were none, as far as `any_links` leaves that open: it
/// says that there is something to remove in any case.
fn remove_rules(names: &Names, others: bool, any_links: bool) -> Result<Option<Removed>, NetError> {
    if others {
        return remove_guest(&names.table, &names.key);
    }
    let there = any_links || firewall::has_tables(&names.realm)?;
    there.then(|| firewall::remove_tables(&names.realm)).transpose()
}
