//! Killed commands, Ctrl-C, and two at once.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::home::{Home, processes_with, said};
use crate::support;

/// Waits until `condition` holds.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "still not so after a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_run_is_cleaned_by_the_next_command() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run = home.banger(&["vm", "run", "--rm", repo.to_str().unwrap(), "--", "sleep", "60"]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let state = home.state().to_string_lossy().into_owned();
    eventually("QEMU runs", || processes_with(&state).iter().any(|line| line.contains("qemu-system")));
    child.kill().unwrap();
    child.wait().unwrap();
    // The stage that runs just now holds the locks until it ends; then the wreck is anybody's to clean.
    eventually("gc removes it", || {
        let output = home.run(&["gc"]);
        assert!(output.status.success(), "{}", said(&output));
        home.json(&["ps"])["items"].as_array().unwrap().is_empty()
    });
    home.assert_clean();
}

#[test]
fn an_interrupt_undoes_what_was_done() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run = home.banger(&["vm", "run", repo.to_str().unwrap(), "--", "sleep", "60"]);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let state = home.state().to_string_lossy().into_owned();
    eventually("QEMU runs", || processes_with(&state).iter().any(|line| line.contains("qemu-system")));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{}", said(&output));
    home.assert_clean();
}

/// timeout(1) sends SIGTERM twice: to its child and to the whole group.
#[test]
fn a_second_signal_does_not_end_the_undoing() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run = home.banger(&["vm", "run", "--rm", repo.to_str().unwrap(), "--", "sh", "-c", "sleep 60 &"]);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let state = home.state().to_string_lossy().into_owned();
    eventually("QEMU runs", || processes_with(&state).iter().any(|line| line.contains("qemu-system")));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("failed as well"), "{}", said(&output));
    home.assert_clean();
}

/// The hint that banger gives then must lead to the work.
#[test]
fn the_work_of_a_command_whose_reader_went_away_can_be_had() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let patch = home.path("p");
    let script = "echo more >new; yes";
    let args = ["vm", "run", "--name", "broken", "--rm", "--patch"];
    let mut run = home.banger(&args);
    run.args([patch.as_os_str(), repo.as_os_str()]).args(["--", "sh", "-c", script]);
    let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    // The command runs, and another one can be run beside it.
    let output = home.run(&["vm", "exec", "broken", "--", "cat", "new"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "more\n", "{}", said(&output));
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let output = home.run(&["vm", "exec", "broken", "--patch", "-", "--", "true"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("+more"), "{}", said(&output));
    assert!(home.run(&["vm", "delete", "--force", "broken"]).status.success());
    home.assert_clean();
}

#[test]
fn a_command_too_long_to_be_sent_makes_no_vm() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let output = home.run(&["vm", "run", repo.to_str().unwrap(), "--", "echo", &"x".repeat(40_000)]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("40009 bytes"), "{}", said(&output));
    home.assert_clean();
}

#[test]
fn a_checkout_that_cannot_travel_makes_no_vm() {
    let Some(home) = Home::new() else { return };
    let output = home.run(&["vm", "run", "--json", home.dir.path().to_str().unwrap(), "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(
        support::record(&output)["error"]["message"].as_str().unwrap().contains("git"),
        "{}",
        said(&output)
    );
    home.assert_clean();
}
