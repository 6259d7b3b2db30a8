//! NetworkManager by its interface on the system bus.

use super::bus::{BusError, Object};

const MANAGER: Object = Object {
    service: "org.freedesktop.NetworkManager",
    path: "/org/freedesktop/NetworkManager",
    interface: "org.freedesktop.NetworkManager",
};

const DNS: Object = Object {
    service: MANAGER.service,
    path: "/org/freedesktop/NetworkManager/DnsManager",
    interface: "org.freedesktop.NetworkManager.DnsManager",
};

/// `NM_MANAGER_RELOAD_FLAG_DNS_FULL`: the dnsmasq is started anew, and reads its directory.
const DNS_FULL: &str = "4";

/// Where its dnsmasq has what others configure.
pub const DNSMASQ_DIRECTORY: &str = "/etc/NetworkManager/dnsmasq.d";

/// Whether it runs, and has a dnsmasq be the host's resolver (`dns=dnsmasq` in NetworkManager.conf(5)).
///
/// # Errors
/// It, or the bus, does not answer.
pub fn has_dnsmasq() -> Result<bool, BusError> {
    Ok(MANAGER.runs()? && DNS.property("Mode")? == "dnsmasq")
}

/// Has its dnsmasq read [`DNSMASQ_DIRECTORY`] again.
///
/// # Errors
/// It refuses.
pub fn reload_dnsmasq() -> Result<(), BusError> {
    MANAGER.call("Reload", &["u", DNS_FULL]).map(drop)
}
