//! A tap is asked for by a user: sudo refuses, or what it runs is interrupted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{self, command, record, run};

/// nobody
const UID: u32 = 65534;

/// A state directory with an image, a checkout, and the programs where an ordinary user can run them.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(support::state_with_fake_image());
        let (bin, repo) = (world.path("bin"), world.path("repo"));
        fs::create_dir(&bin).unwrap();
        support::link_programs(&bin, &["banger", "banger-netd", "banger-disk", "banger-qemu", "banger-ws"]);
        symlink(which::which("git").unwrap(), bin.join("git")).unwrap();
        world.install("qemu-system-x86_64", "exit 1");
        let commit = "git init -q . && echo a > a && git add a";
        assert!(command("sh").args(["-c", commit]).current_dir(mkdir(&repo)).status().unwrap().success());
        fs::set_permissions(world.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if support::is_root() {
            // All but the programs, which are the built ones themselves.
            let entries = fs::read_dir(world.0.path()).unwrap().map(|entry| entry.unwrap().path());
            let theirs = entries.filter(|path| *path != bin);
            let mut owned = command("chown");
            owned.args(["-R", &format!("{UID}:{UID}")]).args(theirs);
            assert!(run(&mut owned, b"").status.success());
            std::os::unix::fs::chown(world.0.path(), Some(UID), Some(UID)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        // It may be a link to the program itself.
        drop(fs::remove_file(&path));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `banger` as an ordinary user, with no other programs in PATH than these.
    fn banger(&self, args: &[&str]) -> Output {
        run(&mut self.command(args), b"")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut banger = command(self.path("bin/banger"));
        banger.args(args).env("PATH", self.path("bin")).env("HOME", self.0.path());
        banger
            .env("BANGER_STATE_DIR", self.0.path())
            .env_remove("BANGER_LOCK_FD")
            .current_dir(self.path("repo"));
        if support::is_root() {
            banger.uid(UID).gid(UID);
        }
        banger
    }
}

fn mkdir(path: &Path) -> &Path {
    fs::create_dir(path).unwrap();
    path
}

#[test]
fn a_vm_that_sudo_refused_a_tap_leaves_nothing_and_is_told_of() {
    let world = World::new();
    let refused = "echo 'sudo: a password is required' >&2; exit 1";
    for (sudo, reason) in [(Some(refused), "sudo asks for a password"), (None, "there is no sudo")] {
        if let Some(script) = sudo {
            world.install("sudo", script);
        } else {
            fs::remove_file(world.path("bin/sudo")).unwrap();
        }
        let output = world.banger(&["vm", "run", "--net", "tap", "--", "true"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert_eq!(said.matches("banger: banger-netd needs root, and ").count(), 1, "{said}");
        assert!(said.contains(reason) && !said.contains("as well"), "{said}");
        assert_eq!(record(&world.banger(&["ps", "--json"]))["items"], json!([]));
        assert_eq!(fs::read_dir(world.path("vms")).unwrap().count(), 0);
        // Nor does a VM that was never started need root to go, or to be passed over by gc.
        assert!(world.banger(&["vm", "create", "--net", "tap", "idle"]).status.success());
        for args in [&["gc"][..], &["vm", "delete", "idle"]] {
            let output = world.banger(args);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn an_interruption_while_the_resolver_starts_is_told() {
    let world = World::new();
    world.install("sudo", "shift; exec \"$@\"");
    // Its record says nothing of a network; but it comes as far as the resolver.
    let serve = ": > \"$BANGER_STATE_DIR/serving\"; exec /bin/sleep 60";
    world.install("banger-netd", &format!("case $1 in serve) {serve};; *) exec /bin/cat;; esac"));
    let mut banger = world.command(&["vm", "run", "--net", "tap", "--", "true"]);
    let child = banger.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    support::eventually("the resolver starts", || world.path("serving").exists());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(said.matches("interrupted by signal 2").count(), 1, "{said}");
    assert_eq!(record(&world.banger(&["ps", "--json"]))["items"], json!([]));
}
