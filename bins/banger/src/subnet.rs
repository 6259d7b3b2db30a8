//! The state directory's subnet, from which VMs with a tap get their addresses.

use std::io;
use std::net::Ipv4Addr;

use banger_contract::host_policy::HostPolicy;
use banger_contract::record::NetMode;
use banger_contract::reply::{Check, CheckState};
use banger_contract::types::Cidr;
use banger_contract::{Coded, ErrorCode};
use banger_host::host_policy;
use banger_netd::claims::{Claim, Claims};
use banger_netd::realm::Realm;
use banger_netd::request::require_subnet;
use banger_state::db::Store;
use thiserror::Error;

use crate::context::{Context, Result};

/// The length of a subnet that nobody has asked for, and how many of a network are tried.
const LENGTH: u8 = 24;
const MOST_TRIED: u32 = 1024;

/// The key under which the subnet is remembered.
const KEY: &str = "subnet";

/// Why there is no subnet to take addresses from.
#[derive(Debug, Error)]
pub enum SubnetError {
    #[error("every /{LENGTH} of {} overlaps a network of this host", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    None(Vec<Cidr>),
    #[error("the subnet {subnet} overlaps {claim}")]
    Overlap { subnet: Cidr, claim: Claim },
    #[error("the subnet {wanted} is wanted, and VMs of this state directory have addresses of {held}")]
    InUse { wanted: Cidr, held: Cidr },
    #[error("cannot read this host's routes and addresses")]
    Networks(#[source] io::Error),
}

impl Coded for SubnetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None(_) | Self::Overlap { .. } | Self::InUse { .. } => ErrorCode::Conflict,
            Self::Networks(_) => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::None(_) => {
                "name another with --subnet, have root allow users others (banger-netd.toml(5)), or use --net user"
            }
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
    let subnet: Cidr = text.parse().map_err(|e: banger_contract::types::ParseCidrError| e.to_string())?;
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
            Some(claim) => {
                return Err(SubnetError::Overlap { subnet: wanted, claim: claim.clone() }.into());
            }
            None => wanted,
        },
        (None, Some(held)) if networks.is_free(&held) => return Ok(held),
        (None, _) => networks
            .first_free(store.state_id().as_str())
            .ok_or_else(|| SubnetError::None(networks.usual.clone()))?,
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

/// What a subnet may be: within what root lets this user take, and nobody else's.
struct Networks {
    /// What is tried where none is named.
    usual: Vec<Cidr>,
    /// What may be named; `None`: anything.
    allowed: Option<Vec<Cidr>>,
    claims: Claims,
}

impl Networks {
    fn read(store: &Store) -> io::Result<Self> {
        let claims = Claims::of_host(&Realm::of_caller(store.state_id()).bridge())?;
        if rustix::process::geteuid().is_root() {
            let last = Cidr::containing(Ipv4Addr::new(192, 168, 0, 0), 16);
            let usual = HostPolicy::default().subnets.into_iter().chain(last).collect();
            return Ok(Self { usual, allowed: None, claims });
        }
        // A file of root's that cannot be read here is banger-netd's to judge.
        let allowed = host_policy::read().unwrap_or_default().subnets;
        Ok(Self { usual: allowed.clone(), allowed: Some(allowed), claims })
    }

    fn overlap(&self, subnet: &Cidr) -> Option<&Claim> {
        self.claims.overlap(subnet, subnet.nth(1))
    }

    fn is_free(&self, subnet: &Cidr) -> bool {
        let holds = |allowed: &Vec<Cidr>| allowed.iter().any(|network| network.holds(subnet));
        self.allowed.as_ref().is_none_or(holds) && self.overlap(subnet).is_none()
    }

    /// State directories on one host begin at different subnets, so they seldom meet.
    fn first_free(&self, state_id: &str) -> Option<Cidr> {
        let start = u32::from_str_radix(&state_id[..2], 16).unwrap_or(0);
        let mut candidates = self.usual.iter().flat_map(|network| parts(network, start));
        candidates.find(|subnet| self.is_free(subnet))
    }
}

/// The parts of a network that are large enough for VMs and not larger, from the one with the number `start` on.
fn parts(network: &Cidr, start: u32) -> impl Iterator<Item = Cidr> + use<> {
    let network = *network;
    let length = network.prefix_len().max(LENGTH);
    let count = 1u32 << (length - network.prefix_len());
    let nth = move |n: u32| {
        let host_bits = 32 - u32::from(length);
        let address = network.address().to_bits() | ((start.wrapping_add(n)) % count) << host_bits;
        Cidr::containing(address.into(), length)
    };
    (0..count.min(MOST_TRIED)).filter_map(nth).filter(|subnet| require_subnet(*subnet).is_ok())
}

/// For `banger doctor`: whether the VMs' subnet is still theirs alone. `None` where there is none yet.
pub fn check(context: &Context) -> Result<Option<Check>> {
    let Some(store) = Store::open_existing(&context.state)? else { return Ok(None) };
    let Some(subnet) = remembered(&store)? else { return Ok(None) };
    let networks = Networks::read(&store).map_err(SubnetError::Networks)?;
    let (state, detail) = match networks.overlap(&subnet) {
        Some(claim) if in_use(&store)? => {
            let advice = "delete the VMs that have a tap: the next one gets another subnet";
            (CheckState::Note, format!("{subnet} overlaps {} of {}; {advice}", claim.network, claim.holder))
        }
        _ => (CheckState::Ok, subnet.to_string()),
    };
    Ok(Some(Check { name: "subnet".into(), state, detail }))
}
