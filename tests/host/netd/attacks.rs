//! Hostile records, hostile neighbours: whatever is refused has changed nothing, whatever is accepted can be undone.

use std::process::Output;

use serde_json::{Value, json};

use super::snapshot::{snapshot, snapshot_with_settings};
use super::{NETD, STATE, document, document_in, ip, isolated, netd, ok, sh, tap};
use crate::support::{assert_error, command, record, run};

/// Another state directory, with a VM.
pub const OTHER: &str = "ffffffff";

const VERBS: [&str; 7] = ["attach", "detach", "check", "update", "status", "pool fill 2", "pool drain"];

/// A host on which others live: a LAN, somebody's bridge and tap, another state directory, and VM 3 of ours.
pub fn inhabited() {
    ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
    ip(&["address", "add", "192.168.50.1/24", "dev", "lan0"]);
    ip(&["link", "set", "lan0", "up"]);
    ip(&["link", "add", "br-others", "type", "bridge"]);
    ip(&["tuntap", "add", "vnet0", "mode", "tap"]);
    assert!(sh("nft add table inet others; nft add chain inet others c").status.success());
    ok("attach", &document(3));
    ok("attach", &document_in(OTHER, "99.1", 3));
}

/// The record of VM 2 with the value at `pointer` replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = document(2);
    let key = pointer.strip_prefix("/vm/").expect("a key of vm");
    document["vm"][key] = value;
    document
}

pub fn raw(verb: &str, input: &[u8]) -> Output {
    run(command(NETD).args(verb.split(' ')), input)
}

/// What an attacker writes where a name or an address belongs.
pub const STRINGS: [&str; 24] = [
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "eth0",
    "all",
    "default",
    "*",
    "%d",
    "-j",
    "lo\0",
    "0123456789abcdef",
    "bgt0a1b2c3d0003",
    "\"",
    "'; nft flush ruleset; '",
    "} ; flush ruleset ; {",
    "x }\nflush ruleset\nadd table inet y {",
    "$(id)",
    "\u{202e}gbt",
    "10.213.7.2, 10.213.7.9",
    "@guests",
    "0a1b2c3d\naccept",
];

#[test]
fn what_is_refused_has_changed_nothing() {
    isolated("netd::attacks::what_is_refused_has_changed_nothing", || {
        inhabited();
        let before = snapshot_with_settings();
        let mut cases = 0;
        let mut refuse = |verb: &str, input: &[u8], what: &str| {
            let output = raw(verb, input);
            assert_error(&output, 2, "bad-input");
            let line = String::from_utf8_lossy(&output.stderr);
            assert!(line.len() < 1000 && line.lines().count() == 1, "{what}: {line}");
            assert!(!line.chars().any(|c| c.is_control() && c != '\n'), "{what}: {line:?}");
            cases += 1;
        };
        // What becomes part of a name or of a rule, whatever the verb.
        for verb in VERBS {
            for field in ["id", "state_id", "mac", "address", "gateway", "name"] {
                for text in STRINGS.into_iter().filter(|text| !(field == "name" && is_name(text))) {
                    refuse(verb, with(&format!("/vm/{field}"), json!(text)).to_string().as_bytes(), text);
                }
            }
            for (field, value) in [
                ("id", json!("0123456789AB")),
                ("id", json!("0".repeat(13))),
                ("state_id", json!("0a1b2c3d0")),
                ("owner_uid", json!(-1)),
                ("owner_uid", json!(1_u64 << 32)),
                ("owner_uid", json!("0")),
                ("owner_uid", json!(0.5)),
                ("prefix_len", json!(256)),
                ("prefix_len", json!(-1)),
                ("prefix_len", json!(1e300)),
                ("net_mode", json!("host")),
                ("nat", json!("yes")),
                (
                    "publish",
                    json!([{ "host_ip": null, "host_port": 65536, "guest_port": 1, "protocol": "tcp" }]),
                ),
                (
                    "publish",
                    json!([{ "host_ip": null, "host_port": -1, "guest_port": 1, "protocol": "tcp" }]),
                ),
                ("publish", json!([{ "host_ip": "x", "host_port": 1, "guest_port": 1, "protocol": "tcp" }])),
                (
                    "publish",
                    json!([{ "host_ip": null, "host_port": 1, "guest_port": 1, "protocol": "tcp; accept" }]),
                ),
                ("publish", json!({})),
                ("egress", json!("open")),
                ("egress", json!({ "policy": "allow", "allow": ["10.0.0.0/8"] })),
                ("egress", allow("10.0.0.1/8", json!(null), json!(null))),
                ("egress", allow("0.0.0.0/0 accept", json!(null), json!(null))),
                ("egress", allow("::/0", json!(null), json!(null))),
                ("egress", allow("10.0.0.0/8", json!(65536), json!("tcp"))),
                ("egress", allow("10.0.0.0/8", json!(1), json!("icmp"))),
                ("egress", json!({ "policy": "open", "allow": [], "more": 1 })),
                ("peer", json!("yes")),
                ("open_firewall", json!(1)),
            ] {
                let input = with(&format!("/vm/{field}"), value.clone()).to_string();
                refuse(verb, input.as_bytes(), &input);
            }
            for key in document(2)["vm"].as_object().expect("an object").keys() {
                let mut without = document(2);
                without["vm"].as_object_mut().expect("an object").remove(key);
                let required = !raw(verb, without.to_string().as_bytes()).status.success();
                assert!(required || OPTIONAL.contains(&key.as_str()), "{verb} does without vm.{key}");
                ok("detach", &document(2));
                ok("pool drain", &document(2));
            }
        }
        // What only an attach relies on.
        for (field, value) in [
            ("prefix_len", json!(0)),
            ("prefix_len", json!(8)),
            ("prefix_len", json!(15)),
            ("prefix_len", json!(31)),
            ("prefix_len", json!(32)),
            ("gateway", json!("0.0.0.0")),
            ("gateway", json!("0.0.0.1")),
            ("gateway", json!("127.0.0.1")),
            ("gateway", json!("169.254.169.254")),
            ("gateway", json!("224.0.0.1")),
            ("gateway", json!("255.255.255.255")),
            ("gateway", json!("8.8.8.8")),
            ("gateway", json!("172.32.0.1")),
            ("gateway", json!("10.213.7.2")),
            ("gateway", json!("10.213.7.0")),
            ("gateway", json!("10.213.7.255")),
            ("address", json!("10.213.7.1")),
            ("address", json!("10.213.7.0")),
            ("address", json!("10.213.7.255")),
            ("address", json!("10.213.8.2")),
            ("address", json!("127.0.0.2")),
            ("mac", json!("ff:ff:ff:ff:ff:ff")),
            ("mac", json!("01:00:5e:00:00:01")),
            ("mac", json!("00:00:00:00:00:00")),
            ("mac", json!("52:54:00:12:34:56:78")),
            ("owner_uid", json!(u32::MAX)),
            ("publish", json!([port(json!(null), 80), port(json!(null), 80)])),
            ("publish", json!([port(json!("192.0.2.1"), 80), port(json!("192.0.2.1"), 80)])),
            ("publish", json!([port(json!("0.0.0.0"), 80)])),
            ("publish", json!([port(json!("224.0.0.1"), 80)])),
            ("publish", json!([port(json!("255.255.255.255"), 80)])),
            ("egress", json!({ "policy": "allow", "allow": [] })),
            (
                "egress",
                json!({ "policy": "none", "allow": allow("10.0.0.0/8", json!(1), json!("tcp"))["allow"] }),
            ),
            ("egress", allow("10.0.0.0/8", json!(0), json!("tcp"))),
            ("egress", allow("10.0.0.0/8", json!(null), json!("tcp"))),
            ("egress", allow("10.0.0.0/8", json!(1), json!(null))),
            ("egress", {
                let entry = |n| json!({ "network": format!("10.{}.{}.0/24", n / 250, n % 250), "port": null, "protocol": null });
                json!({ "policy": "allow", "allow": (0..1000).map(entry).collect::<Vec<_>>() })
            }),
            ("publish", json!([{ "host_ip": null, "host_port": 0, "guest_port": 1, "protocol": "tcp" }])),
            ("publish", json!([{ "host_ip": null, "host_port": 1, "guest_port": 0, "protocol": "udp" }])),
            (
                "publish",
                json!(
                    (1..=5000)
                        .map(
                            |n| json!({ "host_ip": null, "host_port": n, "guest_port": 1, "protocol": "tcp" })
                        )
                        .collect::<Vec<_>>()
                ),
            ),
        ] {
            let input = with(&format!("/vm/{field}"), value).to_string();
            refuse("attach", input.as_bytes(), &input);
        }
        before.assert_still("after all of it");
        assert!(cases > 400, "only {cases}");
    });
}

/// What a record may leave out.
const OPTIONAL: [&str; 4] = ["ttl_s", "egress", "peer", "open_firewall"];

/// An egress of one entry.
fn allow(network: &str, port: Value, protocol: Value) -> Value {
    json!({ "policy": "allow", "allow": [{ "network": network, "port": port, "protocol": protocol }] })
}

/// A published port.
fn port(host_ip: Value, host_port: u32) -> Value {
    json!({ "host_ip": host_ip, "host_port": host_port, "guest_port": 1, "protocol": "tcp" })
}

/// Whether a text that looks hostile is a VM's name all the same.
fn is_name(text: &str) -> bool {
    matches!(text, "eth0" | "all" | "default" | "0123456789abcdef" | "bgt0a1b2c3d0003")
}

#[test]
fn input_of_any_shape_is_refused_at_once() {
    isolated("netd::attacks::input_of_any_shape_is_refused_at_once", || {
        inhabited();
        let before = snapshot_with_settings();
        let valid = document(2).to_string();
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let nested = |depth| format!("{},\"x\":{}}}", &valid[..valid.len() - 1], deep(depth));
        let inputs: Vec<Vec<u8>> = vec![
            nested(100_000).into(),
            deep(2_000_000).into(),
            format!("{valid}{valid}").into(),
            format!("{valid} x").into(),
            format!("\u{feff}{valid}").into(),
            valid.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            valid.replace("debian", "deb\u{0}ian\u{1b}[2J").into(),
            valid.replace("\"debian\"", "\"\\ud800\"").into(),
            valid.replace("512", &"9".repeat(100_000)).into(),
            format!("{}{}", valid, " ".repeat(5 << 20)).into(),
            valid
                .replacen('{', "{\"schema\":\"banger.vm/1\",\"schema\":\"x\",", 1)
                .replace("banger.vm/1", "banger.vm/9")
                .into(),
            b"null".to_vec(),
            b"\"banger.vm/1\"".to_vec(),
            b"1e999".to_vec(),
            vec![0; 4096],
            vec![0xff; 4096],
        ];
        for verb in VERBS.into_iter().chain(["gc"]) {
            for input in &inputs {
                let shown: String = String::from_utf8_lossy(input).chars().take(80).collect();
                let output = raw(verb, input);
                assert_eq!(output.status.code(), Some(2), "{verb}: {shown}");
                assert_eq!(record(&output)["schema"], "banger.error/1", "{verb}: {shown}");
            }
        }
        // Long lists are read, and short work.
        let items: Vec<Value> = (0..60_000).map(|n| json!({ "id": format!("{n:012x}") })).collect();
        let mut list = json!({ "schema": "banger.vms/1", "state_id": "11111111", "items": items });
        assert_eq!(ok("gc", &list)["removed"], json!([]));
        for bad in STRINGS {
            list["items"] = json!([{ "id": bad }]);
            assert_error(&netd("gc", &list), 2, "bad-input");
            list["state_id"] = json!(bad);
            assert_error(&netd("gc", &list), 2, "bad-input");
            list["state_id"] = json!("11111111");
        }
        before.assert_still("after all of it");
    });
}

#[test]
fn the_section_net_cannot_name_what_is_others() {
    isolated("netd::attacks::the_section_net_cannot_name_what_is_others", || {
        inhabited();
        let without = snapshot_with_settings();
        let mut attached = ok("attach", &document(2));
        for (field, value) in [
            ("bridge", json!("br-others")),
            ("bridge", json!(format!("bgr{OTHER}"))),
            ("tap", json!("vnet0")),
            ("tap", json!(tap(3))),
            ("tap", json!("lo")),
            ("address", json!("10.213.7.3")),
            ("gateway", json!("192.168.50.1")),
            ("ssh_host", json!("192.168.50.1")),
            ("ssh_port", json!(1)),
            ("mode", json!("user")),
        ] {
            let before = snapshot_with_settings();
            let mut forged = attached.clone();
            forged["net"][field] = value;
            assert_error(&netd("attach", &forged), 1, "conflict");
            assert_error(&netd("check", &forged), 1, "conflict");
            before.assert_still(field);
            // From the VM's own names, whatever the section says.
            ok("detach", &forged);
            without.assert_still(field);
            attached = ok("attach", &document(2));
        }
        for (field, value) in
            [("bridge", json!("a/b")), ("tap", json!("x\n")), ("tap", json!("0123456789abcdef"))]
        {
            let mut forged = attached.clone();
            forged["net"][field] = value;
            let verbs = ["attach", "detach", "check", "update", "status"];
            verbs.iter().for_each(|verb| drop(assert_error(&netd(verb, &forged), 2, "bad-input")));
        }
    });
}

#[test]
fn subnets_that_swallow_what_is_others_are_conflicts() {
    isolated("netd::attacks::subnets_that_swallow_what_is_others_are_conflicts", || {
        inhabited();
        ip(&["route", "add", "10.77.0.0/16", "via", "192.168.50.9"]);
        ip(&["route", "add", "10.78.0.9/32", "dev", "lan0"]);
        ip(&["route", "add", "blackhole", "172.20.0.0/14"]);
        ip(&["address", "add", "10.79.0.9/32", "dev", "lan1"]);
        ip(&["route", "add", "default", "via", "192.168.50.254"]);
        let before = snapshot_with_settings();
        for (gateway, prefix_len) in [
            ("192.168.50.2", 24),
            ("192.168.50.126", 30),
            ("192.168.50.254", 16),
            ("10.77.3.1", 24),
            ("10.78.0.1", 24),
            ("10.78.200.1", 16),
            ("10.79.0.1", 24),
            ("172.22.1.1", 24),
            ("10.99.1.2", 24),
            ("10.99.0.1", 16),
        ] {
            // Not of the state directory that has a bridge already.
            let mut wide = document_in("22222222", "213.9", 2);
            let address: std::net::Ipv4Addr = gateway.parse().expect("an address");
            let neighbour = std::net::Ipv4Addr::from_bits(address.to_bits() ^ 3);
            wide["vm"]["gateway"] = json!(gateway);
            wide["vm"]["address"] = json!(neighbour);
            wide["vm"]["prefix_len"] = json!(prefix_len);
            let error = assert_error(&netd("attach", &wide), 1, "conflict");
            assert!(error["error"]["details"]["link"].is_string(), "{gateway}/{prefix_len}: {error}");
            before.assert_still(gateway);
        }
    });
}

#[test]
fn links_of_others_under_our_names_are_left_alone() {
    isolated("netd::attacks::links_of_others_under_our_names_are_left_alone", || {
        inhabited();
        let (name, bridge) = (tap(2), format!("bgr{STATE}"));
        let tag = format!("banger:{STATE}:0");
        // How another's link comes by the name of our tap, and what its alias says.
        let taps = [
            format!("ip link add {name} type veth peer name peer0"),
            format!("ip link add {name} type veth peer name peer0; ip link set {name} alias {tag}"),
            format!("ip link add {name} type bridge; ip link set {name} alias {tag}"),
            format!("ip tuntap add {name} mode tap"),
            format!("ip tuntap add {name} mode tap; ip link set {name} alias banger:{OTHER}:0"),
            format!("ip tuntap add {name} mode tap; ip link set {name} alias banger:{STATE}:00"),
            format!("ip tuntap add {name} mode tap; ip link set {name} alias '{tag} '"),
            format!("ip tuntap add {name} mode tap; ip link set {name} alias {tag}:{tag}"),
            format!("ip link property add dev lan0 altname {name}"),
            format!("ip link property add dev vnet0 altname {name}"),
        ];
        for script in taps {
            refuse_all(&script, &document(2));
            assert!(sh(&format!("ip link property del dev lan0 altname {name}; ip link property del dev vnet0 altname {name};
                ip link del {name}; true")).status.success());
        }
        ok("detach", &document(3));
        let bridges = [
            format!("ip link add {bridge} type veth peer name peer0"),
            format!("ip link add {bridge} type veth peer name peer0; ip link set {bridge} alias {tag}"),
            format!("ip tuntap add {bridge} mode tap"),
            format!("ip link add {bridge} type bridge; ip link set {bridge} alias lan"),
            format!("ip link add {bridge} type bridge; ip link set {bridge} alias banger:{OTHER}:0"),
            format!("ip link property add dev br-others altname {bridge}"),
        ];
        for script in bridges {
            refuse_all(&script, &document(2));
            assert!(
                sh(&format!(
                    "ip link property del dev br-others altname {bridge}; ip link del {bridge}; true"
                ))
                .status
                .success()
            );
        }
        // A tap of somebody's with our tag and another name.
        assert!(sh(&format!("ip link set vnet0 alias {tag}")).status.success());
        let before = snapshot();
        assert_eq!(super::gc(&[])["removed"], json!([]));
        before.assert_still("gc, and a forged tag");
    });
}

/// Runs `script`, and then everything that could touch what it made.
#[track_caller]
fn refuse_all(script: &str, document: &Value) {
    assert!(sh(&format!("set -e; {script}")).status.success(), "{script}");
    let before = snapshot_with_settings();
    for verb in ["attach", "detach"] {
        assert_error(&netd(verb, document), 1, "conflict");
        before.assert_still(&format!("{verb} after {script}"));
    }
    super::gc(&[&super::document(3)]);
    before.assert_still(&format!("gc after {script}"));
}

#[test]
fn sudo_says_who_asks_and_nothing_else_does() {
    isolated("netd::attacks::sudo_says_who_asks_and_nothing_else_does", || {
        inhabited();
        let before = snapshot_with_settings();
        let sudo = |verb: &str, uid: &str, input: &Value| {
            run(command(NETD).args(verb.split(' ')).env("SUDO_UID", uid), input.to_string().as_bytes())
        };
        for uid in ["", " ", "-1", "+1000 ", "0x0", "4294967296", "root", "0\n", "1e3", "\u{0661}"] {
            for verb in VERBS {
                assert_error(&sudo(verb, uid, &document(2)), 2, "bad-input");
            }
            let empty = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [] });
            assert_error(&sudo("gc", uid, &empty), 2, "bad-input");
        }
        for verb in VERBS.into_iter().filter(|verb| !["update", "status"].contains(verb)) {
            assert_error(&sudo(verb, "1000", &document(2)), 5, "denied");
            assert_error(&sudo(verb, "1000", &with("/vm/owner_uid", json!(1001))), 5, "denied");
        }
        // One's own VM in a state directory of the same name, of a VM's of the same name: another one, in the same subnet.
        assert_error(&sudo("attach", "1000", &with("/vm/owner_uid", json!(1000))), 1, "conflict");
        let mut theirs = document(3);
        theirs["vm"]["owner_uid"] = json!(1000);
        assert_eq!(record(&sudo("detach", "1000", &theirs))["result"]["changed"], false);
        assert_eq!(record(&sudo("pool drain", "1000", &theirs))["result"]["changed"], false);
        theirs["net"] = ok("attach", &document(3))["net"].clone();
        assert_error(&sudo("status", "1000", &theirs), 3, "not-found");
        for verb in ["update", "check", "pool fill 2"] {
            assert_error(&sudo(verb, "1000", &theirs), 1, "conflict");
        }
        let empty = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [] });
        assert_eq!(record(&sudo("gc", "1000", &empty))["removed"], json!([]));
        before.assert_still("after all of it");
    });
}
