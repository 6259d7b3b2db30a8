//! What stands on stdout, and what is said where it cannot.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::support::{self, assert_error, command, record, run};

fn banger(state: &Path, args: &[&str]) -> Command {
    let mut banger = command(env!("CARGO_BIN_EXE_banger"));
    banger.args(args).env("BANGER_STATE_DIR", state).env_remove("BANGER_LOCK_FD");
    banger
}

fn to(stdout: impl Into<Stdio>, mut command: Command) -> Output {
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

#[test]
fn what_does_not_arrive_is_told_unless_nobody_reads() {
    let state = support::state_with_fake_image();
    assert!(run(&mut banger(state.path(), &["vm", "create", "--net", "user", "one"]), b"").status.success());
    let dir = std::fs::read_dir(state.path().join("vms")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(dir.join("console.log"), "[    0.0] Linux\nno newline").unwrap();
    let commands = || {
        let verbs: [&[&str]; 7] = [
            &["ps"],
            &["ps", "--json"],
            &["image", "ls"],
            &["config", "show"],
            &["vm", "stats"],
            &["vm", "logs", "one"],
            &["completion", "bash"],
        ];
        let mut version = command(env!("CARGO_BIN_EXE_banger-netd"));
        version.arg("version");
        verbs.map(|args| banger(state.path(), args)).into_iter().chain([version])
    };
    for command in commands() {
        let shown = format!("{command:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = to(full, command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{shown}: {said}");
        let told = said.contains(": cannot write to stdout: No space left on device");
        assert!(told && said.lines().count() == 1, "{shown}: {said}");
    }
    for command in commands() {
        let shown = format!("{command:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = to(writer, command);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]), "{shown}");
    }
}

#[test]
fn deleting_gives_a_record_of_what_went() {
    let state = support::state_with_fake_image();
    for name in ["one", "two"] {
        let made = run(&mut banger(state.path(), &["vm", "create", "--net", "user", name]), b"");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let gone = record(&run(&mut banger(state.path(), &["vm", "delete", "one", "two", "--json"]), b""));
    let wanted =
        json!({ "schema": "banger.gc/1", "tool": "banger", "removed": ["one", "two"], "errors": [] });
    assert_eq!(gone, wanted);
}

#[test]
fn a_patch_and_a_record_do_not_share_stdout() {
    let state = support::state_with_fake_image();
    for args in [&["vm", "run"][..], &["vm", "exec", "any"]] {
        let args = [args, &["--json", "--patch", "-", "--", "true"]].concat();
        assert_error(&run(&mut banger(state.path(), &args), b""), 125, "usage");
    }
}
