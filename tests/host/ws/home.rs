//! Going round: work comes home, more is done on either side, and comes home again; what came home is no change any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::guest::{Guest, git, said};
use super::resync::{assert_same, prepare, prepared, script_in};
use crate::support;

/// A guest with a copy of a checkout, and the record of it.
struct Round {
    guest: Guest,
    repo: PathBuf,
    record: Value,
}

impl Round {
    fn begin() -> Option<Self> {
        let guest = Guest::with_helper()?;
        let repo = guest.repo();
        fs::write(repo.join("lines"), (1..30).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        git(&repo, &["add", "lines"]);
        git(&repo, &["commit", "-qm", "lines"]);
        let record = guest.record();
        let mut round = Self { guest, repo, record };
        round.copy(&[]);
        Some(round)
    }

    fn prepare(&self, extra: &[&str]) -> Output {
        let place = self.guest.path("guest");
        let (repo, place) = (self.repo.to_str().unwrap(), place.to_str().unwrap());
        self.guest.ws(&[&["prepare", "--repo", repo, "--guest-path", place], extra].concat(), &self.record)
    }

    #[track_caller]
    fn copy(&mut self, extra: &[&str]) -> Value {
        let output = self.prepare(extra);
        assert!(output.status.success(), "{}", said(&output));
        self.record = support::record(&output);
        self.record["result"].clone()
    }

    fn take_home(&self) -> Output {
        let output = self.guest.ws(&["export", "--output", "p.patch"], &self.record);
        assert!(output.status.success(), "{}", said(&output));
        self.guest.ws(&["apply", "--patch", "p.patch"], &self.record)
    }

    #[track_caller]
    fn apply(&self) -> String {
        let output = self.take_home();
        assert!(output.status.success(), "{}", said(&output));
        support::record(&output)["result"]["applied"].as_str().unwrap().to_owned()
    }

    /// What of the guest's is not home yet.
    fn changed(&self) -> Vec<String> {
        let output = self.guest.ws(&["status"], &self.record);
        let record = support::record(&output);
        record["result"]["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap().into())
            .collect()
    }

    fn inside(&self, line: &str) {
        sh(&self.guest.path("guest"), line);
    }
    fn outside(&self, line: &str) {
        sh(&self.repo, line);
    }
    fn host(&self, name: &str) -> String {
        fs::read_to_string(self.repo.join(name)).unwrap()
    }
    fn there(&self, name: &str) -> String {
        fs::read_to_string(self.guest.path("guest").join(name)).unwrap()
    }
}

fn sh(dir: &Path, line: &str) {
    let output = support::run(support::command("sh").args(["-ec", line]).current_dir(dir), b"");
    assert!(output.status.success(), "{line}: {}", said(&output));
}

#[test]
fn work_comes_home_again_and_again() {
    let Some(mut round) = Round::begin() else { return };
    for line in [5, 7, 20] {
        round.inside(&format!("sed -i '{line}s/$/ of the guest/' lines; echo {line} >new{line}"));
        assert_eq!(round.apply(), "applied");
        assert_eq!(round.host("lines"), round.there("lines"));
        assert_eq!(round.changed(), Vec::<String>::new());
        assert_eq!(round.apply(), "nothing");
    }
    // The host commits it and goes on; what git has never heard of goes on travelling.
    round.outside("git add lines new5; git commit -qm taken; sed -i '29s/$/ of the host/' lines; echo more >>new7; git rm -q LICENSE");
    round.inside("echo mine >own; sed -i '1s/$/ first/' README.md");
    assert_eq!(round.copy(&[])["changed"], true);
    assert_eq!((round.there("lines"), round.there("new7")), (round.host("lines"), "7\nmore\n".into()));
    assert!(!round.guest.path("guest/LICENSE").exists());
    assert_eq!(round.changed(), ["README.md", "own"]);
    assert_eq!(round.copy(&[])["changed"], false);
    // Also where the host has edited the same file in other lines, and gone to another branch.
    round.outside("git checkout -qb other; git commit -qam before; sed -i '10s/$/ of the host/' lines");
    round.inside("sed -i '25s/$/ of the guest/' lines");
    assert_eq!(round.apply(), "applied");
    assert!(
        round.host("lines").contains("line 10 of the host\n")
            && round.host("lines").contains("line 25 of the guest\n")
    );
    assert_eq!(round.changed(), Vec::<String>::new());
    assert_eq!(round.copy(&[])["changed"], true);
    assert_eq!((round.there("lines"), round.there("own")), (round.host("lines"), "mine\n".into()));
    // All of it since the beginning.
    let output = round.guest.ws(&["export", "--all", "--output", "all.patch"], &round.record);
    let all = support::record(&output);
    let files = ["LICENSE", "README.md", "lines", "new20", "new5", "new7", "own"];
    assert_eq!(all["result"]["files"], json!(files), "{}", said(&output));
}

#[test]
fn what_both_sides_have_is_agreed_on_whoever_made_it() {
    let Some(mut round) = Round::begin() else { return };
    // By hand, with git: it is home, and the rest of the patch still applies.
    round.inside("echo 1 >one; echo 2 >two; git mv run.sh ran.sh; rm LICENSE; chmod +x README.md");
    round.outside("echo 1 >one; mv run.sh ran.sh; rm LICENSE");
    assert_eq!(round.apply(), "applied");
    assert_eq!(round.changed(), Vec::<String>::new());
    assert_eq!(round.host("two"), "2\n");
    assert_eq!(round.apply(), "nothing");
    // A move of which one half is home.
    round.inside("mv lines moved; echo more >>two");
    round.outside("rm lines");
    assert_eq!(round.apply(), "applied");
    assert_eq!(round.host("moved"), round.there("moved"));
    // Made on both sides and equal: the copy agrees.
    round.inside("echo same >both; echo guest >else");
    round.outside("echo same >both; git add both one");
    round.copy(&[]);
    assert_eq!(round.changed(), ["else"]);
    // The host takes back what came home: that is its change, and travels.
    round.outside("rm two; git checkout -q README.md");
    round.copy(&[]);
    assert!(!round.guest.path("guest/two").exists());
    assert_eq!(round.changed(), ["else"]);
}

#[test]
fn a_conflict_changes_nothing_and_what_is_settled_goes_on() {
    let Some(round) = Round::begin() else { return };
    round.inside("sed -i '5s/$/ of the guest/' lines; echo 1 >one");
    round.outside("sed -i '5s/$/ of the host/' lines");
    let before = round.host("lines");
    support::assert_error(&round.take_home(), 1, "conflict");
    assert_eq!(round.host("lines"), before);
    assert!(!round.repo.join("one").exists());
    let error = support::assert_error(&round.prepare(&[]), 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], json!(["lines"]));
    assert_eq!(round.changed(), ["lines", "one"]);
    fs::copy(round.guest.path("guest/lines"), round.repo.join("lines")).unwrap();
    assert_eq!(round.apply(), "applied");
    assert_eq!((round.host("one"), round.changed()), ("1\n".into(), Vec::new()));
    // A file that the guest removes and the host has made a program of: git would only warn.
    round.inside("rm LICENSE");
    round.outside("chmod +x LICENSE");
    let error = support::assert_error(&round.take_home(), 1, "conflict");
    assert_eq!(error["error"]["details"]["files"], json!(["LICENSE"]));
    round.outside("chmod -x LICENSE");
    assert_eq!(round.apply(), "applied");
    // A patch that is applied elsewhere, or only tried, is home nowhere.
    round.inside("echo 2 >two");
    let output = round.guest.ws(&["export", "--output", "p.patch"], &round.record);
    assert!(output.status.success(), "{}", said(&output));
    round.outside("git clone -q . ../clone");
    let clone = round.guest.path("clone");
    for args in [&["--to", clone.to_str().unwrap()][..], &["--check"]] {
        let output = round.guest.ws(&[&["apply", "--patch", "p.patch"], args].concat(), &round.record);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(round.changed(), ["two"]);
    }
    // Part of it is.
    round.inside("echo 3 >three");
    let output = round.guest.ws(&["export", "--output", "p.patch", "--", "three"], &round.record);
    assert!(output.status.success(), "{}", said(&output));
    let output = round.guest.ws(&["apply", "--patch", "p.patch"], &round.record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(round.changed(), ["two"]);
}

#[test]
fn reset_throws_away_what_the_guest_has_changed() {
    let Some(mut round) = Round::begin() else { return };
    round.inside("echo home >home");
    round.apply();
    let given = String::from_utf8(git(&round.guest.path("guest"), &["rev-parse", "HEAD"])).unwrap();
    let mess = "git checkout -qb mess; echo x >>lines; git add lines; git commit -qm mess; rm -rf src; ln -s /tmp src; mkdir -p new/er; echo 1 >new/er/file; \
                mkdir -p build; echo built >build/product; chmod -x run.sh; rm home; git rm -q --cached LICENSE; rm README.md; mkdir README.md; echo in >README.md/in";
    round.inside(mess);
    let output = round.guest.ws(&["reset", "--", "home", "src"], &round.record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(round.there("home"), "home\n");
    assert!(round.guest.path("guest/src/a.c").is_file() && !round.changed().contains(&"src".to_owned()));
    assert_eq!(git(&round.guest.path("guest"), &["symbolic-ref", "HEAD"]), b"refs/heads/mess\n");
    let output = round.guest.ws(&["reset"], &round.record);
    let record = support::record(&output);
    assert!(output.status.success() && record["result"]["changed"] == true, "{}", said(&output));
    assert_eq!(
        record["result"]["files"],
        json!(["README.md", "README.md/in", "lines", "new/er/file", "run.sh"])
    );
    assert!(said(&output).contains("refs/banger/replaced"), "{}", said(&output));
    let place = round.guest.path("guest");
    assert_eq!(round.changed(), Vec::<String>::new());
    assert_eq!(String::from_utf8(git(&place, &["rev-parse", "HEAD"])).unwrap(), given);
    assert_eq!(git(&place, &["status", "--porcelain"]), b"?? home\n");
    assert_eq!(
        (round.there("README.md"), round.there("build/product")),
        ("hello\n".into(), "built\n".into())
    );
    assert!(!place.join("new").exists());
    git(&place, &["fsck", "--strict"]);
    // What was built goes where that is asked for, and nothing else is left to throw away.
    let output = round.guest.ws(&["reset", "--clean"], &round.record);
    assert_eq!(support::record(&output)["result"]["files"], json!(["build/product"]), "{}", said(&output));
    assert!(!place.join("build").exists());
    let output = round.guest.ws(&["reset"], &round.record);
    assert_eq!(support::record(&output)["result"]["changed"], false, "{}", said(&output));
    // The host's side wins, also where the host has changed nothing, and what was thrown away is said.
    round.inside("echo x >>lines; echo 1 >one; echo built >x.o");
    let output = round.prepare(&["--force"]);
    assert!(said(&output).contains("2 changes of the guest's thrown away: lines, one"), "{}", said(&output));
    assert_eq!((round.there("lines"), round.there("x.o")), (round.host("lines"), "built\n".into()));
    round.copy(&[]);
    assert_eq!(round.changed(), Vec::<String>::new());
    // A guest that has lost its objects has its files again all the same.
    round.inside("git checkout -qb own; git commit -qm own --allow-empty; echo x >>lines; rm -rf .git/objects; mkdir .git/objects");
    let output = round.guest.ws(&["reset"], &round.record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(round.there("lines"), round.host("lines"));
}

#[test]
fn a_command_runs_in_the_directory_that_was_named() {
    let Some(round) = Round::begin() else { return };
    let place = round.guest.path("other");
    let pwd = |dir: &str, extra: &[&str]| {
        let (dir, place) = (round.repo.join(dir), place.to_str().unwrap().to_owned());
        let args =
            ["run", "--repo", dir.to_str().unwrap(), "--guest-path", &place, "--record", "r.json", "--force"];
        let output = round.guest.ws(&[&args[..], extra, &["--", "pwd"]].concat(), &round.guest.record());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().replace(&place, "")
    };
    fs::create_dir_all(round.repo.join("of/nothing")).unwrap();
    assert_eq!(pwd("src", &[]), "/src");
    assert_eq!(pwd("src", &["--workdir", "/"]), "");
    assert_eq!(pwd(".", &[]), "");
    // Of which nothing travels.
    assert_eq!(pwd("of/nothing", &[]), "");
}

#[test]
fn head_branches_and_index_are_the_guests_once_it_has_changed_them() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    prepared(&guest, &repo, &[]);
    let place = guest.path("guest");
    let text = |dir: &Path, args: &[&str]| String::from_utf8(git(dir, args)).unwrap();
    script_in(&place, "git checkout -qb elsewhere; echo mine >own; git add own; git commit -qm own");
    script_in(&repo, "echo z >z; git add z; git commit -qm z; echo hello again >README.md");
    let own = text(&place, &["rev-parse", "HEAD"]);
    let record = prepared(&guest, &repo, &[]);
    assert_eq!(record["result"]["kept"], serde_json::json!(["HEAD"]), "{record}");
    assert_eq!(text(&place, &["symbolic-ref", "HEAD"]), "refs/heads/elsewhere\n");
    assert_eq!(text(&place, &["rev-parse", "HEAD"]), own);
    assert_eq!(text(&place, &["rev-parse", "host/main"]), text(&repo, &["rev-parse", "HEAD"]));
    assert_eq!(text(&place, &["status", "--porcelain"]), " M README.md\n?? z\n");
    git(&place, &["fsck", "--strict"]);

    // What the guest has staged stays as it is; the rest is staged as on the host.
    script_in(&place, "echo s >>LICENSE; git add LICENSE");
    script_in(
        &repo,
        "chmod 755 LICENSE; git add LICENSE; chmod 644 LICENSE; echo run >run.sh; git add run.sh",
    );
    let staged = text(&place, &["ls-files", "-s", "LICENSE"]);
    let record = prepared(&guest, &repo, &[]);
    assert_eq!(record["result"]["kept"], serde_json::json!(["index"]), "{record}");
    assert_eq!(text(&place, &["ls-files", "-s", "LICENSE"]), staged);
    assert_eq!(text(&place, &["ls-files", "-s", "run.sh"]), text(&repo, &["ls-files", "-s", "run.sh"]));
    assert_eq!(fs::read_to_string(place.join("LICENSE")).unwrap(), "free\ns\n");

    // The host's side wins where that is wanted, and what the guest had is to be found.
    let output = prepare(&guest, &repo, &["--force"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&guest, &repo, "forced");
    assert_eq!(text(&place, &["rev-parse", "refs/banger/replaced"]), own);
    let words = said(&output);
    assert!(words.contains("thrown away: LICENSE, own") && words.contains("refs/banger/replaced"), "{words}");
}
