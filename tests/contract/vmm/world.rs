//! One VM in a state directory of its own, with a QEMU that does as its `mode` says.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support;

/// The VM's identifier.
pub const ID: &str = "0123456789ab";

/// A test's world. Dropping it fails the test where something of the VM is left.
pub struct World {
    root: tempfile::TempDir,
    state: PathBuf,
    port: u16,
}

impl World {
    /// A world whose QEMU does as `mode` says: see tests/fakes/qemu.
    pub fn new(mode: &str) -> Self {
        Self::at(mode, "state")
    }

    /// The same with the state directory at `place`.
    pub fn at(mode: &str, place: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join(place);
        let bin = root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(state.join("locks")).unwrap();
        fs::create_dir_all(state.join("vms").join(ID)).unwrap();
        fs::write(state.join("state_id"), "89abcdef\n").unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/qemu/qemu-system-x86_64");
        // A link, since a program's file that is being written cannot be run (ETXTBSY in execve(2)): see lifecycle.rs.
        symlink(fake, bin.join("qemu-system-x86_64")).unwrap();
        fs::write(bin.join("mode"), mode).unwrap();
        let world = Self { root, state, port: support::free_port() };
        for file in ["kernel", "initrd", "root.ext4", "work.ext4"] {
            fs::write(world.dir().join(file), b"x").unwrap();
        }
        world
    }

    /// The VM's directory.
    pub fn dir(&self) -> PathBuf {
        self.state.join("vms").join(ID)
    }

    /// The directory that comes first in PATH.
    pub fn bin(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The host's port for SSH.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Something that the fake QEMU left.
    pub fn fake_said(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.root.path().join("bin").join(name)).ok()
    }

    /// The record after network and disk.
    pub fn record(&self) -> Value {
        let path = |name: &str| self.dir().join(name).to_str().unwrap().to_owned();
        json!({
            "schema": "banger.vm/1",
            "vm": {
                "id": ID, "name": "dev1", "state_id": "89abcdef", "owner_uid": 0,
                "created_at": "2026-01-01T00:00:00Z", "image": "debian", "init": "lean", "hostname": "dev1",
                "vcpus": 2, "memory_mib": 512, "rootfs_size_bytes": 1, "work_size_bytes": 1, "ttl_s": null,
                "address": "10.0.2.15", "prefix_len": 24, "gateway": "10.0.2.2", "mac": "02:00:00:00:00:01",
                "cid": 3, "net_mode": "user", "nat": true, "publish": [], "disk_backend": "auto",
                "vmm_kind": "qemu",
                "paths": {
                    "dir": self.dir().to_str().unwrap(), "rootfs": path("root.ext4"), "kernel": path("kernel"),
                    "kernel_elf": path("kernel"), "initrd": path("initrd"), "work_seed": path("work.ext4"),
                    "upper_seed": path("work.ext4"),
                },
            },
            "net": {
                "mode": "user", "bridge": null, "tap": null, "address": "10.0.2.15", "prefix_len": 24,
                "gateway": "10.0.2.2", "dns": ["10.0.2.3"], "nat": true, "publish": [],
                "ssh_host": "127.0.0.1", "ssh_port": self.port,
            },
            "disk": {
                "backend": "copy", "backend_reason": "test", "root_device": path("root.ext4"),
                "root_read_only": false, "upper_device": null, "work_device": path("work.ext4"),
                "kernel": path("kernel"), "kernel_elf": path("kernel"), "initrd": path("initrd"),
            },
            "vmm": null, "workspace": null, "result": null, "timings": [],
            "x-mine": "kept",
        })
    }

    /// The program with `args`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-qemu"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(args).env("PATH", format!("{}:{path}", self.root.path().join("bin").display()));
        command.env_remove("BANGER_LOCK_FD").env("SECRET_TOKEN", "hush");
        command
    }

    /// Runs it on a record.
    pub fn run(&self, args: &[&str], record: &Value) -> Output {
        support::run(&mut self.command(args), record.to_string().as_bytes())
    }

    /// Starts the VM; the record.
    #[track_caller]
    pub fn start(&self) -> Value {
        let output = self.run(&["start", "--accel", "tcg"], &self.record());
        let record = support::record(&output);
        assert!(output.status.success(), "{record}");
        record
    }

    /// Runs a verb that is to succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str], record: &Value) -> Value {
        let output = self.run(args, record);
        let record = support::record(&output);
        assert!(output.status.success(), "{record}");
        record
    }

    /// One exchange with the supervisor: status and body.
    pub fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let text = self.raw(format!("{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n").as_bytes());
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    /// Sends bytes to the supervisor's socket and gives all that comes back.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.dir().join("agent.sock")).unwrap();
        stream.set_read_timeout(Some(support::SOON)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Processes whose command line, directory or open files belong to this world.
    pub fn processes(&self) -> Vec<String> {
        let ours = self.root.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let fds = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            let holds = fds
                .filter_map(|fd| fs::read_link(fd.path()).ok())
                .any(|p| p.to_string_lossy().contains(ours));
            if pid != std::process::id() && (line.contains(ours) || holds) {
                found.push(format!("{pid} {line}"));
            }
        }
        found
    }

    /// Sockets in the VM's directory.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir()).into_iter().flatten().flatten();
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_socket())).map(|e| e.path()).collect()
    }

    /// Nothing of the VM is left: no process, no socket.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(support::soon(|| self.processes().is_empty()), "left behind: {:?}", self.processes());
        assert_eq!(self.sockets(), Vec::<PathBuf>::new());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.processes().is_empty() {
            return;
        }
        drop(self.run(&["kill"], &self.record()));
        let left = self.processes();
        assert!(std::thread::panicking() || left.is_empty(), "left behind: {left:?}");
    }
}
