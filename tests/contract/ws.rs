//! banger-ws without a guest: what it says of a checkout, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::support;

fn ws(dir: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.args(args).current_dir(dir);
    support::run(&mut command, input)
}

fn git(dir: &Path, args: &[&str]) {
    let mut command = support::command("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args);
    let output = support::run(&mut command, b"");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn repo() -> Option<tempfile::TempDir> {
    if !support::require("contract", support::has("git"), "git is not installed") {
        return None;
    }
    let temp = tempfile::tempdir().unwrap();
    git(temp.path(), &["init", "-q", "-b", "main"]);
    Some(temp)
}

#[test]
fn inspect_says_what_would_travel_and_touches_nothing() {
    let Some(repo) = repo() else { return };
    let dir = repo.path();
    for (name, text) in [("a", "12345"), ("b\nc", "x"), ("gone", "y")] {
        fs::write(dir.join(name), text).unwrap();
    }
    git(dir, &["add", "-A"]);
    // Filters, fsmonitor and hooks of the checkout must not run.
    let marker = dir.join("ran");
    let touch = format!("touch '{}'; cat", marker.display());
    fs::write(dir.join(".gitattributes"), "* filter=evil\n").unwrap();
    for key in ["filter.evil.clean", "filter.evil.smudge", "core.fsmonitor"] {
        git(dir, &["config", key, &touch]);
    }
    fs::remove_file(dir.join("gone")).unwrap();
    fs::write(dir.join("a"), "54321").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/untracked"), "z").unwrap();
    let index = fs::read(dir.join(".git/index")).unwrap();

    let output = ws(&dir.join("sub"), &["inspect", "--files"], b"");
    let record = support::record(&output);
    assert_eq!(record["schema"], "banger.checkout/1");
    assert_eq!(record["root"], dir.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(record["branch"], "main");
    assert_eq!(record["head_commit"], json!(null), "unborn");
    // git reads the others by the attributes, so they travel, tracked or not.
    assert_eq!(record["files"], json!([".gitattributes", "a", "b\nc"]));
    assert_eq!(
        (&record["file_count"], &record["size_bytes"], &record["dirty"]),
        (&json!(3), &json!(20), &json!(true))
    );
    assert_eq!(record["untracked_count"], 2);
    let output = ws(dir, &["run", "--dry-run", "--null", "--include-untracked"], b"");
    assert_eq!(output.stdout, b".gitattributes\0a\0b\nc\0sub/untracked\0");
    assert!(!marker.exists(), "a program of the checkout's ran");
    assert_eq!(fs::read(dir.join(".git/index")).unwrap(), index);
}

#[test]
fn what_is_no_checkout_is_refused_by_name() {
    let Some(repo) = repo() else { return };
    support::assert_error(&ws(repo.path(), &["inspect"], b""), 2, "bad-input");
    let record = support::assert_error(&ws(repo.path(), &["inspect", "nowhere"], b""), 3, "not-found");
    assert!(record["error"]["message"].as_str().unwrap().contains("nowhere"), "{record}");
    let plain = tempfile::tempdir().unwrap();
    let output = ws(plain.path(), &["inspect", "."], b"");
    let record = support::assert_error(&output, 2, "bad-input");
    assert!(
        record["error"]["message"].as_str().unwrap().contains(plain.path().to_str().unwrap()),
        "{record}"
    );
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.contains("git init") && !line.contains("rev-parse"), "{line}");
    git(plain.path(), &["init", "-q", "--bare", "bare.git"]);
    support::assert_error(&ws(plain.path(), &["inspect", "bare.git"], b""), 2, "bad-input");
    git(plain.path(), &["init", "-q", "whole"]);
    let inside = support::assert_error(&ws(plain.path(), &["inspect", "whole/.git"], b""), 2, "bad-input");
    assert!(!inside.to_string().contains("rev-parse"), "{inside}");
    let mut astray = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    astray.arg("inspect").arg(repo.path()).env("TMPDIR", plain.path().join("gone"));
    fs::write(repo.path().join("a"), "a").unwrap();
    git(repo.path(), &["add", "a"]);
    let error = support::assert_error(&support::run(&mut astray, b""), 1, "failed");
    assert_eq!(error["error"]["causes"], json!(["No such file or directory (os error 2)"]), "{error}");
}

#[test]
fn an_interrupted_look_at_a_checkout_leaves_nothing() {
    let Some(repo) = repo() else { return };
    fs::write(repo.path().join("a"), "a").unwrap();
    git(repo.path(), &["add", "a"]);
    let (bin, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (waits, real) = (bin.path().join("waits"), which::which("git").unwrap());
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *rev-parse*|*config*) exec {real:?} \"$@\";; esac\n: >{waits:?}\nexec sleep 100\n"
    );
    fs::write(bin.path().join("git"), script).unwrap();
    fs::set_permissions(bin.path().join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut inspect = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    inspect.arg("inspect").arg(repo.path()).env("PATH", path).env("TMPDIR", scratch.path()).process_group(0);
    let child = inspect.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    support::eventually("git runs", || waits.exists());
    // As Ctrl-C does, and banger.
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    support::assert_error(&child.wait_with_output().unwrap(), 1, "interrupted");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn bad_input_of_run_and_exec_is_a_failure_of_our_own() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let error = br#"{"schema":"banger.error/1","error":{"code":"busy","message":"m","retry":true,"tool":"t","verb":"v"}}"#;
    for (verb, own) in [
        ("prepare", false),
        ("export", false),
        ("fetch", false),
        ("status", false),
        ("run", true),
        ("exec", true),
    ] {
        let arguments: &[&str] = match verb {
            "run" | "exec" => &[verb, "--record", "r.json", "--", "true"],
            "export" => &[verb, "--output", "p", "--record", "r.json"],
            "fetch" => &[verb, "--format", "mbox", "--output", "p", "--record", "r.json"],
            _ => &[verb],
        };
        for (input, code, status) in [
            (&b""[..], "no-input", 2),
            (b"{", "bad-input", 2),
            (b"{\"schema\":\"banger.vm/9\"}", "unsupported-schema", 2),
            (b"{\"schema\":\"banger.vm/1\"}", "bad-input", 2),
            (error, "busy", 4),
        ] {
            let output = ws(dir, arguments, input);
            let status = if own { 125 } else { status };
            assert_eq!(output.status.code(), Some(status), "{verb} {code}");
            let in_file = arguments.contains(&"r.json");
            let bytes = if in_file { fs::read(dir.join("r.json")).unwrap() } else { output.stdout.clone() };
            let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(record["error"]["code"], code, "{verb}");
            assert!(!in_file || output.stdout.is_empty(), "stdout is the command's or the patch's");
        }
    }
    assert!(!dir.join("p").exists());
}

#[test]
fn gc_removes_what_killed_transfers_left() {
    let temp = tempfile::tempdir().unwrap();
    let vm = temp.path().join("vms/0123456789ab");
    fs::create_dir_all(vm.join("ws-x/objects")).unwrap();
    fs::create_dir_all(temp.path().join("locks")).unwrap();
    let fetch = temp.path().join("fetch");
    fs::create_dir_all(fetch.join("0123456789ab-x/git")).unwrap();
    fs::create_dir_all(fetch.join("another")).unwrap();
    fs::write(vm.join("host_key"), "").unwrap();
    let state = temp.path().to_str().unwrap();
    let record = support::record(&ws(temp.path(), &["gc", "--state-dir", state], b""));
    assert_eq!(record["removed"].as_array().unwrap().len(), 2, "{record}");
    assert!(!fetch.join("0123456789ab-x").exists() && fetch.join("another").exists());
    assert!(!vm.join("ws-x").exists() && vm.join("host_key").exists());
    let record = support::record(&ws(temp.path(), &["version"], b""));
    assert_eq!(record["tool"], "banger-ws");
}

#[test]
fn inspect_says_what_is_special_about_a_checkout() {
    let Some(repo) = repo() else { return };
    let dir = repo.path();
    let inner = tempfile::tempdir().unwrap();
    git(inner.path(), &["init", "-q", "-b", "main"]);
    git(inner.path(), &["commit", "-q", "--allow-empty", "-m", "inner"]);
    for path in ["here", "empty"] {
        let from = inner.path().to_str().unwrap();
        git(dir, &["-c", "protocol.file.allow=always", "submodule", "add", "-q", from, path]);
    }
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 5\n", 7);
    for (name, text) in
        [("a", pointer.as_str()), ("b", "version https://git-lfs.github.com/spec/v2\n"), ("c", "x")]
    {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::write(dir.join(".gitattributes"), "a filter=lfs\n").unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "all"]);
    git(dir, &["submodule", "deinit", "-q", "-f", "empty"]);
    fs::write(dir.join("c"), "y").unwrap();
    fs::write(dir.join("loose"), "z").unwrap();

    let output = ws(dir, &["prepare", "--dry-run", "--mode", "shallow"], b"");
    let record = support::record(&output);
    assert_eq!(record["mode"], "shallow");
    assert_eq!(record["lfs_pointer_count"], 1);
    assert_eq!(record["submodule_count"], 2);
    let head = &record["submodules"][1]["head_commit"];
    assert!(head.is_string(), "{record}");
    assert_eq!(
        record["submodules"],
        json!([
            {"path": "empty", "head_commit": null, "changed_count": 0},
            {"path": "here", "head_commit": head, "changed_count": 0}
        ])
    );
    // For people, beside it.
    let text = String::from_utf8(output.stderr).unwrap();
    for part in [
        dir.canonicalize().unwrap().to_str().unwrap(),
        "(main)",
        "one commit of history",
        "1 file changed",
        "empty (not checked out)",
        "1 untracked file stays behind",
        "1 file is a Git LFS pointer",
        "1 submodule is not checked out",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(ws(dir, &["inspect"], b"").stderr.is_empty());
}

#[test]
fn a_checkout_of_somebody_else_is_refused_with_a_way_out() {
    let Some(repo) = repo() else { return };
    if !support::require("contract", support::is_root(), "giving a checkout to another user needs root") {
        return;
    }
    std::os::unix::fs::chown(repo.path(), Some(12345), Some(12345)).unwrap();
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.arg("inspect").arg(repo.path()).env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("SUDO_UID");
    let record = support::assert_error(&support::run(&mut command, b""), 2, "bad-input");
    assert!(record["error"]["hint"].as_str().unwrap().contains("safe.directory"), "{record}");
}
