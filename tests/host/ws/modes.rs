//! Every kind of checkout, and how much of git travels with it: the guest's git must see what the host's does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::guest::{Guest, copy_of, git, said, status};
use crate::support;
use crate::support::changes::tree;

/// Prepares the checkout at `repo` into `guest`, and gives the record.
pub(super) fn prepare(guest: &Guest, repo: &Path, extra: &[&str]) -> Value {
    let output = try_prepare(guest, repo, extra);
    assert!(output.status.success(), "{}", said(&output));
    support::record(&output)
}

pub(super) fn try_prepare(guest: &Guest, repo: &Path, extra: &[&str]) -> Output {
    drop(fs::remove_dir_all(guest.path("guest")));
    let path = guest.path("guest");
    let mut args = vec!["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    args.extend(extra);
    guest.ws(&args, &guest.record())
}

pub(super) fn text(dir: &Path, args: &[&str]) -> String {
    String::from_utf8_lossy(&git(dir, args)).into_owned()
}

/// What git says of a checkout, but for other branches and what `git describe` makes of them.
fn view(dir: &Path) -> Vec<String> {
    let submodules = text(dir, &["submodule", "status", "--recursive"]);
    let submodules = submodules.lines().map(|line| line.split(" (").next().unwrap_or(line).to_owned() + "\n");
    let log =
        support::run(support::command("git").arg("-C").arg(dir).args(["log", "--format=%H %an %s"]), b"");
    vec![
        status(dir),
        String::from_utf8_lossy(&log.stdout).into_owned(),
        submodules.collect(),
        text(dir, &["symbolic-ref", "-q", "--short", "HEAD"].map(|w| if w == "-q" { "--quiet" } else { w })),
    ]
}

/// The guest's git sees what the host's does, its objects are whole, and nothing differs from the prepared commit.
fn assert_same(guest: &Guest, repo: &Path) {
    let copy = guest.path("guest");
    assert_eq!(view(&copy), view(repo));
    assert_whole(&copy);
}

pub(super) fn assert_whole(copy: &Path) {
    git(copy, &["fsck", "--strict"]);
    assert_eq!(
        text(copy, &["diff", "--submodule=short", "--ignore-submodules=dirty", "refs/banger/prepared"]),
        ""
    );
}

pub(super) fn commit(dir: &Path, file: &str, content: &str, message: &str) {
    fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
    fs::write(dir.join(file), content).unwrap();
    git(dir, &["add", "--sparse", file]);
    git(dir, &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", message]);
}

/// A repository of its own with one commit.
pub(super) fn upstream(guest: &Guest, name: &str) -> PathBuf {
    let dir = guest.path(name);
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "-q", "-b", "main"]);
    git(&dir, &["config", "uploadpack.allowFilter", "true"]);
    commit(&dir, "file", &format!("{name}\n"), &format!("{name} one"));
    dir
}

pub(super) const LOCAL: [&str; 2] = ["-c", "protocol.file.allow=always"];

pub(super) fn add_submodule(repo: &Path, from: &Path, path: &str) {
    git(repo, &[&LOCAL[..], &["submodule", "add", "-q", from.to_str().unwrap(), path]].concat());
    git(repo, &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "a submodule"]);
}

#[test]
fn a_shallow_workspace_holds_one_commit() {
    let Some(guest) = Guest::new() else { return };
    let inner = upstream(&guest, "inner");
    commit(&inner, "file", "two\n", "inner two");
    let repo = guest.repo();
    add_submodule(&repo, &inner, "sub");
    fs::write(repo.join("README.md"), "dirty\n").unwrap();
    let old = text(&repo, &["rev-parse", "HEAD~1"]);
    let full = prepare(&guest, &repo, &[]);
    let record = prepare(&guest, &repo, &["--mode", "shallow"]);
    assert_eq!(record["workspace"]["mode"], "shallow");
    assert_eq!(record["workspace"]["head_commit"], full["workspace"]["head_commit"]);
    assert_ne!(record["workspace"]["base_commit"], full["workspace"]["base_commit"]);
    let copy = guest.path("guest");
    assert_eq!(status(&copy), status(&repo));
    for dir in [copy.clone(), copy.join("sub")] {
        assert_eq!(text(&dir, &["rev-list", "--count", "HEAD"]), "1\n");
        assert_eq!(text(&dir, &["rev-parse", "--is-shallow-repository"]), "true\n");
        assert_whole(&dir);
    }
    let mut cat = support::command("git");
    cat.arg("-C").arg(&copy).args(["cat-file", "-e", old.trim()]);
    assert!(!support::run(&mut cat, b"").status.success(), "the parent travelled");
    let output = guest.ws(&["export"], &record);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", said(&output));
}

#[test]
fn files_travel_without_git_and_nothing_pretends_otherwise() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join("README.md"), "dirty\n").unwrap();
    let record = prepare(&guest, &repo, &["--mode", "files"]);
    assert_eq!(record["workspace"]["mode"], "files");
    assert!(!guest.path("guest/.git").exists());
    assert_eq!(tree(&guest.path("guest")), tree(&repo));
    let output = guest.ws(&["exec", "--record", "r.json", "--", "cat", "README.md"], &record);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"dirty\n"[..]),
        "{}",
        said(&output)
    );
    for args in [&["check"][..], &["export", "--output", "p", "--base-commit", "abcdef"]] {
        let error = support::assert_error(&guest.ws(args, &record), 2, "bad-input");
        assert!(error["error"]["message"].as_str().unwrap().contains("without git"), "{error}");
    }
    // What changed is told all the same.
    fs::write(guest.path("guest/new"), "new\n").unwrap();
    let output = guest.ws(&["status"], &record);
    assert_eq!(support::record(&output)["result"]["files"], serde_json::json!(["new"]), "{}", said(&output));
    let output = guest.ws(&["export", "--output", "p"], &record);
    assert_eq!(support::record(&output)["result"]["files"], serde_json::json!(["new"]), "{}", said(&output));
    // A file that moves under the copy makes a short stream, which must not pass for a whole one.
    drop(fs::remove_dir_all(guest.path("guest")));
    let path = guest.path("guest");
    let args =
        ["run", "--repo", repo.to_str().unwrap(), "--mode", "files", "--guest-path", path.to_str().unwrap()];
    let output = guest.ws(&[&args[..], &["--record", "r.json", "--", "ls", "-A"]].concat(), &guest.record());
    assert!(!said(&output).contains(".git\n"), "{}", said(&output));
}

#[test]
fn a_sparse_checkout_stays_sparse() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    commit(&repo, "in/a", "a\n", "in");
    commit(&repo, "out/b", "b\n", "out");
    for cone in [true, false] {
        let (how, what) = if cone { ("--cone", "in") } else { ("--no-cone", "/in/*") };
        git(&repo, &["sparse-checkout", "set", how, "--sparse-index", what]);
        fs::write(repo.join("in/a"), "changed\n").unwrap();
        assert!(!repo.join("out/b").exists());
        let record = prepare(&guest, &repo, &[]);
        assert_same(&guest, &repo);
        let copy = guest.path("guest");
        assert_eq!(text(&copy, &["sparse-checkout", "list"]), text(&repo, &["sparse-checkout", "list"]));
        assert_eq!(text(&copy, &["show", "refs/banger/prepared:out/b"]), "b\n");
        assert!(!copy.join("out").exists());
        let output = guest.ws(&["export"], &record);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", said(&output));
        // What the guest writes outside is part of the patch.
        fs::create_dir_all(copy.join("out")).unwrap();
        for (name, text) in [("out/b", "changed\n"), ("out/new", "new\n")] {
            fs::write(copy.join(name), text).unwrap();
        }
        let output = guest.ws(&["status"], &record);
        assert_eq!(
            support::record(&output)["result"]["files"],
            json!(["out/b", "out/new"]),
            "{}",
            said(&output)
        );
        git(&repo, &["checkout", "-q", "in/a"]);
    }
    let reply = support::record(&guest.ws(&["inspect", repo.to_str().unwrap()], &json!({})));
    assert!(reply["sparse_count"].as_u64().unwrap() > 0, "{reply}");
}

#[test]
fn a_partial_clone_travels_without_a_fetch() {
    let Some(guest) = Guest::new() else { return };
    let from = upstream(&guest, "from");
    commit(&from, "in/a", "a\n", "in");
    commit(&from, "out/b", "b\n", "out");
    commit(&from, "file", "changed\n", "again");
    let url = format!("file://{}", from.display());
    for filter in ["blob:none", "tree:0"] {
        let repo = guest.path(&filter.replace(':', "-"));
        git(&guest.path(""), &["clone", "-q", "--sparse", "--filter", filter, &url, repo.to_str().unwrap()]);
        git(&repo, &["sparse-checkout", "set", "in"]);
        fs::write(repo.join("in/a"), "dirty\n").unwrap();
        let seen = view(&repo);
        // Whoever fetches now fails.
        git(&repo, &["config", "remote.origin.url", "/nowhere"]);
        let before = text(&repo, &["count-objects", "-v"]);
        prepare(&guest, &repo, &[]);
        assert_eq!(text(&repo, &["count-objects", "-v"]), before, "{filter}: something was fetched");
        assert_eq!(view(&guest.path("guest")), seen, "{filter}");
        git(&guest.path("guest"), &["fsck"]);
        assert_eq!(text(&guest.path("guest"), &["config", "remote.origin.promisor"]), "true\n");
        let reply = support::record(&guest.ws(&["inspect", repo.to_str().unwrap()], &json!({})));
        assert_eq!(reply["partial"], true, "{reply}");
    }
}

#[test]
fn shallow_clones_worktrees_and_heads_of_every_kind_arrive() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    for round in 0..3 {
        commit(&repo, "README.md", &format!("{round}\n"), "more");
    }
    git(&repo, &["branch", "other"]);
    // A shallow clone.
    let shallow = guest.path("shallow");
    let url = format!("file://{}", repo.display());
    git(&repo, &["clone", "-q", "--depth", "2", &url, shallow.to_str().unwrap()]);
    prepare(&guest, &shallow, &[]);
    assert_same(&guest, &shallow);
    assert_eq!(text(&guest.path("guest"), &["rev-list", "--count", "HEAD"]), "2\n");
    // A worktree, from a directory inside it.
    let worktree = guest.path("worktree");
    git(&repo, &["worktree", "add", "-q", worktree.to_str().unwrap(), "other"]);
    fs::write(worktree.join("LICENSE"), "changed\n").unwrap();
    let record = prepare(&guest, &worktree.join("src"), &[]);
    assert_same(&guest, &worktree);
    assert_eq!(record["workspace"]["host_path"], worktree.to_str().unwrap());
    // A repository inside the checkout stays behind, and travels by itself.
    let nested = repo.join("nested");
    fs::create_dir(&nested).unwrap();
    git(&nested, &["init", "-q", "-b", "main"]);
    commit(&nested, "n", "n\n", "nested");
    prepare(&guest, &repo, &["--include-untracked"]);
    assert!(!guest.path("guest/nested").exists());
    prepare(&guest, &nested, &[]);
    assert_same(&guest, &nested);
    // An unborn branch.
    git(&nested, &["checkout", "-q", "--orphan", "fresh"]);
    prepare(&guest, &nested, &[]);
    assert_eq!(status(&guest.path("guest")), status(&nested));
    assert_eq!(text(&guest.path("guest"), &["symbolic-ref", "HEAD"]), "refs/heads/fresh\n");
    prepare(&guest, &nested, &["--mode", "shallow"]);
    assert_eq!(status(&guest.path("guest")), status(&nested));
    // A detached HEAD.
    git(&repo, &["checkout", "-q", "--detach", "HEAD~1"]);
    prepare(&guest, &repo, &[]);
    let head = |dir: &Path| text(dir, &["status", "--porcelain=v2", "--branch", "--untracked-files=no"]);
    assert_eq!(head(&guest.path("guest")), head(&repo));
}

#[test]
fn remotes_travel_without_credentials_and_nothing_else_of_the_host_does() {
    let Some(guest) = Guest::new() else { return };
    let from = upstream(&guest, "from");
    let repo = guest.path("clone");
    git(&from, &["clone", "-q", from.to_str().unwrap(), repo.to_str().unwrap()]);
    for (key, value) in [
        ("remote.origin.url", "https://user:s3cret@host/a.git"),
        ("remote.origin.pushurl", "https://s3cret@host/a.git"),
        ("remote.origin.proxy", "http://user:s3cret@proxy"),
        ("url.https://s3cret@host/.insteadOf", "gh:"),
        ("http.extraHeader", "Authorization: s3cret"),
        ("credential.helper", "!echo s3cret"),
        ("include.path", "/s3cret"),
        ("core.sshCommand", "s3cret"),
        ("alias.x", "!s3cret"),
        ("user.name", "Ann"),
        // A remote without a name, as a partial fetch from a URL leaves it behind.
        ("remote.https://user:s3cret@host/b.git.url", "https://user:s3cret@host/b.git"),
        ("remote.https://user:s3cret@host/b.git.promisor", "true"),
        ("remote.https://user:s3cret@host/b.git.partialclonefilter", "blob:none"),
        ("extensions.partialClone", "https://user:s3cret@host/b.git"),
        // Values of keys that travel, of a shape that does not.
        ("remote.s3cret@host.url", "https://host/c.git"),
        ("remote.odd.url", "ext::sh -c 's3cret'"),
        ("remote.odd.fetch", "s3cret@host:refs/x"),
        ("core.whitespace", "https://s3cret@host/"),
        ("submodule.https://s3cret@host/.url", "https://host/d.git"),
        ("submodule.x.branch", "s3cret: x"),
    ] {
        git(&repo, &["config", key, value]);
    }
    git(&repo, &["branch", "secret"]);
    fs::write(repo.join(".git/hooks/pre-commit"), "s3cret").unwrap();
    prepare(&guest, &repo, &[]);
    let copy = guest.path("guest");
    let config = fs::read_to_string(copy.join(".git/config")).unwrap();
    assert!(
        !config.contains("s3cret") && !config.contains("ext::") && !config.contains("include"),
        "{config}"
    );
    assert!(!copy.join(".git/hooks/pre-commit").exists());
    assert_eq!(text(&copy, &["config", "--get-all", "remote.origin.url"]), "https://host/a.git\n");
    assert_eq!(text(&copy, &["config", "user.name"]), "Ann\n");
    // The promise stands, under a name that says no more than where.
    assert_eq!(text(&copy, &["config", "extensions.partialClone"]), "https://host/b.git\n");
    assert_eq!(text(&copy, &["config", "remote.https://host/b.git.promisor"]), "true\n");
    let branch = |dir: &Path| text(dir, &["status", "--porcelain=v2", "--branch"]);
    assert_eq!(branch(&copy), branch(&repo));
    assert!(branch(&copy).contains("branch.ab +0 -0"), "{}", branch(&copy));
    assert!(!text(&copy, &["for-each-ref"]).contains("secret"));
    // What HEAD is behind of would bring another branch's objects along.
    commit(&from, "file", "ahead\n", "ahead");
    git(&repo, &["fetch", "-q", from.to_str().unwrap(), "+main:refs/remotes/origin/main"]);
    prepare(&guest, &repo, &[]);
    let ahead = text(&from, &["rev-parse", "HEAD"]);
    let mut cat = support::command("git");
    cat.arg("-C").arg(&copy).args(["cat-file", "-e", ahead.trim()]);
    assert!(!support::run(&mut cat, b"").status.success());
    assert_eq!(text(&copy, &["for-each-ref", "refs/remotes"]), "");
}

#[test]
fn mise_is_told_to_trust_the_copy() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let mise = guest.path("bin/mise");
    fs::create_dir_all(mise.parent().unwrap()).unwrap();
    let log = guest.path("mise.log");
    fs::write(&mise, format!("#!/bin/sh\necho \"$PWD $*\" >> '{}'; echo noise; exit 1\n", log.display()))
        .unwrap();
    assert!(support::run(support::command("chmod").arg("755").arg(&mise), b"").status.success());
    prepare(&guest, &repo, &[]);
    assert!(!log.exists(), "nothing of mise's is in the checkout");
    commit(&repo, "mise.toml", "[tools]\n", "mise");
    prepare(&guest, &repo, &[]);
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!(told, format!("{} trust --all --yes --quiet\n", guest.path("guest").display()));
    let copy = copy_of(&guest, &repo);
    assert_eq!(tree(&copy), tree(&guest.path("guest")));
}

#[test]
fn large_files_are_made_from_the_history_where_they_are_the_same() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let inner = upstream(&guest, "inner");
    let text = |line: &str| line.repeat((1 << 20) / line.len() + 2);
    let binary: String = (0..500_000_u32).map(|n| char::from(((n * 7919) >> 7) as u8 & 127)).collect();
    fs::write(
        repo.join(".gitattributes"),
        "crlf eol=crlf\nlatin working-tree-encoding=IBM1047\nauto text=auto\n",
    )
    .unwrap();
    commit(&inner, "big", &text("inner\n"), "big");
    add_submodule(&repo, &inner, "sub");
    for (name, content) in [
        ("deep/er/it's big", text("plain\n")),
        ("-rf", binary.repeat(3)),
        ("crlf", text("line\r\n")),
        ("auto", text("line\r\n")),
        ("latin", text("A")),
        ("dirty", text("dirty\n")),
        ("assumed", text("assumed\n")),
        ("run.sh", text("#!/bin/sh\n")),
    ] {
        fs::create_dir_all(repo.join(name).parent().unwrap()).unwrap();
        fs::write(repo.join(name), content).unwrap();
    }
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "large"]);
    fs::write(repo.join("dirty"), text("DIRTY\n")).unwrap();
    git(&repo, &["update-index", "--assume-unchanged", "assumed"]);
    fs::write(repo.join("assumed"), text("ASSUMED\n")).unwrap();
    let touch = |name: &str, time: &str| {
        let done = support::run(support::command("touch").arg("-d").arg(time).arg(repo.join(name)), b"");
        assert!(done.status.success());
    };
    touch("deep/er/it's big", "@1000000000");
    let copy = guest.path("guest");
    for mode in ["full", "shallow", "files"] {
        let record = prepare(&guest, &repo, &["--mode", mode]);
        for (name, one, other) in
            [("root", &repo, &copy), ("submodule", &repo.join("sub"), &copy.join("sub"))]
        {
            let (mut here, mut there) = (tree(one), tree(other));
            for files in [&mut here, &mut there] {
                files.retain(|(path, ..)| !path.iter().any(|part| part == ".git"));
            }
            assert!(here == there, "{mode}: the {name} differs");
        }
        let meta = fs::metadata(copy.join("deep/er/it's big")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 1_000_000_000);
        if mode != "files" {
            assert_eq!(status(&copy), status(&repo));
            // But for another name of the index, by which the next copy knows it.
            let left = fs::read_dir(copy.join(".git")).unwrap().map(|e| e.unwrap().file_name());
            let mut left = left.map(|name| name.to_string_lossy().into_owned());
            assert!(left.all(|name| name == "banger-index" || !name.starts_with("banger")), "{record}");
            git(&copy, &["fsck", "--strict"]);
        }
    }
}

#[test]
fn a_pack_travels_as_it_is_only_without_other_branches() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join("noise"), support::noise(20 << 20)).unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "noise"]);
    git(&repo, &["repack", "-qad"]);
    commit(&repo, "README.md", "loose\n", "loose");
    fs::write(repo.join("LICENSE"), "dirty\n").unwrap();
    let packs = |dir: &Path| -> Vec<String> {
        let names = fs::read_dir(dir.join(".git/objects/pack")).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".pack"));
        names
    };
    let copy = guest.path("guest");
    prepare(&guest, &repo, &[]);
    assert_same(&guest, &repo);
    assert!(packs(&copy).contains(&packs(&repo)[0]) && packs(&copy).len() == 2, "{:?}", packs(&copy));
    // The same pack with an object of another branch in it.
    git(&repo, &["checkout", "-q", "-b", "other", "HEAD~1"]);
    commit(&repo, "secret", "secret\n", "of another branch");
    let secret = text(&repo, &["rev-parse", "HEAD:secret"]);
    git(&repo, &["checkout", "-q", "-f", "main"]);
    git(&repo, &["repack", "-qad"]);
    for branch in ["there", "gone"] {
        if branch == "gone" {
            git(&repo, &["branch", "-qD", "other"]);
        }
        prepare(&guest, &repo, &[]);
        assert_same(&guest, &repo);
        assert!(!packs(&copy).contains(&packs(&repo)[0]), "{branch}");
        let mut cat = support::command("git");
        cat.arg("-C").arg(&copy).args(["cat-file", "-e", secret.trim()]);
        assert!(!support::run(&mut cat, b"").status.success(), "{branch}: another branch's file travelled");
    }
}

#[test]
fn the_tags_of_the_history_travel() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    git(&repo, &["tag", "light"]);
    commit(&repo, "two", "two\n", "second");
    git(&repo, &["tag", "-a", "-m", "it's one", "v1/it's"]);
    git(&repo, &["tag", "-a", "-m", "of a tag", "nested", "v1/it's"]);
    git(&repo, &["tag", "tree", "HEAD^{tree}"]);
    git(&repo, &["branch", "other"]);
    commit(&repo, "three", "three\n", "third");
    git(&repo, &["checkout", "-q", "other"]);
    git(&repo, &["tag", "-a", "-m", "ahead", "ahead", "main"]);
    let copy = guest.path("guest");
    let tags = |dir: &Path| text(dir, &["for-each-ref", "--format=%(refname) %(objectname)", "refs/tags"]);
    let reachable = |dir: &Path| {
        text(dir, &["for-each-ref", "--merged=HEAD", "--format=%(refname) %(objectname)", "refs/tags"])
    };
    prepare(&guest, &repo, &[]);
    assert_eq!(tags(&copy), reachable(&repo));
    assert_eq!(tags(&copy).lines().count(), 3, "{}", tags(&copy));
    assert_eq!(text(&copy, &["describe"]), text(&repo, &["describe"]));
    assert_whole(&copy);
    // A second copy brings new ones and moved ones, and leaves the guest's own.
    git(&copy, &["tag", "own"]);
    git(&repo, &["checkout", "-q", "main"]);
    git(&repo, &["tag", "-f", "light"]);
    let path = copy.to_str().unwrap();
    let output =
        guest.ws(&["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path], &guest.record());
    assert!(output.status.success(), "{}", said(&output));
    git(&copy, &["tag", "-d", "own"]);
    assert_eq!(tags(&copy), reachable(&repo));
    assert_eq!(text(&copy, &["describe"]), text(&repo, &["describe"]));
    assert_whole(&copy);
    // One commit of history has none.
    prepare(&guest, &repo, &["--mode", "shallow"]);
    assert_eq!(tags(&copy), "");
}
