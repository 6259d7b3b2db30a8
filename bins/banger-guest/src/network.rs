//! The network, without DHCP: the interface that has the VM's Ethernet address gets its address and the default route.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::clock::now_us;
use crate::error::{Context, Error};
use crate::sys::{self, Interface};
use banger_protocol::guest::GuestConfig;

/// How long the interface may take to appear, microseconds.
const APPEARS_WITHIN_US: u64 = 10_000_000;

/// Configures loopback and the VM's interface.
pub fn configure(config: &GuestConfig) -> Result<(), Error> {
    let what = || "cannot open a socket".to_owned();
    let socket =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).context(what)?;
    Interface::new(&socket, "lo").and_then(|mut lo| lo.up()).context(|| "cannot take lo up".to_owned())?;
    let name = find(&config.mac)?;
    configure_interface(&socket, &name, config)
}

fn configure_interface(socket: &OwnedFd, name: &str, config: &GuestConfig) -> Result<(), Error> {
    let address = config.address;
    let mut interface = Interface::new(socket, name).context(|| format!("cannot use {name}"))?;
    if let Some(mtu) = config.mtu {
        interface.set_mtu(mtu).context(|| format!("cannot give {name} an MTU of {mtu}"))?;
    }
    let mask = netmask(config.prefix_len);
    interface.set_address(address, mask).context(|| format!("cannot give {name} the address {address}"))?;
    Interface::new(socket, name)
        .and_then(|mut interface| interface.up())
        .context(|| format!("cannot take {name} up"))?;
    let gateway = config.gateway;
    sys::add_default_route(socket, gateway).context(|| format!("cannot route through {gateway}"))
}

fn netmask(prefix_len: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix_len.min(32));
    Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

/// The name of the interface with this Ethernet address.
fn find(mac: &str) -> Result<String, Error> {
    let deadline = now_us() + APPEARS_WITHIN_US;
    loop {
        let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        for entry in entries {
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            if address.trim().eq_ignore_ascii_case(mac) {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if now_us() > deadline {
            return Err(Error::new(format!("no interface has the address {mac}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmasks() {
        assert_eq!(netmask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(netmask(32), Ipv4Addr::BROADCAST);
    }
}
