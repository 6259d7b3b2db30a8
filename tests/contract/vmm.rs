//! The supervisor and `banger-qemu`, with a QEMU that runs no guest.

pub mod world;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support;
use world::{ID, World};

fn pid_of(record: &Value, key: &str) -> i32 {
    i32::try_from(record["vmm"][key].as_i64().unwrap()).unwrap()
}

fn exit_json(world: &World) -> Value {
    support::eventually("exit.json is written", || world.dir().join("exit.json").exists());
    support::eventually("it ended", || world.processes().is_empty());
    serde_json::from_slice(&fs::read(world.dir().join("exit.json")).unwrap()).unwrap()
}

#[test]
fn start_status_stop() {
    let world = World::new("");
    let record = world.start();
    assert_eq!(record["result"]["changed"], true);
    assert_eq!(record["x-mine"], "kept");
    assert_eq!(record["vmm"]["kind"], "qemu");
    assert_eq!(record["vmm"]["version"], "9.9.9");
    assert_eq!(record["vmm"]["state"], "running");
    let steps: Vec<_> =
        record["timings"].as_array().unwrap().iter().map(|t| t["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["spawn", "boot", "kernel", "ready"]);
    let handles: Value =
        serde_json::from_slice(&fs::read(world.dir().join("handles.json")).unwrap()).unwrap();
    assert_eq!(handles["vmm"], record["vmm"]);

    let again = world.ok(&["start"], &record);
    assert_eq!(again["result"]["changed"], false);
    assert_eq!(again["vmm"], record["vmm"]);
    let mut other = record.clone();
    other["net"]["ssh_port"] = json!(1);
    support::assert_error(&world.run(&["start"], &other), 1, "conflict");

    let status = world.ok(&["status"], &record);
    assert_eq!(
        (&status["vmm"]["state"], &status["vmm"]["agent_reachable"]),
        (&json!("running"), &json!(true))
    );
    world.ok(&["check"], &record);
    let stopped = world.ok(&["stop"], &record);
    assert_eq!((&stopped["vmm"], &stopped["result"]["changed"]), (&Value::Null, &json!(true)));
    world.assert_clean();
    assert_eq!(exit_json(&world)["reason"], "stopped");
    assert_eq!(world.ok(&["stop"], &stopped)["result"]["changed"], false);
    assert_eq!(world.ok(&["kill"], &stopped)["result"]["changed"], false);
    support::assert_error(&world.run(&["check"], &record), 1, "conflict");
}

#[test]
fn qemu_tells_the_guest_the_mtu_of_its_network() {
    let world = World::new("");
    let mut record = world.record();
    record["vm"]["mtu"] = json!(1400);
    let started = world.ok(&["start"], &record);
    let argv = world.fake_said("argv").unwrap();
    assert!(
        argv.contains("virtio-net-pci,netdev=net,mac=02:00:00:00:00:01,romfile=,host_mtu=1400\n"),
        "{argv}"
    );
    world.ok(&["stop"], &started);
}

#[test]
fn qemu_is_started_sandboxed_and_the_supervisor_is_small_and_alone() {
    let world = World::at("", "st,ate");
    let record = world.start();
    let argv = world.fake_said("argv").unwrap();
    assert!(
        argv.contains("-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny\n")
    );
    // What the guest may take of the host's time by asking for randomness is bounded, and devices that it has no use for are not there.
    assert!(argv.contains("virtio-rng-pci,rng=rng,max-bytes=65536,period=1000\n"), "{argv}");
    if cfg!(target_arch = "x86_64") {
        assert!(argv.contains("q35,sata=off,smbus=off,vmport=off\n"), "{argv}");
    }
    assert!(argv.contains("/st,,ate/vms/") && argv.contains("werror=report"), "{argv}");
    assert!(argv.contains(&format!("hostfwd=tcp:127.0.0.1:{}-10.0.2.15:22", world.port())));
    let supervisor = pid_of(&record, "supervisor_pid");
    let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    // The rest is the program's own file, which is large where it is not optimised, and shared between all supervisors.
    let anonymous: u64 = field("RssAnon:").trim_end_matches(" kB").parse().unwrap();
    assert!(anonymous <= 1 << 10, "the supervisor has {anonymous} KiB of its own");
    let rss: u64 = field("VmRSS:").trim_end_matches(" kB").parse().unwrap();
    let limit = if cfg!(debug_assertions) { 12 << 10 } else { 8 << 10 };
    assert!(rss <= limit, "the supervisor has {rss} KiB resident");
    assert_eq!(field("Threads:"), "1");
    assert_eq!(field("Name:"), "banger-supervis", "what the kernel has room for");
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    assert_eq!(
        stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap(),
        supervisor.to_string(),
        "session"
    );
    assert_eq!(fs::read_link(format!("/proc/{supervisor}/cwd")).unwrap().to_str(), Some("/"));
    for pid in [supervisor, pid_of(&record, "pid")] {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("SECRET_TOKEN"));
    }
    let cpu = || {
        let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
        let fields: Vec<String> =
            stat.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // What it did until now may be counted late; an idle one comes to rest.
    let rests = (0..10).any(|_| {
        let before = cpu();
        std::thread::sleep(Duration::from_secs(1));
        cpu() - before <= 1
    });
    assert!(rests, "an idle supervisor computes");
    world.ok(&["kill"], &record);
    world.assert_clean();
}

#[test]
fn a_state_directory_deeper_than_a_socket_address() {
    let world = World::at("", &format!("{0}/{0}/{0}", "d".repeat(80)));
    let record = world.start();
    assert_eq!(world.ok(&["status"], &record)["vmm"]["agent_reachable"], true);
    world.ok(&["stop"], &record);
    world.assert_clean();
}

#[test]
fn the_guest_never_says_ready() {
    let world = World::new("mute");
    let started = Instant::now();
    let start = |limit: u64| {
        let limit_s = limit.to_string();
        let output = world.run(&["start", "--accel", "tcg", "--ready-timeout", &limit_s], &world.record());
        let error = support::assert_error(&output, 1, "timeout");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(&format!("within {limit} s")),
            "{error}"
        );
        (output, error)
    };
    // On a busy machine the fake may not come to its first words within a second.
    let first = |limit| {
        Some(start(limit)).filter(|(_, error)| error["error"]["details"]["console_tail"] != json!([]))
    };
    let (output, error) = [1, 2, 4, 8].into_iter().find_map(first).expect("it says something");
    assert!(started.elapsed() < support::SOON);
    assert_eq!(error["error"]["details"]["console_tail"][0], "booting\\u{1b}[2J the guest");
    assert!(!String::from_utf8_lossy(&output.stderr).contains('\x1b'));
    world.assert_clean();
    assert!(!world.dir().join("exit.json").exists() && !world.dir().join("handles.json").exists());
}

#[test]
fn a_time_to_live_that_is_over_before_the_guest_is_ready() {
    // One that is stubborn as well would be given its time to shut down: it is not waited for.
    let world = World::new("mute stubborn deaf");
    let mut record = world.record();
    record["vm"]["ttl_s"] = json!(1);
    let started = Instant::now();
    let output = world.run(&["start", "--accel", "tcg", "--ready-timeout", "60"], &record);
    let error = support::assert_error(&output, 1, "timeout");
    assert!(started.elapsed() < support::SOON);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("time to live of 1 s was over before its guest was ready"), "{error}");
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("--ttl") && !hint.contains("console.log"), "{error}");
    world.assert_clean();
    assert!(!world.dir().join("exit.json").exists() && !world.dir().join("handles.json").exists());
}

#[test]
fn what_ends_before_it_is_ready_is_explained() {
    for (mode, words) in [
        ("die", ["ended during the boot with exit status: 3", "something broke"]),
        ("refuse", ["ended during the boot with exit status: 1", "no memory"]),
        ("panic", ["panicked", "VFS: Unable to mount root fs"]),
        ("failed", ["failed to boot at its step \"disks\"", "no root \\u{1b}[31m here"]),
    ] {
        let world = World::new(mode);
        let output = world.run(&["start", "--accel", "tcg"], &world.record());
        support::assert_error(&output, 1, "failed");
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.iter().all(|word| line.contains(word)), "{mode}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        world.assert_clean();
    }
}

#[test]
fn what_cannot_be_started_is_named() {
    let world = World::new("");
    let taken = TcpListener::bind(("127.0.0.1", world.port())).unwrap();
    let error = support::assert_error(&world.run(&["start"], &world.record()), 1, "in-use");
    assert!(error["error"]["message"].as_str().unwrap().contains(&world.port().to_string()), "{error}");
    drop(taken);
    fs::remove_file(world.dir().join("kernel")).unwrap();
    let error = support::assert_error(&world.run(&["start"], &world.record()), 3, "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("kernel"), "{error}");
    let mut bare = world.record();
    bare["disk"] = Value::Null;
    support::assert_error(&world.run(&["start"], &bare), 2, "bad-input");
    let mut elsewhere = world.record();
    elsewhere["vm"]["paths"]["dir"] = json!("/etc");
    support::assert_error(&world.run(&["start"], &elsewhere), 2, "bad-input");
    support::assert_error(&world.run(&["stop"], &elsewhere), 2, "bad-input");
    let mut none = world.command(&["start"]);
    none.env("PATH", "/nonexistent");
    fs::write(world.dir().join("kernel"), b"x").unwrap();
    if !std::path::Path::new("/usr/sbin/qemu-system-x86_64").exists() {
        support::assert_error(
            &support::run(&mut none, world.record().to_string().as_bytes()),
            5,
            "unsupported",
        );
    }
    world.assert_clean();
}

#[test]
fn a_guest_that_prints_for_ever_fills_nothing() {
    // 80 bytes a line: 16 MB.
    let world = World::new("babble=200000");
    let record = world.start();
    let size = fs::metadata(world.dir().join("console.log")).unwrap().len();
    assert!(size <= 4 << 20, "{size}");
    world.ok(&["stop"], &record);
}

#[test]
fn hostile_replies_cost_nothing() {
    // Side by side, since most are waited for until the deadline.
    let cases = [
        ("none", 504),
        ("garbage", 502),
        ("status", 502),
        ("huge", 502),
        ("deep", 504),
        ("stale", 200),
        ("slow", 504),
    ]
    .map(|(reply, expected)| (World::new(&format!("reply={reply}")), reply, expected));
    std::thread::scope(|scope| {
        for (world, reply, expected) in &cases {
            scope.spawn(move || assert_costs_nothing(world, reply, *expected));
        }
    });
}

fn assert_costs_nothing(world: &World, reply: &str, expected: u16) {
    let record = world.start();
    let expected = if reply == "garbage" { [504, 502] } else { [expected, expected] };
    let (status, body) = world.ask("GET", "/v1/healthz");
    assert!(expected.contains(&status), "{reply}: {status} {body}");
    assert!(body.len() < 10_000 && !body.contains("stale\":true"));
    let status = fs::read_to_string(format!("/proc/{}/status", pid_of(&record, "supervisor_pid"))).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(peak <= 10 << 10, "{reply}: {peak} KiB");
    world.ok(&["kill"], &record);
    world.assert_clean();
}

#[test]
fn a_guest_that_talks_for_ever_is_read_at_a_bounded_rate() {
    let world = World::new("endless");
    let record = world.start();
    assert_eq!(world.ask("GET", "/v1/healthz").0, 504);
    world.ok(&["stop", "--deadline", "0"], &record);
    world.assert_clean();
}

#[test]
fn clients_good_and_bad() {
    let world = World::new("");
    let record = world.start();
    assert_eq!(world.ask("GET", "/v1/healthz"), (200, "{\"ok\":true,\"path\":\"/v1/healthz\"}\n".into()));
    assert_eq!(world.ask("GET", "/v1/../etc").0, 404);
    assert_eq!(world.ask("PUT", "/v1/healthz").0, 404);
    assert_eq!(world.ask("POST", "/v1/stop").0, 400);
    assert!(world.raw(b"\x00\x01\x02\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(world.raw(&[b"GET /", &[b'a'; 9000][..]].concat()).starts_with("HTTP/1.1 431 "));
    // Half a request holds up nobody.
    let mut idle = std::os::unix::net::UnixStream::connect(world.dir().join("agent.sock")).unwrap();
    idle.write_all(b"GET /v1").unwrap();
    let asking: Vec<_> = (0..6).map(|_| world.ask("GET", "/v1/stats").0).collect();
    assert_eq!(asking, [200; 6]);
    world.ok(&["kill"], &record);
    assert_eq!(exit_json(&world)["reason"], "killed");
}

#[test]
fn a_guest_that_does_not_want_to_stop() {
    let world = World::new("stubborn");
    let record = world.start();
    world.ok(&["stop", "--deadline", "1"], &record);
    world.assert_clean();
    assert!(world.fake_said("button").is_some(), "the power button was pressed");
    assert_eq!(exit_json(&world)["reason"], "stopped");

    let world = World::new("stubborn deaf");
    let record = world.start();
    let started = Instant::now();
    world.ok(&["stop", "--deadline", "1"], &record);
    assert!(started.elapsed() < support::SOON);
    world.assert_clean();
    assert_eq!(exit_json(&world)["signal"], 9);
}

#[test]
fn ends_by_itself() {
    let world = World::new("");
    let record = world.start();
    fs::write(world.bin().join("crash"), "").unwrap();
    world.ask("GET", "/v1/healthz");
    let exit = exit_json(&world);
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("crashed"), &json!(11)));
    let status = world.ok(&["status"], &record);
    assert_eq!((&status["vmm"]["state"], &status["vmm"]["exit"]), (&json!("exited"), &exit));
    world.assert_clean();
    fs::remove_file(world.bin().join("crash")).unwrap();
    let again = world.ok(&["start"], &record);
    assert_eq!(again["result"]["changed"], true, "what has ended can be started again");
    world.ok(&["kill"], &again);

    // Its time counts from the start, so one short enough for a test may be over before the guest is ready: it is cut short.
    let world = World::new("");
    let mut record = world.record();
    record["vm"]["ttl_s"] = json!(3600);
    let record = world.ok(&["start"], &record);
    assert!(record["vmm"]["expires_at"].is_string(), "{record}");
    world.ok(&["update", "--ttl", "1"], &record);
    assert_eq!(exit_json(&world)["reason"], "ttl");
    world.assert_clean();
}

#[test]
fn a_supervisor_that_is_killed_takes_its_vmm_along() {
    let world = World::new("");
    let record = world.start();
    let supervisor = nix::unistd::Pid::from_raw(pid_of(&record, "supervisor_pid"));
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
    support::eventually("the VMM dies with it", || world.processes().is_empty());
    let status = world.ok(&["status"], &record);
    assert_eq!(status["vmm"]["exit"]["reason"], "lost");
    world.ok(&["stop"], &record);
    world.assert_clean();
}

#[test]
fn a_supervisor_that_does_not_listen_is_killed() {
    let world = World::new("");
    let record = world.start();
    let supervisor = nix::unistd::Pid::from_raw(pid_of(&record, "supervisor_pid"));
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // Without its handles too: what holds the lock is found in /proc.
    fs::write(world.dir().join("handles.json"), b"{").unwrap();
    let mut without = record.clone();
    without["vmm"] = Value::Null;
    assert_eq!(world.ok(&["kill"], &without)["result"]["changed"], true);
    world.assert_clean();
}

#[test]
fn a_start_that_is_killed_leaves_no_vm() {
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        let world = World::new("mute");
        let input = world.dir().join("record.json");
        fs::write(&input, world.record().to_string()).unwrap();
        let mut command = world.command(&["start", "--accel", "tcg", "--input", input.to_str().unwrap()]);
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        support::eventually("QEMU runs", || world.fake_said("argv").is_some());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        world.assert_clean();
        assert!(!world.dir().join("handles.json").exists());
    }
}

#[test]
fn hangup_of_the_terminal_is_ignored() {
    let world = World::new("");
    let record = world.start();
    let supervisor = nix::unistd::Pid::from_raw(pid_of(&record, "supervisor_pid"));
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGHUP).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.ask("GET", "/v1/healthz").0, 200);
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(exit_json(&world)["reason"], "stopped");
    world.assert_clean();
}

#[test]
fn gc_ends_what_is_not_listed() {
    let world = World::new("");
    let record = world.start();
    let state = world.state().to_str().unwrap().to_owned();
    let list = |items: Value| json!({ "schema": "banger.vms/1", "state_id": "89abcdef", "items": items });
    let gc = |list: &Value| world.ok(&["gc", "--state-dir", &state], list);
    assert_eq!(gc(&list(json!([{ "id": ID, "name": "dev1" }])))["removed"], json!([]));
    assert_eq!(world.ask("GET", "/v1/healthz").0, 200);
    let mut wrong = list(json!([]));
    wrong["state_id"] = json!("00000000");
    support::assert_error(&world.run(&["gc", "--state-dir", &state], &wrong), 1, "conflict");
    support::assert_error(&world.run(&["gc", "--state-dir", &state], &json!({})), 2, "unsupported-schema");
    let report = gc(&list(json!([])));
    assert_eq!(report["removed"][0], format!("VM {ID}"), "{report}");
    world.assert_clean();
    assert_eq!(gc(&list(json!([])))["removed"], json!([]));
    drop(std::os::unix::net::UnixListener::bind(world.dir().join("api.sock")).unwrap());
    let report = gc(&list(json!([{ "id": ID }])));
    assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{report}");
    world.assert_clean();
    assert_eq!(world.ok(&["check"], &world.record())["vmm"], Value::Null);
    drop(record);
}

#[test]
fn version_names_the_vmm() {
    let world = World::new("");
    assert_eq!(world.ok(&["version"], &json!({}))["vmm"], "9.9.9");
}

#[test]
fn gc_says_what_it_cannot_end() {
    let world = World::new("");
    let record = world.start();
    let state = world.state().to_str().unwrap().to_owned();
    let lock = fs::File::options()
        .create(true)
        .append(true)
        .open(world.state().join(format!("locks/vm-{ID}.lock")))
        .unwrap();
    lock.lock().unwrap();
    let list = json!({ "schema": "banger.vms/1", "state_id": "89abcdef", "items": [] });
    let error = support::assert_error(&world.run(&["gc", "--state-dir", &state], &list), 4, "busy");
    assert_eq!(error["error"]["details"]["errors"].as_array().unwrap().len(), 1, "{error}");
    let error = support::assert_error(&world.run(&["stop"], &record), 4, "busy");
    assert_eq!(error["error"]["hint"], "try again when that has ended");
    drop(lock);
    world.ok(&["stop"], &record);
    world.assert_clean();
}

/// Somebody removed the VM's directory: no lock there tells that it runs.
#[test]
fn a_vm_whose_files_are_gone_is_killed_all_the_same() {
    let world = World::new("");
    let record = world.start();
    fs::remove_dir_all(world.dir()).unwrap();
    assert!(!world.processes().is_empty());
    let killed = world.ok(&["kill"], &record);
    assert_eq!((&killed["vmm"], &killed["result"]["changed"]), (&Value::Null, &json!(true)));
    world.assert_clean();
    assert_eq!(world.ok(&["kill"], &killed)["result"]["changed"], false);
}
