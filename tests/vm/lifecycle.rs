//! A VM that stays: create, start, exec, stop, start again, delete.

use std::fs;

use crate::home::{Home, said};
use crate::support;

#[test]
fn a_vm_lives_stops_and_comes_back_with_its_disks() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("it's a repo");
    let repo = repo.to_str().unwrap();
    let output = home.run(&["vm", "run", "--name", "dev1", repo, "--", "sh", "-c", "echo kept > kept; pwd"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("banger vm delete --force dev1"),
        "{}",
        said(&output)
    );

    let list = home.json(&["ps"]);
    assert_eq!(list["items"][0]["vm"]["name"], "dev1");
    assert_eq!(list["items"][0]["vmm"]["state"], "running");
    let supervisor = list["items"][0]["vmm"]["supervisor_pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    // Most of it is the program's own file, which is large where it is not optimised.
    let limit = if cfg!(debug_assertions) { 12 << 10 } else { 8 << 10 };
    assert!(rss.parse::<u64>().unwrap() <= limit, "the supervisor takes {rss} KiB");

    let taken = home.run(&["vm", "run", "--json", "--name", "dev1", repo, "--", "true"]);
    support::assert_error(&taken, 125, "conflict");
    support::assert_error(&home.run(&["vm", "delete", "--json", "dev1"]), 1, "in-use");

    let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", "cat kept; exit 3"]);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(3), &b"kept\n"[..]),
        "{}",
        said(&output)
    );
    let output = home.run(&["vm", "ssh", "dev1", "--", "hostname"]);
    assert_eq!(output.stdout, b"dev1\n", "{}", said(&output));

    // What handles.json said is found again where it is lost: in the kernel.
    let vm_dir = list["items"][0]["vm"]["paths"]["dir"].as_str().unwrap();
    fs::write(format!("{vm_dir}/handles.json"), "{\"net\":").unwrap();
    let rebuilt = home.json(&["vm", "show", "dev1"]);
    for (section, field) in [
        ("net", "ssh_port"),
        ("net", "tap"),
        ("net", "dns"),
        ("vmm", "kind"),
        ("vmm", "accel"),
        ("vmm", "pid"),
    ] {
        assert_eq!(rebuilt[section][field], list["items"][0][section][field], "{section}.{field}: {rebuilt}");
    }
    assert_eq!(home.run(&["vm", "exec", "dev1", "--", "cat", "kept"]).stdout, b"kept\n");

    assert!(home.run(&["vm", "stop", "dev1"]).status.success());
    let shown = home.json(&["vm", "show", "dev1"]);
    assert!(shown["net"].is_null() && shown["disk"].is_null(), "{shown}");
    support::assert_error(&home.run(&["vm", "exec", "--json", "dev1", "--", "true"]), 125, "vm-stopped");

    assert!(home.run(&["vm", "start", "dev1"]).status.success());
    let output = home.run(&["vm", "exec", "dev1", "--patch", "p", "--", "cat", "kept"]);
    assert_eq!(output.stdout, b"kept\n", "{}", said(&output));
    assert!(fs::read_to_string(home.path("p")).unwrap().contains("+kept"));
    let logs = home.run(&["vm", "logs", "dev1"]);
    assert!(logs.status.success(), "{}", said(&logs));
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    support::assert_error(&home.run(&["vm", "show", "--json", "dev1"]), 3, "not-found");
    home.assert_clean();
}
