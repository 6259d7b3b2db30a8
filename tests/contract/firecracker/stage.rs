//! A state directory with one planned VM whose network and disks are as if attached, and a fake Firecracker in PATH.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support;

/// The VM's identifier.
pub const ID: &str = "0123456789ab";

/// With `kvm`: tests run where there is no KVM, and the fake needs none.
pub const ACCEL: &str = "--accel";

/// Whether the process of this number is there and no zombie.
pub fn alive(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Asserts that a verb succeeded with `result.changed`; gives the record.
#[track_caller]
pub fn assert_changed(output: &Output, changed: bool) -> Value {
    let record = support::record(output);
    assert_eq!(output.status.code(), Some(0), "{record}");
    assert_eq!(record["result"]["changed"], changed, "{record}");
    record
}

/// The fake Firecracker, which cargo builds with the tests.
fn fake() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("tests are in target/<profile>/deps");
    let fake = profile.join("examples/fake-firecracker");
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let built = modified(&fake);
    // `cargo test --test contract` builds no examples: better no test than one of yesterday's fake.
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/firecracker");
    let newest: Option<SystemTime> =
        sources.read_dir().ok().and_then(|dir| dir.flatten().filter_map(|e| modified(&e.path())).max());
    assert!(built.is_some() && built >= newest, "{fake:?} is missing or old: run cargo build --examples");
    fake
}

/// What a test of the stage works on. Everything goes with it.
pub struct Stage {
    temp: TempDir,
    /// The record as `banger-disk attach` leaves it.
    pub record: Value,
}

impl Stage {
    /// Behaves as `variables` (`FAKE_FC_…` without the prefix) say.
    pub fn new(variables: &[(&str, &str)]) -> Self {
        Self::below("state", variables)
    }

    /// The same with the state directory at `below` under the test's own directory.
    pub fn below(below: &str, variables: &[(&str, &str)]) -> Self {
        let temp = tempfile::tempdir().expect("a directory for the test");
        let root = temp.path().join(below);
        let dir = root.join("vms").join(ID);
        for dir in [&dir, &root.join("locks"), &temp.path().join("bin")] {
            std::fs::create_dir_all(dir).expect("the state directory can be made");
        }
        let file = |name: &str, content: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, content).expect("the VM's files can be made");
            path.to_str().expect("temporary paths are text").to_owned()
        };
        let dir_text = dir.to_str().expect("temporary paths are text");
        let record = record(
            dir_text,
            &[
                file("vmlinux", b"\x7fELF and more"),
                file("initrd", b"0707"),
                file("root.ext4", b"r"),
                file("upper.ext4", b"u"),
                file("work.ext4", b"w"),
            ],
        );
        let stage = Self { temp, record };
        stage.behave(variables);
        stage
    }

    /// Makes every further Firecracker behave as `variables` say.
    pub fn behave(&self, variables: &[(&str, &str)]) {
        let mut script = format!("#!/bin/sh\nexport FAKE_FC_RECORD='{}'\n", self.events_path().display());
        for (name, value) in variables {
            script += &format!("export FAKE_FC_{name}='{value}'\n");
        }
        script += &format!("exec '{}' \"$@\"\n", fake().display());
        let path = self.bin().join("firecracker");
        std::fs::write(&path, script).expect("the fake can be installed");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("the fake can be installed");
    }

    /// The directory that comes first in PATH.
    pub fn bin(&self) -> PathBuf {
        self.temp.path().join("bin")
    }

    /// The VM's directory.
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(self.record["vm"]["paths"]["dir"].as_str().expect("the record has paths"))
    }

    fn events_path(&self) -> PathBuf {
        self.temp.path().join("events")
    }

    /// What the fake saw so far.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.events_path()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("the fake notes JSON")).collect()
    }

    /// Begins anew with what the fake saw.
    pub fn forget_events(&self) {
        std::fs::write(self.events_path(), b"").expect("the fake's notes can be emptied");
    }

    /// The requests so far: method, path and body.
    pub fn requests(&self) -> Vec<(String, Value)> {
        let request = |event: &Value| Some((event["request"].as_str()?.to_owned(), event["body"].clone()));
        self.events().iter().filter_map(request).collect()
    }

    /// The sockets in the VM's directory.
    pub fn sockets(&self) -> Vec<String> {
        let entries = self.dir().read_dir().expect("the VM's directory is there").flatten();
        let sockets = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_socket()));
        sockets.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// All files below the state directory, sorted. Lock files are left out: they stay where they were made.
    pub fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut dirs = vec![self.dir().ancestors().nth(2).expect("…/vms/<id>").to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in dir.read_dir().expect("the state directory is there").flatten() {
                names.push(entry.file_name().to_string_lossy().into_owned());
                dirs.extend(entry.file_type().is_ok_and(|t| t.is_dir()).then(|| entry.path()));
            }
        }
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        names
    }

    /// The processes that work in the VM's directory or were told of this test's, by number and arguments.
    pub fn processes(&self) -> Vec<String> {
        let ours = self.temp.path().as_os_str().as_encoded_bytes();
        let mentions = |bytes: &[u8]| bytes.windows(ours.len()).any(|window| window == ours);
        let processes = std::fs::read_dir("/proc").expect("/proc is there").flatten();
        let involved = processes.filter_map(|process| {
            let path = process.path();
            let arguments = std::fs::read(path.join("cmdline")).ok()?;
            let cwd = std::fs::read_link(path.join("cwd")).ok()?;
            let involved = mentions(&arguments) || mentions(cwd.as_os_str().as_encoded_bytes());
            involved.then(|| format!("{:?}: {}", process.file_name(), String::from_utf8_lossy(&arguments)))
        });
        involved.collect()
    }

    /// `banger-fc` with `arguments`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-fc"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(arguments).env("PATH", format!("{}:{path}", self.bin().display()));
        command.env_remove("BANGER_LOCK_FD");
        command
    }

    /// Runs `banger-fc` with `arguments` and `record` on stdin.
    pub fn run(&self, arguments: &[&str], record: &Value) -> Output {
        support::run(&mut self.command(arguments), record.to_string().as_bytes())
    }
}

fn record(dir: &str, files: &[String; 5]) -> Value {
    let [kernel_elf, initrd, root, upper, work] = files;
    json!({
        "schema": "banger.vm/1",
        "vm": {
            "id": ID, "name": "dev1", "state_id": "89abcdef", "owner_uid": 0, "created_at": "2026-01-01T00:00:00Z",
            "image": "debian", "init": "lean", "hostname": "dev1", "vcpus": 2, "memory_mib": 512,
            "rootfs_size_bytes": 1 << 30, "work_size_bytes": 1 << 30, "ttl_s": null, "address": "10.77.0.2",
            "prefix_len": 24, "gateway": "10.77.0.1", "mac": "02:42:0a:4d:00:02", "cid": 42, "net_mode": "tap",
            "nat": true, "publish": [], "disk_backend": "overlay", "vmm_kind": "firecracker",
            "paths": {
                "dir": dir, "rootfs": root, "kernel": "/nowhere/vmlinuz", "kernel_elf": kernel_elf,
                "initrd": initrd, "work_seed": "/nowhere/work", "upper_seed": "/nowhere/upper"
            }
        },
        "net": {
            "mode": "tap", "bridge": "bgr89abcdef", "tap": format!("bgt{ID}"), "address": "10.77.0.2",
            "prefix_len": 24, "gateway": "10.77.0.1", "dns": ["192.0.2.53"], "nat": true, "publish": [],
            "ssh_host": "10.77.0.2", "ssh_port": 22
        },
        "disk": {
            "backend": "overlay", "backend_reason": "a test", "root_device": root, "root_read_only": true,
            "upper_device": upper, "work_device": work, "kernel": "/nowhere/vmlinuz",
            "kernel_elf": kernel_elf, "initrd": initrd
        },
        "vmm": null, "workspace": null, "result": {"changed": true}, "timings": [], "x-foreign": {"kept": true}
    })
}
