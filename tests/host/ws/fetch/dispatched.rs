//! What a person sees of it: `banger vm fetch`, of a VM that runs as far as banger can tell.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use super::super::guest::{ID, said};
use super::{COMMITS, World, line};
use crate::support;

struct Running {
    world: World,
    state: tempfile::TempDir,
    _lock: fs::File,
}

impl Running {
    /// A VM of banger's own, `dev1`, whose sshd and whose workspace are those of a [`World`].
    fn new() -> Option<Self> {
        let world = World::new()?;
        let state = support::state_with_fake_image();
        let mut create = support::command(env!("CARGO_BIN_EXE_banger"));
        create
            .args(["--json", "vm", "create", "dev1", "--net", "user"])
            .env("BANGER_STATE_DIR", state.path());
        let record = support::record(&support::run(&mut create, b""));
        let dir = PathBuf::from(record["vm"]["paths"]["dir"].as_str().unwrap());
        fs::create_dir_all(state.path().join("ssh")).unwrap();
        for name in ["id_ed25519", "id_ed25519.pub"] {
            fs::copy(world.guest.path("state/ssh").join(name), state.path().join("ssh").join(name)).unwrap();
        }
        for name in ["host_key", "host_key.pub"] {
            fs::copy(world.guest.path("state/vms").join(ID).join(name), dir.join(name)).unwrap();
        }
        let disk = json!({
            "backend": "overlay", "backend_reason": "", "root_device": "", "root_read_only": true, "upper_device": null,
            "work_device": "", "kernel": "", "kernel_elf": "", "initrd": ""
        });
        let handles = json!({
            "net": world.record["net"], "disk": disk, "vmm": null, "workspace": world.record["workspace"]
        });
        fs::write(dir.join("handles.json"), handles.to_string()).unwrap();
        let lock = fs::File::create(dir.join("run.lock")).unwrap();
        lock.lock().unwrap();
        Some(Self { world, state, _lock: lock })
    }

    fn banger(&self, args: &[&str]) -> Output {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger"));
        command.args(args).env("BANGER_STATE_DIR", self.state.path());
        support::run(&mut command, b"")
    }

    #[track_caller]
    fn says(&self, args: &[&str], line: &str) {
        let output = self.banger(args);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("banger: {line}\n"));
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_person_is_told_in_one_line_what_came_home() {
    let Some(running) = Running::new() else { return };
    let (world, fetch) = (&running.world, ["vm", "fetch", "dev1"]);
    running.says(&fetch, "no commits of the guest's own");
    running.says(&[&fetch[..], &["--format", "mbox"]].concat(), "no commits of the guest's own");
    world.inside(COMMITS);
    running.says(&fetch, "3 commits in banger/dev1/main (git log main..banger/dev1/main)");
    running.says(&fetch, "banger/dev1/main is up to date");
    let record = support::record(&running.banger(&["--json", "vm", "fetch", "dev1", "--as", "mine"]));
    let tip = line(&world.repo, &["rev-parse", "mine"]);
    assert_eq!(record["result"], json!({"changed": true, "branch": "mine", "commit": tip, "commits": 3}));
    let steps: Vec<&Value> = record["timings"].as_array().unwrap().iter().map(|t| &t["step"]).collect();
    assert_eq!(steps, ["refs", "receive", "verify", "pack", "place"]);
    let output = running.banger(&[&fetch[..], &["--format", "mbox"]].concat());
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{}", said(&output));
    assert!(output.stdout.starts_with(b"From ") && output.stdout.ends_with(b"\n"));
    // A failure is told once, with what to do about it.
    let output = running.banger(&[&fetch[..], &["--as", "main"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("\"main\" is checked out at") && told.contains("--as BRANCH"), "{told}");
    let output = running.banger(&[&fetch[..], &["--max-size", "1K"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.lines().count()), (Some(0), 1), "it has them: {told}");
    world.inside("head -c 9999 /dev/urandom >more; git add more; git commit -qm more");
    let output = running.banger(&[&fetch[..], &["--max-size", "1K"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("more than 1024 bytes; allow more: --max-size"), "{told}");
    world.assert_sound();
}
