//! Checking: the record against what the kernel holds.

use super::NetError;
use super::attach::forwarding_differs;
use super::caller::Caller;
use super::hold;
use super::host::Host;
use super::request::{Names, TapRequest};
use super::rules::Tables;
use super::user;
use crate::sys::ipv6;
use banger_contract::record::{Net, NetMode, Vm};

/// Compares the record's network with the host. Nothing is changed.
///
/// # Errors
/// [`NetError::Mismatch`] with every difference; or the record is not valid, or the rules cannot be read.
pub fn check(vm: &Vm, net: Option<Net>, caller: &Caller) -> Result<(), NetError> {
    let differences = match (vm.net_mode, net) {
        (NetMode::User, None) => Vec::new(),
        (NetMode::User, Some(net)) => {
            user::attach(vm, caller, Some(net))?;
            Vec::new()
        }
        (NetMode::Tap, None) => absent(&Names::new(vm, caller)?)?,
        (NetMode::Tap, Some(net)) => present(&TapRequest::new(vm, caller)?, &net, caller)?,
    };
    if differences.is_empty() {
        return Ok(());
    }
    Err(NetError::Mismatch { vm: vm.id.clone(), differences })
}

fn absent(names: &Names) -> Result<Vec<String>, NetError> {
    let there = Host::read()?.link(&names.tap).is_some();
    Ok(there
        .then(|| format!("the record has no network, and the tap {} is there", names.tap))
        .into_iter()
        .collect())
}

fn present(request: &TapRequest, net: &Net, caller: &Caller) -> Result<Vec<String>, NetError> {
    let mut differences = Vec::new();
    if *net != request.section(net.dns.clone()) {
        differences.push("the section net does not belong to the section vm".to_owned());
    }
    differences.extend(links_differ(&Host::read()?, request)?);
    // Rules can be seen by the privileged only.
    caller.require_net_admin()?;
    differences.extend(Tables::read(&request.names.table)?.differences(request));
    differences.extend(forwarding_differs(request)?);
    differences.extend(hold::differences(request)?);
    Ok(differences)
}

/// What of bridge and tap is missing or not as attach makes it, in words.
pub(super) fn links_differ(host: &Host, request: &TapRequest) -> Result<Vec<String>, NetError> {
    let names = &request.names;
    let mut found = Vec::new();
    let mut require = |condition: bool, text: String| {
        if !condition {
            found.push(text);
        }
    };
    let bridge = host.bridge(names)?;
    match bridge {
        None => require(false, format!("there is no bridge {}", names.bridge)),
        Some(bridge) => {
            let wanted = (request.gateway, request.subnet.prefix_len());
            require(bridge.up, format!("the bridge {} is down", names.bridge));
            require(bridge.alias.is_some(), format!("the bridge {} has lost its tag", names.bridge));
            let believes = ipv6::believes_routers(&names.bridge)
                .map_err(NetError::io("read how the bridge takes part in IPv6"))?;
            require(!believes, format!("the bridge {} heeds router advertisements (IPv6)", names.bridge));
            let addressed = host.addresses_of(bridge).contains(&wanted);
            require(
                addressed,
                format!("the bridge {} has no address {}/{}", names.bridge, wanted.0, wanted.1),
            );
        }
    }
    match host.tap(names)? {
        None => require(false, format!("there is no tap {}", names.tap)),
        Some(tap) => {
            let port = tap.master.is_some() && tap.master == bridge.map(|b| b.index);
            require(port, format!("the tap {} is not a port of the bridge {}", names.tap, names.bridge));
            require(tap.isolated, format!("the tap {} is not isolated", names.tap));
            require(
                tap.all_bridged,
                format!("the tap {} has frames that the bridge does not see", names.tap),
            );
            // Not whether it has IPv6: NetworkManager, where it runs, switches that on again. What arrives on a tap is dropped all the same.
            require(!tap.arp, format!("the tap {} answers ARP", names.tap));
            let mtu = request.tap_mtu();
            require(
                tap.mtu == mtu,
                format!("the tap {} has an MTU of {} and not of {mtu}", names.tap, tap.mtu),
            );
            require(tap.up, format!("the tap {} is down", names.tap));
            let owned = tap.tun_owner == Some(names.tag.uid);
            require(owned, format!("the tap {} does not belong to uid {}", names.tap, names.tag.uid));
        }
    }
    Ok(found)
}
