//! On which TCP ports of the loopback address a process listens, by proc_pid_net(5) and its descriptors.

use std::collections::HashSet;
use std::fs;

/// The state of a listening socket in /proc/net/tcp (TCP_LISTEN in the kernel's tcp_states.h), hexadecimal.
const LISTEN: &str = "0A";

/// The ports, lowest first; none where the process or its descriptors cannot be seen.
pub fn loopback_ports(pid: i32) -> Vec<u16> {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/tcp")) else { return Vec::new() };
    let sockets = sockets_of(pid);
    let mut ports: Vec<u16> = table
        .lines()
        .skip(1)
        .filter_map(listening)
        .filter(|(_, inode)| sockets.contains(inode))
        .map(|(port, _)| port)
        .collect();
    ports.sort_unstable();
    ports
}

/// Port and inode of a line that describes a socket listening on 127.0.0.1, which the kernel writes as a host-order word.
fn listening(line: &str) -> Option<(u16, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let is_loopback = u32::from_str_radix(address, 16).ok()?.to_ne_bytes() == [127, 0, 0, 1];
    let listens = *fields.get(3)? == LISTEN;
    let found = (u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?);
    (is_loopback && listens).then_some(found)
}

/// The inodes of the sockets that `pid` has open.
fn sockets_of(pid: i32) -> HashSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn own_listeners_on_loopback_are_found_and_others_are_not() {
        let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wide = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let found = loopback_ports(std::process::id().cast_signed());
        assert!(found.contains(&ours.local_addr().unwrap().port()), "{found:?}");
        assert!(!found.contains(&wide.local_addr().unwrap().port()), "{found:?}");
        assert!(loopback_ports(-1).is_empty());
    }
}
