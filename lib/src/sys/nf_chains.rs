//! The chains of nf_tables, asked of the kernel itself: a fraction of what starting `nft` costs, and all that is needed to tell whether
//! other firewalls are there (linux/netfilter/nf_tables.h). What is in a chain is [`super::nft`]'s.

use std::io;

use super::netlink::{Body, Netlink, attributes, text_of};

// linux/netfilter/nfnetlink.h and nf_tables.h.
const GET_CHAIN: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | 4;
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
pub fn list() -> io::Result<Vec<Chain>> {
    let mut netlink = Netlink::open_netfilter()?;
    // struct nfgenmsg: family (0: all), version, resource.
    match netlink.dump(GET_CHAIN, &Body::new(&[0, 0, 0, 0])) {
        Ok(payloads) => Ok(payloads.iter().filter_map(|payload| parse(payload)).collect()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(payload: &[u8]) -> Option<Chain> {
    let family = i32::from(*payload.first()?);
    let find = |wanted: u16| attributes(payload.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
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
