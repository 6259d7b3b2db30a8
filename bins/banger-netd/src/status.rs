//! What a VM's network is and what its rules have counted.

use super::NetError;
use super::caller::Caller;
use super::firewall;
use super::host::Host;
use super::policy::AT_HOST;
use super::request::TapRequest;
use super::rules::Tables;
use banger_contract::record::{Net, NetMode, Vm};
use banger_contract::reply::{NETWORK_SCHEMA, NetworkReply, RuleCount};

/// What the rules at the host itself refuse; it stands for an element of a set, which has no comment.
const REFUSED_HOST: &str = "refused: the host";

/// The network as the record has it, and the counters as the kernel has them.
///
/// # Errors
/// The record is not valid, the caller lacks the privilege to see rules, or they cannot be read.
pub fn status(vm: &Vm, net: Option<Net>, caller: &Caller) -> Result<NetworkReply, NetError> {
    let mut reply = NetworkReply {
        schema: NETWORK_SCHEMA.to_owned(),
        id: vm.id.clone(),
        name: vm.name.clone(),
        mode: vm.net_mode,
        attached: net.is_some(),
        address: net.as_ref().map_or(vm.address, |net| net.address),
        prefix_len: net.as_ref().map_or(vm.prefix_len, |net| net.prefix_len),
        gateway: net.as_ref().map_or(vm.gateway, |net| net.gateway),
        mac: vm.mac,
        dns: net.as_ref().map(|net| net.dns.clone()).unwrap_or_default(),
        nat: vm.nat,
        egress: vm.egress.clone(),
        peer: vm.peer,
        publish: vm.publish.clone(),
        rules: Vec::new(),
        blocked_by: Vec::new(),
    };
    if net.is_some() && vm.net_mode == NetMode::Tap {
        let request = TapRequest::new(vm, caller)?;
        reply.rules = counts(&request, caller)?;
        if request.is_forwarded() {
            reply.blocked_by = firewall::blocking(&request.names.realm)?;
        }
    }
    Ok(reply)
}

fn counts(request: &TapRequest, caller: &Caller) -> Result<Vec<RuleCount>, NetError> {
    caller.require_net_admin()?;
    let names = &request.names;
    // The ids in the record are anybody's to write; the tap's tag says whose it is.
    if Host::read()?.tap(names)?.is_none() {
        return Err(NetError::NotAttached(names.vm.clone()));
    }
    let tables = Tables::read(&names.table)?;
    let mut counts = Vec::new();
    for (family, chain) in [
        ("inet", names.published.as_str()),
        ("inet", names.tap.as_str()),
        ("inet", names.limits.as_str()),
        ("bridge", names.tap.as_str()),
    ] {
        counts.extend(tables.rules(family, chain).iter().filter_map(|rule| {
            let (label, counter) = (rule.comment?, rule.counter?);
            Some(RuleCount { rule: label.to_owned(), packets: counter.packets, bytes: counter.bytes })
        }));
    }
    let address = request.address.to_string();
    let at_host = tables.elements(AT_HOST).into_iter().find(|e| e.key == [address.as_str()]);
    counts.extend(at_host.and_then(|element| element.counter).map(|counter| RuleCount {
        rule: REFUSED_HOST.to_owned(),
        packets: counter.packets,
        bytes: counter.bytes,
    }));
    Ok(counts)
}
