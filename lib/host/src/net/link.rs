//! Network links and their addresses: what `ip link` and `ip address` do, over [`super::netlink`].

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use rustix::net::netdevice;
use thiserror::Error;

use super::netlink::{Body, Netlink, attributes, text_of, u32_of};
use crate::net::linger;
use crate::random;
use banger_contract::types::{LinkName, MacAddr};
use banger_contract::{Coded, ErrorCode};

// linux/if_link.h and linux/if_tun.h; libc has only some of them.
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
/// All reserved groups of IEEE 802.1D, 01:80:c2:00:00:00 to 0f, a bit each, but that of PAUSE (01), which a bridge drops in any case.
const GROUPS: u16 = 0xfffd;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_GROUP: u16 = 27;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

/// A change to a link that the kernel refused.
#[derive(Debug, Error)]
#[error("cannot {action} the link {link}")]
pub struct LinkError {
    /// What was tried: a verb.
    pub action: &'static str,
    /// The link.
    pub link: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl LinkError {
    /// Whether the link is not there.
    pub fn is_absent(&self) -> bool {
        self.source.raw_os_error() == Some(libc::ENODEV)
    }

    /// Whether this kernel has no links of that kind.
    pub fn is_unknown_kind(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EOPNOTSUPP)
    }
}

impl Coded for LinkError {
    fn code(&self) -> ErrorCode {
        match self.source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ErrorCode::Denied,
            Some(libc::EOPNOTSUPP) => ErrorCode::Unsupported,
            Some(libc::EEXIST | libc::EBUSY) => ErrorCode::Conflict,
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        (self.code() == ErrorCode::Unsupported).then(|| "banger doctor says what the host lacks".into())
    }
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in this network namespace.
    pub index: u32,
    /// Its name. Any bytes but `/` and white space are possible in names that others gave.
    pub name: String,
    /// Names by which it is found as well (`ip link property add`).
    pub alternative_names: Vec<String>,
    /// The free text that its maker gave it.
    pub alias: Option<String>,
    /// The kind, such as `bridge` or `tun`; `None` for hardware.
    pub kind: Option<String>,
    /// The bridge that it is a port of, by number.
    pub master: Option<u32>,
    /// The number of the group in which it can be changed along with others; 0 for most.
    pub group: u32,
    /// The largest packet that is sent on it, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the host asks for neighbours on it and answers those that ask (ARP).
    pub arp: bool,
    /// Whether it is a bridge's port that reaches no other isolated port.
    pub isolated: bool,
    /// Whether it is a bridge's port whose every frame is the bridge's to judge: see [`set_isolated_port`].
    pub all_bridged: bool,
    /// The user who may open it; taps only.
    pub tun_owner: Option<u32>,
}

fn ifinfo(index: u32, flags: i32, change: i32) -> Body {
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    Body::new(&header)
}

fn parse(payload: &[u8]) -> Option<Link> {
    let index = u32_of(payload.get(4..8)?)?;
    let flags = u32_of(payload.get(8..12)?)?;
    let has = |flag: i32| flags & flag as u32 != 0;
    let mut link = Link {
        index,
        name: String::new(),
        alternative_names: Vec::new(),
        alias: None,
        kind: None,
        master: None,
        group: 0,
        mtu: 0,
        up: has(libc::IFF_UP),
        arp: !has(libc::IFF_NOARP),
        isolated: false,
        all_bridged: false,
        tun_owner: None,
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text_of(value),
            libc::IFLA_IFALIAS => link.alias = Some(text_of(value)),
            libc::IFLA_MASTER => link.master = u32_of(value),
            libc::IFLA_MTU => link.mtu = u32_of(value).unwrap_or_default(),
            IFLA_GROUP => link.group = u32_of(value).unwrap_or_default(),
            libc::IFLA_LINKINFO => parse_info(&mut link, value),
            IFLA_PROP_LIST => {
                let names = attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                link.alternative_names = names.map(|(_, name)| text_of(name)).collect();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(link: &mut Link, info: &[u8]) {
    let find = |wanted: u16| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    link.kind = find(libc::IFLA_INFO_KIND).map(text_of);
    if link.kind.as_deref() == Some("tun") {
        let mut data = attributes(find(libc::IFLA_INFO_DATA).unwrap_or_default());
        link.tun_owner = data.find(|(kind, _)| *kind == IFLA_TUN_OWNER).and_then(|(_, v)| u32_of(v));
    }
    if find(IFLA_INFO_SLAVE_KIND).map(text_of).as_deref() == Some("bridge") {
        let data = find(IFLA_INFO_SLAVE_DATA).unwrap_or_default();
        let is =
            |wanted: u16, value: &[u8]| attributes(data).any(|(kind, held)| kind == wanted && held == value);
        link.isolated = is(IFLA_BRPORT_ISOLATED, &[1]);
        link.all_bridged = is(IFLA_BRPORT_GROUP_FWD_MASK, &GROUPS.to_ne_bytes());
    }
}

/// All links of the network namespace.
///
/// # Errors
/// As [`Netlink::dump`].
pub fn list(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let payloads = netlink.dump(libc::RTM_GETLINK, &ifinfo(0, 0, 0))?;
    Ok(payloads.iter().filter_map(|p| parse(p)).collect())
}

/// All IPv4 addresses of the network namespace: the link's number, the address, the length of its prefix.
///
/// # Errors
/// As [`Netlink::dump`].
pub fn ipv4_addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, Ipv4Addr, u8)>> {
    let payloads = netlink.dump(libc::RTM_GETADDR, &ifaddr(0, 0))?;
    Ok(payloads.iter().filter_map(|p| parse_address(p)).collect())
}

fn ifaddr(index: u32, prefix_len: u8) -> Body {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let [a, b, c, d] = index.to_ne_bytes();
    Body::new(&[libc::AF_INET as u8, prefix_len, 0, 0, a, b, c, d])
}

fn parse_address(payload: &[u8]) -> Option<(u32, Ipv4Addr, u8)> {
    let prefix_len = *payload.get(1)?;
    let index = u32_of(payload.get(4..8)?)?;
    let (_, value) = attributes(payload.get(8..)?).find(|(kind, _)| *kind == libc::IFA_LOCAL)?;
    let octets: [u8; 4] = value.try_into().ok()?;
    Some((index, octets.into(), prefix_len))
}

fn change(
    netlink: &mut Netlink,
    action: &'static str,
    link: &str,
    kind: u16,
    flags: i32,
    body: &Body,
) -> Result<(), LinkError> {
    let error = |source| LinkError { action, link: link.to_owned(), source };
    netlink.request(kind, flags, body).map_err(error)
}

/// Makes a link of a kind that needs no more than its name. `mac` keeps a bridge's address from following its ports'.
///
/// # Errors
/// The kernel refuses; [`LinkError::is_unknown_kind`] where it has no such kind.
pub fn create(
    netlink: &mut Netlink,
    name: &LinkName,
    kind: &str,
    mac: Option<MacAddr>,
) -> Result<(), LinkError> {
    let mut body = ifinfo(0, 0, 0).text(libc::IFLA_IFNAME, name.as_str());
    if let Some(mac) = mac {
        body = body.attr(libc::IFLA_ADDRESS, &mac.octets());
    }
    let body = body.nested(libc::IFLA_LINKINFO, |b| b.text(libc::IFLA_INFO_KIND, kind));
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    change(netlink, "create", name.as_str(), libc::RTM_NEWLINK, flags, &body)
}

/// Removes a link; one that is gone already is no error.
///
/// # Errors
/// The kernel refuses.
pub fn delete(netlink: &mut Netlink, link: &Link) -> Result<(), LinkError> {
    match change(netlink, "delete", &link.name, libc::RTM_DELLINK, 0, &ifinfo(link.index, 0, 0)) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// Removes several links at once; those that are gone already are no error. `all` is what [`list`] gave.
///
/// The kernel waits some 20 ms for all processors each time that it has removed links, and twice as long for a bridge. A group
/// is removed with one such wait, and that is left to a process that stays behind: here it is enough that nobody finds the links any
/// more. `held` is closed when that process ends, too.
///
/// # Errors
/// The kernel refuses. Then all that were there still are.
pub fn delete_together(
    netlink: &mut Netlink,
    links: &[Link],
    all: &[Link],
    held: &[BorrowedFd<'_>],
) -> Result<(), LinkError> {
    let Some(first) = links.first() else {
        // Should there be no such process, then whoever closes them waits.
        drop(linger::stay_behind(held, None));
        return Ok(());
    };
    let body = if links.len() == 1 { ifinfo(first.index, 0, 0) } else { grouped(netlink, links, all)? };
    let gone = |netlink: &Netlink| {
        let name = |link: &Link| netdevice::index_to_name(netlink, link.index);
        links.iter().all(|link| matches!(name(link), Err(rustix::io::Errno::NODEV)))
    };
    match Netlink::request_until((libc::RTM_DELLINK, 0, &body), held, gone) {
        Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other.map_err(|source| LinkError { action: "delete", link: first.name.clone(), source }),
    }
}

/// Puts links into a group of their own, and gives the body that names it.
fn grouped(netlink: &mut Netlink, links: &[Link], all: &[Link]) -> Result<Body, LinkError> {
    // Nobody else's links are in a group that was made up this moment.
    let group = std::iter::repeat_with(|| u32::from_ne_bytes(random::bytes()))
        .find(|group| *group != 0 && all.iter().all(|link| link.group != *group))
        .expect("there are fewer links than numbers");
    for link in links {
        let body = ifinfo(link.index, 0, 0).attr(IFLA_GROUP, &group.to_ne_bytes());
        match change(netlink, "delete", &link.name, libc::RTM_SETLINK, 0, &body) {
            Err(error) if error.is_absent() => {}
            other => other?,
        }
    }
    Ok(ifinfo(0, 0, 0).attr(IFLA_GROUP, &group.to_ne_bytes()))
}

/// Names a link by its name in a request.
fn named(name: &LinkName, flags: i32, change: i32) -> Body {
    ifinfo(0, flags, change).text(libc::IFLA_IFNAME, name.as_str())
}

/// Gives a link its alias, at most 255 bytes.
///
/// # Errors
/// The kernel refuses.
pub fn set_alias(netlink: &mut Netlink, name: &LinkName, alias: &str) -> Result<(), LinkError> {
    let body = named(name, 0, 0).attr(libc::IFLA_IFALIAS, alias.as_bytes());
    change(netlink, "tag", name.as_str(), libc::RTM_SETLINK, 0, &body)
}

/// Puts a link into the group with the number `group`.
///
/// # Errors
/// The kernel refuses.
pub fn set_group(netlink: &mut Netlink, name: &LinkName, group: u32) -> Result<(), LinkError> {
    let body = named(name, 0, 0).attr(IFLA_GROUP, &group.to_ne_bytes());
    change(netlink, "group", name.as_str(), libc::RTM_SETLINK, 0, &body)
}

/// Sets the largest packet that is sent on a link. A bridge of which nobody set it has the smallest of its ports'.
///
/// # Errors
/// The kernel refuses.
pub fn set_mtu(netlink: &mut Netlink, name: &LinkName, mtu: u32) -> Result<(), LinkError> {
    let body = named(name, 0, 0).attr(libc::IFLA_MTU, &mtu.to_ne_bytes());
    change(netlink, "set the MTU of", name.as_str(), libc::RTM_SETLINK, 0, &body)
}

/// Gives a link that is down another name.
///
/// # Errors
/// The kernel refuses.
pub fn rename(netlink: &mut Netlink, link: &Link, name: &LinkName) -> Result<(), LinkError> {
    let body = ifinfo(link.index, 0, 0).text(libc::IFLA_IFNAME, name.as_str());
    change(netlink, "rename", &link.name, libc::RTM_SETLINK, 0, &body)
}

/// Makes a link a port of the bridge with the number `bridge`, isolated: it reaches the bridge's own address and no
/// other isolated port.
///
/// Frames to the groups that bridges keep to themselves (IEEE 802.1D) are bridged like all others. Otherwise the kernel gives them to the
/// host as if the port were no bridge's, of whatever protocol and past the bridge's rules, and learns their source address
/// (br_handle_frame() in net/bridge/br_input.c).
///
/// # Errors
/// The kernel refuses.
pub fn set_isolated_port(netlink: &mut Netlink, name: &LinkName, bridge: u32) -> Result<(), LinkError> {
    let body = named(name, 0, 0).attr(libc::IFLA_MASTER, &bridge.to_ne_bytes());
    change(netlink, "add to its bridge", name.as_str(), libc::RTM_SETLINK, 0, &body)?;
    let body = named(name, 0, 0).nested(libc::IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge").nested(IFLA_INFO_SLAVE_DATA, |data| {
            data.attr(IFLA_BRPORT_ISOLATED, &[1]).attr(IFLA_BRPORT_GROUP_FWD_MASK, &GROUPS.to_ne_bytes())
        })
    });
    // RTM_NEWLINK, as iproute2 does for slave data: RTM_SETLINK ignores it.
    change(netlink, "isolate", name.as_str(), libc::RTM_NEWLINK, 0, &body)
}

/// Sets a link up.
///
/// # Errors
/// The kernel refuses.
pub fn set_up(netlink: &mut Netlink, name: &LinkName) -> Result<(), LinkError> {
    let body = named(name, libc::IFF_UP, libc::IFF_UP);
    change(netlink, "set up", name.as_str(), libc::RTM_SETLINK, 0, &body)
}

/// Sets a link up on which the host itself has no neighbours: it neither asks for them nor answers (ARP).
///
/// # Errors
/// The kernel refuses.
pub fn set_up_without_arp(netlink: &mut Netlink, name: &LinkName) -> Result<(), LinkError> {
    let flags = libc::IFF_UP | libc::IFF_NOARP;
    change(netlink, "set up", name.as_str(), libc::RTM_SETLINK, 0, &named(name, flags, flags))
}

/// Sets a link down: no frame passes it any more. One that is gone is no error.
///
/// # Errors
/// The kernel refuses.
pub fn set_down(netlink: &mut Netlink, link: &Link) -> Result<(), LinkError> {
    let body = ifinfo(link.index, 0, libc::IFF_UP);
    match change(netlink, "set down", &link.name, libc::RTM_SETLINK, 0, &body) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// Gives the link `name` with the number `index` an address, and with it the route to its network.
///
/// # Errors
/// The kernel refuses.
pub fn add_address(
    netlink: &mut Netlink,
    name: &LinkName,
    index: u32,
    address: Ipv4Addr,
    prefix_len: u8,
) -> Result<(), LinkError> {
    let body = ifaddr(index, prefix_len)
        .attr(libc::IFA_LOCAL, &address.octets())
        .attr(libc::IFA_ADDRESS, &address.octets());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    change(netlink, "give an address to", name.as_str(), libc::RTM_NEWADDR, flags, &body)
}
