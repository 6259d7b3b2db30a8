//! The section `net` of a running VM whose note of it is lost: names follow from the VM, the rest from the kernel.

use std::path::Path;

use super::dns::{resolvers, serving};
use super::realm::Realm;
use super::user;
use banger_contract::record::{Net, NetMode, Vm};

/// The section as [`super::attach`] or [`user::attach`] gave it, or `None` where the kernel has no such network. `listening` are the
/// loopback ports on which the VM's processes listen: in user mode the VMM forwards one of them.
pub fn rebuild(vm: &Vm, listening: &[u16]) -> Option<Net> {
    match vm.net_mode {
        NetMode::User => {
            let port = listening.iter().find(|port| user::PORTS.contains(port))?;
            Some(user::section(vm, *port, user::resolvers_of(vm).addresses))
        }
        NetMode::Tap => {
            let realm = Realm::of(&vm.state_id, vm.owner_uid);
            let tap = realm.vm(&vm.id).tap();
            nix::net::if_::if_nametoindex(tap.as_str()).ok()?;
            let files = [resolvers::RESOLV_CONF, resolvers::RESOLVED_UPSTREAM].map(Path::new);
            let upstream = resolvers::upstream(&files);
            let served = serving::is_served(&realm);
            let dns = if served { resolvers::for_guest(vm.gateway, &upstream) } else { upstream };
            Some(Net {
                mode: NetMode::Tap,
                bridge: Some(realm.bridge()),
                tap: Some(tap),
                address: vm.address,
                prefix_len: vm.prefix_len,
                gateway: vm.gateway,
                dns,
                nat: vm.nat,
                egress: vm.egress.clone(),
                peer: vm.peer,
                publish: vm.publish.clone(),
                mtu: vm.mtu,
                ssh_host: vm.address,
                ssh_port: 22,
            })
        }
    }
}
