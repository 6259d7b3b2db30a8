//! `--patch-dir`: a patch for each repository, and how they are applied.

use std::fs;

use serde_json::json;

use super::guest::{Guest, git, said, status};
use super::modes::{LOCAL, add_submodule, upstream};
use crate::support;

#[test]
fn each_repository_has_its_patch_and_the_readme_applies_them() {
    let Some(guest) = Guest::new() else { return };
    let (inner, outer) = (upstream(&guest, "inner"), upstream(&guest, "outer"));
    add_submodule(&outer, &inner, "deep/er");
    let repo = guest.repo();
    for (from, path) in [(&outer, "lib/it's a library"), (&inner, "same"), (&inner, "absent")] {
        add_submodule(&repo, from, path);
    }
    git(&repo, &[&LOCAL[..], &["submodule", "update", "-q", "--init", "--recursive"]].concat());
    git(&repo, &["submodule", "deinit", "-q", "-f", "absent"]);
    let dir = guest.path("patches");
    let command = "printf 'here\\n' >>README.md; cd lib/*library; echo one >>file; printf '\\0' >bin; mkfifo fifo; rm deep/er/file; echo x >deep/er/.envrc";
    let options = ["--patch-dir", dir.to_str().unwrap(), "--record", "r.json"];
    let words = ["--", "sh", "-c", command];
    let repo_options = ["run", "--repo", repo.to_str().unwrap(), "--guest-path"];
    let copy = guest.path("guest");
    let args = [&repo_options[..], &[copy.to_str().unwrap()], &options, &words].concat();
    let output = guest.ws(&args, &guest.record());
    assert!(output.status.success(), "{}", said(&output));
    let record = guest.last_record();
    let result = &record["result"];
    let library = "lib/it's a library";
    let patches = result["patches"].as_array().unwrap();
    let named: Vec<_> = patches.iter().map(|patch| patch["repository"].as_str().unwrap()).collect();
    assert_eq!(named, [".", library, &format!("{library}/deep/er")]);
    for patch in patches {
        let bytes = fs::read(patch["file"].as_str().unwrap()).unwrap();
        assert_eq!(patch["bytes"], bytes.len());
        assert_eq!(patch["sha256"], banger_host::digest::sha256(&bytes));
    }
    let below = |path: &str| format!("{library}/{path}");
    let files =
        ["README.md".to_owned(), below("bin"), below("file"), below("deep/er/.envrc"), below("deep/er/file")];
    assert_eq!(result["files"], json!(files), "{record}");
    assert_eq!(result["change_count"], 5);
    assert_eq!(result["flagged"][0]["path"], below("deep/er/.envrc"));
    assert_eq!(result["left_out"][0]["path"], below("fifo"));
    assert_eq!((&result["patch_file"], &result["lost"]), (&json!(null), &json!(null)));

    // The README's own words apply them.
    let readme = fs::read_to_string(dir.join("README")).unwrap();
    assert!(readme.contains("Nothing changed in:\n\n    same\n"), "{readme}");
    let commands: Vec<_> = readme.lines().filter(|line| line.starts_with("    git ")).collect();
    assert_eq!(commands.len(), 3, "{readme}");
    for line in commands {
        let output = support::run(support::command("sh").args(["-ec", line]), b"");
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
    assert_eq!(fs::read_to_string(repo.join(library).join("file")).unwrap(), "outer\none\n");
    assert_eq!(fs::read(repo.join(library).join("bin")).unwrap(), b"\0");
    assert!(!repo.join(library).join("deep/er/file").exists());
    assert_eq!(status(&repo.join(library)), status(&copy.join(library)));

    // The same of a workspace that is there; what is in the way is told.
    let again = guest.path("again");
    let output = guest.ws(&["export", "--patch-dir", again.to_str().unwrap()], &record);
    assert!(output.status.success(), "{}", said(&output));
    for patch in patches {
        let file = std::path::Path::new(patch["file"].as_str().unwrap());
        let name = file.file_name().unwrap();
        assert_eq!(fs::read(again.join(name)).unwrap(), fs::read(file).unwrap(), "{name:?}");
    }
    let output = guest.ws(&["export", "--patch-dir", again.to_str().unwrap()], &record);
    support::assert_error(&output, 2, "usage");
    assert!(said(&output).contains("holds something already"), "{}", said(&output));
}

#[test]
fn what_is_in_no_repository_of_the_host_is_lost_by_name() {
    let Some(guest) = Guest::new() else { return };
    let inner = upstream(&guest, "inner");
    let repo = guest.repo();
    add_submodule(&repo, &inner, "sub");
    git(&repo, &["submodule", "deinit", "-q", "-f", "sub"]);
    let output =
        guest.run(&repo, &[], &["sh", "-c", "mkdir -p sub; echo 1 >sub/new; rm -f .gitignore; : >other"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let dir = guest.path("patches");
    let output = guest.ws(&["export", "--patch-dir", dir.to_str().unwrap()], &guest.last_record());
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let result = &support::record(&output)["result"];
    assert_eq!(
        (&result["lost"][0]["path"], &result["lost_count"]),
        (&json!("sub/new"), &json!(1)),
        "{result}"
    );
    assert!(
        result["lost"][0]["reason"].as_str().unwrap().contains("of which the host has no files"),
        "{result}"
    );
}
