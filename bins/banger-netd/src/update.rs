//! Changing what a running VM may reach: the rules of an attached network are replaced in one transaction, so there is no instant
//! without any, and packets of established connections meet the new ones at once.

use banger_contract::record::Net;
use banger_host::clock::Timeline;
use banger_host::fs::rootlock::RootLock;

use crate::attach::{Attached, switch_forwarding_on};
use crate::bridge::require_same_bridge;
use crate::caller::Caller;
use crate::host::Host;
use crate::lock::{LOCK, PATIENCE};
use crate::permit::Permit;
use crate::request::TapRequest;
use crate::routing::Switch;
use crate::rules::{self, Before, Tables};
use crate::{NetError, firewall};

/// Brings the network that `previous` describes to what `request` wants.
///
/// # Errors
/// There is no such network, or it differs in more than what can be changed: NAT, egress, peers.
pub fn update(
    request: &TapRequest,
    caller: &Caller,
    previous: &Net,
    timeline: &mut Timeline,
) -> Result<Attached, NetError> {
    caller.require_net_admin()?;
    let permit = Permit::of(caller)?;
    permit.require_subnet(request)?;
    let request = &request.with(permit.connections());
    let section = request.section(previous.dns.clone());
    let names = &request.names;
    let changeable =
        Net { nat: section.nat, egress: section.egress.clone(), peer: section.peer, ..previous.clone() };
    if changeable != section {
        let shown = |net: &Net| serde_json::to_string(net).expect("a section is JSON");
        let (object, found) = (format!("the network of VM {}", names.vm), shown(previous));
        return Err(NetError::Differs { object, what: "net", found, wanted: shown(&section) });
    }
    let _lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
    let host = timeline.step("inspect", Host::read)?;
    require_same_bridge(&host, request)?;
    if host.tap(names)?.is_none() || host.bridge(names)?.is_none() {
        return Err(NetError::NotAttached(names.vm.clone()));
    }
    let tables = timeline.step("inspect-nft", || Tables::read(&names.table))?;
    // Without its rules the guest would be another's as far as they tell; attach mends that.
    if let Some(what @ ("vm.mac" | "vm.address" | "vm.publish")) = tables.conflict(request) {
        let (found, wanted) = ("another".to_owned(), "the record's".to_owned());
        return Err(NetError::Differs { object: format!("the tap {}", names.tap), what, found, wanted });
    }
    let changed = !tables.differences(request).is_empty();
    let switch = if request.is_forwarded() { Switch::of(&host)? } else { Switch::default() };
    if changed || !switch.rules.is_empty() {
        timeline.step("nft", || rules::apply(request, Before::Tap(&tables), &switch.rules))?;
    }
    timeline.step("forwarding", || switch_forwarding_on(request, &switch))?;
    // What was shut in until now meets the host's other firewalls for the first time.
    let blocked = timeline.step("firewalls", || firewall::answer(request))?;
    Ok(Attached { net: section, changed, blocked })
}
