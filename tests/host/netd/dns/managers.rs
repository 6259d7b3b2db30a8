//! Beside the programs that manage a host's network, the real ones: NetworkManager, which is asked to resolve names, and
//! systemd-networkd, which may take our links for its own.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{dig, servers};
use crate::netd::guest::boot;
use crate::netd::packets::seen_by;
use crate::netd::reach::counted;
use crate::netd::{STATE, document, isolated, netd, ok, sh, system_bus, tap};
use crate::support::{self, assert_error, command, record, run};

const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// Where NetworkManager's dnsmasq has what others configure.
const DIRECTORY: &str = "/etc/NetworkManager/dnsmasq.d";

/// Runs `script`, which must succeed.
#[track_caller]
fn done(script: &str) -> String {
    let output = sh(&format!("set -e\n{script}"));
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A host with a system bus, and with an /etc and a /sys of its own.
fn host() {
    done(
        "mkdir /run/etc; cp -a /etc/. /run/etc; mount --bind /run/etc /etc; mount -t sysfs -o ro sysfs /sys
        rm -f /etc/resolv.conf; echo 'hosts: files dns' >/etc/nsswitch.conf",
    );
    system_bus();
}

/// Waits until `condition` holds: these programs take seconds.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Dispatcher(TempDir);

impl Dispatcher {
    fn run(&self, args: &[&str]) -> Output {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        run(banger.args(args).arg("--json").env("BANGER_STATE_DIR", self.0.path()), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        record(&output)
    }

    /// What `banger doctor` says about `name`.
    fn doctor(&self, name: &str) -> Value {
        let found = record(&self.run(&["doctor"]));
        let items = found["items"].as_array().expect("a list").clone();
        items.into_iter().find(|item| item["name"] == name).unwrap_or_default()
    }
}

#[test]
fn networkmanager_itself_resolves_names_until_it_is_told_not_to() {
    isolated("netd::dns::managers::networkmanager_itself_resolves_names_until_it_is_told_not_to", || {
        let programs = ["NetworkManager", "dbus-daemon", "busctl", "dnsmasq", "dig", "getent"];
        let there = programs.into_iter().all(support::has);
        if !support::require(
            "host",
            there,
            "needs NetworkManager, dbus-daemon, busctl, dnsmasq, dig and getent",
        ) {
            return;
        }
        host();
        done(
            "mount -t tmpfs tmpfs /var/lib/NetworkManager
            printf '[main]\\nplugins=keyfile\\ndns=dnsmasq\\n' >/etc/NetworkManager/conf.d/zz-test.conf
            NetworkManager --no-daemon >/run/nm.log 2>&1 &",
        );
        let mode = "busctl get-property org.freedesktop.NetworkManager /org/freedesktop/NetworkManager/DnsManager \
            org.freedesktop.NetworkManager.DnsManager Mode";
        eventually("NetworkManager", || sh(mode).stdout == b"s \"dnsmasq\"\n");
        let files = || done(&format!("ls -A {DIRECTORY}"));
        let before = files();
        let banger = Dispatcher(support::state_with_fake_image());
        assert_eq!(banger.ok(&["dns", "status"])["enabled"], false);
        let enabled = banger.ok(&["dns", "enable"]);
        assert_eq!(
            (&enabled["enabled"], &enabled["resolver"]),
            (&true.into(), &"networkmanager-dnsmasq".into())
        );

        let planned = banger.ok(&["vm", "plan", "dev1", "--net", "tap"]);
        let dev1 = ok("attach", &planned);
        banger.ok(&["gc"]);
        let address = dev1["net"]["address"].as_str().expect("an address");
        let getent = || String::from_utf8_lossy(&sh("getent ahostsv4 dev1.vm").stdout).into_owned();
        eventually("the name, as every program looks it up", || getent().starts_with(address));
        assert_eq!(dig(&format!("+short @127.0.0.1 -x {address}")), "dev1.vm.");
        assert!(dig("@127.0.0.1 nobody.vm").contains("status: NXDOMAIN"));
        let status = banger.ok(&["dns", "status"]);
        assert_eq!((&status["hooked"], &status["names"][0]["resolves"]), (&true.into(), &true.into()));
        // It has seen bridge and tap, and done nothing to them.
        eventually("NetworkManager knows the bridge", || {
            String::from_utf8_lossy(&sh("nmcli -t -f DEVICE,STATE device").stdout).contains(&format!(
                "{}:connected (externally)",
                dev1["net"]["bridge"].as_str().expect("text")
            ))
        });
        ok("check", &dev1);

        let disabled = banger.ok(&["dns", "disable"]);
        assert_eq!(
            (&disabled["enabled"], &disabled["hooked"], files()),
            (&false.into(), &false.into(), before.clone())
        );
        assert_eq!(getent(), "", "it was told");
        // Or with the last VM.
        banger.ok(&["dns", "enable"]);
        eventually("the name again", || getent().starts_with(address));
        ok("detach", &dev1);
        eventually("the end", || servers().is_empty());
        assert_eq!((files(), getent()), (before, String::new()));
        assert_eq!(sh(mode).stdout, b"s \"dnsmasq\"\n", "it still runs");
    });
}

#[test]
fn systemd_networkd_that_takes_links_for_its_own_is_told_of_and_told_off() {
    isolated(
        "netd::dns::managers::systemd_networkd_that_takes_links_for_its_own_is_told_of_and_told_off",
        || {
            let there = ["dbus-daemon", "busctl", "networkctl", "dnsmasq"].into_iter().all(support::has);
            let there = there && Path::new(NETWORKD).exists();
            if !support::require(
                "host",
                there,
                "needs systemd-networkd, dbus-daemon, busctl, networkctl and dnsmasq",
            ) {
                return;
            }
            host();
            done(&format!(
                "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
             chown -R systemd-network: /run/systemd
             printf '[Match]\\nName=*\\n\\n[Network]\\nDHCP=yes\\n' >/etc/systemd/network/99-all.network
             {NETWORKD} >/run/networkd.log 2>&1 &"
            ));
            eventually("systemd-networkd", || sh("networkctl status lo").status.success());
            let attached = ok("attach", &document(2));
            let guest = boot(&tap(2), 2);
            let banger = Dispatcher(support::state_with_fake_image());
            eventually("it takes the bridge", || banger.doctor("networkd") != Value::Null);
            let note = banger.doctor("networkd");
            let detail = note["detail"].as_str().expect("text");
            assert!(
                note["state"] == "note"
                    && detail.contains(&format!("bgr{STATE}"))
                    && detail.contains("/etc/systemd/network/99-all.network"),
                "{note}"
            );
            // It asks the bridge for an address of its own. A guest's answer does not get there.
            guest.run(|| {
            let options = "--port=0 --interface=eth0 --bind-interfaces --dhcp-authoritative --log-dhcp --log-facility=/run/dhcp.log";
            done(&format!("dnsmasq {options} --dhcp-range=10.213.7.100,10.213.7.150 --dhcp-leasefile=/run/leases --conf-file=/dev/null"));
        });
            done(&format!("networkctl reconfigure bgr{STATE}"));
            eventually("it asks, and the guest offers", || {
                std::fs::read_to_string("/run/dhcp.log").is_ok_and(|log| log.contains("DHCPOFFER"))
            });
            // What it were given it would have at once.
            std::thread::sleep(Duration::from_secs(1));
            let addresses = done(&format!("ip -4 -o address show dev bgr{STATE}"));
            assert!(!addresses.contains(" dynamic "), "{addresses}");
            eventually("the offer is dropped", || counted(&attached, "dropped: an offer of addresses") > 0);

            // What is advised helps.
            let (_, remedy) = detail.split_once("alone: ").expect("what to do");
            done(remedy);
            eventually("it lets go", || banger.doctor("networkd") == Value::Null);
            // What it took away comes back, and stays.
            ok("attach", &attached);
            done("networkctl reload; sleep 1");
            ok("check", &attached);
            guest.run(|| crate::netd::packets::serve(crate::netd::packets::listen("0.0.0.0:80")));
            assert_eq!(seen_by("10.213.7.2:80").expect("the host reaches the guest"), "10.213.7.1");
            ok("detach", &attached);
            assert_error(&netd("check", &attached), 1, "conflict");
        },
    );
}
