//! systemd-resolved by its interface on the system bus (org.freedesktop.resolve1(5)).

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::bus::{BusError, Object};

const MANAGER: Object = Object {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};

/// A domain whose names are looked up by the resolvers of one link.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LinkDomain(
    /// The link's number; 0: all of the host.
    pub u32,
    /// The domain.
    pub String,
    /// Whether it only says whom to ask (`~vm`); otherwise it completes single-label names, too.
    pub bool,
);

/// Whether it runs.
///
/// # Errors
/// The bus does not answer.
pub fn runs() -> Result<bool, BusError> {
    MANAGER.runs()
}

fn list<T: DeserializeOwned>(property: &str) -> Result<Vec<T>, BusError> {
    serde_json::from_value(MANAGER.property(property)?).map_err(|_| MANAGER.odd(property))
}

/// All domains of all links.
///
/// # Errors
/// It does not answer.
pub fn domains() -> Result<Vec<LinkDomain>, BusError> {
    list("Domains")
}

/// All resolvers of all links, each with the link's number.
///
/// # Errors
/// It does not answer.
pub fn servers() -> Result<Vec<(u32, IpAddr)>, BusError> {
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    let all: Vec<(u32, i32, Vec<u8>)> = list("DNS")?;
    Ok(all.iter().filter_map(|(link, _, bytes)| Some((*link, address(bytes)?))).collect())
}

/// Has names that end in `domain`, and no others, asked of `server` on the link with the number `link`, whatever the host demands
/// of its own resolvers: that one speaks no TLS, and signs nothing.
///
/// # Errors
/// It refuses, as for a link that systemd-networkd manages. What was set until then stays set.
pub fn route(link: u32, domain: &str, server: Ipv4Addr) -> Result<(), BusError> {
    let link = link.to_string();
    MANAGER.call("SetLinkDomains", &["ia(sb)", &link, "1", domain, "true"])?;
    MANAGER.call("SetLinkDNSSEC", &["is", &link, "no"])?;
    MANAGER.call("SetLinkDNSOverTLS", &["is", &link, "no"])?;
    // Last: a link with a resolver and without a domain of its own would be asked about everything.
    let bytes = server.octets().map(|byte| byte.to_string());
    let [a, b, c, d] = bytes.each_ref().map(String::as_str);
    MANAGER.call("SetLinkDNS", &["ia(iay)", &link, "1", "2", "4", a, b, c, d])?;
    Ok(())
}

/// Takes back everything that was set for a link.
///
/// # Errors
/// It refuses.
pub fn revert(link: u32) -> Result<(), BusError> {
    MANAGER.call("RevertLink", &["i", &link.to_string()]).map(drop)
}
