//! A VM's own part of the rules: what its guest may reach, who reaches it, and what it may send at all.
//!
//! Every rule has a comment, its label: `check` tells by the labels whether a VM's rules are those that the record wants, and
//! `status` shows the counters under them. Labels hold nothing but checked values.

use std::fmt::Write;

use super::request::{Names, TapRequest};
use banger_contract::host_policy::ConnectionLimits;
use banger_contract::policy::{EgressPolicy, Protocol, Publish};

/// The map in each table that leads to the VMs' chains.
pub(super) const GUESTS: &str = "guests";
/// The addresses of the VMs that reach each other.
pub(super) const PEERS: &str = "peers";
/// The addresses of the VMs that may ask any resolver of the host's.
pub(super) const NAMES: &str = "names";
/// The addresses of all VMs; the elements count what is refused at the host itself.
pub(super) const AT_HOST: &str = "at_host";
/// Address, protocol and port of what may be reached in guests.
pub(super) const OPEN_PORTS: &str = "open_ports";
/// All sets that hold VMs' addresses.
pub(super) const SETS: [&str; 4] = [AT_HOST, NAMES, PEERS, OPEN_PORTS];
/// The maps that lead from published ports to the VMs' chains, the first by address as well.
pub(super) const PUBLISHED: [&str; 2] = ["published_at", "published"];

/// The map that leads to the chains in which VMs' connections are counted.
pub(super) const LIMITED: &str = "limited";
/// All maps of the inet table by which VMs' chains are reached, beside that of the guests.
pub(super) const MAPS: [&str; 3] = [PUBLISHED[0], PUBLISHED[1], LIMITED];

/// Labels of rules that refuse or drop.
pub(super) const REFUSED_PEER: &str = "refused: other VMs";
pub(super) const REFUSED_LINK_LOCAL: &str = "refused: link-local services";
pub(super) const REFUSED_NAT: &str = "refused: nat is off";
pub(super) const REFUSED_EGRESS: &str = "refused: egress";
pub(super) const TOO_FAST: &str = "dropped: new connections too fast";
pub(super) const TOO_MANY: &str = "dropped: too many connections";
/// Labels of rules that let through.
pub(super) const PEER: &str = "let through: peers";
pub(super) const OPEN: &str = "let through: outside";
pub(super) const ALLOWED: &str = "let through: ";
pub(super) const PUBLISH: &str = "published: ";

/// The expression that a kernel may lack (nft_connlimit): then only the rate is bounded.
pub(super) const COUNTED: &str = "ct count";

/// The VM's own part. Chains are flushed first: what a crash left of the same VM is replaced.
pub(super) fn script(request: &TapRequest) -> String {
    let Names { table, tap, published, limits, .. } = &request.names;
    let address = request.address;
    let mut out = String::new();
    for (family, chain, rules) in [
        ("inet", tap.as_str(), reach(request)),
        ("inet", published.as_str(), translations(request)),
        ("inet", limits.as_str(), connections(request)),
        ("bridge", tap.as_str(), frames(request)),
    ] {
        write!(out, "add chain {family} {table} {chain}\nflush chain {family} {table} {chain}\n")
            .expect("to a string");
        for rule in rules {
            writeln!(out, "add rule {family} {table} {chain} {rule}").expect("to a string");
        }
    }
    let mut element = |family: &str, set: &str, element: String| {
        writeln!(out, "add element {family} {table} {set} {{ {element} }}").expect("to a string");
    };
    for (set, keys) in memberships(request) {
        keys.into_iter().for_each(|key| element("inet", set, key));
    }
    for publish in &request.publish {
        let (map, key) = published_key(publish);
        element("inet", map, format!("{key} comment \"{}\" : jump {published}", request.name));
    }
    element("inet", GUESTS, format!("{address} : jump {tap}"));
    element("inet", LIMITED, format!("{address} : jump {limits}"));
    element("bridge", GUESTS, format!("\"{tap}\" : jump {tap}"));
    out
}

/// The map that holds a published port, and its key there.
pub(super) fn published_key(publish: &Publish) -> (&'static str, String) {
    let Publish { host_ip, host_port, protocol, .. } = publish;
    match host_ip {
        Some(ip) => (PUBLISHED[0], format!("{ip} . {protocol} . {host_port}")),
        None => (PUBLISHED[1], format!("{protocol} . {host_port}")),
    }
}

/// The sets that hold the VM's address, each with its keys there, sorted.
pub(super) fn memberships(request: &TapRequest) -> [(&'static str, Vec<String>); 4] {
    let address = request.address.to_string();
    let key = |publish: &Publish| format!("{address} . {} . {}", publish.protocol, publish.guest_port);
    let mut ports: Vec<String> = request.publish.iter().map(key).collect();
    ports.sort();
    ports.dedup();
    let peers = request.peer.then(|| address.clone()).into_iter().collect();
    let open = request.nat && request.egress.is_open();
    let names = open.then(|| address.clone()).into_iter().collect();
    [(AT_HOST, vec![address]), (NAMES, names), (PEERS, peers), (OPEN_PORTS, ports)]
}

/// What the guest's packets may reach, and the answers to them: both directions of a connection pass here, so addresses and ports are
/// those of its first packet.
fn reach(request: &TapRequest) -> Vec<String> {
    let bridge = &request.names.bridge;
    let between = format!("iifname \"{bridge}\" oifname \"{bridge}\"");
    let mut rules = Vec::new();
    if request.peer {
        rules.push(format!("{between} ip daddr @{PEERS} counter accept comment \"{PEER}\""));
    }
    rules.push(format!("{between} counter jump refuse comment \"{REFUSED_PEER}\""));
    rules.push(format!(
        "ct original ip daddr 169.254.0.0/16 counter jump refuse comment \"{REFUSED_LINK_LOCAL}\""
    ));
    let refused = |label: &str| format!("counter jump refuse comment \"{label}\"");
    match request.egress.policy {
        _ if !request.nat => rules.push(refused(REFUSED_NAT)),
        EgressPolicy::Open => rules.push(format!("counter accept comment \"{OPEN}\"")),
        EgressPolicy::None => rules.push(refused(REFUSED_EGRESS)),
        EgressPolicy::Allow => {
            rules.extend(request.egress.allow.iter().map(|entry| {
                let to = match entry.network.prefix_len() {
                    0 => String::new(),
                    _ => format!("ct original ip daddr {} ", entry.network),
                };
                let port = match (entry.port, entry.protocol.unwrap_or(Protocol::Tcp)) {
                    (Some(port), protocol) => {
                        format!("meta l4proto {protocol} ct original proto-dst {port} ")
                    }
                    (None, _) => String::new(),
                };
                format!("{to}{port}counter accept comment \"{ALLOWED}{entry}\"")
            }));
            rules.push(refused(REFUSED_EGRESS));
        }
    }
    rules
}

/// How many connections the guest may open. The first rule spares the kernel the counting of a flood.
fn connections(request: &TapRequest) -> Vec<String> {
    let ConnectionLimits { all, new } = request.connections;
    vec![
        format!("limit rate over {new}/second burst {new} packets counter drop comment \"{TOO_FAST}\""),
        format!("{COUNTED} over {all} counter drop comment \"{TOO_MANY}\""),
    ]
}

/// Where published ports lead, those of one address before those of all.
fn translations(request: &TapRequest) -> Vec<String> {
    let (named, any): (Vec<_>, Vec<_>) = request.publish.iter().partition(|p| p.host_ip.is_some());
    let rules = named.into_iter().chain(any).map(|publish| {
        let Publish { host_ip, host_port, guest_port, protocol } = publish;
        let host = host_ip.map(|ip| format!("ip daddr {ip} ")).unwrap_or_default();
        let to = request.address;
        format!(
            "{host}{protocol} dport {host_port} counter dnat ip to {to}:{guest_port} comment \"{PUBLISH}{publish}\""
        )
    });
    rules.collect()
}

/// The frames that the guest may send.
fn frames(request: &TapRequest) -> Vec<String> {
    let TapRequest { address, mac, .. } = request;
    vec![
        format!("ether saddr != {mac} counter drop comment \"dropped: forged Ethernet address\""),
        // No guest has a bridge to talk to. That they come by here at all is the port's group_fwd_mask (sys/link.rs).
        "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop comment \"dropped: a group of bridges\"".to_owned(),
        // To a host whose network manager has taken the bridge for a network to join: a route to anywhere, and resolvers, of the guest's
        // choice. It listens below the inet table's rules (packet(7)).
        "ether type ip udp sport 67 udp dport 68 counter drop comment \"dropped: an offer of addresses\""
            .to_owned(),
        format!("ether type ip ip saddr {address} accept"),
        format!(
            "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac} arp saddr ip {address} accept"
        ),
        "ether type ip6 accept".to_owned(),
        "counter drop comment \"dropped: forged IPv4 address or odd frame\"".to_owned(),
    ]
}
