//! Who listens where, by proc_pid_net(5) and the descriptors of processes.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;

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

/// A process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name as the kernel has it.
    pub name: String,
    /// Its arguments, as far as they are UTF-8.
    pub arguments: Vec<String>,
}

/// The process because of which `port` cannot be had on `address` (`None`: all). `None` where it cannot be seen: processes of other users
/// are seen by root only, those of other process namespaces by nobody.
pub fn holder(tcp: bool, address: Option<Ipv4Addr>, port: u16) -> Option<Process> {
    let inodes = inodes(tcp, address, port);
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = pids.into_iter().find(|pid| !sockets_of(*pid).is_disjoint(&inodes))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments =
        arguments.split(|b| *b == 0).filter_map(|word| Some(str::from_utf8(word).ok()?.to_owned()));
    Some(Process { pid, name, arguments: arguments.collect() })
}

/// Whether any process has `port` on `address` (`None`: all), so that no other can.
pub fn is_taken(tcp: bool, address: Option<Ipv4Addr>, port: u16) -> bool {
    !inodes(tcp, address, port).is_empty()
}

/// The inodes of the sockets because of which `port` cannot be had on `address`.
fn inodes(tcp: bool, address: Option<Ipv4Addr>, port: u16) -> HashSet<u64> {
    if tcp { ["tcp", "tcp6"] } else { ["udp", "udp6"] }
        .iter()
        .filter_map(|name| fs::read_to_string(format!("/proc/self/net/{name}")).ok())
        .flat_map(|table| {
            table.lines().skip(1).filter_map(|l| bound(l, tcp, address, port)).collect::<Vec<_>>()
        })
        .collect()
}

/// The inode of a line that describes a socket which holds `port` on `address` or on all addresses.
fn bound(line: &str, tcp: bool, address: Option<Ipv4Addr>, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, local_port) = fields.get(1)?.split_once(':')?;
    let same_port = u16::from_str_radix(local_port, 16).ok()? == port;
    // All of an IPv6 address is zero where it stands for all addresses; one that is mapped ends in the IPv4 address.
    let word = u32::from_str_radix(local.get(local.len().checked_sub(8)?..)?, 16).ok()?;
    let local = Ipv4Addr::from(word.to_ne_bytes());
    let meets = local.is_unspecified() || address.is_none_or(|address| address == local);
    let state = *fields.get(3)?;
    (same_port && meets && (!tcp || state == LISTEN)).then(|| fields.get(9)?.parse().ok())?
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

    #[test]
    fn the_holder_of_a_port_is_this_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id().cast_signed();
        for address in [None, Some(Ipv4Addr::LOCALHOST)] {
            assert_eq!(holder(true, address, port).unwrap().pid, own);
        }
        assert_eq!(holder(true, Some(Ipv4Addr::new(127, 0, 0, 9)), port), None);
        assert_eq!(holder(false, None, port), None);
        let wide = std::net::UdpSocket::bind("[::]:0").unwrap();
        let port = wide.local_addr().unwrap().port();
        assert_eq!(holder(false, Some(Ipv4Addr::LOCALHOST), port).unwrap().pid, own);
    }
}
