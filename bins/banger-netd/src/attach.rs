//! Attaching in tap mode.
//!
//! The order is: the bridge (not up yet), the rules, the tap, and only then everything up; so there is no instant at which
//! a guest's frame meets no rules. A tap lives only as long as this program until all is done. What fails midway undoes
//! what it did; what is killed midway leaves at most an empty bridge and rules, which `detach` and `gc` find by name.

use std::net::Ipv4Addr;

use banger_contract::policy::DEFAULT_MTU;
use banger_contract::record::Net;
use banger_contract::reply::Blocked;
use banger_host::clock::{Timeline, boottime_us};
use banger_host::fs::rootlock::RootLock;
use banger_host::net::link::{self, Link};

use crate::bridge::{ensure_bridge, forwarding_differs, leave_ipv6, require_same_bridge};
use crate::caller::Caller;
use crate::hold::{self, Port};
use crate::host::Host;
use crate::lock::{LOCK, PATIENCE};
use crate::permit::Permit;
use crate::request::TapRequest;
use crate::routing::{Switch, routes_between, routes_loopback};
use crate::rules::{self, Before, Tables};
use crate::sys::tap::Tap;
use crate::sys::{forwarding, ipv6};
use crate::undo::{Made, undo};
use crate::{NetError, firewall, pool, publish};

/// A network that is there.
#[derive(Debug)]
pub struct Attached {
    /// The section.
    pub net: Net,
    /// Whether anything changed.
    pub changed: bool,
    /// Firewalls of the host that have to let the VM through and do not.
    pub blocked: Vec<Blocked>,
}

/// Makes the network, or finds it made. `previous` is the record's section.
///
/// # Errors
/// Any [`NetError`]; what had been done is undone.
pub fn attach(
    request: &TapRequest,
    caller: &Caller,
    previous: Option<Net>,
    dns: Vec<Ipv4Addr>,
    timeline: &mut Timeline,
) -> Result<Attached, NetError> {
    require_same_section(request, previous.as_ref())?;
    caller.require_net_admin()?;
    let permit = Permit::of(caller)?;
    permit.require_subnet(request)?;
    let request = &request.with(permit.connections());
    let lock = timeline.step("lock", || RootLock::acquire(LOCK, PATIENCE))?;
    let mut host = timeline.step("inspect", Host::read)?;
    require_same_bridge(&host, request)?;
    host.require_free_subnet(request)?;
    // The resolvers of a network that is attached are those the guest was given.
    let section = previous.unwrap_or_else(|| request.section(dns));
    let mut held = None;
    if let Some(tap) = host.tap(&request.names)? {
        require_same_mtu(tap, request)?;
        let tables = timeline.step("inspect-nft", || Tables::read(&request.names.table))?;
        let tables = held.insert(tables);
        require_same_guest(tables, request)?;
        let differences = crate::bridge::links_differ(&host, request)?;
        let has_ipv6 = ipv6::is_on(&request.names.tap);
        if differences.is_empty()
            && !has_ipv6.map_err(NetError::io("read whether the tap has IPv6"))?
            && tables.differences(request).is_empty()
            && forwarding_differs(request)?.is_empty()
            && hold::differences(request)?.is_empty()
        {
            return Ok(Attached { net: section, changed: false, blocked: Vec::new() });
        }
    }
    let bridges = usize::from(host.link(&request.names.bridge).is_none());
    let taps = usize::from(host.link(&request.names.tap).is_none());
    permit.require_room(&host, bridges, taps, Some(request).filter(|_| taps > 0))?;
    let mut made = Made::default();
    match make(&mut host, request, held.as_ref(), &mut made, timeline) {
        Ok(()) => Ok(Attached { net: section, changed: true, blocked: made.blocked }),
        Err(error) => Err(undo(error, request, &made, &lock)),
    }
}

/// # Errors
/// The record has another network already.
fn require_same_section(request: &TapRequest, previous: Option<&Net>) -> Result<(), NetError> {
    let Some(previous) = previous else { return Ok(()) };
    let expected = request.section(previous.dns.clone());
    if *previous == expected {
        return Ok(());
    }
    let shown = |net: &Net| serde_json::to_string(net).expect("a section is JSON");
    Err(NetError::Differs {
        object: format!("a network of VM {}", request.names.vm),
        what: "net",
        found: shown(previous),
        wanted: shown(&expected),
    })
}

/// # Errors
/// The tap is there, and its rules were made for other values.
fn require_same_guest(tables: &Tables, request: &TapRequest) -> Result<(), NetError> {
    let Some(what) = tables.conflict(request) else { return Ok(()) };
    let (found, wanted) = match what {
        "vm.mac" => ("another".to_owned(), request.mac.to_string()),
        "vm.nat" => ((!request.nat).to_string(), request.nat.to_string()),
        "vm.peer" => ((!request.peer).to_string(), request.peer.to_string()),
        "vm.egress" => ("another".to_owned(), request.egress.to_string()),
        "vm.publish" => {
            let ports: Vec<String> = request.publish.iter().map(ToString::to_string).collect();
            ("another".to_owned(), format!("[{}]", ports.join(", ")))
        }
        _ => ("another".to_owned(), request.address.to_string()),
    };
    Err(NetError::Differs { object: format!("the tap {}", request.names.tap), what, found, wanted })
}

/// # Errors
/// The tap is there, and takes packets of another size.
fn require_same_mtu(tap: &Link, request: &TapRequest) -> Result<(), NetError> {
    let (found, wanted) = (tap.mtu, request.tap_mtu());
    if found == wanted {
        return Ok(());
    }
    let object = format!("the tap {}", request.names.tap);
    Err(NetError::Differs { object, what: "vm.mtu", found: found.to_string(), wanted: wanted.to_string() })
}

fn make(
    host: &mut Host,
    request: &TapRequest,
    held: Option<&Tables>,
    made: &mut Made,
    timeline: &mut Timeline,
) -> Result<(), NetError> {
    // Before the attempt: a program that failed may have come as far as the kernel all the same.
    made.rules = host.tap(&request.names)?.is_none();
    let before = match (host.bridge(&request.names)?, held) {
        (None, _) => Before::Nothing,
        (Some(_), None) => Before::Bridge,
        (Some(_), Some(tables)) => Before::Tap(tables),
    };
    let switch = if request.is_forwarded() { Switch::of(host)? } else { Switch::default() };
    let mut rules = None;
    let bridge = if matches!(before, Before::Nothing) {
        // Whichever of the two fails: the other may have been done.
        made.bridge = true;
        // Side by side: most of what `nft` takes is its start, and nothing is up yet.
        std::thread::scope(|scope| {
            let applied = scope.spawn(|| timed(|| rules::apply(request, before, &switch.rules)));
            let bridge = make_bridge(host, request, made, timeline);
            rules = Some(applied.join().expect("it does not panic"));
            bridge
        })
    } else {
        make_bridge(host, request, made, timeline)
    };
    let bridge = bridge?;
    let apply = || timed(|| rules::apply(request, before, &switch.rules));
    let (applied, began, duration) = rules.unwrap_or_else(apply);
    timeline.note("nft", began, duration);
    applied?;
    timeline.step("forwarding", || switch_forwarding_on(request, &switch))?;
    made.blocked = timeline.step("firewalls", || firewall::answer(request))?;
    // From here on it depends on the tap whether they are held.
    let ports = Some(&made.ports).filter(|ports| !ports.is_empty());
    let _watch = ports.map(|ports| hold::leave_behind(&request.names, ports)).transpose()?;
    timeline.step("tap", || ensure_tap(host, request, &bridge))
}

/// What `work` gives, when it began and how long it took, both in microseconds of CLOCK_BOOTTIME.
fn timed<T>(work: impl FnOnce() -> T) -> (T, u64, u64) {
    let began = boottime_us();
    let result = work();
    (result, began, boottime_us() - began)
}

/// # Errors
/// A process or another VM has one of the ports.
fn take_ports(host: &Host, request: &TapRequest) -> Result<Vec<Port>, NetError> {
    let own = request.names.tap.as_str();
    let others = host.links.iter().any(|link| link.name.starts_with("bgt") && link.name != own);
    if others {
        publish::require_unpublished(request)?;
    }
    publish::take(&request.publish)
}

/// What the host is to route, once the rules are there.
pub(super) fn switch_forwarding_on(request: &TapRequest, switch: &Switch) -> Result<(), NetError> {
    let bridge = &request.names.bridge;
    if request.is_forwarded() {
        switch.turn(bridge)?;
    }
    if request.peer && !routes_between(request)? {
        forwarding::route_between_ports(bridge).map_err(NetError::io("have the bridge route between VMs"))?;
    }
    if !request.publish.is_empty() && !routes_loopback(request)? {
        forwarding::route_loopback(bridge).map_err(NetError::io("have the bridge route 127.0.0.0/8"))?;
    }
    Ok(())
}

/// The tap: the one that is there, one of the pool's, or a new one.
fn ensure_tap(host: &mut Host, request: &TapRequest, bridge: &Link) -> Result<(), NetError> {
    let names = &request.names;
    if host.tap(names)?.is_some() {
        return join(host, request, bridge);
    }
    if let Some(claimed) = pool::claim(host, names)? {
        return join(host, request, bridge).inspect_err(|_| {
            // What resists is gc's.
            drop(link::set_down(&mut host.netlink, &claimed));
            drop(pool::give_back(host, names, &claimed));
        });
    }
    let tap = Tap::create(&names.tap, names.tag.uid)?;
    link::set_alias(&mut host.netlink, &names.tap, &names.tag.to_string())?;
    join(host, request, bridge)?;
    Ok(tap.persist()?)
}

/// The VM's tap as an isolated port with no part in the host's own network, and bridge and tap up.
fn join(host: &mut Host, request: &TapRequest, bridge: &Link) -> Result<(), NetError> {
    let names = &request.names;
    if request.tap_mtu() != u32::from(DEFAULT_MTU) {
        link::set_mtu(&mut host.netlink, &names.tap, request.tap_mtu())?;
    }
    leave_ipv6(&names.tap)?;
    link::set_isolated_port(&mut host.netlink, &names.tap, bridge.index)?;
    link::set_up(&mut host.netlink, &names.bridge)?;
    Ok(link::set_up_without_arp(&mut host.netlink, &names.tap)?)
}

/// The bridge, and the ports that are to be published; one may be on the bridge's own address.
fn make_bridge(
    host: &mut Host,
    request: &TapRequest,
    made: &mut Made,
    timeline: &mut Timeline,
) -> Result<Link, NetError> {
    let bridge = timeline.step("bridge", || ensure_bridge(host, request, made))?;
    // Where there was no tap, what holds them is about to let go.
    let free = made.rules && !request.publish.is_empty() || !hold::differences(request)?.is_empty();
    if free {
        made.ports = timeline.step("ports", || take_ports(host, request))?;
    }
    Ok(bridge)
}
