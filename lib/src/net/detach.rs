//! Detaching: the inverse of [`super::attach`], from names alone, whatever a crash left.
//!
//! The kernel takes its time to let go of a link, and of rules: they are waited for side by side. The tap is down before its rules go,
//! so here, too, there is no instant at which a guest's frame meets no rules. No program is started, `nft` included.

use super::NetError;
use super::attach::{LOCK, PATIENCE, timed};
use super::caller::Caller;
use super::firewall;
use super::host::Host;
use super::pool;
use super::request::{Names, dummy_name};
use super::rules::remove_guest;
use crate::sys::clock::Timeline;
use crate::sys::link::{self, Link};
use crate::sys::rootlock::RootLock;
use crate::types::StateId;

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
    let _lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
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
    let mut links = if others { Vec::new() } else { bridge_links(&host, &names.state, |l| names.own(l)) };
    links.extend(doomed);
    let any_links = tap.is_some() || !links.is_empty();
    let (rules, deleted) = std::thread::scope(|scope| {
        let rules = scope.spawn(|| timed(|| remove_rules(names, others, any_links)));
        let deleted = timed(|| link::delete_together(&mut host.netlink, &links, &host.links));
        (rules.join().expect("it does not panic"), deleted)
    });
    timeline.note("nft", rules.1, rules.2);
    timeline.note("links", deleted.1, deleted.2);
    let rules = rules.0?;
    deleted.0?;
    Ok(any_links || rules)
}

/// The VM's rules, or both tables where no other VM is there. Gives whether there were any, as far as `any_links` leaves that
/// open: it says that there is something to remove in any case.
fn remove_rules(names: &Names, others: bool, any_links: bool) -> Result<bool, NetError> {
    if others {
        return remove_guest(&names.table, &names.vm);
    }
    let there = any_links || firewall::has_tables(&names.state)?;
    if there {
        firewall::remove_tables(&names.state)?;
    }
    Ok(there)
}

/// The bridge of `state` and its dummy port, each where it is there and `ours`.
pub(super) fn bridge_links(host: &Host, state: &StateId, ours: impl Fn(&Link) -> bool) -> Vec<Link> {
    let made = [(dummy_name(state), "dummy"), (state.bridge(), "bridge")];
    let found = made.iter().filter_map(|(name, kind)| Some((host.link(name)?, *kind)));
    found
        .filter(|(link, kind)| link.kind.as_deref() == Some(*kind) && ours(link))
        .map(|(l, _)| l.clone())
        .collect()
}
