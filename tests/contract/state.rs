//! The state directory through the programs: empty, newer, damaged, two side by side.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use crate::support::{self, assert_error, command, record, run};

fn banger(state: &Path, args: &[&str]) -> Output {
    run(command(env!("CARGO_BIN_EXE_banger")).args(args).env("BANGER_STATE_DIR", state), b"")
}

#[test]
fn looking_at_nothing_makes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let state = temp.path().join("state");
    let list = record(&banger(&state, &["ps", "--json"]));
    assert_eq!(list, serde_json::json!({"schema": "banger.vms/1", "items": []}));
    assert_error(&banger(&state, &["vm", "show", "x", "--json"]), 3, "not-found");
    assert!(banger(&state, &["gc"]).status.success());
    assert!(!state.exists());
}

#[test]
fn gc_removes_what_a_killed_build_left_before_there_was_any_vm() {
    let temp = tempfile::tempdir().unwrap();
    let left = temp.path().join("images/.tmp-abcdef");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::create_dir(temp.path().join("locks")).unwrap();
    std::fs::write(left.join("rootfs.ext4"), "half").unwrap();
    let report = record(&banger(temp.path(), &["gc", "--json"]));
    assert_eq!(report["removed"], serde_json::json!([left]), "{report}");
    assert!(!left.exists());
}

#[test]
fn gc_removes_the_locks_of_vms_that_never_came_to_be() {
    let state = support::state_with_fake_image();
    let made = banger(state.path(), &["vm", "plan", "--net", "user", "stays"]);
    let id = record(&made)["vm"]["id"].as_str().unwrap().to_owned();
    let locks = state.path().join("locks");
    let write = |name: &str, text: &str| std::fs::write(locks.join(name), text).unwrap();
    for name in ["run-0a1b2c3d4e5f.lock", "vm-0a1b2c3d4e5f.lock"] {
        write(name, "banger vm run (process 1)\n");
    }
    // One whose command is about to take it, one that is held, and one of a VM that is there.
    write("run-0a1b2c3d4e50.lock", "");
    write("run-0a1b2c3d4e51.lock", "banger vm run (process 1)\n");
    let held = std::fs::File::open(locks.join("run-0a1b2c3d4e51.lock")).unwrap();
    held.lock().unwrap();
    write(&format!("vm-{id}.lock"), "banger vm start (process 1)\n");
    let report = record(&banger(state.path(), &["gc", "--json"]));
    assert_eq!(report["removed"], serde_json::json!(["locks of VM 0a1b2c3d4e5f"]), "{report}");
    let left = |name: &str| locks.join(name).exists();
    assert!(!left("run-0a1b2c3d4e5f.lock") && !left("vm-0a1b2c3d4e5f.lock"));
    assert!(left("run-0a1b2c3d4e50.lock") && left("run-0a1b2c3d4e51.lock") && left(&format!("vm-{id}.lock")));
}

#[test]
fn own_failures_of_run_and_exec_are_125() {
    let temp = tempfile::tempdir().unwrap();
    let state = temp.path().join("state");
    for args in [
        &["vm", "run"][..],
        &["vm", "exec", "x", "--", "true"],
        &["vm", "run", "--frob"],
        &["vm", "run", "/", "--", "true"],
    ] {
        let output = banger(&state, args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(banger(&state, &["vm", "exec", "--help"]).status.code(), Some(0));
}

#[test]
fn a_command_without_its_dashes_is_explained() {
    let temp = tempfile::tempdir().unwrap();
    for (args, explained) in [
        (&["vm", "run", "make", "test"][..], true),
        (&["vm", "run", "."], true),
        (&["vm", "exec", "x", "make"], true),
        (&["vm", "run", "--frob", "--", "true"], false),
    ] {
        let output = banger(temp.path(), args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("goes behind --"), explained, "{args:?}: {said}");
    }
}

#[test]
fn two_state_directories_have_names_and_subnets_of_their_own() {
    let (one, two) = (support::state_with_fake_image(), support::state_with_fake_image());
    let plan = |state: &Path| record(&banger(state, &["vm", "plan", "same", "--net", "tap"]));
    let (first, second) = (plan(one.path()), plan(two.path()));
    assert_ne!(first["vm"]["state_id"], second["vm"]["state_id"]);
    assert_ne!(first["vm"]["id"], second["vm"]["id"]);
    let own = record(&banger(one.path(), &["ps", "--json"]));
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_missing_or_corrupt_handles_file_is_an_empty_one() {
    let state = support::state_with_fake_image();
    let planned = record(&banger(state.path(), &["vm", "plan", "dev1", "--net", "user"]));
    let handles = Path::new(planned["vm"]["paths"]["dir"].as_str().unwrap()).join("handles.json");
    for content in ["{\"net\":", "[]", "\0\0"] {
        std::fs::write(&handles, content).unwrap();
        let shown = record(&banger(state.path(), &["vm", "show", "dev1", "--record"]));
        assert!(shown["net"].is_null() && shown["vm"] == planned["vm"], "{shown}");
    }
    let deleted = banger(state.path(), &["vm", "delete", "dev1"]);
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    assert_eq!(std::fs::read_dir(state.path().join("vms")).unwrap().count(), 0);
}

#[test]
fn an_image_whose_file_is_gone_is_named() {
    let state = support::state_with_fake_image();
    std::fs::remove_file(state.path().join("images/debian/vmlinuz")).unwrap();
    let error = assert_error(&banger(state.path(), &["vm", "plan", "dev1"]), 3, "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("vmlinuz"), "{error}");
}

#[test]
fn a_state_directory_that_cannot_be_one_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    for verb in ["ps", "gc"] {
        let output = banger(&file, &[verb, "--json"]);
        let message = assert_error(&output, 1, "failed")["error"]["message"].to_string();
        assert!(message.contains("cannot use the state directory"), "{message}");
    }
    let odd = temp.path().join(std::ffi::OsStr::from_bytes(b"x\xff"));
    let output = banger(&odd, &["vm", "run", "--json", "/", "--", "true"]);
    assert_error(&output, 125, "usage");
    assert!(!odd.exists());
}

#[test]
fn a_damaged_database_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("state.db"), [b'x'; 4096]).unwrap();
    let error = assert_error(&banger(temp.path(), &["ps", "--json"]), 1, "failed");
    assert!(error["error"]["hint"].as_str().unwrap().contains("state.db"), "{error}");
}

#[test]
fn what_no_guest_could_be_told_is_refused_before_there_is_one() {
    let state = support::state_with_fake_image();
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    let mut run_odd = command(env!("CARGO_BIN_EXE_banger"));
    run_odd.args(["vm", "run", "--json", "/", "--"]).arg(odd).env("BANGER_STATE_DIR", state.path());
    assert_error(&run(&mut run_odd, b""), 125, "usage");
    let output = banger(state.path(), &["vm", "run", "--json", "--guest-path", "../x", "/", "--", "true"]);
    assert_error(&output, 125, "bad-input");
}
