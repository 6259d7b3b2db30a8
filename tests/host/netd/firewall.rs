//! Beside other firewalls, proved with packets: theirs drop what is forwarded until they are asked, which takes consent.

use std::process::Output;

use serde_json::{Value, json};

use super::guest::{Namespace, boot, wait_until_forwarding};
use super::packets::{OUTSIDE, assert_lost, listen, outside, seen_by, serve, unseen_by};
use super::{STATE, document, isolated, netd, ok, sh, system_bus, tap};
use crate::support::{self, assert_error, record};

#[track_caller]
fn done(script: &str) {
    let output = sh(script);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The rules of everybody but for their counters, and the links.
fn snapshot() -> String {
    let links = "ip -j link | grep -o '\"ifname\":\"[^\"]*\"'";
    let legacy = "iptables-legacy-save | grep '^-'";
    String::from_utf8(sh(&format!("nft -s list ruleset; {links}; {legacy}")).stdout).expect("text")
}

#[track_caller]
fn assert_same(before: &str, name: &str) {
    let after = snapshot();
    let differing = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|l| l == *line)).map(str::to_owned).collect()
    };
    let (new, lost) = (differing(&after, before), differing(before, &after));
    // firewalld keeps the empty chains of a zone that was used once.
    let kept = name == "firewalld" && !new.iter().any(|line| line.contains("bg") || line.contains("banger"));
    assert!(
        lost.is_empty() && (new.is_empty() || kept),
        "{name} is not as it was: new {new:?}, lost {lost:?}"
    );
}

/// A VM that publishes a port, with and without consent.
fn wanted(n: u8, consent: bool) -> Value {
    let mut document = document(n);
    document["vm"]["open_firewall"] = json!(consent);
    document["vm"]["publish"] =
        json!([{ "host_ip": null, "host_port": 8000 + u16::from(n), "guest_port": 80, "protocol": "tcp" }]);
    document
}

/// The warning of an attach that works all the same.
#[track_caller]
fn warned(output: &Output) -> String {
    assert!(output.status.success(), "{}", record(output));
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[track_caller]
fn assert_open(outside: &Namespace, guest: &Namespace, n: u8) {
    assert_eq!(guest.run(|| seen_by(OUTSIDE)).expect("the guest gets out"), "198.51.100.2");
    let port = format!("198.51.100.2:{}", 8000 + u16::from(n));
    outside.run(|| seen_by(&port)).expect("the published port is reached");
}

/// Without consent, with it, and after the last VM. `name` is the firewall's, `fix` what is told about it.
fn scenario(outside: &Namespace, name: &str, fix: &str) {
    let before = snapshot();
    let warning = warned(&netd("attach", &wanted(2, false)));
    assert!(warning.contains(name) && warning.contains(fix) && warning.lines().count() == 1, "{warning}");
    let guest = boot(&tap(2), 2);
    guest.run(|| serve(listen("0.0.0.0:80")));
    assert!(guest.run(|| unseen_by(OUTSIDE)).is_err(), "without consent it got out past {name}");
    let attached = ok("attach", &wanted(2, false));
    let blocked = ok("status", &attached)["blocked_by"].take();
    assert_eq!(
        (&blocked[0]["firewall"], blocked[0]["fix"].as_str().unwrap().contains(fix)),
        (&json!(name), true)
    );

    // The consent of another VM of the state directory opens it for all; it stays until the last of them is gone.
    let warning = warned(&netd("attach", &wanted(3, true)));
    assert_eq!(warning, "");
    let other = boot(&tap(3), 3);
    other.run(|| serve(listen("0.0.0.0:80")));
    assert_open(outside, &other, 3);
    assert_open(outside, &guest, 2);
    assert_eq!(ok("status", &attached)["blocked_by"], json!([]));
    // What we ourselves refuse stays refused.
    other.run(|| unseen_by("10.213.7.2:80")).expect_err("VMs reach each other");
    outside.sh("ip route replace 10.213.7.0/24 via 198.51.100.2");
    assert_lost(outside.run(|| unseen_by("10.213.7.3:22")));
    ok("detach", &wanted(3, true));
    assert_open(outside, &guest, 2);
    ok("detach", &wanted(2, false));
    assert_same(&before, name);

    // gc takes it back as well.
    ok("attach", &wanted(3, true));
    assert!(snapshot().contains(STATE));
    super::gc(&[]);
    assert_same(&before, name);
}

/// What dockerd 27 sets up for its default network and a container with a published port, where it was the one to switch forwarding on
/// (moby's integration/network/bridge/iptablesdoc tells the rules and why they are there).
const DOCKER: &str = "*nat
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
-P FORWARD DROP
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
";

/// Docker's network with a container, its rules made by `program`.
fn docker(program: &str) -> Namespace {
    done(&format!("{program}-restore <<'X'\n{DOCKER}X"));
    done(
        "ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0; ip link set docker0 up
         ip link add dk0 type veth peer name dk1; ip link set dk0 master docker0 up",
    );
    let (container, ()) = Namespace::new(|| ());
    container.take_link("dk1");
    container
        .sh("ip address add 172.17.0.2/16 dev dk1; ip link set dk1 up; ip route add default via 172.17.0.1");
    wait_until_forwarding("dk0");
    container.run(|| serve(listen("172.17.0.2:80")));
    container
}

/// The container gets out and is reached where it is published, whatever we have done.
#[track_caller]
fn assert_docker_works(outside: &Namespace, container: &Namespace) {
    assert_eq!(container.run(|| seen_by(OUTSIDE)).expect("the container gets out"), "198.51.100.2");
    assert_eq!(outside.run(|| seen_by("198.51.100.2:8088")).expect("it is published"), "198.51.100.1");
}

#[test]
fn docker_is_asked_in_its_own_chain() {
    isolated("netd::firewall::docker_is_asked_in_its_own_chain", || {
        if !support::require("host", support::has("iptables"), "needs iptables") {
            return;
        }
        let outside = outside();
        let container = docker("iptables");
        assert_docker_works(&outside, &container);
        scenario(&outside, "Docker", &format!("iptables -w -I DOCKER-USER -i bgr{STATE} -j ACCEPT"));
        assert_docker_works(&outside, &container);
        ok("attach", &wanted(3, true));
        assert_docker_works(&outside, &container);
        ok("detach", &wanted(3, true));
        a_guest_that_is_let_out_later_meets_it_then();
        a_rule_of_the_owners_stays(&outside);
        a_firewall_that_cannot_be_asked_undoes_the_attach();
    });
}

/// Whether this kernel still has the tables of `iptables-legacy`.
fn has_legacy() -> bool {
    let able = sh("unshare -n iptables-legacy -S").status.success();
    support::require("iptables-legacy", able, "needs iptables-legacy and a kernel that still has its tables")
}

#[test]
fn docker_of_iptables_legacy_is_asked_in_its_own_chain() {
    isolated("netd::firewall::docker_of_iptables_legacy_is_asked_in_its_own_chain", || {
        if !has_legacy() {
            return;
        }
        let outside = outside();
        let container = docker("iptables-legacy");
        scenario(&outside, "Docker", &format!("iptables-legacy -w -I DOCKER-USER -i bgr{STATE} -j ACCEPT"));
        assert_docker_works(&outside, &container);
    });
}

#[test]
fn a_policy_of_iptables_legacy_is_seen_and_the_command_told() {
    isolated("netd::firewall::a_policy_of_iptables_legacy_is_seen_and_the_command_told", || {
        if !has_legacy() {
            return;
        }
        let outside = outside();
        // Nobody's tables are made by looking.
        ok("detach", &ok("attach", &document(2)));
        assert_eq!(sh("cat /proc/thread-self/net/ip_tables_names").stdout, b"");
        done("iptables-legacy -P FORWARD DROP");
        let output = netd("attach", &wanted(2, true));
        let warning = warned(&output);
        let (_, fix) = warning.trim().rsplit_once(": ").expect("a command at the end");
        assert!(warning.contains("the chain FORWARD of iptables-legacy"), "{warning}");
        let guest = boot(&tap(2), 2);
        guest.run(|| serve(listen("0.0.0.0:80")));
        assert_lost(guest.run(|| unseen_by(OUTSIDE)));
        assert_eq!(ok("status", &record(&output))["blocked_by"][0]["fix"], fix);
        let state = support::state_with_fake_image();
        let mut doctor = support::command(env!("CARGO_BIN_EXE_banger"));
        doctor.args(["doctor", "--json"]).env("BANGER_STATE_DIR", state.path());
        assert!(record(&support::run(&mut doctor, b"")).to_string().contains("FORWARD of iptables-legacy"));
        done(fix);
        assert_open(&outside, &guest, 2);
        assert_eq!(ok("status", &record(&output))["blocked_by"], json!([]));
        // What its owner opened stays.
        ok("detach", &wanted(2, true));
        assert!(snapshot().contains(&format!("-A FORWARD -o bgr{STATE} -j ACCEPT")));
    });
}

fn a_guest_that_is_let_out_later_meets_it_then() {
    let mut shut = document(2);
    shut["vm"]["egress"] = json!({ "policy": "none", "allow": [] });
    let output = netd("attach", &shut);
    assert_eq!(warned(&output), "");
    let guest = boot(&tap(2), 2);
    let mut record = record(&output);
    record["vm"]["egress"]["policy"] = json!("open");
    assert!(warned(&netd("update", &record)).contains("Docker"));
    assert!(guest.run(|| unseen_by(OUTSIDE)).is_err());
    record["vm"]["open_firewall"] = json!(true);
    assert_eq!(warned(&netd("update", &record)), "");
    guest.run(|| seen_by(OUTSIDE)).expect("it is let through");
    ok("detach", &shut);
}

/// What the owner of the host opened is not asked for, and not taken back.
fn a_rule_of_the_owners_stays(outside: &Namespace) {
    let output = netd("attach", &wanted(2, false));
    let warning = warned(&output);
    let (_, fix) = warning.trim().rsplit_once(": ").expect("a command at the end");
    done(fix);
    let guest = boot(&tap(2), 2);
    guest.run(|| serve(listen("0.0.0.0:80")));
    assert_open(outside, &guest, 2);
    ok("detach", &wanted(2, false));
    assert_eq!(warned(&netd("attach", &wanted(2, true))), "");
    ok("detach", &wanted(2, true));
    let rules = sh("iptables -S DOCKER-USER").stdout;
    assert_eq!(String::from_utf8_lossy(&rules).matches(&format!("bgr{STATE}")).count(), 2);
    done(&fix.replace(" -I ", " -D "));
}

fn a_firewall_that_cannot_be_asked_undoes_the_attach() {
    let before = snapshot();
    done(
        "touch /run/no && mount --bind /run/no $(readlink -f $(command -v iptables || echo /usr/sbin/iptables))",
    );
    let error = assert_error(&netd("attach", &wanted(2, true)), 5, "unsupported");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("Docker")), "{error}");
    assert_eq!(snapshot(), before);
    ok("attach", &wanted(2, false));
    ok("detach", &wanted(2, false));
}

#[test]
fn ufw_gets_route_rules() {
    isolated("netd::firewall::ufw_gets_route_rules", || {
        if !support::require("host", support::has("ufw"), "needs ufw") {
            return;
        }
        let outside = outside();
        // Its own files, on which it works, are copies.
        done(
            "mkdir /run/ufw /run/default; cp -a /etc/ufw/. /run/ufw; cp -a /etc/default/. /run/default
             mount --bind /run/ufw /etc/ufw; mount --bind /run/default /etc/default
             sed -i s/^IPV6=.*/IPV6=no/ /etc/default/ufw
             ufw --force enable",
        );
        // ufw lets nobody in: names of guests have to be asked for, too.
        scenario(&outside, "ufw", &format!("ufw route allow in on bgr{STATE}"));
        let added = sh("ufw show added").stdout;
        assert!(!String::from_utf8_lossy(&added).contains("bgr"));
    });
}

#[test]
fn firewalld_gets_the_bridge_in_its_trusted_zone() {
    isolated("netd::firewall::firewalld_gets_the_bridge_in_its_trusted_zone", || {
        let able = ["firewalld", "firewall-cmd", "dbus-daemon"].into_iter().all(support::has);
        if !support::require("host", able, "needs firewalld and dbus-daemon") {
            return;
        }
        let outside = outside();
        system_bus();
        done(
            "firewalld --nofork --nopid >/run/firewalld.log 2>&1 &
             for n in $(seq 600); do firewall-cmd --state >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1",
        );
        scenario(
            &outside,
            "firewalld",
            &format!("firewall-cmd --zone=trusted --change-interface=bgr{STATE}"),
        );
    });
}

#[test]
fn any_other_chain_that_drops_is_named_with_the_command() {
    isolated("netd::firewall::any_other_chain_that_drops_is_named_with_the_command", || {
        let outside = outside();
        done(
            "nft 'add table inet site; add chain inet site passing { type filter hook forward priority 5; policy drop; }'",
        );
        let warning = warned(&netd("attach", &wanted(2, true)));
        let (_, fix) = warning.trim().rsplit_once(": ").expect("a command at the end");
        assert!(warning.contains("the nftables chain inet site passing"), "{warning}");
        let guest = boot(&tap(2), 2);
        guest.run(|| serve(listen("0.0.0.0:80")));
        assert_lost(guest.run(|| unseen_by(OUTSIDE)));
        done(fix);
        assert_open(&outside, &guest, 2);
        // No warning where nothing of the VM's is forwarded.
        ok("detach", &wanted(2, true));
        done("nft flush chain inet site passing");
        let mut alone = document(2);
        alone["vm"]["nat"] = json!(false);
        assert_eq!(warned(&netd("attach", &alone)), "");
    });
}

#[test]
fn doctor_sees_overlaps_and_firewalls_and_plan_takes_the_next_subnet() {
    isolated("netd::firewall::doctor_sees_overlaps_and_firewalls_and_plan_takes_the_next_subnet", || {
        let state = support::state_with_fake_image();
        let banger = |args: &[&str]| {
            let mut command = support::command(env!("CARGO_BIN_EXE_banger"));
            support::run(command.args(args).env("BANGER_STATE_DIR", state.path()), b"")
        };
        let finding = |name: &str| {
            let report = record(&banger(&["doctor", "--json"]));
            let items = report["items"].as_array().expect("a list").clone();
            items.into_iter().find(|item| item["name"] == name)
        };
        let plan = |name: &str| record(&banger(&["vm", "plan", name, "--net", "tap"]))["vm"].take();
        assert_eq!((finding("subnet"), finding("firewall")), (None, None), "nothing was made yet");
        let first = plan("one");
        assert_eq!(finding("subnet").expect("a finding")["state"], "ok");
        let gateway = first["gateway"].as_str().expect("an address");
        let network = format!("{}.0/25", gateway.rsplit_once('.').expect("an address").0);
        done(&format!("ip link add lan0 type bridge; ip link set lan0 up; ip route add {network} dev lan0"));
        let found = finding("subnet").expect("a finding");
        let detail = found["detail"].as_str().expect("text");
        assert_eq!(found["state"], "note");
        assert!(detail.contains(&network) && detail.contains("lan0"), "{detail}");
        // Addresses stay while somebody has them; the next VM after that gets others, which work.
        assert_eq!(plan("two")["gateway"], first["gateway"]);
        assert_error(&netd("attach", &record(&banger(&["vm", "show", "one", "--record"]))), 1, "conflict");
        assert!(banger(&["vm", "delete", "one", "two"]).status.success());
        let next = plan("three");
        assert_ne!(next["gateway"], first["gateway"]);
        ok("attach", &json!({ "schema": "banger.vm/1", "vm": next }));
        assert_eq!(finding("subnet").expect("a finding")["state"], "ok", "its own bridge is no overlap");
        done(
            "nft 'add table inet site; add chain inet site passing { type filter hook forward priority 5; policy drop; }'",
        );
        let found = finding("firewall").expect("a finding");
        assert!(found["detail"].as_str().is_some_and(|text| text.contains("inet site passing")), "{found}");
    });
}
