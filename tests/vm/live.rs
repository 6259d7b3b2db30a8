//! What of a VM is changed while it runs, with a real guest.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::home::{Home, said};
use crate::support;

#[test]
fn a_running_vm_is_given_larger_disks_limits_and_another_time_to_live() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let output = home.run(&["vm", "run", "--name", "dev1", repo.to_str().unwrap(), "--", "true"]);
    assert!(output.status.success(), "{}", said(&output));
    let set = |args: &[&str]| home.run(&[&["vm", "set", "--json", "dev1"], args].concat());
    let inside = |script: &str| {
        let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", script]);
        assert!(output.status.success(), "{script}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let sizes = || -> Vec<u64> {
        let said = inside("df -B1 --output=size / /root");
        said.lines().filter_map(|line| line.trim().parse().ok()).collect()
    };
    let before = sizes();
    inside("echo kept >/root/kept; echo kept >/var/kept");

    let output = set(&["--work-size", "10G", "--disk-size", "11G", "--disk-rate", "30M"]);
    assert!(output.status.success(), "{}", said(&output));
    let record = support::record(&output);
    assert_eq!(record["vm"]["work_size_bytes"], json!(10u64 << 30), "{record}");
    assert_eq!(record["vmm"]["disk_rate_bytes_s"], json!(30 << 20), "{record}");
    let after = sizes();
    assert!(after[0] > before[0] + (2 << 30) && after[1] > before[1] + (1 << 30), "{before:?} {after:?}");
    assert_eq!(inside("cat /root/kept /var/kept"), "kept\nkept\n");

    // 60 MiB at 30 MiB a second; the first second's worth is free.
    let write = "dd if=/dev/zero of=/root/big bs=1M count=60 oflag=direct status=none";
    let begun = Instant::now();
    inside(write);
    let limited = begun.elapsed();
    assert!(limited > Duration::from_millis(900), "{limited:?}");
    assert!(set(&["--disk-rate", "none"]).status.success());

    // What cannot be done is said, and nothing is changed.
    support::assert_error(&set(&["--work-size", "1G"]), 2, "usage");
    support::assert_error(&set(&["--memory", "2G"]), 5, "unsupported");
    support::assert_error(&set(&["--vcpus", "7"]), 5, "unsupported");
    support::assert_error(&set(&["--net-rate", "1M"]), 5, "unsupported");
    let now = home.json(&["vm", "show", "dev1"]);
    let want = (&json!(10u64 << 30), &json!(null));
    assert_eq!((&now["vm"]["work_size_bytes"], &now["vm"]["net_rate_bytes_s"]), want, "{now}");

    // The logs, from a time on.
    let logs = |args: &[&str]| {
        String::from_utf8(home.run(&[&["vm", "logs", "dev1"], args].concat()).stdout).unwrap()
    };
    inside("echo first >/dev/console");
    support::eventually("the console is logged", || logs(&[]).contains("first"));
    // The log knows whole seconds.
    std::thread::sleep(Duration::from_millis(1500));
    let since = jiff::Timestamp::now().to_string();
    inside("echo second >/dev/console");
    support::eventually("the console is logged", || logs(&[]).contains("second"));
    let late = logs(&["--since", &since]);
    assert!(!late.contains("first") && late.contains("second"), "{late}");
    let agent = logs(&["--agent", "--since", "1h"]);
    assert!(agent.contains("the guest is ready") && agent.contains("POST /v1/resize: 200"), "{agent}");

    // Whoever sits at a terminal in the guest is told that time is short.
    inside("setsid script -qfc 'sleep 300' /root/terminal </dev/null >/dev/null 2>&1 &");
    assert!(set(&["--ttl", "61s"]).status.success());
    // The time that is left when it is told: a minute, or less on a busy machine, but for the last warning, ten seconds before.
    let heard = inside("until grep -oE 'over in [0-9]+ seconds' /root/terminal; do sleep 0.1; done");
    let left: u64 = heard.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((11..=60).contains(&left), "{heard}");
    assert!(set(&["--ttl", "1s"]).status.success());
    support::eventually("its time is over", || {
        home.json(&["vm", "show", "dev1"])["vmm"]["state"] != "running"
    });
    assert_eq!(home.json(&["vm", "show", "dev1"])["vmm"]["exit"]["reason"], "ttl");
    assert!(set(&["--memory", "512M", "--vcpus", "1", "--ttl", "never"]).status.success());
    assert_eq!(home.json(&["vm", "show", "dev1"])["vm"]["memory_mib"], 512);
    assert!(home.run(&["vm", "delete", "dev1"]).status.success());
    home.assert_clean();
}

#[test]
fn a_work_disk_smaller_than_the_images_has_what_the_images_has_and_grows() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let run = ["vm", "run", "--name", "dev1", "--work-size", "64M", repo.to_str().unwrap(), "--"];
    let look = "cat README.md; ls -A /root; df -B1 --output=size /root | tail -n 1";
    let output = home.run(&[&run[..], &["sh", "-c", look]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    for name in ["hello", ".profile", ".bashrc", "repo"] {
        assert!(told.lines().any(|line| line == name), "{name}: {told}");
    }
    let size = |told: &str| told.lines().last().unwrap().trim().parse::<u64>().unwrap();
    assert!((40 << 20..64 << 20).contains(&size(&told)), "{told}");
    assert!(home.run(&["vm", "set", "dev1", "--work-size", "1G"]).status.success());
    let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", look]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(size(&told) > 900 << 20 && told.starts_with("hello"), "{told}");
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}
