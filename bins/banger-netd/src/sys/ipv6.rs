//! How a link takes part in IPv6 (Documentation/networking/ip-sysctl.rst). A kernel without IPv6 has none of these settings, and nothing
//! to switch off.

use std::io;

use banger_contract::types::LinkName;

fn setting(link: &LinkName, name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/{name}")
}

/// Whether the link may have IPv6 addresses.
///
/// # Errors
/// The setting cannot be read.
pub fn is_on(link: &LinkName) -> io::Result<bool> {
    Ok(read(&setting(link, "disable_ipv6"))?.is_some_and(|value| value == "0"))
}

/// Takes the link out of IPv6: its addresses go, and no packet is heard.
///
/// # Errors
/// The setting cannot be written.
pub fn switch_off(link: &LinkName) -> io::Result<()> {
    if is_on(link)? { std::fs::write(setting(link, "disable_ipv6"), "1\n") } else { Ok(()) }
}

/// Whether the host takes routes, addresses and settings from whoever calls itself a router on the link.
///
/// # Errors
/// The setting cannot be read.
pub fn believes_routers(link: &LinkName) -> io::Result<bool> {
    Ok(read(&setting(link, "accept_ra"))?.is_some_and(|value| value != "0"))
}

/// Has the host pay no heed to router advertisements on the link.
///
/// # Errors
/// The setting cannot be written.
pub fn ignore_routers(link: &LinkName) -> io::Result<()> {
    if believes_routers(link)? { std::fs::write(setting(link, "accept_ra"), "0\n") } else { Ok(()) }
}

/// The value of a setting; `None` where there is none.
fn read(path: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
