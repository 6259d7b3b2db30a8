//! The state directory's subnet, from which VMs with a tap get their addresses.

use std::io;
use std::net::Ipv4Addr;

use banger_lib::contract::record::NetMode;
use banger_lib::contract::reply::{Check, CheckState};
use banger_lib::contract::{Coded, ErrorCode};
use banger_lib::net::request::require_subnet;
use banger_lib::state::db::Store;
use banger_lib::sys::netlink::Netlink;
use banger_lib::sys::{link, route};
use banger_lib::types::Cidr;
use thiserror::Error;

use crate::context::{Context, Result};

/// The key under which the subnet is remembered.
const KEY: &str = "subnet";

/// Why there is no subnet to take addresses from.
#[derive(Debug, Error)]
pub enum SubnetError {
    #[error("every /24 of 10.213.0.0/16, 172.29.0.0/16 and 192.168.0.0/16 overlaps a network of this host")]
    None,
    #[error("the subnet {subnet} overlaps {route} of the link {link:?}")]
    Overlap { subnet: Cidr, route: Cidr, link: String },
    #[error("the subnet {wanted} is wanted, and VMs of this state directory have addresses of {held}")]
    InUse { wanted: Cidr, held: Cidr },
    #[error("cannot read this host's routes and addresses")]
    Networks(#[source] io::Error),
}

impl Coded for SubnetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None | Self::Overlap { .. } | Self::InUse { .. } => ErrorCode::Conflict,
            Self::Networks(_) => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::None => "name another with --subnet, or use --net user",
            Self::Overlap { .. } => "name another subnet, or none: one that is free is found",
            Self::InUse { .. } => {
                "leave --subnet, BANGER_SUBNET and the configuration's net.subnet out, or delete the VMs that have taps"
            }
            Self::Networks(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// A subnet as a person asks for it.
pub fn parse(text: &str) -> std::result::Result<Cidr, String> {
    let subnet: Cidr = text.parse().map_err(|e: banger_lib::types::ParseCidrError| e.to_string())?;
    require_subnet(subnet).map_err(|e| e.to_string()).map(|()| subnet)
}

/// The subnet for a new VM. It is chosen once, so that addresses stay; while no VM has one of its addresses it gives way
/// to a network of the host's that came later, or to the one that is `wanted`.
pub fn choose(store: &mut Store, wanted: Option<Cidr>) -> Result<Cidr> {
    let networks = Networks::read(store).map_err(SubnetError::Networks)?;
    let remembered = remembered(store)?;
    let in_use = in_use(store)?;
    let subnet = match (wanted, remembered) {
        (Some(wanted), Some(held)) if in_use && wanted != held => {
            return Err(SubnetError::InUse { wanted, held }.into());
        }
        (_, Some(held)) if in_use => return Ok(held),
        (Some(wanted), _) => match networks.overlap(&wanted) {
            Some((link, route)) => {
                return Err(SubnetError::Overlap { subnet: wanted, route: *route, link: link.clone() }.into());
            }
            None => wanted,
        },
        (None, Some(held)) if networks.overlap(&held).is_none() => return Ok(held),
        (None, _) => networks.first_free(store.state_id().as_str()).ok_or(SubnetError::None)?,
    };
    store.set_meta(KEY, &subnet.to_string())?;
    Ok(subnet)
}

fn remembered(store: &Store) -> Result<Option<Cidr>> {
    Ok(store.meta(KEY)?.and_then(|text| text.parse().ok()))
}

fn in_use(store: &Store) -> Result<bool> {
    Ok(store.vms()?.iter().any(|row| row.vm.net_mode == NetMode::Tap))
}

/// The networks of the host but those of our own bridge: the name of the link and the network.
struct Networks(Vec<(String, Cidr)>);

impl Networks {
    /// Routes, and addresses too: a link that is down has no routes.
    fn read(store: &Store) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let links = link::list(&mut netlink)?;
        let addresses = link::ipv4_addresses(&mut netlink)?;
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let addressed = addresses
            .into_iter()
            .filter_map(|(index, address, len)| Some((name(index)?, Cidr::containing(address, len)?)));
        let bridge = store.state_id().bridge();
        let all = route::ipv4_routes()?.into_iter().chain(addressed);
        Ok(Self(all.filter(|(link, _)| link != bridge.as_str()).collect()))
    }

    fn overlap(&self, subnet: &Cidr) -> Option<&(String, Cidr)> {
        self.0.iter().find(|(_, network)| network.overlaps(subnet))
    }

    /// State directories on one host begin at different subnets, so they seldom meet.
    fn first_free(&self, state_id: &str) -> Option<Cidr> {
        let start = u8::from_str_radix(&state_id[..2], 16).unwrap_or(0);
        let thirds = (0..=255).map(|n| start.wrapping_add(n));
        let in_network = |[a, b]: [u8; 2]| thirds.clone().map(move |c| Ipv4Addr::new(a, b, c, 0));
        let mut candidates = [[10, 213], [172, 29], [192, 168]]
            .into_iter()
            .flat_map(in_network)
            .filter_map(|address| Cidr::containing(address, 24));
        candidates.find(|subnet| self.overlap(subnet).is_none())
    }
}

/// For `banger doctor`: whether the VMs' subnet is still theirs alone. `None` where there is none yet.
pub fn check(context: &Context) -> Result<Option<Check>> {
    let Some(store) = Store::open_existing(&context.state)? else { return Ok(None) };
    let Some(subnet) = remembered(&store)? else { return Ok(None) };
    let networks = Networks::read(&store).map_err(SubnetError::Networks)?;
    let (state, detail) = match networks.overlap(&subnet) {
        Some((link, route)) if in_use(&store)? => {
            let advice = "delete the VMs that have a tap: the next one gets another subnet";
            (CheckState::Note, format!("{subnet} overlaps {route} of {link}; {advice}"))
        }
        _ => (CheckState::Ok, subnet.to_string()),
    };
    Ok(Some(Check { name: "subnet".into(), state, detail }))
}
