//! `banger-netd` without privilege: user mode, and everything that is refused before the host is touched.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{self, assert_error, record, run};

/// An ordinary user: nothing in this tier may need more, or could touch the host by mistake.
const NOBODY: u32 = 65534;

fn uid() -> u32 {
    // SAFETY: geteuid cannot fail and touches no memory.
    if support::is_root() { NOBODY } else { unsafe { libc::geteuid() } }
}

fn netd(verb: &str, stdin: &[u8]) -> Output {
    let mut command: Command = support::command(env!("CARGO_BIN_EXE_banger-netd"));
    if support::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    run(command.arg(verb).env_remove("SUDO_UID"), stdin)
}

fn vm(mode: &str) -> Value {
    json!({
        "id": "0123456789ab", "name": "dev1", "state_id": "0a1b2c3d", "owner_uid": uid(),
        "created_at": "2026-01-02T03:04:05Z", "image": "debian", "init": "lean", "hostname": "dev1",
        "vcpus": 1, "memory_mib": 512, "rootfs_size_bytes": 1 << 30, "work_size_bytes": 1 << 30, "ttl_s": null,
        "address": "10.213.7.2", "prefix_len": 24, "gateway": "10.213.7.1", "mac": "02:00:0a:d5:07:02",
        "cid": 3, "net_mode": mode, "nat": true, "publish": [], "disk_backend": "auto", "vmm_kind": "auto",
        "paths": { "dir": "/d", "rootfs": "/r", "kernel": "/k", "kernel_elf": "/e", "initrd": "/i",
            "work_seed": "/w", "upper_seed": "/u" },
    })
}

fn document(mode: &str) -> Value {
    json!({ "schema": "banger.vm/1", "vm": vm(mode), "x-unknown": [1, { "a": null }] })
}

/// The record with one value of `vm` replaced.
fn with(mode: &str, key: &str, value: Value) -> Vec<u8> {
    let mut document = document(mode);
    document["vm"][key] = value;
    document.to_string().into_bytes()
}

fn attach(document: &Value) -> Value {
    let output = netd("attach", document.to_string().as_bytes());
    let record = record(&output);
    assert!(output.status.success(), "{record}");
    record
}

#[test]
fn user_mode_needs_nothing_and_says_so() {
    let attached = attach(&document("user"));
    let net = &attached["net"];
    assert_eq!(attached["result"]["changed"], true);
    assert_eq!((&net["mode"], &net["bridge"], &net["tap"]), (&json!("user"), &Value::Null, &Value::Null));
    assert_eq!((&net["address"], &net["prefix_len"]), (&json!("10.0.2.15"), &json!(24)));
    assert_eq!((&net["gateway"], &net["dns"]), (&json!("10.0.2.2"), &json!(["10.0.2.3"])));
    assert_eq!((&net["nat"], &net["ssh_host"]), (&json!(true), &json!("127.0.0.1")));
    let port = net["ssh_port"].as_u64().expect("a port");
    assert!((20000..32768).contains(&port), "{port}");
    assert_eq!(attached["x-unknown"], json!([1, { "a": null }]), "unknown keys pass through");
    assert!(attached["disk"].is_null() && attached.get("disk").is_some());
    assert_eq!(attached["timings"][0]["tool"], "banger-netd");

    let again = attach(&attached);
    assert_eq!(again["result"]["changed"], false);
    assert_eq!(again["net"], attached["net"], "the port is kept");
    let checked = netd("check", again.to_string().as_bytes());
    assert_eq!(checked.status.code(), Some(0));

    let detached = record(&netd("detach", again.to_string().as_bytes()));
    assert_eq!((&detached["net"], &detached["result"]["changed"]), (&Value::Null, &json!(true)));
    let nothing = record(&netd("detach", detached.to_string().as_bytes()));
    assert_eq!(nothing["result"]["changed"], false);
}

#[test]
fn another_network_in_the_record_is_a_conflict() {
    let attached = attach(&document("user"));
    for (key, value) in
        [("ssh_port", json!(22)), ("address", json!("10.0.2.16")), ("ssh_host", json!("10.0.0.1"))]
    {
        let mut changed = attached.clone();
        changed["net"][key] = value;
        assert_error(&netd("attach", changed.to_string().as_bytes()), 1, "conflict");
        assert_error(&netd("check", changed.to_string().as_bytes()), 1, "conflict");
    }
    let mut published = attached.clone();
    published["vm"]["publish"] =
        json!([{ "host_ip": null, "host_port": 8080, "guest_port": 80, "protocol": "tcp" }]);
    assert_error(&netd("attach", published.to_string().as_bytes()), 1, "conflict");
    published["net"] = Value::Null;
    assert_eq!(attach(&published)["net"]["publish"], published["vm"]["publish"]);
}

#[test]
fn tap_mode_without_privilege_is_denied_and_removing_nothing_succeeds() {
    let denied = assert_error(&netd("attach", document("tap").to_string().as_bytes()), 5, "denied");
    assert!(denied["error"]["hint"].as_str().is_some_and(|hint| hint.contains("sudo")), "{denied}");
    let nothing = record(&netd("detach", document("tap").to_string().as_bytes()));
    assert_eq!((&nothing["result"]["changed"], &nothing["net"]), (&json!(false), &Value::Null));
    assert!(netd("check", document("tap").to_string().as_bytes()).status.success());
    let empty = json!({ "schema": "banger.vms/1", "state_id": "0a1b2c3d", "items": [] });
    let collected = record(&netd("gc", empty.to_string().as_bytes()));
    let expected = json!({ "schema": "banger.gc/1", "tool": "banger-netd", "removed": [], "errors": [] });
    assert_eq!(collected, expected);
}

#[test]
fn bad_records_are_refused_by_every_verb_that_takes_one() {
    let whole = document("user").to_string();
    let huge = vec![b' '; (4 << 20) + 1];
    let cases: [(&[u8], &str); 8] = [
        (b"", "no-input"),
        (b" \n", "no-input"),
        (b"[]", "bad-input"),
        (b"{\"schema\":\"banger.vm/1\"}", "bad-input"),
        (&whole.as_bytes()[..whole.len() / 2], "bad-input"),
        (&huge, "bad-input"),
        (b"{\"schema\":\"banger.vm/2\",\"vm\":{}}", "unsupported-schema"),
        (b"\xff\xfe", "bad-input"),
    ];
    for verb in ["attach", "detach", "check", "update", "status"] {
        for (input, code) in cases {
            assert_error(&netd(verb, input), 2, code);
        }
        assert_error(&netd(verb, &with("user", "surprise", json!(1))), 2, "bad-input");
        let mut net = document("user");
        net["net"] = json!({ "surprise": 1 });
        assert_error(&netd(verb, net.to_string().as_bytes()), 2, "bad-input");
    }
}

#[test]
fn hostile_values_are_refused_before_anything_is_touched() {
    let cases = [
        ("id", json!("0123456789AB")),
        ("id", json!("../../etc/pa")),
        ("state_id", json!("0a1b2c3d; nft flush ruleset")),
        ("name", json!("a/b")),
        ("name", json!("a\nb")),
        ("name", json!("a".repeat(300))),
        ("mac", json!("ff:ff:ff:ff:ff:ff")),
        ("mac", json!("00:11:22:33:44:55")),
        ("mac", json!("02:00:0a:d5:07:02 accept")),
        ("address", json!("10.213.7.1")),
        ("address", json!("10.213.8.2")),
        ("address", json!("10.213.7.0")),
        ("address", json!("10.213.7.255")),
        ("address", json!("::1")),
        ("gateway", json!("8.8.8.8")),
        ("gateway", json!("127.0.0.1")),
        ("gateway", json!("169.254.169.254")),
        ("gateway", json!("0.0.0.0")),
        ("prefix_len", json!(0)),
        ("prefix_len", json!(8)),
        ("prefix_len", json!(31)),
        ("prefix_len", json!(33)),
        ("prefix_len", json!(-1)),
        ("mtu", json!(0)),
        ("mtu", json!(1279)),
        ("mtu", json!(9001)),
        ("mtu", json!(65536)),
        ("mtu", json!(-1)),
        ("mtu", json!("1400; reboot")),
        ("owner_uid", json!(-1)),
        ("net_mode", json!("host")),
        ("egress", json!({ "policy": "allow", "allow": [] })),
        (
            "egress",
            json!({ "policy": "open", "allow": [{ "network": "10.0.0.0/8", "port": null, "protocol": null }] }),
        ),
        (
            "egress",
            json!({ "policy": "allow", "allow": [{ "network": "10.0.0.0/8", "port": 1, "protocol": null }] }),
        ),
        (
            "egress",
            json!({ "policy": "allow", "allow": [{ "network": "10.0.0.1/8", "port": null, "protocol": null }] }),
        ),
        ("egress", json!({ "policy": "allow; flush ruleset", "allow": [] })),
        ("publish", json!([{ "host_ip": "0.0.0.0", "host_port": 1, "guest_port": 1, "protocol": "tcp" }])),
        (
            "publish",
            json!([{ "host_ip": "255.255.255.255", "host_port": 1, "guest_port": 1, "protocol": "tcp" }]),
        ),
        ("publish", json!([{ "host_ip": null, "host_port": 0, "guest_port": 1, "protocol": "tcp" }])),
    ];
    for (key, value) in cases {
        let output = netd("attach", &with("tap", key, value.clone()));
        assert_error(&output, 2, "bad-input");
        let line = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(line.len() < 1000 && line.lines().count() == 1, "{key} {value}: {line}");
    }
    let many: Vec<Value> = (1..=65)
        .map(|port| json!({ "host_ip": null, "host_port": port, "guest_port": 1, "protocol": "tcp" }))
        .collect();
    assert_error(&netd("attach", &with("user", "publish", many.into())), 2, "bad-input");
}

#[test]
fn what_a_mode_cannot_do_is_unsupported_rather_than_ignored() {
    assert_error(&netd("attach", &with("user", "nat", json!(false))), 5, "unsupported");
    assert_error(&netd("attach", &with("user", "peer", json!(true))), 5, "unsupported");
    assert_error(&netd("attach", &with("user", "mtu", json!(1501))), 5, "unsupported");
    let listed = json!({ "policy": "allow", "allow": [{ "network": "192.0.2.7/32", "port": null, "protocol": null }] });
    assert_error(&netd("attach", &with("user", "egress", listed)), 5, "unsupported");
}

#[test]
fn nobody_acts_for_another_user() {
    for verb in ["attach", "detach"] {
        for mode in ["tap", "user"] {
            assert_error(&netd(verb, &with(mode, "owner_uid", json!(0))), 5, "denied");
        }
    }
    // sudo's variable counts only with root's uid.
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-netd"));
    if support::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let input = with("user", "owner_uid", json!(0));
    assert_error(&run(command.arg("attach").env("SUDO_UID", "0"), &input), 5, "denied");
}

#[test]
fn an_error_record_passes_through_unchanged() {
    let error = json!({ "schema": "banger.error/1", "error": { "code": "busy", "message": "m", "details": { "a": 1 },
        "causes": ["c"], "hint": "h", "retry": true, "tool": "banger", "verb": "vm plan" } });
    for verb in ["attach", "detach", "check", "update", "status", "gc"] {
        let output = netd(verb, error.to_string().as_bytes());
        assert_eq!(assert_error(&output, 4, "busy"), error);
        assert!(output.stderr.is_empty(), "it was told already");
    }
}

#[test]
fn gc_reads_a_strict_list() {
    let item = |id: &str| json!({ "schema": "banger.vms/1", "state_id": "0a1b2c3d", "items": [{ "id": id, "more": 1 }] });
    assert!(netd("gc", item("0123456789ab").to_string().as_bytes()).status.success());
    assert_error(&netd("gc", item("../x").to_string().as_bytes()), 2, "bad-input");
    assert_error(&netd("gc", b"{\"schema\":\"banger.vms/1\",\"items\":[]}"), 2, "bad-input");
    assert_error(&netd("gc", b"{\"schema\":\"banger.vms/2\",\"items\":[]}"), 2, "unsupported-schema");
    assert_error(&netd("gc", b"{}"), 2, "unsupported-schema");
    assert_error(&netd("gc", b""), 2, "no-input");
}

#[test]
fn version_names_the_schemas_and_wrong_arguments_are_usage() {
    let version = record(&netd("version", b""));
    assert_eq!((&version["tool"], &version["schemas"][0]), (&json!("banger-netd"), &json!("banger.vm/1")));
    assert_error(&netd("serve-everything", b""), 2, "usage");
}

#[test]
fn reach_is_planned_shown_and_changed() {
    let temp = support::state_with_fake_image();
    let banger = |args: &[&str]| {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger"));
        run(command.args(args).env("BANGER_STATE_DIR", temp.path()), b"")
    };
    let publish = ["-p", "127.0.0.1:8080:80", "-p", "5353:53/udp"];
    let wanted = [&["vm", "plan", "dev1", "--net", "tap", "--no-nat", "--peer"][..], &publish].concat();
    let vm = record(&banger(&wanted))["vm"].take();
    let port = json!({ "host_ip": "127.0.0.1", "host_port": 8080, "guest_port": 80, "protocol": "tcp" });
    assert_eq!((&vm["publish"][0], &vm["nat"], &vm["peer"]), (&port, &json!(false), &json!(true)));
    let list = String::from_utf8(banger(&["ps"]).stdout).expect("text");
    assert!(list.contains("127.0.0.1:8080:80 5353:53/udp"), "{list}");

    let changed =
        ["vm", "set", "dev1", "--nat", "on", "--egress", "allow=10.0.0.0/8:443,192.0.2.7", "--json"];
    let egress = json!({ "policy": "allow", "allow": [
        { "network": "10.0.0.0/8", "port": 443, "protocol": "tcp" },
        { "network": "192.0.2.7/32", "port": null, "protocol": null },
    ] });
    for shown in [record(&banger(&changed)), record(&banger(&["vm", "show", "dev1", "--record"]))] {
        assert_eq!((&shown["vm"]["nat"], &shown["vm"]["egress"]), (&json!(true), &egress));
        assert_eq!((&shown["vm"]["peer"], &shown["net"]), (&json!(true), &Value::Null));
    }
    let network = String::from_utf8(banger(&["vm", "net", "dev1"]).stdout).expect("text");
    for text in ["tap (not attached)", "allow=10.0.0.0/8:443,192.0.2.7", "5353:53/udp"] {
        assert!(network.contains(text), "{network}");
    }

    // What cannot be is refused before it is recorded, and names stay free.
    assert_error(&banger(&["vm", "set", "dev1", "--json"]), 2, "usage");
    assert_error(&banger(&["vm", "set", "dev1", "--egress", "allow=::1", "--json"]), 2, "usage");
    let user = ["vm", "plan", "dev2", "--net", "user"];
    for (more, status, code) in [
        (&["--peer"][..], 5, "unsupported"),
        (&["--egress", "allow=192.0.2.7"], 5, "unsupported"),
        (&["-p", "80:80", "-p", "127.0.0.1:80:81"], 2, "bad-input"),
        (&["-p", "224.0.0.1:80:80"], 2, "bad-input"),
    ] {
        assert_error(&banger(&[&user[..], more].concat()), status, code);
    }
    assert!(banger(&[&user[..], &["--egress", "none"]].concat()).status.success());
    assert_error(&banger(&["vm", "set", "dev2", "--nat", "off", "--json"]), 5, "unsupported");
    assert!(banger(&["vm", "set", "dev2", "--egress", "open"]).status.success());
}
