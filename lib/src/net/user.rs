//! User mode: the VMM's own network (slirp), which needs nothing on the host but a port for SSH.

use std::net::{Ipv4Addr, TcpListener};

use super::NetError;
use super::caller::Caller;
use super::publish::require_no_listener;
use super::request::Policy;
use crate::contract::policy::{DEFAULT_MTU, EgressPolicy};
use crate::contract::record::{Net, NetMode, Vm};
use crate::sys::random;

/// Ports that the host forwards to a guest's sshd: below the ephemeral range (ip_local_port_range in
/// Documentation/networking/ip-sysctl.rst begins at 32768), so that no outgoing connection takes one.
pub(super) const PORTS: std::ops::Range<u16> = 20000..32768;

/// How many ports are tried.
const ATTEMPTS: u16 = 256;

/// The network of `vm`, and whether it is new. `previous` is what the record has; a valid one is kept with its port.
///
/// # Errors
/// The record asks for what user mode cannot do, or has another network already.
pub fn attach(vm: &Vm, caller: &Caller, previous: Option<Net>) -> Result<(Net, bool), NetError> {
    caller.require_for(vm.owner_uid)?;
    Policy::of(vm).check()?;
    let Some(previous) = previous else {
        require_no_listener(&vm.publish)?;
        return Ok((section(vm, free_port()?), true));
    };
    let expected = section(vm, previous.ssh_port);
    if previous != expected || !PORTS.contains(&previous.ssh_port) {
        let shown = |net: &Net| serde_json::to_string(net).expect("a section is JSON");
        return Err(NetError::Differs {
            object: format!("a network of VM {}", vm.id),
            what: "net",
            found: shown(&previous),
            wanted: shown(&expected),
        });
    }
    Ok((previous, false))
}

/// # Errors
/// What only rules on a tap can do.
pub(super) fn require_supported(policy: &Policy<'_>) -> Result<(), NetError> {
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

/// slirp's fixed addresses (`-netdev user` in qemu(1)): it gives the first guest .15, answers names on .3.
pub(super) fn section(vm: &Vm, ssh_port: u16) -> Net {
    Net {
        mode: NetMode::User,
        bridge: None,
        tap: None,
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix_len: 24,
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        // slirp drops questions without an answer where it lets nothing out; a guest without resolvers does not wait for one.
        dns: if vm.egress.is_open() { vec![Ipv4Addr::new(10, 0, 2, 3)] } else { Vec::new() },
        nat: true,
        egress: vm.egress.clone(),
        peer: false,
        publish: vm.publish.clone(),
        mtu: vm.mtu,
        ssh_host: Ipv4Addr::LOCALHOST,
        ssh_port,
    }
}

/// A port on loopback that nobody listens on. It is not held: the VMM binds it later and fails if it was taken meanwhile,
/// which a random start makes unlikely.
fn free_port() -> Result<u16, NetError> {
    let count = PORTS.end - PORTS.start;
    let start = u16::from_ne_bytes(random::bytes()) % count;
    let candidates = (0..ATTEMPTS).map(|n| PORTS.start + (start + n) % count);
    let mut last = None;
    for port in candidates {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(NetError::io("find a free port on 127.0.0.1")(last.expect("there were attempts")))
}
