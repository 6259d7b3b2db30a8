//! IPv4 forwarding between links (ip_forward in Documentation/networking/ip-sysctl.rst).

use std::io;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether it was on already or had to be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// It was on.
    Identity,
    /// It was off.
    SwitchedOn,
}

/// Whether it is on in this network namespace.
///
/// # Errors
/// The file cannot be read.
pub fn ipv4_is_on() -> io::Result<bool> {
    Ok(std::fs::read_to_string(IP_FORWARD)?.trim() != "0")
}

/// Switches it on. Nothing switches it off again: who else relies on it by then cannot be known.
///
/// # Errors
/// The file cannot be written.
pub fn switch_ipv4_on() -> io::Result<Forwarding> {
    if ipv4_is_on()? {
        return Ok(Forwarding::Identity);
    }
    std::fs::write(IP_FORWARD, "1\n")?;
    Ok(Forwarding::SwitchedOn)
}
