//! The host's resolvers, by resolv.conf(5): those that a guest can reach, and all of them.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// resolv.conf(5).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What systemd-resolved itself asks, for when [`RESOLV_CONF`] only names its stub (systemd-resolved(8)).
pub const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// As many as the C library looks at (MAXNS in resolv.conf(5)).
const MAX_RESOLVERS: usize = 3;

/// The IPv4 resolvers in the first of `files` that names one a guest can reach. A file that cannot be read names none, and
/// none at all is an empty list: a VM without names is still a VM.
pub fn upstream(files: &[&Path]) -> Vec<Ipv4Addr> {
    files.iter().map(|file| reachable(&read(file))).find(|list| !list.is_empty()).unwrap_or_default()
}

/// What a guest is given where its bridge has a resolver: that one, and `upstream`, the host's, in case it is gone. The C library asks
/// the next one only where the first does not answer or cannot help.
pub fn for_guest(gateway: Ipv4Addr, upstream: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let others = upstream.iter().copied().filter(|address| *address != gateway);
    std::iter::once(gateway).chain(others).take(MAX_RESOLVERS).collect()
}

/// The resolvers in `file` as the host itself asks them, on loopback too; none where it cannot be read.
pub fn of_host(file: &Path) -> Vec<IpAddr> {
    let mut list = parse(&read(file));
    list.truncate(MAX_RESOLVERS);
    list
}

/// All IPv4 resolvers in `file`, however many, that another host has; none where it cannot be read.
pub fn ipv4_in(file: &Path) -> Vec<Ipv4Addr> {
    ipv4(&read(file)).filter(is_reachable).collect()
}

/// Whether `file` names a resolver, whatever its address.
pub fn names_any(file: &Path) -> bool {
    read(file).lines().any(|line| line.split_ascii_whitespace().next() == Some("nameserver"))
}

fn read(file: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(file) {
        // What cannot be read counts as not written.
        drop(file.take(64 << 10).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The resolvers that `text` names, each once. Those with a scope (`fe80::1%eth0`) are left out.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().and_then(|word| word.parse().ok());
        list.extend(address.filter(|a| !list.contains(a)));
    }
    list
}

/// Those of [`parse`] that a guest can reach.
fn reachable(text: &str) -> Vec<Ipv4Addr> {
    ipv4(text).filter(is_reachable).take(MAX_RESOLVERS).collect()
}

fn ipv4(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    parse(text).into_iter().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    })
}

/// Whether the address means the same in a guest as on the host, and the rules let it through.
fn is_reachable(address: &Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_resolvers_lead_to_the_upstream_file_and_never_to_a_guest() {
        let temp = tempfile::tempdir().unwrap();
        let (stub, real) = (temp.path().join("stub"), temp.path().join("real"));
        std::fs::write(&stub, "# c\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n").unwrap();
        assert_eq!(upstream(&[&stub, &real]), [] as [Ipv4Addr; 0]);
        std::fs::write(&real, "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\n")
            .unwrap();
        assert_eq!(upstream(&[&stub, &real]), [Ipv4Addr::new(192, 0, 2, 1)]);
        std::fs::write(&stub, "nameserver 127.0.0.53\nnameserver\t198.51.100.7 \n").unwrap();
        assert_eq!(upstream(&[&stub, &real]), [Ipv4Addr::new(198, 51, 100, 7)]);
        let all = ["127.0.0.53", "198.51.100.7"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(of_host(&stub), all, "the host itself reaches its stub");
    }

    #[test]
    fn odd_files_name_few_or_none() {
        let many: String = (1..9).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
        assert_eq!(reachable(&many).len(), MAX_RESOLVERS);
        assert_eq!(
            reachable("nameserver 0.0.0.0\nnameserver 169.254.1.1\nnameserver x\nnameserver"),
            [] as [Ipv4Addr; 0]
        );
        assert_eq!(upstream(&[Path::new("/nonexistent"), Path::new("/")]), [] as [Ipv4Addr; 0]);
    }
}
