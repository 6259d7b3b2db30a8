//! What surrounds the programs is odd: a shell that sudo made, small limits, a full TMPDIR, variables of git's.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::replaceable::{ShellWorld, said};
use crate::support::archive::Tar;
use crate::support::disk::DISK;
use crate::support::{self, assert_error, command, record, run, state_with_fake_image};

const WS: &str = env!("CARGO_BIN_EXE_banger-ws");

#[test]
fn root_in_a_shell_of_sudos_has_its_own_vms() {
    let Some(world) = ShellWorld::new() else { return };
    if !support::require("host", support::is_root(), "only root is taken for who called sudo") {
        return;
    }
    for uid in ["1000", "0", "no number"] {
        let root = |arguments: &[&str]| {
            let output = run(world.command(arguments).env("SUDO_UID", uid).env("SUDO_USER", "somebody"), b"");
            assert!(output.status.success(), "SUDO_UID={uid}, {arguments:?}: {}", said(&output));
            output
        };
        root(&["vm", "create", "dev1", "--net", "user", "--vmm", "qemu"]);
        root(&["vm", "start", "dev1"]);
        root(&["vm", "stop", "dev1"]);
        root(&["gc"]);
        root(&["vm", "delete", "dev1"]);
        assert_eq!(record(&root(&["ps", "--json"]))["items"], serde_json::json!([]));
    }
    // By hand the way out is said.
    world.ok(&["vm", "create", "dev1", "--net", "user", "--vmm", "qemu"]);
    let shown = world.ok(&["vm", "show", "dev1", "--record"]).stdout;
    let attach = |uid: Option<&str>| {
        let mut netd = command(env!("CARGO_BIN_EXE_banger-netd"));
        netd.arg("attach").env_remove("SUDO_UID");
        uid.map(|uid| netd.env("SUDO_UID", uid));
        run(&mut netd, &shown)
    };
    let error = assert_error(&attach(Some("1000")), 5, "denied");
    assert!(error["error"]["hint"].as_str().unwrap().ends_with("unset SUDO_UID"), "{error}");
    assert!(attach(None).status.success());
}

/// Runs `program` with files limited to `blocks` of 512 bytes.
fn limited(blocks: u32, program: &str, arguments: &[&str], state: &std::path::Path, stdin: &[u8]) -> Output {
    let mut shell = command("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh", program]).args(arguments);
    run(shell.env("BANGER_STATE_DIR", state), stdin)
}

#[test]
fn files_that_the_shell_keeps_small_are_told_as_such() {
    let world = state_with_fake_image();
    let noise = support::noise(1 << 20);
    let tar = Tar::default().directory("usr").file("usr/noise", &noise).end();
    let import = limited(64, DISK.as_str(), &["image", "import", "-", "new"], world.path(), &tar);
    let error = assert_error(&import, 1, "failed");
    assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("ulimit -f")), "{error}");
    assert_eq!(support::disk::names(&world.path().join("images")), ["debian"]);

    let create = ["--json", "vm", "create", "dev1", "--net", "user"];
    let banger = env!("CARGO_BIN_EXE_banger");
    let error = assert_error(&limited(1, banger, &create, world.path(), b""), 1, "failed");
    assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("ulimit -f")), "{error}");
    assert!(limited(1 << 20, banger, &create, world.path(), b"").status.success(), "the hint's way");
}

/// A repository with a file.
fn repository(dir: &std::path::Path) {
    fs::create_dir_all(dir).unwrap();
    let make = "git init -q . && echo content >file && git add -A";
    assert!(command("sh").args(["-c", make]).current_dir(dir).status().unwrap().success());
}

#[test]
fn a_full_tmpdir_is_told_as_such() {
    let mut probe = command("unshare");
    let able = run(probe.args(["--user", "--map-root-user", "--mount", "true"]), b"").status.success();
    if !support::require("host", able, "a full file system needs user and mount namespaces") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let repo = temp.path().join("repo");
    repository(&repo);
    let full = r#"mkdir "$1/tmp" && mount -t tmpfs -o size=4k tmpfs "$1/tmp" && { head -c 100000 /dev/zero >"$1/tmp/full"; } 2>/dev/null
        TMPDIR=$1/tmp "$2" inspect "$1/repo""#;
    let mut inspect = command("unshare");
    inspect.args(["--user", "--map-root-user", "--mount", "sh", "-c", full, "sh"]).arg(temp.path()).arg(WS);
    let error: Value = assert_error(&run(&mut inspect, b""), 1, "failed");
    let text = error.to_string();
    assert!(text.contains("/tmp/ws-") || text.contains("make a directory in"), "{error}");
    assert!(text.contains("No space left") && text.contains("TMPDIR"), "{error}");
    assert!(!text.contains("repo/.git/index"), "the checkout is not what is full: {error}");
}

#[test]
fn a_git_directory_of_the_environment_is_not_followed_and_that_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let (repo, elsewhere) = (temp.path().join("repo"), temp.path().join("elsewhere"));
    repository(&repo);
    fs::create_dir(&elsewhere).unwrap();
    let inspect = |dir: &std::path::Path| {
        let mut inspect = command(WS);
        inspect.arg("inspect").arg(dir).env("GIT_DIR", repo.join(".git")).env("GIT_WORK_TREE", &repo);
        run(&mut inspect, b"")
    };
    assert_eq!(record(&inspect(&repo))["file_count"], 1);
    let error = assert_error(&inspect(&elsewhere), 2, "bad-input");
    assert!(error["error"]["hint"].as_str().unwrap().contains("GIT_DIR"), "{error}");
}
