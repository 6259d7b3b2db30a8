//! Who reaches a guest and whom a guest reaches: published ports and egress, as records and as people write them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::Cidr;

/// What the largest packet on a guest's network may be, bytes: from what IPv6 needs of every link (RFC 8200, section 5) to the usual
/// jumbo frame.
pub const MTU: std::ops::RangeInclusive<u16> = 1280..=9000;
/// What it is where nobody says: Ethernet's.
pub const DEFAULT_MTU: u16 = 1500;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A guest port that is reachable from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address that listens; `None`: all.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for Publish {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(f, "{}:{}", self.host_port, self.guest_port)?;
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

/// What guests may reach outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressPolicy {
    /// Everything.
    #[default]
    Open,
    /// Nothing.
    None,
    /// What is listed.
    Allow,
}

/// Somewhere outside that a guest may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The addresses.
    pub network: Cidr,
    /// The port; `None`: all, and protocols without ports as well.
    pub port: Option<u16>,
    /// The port's protocol; `None` where there is no port.
    pub protocol: Option<Protocol>,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network.prefix_len() {
            32 => write!(f, "{}", self.network.address())?,
            _ => write!(f, "{}", self.network)?,
        }
        match (self.port, self.protocol) {
            (Some(port), Some(Protocol::Udp)) => write!(f, ":{port}/udp"),
            (Some(port), _) => write!(f, ":{port}"),
            (None, _) => Ok(()),
        }
    }
}

/// What the guest may reach outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Everything, nothing or what is listed.
    pub policy: EgressPolicy,
    /// The list; empty unless the policy is `allow`.
    pub allow: Vec<Allow>,
}

impl Egress {
    /// Everything.
    pub fn is_open(&self) -> bool {
        self.policy == EgressPolicy::Open
    }
}

impl fmt::Display for Egress {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            EgressPolicy::Open => f.write_str("open"),
            EgressPolicy::None => f.write_str("none"),
            EgressPolicy::Allow => {
                let entries: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
                write!(f, "allow={}", entries.join(","))
            }
        }
    }
}

/// What a person wrote cannot be read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ParsePolicyError {
    /// A published port.
    #[error("{0:?} is not [HOST_IP:]HOST_PORT:GUEST_PORT[/udp], such as 8080:80 or 127.0.0.1:5353:53/udp")]
    Publish(String),
    /// The egress as a whole.
    #[error("{0:?} is not open, none or allow=NETWORK[:PORT[/udp]],…")]
    Egress(String),
    /// One entry of the list.
    #[error(
        "{0:?} is not an IPv4 address or network with an optional port, such as 10.0.0.0/8:443 or 192.0.2.7"
    )]
    Entry(String),
    /// Guests have no IPv6.
    #[error("{0:?} is an IPv6 address, and guests have no IPv6: it is refused altogether")]
    Ipv6(String),
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn split_protocol(text: &str) -> Option<(&str, Protocol)> {
    match text.split_once('/') {
        None => Some((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Some((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Some((rest, Protocol::Udp)),
        Some(_) => None,
    }
}

impl FromStr for Publish {
    type Err = ParsePolicyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('[') {
            return Err(ParsePolicyError::Ipv6(shown(text)));
        }
        let parse = || {
            let (ports, protocol) = split_protocol(text)?;
            let (rest, guest_port) = ports.rsplit_once(':')?;
            let (host_ip, host_port) = match rest.rsplit_once(':') {
                Some((ip, port)) => (Some(ip.parse::<Ipv4Addr>().ok()?), port),
                None => (None, rest),
            };
            let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
            Some(Self { host_ip, host_port: port(host_port)?, guest_port: port(guest_port)?, protocol })
        };
        parse().ok_or_else(|| ParsePolicyError::Publish(shown(text)))
    }
}

impl FromStr for Allow {
    type Err = ParsePolicyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.matches(':').count() > 1 {
            return Err(ParsePolicyError::Ipv6(shown(text)));
        }
        let parse = || {
            let (network, port_text) = match text.split_once(':') {
                Some((network, port)) => (network, Some(port)),
                None => (text, None),
            };
            let network = match network.parse::<Ipv4Addr>() {
                Ok(address) => Cidr::containing(address, 32)?,
                Err(_) => network.parse().ok()?,
            };
            let Some(port_text) = port_text else {
                return Some(Self { network, port: None, protocol: None });
            };
            let (number, protocol) = split_protocol(port_text)?;
            Some(Self { network, port: Some(port(number)?), protocol: Some(protocol) })
        };
        parse().ok_or_else(|| ParsePolicyError::Entry(shown(text)))
    }
}

impl FromStr for Egress {
    type Err = ParsePolicyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let policy = match text {
            "open" => EgressPolicy::Open,
            "none" => EgressPolicy::None,
            _ => {
                let list = text.strip_prefix("allow=").filter(|list| !list.is_empty());
                let list = list.ok_or_else(|| ParsePolicyError::Egress(shown(text)))?;
                let allow: Result<_, _> = list.split(',').map(str::parse).collect();
                return Ok(Self { policy: EgressPolicy::Allow, allow: allow? });
            }
        };
        Ok(Self { policy, allow: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_read_as_they_are_written() {
        for text in ["8080:80", "127.0.0.1:8080:80", "53:53/udp", "192.0.2.1:65535:1/udp"] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), text);
        }
        assert_eq!("0.0.0.0:1:2/tcp".parse::<Publish>().unwrap().to_string(), "1:2");
        for bad in [
            "",
            "80",
            "0:80",
            "80:0",
            "65536:1",
            "+80:80",
            "a:80",
            "1:2:3",
            "1.2.3.4:80",
            "80:80/sctp",
            "80:80/",
            "::1:80:80",
            "[::1]:80:80",
            "80:80 ",
            ":80:80",
        ] {
            assert!(bad.parse::<Publish>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn egress_reads_as_it_is_written() {
        for text in
            ["open", "none", "allow=192.0.2.7", "allow=10.0.0.0/8:443,192.0.2.7,198.51.100.0/24:53/udp"]
        {
            assert_eq!(text.parse::<Egress>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "Open",
            "allow",
            "allow=",
            "allow=,",
            "allow=10.0.0.1/8",
            "allow=10.0.0.0/8:",
            "allow=10.0.0.0/33",
            "allow=1.2.3.4:0",
            "allow=1.2.3.4:99999",
            "allow=example.org",
            "allow=2001:db8::1",
            "allow=1.2.3.4:1/x",
        ] {
            assert!(bad.parse::<Egress>().is_err(), "{bad:?}");
        }
    }
}
