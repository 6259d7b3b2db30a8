//! Real Firecracker. A host may have no hardware virtualization, so this runs in a virtual machine of our own, whose emulated
//! processor has AMD's: banger in a VM of banger's.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::home::{self, BANGER, Home, assert_counted, said};
use crate::support;

/// What runs there.
const INSIDE: &str = include_str!("firecracker/inside.sh");
/// What every VMM stage passes.
const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stage/vmm");
/// What the image in which it runs must have beside the default.
const TOOLS: [&str; 4] = ["jq", "kmod", "mount", "nftables"];
/// The programs that go there.
const PROGRAMS: [&str; 6] = ["banger", "banger-netd", "banger-disk", "banger-fc", "banger-qemu", "banger-ws"];

/// The Firecracker that the caller names. None comes with banger, and nothing here fetches or builds one.
fn firecracker() -> Option<PathBuf> {
    let path = std::env::var_os("BANGER_TEST_FIRECRACKER").filter(|path| !path.is_empty());
    let reason =
        "BANGER_TEST_FIRECRACKER names no Firecracker: set it to the path of a static one, 1.14 or newer";
    if !support::require("firecracker", path.is_some(), reason) {
        return None;
    }
    let path = PathBuf::from(path?);
    assert!(path.is_file(), "BANGER_TEST_FIRECRACKER is {path:?}, and there is no such file");
    Some(path)
}

fn copy(from: &Path, to: &Path) {
    let copied = support::command("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp {from:?} {to:?}");
}

/// The image `nested`: `tools`, with a work seed that holds the programs, Firecracker, an image and the script.
fn add_image(home: &Home, firecracker: &Path) {
    let (tools, nested) = (home::prepared().join("images/tools"), home.state().join("images/nested"));
    let manifest = fs::read_to_string(tools.join("manifest.json")).unwrap();
    for package in TOOLS {
        assert!(
            manifest.contains(&format!("\"{package}\"")),
            "the image tools is older than this test and lacks {package}: delete {tools:?} and use tests/run"
        );
    }
    fs::create_dir(&nested).unwrap();
    for file in ["rootfs.ext4", "vmlinuz", "vmlinux", "initrd.cpio", "upper-seed.ext4", "manifest.json"] {
        std::os::unix::fs::symlink(tools.join(file), nested.join(file)).unwrap();
    }
    let seed = home.path("seed");
    let (bin, image) = (seed.join("nested/bin"), seed.join("nested/state/images/debian"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&image).unwrap();
    for program in PROGRAMS {
        let from = Path::new(BANGER).with_file_name(program);
        let stripped = support::command("strip").arg("-o").arg(bin.join(program)).arg(&from).status();
        if !stripped.is_ok_and(|status| status.success()) {
            copy(&from, &bin.join(program));
        }
    }
    copy(firecracker, &bin.join("firecracker"));
    for entry in fs::read_dir(home::prepared().join("images/debian")).unwrap().flatten() {
        copy(&entry.path(), &image.join(entry.file_name()));
    }
    fs::write(seed.join("nested/inside.sh"), INSIDE).unwrap();
    copy(Path::new(SUITE), &seed.join("nested/stage-suite"));
    let disk = nested.join("work-seed.ext4");
    fs::File::create(&disk).unwrap().set_len(8 << 30).unwrap();
    let mut mke2fs = support::command(support::disk::mke2fs());
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"]);
    mke2fs.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "-d"]);
    let output = support::run(mke2fs.args([&seed, &disk]), b"");
    assert!(output.status.success(), "{}", said(&output));
    fs::remove_dir_all(seed).unwrap();
}

/// The records that the script printed, by name.
fn records(seen: &str) -> HashMap<&str, Value> {
    let lines = seen.lines().filter_map(|line| line.strip_prefix("json: ")?.split_once(' '));
    lines.map(|(name, json)| (name, serde_json::from_str(json).expect(json))).collect()
}

#[test]
fn banger_on_real_firecracker() {
    let Some(firecracker) = firecracker() else { return };
    let Some(home) = Home::with_image("debian") else { return };
    let reason = "BANGER_TEST_DIR names no state directory with the image tools: use tests/run";
    if !support::require("vm", home::prepared().join("images/tools/manifest.json").exists(), reason) {
        return;
    }
    add_image(&home, &firecracker);
    let repo = home.repo("repo");
    let begun = Instant::now();
    let run = ["vm", "run", "--rm", "--image", "nested", "--memory", "3G", "--vmm", "qemu"];
    let output =
        home.run(&[&run[..], &[repo.to_str().unwrap(), "--", "sh", "/root/nested/inside.sh"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let seen = String::from_utf8_lossy(&output.stdout);
    for line in seen.lines().filter(|line| line.starts_with("seen: ") || line.starts_with("took: ")) {
        support::tell(line);
    }
    support::tell(&format!("took: {:.1} in all", begun.elapsed().as_secs_f64()));
    assert_eq!(seen.lines().filter(|line| line.starts_with("seen: ")).count(), SEEN, "{seen}");
    judge(&records(&seen));
    home.assert_clean();
}

/// How many things the script sees.
const SEEN: usize = 9;

/// What the records of the VM on Firecracker say.
fn judge(records: &HashMap<&str, Value>) {
    let run = &records["run"];
    assert_eq!(run["vmm"]["kind"], "firecracker", "{run}");
    assert_eq!((&run["vmm"]["accel"], &run["disk"]["backend"]), (&"kvm".into(), &"dm".into()), "{run}");
    let steps: Vec<_> =
        run["timings"].as_array().unwrap().iter().filter_map(|timing| timing["step"].as_str()).collect();
    for step in ["spawn", "boot", "kernel", "initramfs", "disks", "network", "sshd", "ready"] {
        assert!(steps.contains(&step), "{step}: {steps:?}");
    }
    let usage = &records["stats"]["items"][0];
    assert_counted(usage);
    let disks = usage["disks"].as_array().expect("Firecracker counts");
    let root = disks.iter().find(|disk| disk["drive"] == "root").expect("a root");
    assert!(root["read_bytes"].as_u64().unwrap() > 10 << 20, "{usage}");
    let set = &records["set"]["vmm"];
    assert_eq!(
        (&set["disk_rate_bytes_s"], &set["net_rate_bytes_s"]),
        (&(200 << 20).into(), &(100 << 20).into())
    );
    assert!(set["expires_at"].is_string(), "{set}");
    let uptime = Duration::from_micros(usage["guest"]["uptime_us"].as_u64().unwrap());
    assert!(uptime > Duration::from_secs(1), "{usage}");
    let ports = records["ports"]["items"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["port"] == 22), "{ports:?}");
    assert_eq!(records["health"]["vmm"]["agent_reachable"], true, "{}", records["health"]);
    assert_eq!(records["ps"]["items"][0]["vmm"]["state"], "running", "{}", records["ps"]);
}
