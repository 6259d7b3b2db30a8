//! Every way in which Firecracker is known to fail: what `banger-fc start` says of it, and that nothing stays behind.

use std::time::Instant;

use serde_json::{Value, json};

use super::stage::{ACCEL, Stage};
use crate::support;

/// Starts and expects failure; gives the error.
#[track_caller]
fn failure(stage: &Stage, arguments: &[&str], status: i32, code: &str) -> Value {
    let output = stage.run(&[&["start"], arguments].concat(), &stage.record);
    let record = support::assert_error(&output, status, code);
    assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
    assert!(stage.processes().is_empty(), "{:?}", stage.processes());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.trim_end().contains(|c: char| c.is_control()), "{stderr:?}");
    record["error"].clone()
}

#[track_caller]
fn assert_told(error: &Value, words: &[&str]) {
    let text = format!("{} {} {}", error["message"], error["causes"], error["hint"]);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[test]
fn refusals_of_the_api_are_explained() {
    let tap = "Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: ";
    let kvm = "Start microvm error: Kvm error: Error creating KVM object: ";
    let nic = "PUT /network-interfaces/eth0";
    let cases: &[(&str, String, i32, &str, &str)] = &[
        (
            nic,
            format!("{tap}Resource busy (os error 16). Invalid TUN/TAP Backend"),
            1,
            "in-use",
            "holds the VM's tap",
        ),
        (nic, format!("{tap}Operation not permitted (os error 1)."), 5, "denied", "banger-netd attach again"),
        (nic, format!("{tap}Invalid argument (os error 22)."), 1, "conflict", "multi_queue"),
        (nic, format!("{tap}I/O error (os error 5)"), 1, "failed", "the tap is not up"),
        ("PUT /actions", format!("{kvm}Permission denied (os error 13)"), 5, "unsupported", "group"),
        (
            "PUT /actions",
            format!("{kvm}No such file or directory (os error 2)"),
            5,
            "unsupported",
            "firmware",
        ),
        (
            "PUT /actions",
            "Cannot create VM: Device or resource busy (os error 16)".into(),
            1,
            "in-use",
            "VirtualBox",
        ),
        ("PUT /actions", "Internal error: vCPU: FailEntry(7)".into(), 5, "unsupported", "nested"),
        (
            "PUT /vsock",
            "Error binding to the host-side Unix socket: Address in use (os error 98)".into(),
            1,
            "in-use",
            "banger-fc gc",
        ),
        ("PUT /vsock", "path must be shorter than SUN_LEN".into(), 5, "unsupported", "shorter path"),
        ("PUT /entropy", "something that nobody knows".into(), 1, "failed", "something that nobody knows"),
    ];
    for (request, fault, status, code, hint) in cases {
        let stage = Stage::new(&[("FAIL", &format!("{request}=400:{fault}"))]);
        let error = failure(&stage, &[ACCEL, "kvm"], *status, code);
        assert_told(&error, &[request, fault, hint]);
        assert_eq!(error["details"]["fault_message"], *fault);
    }
}

#[test]
fn a_kernel_that_is_no_elf_is_bad_input() {
    let stage = Stage::new(&[]);
    std::fs::write(stage.dir().join("vmlinux"), b"MZ and the rest of a bzImage").unwrap();
    assert_told(
        &failure(&stage, &[ACCEL, "kvm"], 2, "bad-input"),
        &["Invalid Elf magic number", "kernel_elf"],
    );
}

#[test]
fn a_firecracker_that_ends_is_explained_by_its_status() {
    for (status, code, words) in [
        (148, "failed", "glibc"),
        (149, "failed", "SIGBUS"),
        (150, "failed", "SIGSEGV"),
        (152, "failed", "its configuration wrong"),
    ] {
        let stage = Stage::new(&[("EXIT", &format!("PUT /actions={status}:words of the log"))]);
        assert_told(&failure(&stage, &[ACCEL, "kvm"], 1, code), &[words, &status.to_string()]);
    }
    let stage = Stage::new(&[("EXIT", "socket=153:Arguments parsing error")]);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 5, "unsupported"), &["153", "arguments", "1.14"]);
    let stage =
        Stage::new(&[("EXIT", "PUT /vsock=1:Failed to open the API socket at: api.sock. Check that")]);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 1, "in-use"), &["API socket is there already"]);
    let stage = Stage::new(&[("EXIT", "PUT /drives/root=1:a reason that nobody knows")]);
    let error = failure(&stage, &[ACCEL, "kvm"], 1, "failed");
    assert_told(&error, &["exit status: 1"]);
}

#[test]
fn a_firecracker_that_ends_during_the_boot_is_not_waited_for() {
    let stage = Stage::new(&[("EXIT", "ready=148:blocked")]);
    let begun = Instant::now();
    let error = failure(&stage, &[ACCEL, "kvm"], 1, "failed");
    assert_told(&error, &["148"]);
    assert!(begun.elapsed() < support::SOON, "{:?}", begun.elapsed());
}

#[test]
fn what_never_answers_is_ended_at_the_deadline() {
    // Side by side. All stages first: see lifecycle.rs on ETXTBSY.
    let stages =
        [("HANG", "socket"), ("HANG", "PUT /drives/root"), ("HANG", "PUT /actions"), ("GUEST", "silent")]
            .map(|variable| (Stage::new(&[variable]), variable));
    std::thread::scope(|scope| {
        for (stage, variable) in &stages {
            scope.spawn(move || {
                let begun = Instant::now();
                failure(stage, &[ACCEL, "kvm", "--ready-timeout", "2"], 1, "timeout");
                assert!(begun.elapsed() < support::SOON, "{variable:?}: {:?}", begun.elapsed());
            });
        }
    });
}

#[test]
fn hostile_guests_are_bounded_and_escaped() {
    let stage = Stage::new(&[("GUEST", "failed")]);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 1, "failed"), &["disks"]);
    let stage = Stage::new(&[("GUEST", "garbage")]);
    let begun = Instant::now();
    failure(&stage, &[ACCEL, "kvm", "--ready-timeout", "3"], 1, "timeout");
    assert!(begun.elapsed() < support::SOON, "{:?}", begun.elapsed());
    let stage = Stage::new(&[("GUEST", "panic")]);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 1, "failed"), &["Kernel panic"]);
}

#[test]
fn what_firecracker_cannot_do_is_said_before_anything_is_made() {
    let mut stage = Stage::new(&[]);
    let untouched = stage.files();
    stage.record["net"]["mode"] = json!("user");
    stage.record["net"]["tap"] = json!(null);
    stage.record["net"]["bridge"] = json!(null);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 5, "unsupported"), &["user networking", "banger-qemu"]);
    stage.record["net"]["mode"] = json!("tap");
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 2, "bad-input"), &["tap", "banger-netd attach"]);
    stage.record["net"] = json!(null);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 2, "bad-input"), &["banger-netd attach"]);

    let mut stage = Stage::new(&[]);
    stage.record["vm"]["vcpus"] = json!(33);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 2, "bad-input"), &["33", "--vcpus"]);
    let mut stage = Stage::new(&[]);
    stage.record["disk"]["initrd"] = json!("/nowhere/initrd");
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 3, "not-found"), &["disk.initrd", "/nowhere/initrd"]);
    assert!(stage.events().is_empty(), "Firecracker was not started: {:?}", stage.events());
    assert_eq!(stage.files(), untouched);
}

#[test]
fn an_old_or_missing_firecracker_is_unsupported() {
    let stage = Stage::new(&[("VERSION", "1.13.1")]);
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 5, "unsupported"), &["1.13.1", "1.14"]);
    let stage = Stage::new(&[]);
    std::fs::remove_file(stage.bin().join("firecracker")).unwrap();
    if support::has("firecracker") {
        return;
    }
    assert_told(&failure(&stage, &[ACCEL, "kvm"], 5, "unsupported"), &["not installed", "banger-qemu"]);
}

#[test]
fn a_host_without_kvm_is_refused_unless_forced() {
    let reason = "the host has a working KVM";
    if !support::require("no-kvm", banger_host::kvm::usable().is_err(), reason) {
        return;
    }
    let stage = Stage::new(&[]);
    assert_told(&failure(&stage, &[], 5, "unsupported"), &["KVM", "banger-qemu"]);
    assert!(stage.events().is_empty(), "Firecracker was not started");
}
