//! Which IPv4 addresses are others' already: what the host's routes, addresses, next hops, neighbours and resolvers name. A subnet with any
//! of them in it would take that away from the host.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::dns::resolvers;
use crate::sys::route;
use banger_contract::types::{Cidr, LinkName};
use banger_host::net::link::{self, Link};
use banger_host::net::netlink::Netlink;

/// Where a host writes down whom it asks for names: the C library, systemd-resolved, NetworkManager, resolvconf with dnsmasq.
const RESOLVERS: [&str; 5] = [
    resolvers::RESOLV_CONF,
    resolvers::RESOLVED_UPSTREAM,
    "/run/NetworkManager/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/dnsmasq/resolv.conf",
];

/// Whose an address or network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A link of that name, by its address or a route; `*` for routes that lead nowhere.
    Link(String),
    /// A next hop of a route by that link.
    NextHop(String),
    /// A neighbour on that link.
    Neighbour(String),
    /// A resolver of that file's.
    Resolver(&'static str),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => f.write_str(link),
            Self::NextHop(link) => write!(f, "a router on {link}"),
            Self::Neighbour(link) => write!(f, "a neighbour on {link}"),
            Self::Resolver(file) => write!(f, "a resolver in {file}"),
        }
    }
}

/// A network that is somebody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The network; of length 32: one address.
    pub network: Cidr,
    /// Whose it is.
    pub holder: Holder,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Link(link) => write!(f, "{} of the link {link:?}", self.network),
            holder => write!(f, "{}, {holder}", self.network.address()),
        }
    }
}

/// All that is claimed by others than one bridge of ours.
#[derive(Debug)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Reads them as any user may.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn of_host(bridge: &LinkName) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let links = link::list(&mut netlink)?;
        let addresses = link::ipv4_addresses(&mut netlink)?;
        Self::read(&mut netlink, &links, &addresses, bridge)
    }

    /// The same where links and their addresses have been read.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn read(
        netlink: &mut Netlink,
        links: &[Link],
        addresses: &[(u32, Ipv4Addr, u8)],
        bridge: &LinkName,
    ) -> io::Result<Self> {
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let name_or_none = |index: Option<u32>| index.and_then(name).unwrap_or_else(|| "*".to_owned());
        let mut claims = Vec::new();
        let mut claim = |network: Option<Cidr>, link: String, holder: fn(String) -> Holder| {
            let network = network.filter(|_| link != bridge.as_str());
            claims.extend(network.map(|network| Claim { network, holder: holder(link) }));
        };
        let mut next_hops = route::ipv4_next_hops(netlink)?;
        for route in route::ipv4_routes(netlink)? {
            // Everything, or half of it, is where packets go that belong to nobody here.
            let particular = Some(route.destination).filter(|network| network.prefix_len() > 1);
            claim(particular, name_or_none(route.link), Holder::Link);
            next_hops.extend(route.next_hops);
        }
        // A link that is down has addresses and no routes.
        for (index, address, prefix_len) in addresses {
            claim(Cidr::containing(*address, *prefix_len), name_or_none(Some(*index)), Holder::Link);
        }
        for (link, hop) in next_hops {
            claim(single(hop), name_or_none(link), Holder::NextHop);
        }
        for (link, neighbour) in route::ipv4_neighbours(netlink)? {
            claim(single(neighbour), name_or_none(Some(link)), Holder::Neighbour);
        }
        claims.extend(resolvers_of_host());
        Ok(Self(claims))
    }

    /// The largest that lies in `subnet`, or holds it. A resolver at `gateway` may be banger's own, which the host asks for VMs' names:
    /// [`resolver_at`] tells.
    pub fn overlap(&self, subnet: &Cidr, gateway: Option<Ipv4Addr>) -> Option<&Claim> {
        let own = |claim: &Claim| {
            matches!(claim.holder, Holder::Resolver(_)) && Some(claim.network.address()) == gateway
        };
        let all = self.0.iter().filter(|claim| claim.network.overlaps(subnet) && !own(claim));
        all.min_by_key(|claim| claim.network.prefix_len())
    }
}

/// The claim of a resolver of the host's to `address`, as things are at this moment.
pub fn resolver_at(address: Ipv4Addr) -> Option<Claim> {
    resolvers_of_host().into_iter().find(|claim| claim.network.address() == address)
}

fn single(address: Ipv4Addr) -> Option<Cidr> {
    Cidr::containing(address, 32)
}

fn resolvers_of_host() -> Vec<Claim> {
    let of_file = |file: &'static str| {
        let found = resolvers::ipv4_in(Path::new(file)).into_iter();
        found.filter_map(move |address| {
            Some(Claim { network: single(address)?, holder: Holder::Resolver(file) })
        })
    };
    RESOLVERS.into_iter().flat_map(of_file).collect()
}
