//! The bridge of a state directory: making it, and whether it is as it was made.

use std::os::fd::AsFd;

use banger_contract::policy::MTU;
use banger_contract::record::Net;
use banger_contract::types::{LinkName, MacAddr};
use banger_host::fs::rootlock::RootLock;
use banger_host::net::link::{self, Link};

use crate::caller::Caller;
use crate::host::Host;
use crate::realm::Realm;
use crate::request::{Names, TapRequest};
use crate::routing::{self, routes_between, routes_loopback};
use crate::rules::Tables;
use crate::sys::ipv6;
use crate::undo::Made;
use crate::{NetError, hold};

/// Whether the bridge that is there, if there is one, may be used.
///
/// # Errors
/// The bridge is somebody else's or has another address.
pub fn require_same_bridge(host: &Host, request: &TapRequest) -> Result<(), NetError> {
    let Some(bridge) = host.bridge(&request.names)? else { return Ok(()) };
    let wanted = (request.gateway, request.subnet.prefix_len());
    match host.addresses_of(bridge).into_iter().find(|found| *found != wanted) {
        None => Ok(()),
        Some((address, prefix_len)) => Err(NetError::Differs {
            object: format!("the bridge {}", request.names.bridge),
            what: "address",
            found: format!("{address}/{prefix_len}"),
            wanted: format!("{}/{}", wanted.0, wanted.1),
        }),
    }
}

/// What the network needs the host to route and the host does not, in words.
pub fn forwarding_differs(request: &TapRequest) -> Result<Vec<String>, NetError> {
    let mut found = Vec::new();
    if request.is_forwarded() && !routing::is_on(&request.names.bridge)? {
        found.push("IPv4 forwarding is off".to_owned());
    }
    if request.peer && !routes_between(request)? {
        found.push(format!("the bridge {} does not route between VMs", request.names.bridge));
    }
    if !request.publish.is_empty() && !routes_loopback(request)? {
        found.push(format!("the bridge {} does not route 127.0.0.0/8", request.names.bridge));
    }
    Ok(found)
}

/// The bridge with its address, tag and carrier; not up where it is new.
pub fn ensure_bridge(host: &mut Host, request: &TapRequest, made: &mut Made) -> Result<Link, NetError> {
    let names = &request.names;
    let bridge = match host.bridge(names)? {
        Some(bridge) => bridge.clone(),
        None => {
            // An address of its own: a bridge takes its lowest port's otherwise, and guests would lose their gateway each time a
            // tap comes or goes.
            let mac = MacAddr::for_guest(request.gateway);
            link::create(&mut host.netlink, &names.bridge, "bridge", Some(mac))?;
            made.bridge = true;
            host.refreshed(&names.bridge)?
        }
    };
    if bridge.alias.is_none() {
        link::set_alias(&mut host.netlink, &names.bridge, &names.tag.to_string())?;
    }
    ipv6::ignore_routers(&names.bridge).map_err(NetError::io("have the bridge ignore routers (IPv6)"))?;
    if host.addresses_of(&bridge).is_empty() {
        let (gateway, prefix_len) = (request.gateway, request.subnet.prefix_len());
        link::add_address(&mut host.netlink, &names.bridge, bridge.index, gateway, prefix_len)?;
    }
    if host.link(&names.dummy).is_none() {
        add_dummy(host, request, &bridge)?;
    }
    Ok(bridge)
}

/// A port that is always up: systemd-resolved uses a link only while it has carrier, and a bridge has none while no VM runs.
/// A kernel without dummy links does without.
fn add_dummy(host: &mut Host, request: &TapRequest, bridge: &Link) -> Result<(), NetError> {
    let names = &request.names;
    match link::create(&mut host.netlink, &names.dummy, "dummy", None) {
        Err(error) if error.is_unknown_kind() => return Ok(()),
        other => other?,
    }
    link::set_alias(&mut host.netlink, &names.dummy, &names.tag.to_string())?;
    leave_ipv6(&names.dummy)?;
    // A bridge takes the smallest of its ports': this one is never that.
    link::set_mtu(&mut host.netlink, &names.dummy, (*MTU.end()).into())?;
    link::set_isolated_port(&mut host.netlink, &names.dummy, bridge.index)?;
    Ok(link::set_up(&mut host.netlink, &names.dummy)?)
}

/// Takes a port of the bridge out of IPv6: the host talks to guests by the bridge alone.
pub fn leave_ipv6(port: &LinkName) -> Result<(), NetError> {
    let settings = ipv6::ignore_routers(port).and_then(|()| ipv6::switch_off(port));
    settings.map_err(NetError::io("switch off IPv6 on a port of the bridge"))
}

pub fn remove_bridge(names: &Names, lock: &RootLock) -> Result<(), NetError> {
    let mut host = Host::read()?;
    let links = bridge_links(&host, &names.realm, |link| names.own(link));
    Ok(link::delete_together(&mut host.netlink, &links, &host.links, &[lock.as_fd()])?)
}

/// The bridge of `realm` and its dummy port, each where it is there and `ours`.
pub fn bridge_links(host: &Host, realm: &Realm, ours: impl Fn(&Link) -> bool) -> Vec<Link> {
    let made = [(realm.dummy(), "dummy"), (realm.bridge(), "bridge")];
    let found = made.iter().filter_map(|(name, kind)| Some((host.link(name)?, *kind)));
    found
        .filter(|(link, kind)| link.kind.as_deref() == Some(*kind) && ours(link))
        .map(|(l, _)| l.clone())
        .collect()
}

pub fn absent(names: &Names) -> Result<Vec<String>, NetError> {
    let there = Host::read()?.link(&names.tap).is_some();
    Ok(there
        .then(|| format!("the record has no network, and the tap {} is there", names.tap))
        .into_iter()
        .collect())
}

pub fn present(request: &TapRequest, net: &Net, caller: &Caller) -> Result<Vec<String>, NetError> {
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
pub fn links_differ(host: &Host, request: &TapRequest) -> Result<Vec<String>, NetError> {
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
