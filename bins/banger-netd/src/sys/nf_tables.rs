//! What of nf_tables needs no `nft`, whose start alone costs several times as much: the list of chains, which tells whether other
//! firewalls are there, the comments of a table's rules, and all that is only removed (linux/netfilter/nf_tables.h). What rules say is
//! [`super::nft`]'s.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use banger_host::net::netlink::{Body, Netlink, attributes, text_of};

// linux/netfilter/nfnetlink.h and nf_tables.h.
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const TABLE_NAME: u16 = 1;
const DEL_CHAIN: u16 = SUBSYSTEM | 5;
const DEL_RULE: u16 = SUBSYSTEM | 8;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;
const GET_RULE: u16 = SUBSYSTEM | 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_USERDATA: u16 = 7;
/// What `nft` keeps there (libnftnl/udata.h): a kind, a length, a value.
const USERDATA_COMMENT: u8 = 0;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `inet`, `ip`, `bridge`…; others are the family's number.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether forwarded packets begin in it.
    pub forward: bool,
    /// Whether what no rule decides on is dropped.
    pub drops: bool,
}

/// Every chain of this network namespace; none where the kernel has no nf_tables.
///
/// # Errors
/// CAP_NET_ADMIN is lacking, or the kernel cannot be asked.
pub fn chains() -> io::Result<Vec<Chain>> {
    let mut netlink = Netlink::open_netfilter()?;
    // struct nfgenmsg: family (0: all), version, resource.
    match netlink.dump(GET_CHAIN, &Body::new(&[0, 0, 0, 0])) {
        Ok(payloads) => Ok(payloads.iter().filter_map(|payload| parse(payload)).collect()),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether the kernel has no nf_tables.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Rules that are removed. The kernel goes on letting go of them, and whoever drops this waits until it has (nft_rcv_nl_event() in
/// net/netfilter/nf_tables_api.c), as does whoever else closes a socket to netfilter.
#[derive(Debug)]
pub struct Removed(Netlink);

impl AsFd for Removed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Removes the tables of these names and the families `inet` and `bridge`, each with all that is in it, in one transaction; those that are
/// not there are no error.
///
/// # Errors
/// The kernel refuses.
pub fn remove_tables(names: &[&str]) -> io::Result<Removed> {
    let mut netlink = Netlink::open_netfilter()?;
    // Adding a table that exists is no error and deleting one that does not is, so: both.
    let families = [libc::NFPROTO_INET, libc::NFPROTO_BRIDGE];
    let requests: Vec<_> = names
        .iter()
        .flat_map(|name| families.map(|family| (name, family)))
        .flat_map(|(name, family)| {
            let body = Body::new(&[family as u8, 0, 0, 0]).text(TABLE_NAME, name);
            [(NEW_TABLE, libc::NLM_F_CREATE, body.clone()), (DEL_TABLE, 0, body)]
        })
        .collect();
    match netlink.transact(&requests) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(Removed(netlink)),
    }
}

fn number_of(family: &str) -> u8 {
    (if family == "inet" { libc::NFPROTO_INET } else { libc::NFPROTO_BRIDGE }) as u8
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key as the kernel holds it: in network order, each part padded to four bytes.
    pub key: Vec<u8>,
    /// The chain that is jumped to; maps of verdicts only.
    pub target: Option<String>,
}

/// The elements of a set or map of the table `table` of `family` (`inet` or `bridge`); none where it is not there.
///
/// # Errors
/// As [`chains`].
pub fn elements(family: &str, table: &str, set: &str) -> io::Result<Vec<Element>> {
    let mut netlink = Netlink::open_netfilter()?;
    let body = Body::new(&[number_of(family), 0, 0, 0]).text(ELEMENTS_TABLE, table).text(ELEMENTS_SET, set);
    let payloads = match netlink.dump(GET_ELEMENT, &body) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let lists = payloads.iter().filter_map(|payload| find(payload, ELEMENTS));
    Ok(lists.flat_map(attributes).filter_map(|(_, item)| element(item)).collect())
}

fn element(item: &[u8]) -> Option<Element> {
    let part = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let chain = part(item, ELEMENT_DATA)
        .and_then(|data| part(data, DATA_VERDICT))
        .and_then(|verdict| part(verdict, VERDICT_CHAIN));
    Some(Element { key: part(part(item, ELEMENT_KEY)?, DATA_VALUE)?.to_vec(), target: chain.map(text_of) })
}

/// Something of a table's that goes.
#[derive(Debug, Clone)]
pub enum Removal {
    /// An element: the family, the set, the key.
    Element(&'static str, &'static str, Vec<u8>),
    /// A chain with its rules: the family and its name.
    Chain(&'static str, String),
}

/// Removes parts of the tables named `table`, in this order, in one transaction; `None` where `removals` has none.
///
/// # Errors
/// The kernel refuses.
pub fn remove(table: &str, removals: &[Removal]) -> io::Result<Option<Removed>> {
    let body = |family: &str| Body::new(&[number_of(family), 0, 0, 0]);
    let requests: Vec<_> = removals
        .iter()
        .flat_map(|removal| match removal {
            Removal::Element(family, set, key) => {
                let list = |list: Body| {
                    list.nested(LIST_ITEM, |item| item.nested(ELEMENT_KEY, |data| data.attr(DATA_VALUE, key)))
                };
                let body = body(family).text(ELEMENTS_TABLE, table).text(ELEMENTS_SET, set);
                vec![(DEL_ELEMENT, 0, body.nested(ELEMENTS, list))]
            }
            Removal::Chain(family, chain) => vec![
                (DEL_RULE, 0, body(family).text(RULE_TABLE, table).text(RULE_CHAIN, chain)),
                (DEL_CHAIN, 0, body(family).text(CHAIN_TABLE, table).text(CHAIN_NAME, chain)),
            ],
        })
        .collect();
    if requests.is_empty() {
        return Ok(None);
    }
    let mut netlink = Netlink::open_netfilter()?;
    netlink.transact(&requests)?;
    Ok(Some(Removed(netlink)))
}

/// The rules of the table `table` of `family` (`inet` or `bridge`) in order: the chain, and the comment. None where there is no such
/// table.
///
/// # Errors
/// As [`chains`].
pub fn rules(family: &str, table: &str) -> io::Result<Vec<(String, Option<String>)>> {
    let family = number_of(family);
    let mut netlink = Netlink::open_netfilter()?;
    let body = Body::new(&[family, 0, 0, 0]).text(RULE_TABLE, table);
    let payloads = netlink.dump(GET_RULE, &body)?;
    // Older kernels pay no heed to the table.
    let of_table = |payload: &&Vec<u8>| {
        find(payload, RULE_TABLE).is_some_and(|name| text_of(name) == table)
            && payload.first() == Some(&family)
    };
    let named = |payload: &Vec<u8>| {
        let comment = find(payload, RULE_USERDATA).and_then(comment_of);
        Some((text_of(find(payload, RULE_CHAIN)?), comment))
    };
    Ok(payloads.iter().filter(of_table).filter_map(named).collect())
}

fn comment_of(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(text_of(value));
        }
        userdata = &rest[value.len()..];
    }
    None
}

/// An attribute of an object: what follows struct nfgenmsg.
fn find(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(payload.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn parse(payload: &[u8]) -> Option<Chain> {
    let family = i32::from(*payload.first()?);
    let find = |wanted: u16| find(payload, wanted);
    let number = |value: &[u8]| Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?));
    let hook = find(CHAIN_HOOK)
        .and_then(|hook| attributes(hook).find(|(kind, _)| *kind == HOOK_NUMBER))
        .and_then(|(_, value)| number(value));
    Some(Chain {
        family: match family {
            libc::NFPROTO_INET => "inet".to_owned(),
            libc::NFPROTO_IPV4 => "ip".to_owned(),
            libc::NFPROTO_IPV6 => "ip6".to_owned(),
            libc::NFPROTO_BRIDGE => "bridge".to_owned(),
            other => other.to_string(),
        },
        table: text_of(find(CHAIN_TABLE)?),
        name: text_of(find(CHAIN_NAME)?),
        forward: hook == Some(HOOK_FORWARD),
        drops: find(CHAIN_POLICY).and_then(number) == Some(POLICY_DROP),
    })
}
