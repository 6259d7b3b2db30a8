//! Killed and failing at every system call that matters: what is left can be dealt with, and `gc` leaves nothing.

use std::io::Write;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::snapshot::snapshot;
use super::{NETD, STATE, document, gc, ip, isolated, list, netd, ok, sh};
use crate::support::{self, command, record, run};

/// Runs a verb with faults: `inject` as strace(1) has it, in threads and in programs that it starts as well.
fn injected(inject: &str, verb: &str, input: &Value) -> Output {
    let mut strace = command("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", inject, NETD]).args(verb.split(' '));
    let (from, mut to) = std::io::pipe().expect("a pipe");
    to.write_all(input.to_string().as_bytes()).expect("a record fits");
    drop(to);
    let strace = strace.stdin(from).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = strace.id();
    let ended = std::thread::spawn(move || strace.wait_with_output().expect("it ends"));
    // strace waits for what holds published ports, too, which stays as long as they are published.
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    // It has others before it starts the program.
    let is_netd = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "banger-netd\n")
    };
    let (mut begun, mut left) = (false, false);
    while !ended.is_finished() {
        begun |= children().split_whitespace().any(is_netd);
        if begun && children().is_empty() && !ended.is_finished() {
            left = sh(&format!("kill -9 {pid}")).status.success();
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut output = ended.join().expect("it does not panic");
    // What was killed says nothing.
    let said = String::from_utf8_lossy(&output.stdout);
    if left && said.ends_with("}\n") && !said.contains("banger.error/1") {
        output.status = ExitStatus::default();
    }
    output
}

/// The calls that change something, start something, or wait for it: netlink messages of netd and of nft, taps, locks, programs,
/// the record itself.
const CALLS: [&str; 10] =
    ["sendto", "sendmsg", "ioctl", "flock", "clone", "clone3", "execve", "ppoll", "wait4", "write"];

/// Kills `verb` at the `when`-th of every call, until it is through; `prepare` comes before, `finish` after.
fn kill(verb: &str, input: &Value, prepare: impl Fn(), finish: impl Fn(u32, &str)) -> u32 {
    let mut kills = 0;
    for call in CALLS {
        for when in 1..60 {
            prepare();
            let output = injected(&format!("inject={call}:signal=KILL:when={when}"), verb, input);
            finish(when, &format!("{verb} killed at {call} {when}"));
            if output.status.success() {
                break;
            }
            kills += 1;
        }
    }
    kills
}

/// [`isolated`], for the test `name` of this file, where there is strace.
fn traced(name: &str, body: impl FnOnce()) {
    isolated(&format!("netd::crashes::{name}"), || {
        if support::require("host", support::has("strace"), "needs strace") {
            body();
        }
    });
}

#[test]
fn attach_killed_at_any_call_leaves_what_gc_detach_and_attach_can_handle() {
    traced("attach_killed_at_any_call_leaves_what_gc_detach_and_attach_can_handle", || {
        let before = snapshot();
        let kills = kill(
            "attach",
            &document(2),
            || (),
            |when, what| {
                match when % 3 {
                    0 => drop(ok("detach", &document(2))),
                    1 => drop(gc(&[])),
                    _ => {
                        ok("check", &ok("attach", &document(2)));
                        ok("detach", &document(2));
                    }
                }
                before.assert_still(what);
            },
        );
        assert!(kills > 25, "only {kills} kills");
    });
}

#[test]
fn attach_killed_beside_another_vm_leaves_that_one_alone() {
    traced("attach_killed_beside_another_vm_leaves_that_one_alone", || {
        let other = ok("attach", &document(3));
        let before = snapshot();
        let kills = kill(
            "attach",
            &document(2),
            || (),
            |_, what| {
                ok("check", &other);
                gc(&[&other]);
                before.assert_still(what);
            },
        );
        assert!(kills > 15, "only {kills} kills");
        ok("detach", &other);
    });
}

#[test]
fn detach_killed_at_any_call_leaves_what_gc_detach_and_attach_can_handle() {
    traced("detach_killed_at_any_call_leaves_what_gc_detach_and_attach_can_handle", || {
        for beside in [false, true] {
            let other = beside.then(|| ok("attach", &document(3)));
            let before = snapshot();
            let keep: Vec<&Value> = other.iter().collect();
            let kills = kill(
                "detach",
                &document(2),
                || drop(ok("attach", &document(2))),
                |when, what| {
                    match when % 3 {
                        0 => drop(ok("detach", &document(2))),
                        1 => drop(gc(&keep)),
                        _ => {
                            ok("check", &ok("attach", &document(2)));
                            ok("detach", &document(2));
                        }
                    }
                    before.assert_still(what);
                },
            );
            // Whole tables go by fewer calls than one VM's part of them.
            assert!(kills > if beside { 15 } else { 8 }, "only {kills} kills");
            other.iter().for_each(|other| drop(ok("detach", other)));
        }
    });
}

#[test]
fn gc_killed_at_any_call_is_finished_by_the_next() {
    traced("gc_killed_at_any_call_is_finished_by_the_next", || {
        let other = ok("attach", &document(3));
        let (bare, table) = (snapshot(), format!("banger_{STATE}"));
        let prepare = || {
            [2, 4].iter().for_each(|n| drop(ok("attach", &document(*n))));
            // Rules whose tap is gone, as a crash leaves them.
            ip(&["link", "del", &super::tap(4)]);
        };
        let kills = kill("gc", &list(&[&document(3)]), prepare, |_, what| {
            ok("check", &other);
            gc(&[&other]);
            bare.assert_still(what);
        });
        assert!(kills > 15, "only {kills} kills");
        ok("detach", &other);
        // Down to nothing, bridge included.
        let before = snapshot();
        let kills = kill("gc", &list(&[]), prepare, |_, what| {
            gc(&[]);
            before.assert_still(&format!("{what} ({table})"));
        });
        assert!(kills > 15, "only {kills} kills");
    });
}

#[test]
fn failing_at_any_step_undoes_what_was_done() {
    traced("failing_at_any_step_undoes_what_was_done", || {
        let alone = snapshot();
        let mut failures = 0;
        for others in [false, true] {
            if others {
                ok("attach", &document(3));
            }
            let before = snapshot();
            for call in ["sendto", "ioctl"] {
                for when in 1..40 {
                    // Not in children: those that undo would fail as well.
                    let inject = format!("inject={call}:error=ENOBUFS:when={when}");
                    let strace = ["-qq", "-o", "/dev/null", "-e", &inject, NETD, "attach"];
                    let output = run(command("strace").args(strace), document(2).to_string().as_bytes());
                    if output.status.success() {
                        break;
                    }
                    if !output.stdout.is_empty() {
                        assert_eq!(record(&output)["schema"], "banger.error/1", "{call} {when}");
                        failures += 1;
                    }
                    before.assert_still(&format!(
                        "failed at {call} {when}: {}",
                        String::from_utf8_lossy(&output.stdout)
                    ));
                }
                ok("detach", &document(2));
                before.assert_still("detached");
            }
        }
        assert!(failures > 15, "only {failures} failures");
        ok("detach", &document(3));
        alone.assert_still("in the end");
    });
}

#[test]
fn a_detach_that_fails_says_so_and_the_next_one_finishes() {
    traced("a_detach_that_fails_says_so_and_the_next_one_finishes", || {
        let before = snapshot();
        let mut failures = 0;
        for call in ["sendto", "execve"] {
            for when in 1..40 {
                ok("attach", &document(2));
                let output =
                    injected(&format!("inject={call}:error=EPERM:when={when}"), "detach", &document(2));
                let done = output.status.success();
                if !done && !output.stdout.is_empty() {
                    assert_eq!(record(&output)["schema"], "banger.error/1", "{call} {when}");
                    failures += 1;
                }
                let again = netd("detach", &document(2));
                assert!(again.status.success(), "{}", record(&again));
                before.assert_still(&format!("failed at {call} {when}"));
                if done {
                    break;
                }
            }
        }
        assert!(failures > 5, "only {failures} failures");
    });
}

/// The process that stays behind for the kernel has something happen to it, or cannot be had at all: what it was to do is done.
#[test]
fn a_detach_does_itself_what_nobody_does_behind_it() {
    traced("a_detach_does_itself_what_nobody_does_behind_it", || {
        let before = snapshot();
        for fault in ["clone:error=EAGAIN", "close_range:error=ENOSYS", "close_range:signal=KILL"] {
            for beside in [false, true] {
                let other = beside.then(|| ok("attach", &document(3)));
                let alone = snapshot();
                ok("attach", &document(2));
                let output = injected(&format!("inject={fault}"), "detach", &document(2));
                assert!(output.status.success(), "{fault}: {}", record(&output));
                alone.assert_still(fault);
                other.iter().for_each(|other| drop(ok("detach", other)));
            }
        }
        before.assert_still("in the end");
    });
}

/// Killed while the process behind it has not even begun: that one keeps the lock, so what comes next does not meet links that are on
/// their way out.
#[test]
fn what_goes_on_behind_a_killed_detach_is_waited_for_by_the_next_command() {
    traced("what_goes_on_behind_a_killed_detach_is_waited_for_by_the_next_command", || {
        let before = snapshot();
        ok("attach", &document(2));
        std::fs::write("/run/record", document(2).to_string()).expect("written");
        // Only the process that stays behind closes all that it does not need, and only its parent looks links up.
        let strace = "strace -f -qq -o /run/trace -e trace=close_range,ioctl -e inject=close_range:delay_enter=1500ms \
            -e inject=ioctl:signal=KILL:when=2+";
        let killed = format!("exec {strace} {NETD} detach </run/record >/dev/null 2>&1");
        let mut detach = command("sh").args(["-c", &killed]).spawn().expect("sh can be started");
        let is_killed =
            || std::fs::read_to_string("/run/trace").is_ok_and(|text| text.contains("killed by SIGKILL"));
        support::eventually("the parent is killed", is_killed);
        assert!(snapshot().has_link(&super::tap(2)), "it was removed already");
        let attached = ok("attach", &document(2));
        assert!(!detach.wait().expect("it ends").success(), "it was not killed");
        ok("check", &attached);
        ok("detach", &attached);
        before.assert_still("in the end");
    });
}

/// VM 2 with a policy that fills every set, map and chain.
fn elaborate() -> Value {
    let mut document = document(2);
    document["vm"]["publish"] = json!([
        { "host_ip": null, "host_port": 8080, "guest_port": 80, "protocol": "tcp" },
        { "host_ip": "127.0.0.1", "host_port": 5353, "guest_port": 53, "protocol": "udp" },
    ]);
    document["vm"]["egress"] = json!({ "policy": "allow", "allow": [
        { "network": "192.0.2.0/24", "port": 443, "protocol": "tcp" },
        { "network": "198.51.100.7/32", "port": null, "protocol": null },
    ] });
    document["vm"]["peer"] = json!(true);
    document
}

#[test]
fn a_policy_goes_with_its_vm_wherever_attach_detach_and_update_are_killed() {
    traced("a_policy_goes_with_its_vm_wherever_attach_detach_and_update_are_killed", || {
        // Another VM keeps tables, maps and sets alive.
        let other = ok("attach", &document(3));
        // What the bridge routes since it had such a VM stays until it goes.
        ok("detach", &ok("attach", &elaborate()));
        let before = snapshot();
        let clean = |_: u32, what: &str| {
            gc(&[&other]);
            before.assert_still(what);
            ok("check", &other);
        };
        let kills = kill("attach", &elaborate(), || (), clean)
            + kill("detach", &elaborate(), || drop(ok("attach", &elaborate())), clean);
        assert!(kills > 40, "only {kills} kills");
        // An update that was killed is the old policy or the new one, and a second one is the new one.
        let attached = ok("attach", &elaborate());
        let mut changed = attached.clone();
        changed["vm"]["egress"] = json!({ "policy": "none", "allow": [] });
        let kills = kill(
            "update",
            &changed,
            || drop(ok("update", &attached)),
            |_, what| {
                let policies =
                    [&attached, &changed].map(|d| ok("update", d)["net"]["egress"]["policy"].clone());
                assert_eq!(policies, [json!("allow"), json!("none")], "{what}");
                ok("check", &ok("update", &changed));
            },
        );
        assert!(kills > 5, "only {kills} kills");
        gc(&[&other]);
        before.assert_still("in the end");
    });
}

#[test]
fn a_pool_survives_kills_and_gc_empties_it() {
    traced("a_pool_survives_kills_and_gc_empties_it", || {
        let before = snapshot();
        let empty = |_: u32, what: &str| {
            gc(&[]);
            before.assert_still(what);
        };
        let fill = || drop(ok("pool fill 2", &document(2)));
        let fill_and_attach = || {
            fill();
            ok("attach", &document(2));
        };
        let kills = kill("pool fill 2", &document(2), || (), empty)
            + kill("pool drain", &document(2), fill, empty)
            + kill("attach", &document(2), fill, empty)
            + kill("detach", &document(2), fill_and_attach, empty);
        assert!(kills > 60, "only {kills} kills");
    });
}

/// What was opened in another firewall is noted before it is done.
#[test]
fn what_a_firewall_was_asked_is_taken_back_wherever_that_was_killed() {
    traced("what_a_firewall_was_asked_is_taken_back_wherever_that_was_killed", || {
        if !support::require("host", support::has("iptables"), "needs iptables") {
            return;
        }
        let docker = "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -P FORWARD DROP";
        assert!(sh(docker).status.success());
        let mut open = document(2);
        open["vm"]["open_firewall"] = json!(true);
        ok("detach", &ok("attach", &open));
        let before = snapshot();
        let clean = |_: u32, what: &str| {
            gc(&[]);
            before.assert_still(what);
        };
        let finished = |when: u32, what: &str| {
            // What was half opened is opened by the next, and not taken for open.
            ok("attach", &open);
            let rules = String::from_utf8(sh("iptables -S DOCKER-USER").stdout).expect("text");
            assert_eq!(rules.matches("-j ACCEPT").count(), 2, "{what}: {rules}");
            clean(when, what);
        };
        let kills = kill("attach", &open, || (), clean)
            + kill("attach", &open, || (), finished)
            + kill("detach", &open, || drop(ok("attach", &open)), clean)
            + kill("gc", &list(&[]), || drop(ok("attach", &open)), clean);
        assert!(kills > 60, "only {kills} kills");
    });
}
