//! The host's table of connections, which all share: how much of it a guest can take, and that it is given back.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::link_layer::{BRIDGE_MAC, GATEWAY, GUEST, GUEST_MAC, Wire, ipv4, udp_from, wire};
use super::packets::{OUTSIDE, outside, seen_by};
use super::reach::counted;
use super::{document, etc, isolated, ok};
use crate::support::eventually;

/// The outside that answers nobody on these ports (TEST-NET-2), as [`outside`] has it.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const TOO_FAST: &str = "dropped: new connections too fast";
const TOO_MANY: &str = "dropped: too many connections";

/// How many connections the kernel keeps track of, in this network namespace.
fn tracked() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").expect("a count");
    text.trim().parse().expect("a number")
}

/// One packet to each of `count` ports of `to`, or from as many.
fn flood(wire: &mut Wire, to: Ipv4Addr, count: u16) {
    for port in 0..count {
        let (from, at) = if to == GATEWAY { (1024 + port, 53) } else { (4000, 1024 + port) };
        wire.send(BRIDGE_MAC, GUEST_MAC, &[], 0x0800, &ipv4(GUEST, to, &udp_from(from, at, b"?")));
    }
}

fn policy(text: &str) {
    etc("resolv.conf", "");
    etc("banger/netd.toml", text);
}

#[test]
fn a_guest_that_opens_connections_all_the_time_takes_its_share() {
    isolated("netd::connections::a_guest_that_opens_connections_all_the_time_takes_its_share", || {
        let _outside = outside();
        policy("");
        let attached = ok("attach", &document(2));
        let mut wire = wire();
        // Beyond the host and at it; in any second no more than a thousand new ones.
        flood(&mut wire, SOMEWHERE, 30_000);
        flood(&mut wire, GATEWAY, 30_000);
        let taken = tracked();
        assert!((500..8_000).contains(&taken), "{taken} of 60000");
        assert!(counted(&attached, TOO_FAST) > 40_000);
        // A stream of packets without an answer is one connection.
        let before = counted(&attached, TOO_FAST);
        let stream = ipv4(GUEST, SOMEWHERE, &udp_from(4000, 1030, b"again"));
        (0..5000).for_each(|_| wire.send(BRIDGE_MAC, GUEST_MAC, &[], 0x0800, &stream));
        assert_eq!(counted(&attached, TOO_FAST), before);
        assert!(seen_by(OUTSIDE).is_ok(), "the host itself has room");
        let own = tracked();
        ok("detach", &attached);
        assert!(own > 500, "{own}");
        eventually("they are forgotten", || tracked() < 20);
        // The same by gc.
        drop(wire);
        ok("attach", &document(2));
        flood(&mut self::wire(), SOMEWHERE, 900);
        let own = tracked();
        super::gc(&[]);
        assert!(tracked() < 20 && own > 500, "{} of {own} were left behind", tracked());
    });
}

#[test]
fn a_guest_has_so_many_connections_at_once_and_others_are_not_concerned() {
    isolated(
        "netd::connections::a_guest_has_so_many_connections_at_once_and_others_are_not_concerned",
        || {
            let _outside = outside();
            policy("connections = 100\nnew_connections = 1000000\n");
            let attached = ok("attach", &document(2));
            let other = ok("attach", &document(3));
            assert_eq!(ok("attach", &attached)["result"]["changed"], false);
            let mut wire = wire();
            flood(&mut wire, SOMEWHERE, 2_000);
            flood(&mut wire, GATEWAY, 2_000);
            assert!((90..=110).contains(&tracked()), "{}", tracked());
            assert!(counted(&attached, TOO_MANY) > 3_000);
            assert_eq!((counted(&attached, TOO_FAST), counted(&other, TOO_MANY)), (0, 0));
            let guest = super::guest::boot(&super::tap(3), 3);
            assert!(guest.run(|| seen_by(OUTSIDE)).is_ok());
            assert!(counted(&other, TOO_MANY) == 0);
            let rules: Vec<Value> = ok("status", &attached)["rules"].as_array().expect("a list").clone();
            assert!(rules.iter().any(|rule| rule["rule"] == json!(TOO_MANY)));
            // Another number holds from the next change on; until then nothing is wrong.
            etc("banger/netd.toml", "connections = 200\n");
            ok("check", &attached);
            // The others' connections stay.
            ok("detach", &attached);
            eventually("they are forgotten", || tracked() < 50);
            let left = tracked();
            assert!(left > 1, "{left}");
            drop(guest);
            ok("detach", &other);
            // What is left is the host's own, such as what its bridge said about groups (IGMP).
            eventually("they are forgotten", || tracked() < left);
            assert!(!Path::new("/sys/class/net").join(super::tap(2)).exists());
        },
    );
}
