//! `banger-netd` on a real kernel: links, taps and nftables, in throwaway namespaces.

use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::{self, assert_error, command, record, run};

mod attacks;
mod connections;
mod crashes;
mod cycles;
mod dns;
mod environment;
mod firewall;
mod forwarding;
mod fuzz;
mod guest;
mod held;
mod link_layer;
mod packets;
mod permission;
mod pool;
mod reach;
mod snapshot;
mod subnet;

use snapshot::snapshot;

const NETD: &str = env!("CARGO_BIN_EXE_banger-netd");

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "BANGER_TEST_NETNS";

/// Runs the test `name` (its path in this binary) in namespaces of its own: network, processes (so that nothing outlives it)
/// and mounts (so that /run, with its locks, is its own).
fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        ip(&["link", "set", "lo", "up"]);
        // attach switches it on and nothing switches it off again, which cycles.rs looks at.
        assert!(sh("mount -t tmpfs tmpfs /run && echo 1 > /proc/sys/net/ipv4/ip_forward").status.success());
        return body();
    }
    let able = support::is_root() && ["unshare", "nft", "ip"].into_iter().all(support::has);
    if !support::require("host", able, "needs root, unshare, nft and ip") {
        return;
    }
    let exe = std::env::current_exe().expect("this binary has a path");
    let output = command("unshare")
        .args(["-n", "-m", "-p", "--fork", "--kill-child", "--mount-proc"])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env_remove("SUDO_UID")
        .stdin(Stdio::null())
        .output()
        .expect("unshare can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

fn sh(script: &str) -> Output {
    command("sh").args(["-c", script]).stdin(Stdio::null()).output().expect("sh can be started")
}

/// Puts a script in the place of the host's program `name`, for this test alone, and gives where the real one is now: as root banger-netd
/// looks for programs in no other place. In the script `@real@` stands for that.
#[track_caller]
fn replace_program(name: &str, script: &str) -> String {
    let usual = Some("/usr/sbin:/usr/bin:/sbin:/bin");
    let place = which::which_in(name, usual, "/").unwrap_or_else(|e| panic!("{name}: {e}"));
    let place = place.canonicalize().expect("it is there");
    let (real, fake) = (format!("/run/real/{name}"), format!("/run/fake/{name}"));
    let copy = format!("set -e; mkdir -p /run/real /run/fake; cp {} {real}", place.display());
    assert!(sh(&copy).status.success());
    std::fs::write(&fake, script.replace("@real@", &real)).expect("written");
    let put = format!("set -e; chmod 755 {fake}; mount --bind {fake} {}", place.display());
    assert!(sh(&put).status.success());
    real
}

/// An /etc that is this test's alone, and `text` in the file of it. The directories are made.
#[track_caller]
fn etc(file: &str, text: &str) {
    if sh("mountpoint -q /etc").status.code() != Some(0) {
        let own = "set -e; mkdir -p /run/etc; cp -a /etc/. /run/etc; mount --bind /run/etc /etc; rm -rf /etc/banger";
        assert!(sh(own).status.success());
    }
    let path = std::path::Path::new("/etc").join(file);
    drop(std::fs::remove_file(&path));
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(&path, text).expect("written");
}

/// Runs a verb as root on behalf of the user `uid`, as sudo does.
fn for_user(uid: u32, verb: &str, input: &Value) -> Output {
    let mut command = command(NETD);
    run(command.args(verb.split(' ')).env("SUDO_UID", uid.to_string()), input.to_string().as_bytes())
}

/// The record of the `n`-th VM of a state directory of the user `uid`, in the subnet `10.<net>.0/24`.
fn document_of(uid: u32, state: &str, net: &str, n: u8) -> Value {
    let mut document = document_in(state, net, n);
    document["vm"]["owner_uid"] = json!(uid);
    document
}

/// A system bus on which everybody may do everything.
#[track_caller]
fn system_bus() {
    const CONFIGURATION: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
"#;
    std::fs::create_dir_all("/run/dbus").expect("made");
    std::fs::write("/run/bus.conf", CONFIGURATION).expect("written");
    let output = sh("dbus-daemon --config-file=/run/bus.conf --fork");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn ip(args: &[&str]) -> Vec<u8> {
    let output = command("ip").args(args).stdin(Stdio::null()).output().expect("ip can be started");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn netd(verb: &str, input: &Value) -> Output {
    run(command(NETD).args(verb.split(' ')), input.to_string().as_bytes())
}

/// What `run` gives; once more where it was busy. Many who want one lock at once, on a machine that is busy with other things, may take
/// longer than each of them waits.
fn in_turn(run: impl Fn() -> Output) -> Output {
    let mut output = run();
    for _ in 0..4 {
        if output.status.code() != Some(4) {
            break;
        }
        output = run();
    }
    output
}

/// Runs a verb that must succeed.
#[track_caller]
fn ok(verb: &str, input: &Value) -> Value {
    let output = in_turn(|| netd(verb, input));
    let record = record(&output);
    assert!(output.status.success(), "{verb}: {record}");
    record
}

/// A record of the `n`-th VM of a state directory in the subnet `10.<net>.0/24`.
fn document_in(state: &str, net: &str, n: u8) -> Value {
    json!({ "schema": "banger.vm/1", "vm": {
        "id": format!("{state}00{n:02x}"), "name": format!("dev{n}"), "state_id": state, "owner_uid": 0,
        "created_at": "2026-01-02T03:04:05Z", "image": "debian", "init": "lean", "hostname": "dev",
        "vcpus": 1, "memory_mib": 512, "rootfs_size_bytes": 1 << 30, "work_size_bytes": 1 << 30, "ttl_s": null,
        "address": format!("10.{net}.{n}"), "prefix_len": 24, "gateway": format!("10.{net}.1"),
        "mac": format!("02:00:00:00:00:{n:02x}"), "cid": 3, "net_mode": "tap", "nat": true, "publish": [],
        "disk_backend": "auto", "vmm_kind": "auto",
        "paths": { "dir": "/d", "rootfs": "/r", "kernel": "/k", "kernel_elf": "/e", "initrd": "/i",
            "work_seed": "/w", "upper_seed": "/u" },
    }})
}

const STATE: &str = "0a1b2c3d";

fn document(n: u8) -> Value {
    document_in(STATE, "213.7", n)
}

fn tap(n: u8) -> String {
    format!("bgt{STATE}00{n:02x}")
}

/// The list of the VMs that are to stay.
fn list(keep: &[&Value]) -> Value {
    let items: Vec<Value> = keep.iter().map(|d| json!({ "id": d["vm"]["id"] })).collect();
    json!({ "schema": "banger.vms/1", "state_id": STATE, "items": items })
}

fn gc(keep: &[&Value]) -> Value {
    ok("gc", &list(keep))
}

#[test]
fn attach_and_detach_are_inverses_and_repeat_without_change() {
    isolated("netd::attach_and_detach_are_inverses_and_repeat_without_change", || {
        // What others have stays theirs.
        ip(&["link", "add", "other0", "type", "bridge"]);
        assert!(sh("nft add table inet other; nft add chain inet other c").status.success());
        let before = snapshot();
        let attached = ok("attach", &document(2));
        assert_eq!(attached["result"]["changed"], true);
        let net = &attached["net"];
        assert_eq!((&net["mode"], &net["tap"]), (&json!("tap"), &json!(tap(2))));
        assert_eq!((&net["ssh_host"], &net["ssh_port"]), (&json!("10.213.7.2"), &json!(22)));
        assert!(snapshot().has_link(&tap(2)));
        // With and without the section, the same is there.
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        assert_eq!(ok("attach", &document(2))["result"]["changed"], false);
        assert_eq!(ok("check", &attached)["result"]["changed"], false);
        let second = ok("attach", &document(3));
        assert_eq!(ok("detach", &attached)["result"]["changed"], true);
        assert_eq!(ok("detach", &attached)["result"]["changed"], false);
        assert_eq!(ok("check", &second)["result"]["changed"], false);
        // From names alone.
        let gone = ok("detach", &document(3));
        assert_eq!((&gone["result"]["changed"], &gone["net"]), (&json!(true), &Value::Null));
        before.assert_still("in the end");
    });
}

#[test]
fn differing_input_is_a_conflict_and_changes_nothing() {
    isolated("netd::differing_input_is_a_conflict_and_changes_nothing", || {
        let attached = ok("attach", &document(2));
        let before = snapshot();
        for (key, value) in [
            ("mac", json!("02:00:00:00:00:99")),
            ("address", json!("10.213.7.9")),
            ("nat", json!(false)),
            ("egress", json!({ "policy": "none", "allow": [] })),
            ("peer", json!(true)),
            ("publish", json!([{ "host_ip": null, "host_port": 1, "guest_port": 1, "protocol": "tcp" }])),
            ("gateway", json!("10.213.7.254")),
            ("prefix_len", json!(25)),
            ("mtu", json!(1400)),
        ] {
            let mut fresh = document(2);
            fresh["vm"][key] = value;
            assert_error(&netd("attach", &fresh), 1, "conflict");
            fresh["net"] = attached["net"].clone();
            if key != "mac" {
                assert_error(&netd("check", &fresh), 1, "conflict");
            }
            assert_error(&netd("attach", &fresh), 1, "conflict");
        }
        // Another VM with the same address.
        let mut twin = document(3);
        twin["vm"]["address"] = json!("10.213.7.2");
        assert_error(&netd("attach", &twin), 1, "conflict");
        before.assert_still("in the end");
        assert_eq!(ok("check", &attached)["result"]["changed"], false);
    });
}

/// The MTU of a link.
fn mtu(link: &str) -> u64 {
    let shown: Value = serde_json::from_slice(&ip(&["-j", "link", "show", link])).expect("ip prints JSON");
    shown[0]["mtu"].as_u64().expect("a number")
}

#[test]
fn the_tap_has_the_mtu_and_the_bridge_the_smallest_of_all() {
    isolated("netd::the_tap_has_the_mtu_and_the_bridge_the_smallest_of_all", || {
        let with = |n: u8, mtu: u16| {
            let mut document = document(n);
            document["vm"]["mtu"] = json!(mtu);
            document
        };
        let before = snapshot();
        let bridge = format!("bgr{STATE}");
        let jumbo = ok("attach", &with(2, 9000));
        assert_eq!((&jumbo["net"]["mtu"], mtu(&tap(2)), mtu(&bridge)), (&json!(9000), 9000, 9000));
        let usual = ok("attach", &document(3));
        assert_eq!((&usual["net"]["mtu"], mtu(&tap(3)), mtu(&bridge)), (&Value::Null, 1500, 1500));
        let small = ok("attach", &with(4, 1280));
        assert_eq!((mtu(&tap(4)), mtu(&bridge), mtu(&tap(2))), (1280, 1280, 9000));
        for (attached, fresh) in [(&jumbo, with(2, 9000)), (&usual, document(3)), (&small, with(4, 1280))] {
            assert_eq!(ok("attach", attached)["result"]["changed"], false);
            assert_eq!(ok("attach", &fresh)["result"]["changed"], false);
            ok("check", attached);
        }
        let error = assert_error(&netd("attach", &with(4, 1281)), 1, "conflict");
        assert_eq!(error["error"]["details"]["property"], "vm.mtu");
        assert_error(&netd("attach", &document(4)), 1, "conflict");
        ip(&["link", "set", &tap(4), "mtu", "1300"]);
        assert_error(&netd("check", &small), 1, "conflict");
        ok("detach", &small);
        assert_eq!(mtu(&bridge), 1500, "the bridge follows");
        ok("detach", &usual);
        ok("detach", &jumbo);
        before.assert_still("in the end");
        // A tap of the pool goes back as it was.
        ok("pool fill 1", &document(2));
        let attached = ok("attach", &with(2, 1400));
        assert_eq!((mtu(&tap(2)), mtu(&bridge)), (1400, 1400));
        ok("detach", &attached);
        assert_eq!(mtu(&bridge), 1500);
        assert_eq!(ok("attach", &document(2))["net"]["mtu"], Value::Null);
        assert_eq!(mtu(&tap(2)), 1500);
        ok("detach", &document(2));
        ok("pool drain", &document(2));
        before.assert_still("drained");
    });
}

#[test]
fn a_subnet_of_another_link_is_a_conflict_that_names_it() {
    isolated("netd::a_subnet_of_another_link_is_a_conflict_that_names_it", || {
        ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
        ip(&["addr", "add", "10.213.0.1/16", "dev", "lan0"]);
        // Also while it is down and has no route.
        for state in ["down", "up"] {
            ip(&["link", "set", "lan0", state]);
            let before = snapshot();
            let error = assert_error(&netd("attach", &document(2)), 1, "conflict");
            assert_eq!(error["error"]["details"]["link"], "lan0");
            assert_eq!(error["error"]["details"]["route"], "10.213.0.0/16");
            before.assert_still("in the end");
        }
        ip(&["addr", "flush", "dev", "lan0"]);
        ip(&["route", "add", "10.213.7.128/25", "dev", "lan0"]);
        assert_error(&netd("attach", &document(2)), 1, "conflict");
        // Routes for everything are no claim.
        ip(&["route", "del", "10.213.7.128/25"]);
        ip(&["route", "add", "default", "dev", "lan0"]);
        ip(&["route", "add", "0.0.0.0/1", "dev", "lan0"]);
        ok("attach", &document(2));
        // Another state directory in the same subnet.
        let other = document_in("ffffffff", "213.7", 5);
        let error = assert_error(&netd("attach", &other), 1, "conflict");
        assert_eq!(error["error"]["details"]["link"], format!("bgr{STATE}"));
    });
}

#[test]
fn gc_and_detach_touch_nothing_without_the_tag() {
    isolated("netd::gc_and_detach_touch_nothing_without_the_tag", || {
        // A tap of the right name, made by somebody else; a tap of another state directory; a bare bridge.
        ip(&["tuntap", "add", &tap(2), "mode", "tap"]);
        let other = document_in("ffffffff", "99.1", 2);
        ok("attach", &other);
        ip(&["tuntap", "add", &tap(7), "mode", "tap"]);
        ip(&["link", "set", &tap(7), "alias", "banger:ffffffff:0"]);
        let before = snapshot();
        assert_eq!(gc(&[])["removed"], json!([]));
        for n in [2, 7] {
            for verb in ["attach", "detach"] {
                let error = assert_error(&netd(verb, &document(n)), 1, "conflict");
                assert_eq!(error["error"]["details"]["link"], tap(n));
            }
        }
        before.assert_still("in the end");
        // A bridge that a crash left without its tag is found by its name.
        ip(&["link", "add", &format!("bgr{STATE}"), "type", "bridge"]);
        assert_eq!(gc(&[])["removed"], json!([format!("bridge bgr{STATE}")]));
        before.assert_still("in the end");
    });
}

#[test]
fn through_sudo_a_user_acts_for_none_but_themselves() {
    isolated("netd::through_sudo_a_user_acts_for_none_but_themselves", || {
        let sudo = |verb: &str, uid: &str, input: &Value| {
            run(command(NETD).arg(verb).env("SUDO_UID", uid), input.to_string().as_bytes())
        };
        let mut mine = document(2);
        mine["vm"]["owner_uid"] = json!(61000);
        assert_error(&sudo("attach", "61001", &mine), 5, "denied");
        assert_error(&sudo("attach", "61000", &document(2)), 5, "denied");
        assert_error(&sudo("attach", "x", &mine), 2, "bad-input");
        let attached = record(&sudo("attach", "61000", &mine));
        let own_tap = attached["net"]["tap"].as_str().unwrap_or_else(|| panic!("{attached}")).to_owned();
        let details = String::from_utf8(ip(&["-d", "link", "show", &own_tap])).expect("text");
        // As Firecracker and QEMU open it.
        for part in ["tun type tap", "pi off", "vnet_hdr on", "persist on", "user 61000"] {
            assert!(details.contains(part), "{part}: {details}");
        }
        assert!(!details.contains("multi_queue"), "{details}");
        // Another user names the first one's state directory, or VM: another one, whose subnet is taken.
        let before = snapshot();
        let mut theirs = document(3);
        theirs["vm"]["owner_uid"] = json!(61001);
        assert_error(&sudo("attach", "61001", &theirs), 1, "conflict");
        theirs["vm"]["id"] = mine["vm"]["id"].clone();
        assert_eq!(record(&sudo("detach", "61001", &theirs))["result"]["changed"], false);
        let empty = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [] });
        assert_eq!(record(&sudo("gc", "61001", &empty))["removed"], json!([]));
        before.assert_still("in the end");
        assert!(sudo("gc", "61000", &empty).status.success());
        assert!(!snapshot().has_link(&own_tap));
    });
}

#[test]
fn two_users_with_the_same_ids_are_in_nobodys_way() {
    isolated("netd::two_users_with_the_same_ids_are_in_nobodys_way", || {
        let nothing = snapshot();
        let list = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [] });
        let done = |uid: u32, verb: &str, input: &Value| {
            let output = in_turn(|| for_user(uid, verb, input));
            assert!(output.status.success(), "{verb} for {uid}: {}", record(&output));
            record(&output)
        };
        // The squatter was there first, with all ids of the other's.
        let squatter = done(61001, "attach", &document_of(61001, STATE, "213.9", 2));
        done(61001, "pool fill 2", &squatter);
        let squatted = snapshot();
        let owner = done(61000, "attach", &document_of(61000, STATE, "213.7", 2));
        done(61000, "pool fill 1", &owner);
        let root = ok("attach", &document_in(STATE, "77.1", 2));
        for key in ["bridge", "tap"] {
            let names: std::collections::BTreeSet<&str> =
                [&squatter, &owner, &root].iter().filter_map(|d| d["net"][key].as_str()).collect();
            assert_eq!(names.len(), 3, "{key}: {names:?}");
        }
        // Each has their own, and removes no other.
        for (uid, attached) in [(61001, &squatter), (61000, &owner)] {
            done(uid, "check", attached);
            assert_eq!(done(uid, "attach", attached)["result"]["changed"], false);
        }
        done(61000, "gc", &list);
        done(61001, "check", &squatter);
        ok("check", &root);
        ok("detach", &root);
        squatted.assert_still("once the others have gone");
        done(61001, "detach", &squatter);
        done(61001, "pool drain", &squatter);
        nothing.assert_still("in the end");
    });
}

#[test]
fn what_an_earlier_program_named_is_used_until_it_is_gone() {
    isolated("netd::what_an_earlier_program_named_is_used_until_it_is_gone", || {
        let nothing = snapshot();
        let wanted = document_of(61000, STATE, "213.7", 2);
        // Its bridge, which had the state id alone in its name.
        let bridge = format!("bgr{STATE}");
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["link", "set", &bridge, "alias", &format!("banger:{STATE}:61000")]);
        let earlier = ok("attach", &wanted);
        assert_eq!((&earlier["net"]["bridge"], &earlier["net"]["tap"]), (&json!(bridge), &json!(tap(2))));
        ok("check", &earlier);
        // Another's of that name is not.
        ip(&["link", "set", &bridge, "alias", &format!("banger:{STATE}:61001")]);
        assert_eq!(record(&for_user(61000, "detach", &wanted))["result"]["changed"], false);
        ip(&["link", "set", &bridge, "alias", &format!("banger:{STATE}:61000")]);
        assert_eq!(record(&for_user(61000, "detach", &wanted))["result"]["changed"], true);
        nothing.assert_still("once it is detached");
        let now = ok("attach", &wanted);
        assert_ne!(now["net"]["bridge"], json!(bridge));
        ok("detach", &now);
        nothing.assert_still("in the end");
    });
}

#[test]
fn what_others_removed_is_noticed_by_check_and_mended_by_attach() {
    isolated("netd::what_others_removed_is_noticed_by_check_and_mended_by_attach", || {
        let attached = ok("attach", &document(2));
        let table = format!("banger_{STATE}");
        for damage in [
            "nft flush ruleset".to_owned(),
            format!("nft flush chain bridge {table} prerouting"),
            format!("nft delete element bridge {table} guests '{{ {} }}'", tap(2)),
            format!("nft add rule inet {table} to_host accept"),
            format!("ip link set {} down", tap(2)),
            format!("ip link set {} nomaster", tap(2)),
            format!("ip link set {} type bridge_slave isolated off", tap(2)),
            format!("ip link del bgr{STATE}"),
            "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
        ] {
            assert!(sh(&damage).status.success(), "{damage}");
            let error = assert_error(&netd("check", &attached), 1, "conflict");
            assert!(!error["error"]["details"]["differences"].as_array().expect("a list").is_empty());
            assert_eq!(ok("attach", &attached)["result"]["changed"], true, "{damage}");
            ok("check", &attached);
        }
        ok("detach", &attached);
    });
}

#[test]
fn without_nft_attach_says_so_and_leaves_nothing() {
    isolated("netd::without_nft_attach_says_so_and_leaves_nothing", || {
        let before = snapshot();
        let nft = String::from_utf8(sh("command -v nft || echo /usr/sbin/nft").stdout).expect("a path");
        let hidden = sh(&format!("touch /run/no && mount --bind /run/no $(readlink -f {})", nft.trim()));
        assert!(hidden.status.success());
        let error = assert_error(&netd("attach", &document(2)), 5, "unsupported");
        assert!(
            error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("banger doctor")),
            "{error}"
        );
        assert_eq!(ok("detach", &document(2))["result"]["changed"], false);
        assert!(sh(&format!("umount $(readlink -f {})", nft.trim())).status.success());
        before.assert_still("in the end");
    });
}
