//! What root lets others do with `banger-netd` and `banger-disk dm`: banger-netd.toml(5). Of root itself it says nothing.

use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use crate::types::{Cidr, Size};

/// What the networks of ordinary users are taken from where the file does not say.
const SUBNETS: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(10, 213, 0, 0), 16), (Ipv4Addr::new(172, 29, 0, 0), 16)];

/// What any user but root may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// The users who may; `None`: all whom sudo lets.
    pub uids: Option<Vec<u32>>,
    /// What the subnets of their state directories lie in.
    pub subnets: Vec<Cidr>,
    /// The most state directories with a bridge, per user.
    pub networks: u32,
    /// The most taps, per user.
    pub taps: u32,
    /// The most published ports, per user.
    pub published_ports: u32,
    /// The most connections that the host keeps track of for a VM, root's included, and the most new ones in a second.
    pub connections: ConnectionLimits,
    /// The most device-mapper roots, per user.
    pub dm_snapshots: u32,
    /// The largest device-mapper root.
    pub dm_size: Size,
    /// The most that the device-mapper roots of a user add up to.
    pub dm_total_size: Size,
}

/// How many connections a guest may open: each takes memory of the host's, and a place in a table that all share (nf_conntrack_max).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// At once.
    pub all: u32,
    /// In a second.
    pub new: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { all: 4096, new: 1000 }
    }
}

impl Default for HostPolicy {
    fn default() -> Self {
        let subnets = SUBNETS.iter().filter_map(|(address, len)| Cidr::containing(*address, *len));
        Self {
            uids: None,
            subnets: subnets.collect(),
            networks: 16,
            taps: 64,
            published_ports: 256,
            connections: ConnectionLimits::default(),
            dm_snapshots: 64,
            dm_size: Size::from_bytes(256 << 30),
            dm_total_size: Size::from_bytes(1 << 40),
        }
    }
}

/// What is wrong with the text of the file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HostPolicyError {
    /// It is not TOML.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing.
    #[error("line {line}: there is no key {key:?}; there are {}", .known.join(", "))]
    Key {
        /// Where.
        line: usize,
        /// The key.
        key: String,
        /// All keys that there are.
        known: Vec<&'static str>,
    },
    /// A value that a key cannot have.
    #[error("line {line}: {key} is {found}; {allowed} is allowed")]
    Value {
        /// Where.
        line: usize,
        /// The key.
        key: &'static str,
        /// The value.
        found: String,
        /// What it can be.
        allowed: &'static str,
    },
}

/// Every key of the file.
pub fn keys() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.name).collect()
}

/// A key of the file.
struct Key {
    name: &'static str,
    allowed: &'static str,
    set: fn(&mut HostPolicy, &DeValue<'_>) -> Option<()>,
}

/// How many of a thing a user may have.
const COUNT: RangeInclusive<u32> = 0..=65_536;
const COUNT_ALLOWED: &str = "a whole number from 0 to 65536";

/// How many connections there may be.
const LIMIT: RangeInclusive<u32> = 1..=1_000_000;
const LIMIT_ALLOWED: &str = "a whole number from 1 to 1000000";

const SIZE_ALLOWED: &str = "a size such as \"64G\"";

const KEYS: [Key; 10] = [
    Key {
        name: "uids",
        allowed: "a list of user ids, such as [1000, 1001]",
        set: |policy, value| {
            policy.uids = Some(list(value, |one| number(one).filter(|uid| *uid != u32::MAX))?);
            Some(())
        },
    },
    Key {
        name: "subnets",
        allowed: "a list of one private network or more (RFC 1918), such as [\"10.213.0.0/16\"]",
        set: |policy, value| {
            let subnets: Vec<Cidr> = list(value, |one| one.as_str()?.parse().ok())?;
            let fit = !subnets.is_empty() && subnets.iter().all(Cidr::is_private);
            fit.then(|| policy.subnets = subnets)
        },
    },
    Key {
        name: "networks",
        allowed: COUNT_ALLOWED,
        set: |policy, value| count(value).map(|n| policy.networks = n),
    },
    Key { name: "taps", allowed: COUNT_ALLOWED, set: |policy, value| count(value).map(|n| policy.taps = n) },
    Key {
        name: "published_ports",
        allowed: COUNT_ALLOWED,
        set: |policy, value| count(value).map(|n| policy.published_ports = n),
    },
    Key {
        name: "connections",
        allowed: LIMIT_ALLOWED,
        set: |policy, value| limit(value).map(|n| policy.connections.all = n),
    },
    Key {
        name: "new_connections",
        allowed: LIMIT_ALLOWED,
        set: |policy, value| limit(value).map(|n| policy.connections.new = n),
    },
    Key {
        name: "dm.snapshots",
        allowed: COUNT_ALLOWED,
        set: |policy, value| count(value).map(|n| policy.dm_snapshots = n),
    },
    Key {
        name: "dm.size",
        allowed: SIZE_ALLOWED,
        set: |policy, value| size(value).map(|size| policy.dm_size = size),
    },
    Key {
        name: "dm.total_size",
        allowed: SIZE_ALLOWED,
        set: |policy, value| size(value).map(|size| policy.dm_total_size = size),
    },
];

fn number(value: &DeValue<'_>) -> Option<u32> {
    let integer = value.as_integer().filter(|integer| integer.radix() == 10)?;
    integer.as_str().parse().ok()
}

fn count(value: &DeValue<'_>) -> Option<u32> {
    number(value).filter(|n| COUNT.contains(n))
}

fn limit(value: &DeValue<'_>) -> Option<u32> {
    number(value).filter(|n| LIMIT.contains(n))
}

fn size(value: &DeValue<'_>) -> Option<Size> {
    value.as_str()?.parse().ok()
}

fn list<T>(value: &DeValue<'_>, one: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(|item| one(item.get_ref())).collect()
}

impl HostPolicy {
    /// Reads the text of the file. What it does not name stays as it is without the file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, HostPolicyError> {
        let line = |span: Range<usize>| {
            text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
        };
        let table = DeTable::parse(text).map_err(|error| HostPolicyError::Syntax {
            line: line(error.span().unwrap_or_default()),
            message: error.message().lines().collect::<Vec<_>>().join("; "),
        })?;
        let mut policy = Self::default();
        for (name, value) in table.get_ref() {
            let section = value.get_ref().as_table();
            let entries: Vec<_> = match section {
                Some(section) => section
                    .iter()
                    .map(|(key, value)| (format!("{}.{}", name.get_ref(), key.get_ref()), key, value))
                    .collect(),
                None => vec![(name.get_ref().to_string(), name, value)],
            };
            if section.is_some()
                && !KEYS.iter().any(|key| key.name.starts_with(&format!("{}.", name.get_ref())))
            {
                return Err(unknown(line(name.span()), name.get_ref()));
            }
            for (full, key, value) in entries {
                let known = KEYS.iter().find(|known| known.name == full);
                let known = known.ok_or_else(|| unknown(line(key.span()), &full))?;
                (known.set)(&mut policy, value.get_ref()).ok_or_else(|| HostPolicyError::Value {
                    line: line(value.span()),
                    key: known.name,
                    found: text.get(value.span()).unwrap_or_default().chars().take(60).collect(),
                    allowed: known.allowed,
                })?;
            }
        }
        Ok(policy)
    }

    /// Whether `uid` is one of those who may.
    pub fn admits(&self, uid: u32) -> bool {
        self.uids.as_ref().is_none_or(|uids| uids.contains(&uid))
    }
}

fn unknown(line: usize, key: &str) -> HostPolicyError {
    let key = key.chars().take(60).collect();
    HostPolicyError::Key { line, key, known: keys() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        assert_eq!(HostPolicy::parse("").unwrap(), HostPolicy::default());
        let text = "uids = [1000]\nsubnets = ['192.168.77.0/24']\nnetworks = 1\n[dm]\nsnapshots = 0\nsize = '10G'\ntotal_size = '2T'\n";
        let policy = HostPolicy::parse(text).unwrap();
        assert!(policy.admits(1000) && !policy.admits(0) && !policy.admits(1001));
        assert_eq!(policy.subnets, ["192.168.77.0/24".parse().unwrap()]);
        assert_eq!((policy.networks, policy.taps), (1, HostPolicy::default().taps));
        let dm = (policy.dm_snapshots, policy.dm_size.bytes(), policy.dm_total_size.bytes());
        assert_eq!(dm, (0, 10 << 30, 2 << 40));
        assert!(!HostPolicy::parse("uids = []").unwrap().admits(1000));
        assert!(HostPolicy::default().admits(1000));
    }

    #[test]
    fn whatever_else_it_says_is_refused_with_its_line() {
        let refused = |text: &str| HostPolicy::parse(text).unwrap_err().to_string();
        for text in
            ["uid = [1]", "[dm]\nsizes = '1G'", "[net]\ntaps = 1", "[taps]\nx = 1", "[net]\n", "dm = 1"]
        {
            assert!(refused(text).contains("there is no key"), "{text}: {}", refused(text));
        }
        for text in [
            "uids = 1000",
            "uids = ['alice']",
            "uids = [-1]",
            "uids = [4294967295]",
            "uids = [4294967296]",
            "uids = [0x10]",
            "subnets = []",
            "subnets = '10.0.0.0/8'",
            "subnets = ['10.0.0.1/8']",
            "subnets = ['8.0.0.0/8']",
            "subnets = ['0.0.0.0/0']",
            "subnets = ['10.0.0.0/8', '172.16.0.0/11']",
            "networks = -1",
            "networks = 1.5",
            "networks = true",
            "taps = '1'",
            "published_ports = 65537",
            "connections = 0",
            "new_connections = 1000001",
            "dm.snapshots = []",
            "dm.size = 5",
            "dm.size = '5'",
            "dm.total_size = 1",
        ] {
            assert!(refused(text).contains("is allowed"), "{text}: {}", refused(text));
        }
        assert!(refused("taps = 1\ntaps = 2").starts_with("line 2"), "{}", refused("taps = 1\ntaps = 2"));
        assert!(refused("\n\ntaps = x").starts_with("line 3"));
        assert!(refused("taps = 1\nnetworks = x1").starts_with("line 2"));
    }
}
