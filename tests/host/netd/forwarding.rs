//! A host that is no router becomes none for others because of its guests, proved with packets from one of its neighbours to another.

use serde_json::json;

use super::guest::{Namespace, boot};
use super::packets::{OUTSIDE, assert_lost, listen, outside, seen_by, serve, unseen_by};
use super::snapshot::snapshot_with_settings;
use super::{STATE, document, document_in, ip, isolated, ok, sh, tap};

/// A neighbour on another link than the outside, which takes the host for its router (TEST-NET-1).
fn neighbour(name: &str, n: u8) -> Namespace {
    let (neighbour, ()) = Namespace::new(|| ());
    ip(&["link", "add", name, "type", "veth", "peer", "name", "near1"]);
    neighbour.take_link("near1");
    ip(&["address", "add", &format!("192.0.2.{n}/30"), "dev", name]);
    ip(&["link", "set", name, "up"]);
    let own = n + 1;
    neighbour.sh(&format!(
        "ip link set lo up; ip address add 192.0.2.{own}/30 dev near1; ip link set near1 up; ip route add default via 192.0.2.{n}"
    ));
    neighbour
}

fn ip_forward(value: &str) {
    assert!(sh(&format!("echo {value} > /proc/sys/net/ipv4/ip_forward")).status.success());
}

/// Both sides know the way to each other.
fn two_sides() -> (Namespace, Namespace) {
    ip_forward("0");
    let outside = outside();
    outside.sh("ip route add 192.0.2.0/24 via 198.51.100.2");
    (neighbour("near0", 1), outside)
}

#[test]
fn guests_get_out_and_neighbours_do_not_get_through() {
    isolated("netd::forwarding::guests_get_out_and_neighbours_do_not_get_through", || {
        let (near, outside) = two_sides();
        near.run(|| serve(listen("0.0.0.0:80")));
        assert_lost(near.run(|| unseen_by(OUTSIDE)));
        let before = snapshot_with_settings();
        let mut published = document(2);
        published["vm"]["publish"] =
            json!([{ "host_ip": null, "host_port": 8080, "guest_port": 80, "protocol": "tcp" }]);
        let attached = ok("attach", &published);
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        let guest = boot(&tap(2), 2);
        guest.run(|| serve(listen("0.0.0.0:80")));
        assert_eq!(guest.run(|| seen_by(OUTSIDE)).expect("the guest gets out"), "198.51.100.2");
        assert_eq!(outside.run(|| seen_by("198.51.100.2:8080")).expect("and is reached"), "198.51.100.1");
        assert!(near.run(|| seen_by("192.0.2.1:8080")).is_ok());
        assert_lost(near.run(|| unseen_by(OUTSIDE)));
        assert_lost(outside.run(|| unseen_by("192.0.2.2:80")));
        // A link that came later is not let through either.
        let late = neighbour("near2", 5);
        assert_lost(late.run(|| unseen_by(OUTSIDE)));
        assert!(guest.run(|| seen_by(OUTSIDE)).is_ok());
        // Whoever flushes the rules is noticed; and the links are remembered all the same.
        assert!(sh("nft flush ruleset").status.success());
        ok("attach", &attached);
        ok("check", &attached);
        assert_lost(near.run(|| unseen_by(OUTSIDE)));
        ok("detach", &attached);
        assert!(sh("grep -q 0 /proc/sys/net/ipv4/conf/near2/forwarding").status.success());
        ip(&["link", "del", "near2"]);
        drop(late);
        before.assert_still("after the last VM");
        assert_lost(near.run(|| unseen_by(OUTSIDE)));
    });
}

#[test]
fn the_last_bridge_switches_it_off_unless_somebody_wants_it_on() {
    isolated("netd::forwarding::the_last_bridge_switches_it_off_unless_somebody_wants_it_on", || {
        let (near, _outside) = two_sides();
        let before = snapshot_with_settings();
        let (mine, theirs) = (document(2), document_in("ffffffff", "99.1", 2));
        ok("attach", &mine);
        ok("attach", &theirs);
        ok("detach", &mine);
        ok("check", &ok("attach", &theirs));
        assert_lost(near.run(|| unseen_by(OUTSIDE)));
        // The last one goes by gc.
        let none = json!({ "schema": "banger.vms/1", "state_id": "ffffffff", "items": [] });
        ok("gc", &none);
        before.assert_still("after both");
        // Somebody becomes a router meanwhile, and stays one; the next attach takes the guard away.
        ok("attach", &mine);
        ip_forward("1");
        ok("attach", &document(3));
        assert!(near.run(|| seen_by(OUTSIDE)).is_ok());
        [2, 3].iter().for_each(|n| drop(ok("detach", &document(*n))));
        assert!(near.run(|| seen_by(OUTSIDE)).is_ok());
        // The same where only detach notices.
        ip_forward("0");
        ok("attach", &mine);
        ip_forward("1");
        ok("detach", &mine);
        assert!(near.run(|| seen_by(OUTSIDE)).is_ok());
        assert!(!String::from_utf8(sh("nft list ruleset").stdout).expect("text").contains("banger"));
        assert!(!sh(&format!("ip link show bgr{STATE}")).status.success());
    });
}
