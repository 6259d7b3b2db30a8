//! What others than root may have: which subnets, and how much of everything. The users are played by sudo's variable.

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Output;

use serde_json::{Value, json};

use super::snapshot::snapshot;
use super::{STATE, document, document_in, document_of, etc, for_user, ip, isolated, netd, ok, sh, tap};
use crate::support::{assert_error, record};

const ALICE: u32 = 61000;
const BOB: u32 = 61001;
const FILE: &str = "banger/netd.toml";

/// A record of Alice's with the gateway `gateway`.
fn at(gateway: &str, prefix_len: u8) -> Value {
    let gateway: Ipv4Addr = gateway.parse().expect("an address");
    let guest = Ipv4Addr::from_bits(gateway.to_bits() ^ 3);
    let mut document = document_of(ALICE, STATE, "213.7", 2);
    let vm = &mut document["vm"];
    (vm["gateway"], vm["address"], vm["prefix_len"]) = (json!(gateway), json!(guest), json!(prefix_len));
    document
}

/// The key of the policy that an attach of the user's was refused by.
#[track_caller]
fn refused_by(output: &Output) -> String {
    let error = assert_error(output, 5, "denied");
    let hint = error["error"]["hint"].as_str().expect("a hint");
    assert!(hint.contains("banger-netd.toml(5)"), "{error}");
    error["error"]["details"]["key"].as_str().expect("a key").to_owned()
}

fn lan() {
    ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
    ip(&["address", "add", "192.0.2.10/24", "dev", "lan0"]);
    ["lan0", "lan1"].iter().for_each(|link| drop(ip(&["link", "set", link, "up"])));
    ip(&["route", "add", "default", "via", "192.0.2.1"]);
}

#[test]
fn without_a_policy_users_stay_in_the_usual_range_and_root_does_not() {
    isolated("netd::permission::without_a_policy_users_stay_in_the_usual_range_and_root_does_not", || {
        etc("resolv.conf", "nameserver 192.0.2.1\n");
        lan();
        let before = snapshot();
        for (gateway, len) in [
            ("10.20.30.1", 24),
            ("10.212.255.1", 24),
            ("10.214.0.1", 24),
            ("192.168.1.1", 24),
            ("172.28.0.1", 16),
            ("172.30.0.1", 24),
            ("172.17.0.1", 16),
        ] {
            for verb in ["attach", "pool fill 1"] {
                assert_eq!(
                    refused_by(&for_user(ALICE, verb, &at(gateway, len))),
                    "subnets",
                    "{gateway}/{len}"
                );
            }
        }
        before.assert_still("after what was refused");
        for (gateway, len) in [("10.213.0.1", 16), ("10.213.255.1", 24), ("172.29.4.1", 24)] {
            let output = for_user(ALICE, "attach", &at(gateway, len));
            assert!(output.status.success(), "{gateway}: {}", record(&output));
            assert!(for_user(ALICE, "detach", &record(&output)).status.success());
        }
        let mut roots = at("10.20.30.1", 24);
        roots["vm"]["owner_uid"] = json!(0);
        ok("detach", &ok("attach", &roots));
        // Root attaches for somebody: that is root's to decide.
        ok("detach", &ok("attach", &at("10.20.30.1", 24)));
    });
}

#[test]
fn a_subnet_with_a_resolver_a_router_or_a_neighbour_in_it_is_nobodys() {
    isolated("netd::permission::a_subnet_with_a_resolver_a_router_or_a_neighbour_in_it_is_nobodys", || {
        lan();
        etc(
            "resolv.conf",
            "search example.test\nnameserver 192.0.2.1\nnameserver 10.213.1.53\nnameserver 10.213.2.1\n",
        );
        assert!(sh("mkdir -p /run/systemd/resolve /run/NetworkManager").status.success());
        let many = (1..9).map(|n| format!("nameserver 10.213.3.{n}\n")).collect::<String>();
        std::fs::write("/run/systemd/resolve/resolv.conf", many).expect("written");
        std::fs::write("/run/NetworkManager/no-stub-resolv.conf", "nameserver 10.213.4.4\n")
            .expect("written");
        ip(&["route", "add", "198.51.100.0/24", "via", "10.213.5.1", "dev", "lan0", "onlink"]);
        ip(&["route", "add", "10.213.6.0/24", "dev", "lan0", "table", "77"]);
        ip(&["route", "add", "203.0.113.0/24", "via", "10.213.8.1", "dev", "lan0", "onlink", "table", "78"]);
        let by = |hop| ["nexthop", "via", hop, "dev", "lan0", "onlink"];
        ip(&[&["route", "add", "198.18.0.0/15"][..], &by("192.0.2.3"), &by("10.213.9.1")].concat());
        ip(&["neigh", "add", "10.213.10.7", "lladdr", "02:00:00:00:00:77", "dev", "lan0", "nud", "stale"]);
        ip(&["route", "add", "local", "10.213.11.0/24", "dev", "lo"]);
        ip(&["route", "add", "unreachable", "10.213.12.0/24", "table", "79"]);
        ip(&["nexthop", "add", "id", "7", "via", "192.0.2.4", "dev", "lan0"]);
        let before = snapshot();
        for (third, name) in [
            (1, "/etc/resolv.conf"),
            (2, "/etc/resolv.conf"),
            (3, "/run/systemd/resolve/resolv.conf"),
            (4, "/run/NetworkManager/no-stub-resolv.conf"),
            (5, "a router on lan0"),
            (6, "lan0"),
            (8, "a router on lan0"),
            (9, "a router on lan0"),
            (10, "a neighbour on lan0"),
            (11, "lo"),
            (12, "*"),
        ] {
            let document = at(&format!("10.213.{third}.1"), 24);
            for output in [for_user(ALICE, "attach", &document), netd("attach", &document)] {
                let error = assert_error(&output, 1, "conflict");
                let holder = error["error"]["details"]["link"].as_str().expect("a holder");
                assert!(holder.contains(name), "{third}: {error}");
                assert!(error["error"]["hint"].is_string());
            }
        }
        assert_error(&for_user(ALICE, "pool fill 1", &at("10.213.1.1", 24)), 1, "conflict");
        before.assert_still("after what was refused");
        // What nobody heard of for long, or nobody answers for, is no neighbour.
        ip(&["neigh", "add", "10.213.13.7", "dev", "lan0", "nud", "failed"]);
        // The host asks banger's own resolver by the bridge that is there; that is no reason to change it not.
        let attached = record(&for_user(ALICE, "attach", &at("10.213.13.1", 24)));
        etc("resolv.conf", "nameserver 10.213.13.1\n");
        let again = for_user(ALICE, "attach", &attached);
        assert!(again.status.success(), "{}", record(&again));
        // A route that somebody leads through a guest does not shut it out.
        ip(&["route", "add", "198.51.100.128/25", "via", "10.213.13.2"]);
        assert!(for_user(ALICE, "attach", &attached).status.success());
        assert!(for_user(ALICE, "detach", &attached).status.success());
        assert_error(&for_user(ALICE, "attach", &at("10.213.13.1", 24)), 1, "conflict");
    });
}

#[test]
fn the_policy_says_who_where_and_how_much() {
    isolated("netd::permission::the_policy_says_who_where_and_how_much", || {
        etc("resolv.conf", "");
        etc(
            FILE,
            "uids = [61000]\nsubnets = ['10.77.0.0/16']\nnetworks = 2\ntaps = 3\npublished_ports = 2\n",
        );
        let of = |uid, state, net, n| document_of(uid, state, net, n);
        let (one, two, three) = ("11111111", "22222222", "33333333");
        let unlisted = for_user(BOB, "attach", &of(BOB, one, "77.1", 2));
        assert_eq!(refused_by(&unlisted), "uids");
        let hint = record(&unlisted)["error"]["hint"].as_str().expect("a hint").to_owned();
        assert!(hint.contains("vm.net_mode \"user\""), "{hint}");
        let mut as_hinted = of(BOB, one, "77.1", 2);
        as_hinted["vm"]["net_mode"] = "user".into();
        let output = for_user(BOB, "attach", &as_hinted);
        assert!(output.status.success(), "{}", record(&output));
        assert_eq!(refused_by(&for_user(ALICE, "attach", &of(ALICE, one, "213.1", 2))), "subnets");
        let publishing = |mut document: Value, ports: &[u16]| {
            let port =
                |n: &u16| json!({ "host_ip": null, "host_port": n, "guest_port": 80, "protocol": "tcp" });
            document["vm"]["publish"] = ports.iter().map(port).collect();
            document
        };
        let first = publishing(of(ALICE, one, "77.1", 2), &[7001]);
        let attached = for_user(ALICE, "attach", &first);
        assert!(attached.status.success(), "{}", record(&attached));
        let greedy = publishing(of(ALICE, one, "77.1", 3), &[7002, 7003]);
        assert_eq!(refused_by(&for_user(ALICE, "attach", &greedy)), "published_ports");
        assert!(for_user(ALICE, "attach", &publishing(of(ALICE, two, "77.2", 2), &[7002])).status.success());
        assert_eq!(refused_by(&for_user(ALICE, "attach", &of(ALICE, three, "77.3", 2))), "networks");
        assert_eq!(refused_by(&for_user(ALICE, "pool fill 2", &first)), "taps");
        assert!(for_user(ALICE, "pool fill 1", &first).status.success());
        assert_eq!(refused_by(&for_user(ALICE, "attach", &of(ALICE, two, "77.2", 3))), "taps");
        // Nothing is made when all is there; and root is not counted.
        assert!(for_user(ALICE, "attach", &first).status.success());
        ok("attach", &document(2));
        // What there is can be removed whatever the policy says by now.
        etc(FILE, "uids = []\n");
        assert_eq!(refused_by(&for_user(ALICE, "update", &record(&attached))), "uids");
        assert!(for_user(ALICE, "check", &record(&attached)).status.success());
        for verb in ["pool drain", "detach"] {
            assert!(for_user(ALICE, verb, &record(&attached)).status.success(), "{verb}");
        }
        let none = |state: &str| json!({ "schema": "banger.vms/1", "state_id": state, "items": [] });
        assert!(for_user(ALICE, "gc", &none(two)).status.success());
        assert!(!snapshot().has_link(&format!("bgr{two}")) && snapshot().has_link(&tap(2)));
    });
}

#[test]
fn a_policy_that_others_could_have_written_lets_nobody_do_anything() {
    isolated("netd::permission::a_policy_that_others_could_have_written_lets_nobody_do_anything", || {
        etc("resolv.conf", "");
        let path = std::path::Path::new("/etc").join(FILE);
        let attach = || for_user(ALICE, "attach", &document_of(ALICE, STATE, "213.7", 2));
        let before = snapshot();
        let refused = |what: &str| {
            let error = assert_error(&attach(), 5, "denied");
            let (message, hint) = (&error["error"]["message"], &error["error"]["hint"]);
            assert!(
                message.to_string().contains("/etc/banger/netd.toml") && hint.is_string(),
                "{what}: {error}"
            );
            before.assert_still(what);
            error.to_string()
        };
        for (mode, uid) in [(0o666, 0), (0o664, 0), (0o644, ALICE), (0o600, ALICE)] {
            etc(FILE, "taps = 9\n");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
            chown(&path, Some(uid), None).expect("an owner");
            refused(&format!("{mode:o} of {uid}"));
        }
        for (text, said) in [
            ("taps = many\n", "line 1"),
            ("\ntap = 1\n", "there is no key \\\"tap\\\""),
            ("subnets = ['0.0.0.0/0']\n", "subnets is"),
            ("[user.1000]\ntaps = 1\n", "no key"),
        ] {
            etc(FILE, text);
            let error = refused(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("gone", &path).expect("a link");
        refused("a link that leads nowhere");
        // Root's own networks need no permission.
        ok("detach", &ok("attach", &document_in(STATE, "213.7", 2)));
        etc(FILE, "taps = 9\n");
        std::fs::set_permissions("/etc/banger", std::fs::Permissions::from_mode(0o777)).expect("a mode");
        let hint = refused("a directory that anybody can write to");
        assert!(hint.contains("go-w"), "{hint}");
        // What the hint says helps.
        assert!(sh("chown root /etc/banger && chmod go-w /etc/banger").status.success());
        assert!(attach().status.success());
    });
}
