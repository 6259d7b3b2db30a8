//! What is there now: links, their addresses, and whose they are.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::NetError;
use super::claims::{self, Claim, Claims};
use super::request::{Names, TapRequest};
use super::tag::Tag;
use banger_contract::types::LinkName;
use banger_host::net::link::{self, Link};
use banger_host::net::netlink::Netlink;

/// How long the host's resolver may take to forget a bridge that is gone.
const FORGETTING: Duration = Duration::from_secs(2);

/// Links and addresses at one moment, and the socket to change them.
#[derive(Debug)]
pub struct Host {
    pub netlink: Netlink,
    pub links: Vec<Link>,
    pub addresses: Vec<(u32, Ipv4Addr, u8)>,
}

/// A resolver of the host's at an address of which there is no link. systemd-resolved forgets the last bridge's own a moment after it is
/// gone.
fn foreign_resolver(address: Ipv4Addr) -> Option<Claim> {
    let until = Instant::now() + FORGETTING;
    loop {
        let claim = claims::resolver_at(address)?;
        if Instant::now() >= until {
            return Some(claim);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Host {
    pub fn read() -> Result<Self, NetError> {
        let mut netlink = Netlink::open().map_err(NetError::io("open a netlink socket"))?;
        let links = link::list(&mut netlink).map_err(NetError::io("list the links"))?;
        let addresses =
            link::ipv4_addresses(&mut netlink).map_err(NetError::io("list the links' addresses"))?;
        Ok(Self { netlink, links, addresses })
    }

    pub fn link(&self, name: &LinkName) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name.as_str())
    }

    /// Reads the links anew and gives one that was just made.
    pub fn refreshed(&mut self, name: &LinkName) -> Result<Link, NetError> {
        self.links = link::list(&mut self.netlink).map_err(NetError::io("list the links"))?;
        let gone = || std::io::Error::from_raw_os_error(libc::ENODEV);
        self.link(name).cloned().ok_or_else(|| NetError::io("find the link that was just made")(gone()))
    }

    /// The bridge, if it is there. One that a crash left without its tag is ours by its name, which has the state id.
    pub fn bridge(&self, names: &Names) -> Result<Option<&Link>, NetError> {
        self.owned(&names.bridge, "bridge", |link| names.own(link))
    }

    /// The tap, if it is there. It never outlives a program that did not come as far as tagging it.
    pub fn tap(&self, names: &Names) -> Result<Option<&Link>, NetError> {
        self.owned(&names.tap, "tun", |link| Tag::of(link).as_ref() == Some(&names.tag))
    }

    fn owned(
        &self,
        name: &LinkName,
        kind: &str,
        ours: impl Fn(&Link) -> bool,
    ) -> Result<Option<&Link>, NetError> {
        // An alternative name is taken, too: the kernel looks links up by either, and would let us change another's.
        let answers = |link: &&Link| {
            link.name == name.as_str() || link.alternative_names.iter().any(|n| n == name.as_str())
        };
        let Some(link) = self.links.iter().find(answers) else { return Ok(None) };
        if link.name == name.as_str() && ours(link) && link.kind.as_deref() == Some(kind) {
            return Ok(Some(link));
        }
        let tag = link.alias.clone().unwrap_or_else(|| "(none)".into());
        Err(NetError::Foreign { link: name.to_string(), tag: tag.chars().take(80).collect() })
    }

    /// The ports of a bridge but the one that only gives it carrier.
    pub fn ports<'a>(&'a self, bridge: &'a Link, dummy: &'a LinkName) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(|l| l.master == Some(bridge.index) && l.name != dummy.as_str())
    }

    /// The addresses of a link with their prefix lengths.
    pub fn addresses_of(&self, link: &Link) -> Vec<(Ipv4Addr, u8)> {
        let of_link = self.addresses.iter().filter(|(index, ..)| *index == link.index);
        of_link.map(|(_, address, prefix_len)| (*address, *prefix_len)).collect()
    }

    /// # Errors
    /// A route, an address, a next hop, a neighbour or a resolver of the host's lies in the subnet, or holds it.
    pub fn require_free_subnet(&mut self, request: &TapRequest) -> Result<(), NetError> {
        let bridge = &request.names.bridge;
        let claims = Claims::read(&mut self.netlink, &self.links, &self.addresses, bridge);
        let claims = claims.map_err(NetError::io("read routes and neighbours"))?;
        let mut taken = claims.overlap(&request.subnet, Some(request.gateway)).cloned();
        if taken.is_none() && self.link(bridge).is_none() {
            taken = foreign_resolver(request.gateway);
        }
        match taken {
            Some(claim) => Err(NetError::Overlap { subnet: request.subnet, claim }),
            None => Ok(()),
        }
    }

    /// How many links of the kind `kind` the user has whose tag says so.
    pub fn count_of(&self, uid: u32, kind: &str) -> usize {
        let theirs = |link: &&Link| Tag::of(link).is_some_and(|tag| tag.uid == uid);
        self.links.iter().filter(|link| link.kind.as_deref() == Some(kind)).filter(theirs).count()
    }
}
