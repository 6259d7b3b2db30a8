//! The patch never lies: tests/truth judges it for random checkouts and guests. It shares nothing with the programs, not even the language.
//! `tests/truth/oracle --help` says how to try more of them, or one alone. `BANGER_TEST_SEED=N` repeats the one that a failure names.

use std::path::Path;

use crate::support;

#[test]
fn the_patch_is_true_or_says_so_1() {
    judge("1..25");
}

#[test]
fn the_patch_is_true_or_says_so_2() {
    judge("26..50");
}

#[test]
fn the_patch_is_true_or_says_so_3() {
    judge("51..75");
}

#[test]
fn the_patch_is_true_or_says_so_4() {
    judge("76..100");
}

/// The judge itself: an exporter that cannot be misled is found right, and one that makes a mistake is not.
#[test]
fn the_oracle_finds_the_mistakes_that_it_is_there_for() {
    let Some(oracle) = oracle() else { return };
    let run = |mistake: &[&str]| {
        let args = ["--programs", "reference", "--seeds", "1..6", "--form", "export", "--tries", "0"];
        support::run(in_memory().arg(&oracle).args(args).args(mistake), b"")
    };
    let said = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for mistake in ["believes-info-exclude", "converts-line-endings", "drops-special-files"] {
        let output = run(&["--mistake", mistake]);
        assert_eq!(output.status.code(), Some(1), "{mistake}: {}", said(&output));
    }
}

/// The oracle, where it can run here.
fn oracle() -> Option<std::path::PathBuf> {
    let needs = ["python3", "git", "sshd", "ssh-keygen", "unshare", "nsenter", "perl"];
    let can = support::is_root() && needs.into_iter().all(support::has);
    let reason = format!("the oracle's guests need root and {}", needs.join(", "));
    support::require("host", can, &reason)
        .then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/truth/oracle"))
}

/// Python, whose cases lie in memory: each makes and removes thousands of files.
fn in_memory() -> std::process::Command {
    let mut command = support::command("python3");
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    command
}

fn judge(seeds: &str) {
    let Some(oracle) = oracle() else { return };
    let programs = Path::new(env!("CARGO_BIN_EXE_banger-ws")).parent().expect("it is in a directory");
    let seeds = std::env::var("BANGER_TEST_SEED").unwrap_or_else(|_| seeds.to_owned());
    let mut command = in_memory();
    command.arg(oracle).arg("--programs").arg(programs).args(["--helper", banger_guest_program::BUILT_AT]);
    // Beside the other three: one case at a time, and a few tries at a shorter story.
    command.args(["--seeds", &seeds, "--jobs", "1", "--tries", "10", "--most", "3"]);
    let output = support::run(&mut command, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    support::tell(said.lines().last().unwrap_or_default());
}

/// Copying, working on both sides and taking work home, in rounds: `tests/truth/rounds --help`.
#[test]
fn rounds_of_work_leave_both_sides_as_the_three_way_rule_says() {
    let Some(oracle) = oracle() else { return };
    let programs = Path::new(env!("CARGO_BIN_EXE_banger-ws")).parent().expect("it is in a directory");
    let mut command = in_memory();
    command.arg(oracle.with_file_name("rounds")).arg("--programs").arg(programs);
    command.args(["--helper", banger_guest_program::BUILT_AT, "--seeds", "1..5", "--rounds", "10"]);
    let output = support::run(&mut command, b"");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
