//! The host's own resolver: `banger-netd hook` and `unhook`, and what `banger dns` makes of them. The system bus is a fake; the names
//! of NetworkManager's are resolved by a real dnsmasq, and those of systemd-resolved in tests/vm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Names, dig, eventually, servers};
use crate::netd::{NETD, STATE, document, document_in, gc, ip, isolated, ok, replace_program, sh};
use crate::support::{self, assert_error, command, record, run};

const DIRECTORY: &str = "/etc/NetworkManager/dnsmasq.d";
const RESOLVED: &str = "org.freedesktop.resolve1";
const NETWORK_MANAGER: &str = "org.freedesktop.NetworkManager";

/// A host with a system bus, and an /etc of its own.
struct Bus(TempDir);

impl Bus {
    /// Only `services` run.
    fn new(services: &[&str]) -> Self {
        let bus = Self(tempfile::tempdir().expect("a temporary directory"));
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/bus/busctl");
        let world = bus.0.path().display();
        let script = format!("#!/bin/sh\nBANGER_FAKE_BUS={world} exec bash {} \"$@\"\n", fake.display());
        replace_program("busctl", &script);
        bus.set("services", &services.join("\n"));
        bus.set("mode", "dnsmasq");
        let etc = "mkdir -p /run/dbus /run/etc && touch /run/dbus/system_bus_socket && cp -a /etc/. /run/etc && mount --bind /run/etc /etc
            rm -f /etc/resolv.conf && echo 'nameserver 127.0.0.1' > /etc/resolv.conf && echo 'hosts: files dns' > /etc/nsswitch.conf";
        assert!(
            sh(&format!("set -e; {etc}; rm -rf /etc/NetworkManager; mkdir -p {DIRECTORY}")).status.success()
        );
        bus
    }

    fn set(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), format!("{text}\n")).expect("written");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.path().join("log")).unwrap_or_default()
    }

    /// What systemd-resolved was told.
    fn told(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the world").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut told: Vec<String> =
            names.filter(|name| name.contains('.') && name != "dnsmasq.pid").collect();
        told.sort();
        told
    }

    /// Has the dnsmasq forget what it remembers.
    fn flush(&self) {
        let options =
            ["--system", "--json=short", "--auto-start=no", "--timeout=10", "call", NETWORK_MANAGER];
        let call = ["/org/freedesktop/NetworkManager", NETWORK_MANAGER, "Reload", "u", "4"];
        assert!(run(command("busctl").args(options).args(call), b"").status.success());
    }

    fn netd(&self, verb: &str, input: &str) -> Output {
        run(command(NETD).arg(verb), input.as_bytes())
    }

    #[track_caller]
    fn ok(&self, verb: &str) -> Value {
        let output = self.netd(verb, &request(STATE));
        assert!(output.status.success(), "{verb}: {}", record(&output));
        record(&output)
    }
}

fn request(state: &str) -> String {
    json!({ "schema": "banger.hook/1", "state_id": state }).to_string()
}

fn file() -> PathBuf {
    Path::new(DIRECTORY).join(format!("banger-{STATE}.conf"))
}

/// Every file of the directory with its content.
fn files() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(DIRECTORY).expect("the directory").flatten();
    let mut files: Vec<_> =
        entries.map(|e| (e.path(), fs::read_to_string(e.path()).expect("a file"))).collect();
    files.sort();
    files
}

#[test]
fn a_request_is_a_state_id_of_the_callers_and_nothing_else() {
    isolated("netd::dns::hook::a_request_is_a_state_id_of_the_callers_and_nothing_else", || {
        let bus = Bus::new(&[NETWORK_MANAGER]);
        for verb in ["hook", "unhook"] {
            for odd in [
                "",
                "{",
                "[]",
                r#"{"schema":"banger.hook/1"}"#,
                r#"{"schema":"banger.hook/2","state_id":"0a1b2c3d"}"#,
                r#"{"schema":"banger.hook/1","state_id":"../../tmp"}"#,
                r#"{"schema":"banger.hook/1","state_id":"0A1B2C3D"}"#,
                r#"{"schema":"banger.hook/1","state_id":"0a1b2c3d","address":"192.0.2.1"}"#,
                r#"{"schema":"banger.hook/1","state_id":"0a1b2c3d\nserver=/#/192.0.2.1"}"#,
            ] {
                let output = bus.netd(verb, odd);
                assert_error(&output, 2, record(&output)["error"]["code"].as_str().expect("a code"));
            }
        }
        assert_error(&bus.netd("hook", &request(STATE)), 3, "not-found");
        let mut theirs = document(2);
        theirs["vm"]["owner_uid"] = json!(61000);
        ok("attach", &theirs);
        for verb in ["hook", "unhook"] {
            let stranger = run(command(NETD).arg(verb).env("SUDO_UID", "61001"), request(STATE).as_bytes());
            assert_error(&stranger, 5, "denied");
        }
        // A bridge of the right name without a VM, or that is none.
        ok("detach", &theirs);
        ip(&["link", "add", &format!("bgr{STATE}"), "type", "bridge"]);
        assert_error(&bus.netd("hook", &request(STATE)), 3, "not-found");
        ip(&["link", "set", &format!("bgr{STATE}"), "alias", &format!("banger:{STATE}:0")]);
        assert_error(&bus.netd("hook", &request(STATE)), 3, "not-found");
        assert_eq!((files(), bus.log()), (vec![], String::new()), "nothing was touched, and nobody asked");
    });
}

#[test]
fn networkmanagers_dnsmasq_resolves_names_until_the_last_vm_goes() {
    isolated("netd::dns::hook::networkmanagers_dnsmasq_resolves_names_until_the_last_vm_goes", || {
        let there = ["dnsmasq", "dig"].into_iter().all(support::has);
        if !support::require("host", there, "needs dnsmasq and dig") {
            return;
        }
        let bus = Bus::new(&[NETWORK_MANAGER]);
        fs::write(format!("{DIRECTORY}/other.conf"), "server=/lan/192.0.2.1\n").expect("written");
        let before = files();
        ok("attach", &document(2));
        ok("attach", &document(3));
        Names::new(&[2, 3]).serve(&[]);
        let hooked = bus.ok("hook");
        assert_eq!(
            (&hooked["resolver"], &hooked["changed"]),
            (&json!("networkmanager-dnsmasq"), &json!(true))
        );
        let text = fs::read_to_string(file()).expect("the file");
        assert!(text.starts_with(&format!("# banger:{STATE}:0 ")), "{text}");
        eventually("the name", || dig("+short @127.0.0.1 dev2.vm") == "10.213.7.2");
        assert_eq!(dig("+short @127.0.0.1 -x 10.213.7.3"), "dev3.vm.");
        assert!(dig("@127.0.0.1 nobody.vm").contains("status: NXDOMAIN"));
        assert_eq!(bus.ok("hook")["changed"], false);

        assert_eq!(bus.ok("unhook")["changed"], true);
        assert_eq!((files(), bus.ok("unhook")["changed"].clone()), (before.clone(), json!(false)));
        assert_eq!(dig("+short @127.0.0.1 dev2.vm"), "", "it was told");

        // By the last VM, by gc, and by nobody else.
        bus.ok("hook");
        let detach = |n| assert!(bus.netd("detach", &document(n).to_string()).status.success());
        detach(2);
        assert!(file().exists());
        detach(3);
        assert_eq!(files(), before);
        ok("attach", &document(2));
        bus.ok("hook");
        ip(&["link", "delete", &format!("bgr{STATE}")]);
        let list =
            |state: &str| json!({ "schema": "banger.vms/1", "state_id": state, "items": [] }).to_string();
        assert!(bus.netd("gc", &list("ffffffff")).status.success());
        let stranger = run(command(NETD).arg("gc").env("SUDO_UID", "61001"), list(STATE).as_bytes());
        assert_error(&stranger, 5, "denied");
        assert!(file().exists(), "another's");
        let collected = record(&bus.netd("gc", &list(STATE)));
        let told = collected["removed"].to_string().contains(&file().display().to_string());
        assert!(told, "{collected}");
        assert_eq!(files(), before);
    });
}

#[test]
fn what_networkmanager_refuses_leaves_the_file_as_it_was() {
    isolated("netd::dns::hook::what_networkmanager_refuses_leaves_the_file_as_it_was", || {
        if !support::require("host", support::has("dnsmasq"), "needs dnsmasq") {
            return;
        }
        let bus = Bus::new(&[NETWORK_MANAGER]);
        ok("attach", &document(2));
        bus.set("fail", "Reload");
        assert_error(&bus.netd("hook", &request(STATE)), 1, "failed");
        assert_eq!(files(), []);
        bus.set("fail", "");
        bus.ok("hook");
        let hooked = files();
        bus.set("fail", "Reload");
        assert_error(&bus.netd("unhook", &request(STATE)), 1, "failed");
        assert_eq!(files(), hooked);
        // The VM goes all the same, and that something is left is said; gc fails until it succeeds.
        let detached = bus.netd("detach", &document(2).to_string());
        let said = String::from_utf8_lossy(&detached.stderr);
        assert!(detached.status.success() && said.contains("keeps the names"), "{said}");
        let list = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [] }).to_string();
        assert_error(&bus.netd("gc", &list), 1, "failed");
        bus.set("fail", "");
        assert!(bus.netd("gc", &list).status.success());
        assert_eq!(files(), []);
        // Without a NetworkManager there is nobody to be told.
        ok("attach", &document(2));
        bus.ok("hook");
        bus.set("services", "");
        bus.ok("unhook");
        assert_eq!(files(), []);
    });
}

#[test]
fn what_is_killed_on_the_way_is_finished_or_taken_back() {
    isolated("netd::dns::hook::what_is_killed_on_the_way_is_finished_or_taken_back", || {
        let there = ["dnsmasq", "dig", "strace"].into_iter().all(support::has);
        if !support::require("host", there, "needs dnsmasq, dig and strace") {
            return;
        }
        let bus = Bus::new(&[NETWORK_MANAGER]);
        ok("attach", &document(2));
        Names::new(&[2]).serve(&[]);
        let knows = || dig("+short @127.0.0.1 dev2.vm") == "10.213.7.2";
        let mut kills = 0;
        for (verb, call) in ["hook", "unhook"].iter().flat_map(|v| {
            ["rename", "fsync", "clone3", "wait4", "unlink", "write"].map(move |call| (*v, call))
        }) {
            for when in 1..20 {
                bus.ok(if verb == "hook" { "unhook" } else { "hook" });
                let inject = format!("inject={call}:signal=KILL:when={when}");
                let strace = ["-qq", "-o", "/dev/null", "-e", &inject, NETD, verb];
                let killed = run(command("strace").args(strace), request(STATE).as_bytes());
                if killed.status.success() {
                    break;
                }
                kills += 1;
                bus.ok("hook");
                assert!(knows(), "{verb} killed at {call} {when}, and hook");
                let strace = ["-qq", "-o", "/dev/null", "-e", &inject, NETD, verb];
                run(command("strace").args(strace), request(STATE).as_bytes());
                bus.ok("unhook");
                assert!(!knows() && files().is_empty(), "{verb} killed at {call} {when}, and unhook");
            }
        }
        assert!(kills > 10, "only {kills} kills");
        // What was being written is nobody's, and dnsmasq does not read it.
        assert!(files().is_empty());
    });
}

#[test]
fn names_that_others_have_are_a_conflict() {
    isolated("netd::dns::hook::names_that_others_have_are_a_conflict", || {
        if !support::require("host", support::has("dnsmasq"), "needs dnsmasq") {
            return;
        }
        let bus = Bus::new(&[NETWORK_MANAGER]);
        ok("attach", &document(2));
        // A file of the user's, one with our name, and that of another state directory.
        for (name, text) in [
            ("work.conf".to_owned(), "server=/corp/vm/192.0.2.1\n".to_owned()),
            (format!("banger-{STATE}.conf"), "server=/x/192.0.2.1\n".to_owned()),
            (format!("banger-{STATE}.conf"), "# banger:ffffffff:0 x\n".to_owned()),
        ] {
            let path = Path::new(DIRECTORY).join(name);
            fs::write(&path, &text).expect("written");
            let error = assert_error(&bus.netd("hook", &request(STATE)), 1, "conflict");
            assert!(error["error"]["message"].to_string().contains(path.to_str().expect("text")), "{error}");
            assert_eq!(files(), [(path.clone(), text)]);
            fs::remove_file(path).expect("removed");
        }
        bus.ok("hook");
        ok("attach", &document_in("ffffffff", "99.1", 2));
        let error = assert_error(&bus.netd("hook", &request("ffffffff")), 1, "conflict");
        assert!(error["error"]["message"].to_string().contains(&format!("banger-{STATE}.conf")), "{error}");
        assert_eq!(files().len(), 1);
    });
}

/// systemd-resolved takes no settings for a link that systemd-networkd manages: it says so, and so do we, before anything is tried.
#[test]
fn a_bridge_that_systemd_networkd_manages_is_a_conflict_with_the_remedy() {
    isolated("netd::dns::hook::a_bridge_that_systemd_networkd_manages_is_a_conflict_with_the_remedy", || {
        let bus = Bus::new(&[RESOLVED, "org.freedesktop.network1"]);
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.53\n").expect("written");
        ok("attach", &document(2));
        bus.set("managed", "/etc/systemd/network/all.network");
        let error = assert_error(&bus.netd("hook", &request(STATE)), 1, "conflict");
        let (message, hint) = (error["error"]["message"].to_string(), error["error"]["hint"].to_string());
        assert!(
            message.contains("/etc/systemd/network/all.network") && hint.contains("Unmanaged=yes"),
            "{error}"
        );
        assert_eq!(bus.told(), [] as [&str; 0]);
        bus.set("managed", "");
        assert_eq!(bus.ok("hook")["changed"], true);
        // What is told already is as it should be.
        bus.set("managed", "/etc/systemd/network/all.network");
        assert_eq!(bus.ok("hook")["changed"], false);
    });
}

#[test]
fn systemd_resolved_that_refuses_one_setting_keeps_none() {
    isolated("netd::dns::hook::systemd_resolved_that_refuses_one_setting_keeps_none", || {
        let bus = Bus::new(&[RESOLVED]);
        ok("attach", &document(2));
        // It runs, and nobody asks it.
        let error = assert_error(&bus.netd("hook", &request(STATE)), 5, "unsupported");
        assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("10.213.7.1")), "{error}");
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.53\n").expect("written");
        for member in ["SetLinkDomains", "SetLinkDNSSEC", "SetLinkDNSOverTLS", "SetLinkDNS"] {
            bus.set("fail", member);
            assert_error(&bus.netd("hook", &request(STATE)), 1, "failed");
            assert_eq!(bus.told(), [] as [&str; 0], "{member}");
        }
        bus.set("fail", "");
        let hooked = bus.ok("hook");
        assert_eq!((&hooked["resolver"], &hooked["changed"]), (&json!("systemd-resolved"), &json!(true)));
        assert_eq!(bus.told().len(), 3);
        bus.set("fail", "RevertLink");
        assert_error(&bus.netd("unhook", &request(STATE)), 1, "failed");
        bus.set("fail", "");
        assert_eq!(bus.ok("unhook")["changed"], true);
        assert_eq!(bus.told(), [] as [&str; 0]);
        assert_eq!(bus.ok("unhook")["changed"], false);
    });
}

/// `banger` with a state directory in which VMs can be planned, beside that bus.
struct Dispatcher {
    state: TempDir,
}

impl Dispatcher {
    fn run(&self, args: &[&str]) -> Output {
        let banger = env!("CARGO_BIN_EXE_banger");
        run(command(banger).args(args).arg("--json").env("BANGER_STATE_DIR", self.state.path()), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        record(&output)
    }

    /// A VM with a tap, as far as banger-netd is concerned.
    fn attach(&self, name: &str) -> Value {
        ok("attach", &self.ok(&["vm", "plan", name, "--net", "tap"]))
    }

    /// What `banger doctor` says of names.
    fn doctor(&self) -> Value {
        let found = record(&self.run(&["doctor"]));
        let items = found["items"].as_array().expect("a list").clone();
        items.into_iter().find(|item| item["name"] == "dns").unwrap_or_default()
    }
}

#[test]
fn a_choice_is_followed_told_and_mended() {
    isolated("netd::dns::hook::a_choice_is_followed_told_and_mended", || {
        let there = ["dnsmasq", "getent"].into_iter().all(support::has);
        if !support::require("host", there, "needs dnsmasq and getent") {
            return;
        }
        let bus = Bus::new(&[]);
        let banger = Dispatcher { state: support::state_with_fake_image() };
        // Nobody who can be told: what to do is said, and nothing is remembered.
        let error = assert_error(&banger.run(&["dns", "enable"]), 5, "unsupported");
        assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("vm")), "{error}");
        assert_eq!(banger.ok(&["dns", "status"])["enabled"], false);

        // Chosen before there is a VM.
        bus.set("services", NETWORK_MANAGER);
        let status = banger.ok(&["dns", "enable"]);
        assert_eq!((&status["enabled"], &status["hooked"]), (&json!(true), &json!(false)));
        assert_eq!((files(), banger.doctor()), (vec![], Value::Null));
        let dev1 = banger.attach("dev1");
        assert_eq!(banger.doctor()["state"], "note", "nothing serves yet");
        banger.ok(&["gc"]);
        let status = banger.ok(&["dns", "status"]);
        for field in ["enabled", "served", "hooked"] {
            assert_eq!(status[field], true, "{status}");
        }
        let address = &dev1["net"]["address"];
        assert_eq!(
            status["names"],
            json!([{ "name": "dev1", "addresses": [address], "answers": [address], "resolves": true }])
        );
        assert_eq!(banger.doctor()["state"], "ok");

        // The resolver was killed: seen, and mended. So is a names file of before.
        let names = banger.state.path().join("dns/names");
        let known = fs::read(&names).expect("the names");
        fs::write(&names, String::from_utf8_lossy(&known).replace("dev1", "gone")).expect("written");
        sh(&format!("kill -9 {}", servers()[0]));
        eventually("death", || servers().is_empty());
        bus.flush();
        let status = banger.ok(&["dns", "status"]);
        assert_eq!((&status["served"], &status["names"][0]["resolves"]), (&json!(false), &json!(false)));
        assert!(banger.doctor()["detail"].as_str().is_some_and(|detail| detail.contains("banger gc")));
        banger.ok(&["gc"]);
        assert_eq!(fs::read(&names).expect("the names"), known);
        assert_eq!(banger.ok(&["dns", "status"])["names"][0]["resolves"], true);
        // The host forgot.
        fs::remove_file(files()[0].0.clone()).expect("removed");
        assert!(banger.doctor()["detail"].as_str().is_some_and(|detail| detail.contains("tells it again")));
        banger.ok(&["gc"]);
        assert_eq!((banger.doctor()["state"].clone(), files().len()), (json!("ok"), 1));

        // Taken back, and nothing brings it again.
        let status = banger.ok(&["dns", "disable"]);
        assert_eq!((&status["enabled"], &status["hooked"], files()), (&json!(false), &json!(false), vec![]));
        banger.ok(&["gc"]);
        assert_eq!(files(), []);
        assert!(banger.doctor()["detail"].as_str().is_some_and(|detail| detail.contains("dns enable")));
        // The bridge was removed by somebody: what is left of it in the host is gc's.
        banger.ok(&["dns", "enable"]);
        ip(&["link", "delete", dev1["net"]["bridge"].as_str().expect("a bridge")]);
        ip(&["link", "delete", dev1["net"]["tap"].as_str().expect("a tap")]);
        eventually("the end", || servers().is_empty());
        assert!(banger.doctor()["detail"].as_str().is_some_and(|detail| detail.contains("is left")));
        banger.ok(&["gc"]);
        assert_eq!((files(), banger.doctor()), (vec![], Value::Null));
        assert!(!names.exists(), "the names went with the last VM");
        drop(gc(&[]));
    });
}
