//! State directories of earlier programs: these list what is in them, start it, run commands in it, take patches out of it and
//! delete it. `tests/fixture/make` made them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::home::{Home, prepared, said};
use crate::support;

/// How long the path of a fixture's directory is, bytes: another of this length is written over it.
const PATH_LENGTH: usize = 56;

/// What a fixture leaves out of an image and of a kernel.
const KERNEL_FILES: [&str; 3] = ["vmlinuz", "vmlinux", "initrd.cpio"];

/// An unpacked fixture.
struct Fixture<'a> {
    home: &'a Home,
    dir: PathBuf,
}

impl<'a> Fixture<'a> {
    fn unpack(home: &'a Home, archive: &Path) -> Self {
        let mut dir = home.path("upgrade").into_os_string();
        assert!(
            dir.len() < PATH_LENGTH,
            "the path of the temporary directory is too long for this test: {dir:?}"
        );
        while dir.len() < PATH_LENGTH {
            dir.push("-");
        }
        let fixture = Self { home, dir: dir.into() };
        fs::create_dir(&fixture.dir).unwrap();
        let mut tar = support::command("tar");
        tar.arg("-C").arg(&fixture.dir).args(["--strip-components=1", "-xzf"]).arg(archive);
        let output = support::run(&mut tar, b"");
        assert!(output.status.success(), "{}", said(&output));
        let old = first_member(archive);
        assert_eq!(old.len(), PATH_LENGTH, "{old}");
        write_over(&fixture.dir, old.as_bytes(), fixture.dir.as_os_str().as_bytes());
        let image = prepared().join("images/debian");
        for name in KERNEL_FILES {
            place(&image.join(name), &fixture.dir.join("state/images/debian").join(name));
            place(&image.join(name), &fixture.dir.join("state/kernels/fixture").join(name));
        }
        place(&image.join("rootfs.ext4"), &fixture.dir.join("state/images/debian/rootfs.ext4"));
        fixture
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut banger = self.home.banger(args);
        support::run(banger.env("BANGER_STATE_DIR", self.dir.join("state")), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    fn checkout(&self) -> String {
        self.dir.join("checkout").to_str().unwrap().to_owned()
    }
}

/// The path of the fixture's directory where it was made, which its archive's first member names.
fn first_member(archive: &Path) -> String {
    let output = support::run(support::command("tar").arg("-tzf").arg(archive), b"");
    let list = String::from_utf8(output.stdout).unwrap();
    format!("/tmp/{}", list.lines().next().unwrap().trim_end_matches('/'))
}

/// Writes `new` over `old`, which is as long, in all files but those of guests.
fn write_over(dir: &Path, old: &[u8], new: &[u8]) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            write_over(&path, old, new);
        } else if meta.is_file() && path.extension().is_none_or(|extension| extension != "ext4") {
            let mut bytes = fs::read(&path).unwrap();
            let places: Vec<usize> =
                bytes.windows(old.len()).enumerate().filter(|(_, w)| *w == old).map(|(at, _)| at).collect();
            if !places.is_empty() {
                places.iter().for_each(|at| bytes[*at..at + new.len()].copy_from_slice(new));
                fs::write(&path, bytes).unwrap();
            }
        }
    }
}

/// A file of the prepared image, where a file of a fixture is missing.
fn place(from: &Path, to: &Path) {
    let mut copy = support::command("cp");
    copy.args(["-L", "--preserve=mode", "--reflink=auto", "--sparse=always"]).arg(from).arg(to);
    let output = support::run(&mut copy, b"");
    assert!(output.status.success(), "{}", said(&output));
}

fn fixtures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture");
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "gz")).collect();
    found.sort();
    found
}

/// What the command in the fixture's VMs did to its copy of the checkout.
#[track_caller]
fn assert_changes(patch: &str) {
    for line in ["+kept", "+more", "deleted file mode 100755"] {
        assert!(patch.lines().any(|l| l == line), "{line}: {patch}");
    }
}

#[test]
fn a_state_directory_of_earlier_programs_is_gone_on_with() {
    let Some(home) = Home::new() else { return };
    let all = fixtures();
    assert!(!all.is_empty());
    for archive in all {
        support::tell(&archive.display().to_string());
        let fixture = Fixture::unpack(&home, &archive);
        listed(&fixture);
        stopped(&fixture);
        powercut(&fixture);
        created(&fixture);
        another(&fixture);
        deleted(&fixture);
        fs::remove_dir_all(&fixture.dir).unwrap();
        home.assert_clean();
    }
}

#[track_caller]
fn listed(fixture: &Fixture<'_>) {
    let list = fixture.json(&["ps"]);
    let states: Vec<(&str, &str)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let state = item["vmm"]["state"].as_str().unwrap_or("none");
            (item["vm"]["name"].as_str().unwrap(), state)
        })
        .collect();
    let names: Vec<&str> = states.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["created", "powercut", "stopped"], "{list}");
    assert!(states.iter().all(|(_, state)| *state != "running"), "{states:?}");
    assert_eq!(fixture.json(&["image", "show", "debian"])["missing"], Value::Array(Vec::new()));
    assert_eq!(fixture.json(&["kernel", "show", "fixture"])["missing"], Value::Array(Vec::new()));
}

/// The VM that holds work: a patch of it as it comes up, what the next command adds, and a checkout that took both.
#[track_caller]
fn stopped(fixture: &Fixture<'_>) {
    fixture.ok(&["vm", "start", "stopped"]);
    assert_eq!(fixture.ok(&["vm", "exec", "stopped", "--", "cat", "kept"]), "kept\n");
    let patch = fixture.dir.join("patch");
    fixture.ok(&["vm", "exec", "stopped", "--patch", patch.to_str().unwrap(), "--", "true"]);
    assert_changes(&fs::read_to_string(&patch).unwrap());
    assert_changes(&fixture.ok(&["vm", "diff", "stopped"]));
    fixture.ok(&["vm", "apply", "stopped"]);
    assert_eq!(fs::read_to_string(fixture.dir.join("checkout/kept")).unwrap(), "kept\n");
    fixture.ok(&["vm", "stop", "stopped"]);
}

#[track_caller]
fn powercut(fixture: &Fixture<'_>) {
    fixture.ok(&["vm", "start", "powercut"]);
    assert_eq!(fixture.ok(&["vm", "exec", "powercut", "--", "cat", "kept"]), "kept\n");
    assert_changes(&fixture.ok(&["vm", "diff", "powercut"]));
}

#[track_caller]
fn created(fixture: &Fixture<'_>) {
    fixture.ok(&["vm", "start", "created"]);
    assert_eq!(fixture.ok(&["vm", "ssh", "created", "--", "hostname"]), "created\n");
    // A copy into a VM that never had one, and a second one.
    for _ in 0..2 {
        fixture.ok(&["vm", "workspace", "prepare", "created", &fixture.checkout()]);
    }
    assert_eq!(fixture.ok(&["vm", "exec", "created", "--", "cat", "README.md"]), "hello\nmore\n");
}

/// A VM of the old image, which is made by the programs of today.
#[track_caller]
fn another(fixture: &Fixture<'_>) {
    let said = fixture.ok(&["vm", "run", "--rm", &fixture.checkout(), "--", "cat", "README.md"]);
    assert_eq!(said, "hello\nmore\n");
}

#[track_caller]
fn deleted(fixture: &Fixture<'_>) {
    for name in ["created", "powercut", "stopped"] {
        fixture.ok(&["vm", "delete", "--force", name]);
    }
    fixture.ok(&["gc"]);
    assert_eq!(fs::read_dir(fixture.dir.join("state/vms")).unwrap().count(), 0);
    fixture.ok(&["kernel", "delete", "fixture"]);
    fixture.ok(&["image", "delete", "debian"]);
}
