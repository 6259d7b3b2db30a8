//! The agent's channel in the place of SSH: banger-guest's own service behind a socket as QEMU's are, and guests that lie. Nobody
//! listens where sshd would, except where a test wants the way out.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::guest::{Guest, ID, WORK, assert_round_trip, copy_of, said};
use crate::support::{self, SOON, soon};

/// A guest that takes commands over its agent's channel.
struct Agent {
    guest: Guest,
    record: Value,
}

/// What stands behind one port, given a connection. It is not given the next before this returns.
type Behind = fn(UnixStream);

/// The real service, as a process with the connection for its stdin.
fn service(connection: UnixStream) {
    let mut command = support::command("unshare");
    // This machine's root may have a ~/.bashrc that does anything.
    let script = "mkdir -p /run/banger && mount -t tmpfs -o mode=0700 tmpfs /run/banger && cp \"$0\" /run/banger/guest \\
        && mount -t tmpfs tmpfs ~root && cd / && exec /run/banger/guest serve -";
    command.args(["--mount", "sh", "-c", script, banger_guest_program::BUILT_AT]);
    let mut child = command.stdin(OwnedFd::from(connection)).stdout(Stdio::null()).spawn().unwrap();
    // With the command the connection's last copy here is gone.
    drop(command);
    drop(child.wait());
}

impl Agent {
    fn new(ports: usize, behind: Behind) -> Option<Self> {
        let guest = Guest::new()?;
        let dir = guest.path("state/vms").join(ID);
        for number in 0..ports {
            let listener = UnixListener::bind(dir.join(format!("exec{number}.sock"))).unwrap();
            std::thread::spawn(move || {
                while let Ok((connection, _)) = listener.accept() {
                    behind(connection);
                }
            });
        }
        let mut record = guest.record();
        record["vmm"] = json!({
            "kind": "qemu", "accel": "tcg", "version": "7", "supervisor_pid": 1, "pid": 1,
            "started_at": "2026-01-01T00:00:00Z", "ready_at": null, "api_socket": "", "agent_socket": "",
            "console_log": "", "vmm_log": "", "state": "running", "exit": null, "agent_exec": true
        });
        let path = guest.path("guest");
        fs::create_dir(&path).unwrap();
        record["workspace"] = json!({
            "host_path": "/x", "guest_path": path, "head_commit": null, "base_commit": "", "mode": "files",
            "prepared_at": "2026-01-01T00:00:00Z", "file_count": 0, "size_bytes": 0
        });
        fs::write(guest.path("record"), record.to_string()).unwrap();
        Some(Self { guest, record })
    }

    fn command(&self, transport: &str, args: &[&str]) -> Command {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.args(args).current_dir(self.guest.path("")).env("BANGER_GUEST_TRANSPORT", transport);
        command
    }

    /// `exec` of `words`, its record in `r.json`.
    fn exec(&self, transport: &str, words: &[&str]) -> Command {
        let options = ["exec", "--input", "record", "--record", "r.json", "--"];
        self.command(transport, &[&options[..], words].concat())
    }

    fn sh(&self, script: &str, stdin: &[u8]) -> Output {
        support::run(&mut self.exec("agent", &["sh", "-c", script]), stdin)
    }
}

/// Bytes that no lost or doubled piece would leave intact.
fn noise(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn streams_are_exact_and_every_end_is_told() {
    let Some(agent) = Agent::new(1, service) else { return };
    let bytes = noise(20_000_000);
    let output = agent.sh("cat; cat /dev/null; exit 7", &bytes);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());

    let output = agent.sh("head -c 1000000 /dev/zero >&2; echo out; wc -c", b"12345");
    assert_eq!((output.stdout.as_slice(), output.stderr.len()), (&b"out\n5\n"[..], 1_000_000));
    // It reads nothing of what is more than the window, and says a lot meanwhile.
    let output = agent.sh("head -c 5000000 /dev/zero; exec <&-; exit 3", &bytes);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 5_000_000));
    for (script, status) in
        [("exit 255", 255), ("kill -BUS $$", 135), ("kill -36 $$", 164), ("kill -9 0", 137)]
    {
        assert_eq!(agent.sh(script, b"").status.code(), Some(status), "{script}");
    }
    let output = support::run(&mut agent.exec("agent", &["no-such-command"]), b"");
    assert_eq!(
        (output.status.code(), said(&output).as_str()),
        (Some(127), "banger: no-such-command: not found in the guest\n")
    );
    // Its own process has ended, whatever it left in the background.
    let started = Instant::now();
    assert_eq!(agent.sh("sleep 100 & exit 4", b"").status.code(), Some(4));
    assert!(started.elapsed() < SOON);
    // A session and a group of its own, and an environment that is nobody's.
    let output =
        agent.sh("ps -o sid= -p $$ | tr -d ' '; echo $HOME $USER $LOGNAME; umask; env | grep -c BANGER", b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" root root\n0022\n0\n"), "{text}");
}

#[test]
fn a_checkout_goes_there_and_a_patch_comes_back() {
    let Some(agent) = Agent::new(1, service) else { return };
    fs::remove_dir(agent.guest.path("guest")).unwrap();
    let repo = agent.guest.repo();
    let copy = copy_of(&agent.guest, &repo);
    let (repo, path) = (repo.to_str().unwrap(), agent.guest.path("guest"));
    let args = ["run", "--repo", repo, "--guest-path", path.to_str().unwrap(), "--patch", "p.patch"];
    let args = [&args[..], &["--record", "r.json", "--", "sh", "-c", WORK]].concat();
    let mut record = agent.record.clone();
    record["workspace"] = Value::Null;
    let output = support::run(&mut agent.command("agent", &args), record.to_string().as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_round_trip(&agent.guest, &copy);
}

/// Starts a command that says on stdout that it runs, and notes that it was told to end.
fn begin(agent: &Agent) -> Child {
    let script = "trap 'echo x > told; exit' TERM; echo begun; sleep 60 & wait";
    let mut command = agent.exec("agent", &["sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    child
}

#[test]
fn a_command_ends_with_its_host() {
    let Some(agent) = Agent::new(1, service) else { return };
    let told = agent.guest.path("guest/told");
    let mut child = begin(&agent);
    // SAFETY: kill(2) of a child that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert_eq!(agent.guest.last_record()["error"]["code"], "interrupted");
    assert!(soon(|| told.exists()), "it was told to end");
    fs::remove_file(&told).unwrap();
    // A host that says nothing any more.
    let mut child = begin(&agent);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(soon(|| told.exists()), "it was told to end");
    // The port serves the next one.
    assert_eq!(agent.sh("exit 5", b"").status.code(), Some(5));
}

#[test]
fn a_port_has_one_host_at_a_time_and_the_others_take_ssh() {
    let Some(agent) = Agent::new(1, service) else { return };
    let mut first = begin(&agent);
    let output = support::run(&mut agent.exec("agent", &["true"]), b"");
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert_eq!(agent.guest.last_record()["error"]["code"], "failed", "the other three do not exist");
    // sshd is there.
    for transport in ["auto", "ssh"] {
        let output = support::run(&mut agent.exec(transport, &["sh", "-c", "echo ${SSH_CLIENT:+ssh}"]), b"");
        assert_eq!(output.stdout, b"ssh\n", "{transport}: {}", said(&output));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    support::eventually("its command ends with it", || agent.guest.path("guest/told").exists());
    let output = support::run(&mut agent.exec("carrier-pigeon", &["true"]), b"");
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("BANGER_GUEST_TRANSPORT"), "{}", said(&output));
}

const HEADER: usize = 5;

/// Reads the host's greeting and gives it back, after bytes of somebody else's conversation.
fn greet(connection: &mut UnixStream, stale: &[u8]) {
    let mut greeting = [0; 24];
    connection.read_exact(&mut greeting).unwrap();
    connection.write_all(stale).unwrap();
    connection.write_all(&greeting).unwrap();
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &(payload.len() as u32).to_le_bytes(), payload].concat()
}

/// Takes a command and gives its nonce.
fn take_command(connection: &mut UnixStream) -> String {
    let mut header = [0; HEADER];
    connection.read_exact(&mut header).unwrap();
    let mut line = vec![0; u32::from_le_bytes(header[1..].try_into().unwrap()) as usize];
    connection.read_exact(&mut line).unwrap();
    let line = String::from_utf8(line).unwrap();
    line["nonce=".len()..line.find(';').unwrap()].to_owned()
}

/// Answers the first command with `bytes`, then says nothing more.
fn answer(mut connection: UnixStream, bytes: &[u8]) {
    greet(&mut connection, b"");
    take_command(&mut connection);
    drop(connection.write_all(bytes));
    drop(connection.read_to_end(&mut Vec::new()));
}

#[test]
fn what_is_left_of_another_conversation_is_dropped() {
    let behind: Behind = |mut connection| {
        let other = [b"\xb5banger\n".as_slice(), &[7; 16]].concat();
        let stale = [frame(5, b"not yours"), other, b"\xb5bang".to_vec(), vec![5, 255, 255]].concat();
        greet(&mut connection, &stale);
        let nonce = take_command(&mut connection);
        let mark = format!("\x1ebanger:{nonce}:ready 42\nhello");
        let answer = [frame(5, mark.as_bytes()), frame(8, &[0, 9])].concat();
        for byte in answer {
            connection.write_all(&[byte]).unwrap();
        }
        drop(connection.read_to_end(&mut Vec::new()));
    };
    let Some(agent) = Agent::new(1, behind) else { return };
    let output = agent.sh("echo hello", b"");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(9), &b"hello"[..]),
        "{}",
        said(&output)
    );
}

#[test]
fn a_guest_that_lies_is_refused_soon() {
    let answers: [(&str, Behind); 11] = [
        ("no kind", |connection| answer(connection, &[0])),
        ("a greeting", |connection| answer(connection, b"\xb5banger\n0123456789abcdef")),
        ("huge", |connection| answer(connection, &[5, 255, 255, 255, 255])),
        ("a host's frame", |connection| answer(connection, &frame(2, b"x"))),
        ("left", |connection| answer(connection, &frame(9, b""))),
        ("took what was not sent", |connection| answer(connection, &frame(7, &[255, 255, 255, 255]))),
        ("no such signal", |connection| answer(connection, &frame(8, &[1, 99]))),
        ("anew", |connection| answer(connection, &frame(11, b""))),
        ("refused", |connection| answer(connection, &frame(10, b"no\x1b[31mshell\xff"))),
        ("cut", |mut connection| {
            greet(&mut connection, b"");
            take_command(&mut connection);
            connection.write_all(&[5, 100, 0, 0, 0, 1]).unwrap();
        }),
        ("babble", |mut connection| while connection.write_all(&[b'x'; 4096]).is_ok() {}),
    ];
    for (what, behind) in answers {
        let Some(agent) = Agent::new(1, behind) else { return };
        let started = Instant::now();
        let output = support::run(&mut agent.exec("agent", &["true"]), b"");
        assert!(started.elapsed() < SOON, "{what}: {:?}", started.elapsed());
        assert_eq!(output.status.code(), Some(125), "{what}: {}", said(&output));
        assert_eq!(agent.guest.last_record()["error"]["code"], "failed", "{what}");
        let raw = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(!output.stderr.iter().any(raw), "{what}: {}", said(&output));
    }
}
