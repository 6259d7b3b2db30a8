//! Random checkouts and random sequences of changes, on the host and in the guest: each makes the round trip, and export leaves
//! the guest as it was. `BANGER_TEST_SEED=N` repeats the checkout that a failure names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::guest::{Guest, ID, git, said};
use crate::support;
use crate::support::changes::{self, Dice, IGNORED, assert_same, everything, listed, tree};

/// Sequences per checkout. With the checkouts of the four tests below that makes 200.
const SEQUENCES: usize = 4;

#[test]
fn sequences_of_changes_make_the_round_trip_1() {
    campaign(100..112);
}

#[test]
fn sequences_of_changes_make_the_round_trip_2() {
    campaign(200..213);
}

#[test]
fn sequences_of_changes_make_the_round_trip_3() {
    campaign(300..312);
}

#[test]
fn sequences_of_changes_make_the_round_trip_4() {
    campaign(400..413);
}

fn campaign(usual: std::ops::Range<u64>) {
    let Some(guest) = Guest::new() else { return };
    for seed in changes::seeds(usual) {
        for name in ["guest", "repo", "copy"] {
            drop(fs::remove_dir_all(guest.path(name)));
        }
        Trip::start(&guest, seed).go_on();
    }
}

/// One checkout in the guest, and what happened so far.
struct Trip<'a> {
    guest: &'a Guest,
    dice: Dice,
    story: String,
    record: Value,
}

fn sh(dir: &Path, script: &str) {
    support::run(support::command("sh").args(["-c", script]).current_dir(dir), b"");
}

/// A random checkout, dirty half of the time.
fn make_repo(repo: &Path, dice: &mut Dice) -> String {
    fs::create_dir(repo).unwrap();
    fs::write(repo.join(".gitignore"), "*.o\nbuild/\n").unwrap();
    changes::random_tree(repo, dice);
    let made = "git init -q -b main --template= && git config user.name A && git config user.email a@b && \
                git add -A && git add -f forced.o; git commit -qm first && git tag v1";
    sh(repo, made);
    let dirty = if dice.roll(2) == 0 { String::new() } else { changes::script(dice) };
    sh(repo, &dirty);
    dirty
}

fn remove(dir: &Path, paths: BTreeSet<std::path::PathBuf>) {
    for path in paths {
        fs::remove_file(dir.join(path)).unwrap();
    }
}

impl<'a> Trip<'a> {
    /// Makes a checkout and sends it. `copy` becomes what was sent.
    fn start(guest: &'a Guest, seed: u64) -> Self {
        let mut dice = Dice::of(seed);
        // Nothing is known of the checkout that was here before.
        drop(fs::remove_dir_all(guest.path("state/vms").join(ID).join("sent")));
        let (repo, copy, there) = (guest.path("repo"), guest.path("copy"), guest.path("guest"));
        let dirty = make_repo(&repo, &mut dice);
        let untracked = dice.roll(2) == 0;
        support::run(support::command("cp").arg("-a").arg(&repo).arg(&copy), b"");
        remove(&copy, listed(&copy, if untracked { &IGNORED } else { &["--others"] }));
        let (repo_arg, path) = (repo.to_str().unwrap(), there.to_str().unwrap());
        let mut args = vec!["prepare", "--repo", repo_arg, "--guest-path", path];
        args.extend(untracked.then_some("--include-untracked"));
        let output = guest.ws(&args, &guest.record());
        let story = format!("BANGER_TEST_SEED={seed}\non the host:\n{dirty}");
        assert!(output.status.success(), "{story}\n{}", said(&output));
        let files = if untracked { "--untracked-files=all" } else { "--untracked-files=no" };
        let status =
            |dir| String::from_utf8_lossy(&git(dir, &["status", "--porcelain=v2", files])).into_owned();
        assert_eq!(status(&there), status(&repo), "{story}");
        assert_same(&tree(&there), &tree(&copy), &story);
        Self { guest, dice, story, record: support::record(&output) }
    }

    fn go_on(mut self) {
        for _ in 0..SEQUENCES {
            let script = changes::script(&mut self.dice);
            self.story += &format!("in the guest:\n{script}");
            let output =
                self.guest.ws(&["exec", "--record", "r.json", "--", "sh", "-c", &script], &self.record);
            assert!(output.status.success(), "{}\n{}", self.story, said(&output));
            let before = everything(&self.guest.path("guest"));
            let output = self.guest.ws(&["export", "--output", "p.patch"], &self.record);
            assert!(output.status.success(), "{}\n{}", self.story, said(&output));
            assert_same(&everything(&self.guest.path("guest")), &before, &self.story);
            self.apply();
        }
    }

    /// The patch applies to what was sent, and gives what is in the guest; ignored files stay there.
    fn apply(&self) {
        let (there, tried, patch) =
            (self.guest.path("guest"), self.guest.path("tried"), self.guest.path("p.patch"));
        support::run(support::command("cp").arg("-a").arg(self.guest.path("copy")).arg(&tried), b"");
        if fs::metadata(&patch).unwrap().len() > 0 {
            let mut apply = support::command("git");
            let output = support::run(apply.arg("-C").arg(&tried).arg("apply").arg(&patch), b"");
            assert!(output.status.success(), "{}\n{}", self.story, said(&output));
        }
        // What was sent is never ignored, whether the guest's git tracks it or not.
        let sent: BTreeSet<_> = tree(&self.guest.path("copy")).into_iter().map(|(path, ..)| path).collect();
        let ignored = listed(&there, &IGNORED);
        let is_wanted = |path: &std::path::PathBuf| !ignored.contains(path) || sent.contains(path);
        let wanted = tree(&there).into_iter().filter(|(path, ..)| is_wanted(path)).collect();
        assert_same(&tree(&tried), &wanted, &self.story);
        fs::remove_dir_all(&tried).unwrap();
    }
}
