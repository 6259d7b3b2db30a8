//! banger-ws against a real sshd on loopback that runs commands as root on this machine, with the "guest" path in a
//! temporary directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use crate::support;

const ID: &str = "0123456789ab";

/// A "guest": sshd, keys, a state directory with one VM, a record.
struct Guest {
    temp: tempfile::TempDir,
    sshd: Child,
    port: u16,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // By the process that we hold; sessions end with their connections.
        drop(self.sshd.kill());
        drop(self.sshd.wait());
    }
}

fn keygen(path: &Path) {
    let key =
        ssh_key::PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519).unwrap();
    fs::write(path, key.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path.with_extension("pub"), key.public_key().to_openssh().unwrap() + "\n").unwrap();
}

impl Guest {
    fn new() -> Option<Self> {
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
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = temp.path().join("sshd_config");
        let text = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n",
            vm.join("host_key").display(),
            temp.path().join("state/ssh/id_ed25519.pub").display()
        );
        fs::write(&conf, text).unwrap();
        let sshd = support::command("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(temp.path().join("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let guest = Self { temp, sshd, port };
        let up = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(up, "{}", fs::read_to_string(guest.path("sshd.log")).unwrap());
        Some(guest)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn record(&self) -> Value {
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

    fn ws(&self, args: &[&str], input: &Value) -> Output {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.args(args).current_dir(self.temp.path());
        support::run(&mut command, input.to_string().as_bytes())
    }

    /// Runs `banger-ws run` with the workspace at `guest`, the patch at `p.patch`, the record at `r.json`.
    fn run(&self, repo: &Path, extra: &[&str], command: &[&str]) -> Output {
        let (repo, guest) = (repo.to_str().unwrap(), self.path("guest"));
        let mut args = vec!["run", "--repo", repo, "--guest-path", guest.to_str().unwrap()];
        args.extend(["--patch", "p.patch", "--record", "r.json"]);
        args.extend(extra);
        args.push("--");
        args.extend(command);
        self.ws(&args, &self.record())
    }

    fn last_record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("r.json")).unwrap()).unwrap()
    }

    fn repo(&self) -> PathBuf {
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

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let mut command = support::command("git");
    command.arg("-C").arg(dir).args(args).env("GIT_OPTIONAL_LOCKS", "0");
    let output = support::run(&mut command, b"");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn status(dir: &Path) -> String {
    let out = git(dir, &["status", "--porcelain=v2", "-z", "--untracked-files=no"]);
    String::from_utf8_lossy(&out).replace('\0', "\n")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Files but those of git's: path, mode, content or target.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    fn walk(root: &Path, dir: &Path, out: &mut Vec<(PathBuf, u32, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if name == Path::new(".git") {
            } else if meta.is_dir() {
                walk(root, &path, out);
            } else if meta.is_symlink() {
                out.push((name, 0, fs::read_link(&path).unwrap().into_os_string().into_vec()));
            } else {
                out.push((name, meta.permissions().mode() & 0o100, fs::read(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out);
    out.sort();
    out
}

/// The patch applies to `copy`, a copy of the checkout as it was sent, and gives the guest's tree.
fn assert_round_trip(guest: &Guest, copy: &Path) {
    let patch = guest.path("p.patch");
    if fs::metadata(&patch).unwrap().len() > 0 {
        git(copy, &["apply", "--check", patch.to_str().unwrap()]);
        git(copy, &["apply", patch.to_str().unwrap()]);
    }
    assert_eq!(tree(copy), tree(&guest.path("guest")));
}

fn copy_of(guest: &Guest, repo: &Path) -> PathBuf {
    let copy = guest.path("copy");
    let output = support::run(support::command("cp").arg("-a").arg(repo).arg(&copy), b"");
    assert!(output.status.success());
    copy
}

const WORK: &str = "echo hi >> README.md; printf '\\0\\1' > bin; rm -f LICENSE; git add -A; git commit -qm wip; echo more > later";

#[test]
fn a_clean_checkout_travels_and_a_patch_comes_back() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let copy = copy_of(&guest, &repo);
    let before = git(&repo, &["rev-parse", "HEAD"]);
    let output =
        guest.run(&repo, &[], &["sh", "-c", &format!("git log --format=%H; {WORK}; echo err >&2; exit 7")]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(output.stdout, before);
    assert_eq!(output.stderr, b"err\n");
    assert_round_trip(&guest, &copy);
    let record = guest.last_record();
    assert_eq!(record["result"]["exit_code"], 7);
    assert_eq!(record["result"]["files"], json!(["LICENSE", "README.md", "bin", "later"]));
    assert_eq!(record["workspace"]["head_commit"], String::from_utf8_lossy(&before).trim());
    assert_eq!(record["workspace"]["file_count"], 7);
    assert_eq!(record["x-mine"], 1);
    let steps: Vec<&str> =
        record["timings"].as_array().unwrap().iter().map(|t| t["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["inspect", "pack", "confine", "connect", "unpack", "command", "export"]);
    git(&guest.path("guest"), &["fsck", "--strict"]);
    let left: Vec<_> =
        fs::read_dir(guest.path("state/vms").join(ID)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("ws-")), "{left:?}");
}

/// A checkout with something of everything in it.
fn make_dirty(repo: &Path) {
    let write = |name: &str, text: &[u8]| fs::write(repo.join(name), text).unwrap();
    write("staged", b"staged\n");
    git(repo, &["add", "staged"]);
    write("staged", b"staged, then changed\n");
    write("intended", b"later\n");
    git(repo, &["add", "-N", "intended"]);
    write("README.md", b"hello, dirty\n");
    fs::remove_file(repo.join("LICENSE")).unwrap();
    git(repo, &["rm", "-q", "--cached", "src/a.c"]);
    write("new\nline \"quoted\" \\ \t.txt", b"odd\n");
    fs::write(repo.join(std::ffi::OsString::from_vec(b"latin-\xe4".to_vec())), "odd\n").unwrap();
    write("-rf", b"odd\n");
    write(" leading and trailing ", b"odd\n");
    git(repo, &["add", "--", "new\nline \"quoted\" \\ \t.txt", "-rf", " leading and trailing "]);
    let mut add = support::command("git");
    add.arg("-C").arg(repo).arg("add").arg(std::ffi::OsString::from_vec(b"latin-\xe4".to_vec()));
    assert!(support::run(&mut add, b"").status.success());
    let long = "long/".repeat(30) + &"n".repeat(120);
    fs::create_dir_all(repo.join(&long).parent().unwrap()).unwrap();
    write(&long, b"long\n");
    symlink("t/".repeat(100), repo.join("longlink")).unwrap();
    git(repo, &["add", &long, "longlink"]);
    fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    write("untracked", b"stays\n");
}

#[test]
fn a_dirty_checkout_arrives_as_it_stands() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    make_dirty(&repo);
    let (index, expected) = (fs::read(repo.join(".git/index")).unwrap(), status(&repo));
    let copy = copy_of(&guest, &repo);
    fs::remove_file(copy.join("untracked")).unwrap();
    fs::remove_file(copy.join("src/a.c")).unwrap();
    let command = format!("git status --porcelain=v2 -z --untracked-files=no; {WORK}");
    let output = guest.run(&repo, &[], &["sh", "-c", &command]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).replace('\0', "\n"), expected);
    assert!(said(&output).contains("2 untracked files stay behind"), "{}", said(&output));
    assert_round_trip(&guest, &copy);
    assert_eq!(fs::read(repo.join(".git/index")).unwrap(), index, "the host's index is not written");
    assert_eq!(status(&repo), expected);
}

#[test]
fn unmerged_entries_and_untracked_files_travel() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    git(&repo, &["checkout", "-qb", "other"]);
    fs::write(repo.join("README.md"), "theirs\n").unwrap();
    git(&repo, &["commit", "-qam", "theirs"]);
    git(&repo, &["checkout", "-q", "main"]);
    fs::write(repo.join("README.md"), "ours\n").unwrap();
    git(&repo, &["commit", "-qam", "ours"]);
    support::run(support::command("git").arg("-C").arg(&repo).args(["merge", "-q", "other"]), b"");
    assert!(status(&repo).contains("u UU"));
    fs::write(repo.join("loose"), "untracked\n").unwrap();
    fs::write(repo.join("x.o"), "ignored\n").unwrap();
    let copy = copy_of(&guest, &repo);
    fs::remove_file(copy.join("x.o")).unwrap();
    let command =
        "git status --porcelain=v2 -z --untracked-files=no; git branch -a --format='%(refname)'; echo 1 > a";
    let output = guest.run(&repo, &["--include-untracked"], &["sh", "-c", command]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
    assert_eq!(text, status(&repo) + "refs/heads/main\n", "and no other branch");
    assert_round_trip(&guest, &copy);
}

#[test]
fn export_leaves_the_guest_as_it_was_and_keeps_forced_files() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let output = guest.run(
        &repo,
        &[],
        &["sh", "-c", "echo x > forced2.o; git add -f forced2.o; echo y > s; git add s; echo z > s"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let snapshot = || {
        (
            fs::read(guest.path("guest/.git/index")).unwrap(),
            git(&guest.path("guest"), &["for-each-ref"]),
            git(&guest.path("guest"), &["count-objects", "-v"]),
        )
    };
    let before = snapshot();
    let record = guest.last_record();
    let output = guest.ws(&["export", "--output", "e.patch"], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]));
    assert_eq!(fs::read(guest.path("e.patch")).unwrap(), fs::read(guest.path("p.patch")).unwrap());
    assert_eq!(snapshot(), before);
    assert!(
        !fs::read_dir(guest.path("guest/.git")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("banger-export"))
    );
    // To stdout the patch is alone; status and check agree.
    let output = guest.ws(&["export"], &record);
    assert_eq!(output.stdout, fs::read(guest.path("e.patch")).unwrap());
    let output = guest.ws(&["status"], &record);
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]), "{}", said(&output));
    assert!(guest.ws(&["check"], &record).status.success());
}

#[test]
fn prepare_twice_changes_nothing_and_something_else_is_a_conflict() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let path = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    let first = support::record(&guest.ws(&args, &guest.record()));
    assert_eq!(first["result"]["changed"], true, "{first}");
    let second = support::record(&guest.ws(&args, &first));
    assert_eq!(second["result"]["changed"], false, "{second}");
    assert_eq!(second["workspace"], first["workspace"]);
    fs::write(repo.join("README.md"), "different\n").unwrap();
    support::assert_error(&guest.ws(&args, &first), 1, "conflict");
    let output = guest.ws(&["exec", "--record", "r.json", "--", "cat", "README.md"], &first);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"hello\n"[..]),
        "{:?}",
        output.stderr
    );
    fs::remove_dir_all(&path).unwrap();
    support::assert_error(&guest.ws(&["check"], &first), 3, "not-found");
    support::assert_error(&guest.ws(&["export", "--output", "x"], &first), 3, "not-found");
    let output = guest.ws(&["exec", "--", "true"], &first);
    support::assert_error(&output, 125, "not-found");
}

#[test]
fn codes_signals_and_bytes_come_back_verbatim() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let check = |command: &[&str], code: i32, signal: Value| {
        drop(fs::remove_dir_all(guest.path("guest")));
        let output = guest.run(&repo, &[], command);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", said(&output));
        assert_eq!(guest.last_record()["result"]["signal"], signal);
        output
    };
    check(&["sh", "-c", "exit 125"], 125, Value::Null);
    check(&["no-such-command"], 127, Value::Null);
    check(&["./README.md"], 126, Value::Null);
    check(&["sh", "-c", "kill -TERM $$"], 143, json!("TERM"));
    check(&["sh", "-c", "kill -SEGV $$"], 139, json!("SEGV"));
    let output = check(&["printf", "%s|", "it's", "$x", "", "a\nb"], 0, Value::Null);
    assert_eq!(output.stdout, b"it's|$x||a\nb|");
    // 10 MiB both ways, and on both streams.
    fs::write(repo.join("big"), vec![7; 10 << 20]).unwrap();
    git(&repo, &["add", "big"]);
    let output =
        check(&["sh", "-c", "cat big >&2; cat big; tr '\\7' '\\1' < big > b2; mv b2 big"], 0, Value::Null);
    assert_eq!(output.stdout, vec![7; 10 << 20]);
    assert_eq!(output.stderr.len(), 10 << 20);
}

#[test]
fn where_output_and_record_go_follows_the_options() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let args = |extra: &[&'static str]| {
        drop(fs::remove_dir_all(guest.path("guest")));
        let mut args = vec!["run".to_owned(), "--repo".into(), repo.display().to_string()];
        args.extend(["--guest-path".into(), guest.path("guest").display().to_string()]);
        args.extend(extra.iter().map(|a| (*a).to_owned()));
        args.extend(["--", "sh", "-c", "echo out; echo err >&2; echo x > new"].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        guest.ws(&args, &guest.record())
    };
    let output = args(&[]);
    assert_eq!(support::record(&output)["result"]["exit_code"], 0);
    assert_eq!(output.stderr, b"out\nerr\n");
    let output = args(&["--patch", "-", "--record", "r2.json"]);
    assert!(output.stdout.starts_with(b"diff --git a/new b/new\n"), "{}", said(&output));
    assert_eq!(output.stderr, b"out\nerr\n");
    support::assert_error(&args(&["--patch", "-"]), 125, "usage");
    support::assert_error(&guest.ws(&["run", "--nonsense"], &guest.record()), 125, "usage");
}

#[test]
fn a_connection_that_ends_early_is_a_failure() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    // Kills the sshd process of this connection: the shell's parent.
    let output = guest.run(&repo, &[], &["sh", "-c", "sleep 0.5; exec >&- 2>&-; kill -9 $PPID; sleep 1"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let record = guest.last_record();
    assert_eq!(record["error"]["code"], "failed", "{record}");
    assert_eq!(record["error"]["details"]["command_ran"], true);
}

/// Passes `limit` bytes on to `port` and then closes both sides; gives its own port.
fn cutting_proxy(port: u16, limit: u64) -> u16 {
    use std::io::{Read, copy};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(copy(&mut back_from, &mut back_to)));
        drop(copy(&mut (&client).take(limit), &mut &server));
        drop((client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both)));
    });
    own
}

#[test]
fn a_copy_that_is_cut_leaves_nothing_behind() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join("big"), vec![7; 4 << 20]).unwrap();
    git(&repo, &["add", "big"]);
    let mut record = guest.record();
    record["net"]["ssh_port"] = cutting_proxy(guest.port, 1 << 20).into();
    let path = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    let output = guest.ws(&args, &record);
    support::assert_error(&output, 1, "failed");
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        !path.exists()
    });
    assert!(gone, "half a workspace stayed");
    // A VM whose supervisor is gone is said to be stopped.
    fs::write(guest.path("state/vms").join(ID).join("run.lock"), "").unwrap();
    record["net"]["ssh_port"] = cutting_proxy(guest.port, 1 << 20).into();
    support::assert_error(&guest.ws(&args, &record), 1, "vm-stopped");
}

#[test]
fn another_host_key_is_refused() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    keygen(&guest.path("other"));
    fs::copy(guest.path("other.pub"), guest.path("state/vms").join(ID).join("host_key.pub")).unwrap();
    let output = guest.run(&repo, &[], &["true"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(guest.last_record()["error"]["code"], "denied", "{}", said(&output));
}

#[test]
fn a_signal_ends_the_wait_for_a_command() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let path = guest.path("guest");
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.args(["run", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()]);
    command
        .args(["--record", "r.json", "--", "sh", "-c", "trap 'echo x > ../told; exit' TERM; sleep 60 & wait"])
        .current_dir(guest.path(""));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, guest.record().to_string().as_bytes()).unwrap();
    drop(stdin);
    while !path.join(".git/HEAD").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    // SAFETY: kill(2) of a child that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    let started = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert!(started.elapsed().as_secs() < 3);
    let record = guest.last_record();
    assert_eq!(record["error"]["code"], "interrupted", "{record}");
    assert_eq!(record["error"]["details"]["command_ran"], true);
    assert!(guest.path("told").exists(), "the command was told to end");
}

/// A generator of pseudo-random numbers (xorshift64*), so that a failure can be repeated.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

fn mutate(dice: &mut Dice) -> String {
    let names = ["a", "src/a.c", "d/e/f", "README.md", "run.sh", "sp ace", "forced.o", "link", "q\"uote"];
    let name = format!("'{}'", names[dice.roll(9) as usize]);
    let text = dice.roll(1000);
    match dice.roll(11) {
        0 => format!("mkdir -p \"$(dirname {name})\" && echo {text} > {name}"),
        1 => format!("echo {text} >> {name}"),
        2 => format!("rm -rf {name}"),
        3 => format!("printf '\\0{text}\\377' > {name}"),
        4 => format!("git add {name}"),
        5 => "git add -A".into(),
        6 => format!("git commit -qm {text} -a"),
        7 => format!("chmod 755 {name}"),
        8 => format!("rm -rf {name}; ln -s target{text} {name}"),
        9 => format!("git add -N {name}"),
        _ => format!("rm -rf {name}; mkdir -p {name} && echo {text} > {name}/inner"),
    }
}

#[test]
fn any_sequence_of_changes_makes_the_round_trip() {
    let Some(guest) = Guest::new() else { return };
    let mut dice = Dice(0x00ba_9ce5_0000_0001);
    for round in 0..30 {
        for name in ["guest", "repo", "copy"] {
            drop(fs::remove_dir_all(guest.path(name)));
        }
        let repo = guest.repo();
        let script = |dice: &mut Dice| {
            (0..1 + dice.roll(8)).map(|_| mutate(dice) + " 2>/dev/null\n").collect::<String>()
        };
        let (on_host, in_guest) = (script(&mut dice), script(&mut dice));
        support::run(support::command("sh").args(["-c", &on_host]).current_dir(&repo), b"");
        let copy = copy_of(&guest, &repo);
        let ignored =
            String::from_utf8(git(&repo, &["ls-files", "-z", "--others", "--ignored", "--exclude-standard"]))
                .unwrap();
        for path in ignored.split('\0').filter(|p| !p.is_empty()) {
            drop(fs::remove_file(copy.join(path)));
        }
        let all = format!("git status --porcelain=v2 -z --untracked-files=all --no-renames\n{in_guest} true");
        let output = guest.run(&repo, &["--include-untracked"], &["sh", "-c", &all]);
        let story = format!("round {round}\n{on_host}---\n{in_guest}---\n{}", said(&output));
        assert!(output.status.success(), "{story}");
        let seen = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
        let expected =
            git(&repo, &["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames"]);
        let expected = String::from_utf8_lossy(&expected).replace('\0', "\n");
        assert!(seen.starts_with(&expected), "{story}\nexpected:\n{expected}");
        // Ignored files that the command made stay in the guest.
        let ignored =
            git(&guest.path("guest"), &["ls-files", "-z", "--others", "--ignored", "--exclude-standard"]);
        for path in String::from_utf8(ignored).unwrap().split('\0').filter(|p| !p.is_empty()) {
            drop(fs::remove_file(guest.path("guest").join(path)));
        }
        let patch = guest.path("p.patch");
        if fs::metadata(&patch).unwrap().len() > 0 {
            let mut apply = support::command("git");
            apply.arg("-C").arg(&copy).arg("apply").arg(&patch);
            let applied = support::run(&mut apply, b"");
            assert!(applied.status.success(), "{story}\n{}", said(&applied));
        }
        assert_eq!(tree(&copy), tree(&guest.path("guest")), "{story}");
    }
}
