//! User mode: the VMM's own network (slirp), which needs nothing on the host but a port for SSH.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use banger_contract::record::{Net, NetMode, Vm};
use banger_host::random;

use crate::caller::Caller;
use crate::dns::resolvers;
use crate::request::Policy;
use crate::user_dns::{self, GuestResolvers};
use crate::{NetError, publish};

/// Ports that the host forwards to a guest's sshd: below the ephemeral range (ip_local_port_range in
/// Documentation/networking/ip-sysctl.rst begins at 32768), so that no outgoing connection takes one.
pub(super) const PORTS: std::ops::Range<u16> = 20000..32768;

/// How many ports are tried.
const ATTEMPTS: u16 = 256;

/// A network in user mode.
#[derive(Debug)]
pub struct UserAttached {
    /// The record's section.
    pub net: Net,
    /// Whether it is new.
    pub changed: bool,
    /// Whether its guest can ask none of the host's resolvers.
    pub is_deaf: bool,
}

/// The network of `vm`. `previous` is what the record has; a valid one is kept with its port and its resolvers.
///
/// # Errors
/// The record asks for what user mode cannot do, or has another network already.
pub fn attach(vm: &Vm, caller: &Caller, previous: Option<Net>) -> Result<UserAttached, NetError> {
    caller.require_for(vm.owner_uid)?;
    Policy::of(vm).check()?;
    let Some(previous) = previous else {
        // They are not held: the VMM listens on them itself.
        publish::take(&vm.publish)?;
        let GuestResolvers { addresses, is_deaf } = resolvers_of(vm);
        let net = section(vm, free_port()?, addresses);
        return Ok(UserAttached { net, changed: true, is_deaf });
    };
    let dns = if vm.egress.is_open() { previous.dns.clone() } else { Vec::new() };
    let expected = section(vm, previous.ssh_port, dns);
    if previous != expected || !PORTS.contains(&previous.ssh_port) {
        let shown = |net: &Net| serde_json::to_string(net).expect("a section is JSON");
        return Err(NetError::Differs {
            object: format!("a network of VM {}", vm.id),
            what: "net",
            found: shown(&previous),
            wanted: shown(&expected),
        });
    }
    Ok(UserAttached { net: previous, changed: false, is_deaf: false })
}

/// What the guest asks for names. slirp drops questions without an answer where it lets nothing out; a guest without resolvers does not
/// wait for one.
pub(super) fn resolvers_of(vm: &Vm) -> GuestResolvers {
    match vm.egress.is_open() {
        true => user_dns::of_guest(Path::new(resolvers::RESOLV_CONF)),
        false => GuestResolvers { addresses: Vec::new(), is_deaf: false },
    }
}

/// slirp's fixed addresses (`-netdev user` in qemu(1)): it gives the first guest .15.
pub(super) fn section(vm: &Vm, ssh_port: u16, dns: Vec<Ipv4Addr>) -> Net {
    Net {
        mode: NetMode::User,
        bridge: None,
        tap: None,
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix_len: 24,
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        dns,
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
