//! A state directory with the prepared image in it, checkouts to work on, and the proof that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support;

/// The programs under test.
pub const BANGER: &str = env!("CARGO_BIN_EXE_banger");

/// One test's world.
pub struct Home {
    /// Holds everything; removed with the test.
    pub dir: TempDir,
    before: Host,
}

/// The host objects that a test must leave as they were.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    links: BTreeSet<String>,
    rules: String,
    loops: BTreeSet<String>,
}

impl Host {
    /// Loop devices belong to the whole machine, so that only those of files below `ours` count.
    fn now(ours: &[&Path]) -> Self {
        let text = |program: &str, args: &[&str]| {
            let output = support::run(support::command(program).args(args), b"");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let links = text("ip", &["-o", "link"]);
        let names = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
        Self {
            links: names.collect(),
            rules: text("nft", &["list", "ruleset"]),
            loops: text("losetup", &["-nO", "NAME,BACK-FILE"])
                .lines()
                .filter(|line| ours.iter().any(|path| line.contains(&*path.to_string_lossy())))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// The directory with the prepared image.
pub fn prepared() -> PathBuf {
    std::env::var_os("BANGER_TEST_DIR").map_or_else(|| PathBuf::from("/nonexistent"), PathBuf::from)
}

impl Home {
    /// `None` where the tier cannot run here; says why.
    pub fn new() -> Option<Self> {
        Self::with_image("debian")
    }

    /// The same with another image than the default one: `tools` has what debugs and mounts.
    pub fn with_image(name: &str) -> Option<Self> {
        let image = prepared().join("images").join(name);
        let reason = format!("BANGER_TEST_DIR names no state directory with the image {name}: use tests/run");
        if !support::require("vm", image.join("manifest.json").exists(), &reason)
            || !support::require("vm", support::is_root(), "taps need root")
        {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("banger-vm-").tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("state/images")).expect("the state directory");
        symlink(image, dir.path().join("state/images").join(name)).expect("the image is linked");
        let before = Host::now(&[dir.path(), &prepared()]);
        Some(Self { dir, before })
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `banger` with this state directory.
    pub fn banger(&self, args: &[&str]) -> Command {
        self.program("banger", args)
    }

    /// Any of banger's programs with this state directory.
    pub fn program(&self, name: &str, args: &[&str]) -> Command {
        let mut command = support::command(Path::new(BANGER).with_file_name(name));
        command.args(args).env("BANGER_STATE_DIR", self.state()).current_dir(self.dir.path());
        command
    }

    /// Runs `banger` and gives everything it said.
    pub fn run(&self, args: &[&str]) -> Output {
        support::run(&mut self.banger(args), b"")
    }

    /// Runs `banger --json` and gives its record; it must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        support::record(&output)
    }

    /// A checkout with a commit, a README, a licence and a script.
    pub fn repo(&self, name: &str) -> PathBuf {
        let repo = self.path(name);
        fs::create_dir(&repo).expect("the checkout");
        git(&repo, &["init", "-q", "-b", "trunk"]);
        git(&repo, &["config", "user.name", "Test"]);
        git(&repo, &["config", "user.email", "test@example.org"]);
        for (file, text) in
            [("README.md", "hello\n"), ("LICENSE", "do as you like\n"), ("run.sh", "#!/bin/sh\necho ran\n")]
        {
            fs::write(repo.join(file), text).expect("a file");
        }
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-qm", "the first commit"]);
        repo
    }

    /// Nothing that carries this state directory's name is left, and the host is as it was.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(Host::now(&[self.dir.path(), &prepared()]), self.before);
        let vms = fs::read_dir(self.state().join("vms")).map_or(0, Iterator::count);
        assert_eq!(vms, 0, "VM directories are left");
        let needle = self.dir.path().to_string_lossy().into_owned();
        // What was told to end may do so just now.
        let ended = support::soon(|| processes_with(&needle).is_empty());
        assert!(ended, "processes are left: {:?}", processes_with(&needle));
        let locks: Vec<_> = fs::read_dir(self.state().join("locks"))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !matches!(name.as_str(), "schema.lock" | "images.lock" | "cache.lock"))
            .collect();
        assert_eq!(locks, Vec::<String>::new(), "locks are left");
    }
}

/// The command lines of all processes that mention `needle`, this one's excepted.
pub fn processes_with(needle: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let pids = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.parse::<u32>().is_ok() && *n != own);
    let lines = pids.filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle))
        .collect()
}

/// What `vm stats` counts of a VM that runs is not nothing.
#[track_caller]
pub fn assert_counted(usage: &Value) {
    for path in [
        "/vmm/vcpu_time_us",
        "/vmm/rss_bytes",
        "/net/sent_bytes",
        "/net/received_bytes",
        "/guest/uptime_us",
        "/guest/memory/available_bytes",
        "/guest/disks/0/free_bytes",
    ] {
        let value = usage.pointer(path).and_then(Value::as_u64);
        assert!(value.is_some_and(|n| n > 0), "{path}: {usage}");
    }
}

/// Runs git in `repo` and gives its stdout; it must succeed.
#[track_caller]
pub fn git(repo: &Path, args: &[&str]) -> String {
    let output = support::run(support::command("git").arg("-C").arg(repo).args(args), b"");
    assert!(output.status.success(), "git {args:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that a program said, for a failed assertion.
pub fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\nstdout: {out}\nstderr: {err}", output.status)
}
