//! `banger-ws exec`: the command's streams, its end, what it runs in.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guest::{Guest, said};
use crate::support::{self, SOON, wait};

/// A guest with a workspace in it, and the record that says so.
struct Prepared {
    guest: Guest,
    record: Value,
}

impl Prepared {
    fn new(guest: Option<Guest>) -> Option<Self> {
        let guest = guest?;
        let repo = guest.repo();
        let path = guest.path("guest");
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
        let output = guest.ws(&args, &guest.record());
        assert!(output.status.success(), "{}", said(&output));
        let record = support::record(&output);
        fs::write(guest.path("in.json"), record.to_string()).unwrap();
        Some(Self { guest, record })
    }

    fn with_helper() -> Option<Self> {
        Self::new(Guest::with_helper())
    }

    /// `exec` with the record in a file, so that stdin is the command's.
    fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command
            .args(["exec", "--input", "in.json", "--record", "r.json"])
            .args(options)
            .arg("--")
            .args(words);
        command.current_dir(self.guest.path(""));
        command
    }

    fn exec(&self, options: &[&str], words: &[&str], stdin: &[u8]) -> Output {
        support::run(&mut self.command(options, words), stdin)
    }

    fn sh(&self, script: &str) -> Output {
        self.exec(&[], &["sh", "-c", script], b"")
    }

    fn result(&self) -> Value {
        self.guest.last_record()["result"].clone()
    }
}

#[test]
fn every_end_is_told_as_it_was() {
    let Some(prepared) = Prepared::with_helper() else { return };
    let check = |script: &str, code: i32, signal: Value| {
        let output = prepared.sh(script);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", said(&output));
        assert_eq!(prepared.result()["signal"], signal, "{script}");
        assert_eq!(prepared.result()["exit_code"], code, "{script}");
        assert_eq!(said(&output), "", "{script}");
    };
    check("exit 0", 0, Value::Null);
    check("exit 255", 255, Value::Null);
    check("kill -SEGV $$", 139, json!("SEGV"));
    check("kill -KILL $$", 137, json!("KILL"));
    // sshd has no names for these.
    check("kill -BUS $$", 135, json!("BUS"));
    check("kill -SYS $$", 159, json!("SYS"));
    check("kill -36 $$", 164, json!("RTMIN+2"));
    // All of its group, which banger-guest is not part of.
    check("kill -9 0", 137, json!("KILL"));
}

#[test]
fn output_that_nobody_takes_is_no_fault_of_the_guests() {
    for guest in [Guest::with_helper(), Guest::new()] {
        let Some(prepared) = Prepared::new(guest) else { return };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = prepared.command(&[], &["seq", "100000"]);
        let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let output = child.wait_with_output().unwrap();
        let reason = "banger-ws: cannot pass on the command's output: Broken pipe (os error 32)\n";
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(125), reason));
    }
}

#[test]
fn what_cannot_run_says_so_in_our_words() {
    for guest in [Guest::with_helper(), Guest::new()] {
        let Some(prepared) = Prepared::new(guest) else { return };
        let output = prepared.exec(&[], &["no-such-command", "x"], b"");
        assert_eq!(output.status.code(), Some(127));
        assert_eq!(said(&output), "banger: no-such-command: not found in the guest\n");
        let output = prepared.exec(&[], &["./README.md"], b"");
        assert_eq!(output.status.code(), Some(126), "{}", said(&output));
        assert!(said(&output).contains("Permission denied"), "{}", said(&output));
        // A script without a first line that says of what.
        fs::write(prepared.guest.path("guest/plain"), "echo \"${0##*/} $1\"; exit 3").unwrap();
        fs::set_permissions(prepared.guest.path("guest/plain"), fs::Permissions::from_mode(0o755)).unwrap();
        let output = prepared.exec(&[], &["./plain", "a b"], b"");
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(3), "plain a b\n"));
    }
}

#[test]
fn a_background_process_does_not_hold_up_the_end() {
    let Some(prepared) = Prepared::with_helper() else { return };
    let started = Instant::now();
    // One is silent, one writes without end, and stdin stays open as well.
    let script = "sleep 60 & (while :; do echo noise; echo noise >&2; : >../noisy; done) &
        until [ -e ../noisy ]; do sleep 0.1; done; printf done; exit 5";
    let mut child = prepared
        .command(&[], &["bash", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(output.stdout.starts_with(b"noise\n"));
    assert!(output.stdout.windows(4).any(|word| word == b"done"), "what came before the end is there");
    let text = said(&output);
    assert!(!text.contains('\u{1e}') && !text.contains("banger:"), "no mark reaches the caller");
}

#[test]
fn stdin_arrives_byte_for_byte_and_ends() {
    for guest in [Guest::with_helper(), Guest::new()] {
        let Some(prepared) = Prepared::new(guest) else { return };
        let bytes = support::noise(5 << 20);
        let output = prepared.exec(&[], &["cat"], &bytes);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
        assert!(output.stderr.is_empty());
        assert_eq!(prepared.exec(&[], &["wc", "-c"], b"").stdout, b"0\n");
        assert_eq!(prepared.exec(&["--no-stdin"], &["wc", "-c"], b"1234").stdout, b"0\n");
        // It takes a line and leaves the rest.
        let output = prepared.exec(
            &[],
            &["sh", "-c", "read line; echo \"$line\"; exec <&-; exit 9"],
            &support::noise(1 << 20),
        );
        assert_eq!(output.status.code(), Some(9));
        // With the record on stdin nothing is left for the command.
        let output = prepared.guest.ws(&["exec", "--record", "r.json", "--", "wc", "-c"], &prepared.record);
        assert_eq!(output.stdout, b"0\n", "{}", said(&output));
    }
}

/// libssh2 deadlocks where one writes while more than its window is unread.
#[test]
fn a_hundred_megabytes_go_both_ways_at_once() {
    let Some(prepared) = Prepared::with_helper() else { return };
    let bytes = support::noise(100 << 20);
    // The same comes back on stdout, and something else on stderr at the same time.
    let script = "head -c 20971520 /dev/zero >&2 & cat; wait";
    let mut child = prepared
        .command(&[], &["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        let errors = scope.spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).map(|_| said)
        });
        // The reader starts late: everything in between is full by then.
        std::thread::sleep(Duration::from_millis(500));
        let (mut got, mut same) = (0, true);
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            same &= bytes.get(got..got + count) == Some(&buffer[..count]);
            got += count;
        }
        assert_eq!((got, same), (bytes.len(), true));
        assert!(errors.join().unwrap().unwrap() == vec![0; 20 << 20]);
    });
    assert_eq!(wait(&mut child), Some(0));
}

#[test]
fn a_command_may_leave_its_stdin_unread() {
    for guest in [Guest::with_helper(), Guest::new()] {
        let Some(prepared) = Prepared::new(guest) else { return };
        // More than every buffer on the way holds.
        let output = prepared.exec(&[], &["sh", "-c", "sleep 0.5; exit 4"], &vec![0; 64 << 20]);
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(4), ""));
        // A pipe that never ends.
        let mut child = prepared.command(&[], &["true"]).stdin(Stdio::piped()).spawn().unwrap();
        let held = child.stdin.take();
        assert_eq!(wait(&mut child), Some(0));
        drop(held);
        // One that never ends and is never empty.
        let mut source = support::command("yes").stdout(Stdio::piped()).spawn().unwrap();
        let mut child = prepared
            .command(&[], &["sh", "-c", "sleep 0.3; exit 6"])
            .stdin(source.stdout.take().unwrap())
            .spawn()
            .unwrap();
        let code = wait(&mut child);
        drop(source.kill());
        drop(source.wait());
        assert_eq!(code, Some(6));
    }
}

/// The mode of a descriptor belongs to all who have it: a shell whose stdin became non-blocking sees errors.
#[test]
fn the_callers_stdin_stays_as_it_is() {
    let Some(prepared) = Prepared::with_helper() else { return };
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let kept = theirs.try_clone().unwrap();
    let mut command = prepared.command(&[], &["sh", "-c", "echo begun; head -c1"]);
    let mut child = command.stdin(std::os::fd::OwnedFd::from(theirs)).stdout(Stdio::piped()).spawn().unwrap();
    // It passes on what comes from here and from there by now.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let flags = rustix::fs::fcntl_getfl(&kept).unwrap();
    ours.write_all(b"x").unwrap();
    assert_eq!(wait(&mut child), Some(0));
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}

#[test]
fn output_that_looks_like_a_mark_is_the_commands() {
    let Some(prepared) = Prepared::with_helper() else { return };
    let output = prepared
        .sh(r"printf 'a\036'; printf 'b\036banger:0123456789abcdef:exit 3\nc\036banger:' >&2; exit 1");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"a\x1e");
    assert_eq!(output.stderr, b"b\x1ebanger:0123456789abcdef:exit 3\nc\x1ebanger:");
    // Its streams closed, left non-blocking, or the same.
    for script in ["exec >&- 2>&-; exit 2", "exec 2>&1; echo x; exit 2", "exec bash -c 'exit 2' 1>&2"] {
        assert_eq!(prepared.sh(script).status.code(), Some(2), "{script}");
    }
}

#[test]
fn environment_and_directory_are_the_commands() {
    for guest in [Guest::with_helper(), Guest::new()] {
        let Some(prepared) = Prepared::new(guest) else { return };
        let mut command = prepared.command(
            &["--env", "A=it's $x\n\"q\"", "--env", "TAKEN", "--env", "NOT_SET_HERE", "-e", "E="],
            &["sh", "-c", "printf '%s|' \"$A\" \"$TAKEN\" \"${NOT_SET_HERE-unset}\" \"${E-unset}\""],
        );
        let output = support::run(command.env("TAKEN", "t\u{e4}"), b"");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "it's $x\n\"q\"|t\u{e4}|unset||",
            "{}",
            said(&output)
        );
        // What a parent hands down is not in anybody's list of processes.
        let mut command = prepared
            .command(&["--env", "B=2"], &["sh", "-c", "printf %s \"$A$B\"; ps axww | grep -c sec[r]et"]);
        let output = support::run(command.env("BANGER_COMMAND_ENV", r#"{"A":"secret","B":"1"}"#), b"");
        assert_eq!(output.stdout, b"secret20\n", "{}", said(&output));

        let src = prepared.guest.path("guest/src").canonicalize().unwrap();
        assert_eq!(
            said(&prepared.exec(&["--workdir", "src"], &["pwd"], b"")),
            format!("{}\n", src.display())
        );
        assert_eq!(said(&prepared.exec(&["-w", "/usr"], &["pwd"], b"")), "/usr\n");
        let root = src.parent().unwrap();
        assert_eq!(said(&prepared.exec(&["-w", "/"], &["pwd"], b"")), format!("{}\n", root.display()));
        for nowhere in ["no/such", "-", "README.md"] {
            support::assert_error(&exec_to_stdout(&prepared, nowhere), 125, "not-found");
        }
        let bad = prepared.guest.ws(&["exec", "--env", "1x=2", "--", "true"], &prepared.record);
        support::assert_error(&bad, 125, "usage");
    }
}

fn exec_to_stdout(prepared: &Prepared, workdir: &str) -> Output {
    prepared.guest.ws(&["exec", "--workdir", workdir, "--", "touch", "/nonexistent/ran"], &prepared.record)
}

#[test]
fn a_command_over_its_time_is_ended_with_all_of_its_group() {
    for (guest, helped) in [(Guest::with_helper(), true), (Guest::new(), false)] {
        let Some(prepared) = Prepared::new(guest) else { return };
        // On a busy machine the first of these may be over before the command's first word.
        let limited = |script: &str| {
            let spoke = ["0.3", "0.6s", "2", "8"].into_iter().find_map(|limit| {
                let started = Instant::now();
                let output = prepared.exec(&["--timeout", limit], &["sh", "-c", script], b"");
                assert_eq!(output.status.code(), Some(124), "{}", said(&output));
                assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
                (!output.stdout.is_empty()).then_some(output)
            });
            spoke.expect("it speaks within 8 s")
        };
        let output = limited("echo begun; sleep 60");
        assert_eq!(output.stdout, b"begun\n", "{}", said(&output));
        assert_eq!(prepared.result()["timed_out"], true);
        assert_eq!(prepared.result()["exit_code"], 124);
        // In time.
        let output = prepared.exec(&["--timeout", "1m"], &["sh", "-c", "exit 124"], b"");
        assert_eq!((output.status.code(), &prepared.result()["timed_out"]), (Some(124), &Value::Null));
        if helped {
            let script = "trap '' TERM; (trap '' TERM; sleep 61) & echo $!; while :; do sleep 1; done";
            let output = prepared.exec(&["--timeout", "300"], &["true"], b"");
            assert_eq!(output.status.code(), Some(0));
            let survivor = String::from_utf8_lossy(&limited(script).stdout).trim().to_owned();
            let state = || fs::read_to_string(format!("/proc/{survivor}/stat")).unwrap_or_default();
            let gone = support::soon(|| state().is_empty() || state().contains(") Z "));
            assert!(gone, "{}", state());
        }
    }
}

/// A fake mise: says what it was asked for, sets what a real one would, and becomes the command.
const MISE: &str = r#"#!/bin/sh
[ "$1 $2" = "exec --" ] || { echo "mise: $*" >&2; exit 99; }
shift 2
PINNED=1.2.3 TRUSTED=$MISE_TRUSTED_CONFIG_PATHS exec "$@"
"#;

#[test]
fn a_command_runs_through_mise_where_there_is_one() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join(".local/bin");
    fs::create_dir_all(&bin).unwrap();
    for helper in [true, false] {
        let Some(prepared) =
            Prepared::new(Guest::with_variable(&format!("HOME={}", home.path().display()), helper))
        else {
            return;
        };
        let words = ["sh", "-c", "printf '%s|' \"$PINNED\" \"$TRUSTED\"; exit 8"];
        drop(fs::remove_file(bin.join("mise")));
        assert_eq!(prepared.exec(&[], &words, b"").stdout, b"||", "there is none");
        fs::write(bin.join("mise"), MISE).unwrap();
        fs::set_permissions(bin.join("mise"), fs::Permissions::from_mode(0o755)).unwrap();
        let output = prepared.exec(&[], &words, b"");
        let path = prepared.guest.path("guest");
        assert_eq!((output.status.code(), said(&output)), (Some(8), format!("1.2.3|{}|", path.display())));
        assert_eq!(prepared.exec(&["--no-mise"], &words, b"").stdout, b"||");
        assert_eq!(prepared.exec(&[], &["cat"], b"in").stdout, b"in");
        if helper {
            let output = prepared.exec(&[], &["no-such-command"], b"");
            assert_eq!(output.status.code(), Some(127));
            assert_eq!(said(&output), "banger: no-such-command: not found in the guest\n");
        }
    }
}

#[test]
fn a_silent_command_is_waited_for() {
    let Some(prepared) = Prepared::with_helper() else { return };
    // Longer than every tick and keepalive: with libssh2's own keepalive an idle read fails.
    let output = prepared.sh("sleep 4; echo late");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"late\n".as_slice()));
}

#[test]
fn a_signal_ends_the_command_also_while_it_is_fed() {
    let Some(prepared) = Prepared::with_helper() else { return };
    // It reads nothing, so that a packet of its input is always under way.
    let script = "trap 'echo x > ../told; exit' TERM; echo $$; sleep 60 & wait";
    let mut source = support::command("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = prepared
        .command(&[], &["sh", "-c", script])
        .stdin(source.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begun = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut begun).unwrap();
    // Until everything on the way is full.
    std::thread::sleep(Duration::from_millis(500));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: kill(2) of a child that has not been waited for.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
    }
    let code = wait(&mut child);
    drop(source.kill());
    drop(source.wait());
    assert_eq!(code, Some(125));
    assert_eq!(prepared.guest.last_record()["error"]["code"], "interrupted");
    support::eventually("the command is told to end", || prepared.guest.path("told").exists());
}
