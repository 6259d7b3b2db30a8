//! What surrounds a VM is odd: its host's resolvers, a guest that says nothing more, a `banger` that was killed.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::home::{BANGER, Home, said};
use crate::support::{self, eventually};

#[test]
fn a_guest_of_user_networking_resolves_what_its_host_does() {
    let Some(home) = Home::new() else { return };
    if !support::require("vm", support::has("perl"), "the resolver of the test is written in Perl") {
        return;
    }
    let repo = home.repo("repo");
    for (name, text) in [
        ("dns.pl", include_str!("surroundings/dns.pl")),
        ("resolvers.sh", include_str!("surroundings/resolvers.sh")),
    ] {
        fs::write(home.path(name), text).unwrap();
    }
    let mut inside = support::command("unshare");
    inside.args(["--net", "--mount", "sh", "resolvers.sh", BANGER]).arg(&repo);
    inside.current_dir(home.dir.path()).env("BANGER_STATE_DIR", home.state());
    // The last one nobody can reach from there, and banger says so.
    let hosts = "::1\n192.0.2.1 127.0.0.1\n2001:db8::1\n";
    let output = support::run(&mut inside, hosts.as_bytes());
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        seen.lines().collect::<Vec<_>>(),
        ["::1: 192.0.2.77: 0", "192.0.2.1 127.0.0.1: 192.0.2.77: 0", "2001:db8::1: : 1"],
        "{}{}",
        said(&output),
        fs::read_to_string(home.path("err")).unwrap_or_default()
    );
    home.assert_clean();
}

#[test]
fn the_timeout_of_a_command_holds_for_a_guest_that_says_nothing() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let run = ["vm", "run", "--name", "frozen", "--net", "user", repo.to_str().unwrap(), "--", "true"];
    let output = home.run(&run);
    assert!(output.status.success(), "{}", said(&output));
    let shown = home.json(&["vm", "show", "frozen"]);
    let vmm = Pid::from_raw(i32::try_from(shown["vmm"]["pid"].as_i64().unwrap()).unwrap());
    kill(vmm, Signal::SIGSTOP).unwrap();
    let exec = |command: &[&str]| {
        let begun = Instant::now();
        let output = home.run(&[&["vm", "exec", "-n", "--timeout", "2", "frozen", "--"], command].concat());
        (output, begun.elapsed())
    };
    let (output, took) = exec(&["true"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("did not answer within 22 s"),
        "{}",
        said(&output)
    );
    assert!(took < Duration::from_secs(28), "{took:?}");
    kill(vmm, Signal::SIGCONT).unwrap();
    // And for one that stops when the command runs; with as much time as it needs it goes on.
    let mut command = home.banger(&[
        "vm",
        "exec",
        "-n",
        "--timeout",
        "2",
        "frozen",
        "--",
        "sh",
        "-c",
        "echo runs; sleep 60",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    kill(vmm, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(begun.elapsed() < Duration::from_secs(28), "{:?}", begun.elapsed());
    kill(vmm, Signal::SIGCONT).unwrap();
    let (output, _) = exec(&["echo", "back"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "back\n", "{}", said(&output));
    assert!(home.run(&["vm", "delete", "--force", "frozen"]).status.success());
    home.assert_clean();
}

#[test]
fn a_vm_is_deleted_right_after_the_banger_of_its_command_was_killed() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    for attempt in 0..6 {
        let script = "echo started; sleep 60";
        let mut run =
            home.banger(&["vm", "run", "--rm", "--name", "dev1", "--net", "user", repo.to_str().unwrap()]);
        let mut child = run
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let output = home.run(&["vm", "delete", "--force", "dev1"]);
        assert!(output.status.success(), "attempt {attempt}: {}", said(&output));
        assert_eq!(home.json(&["ps"])["items"], serde_json::json!([]), "attempt {attempt}");
    }
    eventually("the locks are gone", || {
        assert!(home.run(&["gc"]).status.success());
        fs::read_dir(home.state().join("locks"))
            .unwrap()
            .flatten()
            .all(|lock| !lock.file_name().to_string_lossy().starts_with("vm-"))
    });
    home.assert_clean();
}
