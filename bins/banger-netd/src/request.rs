//! What a record asks for, checked.

use std::net::Ipv4Addr;

use banger_contract::host_policy::ConnectionLimits;
use banger_contract::policy::{DEFAULT_MTU, Egress, EgressPolicy, MTU, Publish};
use banger_contract::record::{Net, NetMode, Vm};
use banger_contract::types::{Cidr, LinkName, MacAddr, VmId, VmName};
use banger_host::net::link::Link;

use crate::NetError;
use crate::caller::Caller;
use crate::chains::{limits_chain, published_chain};
use crate::realm::Realm;
use crate::sys::forwarding;
use crate::tag::Tag;

/// The most published ports of a VM.
const MAX_PUBLISHED: usize = 64;

/// The most entries of what a guest may reach outside.
const MAX_ALLOWED: usize = 256;

/// Names of a VM's host objects, which need no more than its ids and its owner, and whose they are.
#[derive(Debug, Clone)]
pub struct Names {
    /// The VM.
    pub vm: VmId,
    /// What stands for it in names.
    pub key: VmId,
    /// The state directory, of whose names the others are.
    pub realm: Realm,
    /// The bridge.
    pub bridge: LinkName,
    /// The port that gives the bridge its carrier.
    pub dummy: LinkName,
    /// The tap.
    pub tap: LinkName,
    /// The chain of the published ports, and the process that holds them.
    pub published: String,
    /// The chain of what bounds its connections.
    pub limits: String,
    /// Both nftables tables.
    pub table: String,
    /// What the links are tagged with.
    pub tag: Tag,
}

impl Names {
    /// The names of `vm`, which the caller may act for.
    ///
    /// # Errors
    /// The VM is another user's.
    pub fn new(vm: &Vm, caller: &Caller) -> Result<Self, NetError> {
        caller.require_for(vm.owner_uid)?;
        let realm = Realm::of(&vm.state_id, vm.owner_uid);
        let key = realm.vm(&vm.id);
        Ok(Self {
            vm: vm.id.clone(),
            bridge: realm.bridge(),
            dummy: realm.dummy(),
            tap: key.tap(),
            published: published_chain(&key),
            limits: limits_chain(&key),
            table: realm.nft_table(),
            tag: realm.tag().clone(),
            key,
            realm,
        })
    }

    /// Whether a link whose name has the state id is ours: it has our tag, or a crash left it without one.
    pub fn own(&self, link: &Link) -> bool {
        link.alias.is_none() || Tag::of(link).as_ref() == Some(&self.tag)
    }
}

/// A network in tap mode that is fit to be made.
#[derive(Debug, Clone)]
pub struct TapRequest {
    /// The names.
    pub names: Names,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The subnet of both.
    pub subnet: Cidr,
    /// The guest's Ethernet address.
    pub mac: MacAddr,
    /// The VM's name: what others who want the same port are told.
    pub name: VmName,
    /// Whether the guest reaches the outside.
    pub nat: bool,
    /// What it may reach there.
    pub egress: Egress,
    /// Whether it reaches other VMs of which this holds.
    pub peer: bool,
    /// Ports of the host's that lead to it.
    pub publish: Vec<Publish>,
    /// Whether other firewalls may be asked to let the VMs through.
    pub open_firewall: bool,
    /// The largest packet; `None`: [`DEFAULT_MTU`].
    pub mtu: Option<u16>,
    /// How many connections it may open.
    pub connections: ConnectionLimits,
}

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Result<T, NetError> {
    Err(NetError::Invalid { field, reason: reason.into() })
}

impl TapRequest {
    /// Checks all of the record that tap mode relies on.
    ///
    /// # Errors
    /// [`NetError::Invalid`], [`NetError::NotOwner`], or something that is not supported.
    pub fn new(vm: &Vm, caller: &Caller) -> Result<Self, NetError> {
        let names = Names::new(vm, caller)?;
        if vm.owner_uid == u32::MAX {
            return invalid("vm.owner_uid", "-1 is not a user (setreuid(2))");
        }
        Policy::of(vm).check()?;
        require_allowed_ports(&vm.publish, caller)?;
        let subnet = check_subnet(vm.address, vm.prefix_len, vm.gateway)?;
        check_mac(vm.mac)?;
        Ok(Self {
            names,
            address: vm.address,
            gateway: vm.gateway,
            subnet,
            mac: vm.mac,
            name: vm.name.clone(),
            nat: vm.nat,
            egress: vm.egress.clone(),
            peer: vm.peer,
            publish: vm.publish.clone(),
            open_firewall: vm.open_firewall,
            mtu: vm.mtu,
            connections: ConnectionLimits::default(),
        })
    }

    /// The same with other limits.
    pub fn with(&self, connections: ConnectionLimits) -> Self {
        Self { connections, ..self.clone() }
    }

    /// The largest packet of the tap, bytes.
    pub fn tap_mtu(&self) -> u32 {
        self.mtu.unwrap_or(DEFAULT_MTU).into()
    }

    /// Whether the guest may reach anything outside.
    pub fn goes_out(&self) -> bool {
        self.nat && self.egress.policy != EgressPolicy::None
    }

    /// Whether packets of the guest's pass through the host, or packets for it.
    pub fn is_forwarded(&self) -> bool {
        self.goes_out() || self.peer || !self.publish.is_empty()
    }

    /// The section that stands for this network.
    pub fn section(&self, dns: Vec<Ipv4Addr>) -> Net {
        Net {
            mode: NetMode::Tap,
            bridge: Some(self.names.bridge.clone()),
            tap: Some(self.names.tap.clone()),
            address: self.address,
            prefix_len: self.subnet.prefix_len(),
            gateway: self.gateway,
            dns,
            nat: self.nat,
            egress: self.egress.clone(),
            peer: self.peer,
            publish: self.publish.clone(),
            mtu: self.mtu,
            ssh_host: self.address,
            ssh_port: 22,
        }
    }
}

/// What a VM wants of others and others of it.
#[derive(Debug)]
pub struct Policy<'a> {
    /// Tap or user networking.
    pub net_mode: NetMode,
    /// Whether it reaches the outside through masquerading.
    pub nat: bool,
    /// What it may reach outside.
    pub egress: &'a Egress,
    /// Whether it and other VMs reach each other.
    pub peer: bool,
    /// Its published ports.
    pub publish: &'a [Publish],
    /// The largest packet, bytes.
    pub mtu: Option<u16>,
}

impl<'a> Policy<'a> {
    /// That of `vm`.
    pub fn of(vm: &'a Vm) -> Self {
        let Vm { net_mode, nat, egress, peer, publish, mtu, .. } = vm;
        Self { net_mode: *net_mode, nat: *nat, egress, peer: *peer, publish, mtu: *mtu }
    }

    /// Checks it as far as that needs no look at the host.
    ///
    /// # Errors
    /// [`NetError::Invalid`], or what user networking cannot do.
    pub fn check(&self) -> Result<(), NetError> {
        check_publish(self.publish)?;
        check_egress(self.egress)?;
        check_mtu(self.mtu)?;
        if self.net_mode == NetMode::User { crate::request::require_supported(self) } else { Ok(()) }
    }
}

/// # Errors
/// More ports than a VM may publish, port 0, one host port twice, or an address on which nothing can listen.
fn check_publish(publish: &[Publish]) -> Result<(), NetError> {
    if publish.len() > MAX_PUBLISHED {
        return invalid("vm.publish", format!("there are more than {MAX_PUBLISHED} entries"));
    }
    if publish.iter().any(|p| p.host_port == 0 || p.guest_port == 0) {
        return invalid("vm.publish", "0 is not a port");
    }
    let odd = |ip: &Ipv4Addr| ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
    if let Some(ip) = publish.iter().filter_map(|p| p.host_ip).find(odd) {
        return invalid("vm.publish", format!("{ip} is not an address of a host"));
    }
    for (n, one) in publish.iter().enumerate() {
        if let Some(other) = publish[..n].iter().find(|other| overlaps(one, other)) {
            return invalid("vm.publish", format!("{other} and {one} want the same port of the host"));
        }
    }
    Ok(())
}

fn check_mtu(mtu: Option<u16>) -> Result<(), NetError> {
    match mtu.filter(|mtu| !MTU.contains(mtu)) {
        Some(mtu) => invalid("vm.mtu", format!("{mtu} is not within {} to {}", MTU.start(), MTU.end())),
        None => Ok(()),
    }
}

/// # Errors
/// A port that the caller could not listen on either (ip_unprivileged_port_start in Documentation/networking/ip-sysctl.rst).
fn require_allowed_ports(publish: &[Publish], caller: &Caller) -> Result<(), NetError> {
    if caller.is_root() || publish.is_empty() {
        return Ok(());
    }
    let first = forwarding::first_unprivileged_port().map_err(NetError::io("read which ports are root's"))?;
    match publish.iter().find(|p| p.host_port < first) {
        None => Ok(()),
        Some(one) => {
            let source = std::io::Error::from_raw_os_error(libc::EACCES);
            Err(NetError::PortRefused { port: one.to_string(), source })
        }
    }
}

/// Whether two published ports are the same port of the host.
pub(super) fn overlaps(one: &Publish, other: &Publish) -> bool {
    let same_address = one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip;
    (one.protocol, one.host_port) == (other.protocol, other.host_port) && same_address
}

/// # Errors
/// A list where the policy has none, an empty or too long one, or an entry with half a port.
fn check_egress(egress: &Egress) -> Result<(), NetError> {
    let listed = egress.policy == EgressPolicy::Allow;
    if listed == egress.allow.is_empty() {
        let reason = if listed { "the list is empty" } else { "only the policy \"allow\" has a list" };
        return invalid("vm.egress", reason);
    }
    if egress.allow.len() > MAX_ALLOWED {
        return invalid("vm.egress", format!("there are more than {MAX_ALLOWED} entries"));
    }
    if egress.allow.iter().any(|e| e.port == Some(0) || e.port.is_some() != e.protocol.is_some()) {
        return invalid("vm.egress", "an entry has a port and its protocol, or neither");
    }
    Ok(())
}

/// # Errors
/// The network is too large or too small for VMs, or not a private one.
pub fn require_subnet(subnet: Cidr) -> Result<(), NetError> {
    let gateway = subnet.nth(1).unwrap_or(subnet.address());
    let guest = subnet.nth(2).unwrap_or(gateway);
    check_subnet(guest, subnet.prefix_len(), gateway).map(drop)
}

fn check_subnet(address: Ipv4Addr, prefix_len: u8, gateway: Ipv4Addr) -> Result<Cidr, NetError> {
    if !(16..=30).contains(&prefix_len) {
        return invalid("vm.prefix_len", format!("{prefix_len} is not within 16 to 30"));
    }
    let subnet = Cidr::containing(gateway, prefix_len).expect("the length was checked");
    if !subnet.is_private() {
        return invalid("vm.gateway", format!("{gateway} is not a private address (RFC 1918)"));
    }
    for (field, host) in [("vm.gateway", gateway), ("vm.address", address)] {
        if !subnet.contains(host) {
            return invalid(field, format!("{host} is not in the gateway's subnet {subnet}"));
        }
        let last = subnet.address().to_bits() | (u32::MAX >> prefix_len);
        if host == subnet.address() || host.to_bits() == last {
            return invalid(field, format!("{host} is the network's own or its broadcast address"));
        }
    }
    if address == gateway {
        return invalid("vm.address", format!("{address} is the gateway's"));
    }
    Ok(subnet)
}

fn check_mac(mac: MacAddr) -> Result<(), NetError> {
    // The two lowest bits of the first byte: group, and locally administered (IEEE 802).
    if mac.octets()[0] & 0b11 != 0b10 {
        return invalid("vm.mac", format!("{mac} is not a locally administered unicast address"));
    }
    Ok(())
}

/// # Errors
/// What only rules on a tap can do.
pub fn require_supported(policy: &Policy<'_>) -> Result<(), NetError> {
    let text = match policy.egress.policy {
        _ if policy.mtu.is_some_and(|mtu| mtu > DEFAULT_MTU) => {
            "user networking has packets of at most 1500 bytes"
        }
        _ if !policy.nat => {
            "user networking has no NAT to switch off; egress \"none\" keeps the guest inside"
        }
        _ if policy.peer => "user networking has no peers: each VM is alone in its network",
        EgressPolicy::Allow => {
            "user networking cannot limit the guest to a list, as a tap can: egress is \"open\" or \"none\""
        }
        EgressPolicy::Open | EgressPolicy::None => return Ok(()),
    };
    Err(NetError::Unsupported(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_subnets_are_refused_by_field() {
        let check = |address: &str, len, gateway: &str| match check_subnet(
            address.parse().unwrap(),
            len,
            gateway.parse().unwrap(),
        ) {
            Ok(subnet) => subnet.to_string(),
            Err(NetError::Invalid { field, .. }) => field.to_owned(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(check("10.213.7.2", 24, "10.213.7.1"), "10.213.7.0/24");
        assert_eq!(check("172.31.255.253", 30, "172.31.255.254"), "172.31.255.252/30");
        for len in [0, 8, 15, 31, 32, 255] {
            assert_eq!(check("10.0.0.2", len, "10.0.0.1"), "vm.prefix_len");
        }
        for public in
            ["8.8.8.1", "127.0.0.1", "169.254.0.1", "172.32.0.1", "0.0.0.1", "224.0.0.1", "11.0.0.1"]
        {
            assert_eq!(check("10.0.0.2", 24, public), "vm.gateway", "{public}");
        }
        assert_eq!(check("10.0.1.2", 24, "10.0.0.1"), "vm.address");
        assert_eq!(check("10.0.0.0", 24, "10.0.0.1"), "vm.address");
        assert_eq!(check("10.0.0.255", 24, "10.0.0.1"), "vm.address");
        assert_eq!(check("10.0.0.1", 24, "10.0.0.1"), "vm.address");
        assert_eq!(check("10.0.0.2", 24, "10.0.0.255"), "vm.gateway");
    }

    #[test]
    fn packets_are_as_large_as_ipv6_wants_and_no_jumbo_is_exceeded() {
        assert!([None, Some(1280), Some(1500), Some(9000)].into_iter().all(|mtu| check_mtu(mtu).is_ok()));
        for odd in [0, 68, 576, 1279, 9001, u16::MAX] {
            assert!(matches!(check_mtu(Some(odd)), Err(NetError::Invalid { field: "vm.mtu", .. })), "{odd}");
        }
    }

    #[test]
    fn only_local_unicast_macs_pass() {
        let check = |mac: &str| check_mac(mac.parse().unwrap()).is_ok();
        assert!(check("02:00:0a:d5:07:02") && check("0a:00:00:00:00:00"));
        assert!(!check("ff:ff:ff:ff:ff:ff") && !check("03:00:00:00:00:00") && !check("00:11:22:33:44:55"));
    }
}
