//! Submodules: each arrives as a repository of its own.

use std::fs;
use std::path::Path;

use super::guest::{Guest, git, said, status};
use super::modes::{LOCAL, add_submodule, assert_whole, commit, prepare, text, try_prepare, upstream};
use crate::support;
use crate::support::changes::tree;

#[test]
fn submodules_arrive_as_they_stand() {
    let Some(guest) = Guest::new() else { return };
    let (inner, outer) = (upstream(&guest, "inner"), upstream(&guest, "outer"));
    add_submodule(&outer, &inner, "deep/er");
    let repo = guest.repo();
    for (from, path) in [(&outer, "lib/outer"), (&inner, "bumped"), (&inner, "empty"), (&inner, "gone")] {
        add_submodule(&repo, from, path);
    }
    git(&repo, &[&LOCAL[..], &["submodule", "update", "-q", "--init", "--recursive"]].concat());
    // One is at another commit than the index has it, one not checked out, one removed, one deep inside dirty.
    commit(&repo.join("bumped"), "file", "two\n", "inner two");
    git(&repo, &["submodule", "deinit", "-q", "-f", "empty"]);
    fs::remove_dir_all(repo.join("gone")).unwrap();
    fs::write(repo.join("lib/outer/deep/er/file"), "dirty\n").unwrap();
    fs::write(repo.join("lib/outer/staged"), "staged\n").unwrap();
    git(&repo.join("lib/outer"), &["add", "staged"]);
    // A repository that is in the index, though in no .gitmodules.
    let nameless = repo.join("nameless");
    git(&repo, &["clone", "-q", inner.to_str().unwrap(), nameless.to_str().unwrap()]);
    git(&repo, &["-c", "advice.addEmbeddedRepo=false", "add", "nameless"]);

    let record = prepare(&guest, &repo, &[]);
    let copy = guest.path("guest");
    assert_eq!(status(&copy), status(&repo));
    for path in ["lib/outer", "lib/outer/deep/er", "bumped", "nameless"] {
        assert_eq!(status(&copy.join(path)), status(&repo.join(path)), "{path}");
        assert_eq!(
            text(&copy.join(path), &["log", "--format=%H"]),
            text(&repo.join(path), &["log", "--format=%H"])
        );
        assert_whole(&copy.join(path));
    }
    assert_whole(&copy);
    git(&copy, &["rm", "-qf", "--cached", "nameless"]);
    git(&repo, &["rm", "-qf", "--cached", "nameless"]);
    let lines = |dir: &Path| {
        let said = text(dir, &["submodule", "status", "--recursive"]);
        said.lines().map(|line| line.split(" (").next().unwrap_or(line).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&copy), lines(&repo));
    assert_eq!(fs::read(copy.join("lib/outer/.git")).unwrap(), b"gitdir: ../../.git/modules/lib/outer\n");
    let files = |dir: &Path| {
        let mut files = tree(dir);
        files.retain(|(path, ..)| !path.iter().any(|part| part == ".git"));
        files
    };
    assert_eq!(files(&copy), files(&repo));
    assert_eq!(record["workspace"]["file_count"].as_u64().unwrap(), files(&repo).len() as u64);
    // No longer in the index, it is a repository in the checkout, which stays behind.
    fs::remove_dir_all(&nameless).unwrap();
    fs::write(repo.join("lib/outer/loose"), "untracked\n").unwrap();
    prepare(&guest, &repo, &["--include-untracked"]);
    assert_eq!(files(&copy), files(&repo));
}

#[test]
fn a_submodule_that_changed_makes_another_shipment_and_what_is_committed_in_it_is_lost_by_name() {
    let Some(guest) = Guest::new() else { return };
    let inner = upstream(&guest, "inner");
    let repo = guest.repo();
    add_submodule(&repo, &inner, "sub");
    let first = prepare(&guest, &repo, &[]);
    fs::write(repo.join("sub/file"), "dirty\n").unwrap();
    let second = prepare(&guest, &repo, &[]);
    assert_ne!(first["workspace"]["base_commit"], second["workspace"]["base_commit"]);
    commit(&guest.path("guest/sub"), "file", "in the guest\n", "bump");
    let output = guest.ws(&["export", "--output", "p", "--record", "r.json"], &second);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert_eq!(guest.last_record()["result"]["lost"][0]["path"], "sub/file");
    assert_eq!(fs::read(guest.path("p")).unwrap(), b"");
}

/// As long as the host leaves them alone they are not part of what differs, whatever the guest does in them.
#[test]
fn a_checkout_with_submodules_goes_in_again() {
    let Some(guest) = Guest::with_helper() else { return };
    let (inner, outer) = (upstream(&guest, "inner"), upstream(&guest, "outer"));
    add_submodule(&outer, &inner, "deep");
    let repo = guest.repo();
    add_submodule(&repo, &outer, "sub");
    git(&repo, &[&LOCAL[..], &["submodule", "update", "-q", "--init", "--recursive"]].concat());
    commit(&repo, "first", "1\n", "with submodules");
    prepare(&guest, &repo, &[]);
    let copy = guest.path("guest");
    let again = || {
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", copy.to_str().unwrap()];
        guest.ws(&args, &guest.record())
    };
    fs::write(copy.join("sub/deep/own"), "the guest's\n").unwrap();
    fs::write(repo.join("first"), "2\n").unwrap();
    commit(&repo, "second", "2\n", "later");
    fs::write(repo.join("staged"), "3\n").unwrap();
    git(&repo, &["add", "staged"]);
    let output = again();
    assert!(output.status.success(), "{}", said(&output));
    let record = support::record(&output);
    assert_eq!(record["result"]["changed"], true);
    assert!(
        record["timings"].as_array().unwrap().iter().any(|timing| timing["step"] == "resync"),
        "{record}"
    );
    assert_eq!(fs::read(copy.join("sub/deep/own")).unwrap(), b"the guest's\n");
    fs::remove_file(copy.join("sub/deep/own")).unwrap();
    assert_eq!(
        (status(&copy), text(&copy, &["log", "--format=%H"])),
        (status(&repo), text(&repo, &["log", "--format=%H"]))
    );
    assert_whole(&copy);
    assert_whole(&copy.join("sub/deep"));
    assert_eq!(support::record(&again())["result"]["changed"], false);

    // One that the host has changed is not sent by itself, and nothing of the guest's is given up for it.
    fs::write(repo.join("sub/deep/file"), "the host's\n").unwrap();
    let record = support::assert_error(&again(), 1, "conflict");
    assert!(
        record["error"]["message"].as_str().unwrap().contains("a submodule is not as it was sent"),
        "{record}"
    );
    git(&repo.join("sub/deep"), &["checkout", "-q", "file"]);
    assert_eq!(support::record(&again())["result"]["changed"], false);
}

#[test]
fn a_shallow_clone_goes_in_again_as_long_as_it_begins_where_it_did() {
    let Some(guest) = Guest::with_helper() else { return };
    let from = upstream(&guest, "from");
    commit(&from, "file", "two\n", "two");
    let (repo, copy) = (guest.path("repo"), guest.path("guest"));
    let url = format!("file://{}", from.display());
    git(&from, &["clone", "-q", "--depth", "1", &url, repo.to_str().unwrap()]);
    for (key, value) in [("user.name", "A"), ("user.email", "a@b")] {
        git(&repo, &["config", key, value]);
    }
    prepare(&guest, &repo, &[]);
    let again = || {
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", copy.to_str().unwrap()];
        guest.ws(&args, &guest.record())
    };
    fs::write(copy.join("own"), "the guest's\n").unwrap();
    commit(&repo, "later", "1\n", "later");
    fs::write(repo.join("file"), "dirty\n").unwrap();
    let output = again();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(copy.join("own")).unwrap(), b"the guest's\n");
    assert_eq!(
        (status(&copy), text(&copy, &["log", "--format=%H"])),
        (status(&repo), text(&repo, &["log", "--format=%H"]))
    );
    assert_whole(&copy);
    git(&repo, &["fetch", "-q", "--unshallow"]);
    fs::write(repo.join("file"), "dirtier\n").unwrap();
    let record = support::assert_error(&again(), 1, "conflict");
    assert!(record["error"]["message"].as_str().unwrap().contains("begins elsewhere"), "{record}");
}

#[test]
fn a_submodule_whose_name_leads_out_is_refused() {
    let Some(guest) = Guest::new() else { return };
    let inner = upstream(&guest, "inner");
    let repo = guest.repo();
    add_submodule(&repo, &inner, "sub");
    let modules = fs::read_to_string(repo.join(".gitmodules")).unwrap();
    for name in ["../../escape", "a/../../../b"] {
        fs::write(repo.join(".gitmodules"), modules.replace("\"sub\"", &format!("\"{name}\""))).unwrap();
        let record = support::assert_error(&try_prepare(&guest, &repo, &[]), 2, "bad-input");
        assert!(record["error"]["message"].as_str().unwrap().contains("\"sub\""), "{record}");
    }
    // Two that would share a git directory.
    add_submodule_under_taken_name(&repo, &inner);
    support::assert_error(&try_prepare(&guest, &repo, &[]), 2, "bad-input");
    // Files alone need no names.
    prepare(&guest, &repo, &["--mode", "files"]);
}

fn add_submodule_under_taken_name(repo: &Path, inner: &Path) {
    git(repo, &["checkout", "-q", ".gitmodules"]);
    add_submodule(repo, inner, "other");
    let modules = fs::read_to_string(repo.join(".gitmodules")).unwrap();
    fs::write(repo.join(".gitmodules"), modules.replace("\"other\"", "\"sub/inside\"")).unwrap();
}
