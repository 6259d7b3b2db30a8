//! Commands in a VM that runs: stdin, terminals, Ctrl-C, mise, and a VM that goes away under them.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::home::{BANGER, Home, git, said};
use crate::support::{self, wait};

/// `banger` in a session of its own on a new terminal, where `keys` are typed once it has said `cue`.
fn on_terminal(home: &Home, args: &[&str], cue: &str, keys: &[u8]) -> (Option<i32>, String, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = support::command("setsid");
    command.args(["--ctty", "--wait", BANGER]).args(args);
    command.env("BANGER_STATE_DIR", home.state()).current_dir(home.dir.path());
    command.stdin(pty.slave).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command holds the other end of the terminal as well.
    drop(command);
    let mut stderr = child.stderr.take().unwrap();
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        drop(stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut terminal = fs::File::from(pty.master);
    let (mut stdout, mut out) = (child.stdout.take().unwrap(), Vec::new());
    let said = |out: &[u8]| String::from_utf8_lossy(out).into_owned();
    let mut byte = [0];
    while !said(&out).contains(cue) && stdout.read(&mut byte).is_ok_and(|count| count > 0) {
        out.extend(byte);
    }
    terminal.write_all(keys).unwrap();
    drop(stdout.read_to_end(&mut out));
    (wait(&mut child), said(&out), err.join().unwrap())
}

fn exec(home: &Home, options: &[&str], words: &[&str], stdin: &[u8]) -> Output {
    let args = [&["vm", "exec"], options, &["dev1", "--"], words].concat();
    support::run(&mut home.banger(&args), stdin)
}

#[test]
fn commands_have_streams_terminals_and_an_exact_end() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let args =
        ["vm", "run", "--name", "dev1", repo.to_str().unwrap(), "--", "sh", "-c", "cat; sleep 300 & exit 3"];
    let output = support::run(&mut home.banger(&args), b"by way of stdin");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(3), &b"by way of stdin"[..]),
        "{}",
        said(&output)
    );

    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = exec(&home, &[], &["cat"], &bytes);
    assert!(
        output.status.success() && output.stdout == bytes,
        "{} bytes: {}",
        output.stdout.len(),
        output.status
    );
    assert_eq!(exec(&home, &["-n"], &["wc", "-c"], b"1234").stdout, b"0\n");
    let output = exec(&home, &[], &["no-such-command"], b"");
    assert_eq!(
        (output.status.code(), said_on_stderr(&output)),
        (Some(127), "banger: no-such-command: not found in the guest\n".into())
    );
    let output = exec(&home, &[], &["sh", "-c", "kill -BUS $$"], b"");
    assert_eq!(output.status.code(), Some(135));
    // In a guest that is emulated on a busy machine the first of these may be over before the command's first word.
    let limited = |limit: &&str| {
        let options = ["--timeout", limit, "--env", "A=b c", "--workdir", "."];
        let output = exec(&home, &options, &["sh", "-c", "echo $A; sleep 60"], b"");
        assert_eq!(output.status.code(), Some(124), "{}", said(&output));
        output.stdout == b"b c\n"
    };
    assert!(["2", "8", "30"].iter().any(limited), "it says nothing within 30 s");

    goes_over_either_transport(&home);
    reads_a_terminal(&home);
    follows_the_checkout(&home, &repo);
    ends_with_its_vm(&home);
    home.assert_clean();
}

/// Over the agent's channel as long as there is a free port, else over SSH.
fn goes_over_either_transport(home: &Home) {
    let over = |transport: &str, script: &str| {
        let mut command = home.banger(&["vm", "exec", "dev1", "--", "sh", "-c", script]);
        command.env("BANGER_GUEST_TRANSPORT", transport);
        command
    };
    let how = "echo ${SSH_CLIENT:+ssh}; cat; exit 6";
    for (transport, expected) in [("agent", "\nin"), ("auto", "\nin"), ("ssh", "ssh\nin")] {
        let output = support::run(&mut over(transport, how), b"in");
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(6), expected),
            "{transport}: {}",
            said(&output)
        );
    }
    let hold = |_| {
        let mut command = over("agent", "echo held; cat >/dev/null");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        child
    };
    let mut held: Vec<Child> = (0..4).map(hold).collect();
    assert_eq!(support::run(&mut over("agent", "true"), b"").status.code(), Some(125));
    assert_eq!(support::run(&mut over("auto", how), b"").stdout, b"ssh\n");
    // Killed in the middle of whatever it does, one leaves a port that serves the next.
    let pid = held[0].id();
    let stages = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    for stage in stages.split_whitespace() {
        // SAFETY: kill(2) of a child that banger waits for.
        unsafe { libc::kill(stage.parse().unwrap(), libc::SIGKILL) };
    }
    assert!(wait(&mut held[0]).is_some_and(|code| code != 0));
    assert_eq!(support::run(&mut over("agent", how), b"").stdout, b"\n", "{stages}");
    for child in &mut held[1..] {
        drop(child.stdin.take());
        assert_eq!(wait(child), Some(0));
    }
}

fn said_on_stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A stage in a process group of its own would be stopped for reading (SIGTTIN).
fn reads_a_terminal(home: &Home) {
    let script = "echo ready; read line; echo \"got $line\"; exit 5";
    let shell = |script| ["vm", "exec", "dev1", "--", "sh", "-c", script];
    let (code, out, err) = on_terminal(home, &shell(script), "ready\n", b"hello\n");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(5), "ready\ngot hello\n", ""));

    let (code, out, err) = on_terminal(home, &shell("echo ready; sleep 100"), "ready\n", b"\x03");
    assert_eq!((code, out.as_str()), (Some(130), "ready\n"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains("interrupted") && err.contains("dev1"), "{err}");

    let script = "tty; echo \"$A $PWD\"; read line; echo \"got $line\"; kill -BUS $$";
    let (code, out, err) = on_terminal(
        home,
        &["vm", "exec", "-t", "--env", "A=a", "dev1", "--", "sh", "-c", script],
        "a /root/repo",
        b"typed\n",
    );
    assert_eq!(code, Some(135), "{out}{err}");
    assert!(out.contains("/dev/pts/") && out.contains("a /root/repo") && out.contains("got typed"), "{out}");
    assert!(err.contains("banger vm delete --force dev1"), "{err}");

    // ssh's own failures are banger's, whatever a command's status may be.
    let status = |status: &str| {
        let script = format!("exit {status}");
        on_terminal(home, &["vm", "exec", "-t", "dev1", "--", "sh", "-c", &script], "", b"")
    };
    assert_eq!(status("255").0, Some(255));
    let id = home.json(&["vm", "show", "--record", "dev1"])["vm"]["id"].as_str().unwrap().to_owned();
    let hosts = home.state().join("vms").join(id).join("known_hosts");
    let pinned = fs::read(&hosts).unwrap();
    fs::write(&hosts, "").unwrap();
    let (code, out, err) = status("0");
    fs::write(&hosts, pinned).unwrap();
    assert_eq!(code, Some(125), "{out}{err}");
    assert!(err.contains("ssh failed") && err.contains("host key"), "{err}");

    let output = exec(home, &["--tty"], &["true"], b"");
    assert_eq!(output.status.code(), Some(125), "stdin is not a terminal: {}", said(&output));
}

fn follows_the_checkout(home: &Home, repo: &Path) {
    assert_eq!(said_on_stderr(&exec(home, &[], &["true"], b"")), "");
    fs::write(repo.join("later"), "later\n").unwrap();
    git(repo, &["add", "later"]);
    git(repo, &["commit", "-qm", "later"]);
    let output = exec(home, &[], &["sh", "-c", "test ! -e later"], b"");
    assert_eq!(output.status.code(), Some(0));
    let warning = said_on_stderr(&output);
    assert!(warning.lines().count() == 1 && warning.contains("--auto-prepare"), "{warning}");
    let output = exec(home, &["--auto-prepare"], &["cat", "later"], b"");
    assert_eq!(output.stdout, b"later\n", "{}", said(&output));
    assert_eq!(said_on_stderr(&exec(home, &[], &["true"], b"")), "");
}

fn ends_with_its_vm(home: &Home) {
    let mut command =
        home.banger(&["vm", "exec", "--json", "dev1", "--", "sh", "-c", "echo begun >&2; sleep 300"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held: Option<OwnedFd> = child.stdin.take().map(OwnedFd::from);
    child.stderr.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    let output = home.run(&["vm", "delete", "--force", "dev1"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(wait(&mut child), Some(125));
    drop(held);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let mut lines = String::new();
    child.stderr.take().unwrap().read_to_string(&mut lines).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["error"]["code"], "vm-stopped", "{record}{lines}");
    assert!(!lines.contains("cannot write"), "{lines}");
}

/// Has an image of this home say what an OCI image does of its variables.
fn give_variables(home: &Home, image: &str, variables: &Value) {
    let own = home.state().join("images").join(image);
    let prepared = fs::read_link(&own).unwrap();
    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    for entry in fs::read_dir(&prepared).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let manifest = own.join("manifest.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    value["run"] =
        json!({ "env": variables, "user": null, "working_dir": null, "entrypoint": [], "cmd": [] });
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, value.to_string()).unwrap();
}

/// The agent's channel in a system that is none of ours: systemd has a session, services and a cgroup for what sshd starts.
#[test]
fn commands_go_over_the_agents_channel_under_systemd() {
    let Some(home) = Home::with_image("tools") else { return };
    let packages = fs::read_to_string(home.state().join("images/tools/manifest.json")).unwrap();
    let fit = packages.contains("\"systemd-sysv\"");
    if !support::require("vm", fit, "the image tools is one without systemd: use tests/run") {
        return;
    }
    let given = json!({ "GREETING": "good  day; a=b #1", "PATH": "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin" });
    give_variables(&home, "tools", &given);
    let repo = home.repo("repo");
    let over = |transport: &str, args: &[&str], stdin: &[u8]| {
        support::run(home.banger(args).env("BANGER_GUEST_TRANSPORT", transport), stdin)
    };
    let start =
        ["vm", "run", "--name", "dev1", "--image", "tools", "--init", "systemd", repo.to_str().unwrap()];
    let script = "cat /proc/1/comm; cat; echo ${SSH_CLIENT:+ssh}; echo changed >README.md; exit 3";
    let output = over("agent", &[&start[..], &["--", "sh", "-c", script]].concat(), b"by way of stdin\n");
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(3), "systemd\nby way of stdin\n\n"),
        "{}",
        said(&output)
    );
    let exec = |options: &[&str], script: &str, stdin: &[u8]| {
        over("agent", &[&["vm", "exec"], options, &["dev1", "--", "sh", "-c", script]].concat(), stdin)
    };
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = exec(&[], "cat; echo end >&2; kill -BUS $$", &bytes);
    assert!(output.stdout == bytes, "{} bytes: {}", output.stdout.len(), output.status);
    assert_eq!((output.status.code(), said_on_stderr(&output).as_str()), (Some(135), "end\n"));
    assert_eq!(exec(&["--timeout", "0.5"], "sleep 60", b"").status.code(), Some(124));
    // What a login over SSH finds is there as well, but for what SSH itself adds.
    let variables = |transport: &str| {
        let output = over(transport, &["vm", "exec", "-n", "dev1", "--", "env"], b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = |line: &&str| {
            !line.starts_with("SSH_") && !line.starts_with("MOTD_") && !line.starts_with("XDG_")
        };
        text.lines().filter(own).map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(variables("agent"), variables("ssh"));
    let shown = "echo \"$GREETING|$PATH|$(id -u)\"";
    let (_, out, err) = on_terminal(&home, &["vm", "exec", "-t", "dev1", "--", "sh", "-c", shown], "", b"");
    assert_eq!(out.trim_end(), "good  day; a=b #1|/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin|0", "{err}");
    // systemd takes itself for booted, nothing failed, and it may start anew without the agent's end.
    let output = exec(&[], "systemctl is-system-running --wait; systemctl daemon-reexec", b"");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"running\n"[..]),
        "{}",
        said(&output)
    );
    let output = over("agent", &["vm", "diff", "dev1"], b"");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\n-hello\n+changed\n"), "{}", said(&output));
    // A killed host's command ends with it.
    let mut child = home.banger(&["vm", "exec", "dev1", "--", "sh", "-c", "echo held; sleep 1234"]);
    let mut child = child.env("BANGER_GUEST_TRANSPORT", "agent").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    // SAFETY: kill(2) of a child that is not waited for yet.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert_eq!(wait(&mut child), Some(130));
    let output = exec(&[], "for i in $(seq 45); do pgrep -x sleep || exit 0; sleep 1; done; exit 1", b"");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}

#[test]
fn mise_puts_what_the_checkout_pins_on_the_path() {
    let mise = std::env::var_os("BANGER_TEST_MISE").filter(|path| !path.is_empty());
    let there = mise.as_ref().is_some_and(|path| Path::new(path).is_file());
    let reason = "BANGER_TEST_MISE names no mise for x86_64 (npm's @jdxcode/mise-linux-x64 holds one)";
    if !support::require("mise", there, reason) {
        return;
    }
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let bin = repo.join("tools/node/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("node"), "#!/bin/sh\necho pinned \"$@\"\n").unwrap();
    fs::set_permissions(bin.join("node"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(
        repo.join("mise.toml"),
        "[tools]\nnode = \"path:/root/repo/tools/node\"\n\n[env]\nFROM_MISE = \"yes\"\n",
    )
    .unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "pin"]);
    let output = home.run(&["vm", "run", "--name", "dev1", repo.to_str().unwrap(), "--", "node"]);
    assert_eq!(output.status.code(), Some(127), "there is no mise yet: {}", said(&output));

    let script = "mkdir -p ~/.local/bin && cat > ~/.local/bin/mise && chmod +x ~/.local/bin/mise";
    let started = Instant::now();
    let mut install = home.banger(&["vm", "exec", "dev1", "--", "sh", "-c", script]);
    let output = install.stdin(fs::File::open(mise.unwrap()).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let copied = started.elapsed();
    let started = Instant::now();
    let output = exec(&home, &[], &["node", "a b"], b"");
    let ran = started.elapsed();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"pinned a b\n"[..]),
        "{}",
        said(&output)
    );
    let output = exec(&home, &[], &["sh", "-c", "echo $FROM_MISE; cat; exit 9"], b"in");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(9), &b"yes\nin"[..]),
        "{}",
        said(&output)
    );
    let output = exec(&home, &[], &["no-such-command"], b"");
    assert_eq!(output.status.code(), Some(127), "{}", said(&output));
    assert_eq!(exec(&home, &["--no-mise"], &["node"], b"").status.code(), Some(127));
    writeln!(std::io::stderr(), "mise: copied in {copied:?}, a command through it {ran:?}").unwrap();
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}
