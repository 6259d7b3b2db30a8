//! Looking into a VM, and what becomes of one whose time is over.

use std::process::Stdio;

use serde_json::json;

use crate::home::{Home, assert_counted, said};
use crate::support;

#[test]
fn a_vm_is_looked_into_expires_and_is_pruned() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let listen = "nohup sh -c 'sleep 600' >/dev/null 2>&1 & perl -MIO::Socket::INET -e \
        '$s = IO::Socket::INET->new(Listen => 1, LocalPort => 8080) or die; fork and exit; sleep 600' </dev/null >/dev/null 2>&1";
    let run =
        ["vm", "run", "--name", "dev1", "--ttl", "1h", repo.to_str().unwrap(), "--", "sh", "-c", listen];
    let output = home.run(&run);
    assert!(output.status.success(), "{}", said(&output));
    let follower =
        home.banger(&["vm", "logs", "-f", "dev1"]).stdout(Stdio::piped()).spawn().expect("it starts");

    let ports = home.json(&["vm", "ports", "dev1"]);
    let of = |port: u64| {
        ports["items"].as_array().unwrap().iter().find(|item| item["port"] == json!(port)).cloned()
    };
    assert_eq!(of(8080).expect("it listens")["process"], "perl", "{ports}");
    assert_eq!(of(22).expect("sshd listens")["protocol"], "tcp", "{ports}");

    // By SSH, or nothing would have passed the network.
    let mut by_ssh = home.banger(&["vm", "exec", "dev1", "--", "true"]);
    assert!(by_ssh.env("BANGER_GUEST_TRANSPORT", "ssh").status().expect("it starts").success());
    let usage = home.json(&["vm", "stats", "dev1"])["items"][0].clone();
    assert_counted(&usage);
    let root = usage["disks"].as_array().unwrap().iter().find(|disk| disk["drive"] == "root").cloned();
    assert!(root.expect("a root")["read_bytes"].as_u64().unwrap() > 1 << 20, "{usage}");
    assert_eq!(home.run(&["vm", "health", "dev1"]).stdout, b"dev1 is well\n");
    let table = String::from_utf8(home.run(&["ps"]).stdout).unwrap();
    let of_this_hour = |minute: u8| table.lines().nth(1).unwrap().contains(&format!("{minute}m"));
    assert!((40..60).any(of_this_hour), "the time that is left: {table}");

    // Nothing that runs is pruned.
    assert_eq!(home.json(&["vm", "prune"])["removed"], json!([]));
    assert!(home.run(&["vm", "set", "dev1", "--ttl", "1s"]).status.success());
    support::eventually("its time is over", || home.json(&["ps"])["items"][0]["vmm"]["state"] != "running");
    let followed = follower.wait_with_output().expect("it ends with the VM");
    assert!(followed.status.success());
    support::assert_error(&home.run(&["vm", "health", "--json", "dev1"]), 1, "vm-stopped");
    assert_eq!(home.json(&["vm", "show", "dev1"])["vmm"]["exit"]["reason"], "ttl");
    assert_eq!(home.json(&["vm", "prune", "--expired"])["removed"], json!(["dev1"]));
    assert_eq!(home.json(&["ps"])["items"], json!([]));
}
