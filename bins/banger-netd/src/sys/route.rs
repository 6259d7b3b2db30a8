//! The IPv4 routes of all tables, next hops and neighbours (rtnetlink(7)). Any user may look at them.

use std::io;
use std::net::Ipv4Addr;

use banger_contract::types::Cidr;
use banger_host::net::netlink::{Body, Netlink, attributes, u32_of};

// linux/rtnetlink.h, linux/nexthop.h and linux/neighbour.h; libc has only some of them.
const GET_NEXT_HOP: u16 = 106;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// The states of a neighbour that was heard of, or that somebody has entered.
const NUD_KNOWN: u16 =
    libc::NUD_REACHABLE | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE | libc::NUD_PERMANENT;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Cidr,
    /// The number of the link; `None` where it leads nowhere (blackhole, prohibit) or by several.
    pub link: Option<u32>,
    /// Its next hops, each with the number of its link.
    pub next_hops: Vec<(Option<u32>, Ipv4Addr)>,
}

/// All routes of this network namespace, the default ones and those to the host's own addresses among them.
///
/// # Errors
/// As [`Netlink::dump`].
pub fn ipv4_routes(netlink: &mut Netlink) -> io::Result<Vec<Route>> {
    // struct rtmsg: family, then lengths, table and others that a dump pays no heed to.
    let payloads = netlink.dump(libc::RTM_GETROUTE, &family(12))?;
    Ok(payloads.iter().filter_map(|payload| parse_route(payload)).collect())
}

/// The next hops that are objects of their own (`ip nexthop`), each with the number of its link; none on kernels before 5.3.
///
/// # Errors
/// As [`Netlink::dump`].
pub fn ipv4_next_hops(netlink: &mut Netlink) -> io::Result<Vec<(Option<u32>, Ipv4Addr)>> {
    // struct nhmsg: family, scope, protocol, reserved, flags.
    match netlink.dump(GET_NEXT_HOP, &family(8)) {
        Ok(payloads) => Ok(payloads
            .iter()
            .filter_map(|payload| {
                let part = |wanted| find(payload.get(8..)?, wanted);
                Some((part(NHA_OIF).and_then(u32_of), address(part(NHA_GATEWAY)?)?))
            })
            .collect()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The neighbours that have been heard of, each with the number of its link.
///
/// # Errors
/// As [`Netlink::dump`].
pub fn ipv4_neighbours(netlink: &mut Netlink) -> io::Result<Vec<(u32, Ipv4Addr)>> {
    let payloads = netlink.dump(libc::RTM_GETNEIGH, &family(12))?;
    Ok(payloads.iter().filter_map(|payload| parse_neighbour(payload)).collect())
}

/// A header of `length` bytes that says no more than the family.
fn family(length: usize) -> Body {
    let mut header = vec![0; length];
    header[0] = libc::AF_INET as u8;
    Body::new(&header)
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(value).ok()?.into())
}

/// struct rtmsg: family, the lengths of destination and source, TOS, table, protocol, scope, type, flags (4 bytes).
fn parse_route(payload: &[u8]) -> Option<Route> {
    let [family, length, ..] = payload else { return None };
    if i32::from(*family) != libc::AF_INET {
        return None;
    }
    let parts = payload.get(12..)?;
    let destination = find(parts, libc::RTA_DST).and_then(address).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let link = find(parts, libc::RTA_OIF).and_then(u32_of);
    let mut next_hops: Vec<_> =
        find(parts, libc::RTA_GATEWAY).and_then(address).map(|hop| (link, hop)).into_iter().collect();
    next_hops.extend(find(parts, libc::RTA_MULTIPATH).into_iter().flat_map(multipath));
    Some(Route { destination: Cidr::containing(destination, *length)?, link, next_hops })
}

/// A list of struct rtnexthop: its length, flags, weight, the link's number, attributes.
fn multipath(mut bytes: &[u8]) -> Vec<(Option<u32>, Ipv4Addr)> {
    let mut hops = Vec::new();
    while let Some(length) = bytes.get(..2).map(|two| usize::from(u16::from_ne_bytes([two[0], two[1]]))) {
        let Some(one) = bytes.get(8..length) else { break };
        let link = bytes.get(4..8).and_then(u32_of);
        hops.extend(find(one, libc::RTA_GATEWAY).and_then(address).map(|hop| (link, hop)));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// struct ndmsg: family, padding (3 bytes), the link's number, state (2 bytes), flags, type.
fn parse_neighbour(payload: &[u8]) -> Option<(u32, Ipv4Addr)> {
    let link = u32_of(payload.get(4..8)?)?;
    let state = u16::from_ne_bytes(payload.get(8..10)?.try_into().ok()?);
    let known = i32::from(*payload.first()?) == libc::AF_INET && state & NUD_KNOWN != 0;
    let neighbour = find(payload.get(12..)?, libc::NDA_DST).and_then(address)?;
    known.then_some((link, neighbour))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute.
    fn part(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (value.len() + 4) as u16;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    #[test]
    fn routes_are_read_with_all_their_next_hops() {
        let head = [libc::AF_INET as u8, 24, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        let link = |n: u32| part(libc::RTA_OIF, &n.to_ne_bytes());
        let gateway = part(libc::RTA_GATEWAY, &[10, 9, 9, 9]);
        let plain = [&head[..], &part(libc::RTA_DST, &[10, 1, 2, 0]), &link(3), &gateway].concat();
        let route = parse_route(&plain).unwrap();
        assert_eq!((route.destination.to_string().as_str(), route.link), ("10.1.2.0/24", Some(3)));
        assert_eq!(route.next_hops, [(Some(3), Ipv4Addr::new(10, 9, 9, 9))]);
        let hop = |n: u32| [&16u16.to_ne_bytes()[..], &[0, 0], &n.to_ne_bytes(), &gateway].concat();
        let several = part(libc::RTA_MULTIPATH, &[hop(4), hop(5)].concat());
        let route = parse_route(&[&head[..], &several].concat()).unwrap();
        assert_eq!(route.next_hops.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [Some(4), Some(5)]);
        assert_eq!(route.link, None);
        for cut in 0..plain.len() {
            parse_route(&plain[..cut]);
        }
        assert!(multipath(&[0, 0, 0, 0, 0, 0, 0, 0]).is_empty());
    }

    #[test]
    fn this_host_has_readable_routes_and_neighbours() {
        let mut netlink = Netlink::open().unwrap();
        assert!(
            ipv4_routes(&mut netlink).unwrap().iter().any(|r| r.destination.to_string() == "127.0.0.0/8")
        );
        ipv4_next_hops(&mut netlink).unwrap();
        ipv4_neighbours(&mut netlink).unwrap();
    }
}
