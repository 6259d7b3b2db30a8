//! IPv4 forwarding between links, how a bridge routes, and which ports are root's (Documentation/networking/ip-sysctl.rst).

use std::io;

use banger_contract::types::LinkName;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// What stands for links that are yet to come, in place of a link's name.
pub const LATER_LINKS: &str = "default";

/// Whether it is on for the whole network namespace: whoever wants to be a router switches it on like this.
///
/// # Errors
/// The file cannot be read.
pub fn ipv4_is_on() -> io::Result<bool> {
    Ok(std::fs::read_to_string(IP_FORWARD)?.trim() != "0")
}

/// Whether what comes in by the link `name` is forwarded; `false` where there is no such link.
///
/// # Errors
/// The file cannot be read.
pub fn is_from(name: &str) -> io::Result<bool> {
    is_on(name, "forwarding")
}

/// Has what comes in by the link `name` forwarded, or not. A link that is gone is no error.
///
/// # Errors
/// The file cannot be written.
pub fn set_from(name: &str, on: bool) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/forwarding"), if on { "1\n" } else { "0\n" })
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Has the link answer ARP for every address behind it, itself included, so that what its isolated ports send each other passes through
/// this host (proxy_arp_pvlan), at once rather than after a random delay (proxy_delay in arp(7)).
///
/// # Errors
/// The files cannot be written.
pub fn route_between_ports(link: &LinkName) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/neigh/{link}/proxy_delay"), "0\n")?;
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp_pvlan"), "1\n")
}

/// Whether [`route_between_ports`] is in force; `false` where there is no such link.
///
/// # Errors
/// The file cannot be read.
pub fn routes_between_ports(link: &LinkName) -> io::Result<bool> {
    is_on(link.as_str(), "proxy_arp_pvlan")
}

/// Has packets from and to 127.0.0.0/8 routed through the link (route_localnet). Rules must drop those that come in by it.
///
/// # Errors
/// The file cannot be written.
pub fn route_loopback(link: &LinkName) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"), "1\n")
}

/// Whether [`route_loopback`] is in force; `false` where there is no such link.
///
/// # Errors
/// The file cannot be read.
pub fn routes_loopback(link: &LinkName) -> io::Result<bool> {
    is_on(link.as_str(), "route_localnet")
}

/// The first port on which anybody may listen.
///
/// # Errors
/// The file cannot be read, or holds no port.
pub fn first_unprivileged_port() -> io::Result<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn is_on(link: &str, setting: &str) -> io::Result<bool> {
    match std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/{setting}")) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
