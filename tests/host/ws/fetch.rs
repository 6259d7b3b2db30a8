//! The guest's commits come home as a branch: whole, as they are, and nothing but them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::guest::{Guest, git, said};
use crate::support;
use crate::support::tree::{Scan, scan};

mod dispatched;
mod hostile;
mod mutants;

/// A guest with a workspace.
struct World {
    guest: Guest,
    repo: PathBuf,
    record: Value,
}

/// Names and dates that nobody has by accident.
const IDENTITY: &str = "export GIT_AUTHOR_NAME='Ärger X' GIT_AUTHOR_EMAIL=x@y GIT_AUTHOR_DATE='@1111111111 +0545' \
     GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@d GIT_COMMITTER_DATE='@1222222222 -0330';";

impl World {
    fn new() -> Option<Self> {
        Self::with(&[], "")
    }

    /// One whose checkout `script` has changed before it was sent with `options`.
    fn with(options: &[&str], script: &str) -> Option<Self> {
        let guest = Guest::new()?;
        let repo = guest.repo();
        sh(&repo, script);
        let path = guest.path("guest");
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
        let record = support::record(&guest.ws(&[&args, options].concat(), &guest.record()));
        Some(Self { guest, repo, record })
    }

    /// Runs `script` in the guest's copy; gives what it says.
    fn inside(&self, script: &str) -> String {
        sh(&self.guest.path("guest"), &format!("{IDENTITY} {script}"))
    }

    fn fetch(&self, args: &[&str]) -> Output {
        self.guest.ws(&[&["fetch"], args].concat(), &self.record)
    }

    /// Fetches, which must do; gives the result.
    #[track_caller]
    fn fetched(&self, args: &[&str]) -> Value {
        let output = self.fetch(args);
        assert!(output.status.success(), "{}", said(&output));
        support::record(&output)["result"].clone()
    }

    /// Everything of the host's repository and its working tree, but for what a fetch to `branch` may bring: that, its reflog, packs.
    fn rest(&self, branch: &str) -> (Scan, String) {
        let mut scan = scan(&self.repo);
        let (leaf, log) = (format!(".git/refs/heads/{branch}"), format!(".git/logs/refs/heads/{branch}"));
        let is_around = |path: &str| [&leaf, &log].iter().any(|p| Path::new(p).starts_with(path));
        scan.retain(|path, _| {
            let path = String::from_utf8_lossy(path);
            !is_around(&path) && !path.starts_with(".git/objects/pack")
        });
        let refs = sh(&self.repo, "git for-each-ref");
        let rest = refs.lines().filter(|line| !line.ends_with(&format!("\trefs/heads/{branch}")));
        (scan, rest.collect::<Vec<_>>().join("\n"))
    }

    /// What must be the same after a fetch that fails.
    fn all(&self) -> (Scan, String) {
        (scan(&self.repo), sh(&self.repo, "git for-each-ref"))
    }

    #[track_caller]
    fn assert_sound(&self) {
        let fsck = sh(&self.repo, "git fsck --full --strict --no-dangling 2>&1");
        let complaints: Vec<&str> = fsck.lines().filter(|line| !line.starts_with("notice: ")).collect();
        assert!(complaints.is_empty(), "{fsck}");
        self.assert_tidy();
    }

    /// Nothing temporary is left.
    #[track_caller]
    fn assert_tidy(&self) {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            entries.collect::<Vec<_>>()
        };
        let vm = names(&self.guest.path("state/vms").join(super::guest::ID));
        assert!(!vm.iter().any(|name| name.starts_with("ws-")), "{vm:?}");
        let fetches = self.guest.path("state/fetch");
        assert!(!fetches.exists() || names(&fetches).is_empty());
        let packs = names(&self.repo.join(".git/objects/pack"));
        assert!(!packs.iter().any(|name| name.starts_with("tmp_")), "{packs:?}");
    }
}

#[track_caller]
fn sh(dir: &Path, script: &str) -> String {
    let output = support::run(support::command("sh").args(["-ec", script]).current_dir(dir), b"");
    assert!(output.status.success(), "{script}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn line(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(git(dir, args)).unwrap().trim_end().to_owned()
}

/// Commits of every kind: a new file, a binary one, a rename and a mode, an empty one.
const COMMITS: &str = "echo 1 >new; git add new; git commit -qm 'one: ä

with a body'; head -c 5000 /dev/urandom >bin; git add bin; git mv src/a.c src/b.c; chmod -x run.sh; git commit -qam two
    git commit -q --allow-empty -m three;";

#[test]
fn commits_come_home_as_they_are_and_nothing_else_changes() {
    let Some(world) = World::new() else { return };
    fs::write(world.repo.join("README.md"), "edited here\n").unwrap();
    world.inside(COMMITS);
    // What is not committed is none of it, and neither are other branches and tags.
    world.inside("git branch other; git tag v1; echo x >loose; echo y >>LICENSE; git add LICENSE");
    let before = world.rest("banger/t/main");
    let result = world.fetched(&[]);
    let tip = line(&world.guest.path("guest"), &["rev-parse", "HEAD"]);
    assert_eq!(
        (&result["changed"], &result["branch"], &result["commit"], &result["commits"]),
        (&json!(true), &json!("banger/t/main"), &json!(tip), &json!(3)),
        "{result}"
    );
    assert_eq!(world.rest("banger/t/main"), before);
    let raw = ["log", "--format=raw", "--stat", "--root", "--no-decorate"];
    let of = |dir: &Path, rev| git(dir, &[&raw[..], &[rev]].concat());
    assert_eq!(of(&world.repo, "banger/t/main"), of(&world.guest.path("guest"), "main"));
    let log = sh(&world.repo, "git reflog show --format=%gs banger/t/main");
    assert_eq!(log, "banger vm fetch t\n");
    world.assert_sound();
    // Again: it is there.
    let before = world.all();
    let result = world.fetched(&[]);
    assert_eq!(
        (&result["changed"], &result["branch"], &result["commits"]),
        (&json!(false), &json!("banger/t/main"), &json!(0)),
        "{result}"
    );
    assert_eq!(world.all(), before);
    // Under another name there is nothing to send.
    let result = world.fetched(&["--as", "mine/x"]);
    assert_eq!((&result["branch"], &result["commits"]), (&json!("mine/x"), &json!(3)), "{result}");
    assert_eq!(line(&world.repo, &["rev-parse", "mine/x"]), tip);
    assert_eq!(sh(&world.repo, "ls .git/objects/pack/*.pack | wc -l").trim(), "1");
    world.assert_sound();
}

#[test]
fn a_branch_follows_the_guest_forward_and_back_only_by_force() {
    let Some(world) = World::new() else { return };
    world.inside("echo 1 >one; git add one; git commit -qm one");
    assert_eq!(world.fetched(&[])["commits"], 1);
    world.inside("echo 2 >two; git add two; git commit -qm two; echo 3 >two; git commit -qam three");
    let result = world.fetched(&[]);
    assert_eq!((&result["changed"], &result["commits"]), (&json!(true), &json!(2)), "{result}");
    let old = line(&world.repo, &["rev-parse", "banger/t/main"]);
    world.inside("git commit -q --amend -m other");
    let new = line(&world.guest.path("guest"), &["rev-parse", "HEAD"]);
    let before = world.all();
    let error = support::assert_error(&world.fetch(&[]), 1, "conflict");
    assert!(error["error"]["hint"].as_str().unwrap().contains("--force"), "{error}");
    assert_eq!(error["error"]["details"]["old"], json!(old), "{error}");
    assert_eq!(world.all(), before);
    let result = world.fetched(&["--force"]);
    assert_eq!((&result["commit"], &result["commits"]), (&json!(new), &json!(1)), "{result}");
    assert_eq!(line(&world.repo, &["rev-parse", "banger/t/main@{1}"]), old);
    // Back where it was before: that is no way forward either.
    world.inside("git reset -q --hard HEAD^");
    support::assert_error(&world.fetch(&[]), 1, "conflict");
    world.assert_sound();
}

#[test]
fn a_branch_that_somebody_uses_or_that_git_would_not_make_is_refused() {
    let script = "git worktree add -q ../tree -b elsewhere; git symbolic-ref refs/heads/alias refs/heads/main
        git branch rebased; git worktree add -q ../busy rebased; cd ../busy; echo 1 >x; git add x; git commit -qm x
        GIT_SEQUENCE_EDITOR='sed -i s/pick/edit/' git rebase -q -i HEAD^ >/dev/null 2>&1; git -C ../repo branch below/it";
    let Some(world) = World::with(&[], script) else { return };
    world.inside("git commit -q --allow-empty -m one");
    let before = world.all();
    for (branch, status, code) in [
        ("main", 1, "in-use"),
        ("elsewhere", 1, "in-use"),
        ("rebased", 1, "in-use"),
        ("alias", 1, "conflict"),
        ("below", 1, "conflict"),
        ("main/x", 1, "conflict"),
        ("a..b", 2, "bad-input"),
        ("-x", 2, "bad-input"),
        ("@{-1}", 2, "bad-input"),
        ("HEAD", 2, "bad-input"),
        ("a.lock", 2, "bad-input"),
        ("a b", 2, "bad-input"),
        ("", 2, "bad-input"),
    ] {
        for force in [&[][..], &["--force"]] {
            let name = format!("--as={branch}");
            let args = [&[&*name], force].concat();
            let error = support::assert_error(&world.fetch(&args), status, code);
            assert!(error["error"]["hint"].as_str().unwrap().contains("--as"), "{branch}: {error}");
        }
    }
    assert_eq!(world.all(), before);
    world.assert_tidy();
    // Not only as it is named, but as the guest's own name makes it, too.
    sh(&world.repo, "git checkout -q -b banger/t/main");
    support::assert_error(&world.fetch(&[]), 1, "in-use");
}

#[test]
fn a_guest_that_has_committed_nothing_makes_no_branch() {
    let script = "git commit -q --allow-empty -m second; echo 1 >>README.md";
    let Some(world) = World::with(&[], script) else { return };
    let before = world.all();
    for script in
        ["true", "echo x >x", "git checkout -q --detach HEAD^", "git checkout -q -f --orphan unborn"]
    {
        world.inside(script);
        let tip = world.inside("git rev-parse -q --verify HEAD || true");
        let tip = if tip.is_empty() { Value::Null } else { json!(tip.trim()) };
        for args in [&[][..], &["--as", "x"], &["--format", "mbox", "--record", "r.json"]] {
            let output = world.fetch(args);
            assert!(output.status.success(), "{script}: {}", said(&output));
            let bytes =
                if args.len() == 4 { fs::read(world.guest.path("r.json")).unwrap() } else { output.stdout };
            let record: Value = serde_json::from_slice(&bytes).unwrap();
            let result = &record["result"];
            assert_eq!(
                (&result["changed"], &result["branch"], &result["commits"]),
                (&json!(false), &Value::Null, &json!(0)),
                "{script}: {result}"
            );
            assert_eq!(result["commit"], tip, "{script}");
        }
    }
    assert_eq!(world.all(), before);
    world.assert_tidy();
}

#[test]
fn one_commit_of_history_is_enough_to_build_upon() {
    let script = "for i in 1 2 3; do echo $i >>README.md; git commit -qam $i; done";
    let Some(world) = World::with(&["--mode", "shallow"], script) else { return };
    world.inside(COMMITS);
    assert_eq!(world.inside("git rev-list --count HEAD"), "4\n");
    assert_eq!(world.fetched(&[])["commits"], 3);
    assert_eq!(line(&world.repo, &["rev-list", "--count", "banger/t/main"]), "7");
    assert!(!world.repo.join(".git/shallow").exists());
    world.assert_sound();
    // Without git there is nothing to ask.
    let mut record = world.record.clone();
    record["workspace"]["mode"] = "files".into();
    support::assert_error(&world.guest.ws(&["fetch"], &record), 2, "bad-input");
}

#[test]
fn a_host_with_a_cut_history_keeps_it_cut() {
    let script = "for i in 1 2 3; do echo $i >>README.md; git commit -qam $i; done
        git clone -q --depth 2 \"file://$PWD\" ../cut; rm -rf .git; mv ../cut/.git .git";
    let Some(world) = World::with(&[], script) else { return };
    world.inside(COMMITS);
    let shallow = fs::read(world.repo.join(".git/shallow")).unwrap();
    assert_eq!(world.fetched(&[])["commits"], 3);
    assert_eq!(fs::read(world.repo.join(".git/shallow")).unwrap(), shallow);
    world.assert_sound();
    // Where no ref is at what was sent any more it counts where that ends.
    let orphan = "git checkout -q --orphan fresh; git commit -qm fresh; git symbolic-ref -d refs/remotes/origin/HEAD; git update-ref -d refs/remotes/origin/main; git branch -q -D main banger/t/main";
    sh(&world.repo, orphan);
    assert_eq!(world.fetched(&[])["commits"], 3);
    world.assert_sound();
}

#[test]
fn a_checkout_of_any_kind_gets_its_commits() {
    let anew = |format| {
        format!(
            "rm -rf .git; git init -q -b main --object-format={format}; git config user.name A; git config user.email a@b; git add -A"
        )
    };
    // Of another object format; and without a commit of its own.
    for (script, commits) in [(format!("{}; git commit -qm first", anew("sha256")), 3), (anew("sha1"), 4)] {
        let Some(world) = World::with(&[], &script) else { return };
        if commits == 4 {
            world.inside("git add -A; git commit -qm first");
            support::assert_error(&world.fetch(&["--as", "main"]), 1, "in-use");
        }
        world.inside(COMMITS);
        assert_eq!(world.fetched(&[])["commits"], commits);
        world.inside("git commit -q --allow-empty -m more");
        assert_eq!(world.fetched(&[])["commits"], 1);
        world.assert_sound();
    }
    // A working tree beside the first one.
    let Some(mut world) = World::new() else { return };
    sh(&world.repo, "git worktree add -q ../linked -b linked");
    let (linked, path) = (world.guest.path("linked"), world.guest.path("guest"));
    let args =
        ["prepare", "--force", "--repo", linked.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    fs::remove_dir_all(&path).unwrap();
    world.record = support::record(&world.guest.ws(&args, &world.record));
    world.inside(COMMITS);
    let result = world.fetched(&[]);
    assert_eq!((&result["branch"], &result["commits"]), (&json!("banger/t/linked"), &json!(3)), "{result}");
    world.assert_sound();
}

#[test]
fn options_of_the_other_format_are_refused() {
    let Some(world) = World::new() else { return };
    for args in [
        &["--output", "x"][..],
        &["--format", "mbox", "--output", "x", "--as", "y"],
        &["--format", "mbox", "--output", "x", "--force"],
    ] {
        support::assert_error(&world.fetch(args), 2, "usage");
    }
    assert!(!world.guest.path("x").exists());
}

#[test]
fn a_detached_head_and_merges_come_home() {
    let Some(world) = World::new() else { return };
    world.inside(
        "git checkout -qb side; echo s >side; git add side; git commit -qm side; git checkout -q main
         echo m >mine; git add mine; git commit -qm mine; git merge -q --no-ff -m merge side; git checkout -q --detach",
    );
    let result = world.fetched(&[]);
    assert_eq!((&result["branch"], &result["commits"]), (&json!("banger/t/HEAD"), &json!(3)), "{result}");
    assert_eq!(line(&world.repo, &["rev-list", "--count", "--merges", "banger/t/HEAD"]), "1");
    world.inside("git checkout -q side");
    assert_eq!(world.fetched(&[])["branch"], "banger/t/side");
    // A history of its own, without anything of the host's.
    world.inside("git checkout -q --orphan alone; git commit -qm alone");
    assert_eq!(world.fetched(&[])["commits"], 1);
    world.assert_sound();
}

#[test]
fn a_host_that_has_moved_on_or_has_forgotten_is_no_obstacle() {
    let Some(world) = World::new() else { return };
    world.inside(COMMITS);
    sh(&world.repo, "echo 1 >>README.md; git commit -qam moved; echo 2 >>README.md; git commit -qam on");
    assert_eq!(world.fetched(&[])["commits"], 3);
    world.assert_sound();
    // What was sent is nowhere any more: all of it comes.
    let forget = "git commit -q --allow-empty -m x; git checkout -q --orphan fresh; git commit -qm fresh
        git for-each-ref --format='delete %(refname)' refs/heads/main refs/heads/banger | git update-ref --stdin; git reflog expire --expire=now --all; git gc -q --prune=now";
    sh(&world.repo, forget);
    let result = world.fetched(&[]);
    assert_eq!((&result["changed"], &result["commits"]), (&json!(true), &json!(4)), "{result}");
    world.assert_sound();
    // A guest that has only the end of the history cannot give what came before it.
    let script = "for i in 1 2 3; do echo $i >>README.md; git commit -qam $i; done";
    let Some(world) = World::with(&["--mode", "shallow"], script) else { return };
    world.inside("echo 1 >n; git add n; git commit -qm n");
    sh(&world.repo, forget);
    let before = world.all();
    let error = support::assert_error(&world.fetch(&[]), 1, "failed");
    assert!(error["error"]["message"].as_str().unwrap().contains("not complete"), "{error}");
    assert_eq!(world.all(), before);
    // Neither does it do that the commit itself lies around, where what it holds does not.
    let Some(world) = World::new() else { return };
    world.inside("git rm -q LICENSE; git commit -qm one; git revert -n HEAD; git commit -qm two");
    sh(
        &world.repo,
        "git checkout -q --orphan fresh; git rm -qrf .; git commit -q --allow-empty -m fresh; git branch -q -D main",
    );
    let lost = line(&world.guest.path("guest"), &["rev-parse", "HEAD:LICENSE"]);
    fs::remove_file(world.repo.join(".git/objects").join(&lost[..2]).join(&lost[2..])).unwrap();
    let before = world.all();
    let error = support::assert_error(&world.fetch(&[]), 1, "failed");
    assert!(error["error"]["message"].as_str().unwrap().contains("not complete"), "{error}");
    assert_eq!(world.all(), before);
    fs::remove_dir_all(&world.repo).unwrap();
    support::assert_error(&world.fetch(&[]), 3, "not-found");
}

#[test]
fn mails_of_the_commits_are_what_git_am_takes() {
    let Some(world) = World::new() else { return };
    world.inside("echo 1 >new; git add new; git commit -qm 'one: ä'; head -c 5000 /dev/urandom >bin; git add bin; git mv src/a.c src/b.c; git commit -qam two");
    let before = world.all();
    let output = world.fetch(&["--format", "mbox", "--record", "r.json"]);
    assert!(output.status.success(), "{}", said(&output));
    let record: Value = serde_json::from_slice(&fs::read(world.guest.path("r.json")).unwrap()).unwrap();
    let result = &record["result"];
    assert_eq!((&result["changed"], &result["commits"]), (&json!(false), &json!(2)), "{result}");
    assert_eq!(result["branch"], Value::Null);
    assert_eq!(world.all(), before);
    let file = world.guest.path("m.mbox");
    let result = world.fetched(&["--format", "mbox", "--output", "m.mbox"]);
    assert_eq!(result["patch_file"], "m.mbox");
    assert_eq!(fs::read(&file).unwrap(), output.stdout);
    sh(&world.repo, "git checkout -qb applied; git -c user.name=A -c user.email=a@b am -q ../m.mbox");
    let trees = |dir: &Path| line(dir, &["log", "--format=%T %an %ae %at %s", "-2"]);
    assert_eq!(trees(&world.repo), trees(&world.guest.path("guest")));
    let error = support::assert_error(
        &world.fetch(&["--format", "mbox", "--output", "n.mbox", "--max-size", "6K"]),
        1,
        "failed",
    );
    assert!(error["error"]["hint"].as_str().unwrap().contains("--max-size"), "{error}");
    assert!(!world.guest.path("n.mbox").exists());
    world.assert_tidy();
}

#[test]
fn nothing_that_the_host_has_configured_runs() {
    let script = "touch=\"$PWD/../ran\"
        for hook in reference-transaction post-checkout post-merge post-rewrite post-update pre-auto-gc update post-index-change; do
            printf '#!/bin/sh\\necho %s >>%s\\nexit 1\\n' $hook \"$touch\" >.git/hooks/$hook; chmod +x .git/hooks/$hook
        done
        for key in core.fsmonitor core.editor core.pager core.sshCommand credential.helper filter.x.clean filter.x.smudge \
            diff.external diff.x.textconv diff.x.command gpg.program uploadpack.packObjectsHook core.alternateRefsCommand; do
            git config $key \"sh -c 'echo $key >>$touch'\"
        done
        git config gc.auto 1; git config transfer.fsckObjects false; git config fsck.skipList /dev/null
        mkdir -p .git/info; echo '* filter=x diff=x' >.git/info/attributes; git config core.hooksPath .git/hooks";
    let Some(world) = World::with(&[], script) else { return };
    drop(fs::remove_file(world.guest.path("ran")));
    world.inside("git config --local core.hooksPath /dev/null; echo '* diff=x filter=x' >.gitattributes; git add -A; git commit -qm one");
    let before = world.rest("banger/t/main");
    assert_eq!(world.fetched(&[])["commits"], 1);
    assert!(world.fetch(&["--format", "mbox"]).status.success());
    let ran = fs::read_to_string(world.guest.path("ran")).unwrap_or_default();
    assert_eq!(ran, "");
    assert_eq!(world.rest("banger/t/main"), before);
}

#[test]
fn root_leaves_what_it_adds_to_the_repositorys_owner() {
    use std::os::unix::fs::MetadataExt;
    let Some(world) = World::new() else { return };
    world.inside(COMMITS);
    sh(&world.repo, "chown -R 61000:61001 .; chmod 2770 .git/objects/pack");
    let config = world.guest.path("gitconfig");
    fs::write(&config, format!("[safe]\n\tdirectory = {}\n", world.repo.display())).unwrap();
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.arg("fetch").current_dir(world.guest.path("")).env("GIT_CONFIG_GLOBAL", config);
    let output = support::run(&mut command, world.record.to_string().as_bytes());
    assert!(output.status.success(), "{}", said(&output));
    let listed = sh(&world.repo, "find .git -path '*banger*'; find .git/objects/pack -type f");
    assert!(listed.lines().count() >= 8, "{listed}");
    for path in listed.lines() {
        let held = fs::symlink_metadata(world.repo.join(path)).unwrap();
        assert_eq!((held.uid(), held.gid()), (61000, 61001), "{path}");
        if path.ends_with(".pack") {
            assert_eq!(held.permissions().mode() & 0o7777, 0o440, "as closed as the directory");
        }
    }
}
