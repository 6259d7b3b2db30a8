//! The same VM by hand: each stage a program of its own, and the inverse pipeline.

use serde_json::Value;

use crate::home::{Home, said};
use crate::support;

fn stage(home: &Home, program: &str, args: &[&str], input: &Value) -> Value {
    let output = support::run(&mut home.program(program, args), input.to_string().as_bytes());
    assert!(output.status.success(), "{program} {args:?}: {}", said(&output));
    support::record(&output)
}

#[test]
fn every_stage_works_alone_in_a_pipe() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let plan = support::record(&home.run(&["vm", "plan", "dev1", "--image", "debian"]));
    let net = stage(&home, "banger-netd", &["attach"], &plan);
    let disk = stage(&home, "banger-disk", &["attach"], &net);
    let started = stage(&home, "banger-qemu", &["start"], &disk);
    assert_eq!(started["vmm"]["state"], "running");
    assert_eq!(
        stage(&home, "banger-qemu", &["start"], &disk)["result"]["changed"],
        false,
        "a second start changes nothing"
    );

    let prepared = stage(&home, "banger-ws", &["prepare", "--repo", repo.to_str().unwrap()], &started);
    assert_eq!(prepared["workspace"]["guest_path"], "/root/repo");
    let mut export = home.program("banger-ws", &["export", "--output", "none.patch"]);
    let exported = support::run(&mut export, prepared.to_string().as_bytes());
    assert_eq!(support::record(&exported)["result"]["changed"], false, "{}", said(&exported));

    // What `vm show` prints is as good an input as what the stages printed.
    let shown = support::record(&home.run(&["vm", "show", "dev1", "--record"]));
    let stopped = stage(&home, "banger-qemu", &["stop"], &shown);
    let detached = stage(&home, "banger-disk", &["detach"], &stopped);
    let done = stage(&home, "banger-netd", &["detach"], &detached);
    assert!(done["net"].is_null() && done["disk"].is_null(), "{done}");
    assert_eq!(stage(&home, "banger-netd", &["detach"], &done)["result"]["changed"], false);
    assert!(home.run(&["vm", "delete", "dev1"]).status.success());
    home.assert_clean();
}

/// The suite that fakes pass as well, with a real guest.
#[test]
fn banger_qemu_is_a_vmm_stage() {
    let Some(home) = Home::new() else { return };
    let plan = support::record(&home.run(&["vm", "plan", "dev1", "--image", "debian", "--memory", "512M"]));
    let net = stage(&home, "banger-netd", &["attach"], &plan);
    let disk = stage(&home, "banger-disk", &["attach"], &net);
    // A VM of which no database knows, so that gc can be told that it is not to stay.
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        drop(std::fs::remove_file(home.state().join(name)));
    }
    std::fs::write(home.path("record"), disk.to_string()).unwrap();
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stage/vmm");
    let mut suite = support::command(suite);
    suite.arg(env!("CARGO_BIN_EXE_banger-qemu")).arg(home.path("record"));
    let output = support::run(&mut suite, b"");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 8, "{}", said(&output));
    let detached = stage(&home, "banger-disk", &["detach"], &disk);
    stage(&home, "banger-netd", &["detach"], &detached);
    let id = plan["vm"]["id"].as_str().unwrap();
    std::fs::remove_dir_all(home.state().join("vms").join(id)).unwrap();
    std::fs::remove_file(home.state().join(format!("locks/vm-{id}.lock"))).unwrap();
    home.assert_clean();
}

#[test]
fn a_pipeline_fails_as_its_first_stage_did() {
    let Some(home) = Home::new() else { return };
    let failed = home.run(&["vm", "plan", "dev1", "--image", "nope"]);
    let first = support::assert_error(&failed, 3, "not-found");
    let mut input = failed.stdout;
    for (program, verb) in [("banger-netd", "attach"), ("banger-disk", "attach"), ("banger-qemu", "start")] {
        let output = support::run(&mut home.program(program, &[verb]), &input);
        assert_eq!(support::assert_error(&output, 3, "not-found"), first, "{program}");
        assert_eq!(output.stderr, b"", "it was told once");
        input = output.stdout;
    }
}
