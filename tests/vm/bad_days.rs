//! Killed commands, Ctrl-C, and two at once.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::home::{Home, processes_with, said};
use crate::support::{self, SOON, eventually};

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
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{}", said(&output));
    home.assert_clean();
}

/// Whoever ends a command by Ctrl-C wants that to end, and what it has done is his.
#[test]
fn what_a_command_did_before_an_interrupt_is_kept_unless_all_is_to_go() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    for options in [&["--name", "mine"][..], &["--name", "mine", "--rm", "--patch", "p"]] {
        let command = [repo.to_str().unwrap(), "--", "sh", "-c", "echo work >work; echo begun; sleep 1234"];
        let mut run = home.banger(&[&["vm", "run"], options, &command[..]].concat());
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        if options.contains(&"--rm") {
            continue;
        }
        assert!(said(&output).contains("mine stays, with the work in it"), "{}", said(&output));
        assert_eq!(home.run(&["vm", "exec", "mine", "--", "cat", "work"]).stdout, b"work\n");
        assert!(home.run(&["vm", "delete", "--force", "mine"]).status.success());
    }
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
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
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

#[test]
fn an_interrupt_while_the_vm_is_removed_leaves_nothing() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run = home.banger(&["vm", "run", "--rm", repo.to_str().unwrap(), "--", "echo", "done"]);
    let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    // A signal every few milliseconds until it has ended: some come while the disks and the network go.
    while child.try_wait().unwrap().is_none() {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(5));
    }
    home.assert_clean();
}

#[test]
fn a_patch_that_cannot_be_written_is_found_before_the_boot() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    for option in ["--patch", "--record"] {
        let args = ["vm", "run", option, "/proc/x", repo.to_str().unwrap(), "--", "true"];
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(125), "{}", said(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("booting") && stderr.contains("cannot write \"/proc/x\""), "{stderr}");
    }
    home.assert_clean();
}

#[test]
fn devices_and_links_are_written_to_and_never_replaced() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let (node, link) = (home.path("null"), home.path("link.json"));
    support::run(support::command("mknod").arg(&node).args(["c", "1", "3"]), b"");
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    fs::write(home.path("real.json"), "").unwrap();
    let files = ["--patch", node.to_str().unwrap(), "--record", link.to_str().unwrap()];
    let args = [&["vm", "run", "--rm"], &files[..], &[repo.to_str().unwrap(), "--", "touch", "new"]].concat();
    let output = home.run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("tar:"), "{}", said(&output));
    assert!(fs::symlink_metadata(&node).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&link).unwrap().contains("banger.vm/1"));
    home.assert_clean();
}

#[test]
fn a_command_can_be_run_beside_the_one_that_runs() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run =
        home.banger(&["vm", "run", "--rm", "--name", "dev1", repo.to_str().unwrap(), "--", "sh", "-c"]);
    run.arg("echo here > here; echo ready; sleep 600").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let beside = home.run(&["vm", "exec", "dev1", "--", "cat", "here"]);
    assert_eq!(beside.stdout, b"here\n", "{}", said(&beside));
    // Nor does the long command hold up what ends it.
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("was deleted while it ran"),
        "{}",
        said(&output)
    );
    home.assert_clean();
}

#[test]
fn a_vm_whose_work_cannot_be_exported_stays_and_says_how_to_get_it_out() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let args = ["vm", "run", "--rm", "--name", "dev1", "--patch", "p", repo.to_str().unwrap(), "--"];
    let output = home.run(
        &[&args[..], &["sh", "-c", "echo work > work; mkdir .git/banger-sync; touch .git/banger-sync/go"]]
            .concat(),
    );
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let way = "tar -cC '/root/repo' .";
    assert!(stderr.contains("dev1 stays") && stderr.contains(way), "{stderr}");
    assert!(!home.path("p").exists());
    let files = home.run(&["vm", "ssh", "dev1", "--", way]);
    assert!(String::from_utf8_lossy(&files.stdout).contains("./work\0"), "{}", said(&files));
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}

#[test]
fn a_stop_ends_the_command_and_the_run_tells_that_the_vm_is_down() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let mut run = home.banger(&["vm", "run", "--name", "dev1", repo.to_str().unwrap(), "--"]);
    run.args(["sh", "-c", "echo ready; sleep 600"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert!(home.run(&["vm", "stop", "dev1"]).status.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("banger vm start dev1"), "{}", said(&output));
    assert!(home.run(&["vm", "delete", "dev1"]).status.success());
    home.assert_clean();
}

#[test]
fn a_kernel_panic_is_told_as_one_and_leaves_nothing() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    // It says something, and the guest panics once that has arrived.
    let script = "echo before; read -r go; echo c > /proc/sysrq-trigger; sleep 60";
    let mut run = home.banger(&["vm", "run", "--rm", repo.to_str().unwrap(), "--", "sh", "-c", script]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut before = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut before).unwrap();
    assert_eq!(&before, b"before\n");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Kernel panic"), "{}", said(&output));
    home.assert_clean();
}

/// Nothing of a long copy keeps anybody from the VM: the guest's tar takes nothing more, and the VM can be deleted at once.
#[test]
fn a_delete_ends_a_copy_that_stalls() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let stall = "printf '#!/bin/sh\\necho stalls >/root/stalls\\nexec sleep 600\\n' >/usr/local/bin/tar && chmod 755 /usr/local/bin/tar";
    let output = home.run(&["vm", "run", "--name", "dev1", repo.to_str().unwrap(), "--", "sh", "-c", stall]);
    assert!(output.status.success(), "{}", said(&output));
    let record = home.run(&["vm", "show", "dev1", "--record"]).stdout;
    fs::write(home.path("record"), record).unwrap();
    fs::write(repo.join("big"), support::noise(32 << 20)).unwrap();
    crate::home::git(&repo, &["add", "big"]);
    let args =
        ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", "/root/two", "--input", "record"];
    let mut prepare = home.program("banger-ws", &args);
    let copying = prepare.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the copy stalls", || {
        home.run(&["vm", "exec", "dev1", "--", "test", "-e", "/root/stalls"]).status.success()
    });
    let since = Instant::now();
    let output = home.run(&["vm", "delete", "--force", "dev1"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = copying.wait_with_output().unwrap();
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    support::assert_error(&output, 1, "vm-stopped");
    home.assert_clean();
}
