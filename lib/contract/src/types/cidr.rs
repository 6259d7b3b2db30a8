//! Addresses on a link: an IPv4 network with its prefix length, and an Ethernet address.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

use super::string_type;

/// Why a string is no network in CIDR notation.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{shown:?} is not an IPv4 network in CIDR notation, such as 10.213.7.0/24")]
pub struct ParseCidrError {
    shown: String,
}

/// An IPv4 network in CIDR notation (RFC 4632): host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix_len: u8,
}

/// The private networks (RFC 1918).
const PRIVATE: [Cidr; 3] = [
    Cidr { address: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 8 },
    Cidr { address: Ipv4Addr::new(172, 16, 0, 0), prefix_len: 12 },
    Cidr { address: Ipv4Addr::new(192, 168, 0, 0), prefix_len: 16 },
];

impl Cidr {
    /// The network that holds `address`; bits beyond `prefix_len` are cleared. `None` where `prefix_len` is over 32.
    pub fn containing(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        let mask = Self::mask(prefix_len)?;
        Some(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), prefix_len })
    }

    fn mask(prefix_len: u8) -> Option<u32> {
        (prefix_len <= 32).then(|| u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0))
    }

    /// The network's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The length of the prefix in bits, 0–32.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether `address` lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        Self::containing(address, self.prefix_len) == Some(*self)
    }

    /// Whether `other` lies in the network, or is it.
    pub fn holds(&self, other: &Self) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.address)
    }

    /// Whether it lies in one of the private networks (RFC 1918).
    pub fn is_private(&self) -> bool {
        PRIVATE.iter().any(|private| private.holds(self))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The `n`-th address of the network, the network's own being the 0th. `None` beyond its end.
    pub fn nth(&self, n: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.address.to_bits().checked_add(n)?);
        self.contains(address).then_some(address)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, prefix_len) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let cidr = Self::containing(address, prefix_len.parse().ok()?)?;
            (cidr.address == address).then_some(cidr)
        };
        parse().ok_or_else(|| ParseCidrError { shown: text.chars().take(40).collect() })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

string_type!(Cidr, "^[0-9.]{7,15}/[0-9]{1,2}$");

/// Why a string is no Ethernet address.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{shown:?} is not an Ethernet address, such as 02:00:0a:d5:07:02")]
pub struct ParseMacError {
    shown: String,
}

/// An Ethernet address, written as six lower-case hexadecimal pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The address of the guest that has `ip`: `02:00` (locally administered, unicast) and the four bytes of `ip`, so
    /// that it is unique on its bridge.
    pub fn for_guest(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([2, 0, a, b, c, d])
    }

    /// The six bytes.
    pub fn octets(&self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut pairs = text.split(':');
            for byte in &mut bytes {
                let pair =
                    pairs.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
                *byte = u8::from_str_radix(pair, 16).ok()?;
            }
            pairs.next().is_none().then_some(Self(bytes))
        };
        parse().ok_or_else(|| ParseMacError { shown: text.chars().take(40).collect() })
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

string_type!(MacAddr, "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_parses_contains_and_overlaps() {
        let net: Cidr = "10.213.7.0/24".parse().unwrap();
        assert_eq!(net.nth(2), Some(Ipv4Addr::new(10, 213, 7, 2)));
        assert_eq!(net.nth(256), None);
        assert!(net.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(!net.overlaps(&"10.213.8.0/24".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains(Ipv4Addr::new(1, 2, 3, 4)));
        for bad in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "a/8", "10.0.0.0/-1", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_round_trips() {
        let mac = MacAddr::for_guest(Ipv4Addr::new(10, 213, 7, 2));
        assert_eq!(mac.to_string(), "02:00:0a:d5:07:02");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["02:00:0a:d5:07", "02:00:0a:d5:07:02:03", "0:0:a:d5:7:2", "+2:00:0a:d5:07:02", ""] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
