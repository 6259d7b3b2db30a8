//! The second copy: only what differs, and never over what the guest has changed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::guest::{Guest, ID, git, said};
use crate::support;
use crate::support::changes::{Dice, random_tree, script, seeds, tree};

/// Copies `repo` to `guest`.
pub(super) fn prepare(guest: &Guest, repo: &Path, extra: &[&str]) -> Output {
    let place = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", place.to_str().unwrap()];
    guest.ws(&[&args[..], extra].concat(), &guest.record())
}

/// The same; it must succeed.
#[track_caller]
pub(super) fn prepared(guest: &Guest, repo: &Path, extra: &[&str]) -> Value {
    let output = prepare(guest, repo, extra);
    assert!(output.status.success(), "{}", said(&output));
    support::record(&output)
}

/// What a copy into nothing gives, beside the other one and as if for another VM.
fn fresh(guest: &Guest, repo: &Path) -> PathBuf {
    let (id, place) = ("ba9876543210", guest.path("fresh"));
    let dir = guest.path("state/vms").join(id);
    drop(fs::remove_dir_all(&dir));
    drop(fs::remove_dir_all(&place));
    fs::create_dir_all(&dir).unwrap();
    for name in ["host_key", "host_key.pub"] {
        fs::copy(guest.path("state/vms").join(ID).join(name), dir.join(name)).unwrap();
    }
    let mut record = guest.record();
    record["vm"]["id"] = id.into();
    record["vm"]["paths"]["dir"] = dir.to_str().unwrap().into();
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", place.to_str().unwrap()];
    let output = guest.ws(&args, &record);
    assert!(output.status.success(), "{}", said(&output));
    place
}

/// All that git knows of a workspace.
fn known(place: &Path) -> Vec<String> {
    let all: [&[&str]; 4] = [
        &["status", "--porcelain=v2", "--branch", "-z"],
        &["ls-files", "-s", "-v", "-z"],
        &["log", "--format=%H %s", "HEAD", "--"],
        &["rev-parse", "refs/banger/prepared"],
    ];
    let all = all.iter().map(|args| {
        let output = support::run(support::command("git").arg("-C").arg(place).args(*args), b"");
        String::from_utf8_lossy(&output.stdout).replace('\0', "\n")
    });
    all.collect()
}

pub(super) fn script_in(dir: &Path, text: &str) {
    drop(support::run(support::command("sh").args(["-c", text]).current_dir(dir), b""));
}

fn steps(record: &Value) -> Vec<String> {
    let timings = record["timings"].as_array().unwrap();
    timings.iter().map(|timing| timing["step"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_second_copy_sends_what_differs_and_is_as_the_first() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    prepared(&guest, &repo, &[]);
    fs::write(repo.join("README.md"), "hello again\n").unwrap();
    fs::write(repo.join("src/new.c"), "int b;\n").unwrap();
    fs::remove_file(repo.join("LICENSE")).unwrap();
    fs::remove_file(repo.join("link")).unwrap();
    symlink("elsewhere", repo.join("link")).unwrap();
    fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    git(&repo, &["add", "src/new.c"]);
    let record = prepared(&guest, &repo, &[]);
    assert_eq!(record["result"]["changed"], true);
    assert!(steps(&record).contains(&"resync".to_owned()), "{record}");
    let place = fresh(&guest, &repo);
    assert_eq!(tree(&guest.path("guest")), tree(&place));
    assert_eq!(known(&guest.path("guest")), known(&place));
    git(&guest.path("guest"), &["fsck", "--strict"]);
    // Nothing differs now, and nothing of ours is left.
    assert_eq!(prepared(&guest, &repo, &[])["result"]["changed"], false);
    assert!(!guest.path("guest/.git/banger-sync").exists());
    // What comes out is the guest's own work alone.
    fs::write(guest.path("guest/own"), "work\n").unwrap();
    let output = guest.ws(&["export", "--output", "p.patch"], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(support::record(&output)["result"]["files"].as_array().unwrap().len(), 1);
}

#[test]
fn host_commits_branches_and_rebases_arrive() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    prepared(&guest, &repo, &[]);
    for step in [
        "echo two >two; git add two; git commit -qm second",
        "git checkout -qb \"it's/another\"; echo three >three; git add -A; git commit -qm third; echo more >>three",
        "git reset -q --hard HEAD~1; git commit -q --amend -m rewritten; echo x >x; git add x",
        "git checkout -q --detach; git rm -q two; git commit -qm gone",
        "git checkout -q main; mkdir -p LICENSE.d; git mv LICENSE LICENSE.d/LICENSE; rm -rf src; echo file >src; git add -A",
        "rm src; mkdir src; echo again >src/a.c; git add -A; git commit -qm back",
    ] {
        script_in(&repo, step);
        prepared(&guest, &repo, &[]);
        let place = fresh(&guest, &repo);
        assert_eq!(tree(&guest.path("guest")), tree(&place), "{step}");
        assert_eq!(known(&guest.path("guest")), known(&place), "{step}");
    }
    git(&guest.path("guest"), &["fsck", "--strict"]);
}

#[test]
fn what_the_guest_has_changed_is_kept_or_named() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    prepared(&guest, &repo, &[]);
    let place = guest.path("guest");
    // Elsewhere: kept, commits included.
    script_in(
        &place,
        "echo mine >own; git add own; git commit -qm own; echo more >LICENSE; echo loose >loose",
    );
    fs::write(repo.join("README.md"), "host\n").unwrap();
    prepared(&guest, &repo, &[]);
    assert_eq!(fs::read_to_string(place.join("README.md")).unwrap(), "host\n");
    assert_eq!(fs::read_to_string(place.join("LICENSE")).unwrap(), "more\n");
    assert_eq!(git(&place, &["log", "-1", "--format=%s"]), b"own\n");

    // The same file, a new file, a link in place of a directory: named, and nothing is touched.
    type Both = (&'static str, &'static str, &'static str);
    let both: [Both; 5] = [
        ("echo host2 >README.md", "echo guest >README.md", "README.md"),
        ("echo host >fresh; git add fresh", "echo guest >fresh", "fresh"),
        ("echo x >src/b.c; git add src/b.c", "rm -rf src; ln -s /tmp src", "src"),
        ("rm run.sh", "echo guest >>run.sh", "run.sh"),
        ("echo y >forced.o", "chmod 755 forced.o; rm forced.o; mkdir forced.o", "forced.o"),
    ];
    for (host, inside, named) in both {
        let (before, outside) = (guest.path("before"), guest.path("outside"));
        for (from, to) in [(&place, &before), (&repo, &outside)] {
            drop(fs::remove_dir_all(to));
            support::run(support::command("cp").arg("-a").arg(from).arg(to), b"");
        }
        script_in(&repo, host);
        script_in(&place, inside);
        let (files, facts) = (tree(&place), known(&place));
        let output = prepare(&guest, &repo, &[]);
        let error = support::assert_error(&output, 1, "conflict");
        let paths = error["error"]["details"]["paths"].as_array().unwrap();
        assert!(paths.iter().any(|path| path == named), "{named}: {error}");
        assert_eq!((tree(&place), known(&place)), (files, facts), "{named}: nothing is touched");
        assert!(!place.join(".git/banger-sync").exists());

        prepared(&guest, &repo, &["--force"]);
        assert_same(&guest, &repo, named);
    }
    assert!(!Path::new("/tmp/b.c").exists(), "nothing was written through the link");
}

/// A checkout with random files, copied for the first time, and the dice that made it.
fn random_checkout(guest: &Guest, seed: u64) -> (PathBuf, Dice) {
    let (repo, mut dice) = (guest.path(&format!("repo{seed}")), Dice::of(seed));
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["config", "user.name", "n"]);
    git(&repo, &["config", "user.email", "e"]);
    fs::write(repo.join(".gitignore"), "*.o\nbuild/\n").unwrap();
    random_tree(&repo, &mut dice);
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "first"]);
    drop(fs::remove_dir_all(guest.path("guest")));
    drop(fs::remove_dir_all(guest.path("state/vms").join(ID).join("sent")));
    prepared(guest, &repo, &[]);
    (repo, dice)
}

#[test]
fn random_changes_of_the_host_arrive() {
    let Some(guest) = Guest::with_helper() else { return };
    for seed in seeds(0..25) {
        let (repo, mut dice) = random_checkout(&guest, seed);
        for round in 0..4 {
            script_in(&repo, &script(&mut dice));
            // The guest may work on something of its own in between.
            fs::write(guest.path("guest/of the guest's own"), format!("{round}")).unwrap();
            let output = prepare(&guest, &repo, &[]);
            assert!(output.status.success(), "seed {seed}, round {round}: {}", said(&output));
            fs::remove_file(guest.path("guest/of the guest's own")).unwrap();
            assert_same(&guest, &repo, &format!("seed {seed}, round {round}"));
        }
    }
}

#[test]
fn random_changes_of_both_are_merged_or_refused_whole() {
    let Some(guest) = Guest::with_helper() else { return };
    for seed in seeds(100..125) {
        let (repo, mut dice) = random_checkout(&guest, seed);
        let place = guest.path("guest");
        let given = tree(&place);
        script_in(&repo, &script(&mut dice));
        script_in(&place, &script(&mut dice));
        let (inside, facts) = (tree(&place), known(&place));
        let output = prepare(&guest, &repo, &[]);
        if output.status.success() {
            let after = tree(&place);
            let wanted = tree(&fresh(&guest, &repo));
            // What the host changed is as the host has it; what only the guest changed is as the guest had it.
            for entry in wanted.difference(&given) {
                assert!(after.contains(entry), "seed {seed}: {entry:?} has not arrived");
            }
            for entry in inside.difference(&given) {
                assert!(after.contains(entry), "seed {seed}: the guest's {entry:?} is lost");
            }
            for entry in &after {
                let from = wanted.contains(entry) || inside.contains(entry);
                assert!(from, "seed {seed}: {entry:?} comes from nowhere");
            }
        } else {
            support::assert_error(&output, 1, "conflict");
            assert_eq!((tree(&place), known(&place)), (inside, facts), "seed {seed}");
        }
        git(&place, &["fsck", "--strict"]);
    }
}

#[test]
fn a_copy_that_is_cut_off_anywhere_is_completed_or_has_not_been() {
    if !support::require("host", support::has("strace"), "killing at a system call needs strace") {
        return;
    }
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    let place = guest.path("guest");
    let (helper, real) = (guest.path("helper/guest"), guest.path("helper/real"));
    fs::rename(&helper, &real).unwrap();
    let (mut halves, mut round) = (0, 0);
    let calls = ["mkdir", "mkdirat", "write", "fsync", "rename", "renameat", "unlink", "unlinkat", "clone3"];
    for call in calls {
        // At every one of the first of a kind, then at fewer and fewer of them, until there is none.
        let nth = [1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40, 60].into_iter();
        let mut was_cut = 0;
        for nth in nth {
            round += 1;
            let story = format!("{call} {nth}");
            drop(fs::remove_dir_all(&place));
            drop(fs::remove_dir_all(guest.path("state/vms").join(ID).join("sent")));
            drop(fs::remove_file(&helper));
            fs::hard_link(&real, &helper).unwrap();
            prepared(&guest, &repo, &[]);
            fs::write(repo.join("README.md"), format!("round {round}\n")).unwrap();
            script_in(&repo, "git rm -qf --ignore-unmatch LICENSE 'new*' deep/er/old");
            fs::write(repo.join(format!("new{round}")), "new\n").unwrap();
            // A file that becomes a directory, and one that becomes a file.
            let turn = if round % 2 == 0 {
                "rm -rf turn; echo t >turn"
            } else {
                "rm -rf turn; mkdir turn; echo t >turn/t"
            };
            script_in(&repo, turn);
            script_in(&repo, "mkdir -p deep/er; echo old >deep/er/old; git add -A; git commit -qm next");
            // An index that the guest has changed is changed on, one that it has not is replaced.
            if round % 3 == 0 {
                script_in(&place, "echo own >own; git add own");
            }
            // And a file whose time says that it may be another.
            script_in(&place, "touch README.md");
            let inject =
                format!("strace -qq -o /dev/null -e signal=none -e inject={call}:signal=KILL:when={nth}");
            fs::remove_file(&helper).unwrap();
            fs::write(&helper, format!("#!/bin/sh\nexec {inject} {} \"$@\"\n", real.display())).unwrap();
            fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
            let cut = prepare(&guest, &repo, &[]);
            fs::remove_file(&helper).unwrap();
            fs::hard_link(&real, &helper).unwrap();
            if cut.status.success() {
                break;
            }
            was_cut += 1;
            if place.join(".git/banger-sync/go").exists() {
                halves += 1;
                assert_cut(&guest, &repo, &place);
            }
            // The host has gone on, too.
            fs::write(repo.join("README.md"), format!("round {round} and more\n")).unwrap();
            let again = prepare(&guest, &repo, &[]);
            if !again.status.success() {
                support::assert_error(&again, 4, "busy");
                prepared(&guest, &repo, &[]);
            }
            script_in(&place, "git rm -qf own");
            assert_same(&guest, &repo, &story);
            assert!(!place.join(".git/banger-sync").exists(), "{story}");
            git(&place, &["fsck", "--strict"]);
        }
        // Not every program and library has every one of the calls; these three are what it is about.
        assert!(was_cut > 0 || !["fsync", "renameat", "unlinkat"].contains(&call), "{call}");
    }
    assert!(halves >= 8, "only {halves} copies were cut off in the middle");
}

#[test]
fn locks_from_before_the_power_went_hold_nothing_up() {
    if !support::require("host", support::has("strace"), "killing at a system call needs strace") {
        return;
    }
    let Some(guest) = Guest::with_helper() else { return };
    let (repo, place) = (guest.repo(), guest.path("guest"));
    let (helper, real) = (guest.path("helper/guest"), guest.path("helper/real"));
    prepared(&guest, &repo, &[]);
    script_in(&repo, "echo next >README.md; git commit -qam next");
    fs::rename(&helper, &real).unwrap();
    let inject = "strace -qq -o /dev/null -e signal=none -e inject=renameat:signal=KILL:when=2";
    fs::write(&helper, format!("#!/bin/sh\nexec {inject} {} \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!prepare(&guest, &repo, &[]).status.success());
    assert!(place.join(".git/banger-sync/go").exists());
    fs::rename(&real, &helper).unwrap();
    // One that somebody may have: git says so.
    fs::write(place.join(".git/HEAD.lock"), "").unwrap();
    let error = support::assert_error(&prepare(&guest, &repo, &[]), 1, "failed");
    assert!(error["error"]["message"].as_str().unwrap().contains("HEAD.lock"), "{error}");
    script_in(&place, "touch -d 2001-02-03 .git/HEAD.lock .git/refs/heads/main.lock");
    support::assert_error(&prepare(&guest, &repo, &[]), 4, "busy");
    assert_eq!(prepared(&guest, &repo, &[])["result"]["changed"], false);
    assert_same(&guest, &repo, "locks");
}

/// Nothing is to be had from a workspace that is half of one and half of another.
#[track_caller]
fn assert_cut(guest: &Guest, repo: &Path, place: &Path) {
    let (mut record, base) = (guest.record(), git(place, &["rev-parse", "refs/banger/prepared"]));
    record["workspace"] = serde_json::json!({
        "host_path": repo, "guest_path": place, "head_commit": null, "mode": "full", "file_count": 1,
        "base_commit": String::from_utf8_lossy(&base).trim(), "size_bytes": 1,
        "prepared_at": "2026-01-01T00:00:00Z"
    });
    support::assert_error(&guest.ws(&["exec", "--", "true"], &record), 125, "conflict");
    support::assert_error(&guest.ws(&["export", "--output", "p"], &record), 1, "conflict");
}

#[test]
fn large_files_travel_once_in_a_second_copy_too() {
    let Some(guest) = Guest::with_helper() else { return };
    let (repo, place) = (guest.repo(), guest.path("guest"));
    let write = |name: &str, line: &str| {
        fs::create_dir_all(repo.join(name).parent().unwrap()).unwrap();
        fs::write(repo.join(name), line.repeat((1 << 20) / line.len() + 2)).unwrap();
    };
    write("big", "one\n");
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "big"]);
    prepared(&guest, &repo, &[]);
    write("big", "two\n");
    write("deep/er/it's new", "three\n");
    script_in(
        &repo,
        "chmod 755 big; touch -d @1000000000 big; git add -A; git commit -qm more; echo small >small; git add small",
    );
    prepared(&guest, &repo, &[]);
    assert_same(&guest, &repo, "large");
    let modified = fs::metadata(place.join("big")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_000_000_000);
    git(&place, &["fsck", "--strict"]);
    // What the guest has made of one is compared with it.
    write("big", "four\n");
    fs::copy(repo.join("big"), place.join("big")).unwrap();
    prepared(&guest, &repo, &[]);
    assert_same(&guest, &repo, "the same in both");
    write("big", "five\n");
    script_in(&place, "echo guest >>big");
    let error = support::assert_error(&prepare(&guest, &repo, &[]), 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], serde_json::json!(["big"]));
    prepared(&guest, &repo, &["--force"]);
    assert_same(&guest, &repo, "--force");
}

#[test]
fn a_guest_without_banger_guest_takes_all_or_nothing() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    prepared(&guest, &repo, &[]);
    assert_eq!(prepared(&guest, &repo, &[])["result"]["changed"], false);
    fs::write(repo.join("README.md"), "next\n").unwrap();
    let error = support::assert_error(&prepare(&guest, &repo, &[]), 1, "conflict");
    assert!(error["error"]["message"].as_str().unwrap().contains("banger-guest"), "{error}");
    prepared(&guest, &repo, &["--force"]);
    assert_same(&guest, &repo, "--force");
}

#[test]
fn a_sparse_checkout_that_grows_and_shrinks_is_followed() {
    let Some(guest) = Guest::with_helper() else { return };
    let (repo, place) = (guest.repo(), guest.path("guest"));
    script_in(&repo, "mkdir deep more; echo x >deep/x; echo y >more/y; git add -A; git commit -qm deep");
    git(&repo, &["sparse-checkout", "set", "src"]);
    assert!(!repo.join("deep").exists());
    prepared(&guest, &repo, &[]);
    let steps = [
        "git sparse-checkout add deep; echo 'int c;' >src/a.c",
        "git sparse-checkout set more",
        "echo z >more/z; git add more/z; git sparse-checkout set --no-cone /src /README.md",
        "git sparse-checkout disable; git commit -qm z",
        "git sparse-checkout set --cone deep",
    ];
    for (at, step) in steps.into_iter().enumerate() {
        script_in(&repo, step);
        // An index that the guest has changed is not replaced, and must get the flags all the same.
        if at % 2 == 1 {
            script_in(&place, "echo own >own; git add --sparse own");
        }
        prepared(&guest, &repo, &[]);
        script_in(&place, "git rm -qf --sparse own");
        assert_same(&guest, &repo, step);
        let list = |dir: &Path| {
            support::run(support::command("git").arg("-C").arg(dir).args(["sparse-checkout", "list"]), b"")
        };
        assert_eq!(list(&place).stdout, list(&repo).stdout, "{step}");
    }
    // What is left out is none of the guest's: a file of its own there is in the way.
    script_in(&place, "mkdir -p more; echo guest >more/y");
    git(&repo, &["sparse-checkout", "add", "more"]);
    let error = support::assert_error(&prepare(&guest, &repo, &[]), 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], serde_json::json!(["more/y"]));
}

/// The second copy is as a first one.
#[track_caller]
pub(super) fn assert_same(guest: &Guest, repo: &Path, story: &str) {
    let (wanted, there) = (fresh(guest, repo), guest.path("guest"));
    // What both sides agreed on goes on to be there when git on the host has forgotten it.
    let (forgotten, rest): (Vec<_>, Vec<_>) =
        tree(&there).difference(&tree(&wanted)).cloned().partition(|file| is_untracked(repo, &file.0));
    assert!(rest.is_empty() && tree(&wanted).is_subset(&tree(&there)), "{story}: {rest:?}");
    assert!(forgotten.iter().all(|file| tree(repo).contains(file)), "{story}: {forgotten:?}");
    if forgotten.is_empty() {
        assert_eq!(known(&there), known(&wanted), "{story}");
    }
}

fn is_untracked(repo: &Path, path: &Path) -> bool {
    let mut command = support::command("git");
    command.arg("--literal-pathspecs").arg("-C").arg(repo).args(["ls-files", "-z", "--"]).arg(path);
    support::run(&mut command, b"").stdout.is_empty()
}

/// Waits until a file was written so long ago that who looks at it now need not read it again where nobody has touched it since.
fn grow_old(file: &Path) {
    let changed =
        || std::time::UNIX_EPOCH + Duration::from_secs(fs::metadata(file).unwrap().ctime().cast_unsigned());
    support::eventually("the file to be old", || {
        changed().elapsed().is_ok_and(|age| age > Duration::from_secs(4))
    });
}

#[test]
fn bytes_that_git_calls_the_same_arrive() {
    let Some(guest) = Guest::with_helper() else { return };
    let (repo, place) = (guest.repo(), guest.path("guest"));
    script_in(
        &repo,
        "printf '*.txt text\\n*.id ident\\n*.u16 text working-tree-encoding=UTF-16LE\\n' >.gitattributes
         printf 'a\\nb\\nc\\n' >lines.txt; printf 'a\\nb\\n' >mixed.txt; printf 'plain\\n' >plain
         printf '$Id$\\n' >key.id; printf 'h\\0i\\0\\n\\0' >wide.u16; echo one >assumed
         git add -A; git commit -qm attributes; git update-index --assume-unchanged assumed",
    );
    prepared(&guest, &repo, &[]);
    for step in [
        "printf 'a\\r\\nb\\r\\nc\\r\\n' >lines.txt",
        "printf 'a\\r\\nb\\n' >mixed.txt",
        "printf 'a\\nb\\r\\n' >mixed.txt",
        "printf '$Id: 0123 $\\n' >key.id",
        "printf '$Id: 4567 $\\n' >key.id",
        "echo two >assumed",
        "echo more >>assumed; git checkout lines.txt; rm lines.txt; git checkout lines.txt",
        "touch -d '2001-02-03' plain lines.txt mixed.txt; git update-index --refresh",
        "chmod 755 assumed",
        "echo three >>assumed",
        "rm assumed; ln -s nowhere assumed",
        "ln -sf elsewhere assumed",
        "rm assumed; echo four >assumed",
        "printf 'a\\r\\nb\\r\\n' >mixed.txt",
        "git add mixed.txt",
        // Staged, and since then git is told not to look: no object of git's is what stands there.
        "git update-index --no-assume-unchanged assumed; echo staged >assumed; git add assumed
         git update-index --assume-unchanged assumed; echo five >assumed",
        "echo again >>plain",
    ] {
        script_in(&repo, step);
        if step.contains("echo five") {
            grow_old(&repo.join("assumed"));
        }
        let output = prepare(&guest, &repo, &[]);
        assert!(output.status.success(), "{step}: {}", said(&output));
        assert_same(&guest, &repo, step);
    }
    // What was only written again on the host is no reason to ask about what the guest has made of it.
    script_in(&place, "echo guest >plain; printf 'guest\\n' >lines.txt");
    script_in(&repo, "touch plain lines.txt; echo 'int d;' >src/a.c");
    prepared(&guest, &repo, &[]);
    assert_eq!(fs::read(place.join("plain")).unwrap(), b"guest\n");
    assert_eq!(fs::read(place.join("lines.txt")).unwrap(), b"guest\n");
    // But what has other bytes is.
    script_in(&repo, "printf 'a\\r\\nb\\r\\nc\\r\\n' >lines.txt");
    let error = support::assert_error(&prepare(&guest, &repo, &[]), 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], serde_json::json!(["lines.txt"]));
}

#[test]
fn an_untracked_attributes_file_travels_since_git_reads_the_others_by_it() {
    let Some(guest) = Guest::with_helper() else { return };
    let (repo, place) = (guest.repo(), guest.path("guest"));
    prepared(&guest, &repo, &[]);
    script_in(
        &repo,
        "printf '* text=auto\n' >.gitattributes; printf 'a\r\n' >README.md; cp README.md src; echo loose >loose",
    );
    let output = prepare(&guest, &repo, &[]);
    let record = support::record(&output);
    assert!(said(&output).contains("2 untracked files stay behind"), "{}", said(&output));
    assert_eq!(fs::read(place.join(".gitattributes")).unwrap(), b"* text=auto\n");
    assert_same(&guest, &repo, "attributes");
    // Written again there, with the bytes that were given, it is no change of the guest's: neither to the host nor in a patch.
    script_in(&place, "cp README.md again; mv again README.md");
    let patch = guest.ws(&["export"], &record);
    assert_eq!((patch.status.code(), &*patch.stdout), (Some(0), &b""[..]), "{}", said(&patch));
    script_in(&repo, "git rm -qf README.md");
    prepared(&guest, &repo, &[]);
    assert_same(&guest, &repo, "gone");
}

/// What people do to a checkout that git sees little of: sparse checkouts, line endings, and files that it is not to look at.
fn twist(dice: &mut Dice) -> String {
    let path = ["a", "README.md", "src/a.c", "src/b.c", "d/e/f", "run.sh"][dice.roll(6)];
    match dice.roll(9) {
        0 => format!("git sparse-checkout set {}", ["src", "d", "src/deep"][dice.roll(3)]),
        1 => "git sparse-checkout disable".into(),
        2 => format!("git sparse-checkout set --no-cone '/{path}' '!/d/'"),
        3 => format!("[ ! -f {path} ] || sed -i 's/$/\\r/' {path}"),
        4 => format!("[ ! -f {path} ] || sed -i 's/\\r*$//' {path}"),
        5 => "printf '* text=auto\\n' >.gitattributes; git add .gitattributes".into(),
        6 => format!("git update-index --assume-unchanged {path}; echo assumed >>{path}"),
        7 => format!("git update-index --no-assume-unchanged {path}"),
        _ => format!("touch {path}; git update-index -q --refresh"),
    }
}

#[test]
fn random_changes_that_git_hardly_sees_arrive() {
    let Some(guest) = Guest::with_helper() else { return };
    for seed in seeds(200..220) {
        let (repo, mut dice) = random_checkout(&guest, seed);
        let mut story = format!("BANGER_TEST_SEED={seed}");
        for _ in 0..5 {
            let change = [twist(&mut dice), twist(&mut dice), script(&mut dice)].join("\n");
            story += &format!("\n--\n{change}");
            script_in(&repo, &change);
            let output = prepare(&guest, &repo, &[]);
            assert!(output.status.success(), "{story}: {}", said(&output));
            assert_same(&guest, &repo, &story);
        }
    }
}
