//! systemd-resolved: the bridge is a link like any other, with a resolver and the routing-only domain `~vm`.

use std::net::IpAddr;
use std::path::Path;

use super::{Claim, DOMAIN, HookError};
use crate::dns::resolvers;
use crate::dns::site::Site;
use crate::host::Host;
use crate::sys::resolved;
use crate::tag::Tag;
use banger_host::net::link::Link;

/// Where it listens (systemd-resolved(8)).
const STUBS: [[u8; 4]; 2] = [[127, 0, 0, 53], [127, 0, 0, 54]];

/// Whether this host's programs ask it: through its stub, or through its module of the C library (nss-resolve(8)).
pub(super) fn is_asked() -> bool {
    let stub = |address: &IpAddr| STUBS.iter().any(|stub| *address == IpAddr::from(*stub));
    resolvers::of_host(Path::new(resolvers::RESOLV_CONF)).iter().any(stub)
        || std::fs::read_to_string("/etc/nsswitch.conf").is_ok_and(|text| has_module(&text))
}

/// Whether the line `hosts` of nsswitch.conf(5) names the module.
fn has_module(text: &str) -> bool {
    let hosts = text.lines().filter_map(|line| line.trim_start().strip_prefix("hosts:"));
    hosts.flat_map(str::split_whitespace).any(|word| word == "resolve")
}

pub(super) fn is_told(site: &Site) -> Result<bool, HookError> {
    let link = site.bridge.index;
    let domain = resolved::domains()?.iter().any(|d| d.0 == link && d.1 == DOMAIN);
    Ok(domain && resolved::servers()?.contains(&(link, IpAddr::V4(site.address))))
}

/// Who else has the domain. It asks all of them, and takes the first answer that is one (systemd-resolved(8), "Protocols and routing").
pub(super) fn others(site: &Site) -> Result<Vec<Claim>, HookError> {
    let host = Host::read()?;
    let domains = resolved::domains()?;
    let others = domains.iter().filter(|d| d.1 == DOMAIN && d.0 != site.bridge.index);
    Ok(others.map(|d| claim(&host, d.0)).collect())
}

fn claim(host: &Host, index: u32) -> Claim {
    match host.links.iter().find(|link| link.index == index) {
        None => Claim { by: "the host's own resolvers".to_owned(), owner: None },
        Some(link) => match Tag::of(link) {
            Some(tag) => Claim {
                by: format!("the bridge {} of the state directory {}", link.name, tag.state),
                owner: Some(tag.uid),
            },
            None => Claim { by: format!("the resolvers of the link {}", link.name), owner: None },
        },
    }
}

/// Tells it; what it does not take to the end it forgets.
pub(super) fn tell(site: &Site) -> Result<(), HookError> {
    let link = site.bridge.index;
    resolved::route(link, DOMAIN, site.address).map_err(|error| {
        // The error that matters is the first one; what stays goes with the bridge.
        drop(resolved::revert(link));
        error.into()
    })
}

/// Takes back all settings of the bridge; gives them in words where there were any.
pub(super) fn forget(bridge: &Link) -> Result<Option<String>, HookError> {
    if !resolved::runs()? {
        return Ok(None);
    }
    let known = resolved::domains()?.iter().any(|d| d.0 == bridge.index)
        || resolved::servers()?.iter().any(|(link, _)| *link == bridge.index);
    if !known {
        return Ok(None);
    }
    resolved::revert(bridge.index)?;
    Ok(Some(format!("settings of {} in systemd-resolved", bridge.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_in_its_line_only() {
        assert!(has_module("passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n"));
        for text in ["", "hosts: files dns", "#hosts: resolve", "networks: resolve", "hosts: files resolver"]
        {
            assert!(!has_module(text), "{text:?}");
        }
    }
}
