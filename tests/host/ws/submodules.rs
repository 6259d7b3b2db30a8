//! Submodules: each arrives as a repository of its own.

use std::fs;
use std::path::Path;

use super::guest::{Guest, git, status};
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
fn a_submodule_that_changed_makes_another_shipment_and_a_bump_comes_back() {
    let Some(guest) = Guest::new() else { return };
    let inner = upstream(&guest, "inner");
    let repo = guest.repo();
    add_submodule(&repo, &inner, "sub");
    let first = prepare(&guest, &repo, &[]);
    fs::write(repo.join("sub/file"), "dirty\n").unwrap();
    let second = prepare(&guest, &repo, &[]);
    assert_ne!(first["workspace"]["base_commit"], second["workspace"]["base_commit"]);
    commit(&guest.path("guest/sub"), "file", "in the guest\n", "bump");
    let bumped = text(&guest.path("guest/sub"), &["rev-parse", "HEAD"]);
    let output = guest.ws(&["export"], &second);
    let patch = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(patch.contains(&format!("+Subproject commit {}", bumped.trim())), "{patch}");
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
