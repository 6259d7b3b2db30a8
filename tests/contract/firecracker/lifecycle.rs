//! A VM's life under `banger-fc`: start, status, stop, kill, check, gc, and what is left of it.

use std::time::{Duration, Instant};

use banger_state::dir::VmDir;
use banger_state::lock::is_alive;
use serde_json::{Value, json};

use super::stage::{ACCEL, Stage, alive, assert_changed};
use crate::support;

#[test]
fn another_firecracker_than_that_in_path_is_run() {
    let stage = Stage::new(&[]);
    let other = stage.bin().join("fc-1.14");
    std::fs::rename(stage.bin().join("firecracker"), &other).unwrap();
    support::assert_error(&stage.run(&["start", ACCEL, "kvm"], &stage.record), 5, "unsupported");
    let named = ["start", ACCEL, "kvm", "--firecracker-bin", other.to_str().unwrap(), "--deadline", "45"];
    let started = assert_changed(&stage.run(&named, &stage.record), true);
    assert_eq!(started["vmm"]["version"], "1.14.0");
    assert_changed(&stage.run(&["stop", "--button-deadline", "45", "--term-deadline", "45"], &started), true);
    assert!(stage.events().contains(&json!({"exit": 0})), "{:?}", stage.events());
}

#[test]
fn a_vm_starts_answers_and_stops() {
    let stage = Stage::new(&[]);
    let output = stage.run(&["start", ACCEL, "kvm"], &stage.record);
    let started = assert_changed(&output, true);
    let vmm = &started["vmm"];
    assert_eq!(vmm["kind"], "firecracker", "{vmm}");
    assert_eq!(vmm["accel"], "kvm");
    assert_eq!(vmm["version"], "1.14.0");
    assert_eq!(vmm["state"], "running");
    assert!(vmm["ready_at"].is_string() && vmm["exit"].is_null(), "{vmm}");
    assert_eq!(started["x-foreign"], json!({"kept": true}));
    assert!(alive(&vmm["pid"]) && alive(&vmm["supervisor_pid"]), "{vmm}");
    let steps: Vec<_> =
        started["timings"].as_array().unwrap().iter().map(|t| t["tool"].as_str().unwrap()).collect();
    assert!(steps.contains(&"banger-fc") && steps.contains(&"banger-guest"), "{steps:?}");

    let again = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &started), false);
    assert_eq!(again["vmm"]["pid"], vmm["pid"]);
    let status = stage.run(&["status"], &started);
    assert_eq!(support::record(&status)["vmm"]["state"], "running");
    let check = stage.run(&["check"], &started);
    assert_eq!(check.status.code(), Some(0), "{}", support::record(&check));

    let stopped = assert_changed(&stage.run(&["stop"], &started), true);
    assert!(!alive(&vmm["pid"]) && !alive(&vmm["supervisor_pid"]), "{stopped}");
    assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
    let shutdown = stage.events().iter().any(|e| e["agent"]["path"] == "/v1/shutdown");
    assert!(shutdown, "the guest is asked, not killed: {:?}", stage.events());
    assert!(stage.events().contains(&json!({"exit": 0})), "{:?}", stage.events());
    assert_changed(&stage.run(&["stop"], &started), false);
    let status = stage.run(&["status"], &started);
    let seen = &support::record(&status)["vmm"];
    assert!(seen.is_null() || seen["state"] == "exited", "{seen}");
}

#[test]
fn firecracker_is_told_everything_in_its_order() {
    let stage = Stage::new(&[]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    let requests: Vec<String> = stage.requests().into_iter().map(|(name, _)| name).collect();
    let order = [
        "GET /version",
        "PUT /metrics",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/root",
        "PUT /drives/upper",
        "PUT /drives/work",
        "PUT /network-interfaces/eth0",
        "PUT /vsock",
        "PUT /entropy",
        "PUT /actions",
    ];
    assert_eq!(requests, order);
    assert!(stage.events().contains(&json!({"event_listener": true})), "the host listens before the start");
    let argv = stage.events().iter().find_map(|e| e["argv"].as_array().cloned()).unwrap();
    assert_eq!(argv[..4], [json!("--api-sock"), json!("api.sock"), json!("--id"), json!(super::stage::ID)]);
    let log = std::fs::read_to_string(started["vmm"]["vmm_log"].as_str().unwrap()).unwrap();
    assert!(log.contains("Listening on API socket"), "Firecracker's log is not the console: {log}");
    let console = std::fs::read_to_string(started["vmm"]["console_log"].as_str().unwrap()).unwrap();
    assert!(console.contains("Linux version 6.1.0-fake") && !console.contains("API socket"), "{console}");
    assert_changed(&stage.run(&["kill"], &started), true);
}

#[test]
fn a_supervisor_gathers_nothing() {
    let stage = Stage::new(&[]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    let supervisor = &started["vmm"]["supervisor_pid"];
    let descriptors = || std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        let status = support::record(&stage.run(&["status"], &started));
        assert_eq!(status["vmm"]["agent_reachable"], true, "{status}");
    }
    // It may close the last connection when its peer has ended already.
    support::eventually("it closes what it opened", || descriptors() <= before);
    let connects = stage.events().iter().filter(|e| e["connect"] == "CONNECT 1024\n").count();
    assert_eq!(connects, 20, "one connection for each exchange");
    assert_changed(&stage.run(&["kill"], &started), true);
}

#[test]
fn a_guest_that_does_not_shut_down_gets_its_keys_pressed_and_is_ended() {
    let stage = Stage::new(&[("GUEST", "stubborn")]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    assert_changed(&stage.run(&["stop", "--deadline", "1"], &started), true);
    let pressed = ("PUT /actions".to_owned(), json!({ "action_type": "SendCtrlAltDel" }));
    assert_eq!(stage.requests().last(), Some(&pressed));
    let asked = stage.events().iter().any(|event| event["agent"]["path"] == "/v1/shutdown");
    assert!(asked && !alive(&started["vmm"]["pid"]), "{:?}", stage.events());
    let exit = support::record(&stage.run(&["status"], &started))["vmm"]["exit"].clone();
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("stopped"), &json!(15)), "{exit}");
}

#[test]
fn kill_ends_a_guest_that_does_not_listen() {
    for guest in ["deaf", "stubborn"] {
        let stage = Stage::new(&[("GUEST", guest)]);
        let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
        let begun = Instant::now();
        assert_changed(&stage.run(&["kill"], &started), true);
        // Ten are what a supervisor has that does not listen.
        assert!(begun.elapsed() < Duration::from_secs(9), "{guest}: {:?}", begun.elapsed());
        assert!(!alive(&started["vmm"]["pid"]) && !alive(&started["vmm"]["supervisor_pid"]));
        assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
        assert_changed(&stage.run(&["kill"], &started), false);
    }
}

#[test]
fn a_state_directory_may_be_deeper_than_a_socket_address_is_long() {
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(60));
    let stage = Stage::below(&deep, &[]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    assert!(started["vmm"]["api_socket"].as_str().unwrap().len() > 107);
    assert_changed(&stage.run(&["stop"], &started), true);
    assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
}

#[test]
fn what_a_crash_left_is_no_obstacle() {
    let stage = Stage::new(&[]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    // Neither outlives the other for long, so that there might be nothing left to kill: the supervisor stops before it sees anything,
    // and the VMM is first.
    let pids = [&started["vmm"]["pid"], &started["vmm"]["supervisor_pid"]].map(Value::to_string);
    assert!(support::command("kill").arg("-STOP").arg(&pids[1]).status().unwrap().success());
    assert!(support::command("kill").arg("-KILL").args(&pids).status().unwrap().success());
    // The lock goes with the last thread, which may outlive what is seen of its process.
    let dir = VmDir::at(stage.dir().to_str().unwrap());
    support::eventually("SIGKILL ends both", || {
        !alive(&started["vmm"]["pid"]) && !alive(&started["vmm"]["supervisor_pid"]) && !is_alive(&dir)
    });
    assert!(!stage.sockets().is_empty(), "a killed supervisor cleans nothing");
    let status = support::record(&stage.run(&["status"], &started));
    assert!(status["vmm"].is_null() || status["vmm"]["state"] == "exited", "{status}");
    let restarted = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &started), true);
    assert_changed(&stage.run(&["stop"], &restarted), true);
    assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
}

/// How many lives, in four state directories side by side.
const LIVES: usize = 500;

#[test]
fn five_hundred_lives_leave_nothing() {
    // All of them before the first process: one that is started while a program's file is being written has that file open for a
    // moment, and the program cannot be run then (ETXTBSY in execve(2)).
    let stages = [(); 4].map(|()| Stage::new(&[]));
    std::thread::scope(|scope| {
        for stage in &stages {
            scope.spawn(|| live(stage, LIVES / 4));
        }
    });
}

fn live(stage: &Stage, lives: usize) {
    let mut files = None;
    let descriptors = |pid: &Value| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    for life in 0..lives {
        let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
        let (vmm, supervisor) = (&started["vmm"]["pid"], &started["vmm"]["supervisor_pid"]);
        // stdin, stdout, stderr, the run lock, the counters; what Firecracker opens itself: log, counters, record, epoll, sockets, five files.
        assert!(descriptors(vmm) <= 18, "the VMM has {} descriptors", descriptors(vmm));
        assert!(descriptors(supervisor) <= 20, "the supervisor has {} descriptors", descriptors(supervisor));
        let verb = if life % 2 == 0 { "stop" } else { "kill" };
        assert_changed(&stage.run(&[verb], &started), true);
        assert!(!alive(vmm) && !alive(supervisor), "life {life}");
        assert!(stage.sockets().is_empty(), "{:?}", stage.sockets());
        // The first life leaves its logs and how it ended; the others add nothing.
        let now = stage.files();
        assert_eq!(files.get_or_insert_with(|| now.clone()), &now, "life {life}");
        stage.forget_events();
    }
    let bound = std::fs::read_to_string("/proc/net/unix").unwrap();
    let dir = stage.dir();
    assert!(!bound.contains(dir.to_str().unwrap()), "{bound}");
    assert!(stage.processes().is_empty(), "{:?}", stage.processes());
}

#[test]
fn gc_keeps_what_is_to_stay_and_ends_the_rest() {
    let stage = Stage::new(&[]);
    let started = assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true);
    let root = stage.dir().ancestors().nth(2).unwrap().to_str().unwrap().to_owned();
    let list = |items: Value| json!({"schema": "banger.vms/1", "state_id": "89abcdef", "items": items});
    let kept = stage.run(&["gc", "--state-dir", &root], &list(json!([started["vm"]])));
    assert_eq!(kept.status.code(), Some(0), "{}", support::record(&kept));
    assert!(alive(&started["vmm"]["pid"]));
    let ended = stage.run(&["gc", "--state-dir", &root], &list(json!([])));
    assert_eq!(ended.status.code(), Some(0), "{}", support::record(&ended));
    assert!(!alive(&started["vmm"]["pid"]) && !alive(&started["vmm"]["supervisor_pid"]));
}
