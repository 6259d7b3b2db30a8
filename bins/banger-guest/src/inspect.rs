//! What the agent tells about the running VM, from /proc and statvfs(3).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use crate::clock::now_us;
use crate::disks::Disk;

/// How many listening sockets are told.
const MAX_PORTS: usize = 256;

/// `uname -r`.
pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// Load, memory and disks.
pub fn stats(disks: &[Disk]) -> Value {
    let load: Vec<f64> =
        read("/proc/loadavg").split_whitespace().take(3).filter_map(|word| word.parse().ok()).collect();
    let memory = read("/proc/meminfo");
    json!({
        "uptime_us": now_us(),
        "load": load,
        "memory": {
            "total_bytes": memory_bytes(&memory, "MemTotal:"),
            "free_bytes": memory_bytes(&memory, "MemFree:"),
            "available_bytes": memory_bytes(&memory, "MemAvailable:"),
        },
        "disks": disks.iter().filter_map(disk_use).collect::<Vec<_>>(),
    })
}

fn memory_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn disk_use(disk: &Disk) -> Option<Value> {
    let usage = statvfs(disk.mount).ok()?;
    let unit = usage.fragment_size();
    Some(json!({
        "mount": disk.mount,
        "size_bytes": usage.blocks() * unit,
        "free_bytes": usage.blocks_free() * unit,
        "available_bytes": usage.blocks_available() * unit,
    }))
}

/// Sockets that wait for connections or datagrams, with the processes that hold them.
pub fn ports() -> Value {
    let tables = [
        ("tcp", "/proc/net/tcp"),
        ("tcp", "/proc/net/tcp6"),
        ("udp", "/proc/net/udp"),
        ("udp", "/proc/net/udp6"),
    ];
    let mut sockets: Vec<(&str, Socket)> = Vec::new();
    for (protocol, path) in tables {
        let text = read(path);
        sockets
            .extend(text.lines().skip(1).filter_map(|line| Some((protocol, Socket::parse(line, protocol)?))));
    }
    sockets.truncate(MAX_PORTS);
    let holders = holders();
    let list = sockets.into_iter().map(|(protocol, socket)| {
        let holder = holders.get(&socket.inode);
        json!({
            "protocol": protocol,
            "address": socket.address,
            "port": socket.port,
            "pid": holder.map(|(pid, _)| pid),
            "process": holder.map(|(_, name)| name),
        })
    });
    json!({ "ports": list.collect::<Vec<_>>() })
}

/// Whether something accepts TCP connections on `port`, on an address that the host reaches.
pub fn is_listening(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(read);
    let mut sockets =
        tables.iter().flat_map(|text| text.lines().skip(1)).filter_map(|line| Socket::parse(line, "tcp"));
    sockets.any(|socket| socket.port == port && !socket.address.is_loopback())
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

impl Socket {
    /// A line of /proc/net/{tcp,udp}*, if the socket waits: state 0A (listening) or, for UDP, 07 (not connected).
    fn parse(line: &str, protocol: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let waiting = if protocol == "tcp" { "0A" } else { "07" };
        if *fields.get(3)? != waiting {
            return None;
        }
        let (address, port) = fields[1].split_once(':')?;
        Some(Self {
            address: parse_address(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
}

/// The kernel prints addresses as 32-bit words of its own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => word(0).map(|bytes| Ipv4Addr::from(bytes).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            <[u8; 16]>::try_from(words.concat()).ok().map(|bytes| Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Inode of a socket → the first process that holds it.
fn holders() -> BTreeMap<u64, (u32, String)> {
    let mut holders = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        let inodes = links.filter_map(|link| {
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        });
        let inodes: Vec<u64> = inodes.collect();
        if !inodes.is_empty() {
            let name = read(&format!("/proc/{pid}/comm")).trim().to_owned();
            for inode in inodes {
                holders.entry(inode).or_insert_with(|| (pid, name.clone()));
            }
        }
    }
    holders
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_sockets_are_found() {
        let line = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 x";
        let socket = Socket::parse(line, "tcp").unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.port, socket.inode), ("127.0.0.1", 22, 1234));
        assert_eq!(Socket::parse(&line.replace(" 0A ", " 01 "), "tcp"), None);
        assert_eq!(Socket::parse("garbage", "tcp"), None);
        let six = line.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(Socket::parse(&six, "tcp").unwrap().address, IpAddr::from(Ipv6Addr::LOCALHOST));
    }
}
