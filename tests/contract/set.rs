//! `vm set` of a VM that runs, where one of its stages fails.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::disk::Bench;
use crate::support::{self, assert_error, record};

/// A QEMU that runs no guest.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fakes/qemu/qemu-system-x86_64");

struct World(Bench);

impl World {
    /// A VM that runs.
    fn new() -> Self {
        let world = Self(Bench::new());
        fs::create_dir(world.bin()).unwrap();
        std::os::unix::fs::symlink(FAKE, world.bin().join("qemu-system-x86_64")).unwrap();
        fs::write(world.bin().join("mode"), "").unwrap();
        for args in
            [&["vm", "create", "dev1", "--net", "user", "--vmm", "qemu"][..], &["vm", "start", "dev1"]]
        {
            let output = world.banger(args);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        world
    }

    fn bin(&self) -> std::path::PathBuf {
        self.0.state().join("bin")
    }

    fn banger(&self, args: &[&str]) -> Output {
        let path = format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap());
        let mut banger = support::command(env!("CARGO_BIN_EXE_banger"));
        banger.args(args).env("PATH", path).env("HOME", self.0.state()).env_remove("BANGER_LOCK_FD");
        support::run(banger.env("BANGER_STATE_DIR", self.0.state()), b"")
    }

    fn set(&self, args: &[&str]) -> Output {
        self.banger(&[&["vm", "set", "dev1", "--json"], args].concat())
    }

    fn shown(&self) -> Value {
        record(&self.banger(&["vm", "show", "dev1", "--json"]))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let deleted = self.banger(&["vm", "delete", "--force", "dev1"]);
        assert!(std::thread::panicking() || deleted.status.success(), "{deleted:?}");
    }
}

#[test]
fn what_took_effect_before_a_failure_is_recorded_and_told() {
    let world = World::new();
    let before = world.shown();
    // The disk grows, its limit is set, and QEMU cannot limit the network.
    let output = world.set(&["--work-size", "3G", "--disk-rate", "5M", "--net-rate", "1M"]);
    let error = assert_error(&output, 5, "unsupported");
    assert_eq!(error["error"]["details"]["changed"], json!(["--work-size"]), "{error}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("--work-size took effect before that"), "{told}");
    let after = world.shown();
    let mut wanted = before["vm"].clone();
    wanted["work_size_bytes"] = json!(3u64 << 30);
    assert_eq!(after["vm"], wanted);
    let work = after["disk"]["work_device"].as_str().unwrap();
    assert_eq!(Path::new(work).metadata().unwrap().len(), 3 << 30);
    // The stage that failed has taken back what it had done.
    assert_eq!(after["vmm"], before["vmm"]);
    let asked = fs::read_to_string(world.bin().join("qmp")).unwrap();
    let rates: Vec<Value> = asked
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|asked| asked["execute"] == "block_set_io_throttle" && asked["arguments"]["device"] == "work")
        .map(|asked| asked["arguments"]["bps"].clone())
        .collect();
    assert_eq!(rates, [json!(5 << 20), json!(0)], "{asked}");
    // The rest can be had by itself.
    let set = record(&world.set(&["--disk-rate", "5M"]));
    assert_eq!(set["vmm"]["disk_rate_bytes_s"], 5 << 20, "{set}");
}

#[test]
fn what_fails_at_once_changes_nothing_and_says_nothing_else() {
    let world = World::new();
    let before = world.shown();
    let output = world.set(&["--net-rate", "1M"]);
    let error = assert_error(&output, 5, "unsupported");
    assert_eq!(error["error"]["details"].get("changed"), None, "{error}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("took effect"), "{output:?}");
    assert_eq!(world.shown(), before);
}
