//! Detaching: the inverse of [`super::attach`], from names alone, whatever a crash left.

use super::NetError;
use super::attach::{LOCK, PATIENCE};
use super::caller::Caller;
use super::host::Host;
use super::request::{Names, dummy_name};
use super::rules::{self, Tables};
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
    if let Some(tap) = &tap {
        timeline.step("tap", || link::delete(&mut host.netlink, tap))?;
    }
    let is_other = |port: &Link| port.name != names.tap.as_str();
    let others = bridge.is_some_and(|bridge| host.ports(&bridge, &names.dummy).any(is_other));
    let rules = timeline.step("nft", || remove_rules(names, others))?;
    let bridge = !others
        && timeline.step("bridge", || remove_bridge(&mut host, &names.state, |link| names.own(link)))?;
    Ok(tap.is_some() || rules || bridge)
}

/// The VM's rules, or both tables where no other VM is there.
fn remove_rules(names: &Names, others: bool) -> Result<bool, NetError> {
    let tables = match Tables::read(&names.table) {
        // Where there is no nft there are no rules of ours.
        Err(error) if error.is_missing_program() => return Ok(false),
        other => other?,
    };
    if others {
        return Ok(tables.remove_guest(&names.table, &names.vm)?);
    }
    if tables.exist() {
        rules::remove_tables(&names.table)?;
    }
    Ok(tables.exist())
}

/// Removes the bridge of `state` and its dummy port, each where it is `ours`; `false` where there is neither.
pub(super) fn remove_bridge(
    host: &mut Host,
    state: &StateId,
    ours: impl Fn(&Link) -> bool,
) -> Result<bool, NetError> {
    let mut removed = false;
    for name in [dummy_name(state), state.bridge()] {
        if let Some(found) = host.link(&name).filter(|link| ours(link)).cloned() {
            link::delete(&mut host.netlink, &found)?;
            removed = true;
        }
    }
    Ok(removed)
}
