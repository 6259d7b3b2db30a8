//! What makes a program a VMM stage: one suite (tests/stage/vmm) for `banger-fc`, for `banger-qemu`, and for a stage in shell, with
//! which banger works as with its own. The tier `vm` runs the same suite on real VMMs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::firecracker::stage::{ACCEL, Stage};
use crate::support::{self, disk::Bench};
use crate::vmm::world::World;

const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stage/vmm");
const SHELL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fakes/shell/banger-qemu");

fn has_tools() -> bool {
    let missing: Vec<_> = ["jq", "flock", "bash"].into_iter().filter(|tool| !support::has(tool)).collect();
    support::require("host", missing.is_empty(), &format!("these are not installed: {missing:?}"))
}

/// Runs the suite on `program`, with `path` before PATH.
fn suite(program: &str, record: &Value, path: &Path, arguments: &[&str]) -> Output {
    let dir = Path::new(record["vm"]["paths"]["dir"].as_str().unwrap());
    let file = dir.join("record.json");
    fs::write(&file, record.to_string()).unwrap();
    fs::write(dir.ancestors().nth(2).unwrap().join("state_id"), "89abcdef\n").unwrap();
    let mut suite = support::command(SUITE);
    suite.arg(program).arg(&file).args(arguments).env_remove("BANGER_LOCK_FD");
    suite.env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default()));
    support::run(&mut suite, b"")
}

/// The suite holds for `program`.
#[track_caller]
fn assert_stage(program: &str, record: &Value, path: &Path, arguments: &[&str]) {
    let output = suite(program, record, path, arguments);
    assert!(output.status.success(), "{}", said(&output));
    let held = String::from_utf8_lossy(&output.stdout);
    assert_eq!(held.lines().filter(|line| line.starts_with("ok: ")).count(), 8, "{held}");
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn banger_fc_is_a_vmm_stage() {
    if !has_tools() {
        return;
    }
    let stage = Stage::new(&[]);
    assert_stage(env!("CARGO_BIN_EXE_banger-fc"), &stage.record, &stage.bin(), &[ACCEL, "kvm"]);
    assert!(stage.processes().is_empty(), "{:?}", stage.processes());
}

#[test]
fn banger_qemu_is_a_vmm_stage() {
    if !has_tools() {
        return;
    }
    let world = World::new("");
    assert_stage(env!("CARGO_BIN_EXE_banger-qemu"), &world.record(), &world.bin(), &[ACCEL, "tcg"]);
    world.assert_clean();
}

#[test]
fn a_stage_in_shell_is_a_vmm_stage() {
    if !has_tools() {
        return;
    }
    let stage = Stage::new(&[]);
    assert_stage(SHELL, &stage.record, &stage.bin(), &[]);
    assert!(stage.processes().is_empty(), "{:?}", stage.processes());
}

/// The suite sees what a stage does wrong.
#[test]
fn what_lies_is_no_vmm_stage() {
    if !has_tools() {
        return;
    }
    let stage = Stage::new(&[]);
    let liar = stage.bin().join("liar");
    fs::copy(SHELL, &liar).unwrap();
    let honest = fs::read_to_string(&liar).unwrap();
    for (truth, lie) in [("changed=true", "changed=false"), ("signal: ($status - 128)", "signal: null")] {
        assert!(honest.contains(truth));
        fs::write(&liar, honest.replace(truth, lie)).unwrap();
        let output = suite(liar.to_str().unwrap(), &stage.record, &stage.bin(), &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("FAILED: "), "{}", said(&output));
        drop(stage.run(&["kill"], &stage.record));
    }
}

/// banger with a state directory and an image that does not boot, whose VMs are processes of a stage in shell.
pub struct ShellWorld {
    pub bench: Bench,
    bin: PathBuf,
}

impl ShellWorld {
    /// `None` where the tools of the stage are missing.
    pub fn new() -> Option<Self> {
        if !has_tools() {
            return None;
        }
        let bench = Bench::new();
        // banger's own programs are those beside it.
        let bin = bench.temp.path().join("bin");
        fs::create_dir(&bin).unwrap();
        support::link_programs(&bin, &["banger", "banger-netd", "banger-disk", "banger-fc", "banger-ws"]);
        fs::copy(SHELL, bin.join("banger-qemu")).unwrap();
        fs::set_permissions(bin.join("banger-qemu"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { bench, bin })
    }

    /// `banger` with `arguments`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut banger = support::command(self.bin.join("banger"));
        banger.args(arguments).env("BANGER_STATE_DIR", self.bench.state()).env("HOME", self.bench.state());
        banger.env_remove("BANGER_LOCK_FD").env_remove("SUDO_UID");
        banger
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        support::run(&mut self.command(arguments), b"")
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        output
    }
}

#[test]
fn banger_works_with_a_stage_in_shell() {
    let Some(world) = ShellWorld::new() else { return };
    let (bench, banger) = (&world.bench, |arguments: &[&str]| world.ok(arguments));
    let shown = || support::record(&banger(&["vm", "show", "dev1", "--json"]))["vmm"].clone();
    banger(&["vm", "create", "dev1", "--net", "user", "--vmm", "qemu"]);
    banger(&["vm", "start", "dev1"]);
    let running = shown();
    assert_eq!((&running["state"], &running["version"]), (&"running".into(), &"sh".into()), "{running}");
    banger(&["vm", "start", "dev1"]);
    assert_eq!(shown()["pid"], running["pid"]);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(support::soon(|| shown()["state"] == "exited"), "{}", shown());
    assert_eq!(shown()["exit"]["signal"], 9);
    banger(&["vm", "start", "dev1"]);
    banger(&["vm", "stop", "dev1"]);
    assert_eq!(shown(), Value::Null);
    banger(&["vm", "start", "dev1"]);
    banger(&["vm", "delete", "--force", "dev1"]);
    assert!(fs::read_dir(bench.state().join("vms")).unwrap().next().is_none());
}
