//! The connections that the kernel keeps track of (linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::net::Ipv4Addr;

use banger_host::net::netlink::{Body, Netlink, attributes};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;

/// Forgets every IPv4 connection from or to one of `addresses`, before or after translation. Gives how many there were; none where the kernel
/// keeps no track of any, or shows none.
///
/// # Errors
/// CAP_NET_ADMIN is lacking, or the kernel cannot be asked.
pub fn forget(addresses: &[Ipv4Addr]) -> io::Result<usize> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let mut netlink = Netlink::open_netfilter()?;
    // struct nfgenmsg: family, version, resource.
    let head = [libc::AF_INET as u8, 0, 0, 0];
    let entries = match netlink.dump(GET, &Body::new(&head)) {
        // No module for it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(0),
        other => other?,
    };
    let mut forgotten = 0;
    for entry in entries.iter().filter(|entry| concerns(entry, addresses)) {
        // The id keeps a newer connection with the same ports from being taken for it.
        let body = [TUPLE_ORIGINAL, ZONE, ID]
            .into_iter()
            .filter_map(|kind| Some((kind, find(entry.get(4..)?, kind)?)))
            .fold(Body::new(&head), |body, (kind, value)| match kind {
                TUPLE_ORIGINAL => body.attr(kind | libc::NLA_F_NESTED as u16, value),
                _ => body.attr(kind, value),
            });
        match netlink.request(DELETE, 0, &body) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other.map(|()| forgotten += 1)?,
        }
    }
    Ok(forgotten)
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Whether one of `addresses` is at an end of the connection, in either direction.
fn concerns(entry: &[u8], addresses: &[Ipv4Addr]) -> bool {
    let directions = [TUPLE_ORIGINAL, TUPLE_REPLY];
    let ends = directions
        .into_iter()
        .filter_map(|tuple| find(find(entry.get(4..)?, tuple)?, TUPLE_IP))
        .flat_map(|ip| {
            [IP_SOURCE, IP_DESTINATION]
                .into_iter()
                .filter_map(move |end| <[u8; 4]>::try_from(find(ip, end)?).ok())
        });
    ends.into_iter().any(|end| addresses.contains(&end.into()))
}
