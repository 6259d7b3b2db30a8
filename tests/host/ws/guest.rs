//! A "guest" without a VM: sshd on loopback, keys, a state directory with one VM, a record; and what the tests of banger-ws
//! share about checkouts.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support;
use crate::support::changes::tree;

pub(super) const ID: &str = "0123456789ab";

/// A "guest": sshd, keys, a state directory with one VM, a record.
pub(super) struct Guest {
    temp: tempfile::TempDir,
    sshd: Child,
    pub(super) port: u16,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // By the process that we hold; sessions end with their connections.
        drop(self.sshd.kill());
        drop(self.sshd.wait());
    }
}

pub(super) fn keygen(path: &Path) {
    let key =
        ssh_key::PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519).unwrap();
    fs::write(path, key.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path.with_extension("pub"), key.public_key().to_openssh().unwrap() + "\n").unwrap();
}

impl Guest {
    /// One whose commands sshd's shell runs by itself, as on a machine that is none of banger's.
    pub(super) fn new() -> Option<Self> {
        Self::with_variable("", false)
    }

    /// One with banger-guest at its place, in a mount namespace of its own.
    pub(super) fn with_helper() -> Option<Self> {
        Self::with_variable("", true)
    }

    /// One whose files cannot be larger than so many bytes.
    pub(super) fn with_small_files(bytes: u64) -> Option<Self> {
        let mut sshd = support::command("prlimit");
        sshd.arg(format!("--fsize={bytes}")).arg("/usr/sbin/sshd");
        Self::begin(sshd, "")
    }

    /// Either, with a variable that its sessions have.
    pub(super) fn with_variable(variable: &str, helper: bool) -> Option<Self> {
        if !helper {
            return Self::begin(support::command("/usr/sbin/sshd"), variable);
        }
        let mut sshd = support::command("unshare");
        let script = "mkdir -p /run/banger /var/lib/banger-guest && mount --bind \"$HELPER\" /run/banger && mount -t tmpfs tmpfs /var/lib/banger-guest && exec /usr/sbin/sshd \"$@\"";
        sshd.args(["--mount", "sh", "-c", script, "sh"]);
        Self::begin(sshd, variable)
    }

    fn begin(mut sshd: Command, variable: &str) -> Option<Self> {
        let can = support::is_root() && support::has("sshd") && support::has("git");
        if !support::require("host", can, "a real sshd needs root, sshd and git") {
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let vm = temp.path().join("state/vms").join(ID);
        for dir in [vm.clone(), temp.path().join("state/ssh"), temp.path().join("state/locks")] {
            fs::create_dir_all(dir).unwrap();
        }
        keygen(&vm.join("host_key"));
        keygen(&temp.path().join("state/ssh/id_ed25519"));
        // sshd runs without its privilege separation directory only inside a namespace of its own; /run/sshd is what it wants.
        fs::create_dir_all("/run/sshd").unwrap();
        let port = support::free_port();
        // What is in here is at banger-guest's place, for a guest that has it.
        let helper = temp.path().join("helper");
        fs::create_dir(&helper).unwrap();
        fs::copy(banger_guest_program::BUILT_AT, helper.join("guest")).unwrap();
        let conf = temp.path().join("sshd_config");
        // With SHLVL bash does not read the .bashrc of the user who runs the tests, whatever that starts.
        let text = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n\
             SetEnv PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SHLVL=1 {variable}\n",
            vm.join("host_key").display(),
            temp.path().join("state/ssh/id_ed25519.pub").display(),
            temp.path().join("bin").display()
        );
        fs::write(&conf, text).unwrap();
        let sshd = sshd
            .args(["-D", "-e", "-f"])
            .arg(&conf)
            .env("HELPER", &helper)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(temp.path().join("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let mut guest = Self { temp, sshd, port };
        support::soon(|| {
            TcpStream::connect(("127.0.0.1", port)).is_ok() || guest.sshd.try_wait().unwrap().is_some()
        });
        let up = guest.sshd.try_wait().unwrap().is_none();
        assert!(up, "{}", fs::read_to_string(guest.path("sshd.log")).unwrap());
        Some(guest)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(super) fn record(&self) -> Value {
        let dir = self.path("state/vms").join(ID);
        json!({
            "schema": "banger.vm/1",
            "vm": {
                "id": ID, "name": "t", "state_id": "01234567", "owner_uid": 0, "created_at": "2026-01-01T00:00:00Z",
                "image": "debian", "init": "lean", "hostname": "t", "vcpus": 1, "memory_mib": 512,
                "rootfs_size_bytes": 1, "work_size_bytes": 1, "ttl_s": null, "address": "127.0.0.1",
                "prefix_len": 24, "gateway": "127.0.0.1", "mac": "02:00:00:00:00:01", "cid": 3,
                "net_mode": "user", "nat": true, "publish": [], "disk_backend": "auto", "vmm_kind": "qemu",
                "paths": {"dir": dir, "rootfs": "", "kernel": "", "kernel_elf": "", "initrd": "", "work_seed": "",
                          "upper_seed": ""}
            },
            "net": {
                "mode": "user", "bridge": null, "tap": null, "address": "127.0.0.1", "prefix_len": 24,
                "gateway": "127.0.0.1", "dns": [], "nat": true, "publish": [], "ssh_host": "127.0.0.1",
                "ssh_port": self.port
            },
            "x-mine": 1
        })
    }

    pub(super) fn ws(&self, args: &[&str], input: &Value) -> Output {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.args(args).current_dir(self.temp.path());
        support::run(&mut command, input.to_string().as_bytes())
    }

    /// Starts banger-ws; its output is for `wait_with_output`.
    pub(super) fn start(&self, args: &[&str], input: &Value) -> Child {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.args(args).current_dir(self.temp.path());
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        // A record fits into a pipe, so this does not wait for the program.
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        child
    }

    /// Runs `banger-ws run` with the workspace at `guest`, the patch at `p.patch`, the record at `r.json`.
    pub(super) fn run(&self, repo: &Path, extra: &[&str], command: &[&str]) -> Output {
        let (repo, guest) = (repo.to_str().unwrap(), self.path("guest"));
        let mut args = vec!["run", "--repo", repo, "--guest-path", guest.to_str().unwrap()];
        args.extend(["--patch", "p.patch", "--record", "r.json"]);
        args.extend(extra);
        args.push("--");
        args.extend(command);
        self.ws(&args, &self.record())
    }

    pub(super) fn last_record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("r.json")).unwrap()).unwrap()
    }

    pub(super) fn repo(&self) -> PathBuf {
        let repo = self.path("repo");
        fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        git(&repo, &["config", "user.name", "A \"B\" \\ ä"]);
        git(&repo, &["config", "user.email", "a@b"]);
        for (name, text) in [("README.md", "hello\n"), ("LICENSE", "free\n"), (".gitignore", "*.o\nbuild/\n")]
        {
            fs::write(repo.join(name), text).unwrap();
        }
        fs::create_dir(repo.join("src")).unwrap();
        fs::write(repo.join("src/a.c"), "int a;\n").unwrap();
        fs::write(repo.join("forced.o"), "object\n").unwrap();
        fs::write(repo.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("../elsewhere//./x", repo.join("link")).unwrap();
        git(&repo, &["add", "-A"]);
        git(&repo, &["add", "-f", "forced.o"]);
        git(&repo, &["commit", "-qm", "first"]);
        repo
    }
}

pub(super) fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let mut command = support::command("git");
    command.arg("-C").arg(dir).args(args).env("GIT_OPTIONAL_LOCKS", "0");
    let output = support::run(&mut command, b"");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub(super) fn status(dir: &Path) -> String {
    let out = git(dir, &["status", "--porcelain=v2", "-z", "--untracked-files=no"]);
    String::from_utf8_lossy(&out).replace('\0', "\n")
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The patch applies to `copy`, a copy of the checkout as it was sent, and gives the guest's tree.
pub(super) fn assert_round_trip(guest: &Guest, copy: &Path) {
    let patch = guest.path("p.patch");
    if fs::metadata(&patch).unwrap().len() > 0 {
        git(copy, &["apply", "--check", patch.to_str().unwrap()]);
        git(copy, &["apply", patch.to_str().unwrap()]);
    }
    assert_eq!(tree(copy), tree(&guest.path("guest")));
}

pub(super) fn copy_of(guest: &Guest, repo: &Path) -> PathBuf {
    let copy = guest.path("copy");
    let output = support::run(support::command("cp").arg("-a").arg(repo).arg(&copy), b"");
    assert!(output.status.success());
    copy
}

pub(super) const WORK: &str = "echo hi >> README.md; printf '\\0\\1' > bin; rm -f LICENSE; git add -A; git commit -qm wip; echo more > later";
