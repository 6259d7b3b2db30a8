//! What the resolver knows of itself: the VMs' names and addresses, looked up by what stands in a packet.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use banger_contract::names::Names;
use banger_contract::types::Cidr;

/// The last label of every name that is ours.
pub const TOP: &[u8] = b"vm";

/// How many addresses of a name are told: with more an answer would outgrow a packet.
const MAX_ADDRESSES: usize = 8;

/// The longest label (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// The names of one state directory on one bridge.
#[derive(Debug, Clone)]
pub struct Zone {
    subnet: Cidr,
    gateway: Ipv4Addr,
    hosts: HashMap<Box<[u8]>, Vec<IpAddr>>,
    reverse: HashMap<Ipv4Addr, Box<[u8]>>,
    confined: HashSet<IpAddr>,
}

impl Zone {
    /// The zone of the bridge that has the address `gateway` in `subnet`. Addresses elsewhere are left out: a names file speaks for
    /// its own bridge only.
    pub fn new(names: &Names, gateway: Ipv4Addr, subnet: Cidr) -> Self {
        let mut zone = Self {
            subnet,
            gateway,
            hosts: HashMap::with_capacity(names.items.len()),
            reverse: HashMap::with_capacity(names.items.len()),
            confined: HashSet::new(),
        };
        for vm in &names.items {
            let label: Box<[u8]> = vm.name.as_str().as_bytes().into();
            let ours = vm.addresses.iter().filter(|address| zone.holds(address));
            let addresses: Vec<IpAddr> = ours.take(MAX_ADDRESSES).copied().collect();
            for address in &addresses {
                if let IpAddr::V4(v4) = address {
                    zone.reverse.insert(*v4, label.clone());
                }
                if !vm.forward {
                    zone.confined.insert(*address);
                }
            }
            zone.hosts.insert(label, addresses);
        }
        zone
    }

    fn holds(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.subnet.contains(*v4) && *v4 != self.gateway,
            // The bridge has no IPv6 subnet; a unique local address (RFC 4193) leads nowhere else.
            IpAddr::V6(v6) => v6.is_unique_local(),
        }
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The subnet.
    pub fn subnet(&self) -> Cidr {
        self.subnet
    }

    /// The addresses of the VM whose name is `label`, in any case; `None` where there is no such VM.
    pub fn addresses(&self, label: &[u8]) -> Option<&[IpAddr]> {
        let mut lower = [0; MAX_LABEL];
        let lower = lower.get_mut(..label.len())?;
        lower.copy_from_slice(label);
        lower.make_ascii_lowercase();
        self.hosts.get(&*lower).map(Vec::as_slice)
    }

    /// The name of the VM with `address`.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&[u8]> {
        self.reverse.get(&address).map(|label| &**label)
    }

    /// Whether a packet's sender is one of ours: a guest, or the host itself.
    pub fn is_client(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_loopback() || self.subnet.contains(v4),
            IpAddr::V6(_) => false,
        }
    }

    /// Whether questions of `client` about others' names are passed on: those of the host are not, since it has resolvers of its
    /// own, and one of them may ask here.
    pub fn may_forward(&self, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(v4) => !v4.is_loopback() && v4 != self.gateway && !self.confined.contains(&client),
            IpAddr::V6(_) => false,
        }
    }
}
