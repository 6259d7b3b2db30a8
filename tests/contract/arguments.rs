//! Arguments that cannot be, where there is no image yet: they are found before one is made.

use std::process::Output;

use crate::support::{assert_error, command, run};

/// What is said once an image is being built.
const BUILDING: &str = "building the image; this is done once";

/// A host on which nothing can be installed, and nothing is there.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(world.0.path().join("bin")).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let git = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|path| path.is_file());
        std::os::unix::fs::symlink(git.expect("git is in PATH"), world.0.path().join("bin/git")).unwrap();
        world
    }

    fn banger(&self, args: &[&str]) -> Output {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        banger.args(args).env("BANGER_STATE_DIR", self.0.path().join("state")).env("HOME", self.0.path());
        run(banger.env("PATH", self.0.path().join("bin")).env_remove("BANGER_LOCK_FD"), b"")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn are_found_before_an_image_is_built() {
    let world = World::new();
    let vm: [(&[&str], i32, &str); 5] = [
        (&["--net", "user", "--kernel", "nope"], 3, "not-found"),
        (&["--net", "user", "--peer"], 5, "unsupported"),
        (&["--net", "user", "-p", "8080:80", "-p", "8080:81"], 2, "bad-input"),
        (&["--net", "user", "--net-rate", "1M"], 5, "unsupported"),
        (&["--net", "user", "--vmm", "firecracker"], 5, "unsupported"),
    ];
    let repo = world.0.path().join("repo");
    let git = run(command("git").args(["init", "-q"]).arg(&repo), b"");
    assert!(git.status.success(), "{git:?}");
    std::fs::write(repo.join("file"), "text").unwrap();
    let git = run(command("git").arg("-C").arg(&repo).args(["add", "file"]), b"");
    assert!(git.status.success(), "{git:?}");
    for (args, status, code) in vm {
        let create = world.banger(&[&["--json", "vm", "create", "dev1"], args].concat());
        assert_error(&create, status, code);
        let repo = repo.to_str().unwrap();
        let ran = world.banger(&[&["--json", "vm", "run", repo], args, &["--", "true"]].concat());
        assert_error(&ran, 125, code);
        for output in [create, ran] {
            assert!(!said(&output).contains(BUILDING), "{args:?}: {}", said(&output));
        }
    }
    for args in [&["devel"][..], &["--size", "4096"], &["--suite", "../x"], &["--keyring", "/nonexistent"]] {
        let output = world.banger(&[&["image", "build"], args].concat());
        assert!(!output.status.success() && !said(&output).contains(BUILDING), "{args:?}: {}", said(&output));
    }
    // With nothing wrong but the host it is said, and then what is wrong with that.
    for args in [&["image", "build"][..], &["vm", "create", "dev1", "--net", "user"]] {
        let output = world.banger(args);
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
        assert!(
            said(&output).contains(BUILDING) && said(&output).contains("mmdebstrap"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_name_that_is_taken_is_found_before_another_image_is_asked_for() {
    let world = World::new();
    let state = crate::support::state_with_fake_image();
    std::fs::rename(state.path(), world.0.path().join("state")).unwrap();
    let created = world.banger(&["vm", "create", "dev1", "--net", "user"]);
    assert!(created.status.success(), "{}", said(&created));
    let again = world.banger(&["--json", "vm", "create", "dev1", "--net", "user", "--image", "other"]);
    assert_error(&again, 1, "conflict");
}

#[test]
fn a_typing_error_is_answered_with_the_nearest_word() {
    let world = World::new();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["vm", "stpo"], 2, "stop"),
        (&["imgae", "ls"], 2, "image"),
        (&["vm", "run", "--patc", "x", "."], 125, "--patch"),
        (&["vm", "create", "dev1", "--net", "usr"], 2, "user"),
    ];
    for (args, status, meant) in cases {
        let output = world.banger(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert!(said(&output).contains(&format!("did you mean '{meant}'?")), "{args:?}: {}", said(&output));
    }
    assert!(!said(&world.banger(&["vm", "xyzzy"])).contains("did you mean"));
}
