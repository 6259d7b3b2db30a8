//! The command in the guest: streams, statuses, signals.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use serde_json::{Value, json};

use super::guest::{Guest, git, said};
use crate::support;

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
fn a_signal_ends_the_wait_for_a_command() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let path = guest.path("guest");
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.args(["run", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()]);
    let script = "trap 'echo x > ../told; exit' TERM; echo begun; sleep 60 & wait";
    command.args(["--record", "r.json", "--", "sh", "-c", script]).current_dir(guest.path(""));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, guest.record().to_string().as_bytes()).unwrap();
    drop(stdin);
    // What the command says comes here behind the word that it runs.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    // SAFETY: kill(2) of a child that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(support::wait(&mut child), Some(125));
    let record = guest.last_record();
    assert_eq!(record["error"]["code"], "interrupted", "{record}");
    assert_eq!(record["error"]["details"]["command_ran"], true);
    support::eventually("the command is told to end", || guest.path("told").exists());
}
