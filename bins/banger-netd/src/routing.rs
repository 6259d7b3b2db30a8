//! Forwarding on a host that forwards nothing: on for guests and the answers to them, shut to everybody else, and off again with the last
//! bridge of banger's, whosever it is.
//!
//! It is switched on link by link, so that `ip_forward` itself still tells whether somebody else wants a router. A table of its own has the
//! rules that shut out the rest (`guard.nft`), and notes which links were there and which of them forwarded before.

use banger_contract::types::LinkName;
use banger_host::net::link::{self, Link};
use banger_host::net::netlink::{Netlink, text_of};

use crate::NetError;
use crate::host::Host;
use crate::realm::Realm;
use crate::request::TapRequest;
use crate::sys::forwarding::{self, LATER_LINKS};
use crate::sys::nf_tables;
use crate::tag::Tag;

const GUARD: &str = include_str!("guard.nft");
const TABLE: &str = "banger_forwarding";
/// The links that were there.
const LINKS: &str = "links";
/// Those whose packets were forwarded already.
const ROUTERS: &str = "routers";

/// What the names of banger's own links begin with.
const OWN: [&str; 4] = ["bgr", "bgt", "bgq", "bgd"];

fn io<T>(what: &'static str, result: std::io::Result<T>) -> Result<T, NetError> {
    result.map_err(NetError::io(what))
}

fn is_guarded() -> Result<bool, NetError> {
    let chains = io("list the chains of nf_tables", nf_tables::chains())?;
    Ok(chains.iter().any(|chain| chain.table == TABLE))
}

fn is_from(name: &str) -> Result<bool, NetError> {
    io("read whether IPv4 is forwarded", forwarding::is_from(name))
}

fn set_from(name: &str, on: bool) -> Result<(), NetError> {
    io("switch IPv4 forwarding", forwarding::set_from(name, on))
}

fn ipv4_is_on() -> Result<bool, NetError> {
    io("read whether IPv4 is forwarded", forwarding::ipv4_is_on())
}

/// Whether packets of guests on `bridge` are forwarded, and nobody else's for their sake.
pub(super) fn is_on(bridge: &LinkName) -> Result<bool, NetError> {
    Ok(is_from(bridge.as_str())? && (ipv4_is_on()? || is_guarded()?))
}

/// How guests' packets come to be forwarded.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// What has to be among the rules before.
    pub rules: String,
    /// By which links what comes is to be forwarded.
    links: Vec<String>,
}

impl Switch {
    /// What there is to do on `host`.
    pub(super) fn of(host: &Host) -> Result<Self, NetError> {
        let guarded = is_guarded()?;
        if ipv4_is_on()? {
            let rules = if guarded { format!("delete table inet {TABLE}\n") } else { String::new() };
            return Ok(Self { rules, links: Vec::new() });
        }
        // Without a table it may have been ours all the same, before somebody flushed the rules.
        let forgotten = !guarded && is_from(LATER_LINKS)?;
        let all = others(&host.links);
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for name in all.iter().copied().chain([LATER_LINKS]) {
            if forgotten || !is_from(name)? { off.push(name) } else { on.push(name) }
        }
        let guard = || GUARD.to_owned() + &elements(LINKS, &all) + &elements(ROUTERS, &on);
        let rules = if guarded { String::new() } else { guard() };
        Ok(Self { rules, links: off.into_iter().map(str::to_owned).collect() })
    }

    /// Has the packets of guests on `bridge` forwarded, and the answers to them. The rules are there.
    pub(super) fn turn(&self, bridge: &LinkName) -> Result<(), NetError> {
        let links = self.links.iter().map(String::as_str);
        links
            .chain([bridge.as_str()])
            .try_for_each(|name| if is_from(name)? { Ok(()) } else { set_from(name, true) })
    }
}

/// The names of the links that are not banger's.
fn others(links: &[Link]) -> Vec<&str> {
    let is_own = |name: &str| name == "lo" || OWN.iter().any(|kind| name.starts_with(kind));
    links.iter().map(|link| link.name.as_str()).filter(|name| !is_own(name)).collect()
}

fn elements(set: &str, names: &[&str]) -> String {
    // A link's name can hold anything but white space and slashes; nft takes it in quotes.
    let fit = names.iter().filter(|name| !name.contains(['"', '\\', '*']));
    fit.map(|name| format!("add element inet {TABLE} {set} {{ \"{name}\" }}\n")).collect()
}

/// Switches it off again where banger has switched it on, `realm`'s bridge is the last, and nobody else has become a router. Gives the table
/// that is to go then.
pub(super) fn switch_off_after(realm: &Realm) -> Result<Option<&'static str>, NetError> {
    if !is_guarded()? {
        return Ok(None);
    }
    let mut netlink = io("open a netlink socket", Netlink::open())?;
    let links = io("list the links", link::list(&mut netlink))?;
    let own = realm.bridge();
    let is_other = |link: &Link| {
        link.kind.as_deref() == Some("bridge") && Tag::of(link).is_some() && link.name != own.as_str()
    };
    if links.iter().any(is_other) {
        return Ok(None);
    }
    if !ipv4_is_on()? {
        // Links that came meanwhile began with what we had switched on.
        let before = io("read what forwarded before", nf_tables::elements("inet", TABLE, ROUTERS))?;
        let before: Vec<String> = before.iter().map(|link| text_of(&link.key)).collect();
        let names = others(&links).into_iter().chain([LATER_LINKS]);
        names.filter(|name| !before.iter().any(|b| b == name)).try_for_each(|name| set_from(name, false))?;
    }
    Ok(Some(TABLE))
}

/// Whether the bridge routes between VMs.
pub fn routes_between(request: &TapRequest) -> Result<bool, NetError> {
    forwarding::routes_between_ports(&request.names.bridge)
        .map_err(NetError::io("read how the bridge routes between VMs"))
}

/// Whether the bridge routes 127.0.0.0/8, for published ports.
pub fn routes_loopback(request: &TapRequest) -> Result<bool, NetError> {
    forwarding::routes_loopback(&request.names.bridge)
        .map_err(NetError::io("read whether the bridge routes 127.0.0.0/8"))
}
