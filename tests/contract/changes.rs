//! `vm diff`, `vm apply`, `vm fetch` and `banger-ws apply` where there is no guest to ask.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::{self, assert_error, record};

fn banger(state: &Path, args: &[&str]) -> Output {
    support::run(
        support::command(env!("CARGO_BIN_EXE_banger")).args(args).env("BANGER_STATE_DIR", state),
        b"",
    )
}

#[test]
fn what_is_not_there_or_does_not_run_is_said_clearly() {
    let state = support::state_with_fake_image();
    let create = banger(state.path(), &["vm", "create", "dev1", "--net", "user"]);
    assert!(create.status.success(), "{create:?}");
    for verb in ["diff", "apply", "fetch"] {
        assert_error(&banger(state.path(), &["--json", "vm", verb, "nobody"]), 3, "not-found");
        let error = assert_error(&banger(state.path(), &["--json", "vm", verb, "dev1"]), 1, "vm-stopped");
        assert!(error["error"]["hint"].as_str().unwrap().contains("banger vm start dev1"), "{error}");
        assert_error(&banger(state.path(), &["--json", "vm", verb, "dev1", "--nonsense"]), 2, "usage");
    }
    let explained = |args: &[&str]| {
        let output = banger(state.path(), &[&["--explain", "vm"], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        explained(&["diff", "dev1", "--stat", "--", "src"]),
        "banger vm show dev1 --record | banger-ws export --output - --stat -- src\n"
    );
    assert_eq!(
        explained(&["apply", "dev1", "--to", "/x", "--check"]),
        "banger vm show dev1 --record | banger-ws export --output FILE | banger-ws apply --to /x --check --patch FILE\n"
    );
    assert_eq!(
        explained(&["fetch", "dev1", "--as", "mine", "--max-size", "2G", "--force"]),
        "banger vm show dev1 --record | banger-ws fetch --as=mine --max-size=2G --force\n"
    );
    assert_eq!(
        explained(&["fetch", "dev1", "--format", "mbox"]),
        "banger vm show dev1 --record | banger-ws fetch --format=mbox\n"
    );
}

#[test]
fn a_patch_is_applied_without_any_guest() {
    if !support::require("contract", support::has("git"), "git is not installed") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let sh = |text: &str| support::run(support::command("sh").args(["-ec", text]).current_dir(dir), b"");
    let made = sh("git init -q --template= r; echo 1 > r/a; git -C r add a; \
                   git -C r -c user.name=A -c user.email=a@b commit -qm 1; echo 2 >> r/a; git -C r diff > p; git -C r checkout -q a");
    assert!(made.status.success(), "{made:?}");
    let apply = |args: &[&str]| {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.arg("apply").args(args).current_dir(dir);
        support::run(&mut command, br#"{"schema":"banger.vm/1","x-mine":1}"#)
    };
    assert_error(&apply(&["--patch", "p"]), 2, "bad-input");
    assert_error(&apply(&["--patch", "gone", "--to", "r"]), 3, "not-found");
    assert_error(&apply(&["--patch", "/dev/null", "--to", "r"]), 2, "bad-input");
    assert_error(&apply(&["--patch", "p", "--to", "nowhere"]), 3, "not-found");
    assert_error(&apply(&["--patch", "p", "--to", "r", "--max-patch-size", "12Q"]), 2, "usage");
    assert_error(&apply(&["--patch", "p", "--to", "r", "--max-patch-size", "1"]), 1, "failed");
    assert_eq!(fs::read_to_string(dir.join("r/a")).unwrap(), "1\n");
    // The patch is git's own, abbreviated ids and all.
    let applied = record(&apply(&["--patch", "p", "--to", "r"]));
    assert_eq!(
        (&applied["result"]["applied"], &applied["x-mine"]),
        (&"applied".into(), &1.into()),
        "{applied}"
    );
    assert_eq!(fs::read_to_string(dir.join("r/a")).unwrap(), "1\n2\n");
    fs::write(dir.join("empty"), "").unwrap();
    assert_eq!(record(&apply(&["--patch", "empty", "--to", "r"]))["result"]["applied"], "nothing");
}
