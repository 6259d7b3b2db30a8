//! IPv4 routes of the main table, as `/proc/net/route` shows them to any user.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::types::Cidr;

/// The most routes that are looked at. A full routing table does not belong on a developer's machine.
const MAX_BYTES: u64 = 16 << 20;

/// The IPv4 routes of this network namespace: the name of the link and the destination.
///
/// Routes that stand for "everywhere" are left out: the default route, and the two halves of the address space that VPNs
/// set beside it.
///
/// # Errors
/// `/proc/net/route` cannot be read or is not what proc(5) describes.
pub fn ipv4_routes() -> io::Result<Vec<(String, Cidr)>> {
    let file = std::fs::File::open(Path::new("/proc/net/route"))?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
    parse(&text)
}

fn parse(text: &str) -> io::Result<Vec<(String, Cidr)>> {
    let bad = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("an odd route: {line:?}"));
    let mut routes = Vec::new();
    for line in text.lines().skip(1).filter(|l| !l.trim().is_empty()) {
        let (link, destination) = parse_line(line).ok_or_else(|| bad(line))?;
        if destination.prefix_len() > 1 {
            routes.push((link, destination));
        }
    }
    Ok(routes)
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`; numbers are hexadecimal, addresses in memory order.
fn parse_line(line: &str) -> Option<(String, Cidr)> {
    let mut fields = line.split_ascii_whitespace();
    let link = fields.next()?;
    let address = u32::from_str_radix(fields.next()?, 16).ok()?;
    let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?;
    let address = Ipv4Addr::from(address.to_ne_bytes());
    let mask = u32::from_be_bytes(mask.to_ne_bytes());
    let prefix_len = u8::try_from(mask.leading_ones()).ok()?;
    Some((link.to_owned(), Cidr::containing(address, prefix_len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read_and_default_ones_left_out() {
        let text = format!(
            "{HEAD}eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             tun0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
             eth0\t0007D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0   \n"
        );
        assert_eq!(parse(&text).unwrap(), [("eth0".to_owned(), "10.213.7.0/24".parse().unwrap())]);
    }

    #[test]
    fn odd_lines_are_errors_and_no_routes_are_none() {
        assert_eq!(parse(HEAD).unwrap(), []);
        assert_eq!(parse("").unwrap(), []);
        assert!(parse(&format!("{HEAD}eth0\tzz\n")).is_err());
    }

    #[test]
    fn this_host_has_readable_routes() {
        ipv4_routes().unwrap();
    }
}
