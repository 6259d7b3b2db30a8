//! What the guest changed comes out, and the guest stays as it was.

use std::fs;

use serde_json::{Value, json};

use super::guest::{Guest, git, said};
use crate::support;

#[test]
fn export_leaves_the_guest_as_it_was_and_keeps_forced_files() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let output = guest.run(
        &repo,
        &[],
        &["sh", "-c", "echo x > forced2.o; git add -f forced2.o; echo y > s; git add s; echo z > s"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let snapshot = || {
        (
            fs::read(guest.path("guest/.git/index")).unwrap(),
            git(&guest.path("guest"), &["for-each-ref"]),
            git(&guest.path("guest"), &["count-objects", "-v"]),
        )
    };
    let before = snapshot();
    let record = guest.last_record();
    let output = guest.ws(&["export", "--output", "e.patch"], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]));
    assert_eq!(fs::read(guest.path("e.patch")).unwrap(), fs::read(guest.path("p.patch")).unwrap());
    assert_eq!(snapshot(), before);
    assert!(
        !fs::read_dir(guest.path("guest/.git")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("banger-export"))
    );
    // To stdout the patch is alone; status and check agree.
    let output = guest.ws(&["export"], &record);
    assert_eq!(output.stdout, fs::read(guest.path("e.patch")).unwrap());
    let output = guest.ws(&["status"], &record);
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]), "{}", said(&output));
    assert!(guest.ws(&["check"], &record).status.success());
}

/// A guest whose workspace was made from a checkout and changed by `script`; gives the record too.
fn changed(script: &str) -> Option<(Guest, Value)> {
    let guest = Guest::new()?;
    let repo = guest.repo();
    let output = guest.run(&repo, &[], &["sh", "-c", script]);
    assert!(output.status.success(), "{}", said(&output));
    let record = guest.last_record();
    Some((guest, record))
}

#[test]
fn the_record_says_what_the_patch_does() {
    let script = "seq 9 >list; git add list; git commit -qm list; echo x >>README.md; git mv src/a.c src/b.c
                  rm LICENSE; printf '\\0' >bin; chmod -x run.sh; echo y >.envrc; git checkout -qb other";
    let Some((guest, record)) = changed(script) else { return };
    let result = &record["result"];
    assert_eq!(result["base_ref"], "refs/banger/prepared");
    assert_eq!(result["base_commit"], record["workspace"]["base_commit"]);
    let patch = fs::read(guest.path("p.patch")).unwrap();
    let summed = support::run(support::command("sha256sum").arg(guest.path("p.patch")), b"");
    let sum = String::from_utf8(summed.stdout).unwrap();
    assert_eq!(result["patch_sha256"].as_str(), sum.split(' ').next());
    assert_eq!(result["patch_bytes"], patch.len());
    let changes = result["changes"].as_array().unwrap();
    let sizes: u64 = changes.iter().map(|c| c["patch_bytes"].as_u64().unwrap()).sum();
    assert_eq!(sizes, patch.len() as u64);
    let change = |path: &str| {
        let mut change =
            changes.iter().find(|c| c["path"] == path).cloned().unwrap_or_else(|| panic!("{path}"));
        change.as_object_mut().unwrap().remove("patch_bytes");
        change
    };
    assert_eq!(
        change("list"),
        json!({"path": "list", "status": "added", "mode": "100644", "additions": 9, "deletions": 0})
    );
    assert_eq!(
        change("LICENSE"),
        json!({"path": "LICENSE", "status": "deleted", "additions": 0, "deletions": 1})
    );
    assert_eq!(change("src/b.c")["from"], "src/a.c");
    assert_eq!(change("src/b.c")["status"], "renamed");
    assert_eq!(change("bin"), json!({"path": "bin", "status": "added", "mode": "100644"}));
    assert_eq!(change("run.sh")["mode"], "100644");
    assert_eq!(
        (&result["change_count"], &result["additions"], &result["deletions"]),
        (&json!(7), &json!(11), &json!(1))
    );
    assert_eq!(result["flagged"][0]["path"], ".envrc");
    assert_eq!(
        result["files"],
        json!([".envrc", "LICENSE", "README.md", "bin", "list", "run.sh", "src/a.c", "src/b.c"])
    );
    // The same for people, and of a part.
    let output = guest.ws(&["export", "--stat"], &record);
    let stat = String::from_utf8(output.stdout).unwrap();
    assert!(
        stat.contains(" src/a.c => src/b.c |   0\n")
            && stat.contains(" list               |   9 +++++++++\n"),
        "{stat}"
    );
    assert!(stat.ends_with(" 7 files changed, 11 insertions(+), 1 deletions(-)\n"), "{stat}");
    let output = guest.ws(&["export", "--name-only", "--", "src", "bin"], &record);
    assert_eq!(output.stdout, b"bin\nsrc/a.c\nsrc/b.c\n", "{}", said(&output));
    let output = guest.ws(&["export", "--", "bin"], &record);
    assert!(output.stdout.starts_with(b"diff --git a/bin b/bin\n"), "{}", said(&output));
    // Against a commit of the guest's: what was committed is not in it.
    let head = String::from_utf8(git(&guest.path("guest"), &["rev-parse", "HEAD"])).unwrap();
    let output = guest.ws(&["export", "--output", "y", "--base-commit", head.trim()], &record);
    let since = support::record(&output);
    assert_eq!(
        (&since["result"]["base_ref"], &since["result"]["base_commit"]),
        (&Value::Null, &json!(head.trim()))
    );
    assert!(!since["result"]["files"].as_array().unwrap().contains(&json!("list")), "{since}");
}

#[test]
fn a_repository_inside_the_workspace_is_files_like_others() {
    let Some((_guest, record)) = changed("git init -q empty; echo 1 >empty/x; echo 2 >new") else { return };
    assert_eq!(record["result"]["files"], json!(["empty/x", "new"]));
    assert_eq!(record["result"]["left_out"][0]["path"], "empty/.git", "{record}");
}

#[test]
fn what_the_guests_git_is_told_counts_for_nothing() {
    let Some((guest, record)) = changed("echo 1 >new") else { return };
    let place = guest.path("guest");
    let first = fs::read(guest.path("p.patch")).unwrap();
    for script in [
        "echo '*' >.git/info/exclude; git config core.excludesFile /dev/stdin; git config core.bare true",
        "echo 'not an index' >.git/index",
        "rm .git/HEAD; chown -R 7:7 .",
        "rm -rf .git",
        "git init -q . && git add -A",
        "rm -rf .git; echo 'gitdir: /nowhere' >.git",
        "rm -rf .git; mkdir .git; mkfifo .git/index .git/HEAD",
        "rm -rf .git; mkfifo .git",
    ] {
        support::run(support::command("sh").args(["-c", script]).current_dir(&place), b"");
        let output = guest.ws(&["export", "--output", "z"], &record);
        assert!(output.status.success(), "{script}: {}", said(&output));
        assert_eq!(fs::read(guest.path("z")).unwrap(), first, "{script}");
    }
}

#[test]
fn a_change_that_size_and_time_do_not_show_comes_out() {
    for helper in [true, false] {
        let Some(guest) = (if helper { Guest::with_helper() } else { Guest::new() }) else { return };
        let repo = guest.repo();
        let script = "touch -r README.md /tmp/time.$$; sed -i s/hello/HELLO/ README.md; touch -r /tmp/time.$$ README.md; rm /tmp/time.$$
                      mkfifo pipe; rm LICENSE; mkfifo LICENSE; mkdir empty";
        let output = guest.run(&repo, &[], &["sh", "-c", script]);
        assert!(output.status.success(), "{}", said(&output));
        let result = guest.last_record()["result"].clone();
        assert_eq!(result["files"], json!(["LICENSE", "README.md"]), "{result}");
        let left: Vec<&str> =
            result["left_out"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
        assert_eq!(left, ["LICENSE", "empty", "pipe"]);
    }
}

#[test]
fn the_largest_changes_are_lost_by_name_where_the_patch_would_be_too_large() {
    let script =
        "head -c 300000 /dev/urandom >large; head -c 2000000 /dev/urandom >larger; echo small >small";
    let Some((guest, record)) = changed(script) else { return };
    let args = ["export", "--output", "z", "--record", "z.json", "--max-patch-size", "1M"];
    let output = guest.ws(&args, &record);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let result: Value = serde_json::from_slice(&fs::read(guest.path("z.json")).unwrap()).unwrap();
    assert_eq!(result["result"]["lost"][0]["path"], "larger", "{result}");
    assert_eq!(result["result"]["files"], json!(["large", "small"]));
    let args = ["export", "--output", "z", "--record", "z.json", "--max-patch-size", "310K"];
    assert_eq!(guest.ws(&args, &record).status.code(), Some(125));
    let result: Value = serde_json::from_slice(&fs::read(guest.path("z.json")).unwrap()).unwrap();
    assert_eq!(result["result"]["files"], json!(["small"]), "{result}");
    assert_eq!(result["result"]["lost_count"], 2);
}

#[test]
fn a_submodule_has_a_patch_of_its_own() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let library = guest.path("library");
    fs::create_dir(&library).unwrap();
    git(&library, &["init", "-q", "-b", "main"]);
    fs::write(library.join("l.c"), "int l;\n").unwrap();
    git(&library, &["add", "-A"]);
    git(&library, &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "library"]);
    let from = library.to_str().unwrap();
    git(&repo, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", from, "lib/l"]);
    git(&repo, &["commit", "-qm", "with a library"]);
    let command = "echo 'int m;' >>lib/l/l.c; echo 1 >new";
    let output = guest.run(&repo, &[], &["sh", "-c", command]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let record = guest.last_record();
    assert_eq!(record["result"]["files"], json!(["new"]));
    assert_eq!(record["result"]["lost"][0]["path"], "lib/l/l.c", "{record}");
    assert!(said(&output).contains("not in the patch: lib/l/l.c"), "{}", said(&output));
    let before = git(&guest.path("guest/lib/l"), &["status", "--porcelain=v2"]);
    let output = guest.ws(&["export", "--output", "l.patch", "--submodule", "lib/l"], &record);
    let own = support::record(&output);
    assert_eq!(
        (&own["result"]["files"], &own["result"]["left_out"]),
        (&json!(["l.c"]), &Value::Null),
        "{own}"
    );
    assert_eq!(git(&guest.path("guest/lib/l"), &["status", "--porcelain=v2"]), before);
    // Committed there, it is the same.
    git(&guest.path("guest/lib/l"), &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qam", "more"]);
    let output = guest.ws(&["export", "--output", "p2", "--record", "r2.json"], &record);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(!fs::read_to_string(guest.path("p2")).unwrap().contains("Subproject"));
    let output = guest.ws(&["export", "--output", "l2.patch", "--submodule", "lib/l"], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(guest.path("l2.patch")).unwrap(), fs::read(guest.path("l.patch")).unwrap());
    let output = guest.ws(&["export", "--submodule", "lib"], &record);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    // Once it is home nothing of it is lost.
    let sub = repo.join("lib/l");
    let output = guest.ws(&["apply", "--patch", "l.patch", "--to", sub.to_str().unwrap()], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read_to_string(sub.join("l.c")).unwrap(), "int l;\nint m;\n");
    let output = guest.ws(&["export", "--output", "p2", "--record", "r2.json"], &record);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn the_rules_around_a_repository_do_not_count_in_it() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let inner = super::modes::upstream(&guest, "repo/inner");
    fs::write(inner.join(".git/info/exclude"), "/own\n").unwrap();
    git(&repo, &["-c", "advice.addEmbeddedRepo=false", "add", "inner"]);
    git(&repo, &["commit", "-qm", "a repository that is no submodule"]);
    let output = guest.run(
        &repo,
        &[],
        &["sh", "-c", "echo '*' >>.gitignore; cd inner; touch new own; touch ../around"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let result = &guest.last_record()["result"];
    assert_eq!(result["files"], json!([".gitignore", "inner/new"]), "{result}");
    assert_eq!(result["ignored_count"], 2);
}

#[test]
fn nothing_is_made_where_a_link_led_round_in_a_circle() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    std::os::unix::fs::symlink("loop", repo.join("loop")).unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "a loop"]);
    let output = guest.run(&repo, &[], &["sh", "-c", "rm loop; mkdir loop; echo 1 >loop/f; echo 2 >other"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let result = &guest.last_record()["result"];
    assert_eq!(
        (&result["lost"][0]["path"], &result["lost_count"]),
        (&json!("loop/f"), &json!(1)),
        "{result}"
    );
    git(&repo, &["apply", guest.path("p.patch").to_str().unwrap()]);
    assert!(!repo.join("loop").is_symlink() && repo.join("other").exists());
}

#[test]
fn what_makes_room_for_a_file_is_not_left_out_without_it() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let command = "cp README.md README; rm README.md; mkdir README.md; seq 1500 >README.md/large; echo 1 >README.md/f; seq 1400 >f";
    let output = guest.run(&repo, &["--max-patch-size", "10K"], &["sh", "-c", command]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let result = &guest.last_record()["result"];
    let lost: Vec<_> = result["lost"].as_array().unwrap().iter().map(|lost| &lost["path"]).collect();
    assert_eq!(lost, ["README", "README.md", "README.md/f", "README.md/large"], "{result}");
    git(&repo, &["apply", guest.path("p.patch").to_str().unwrap()]);
    assert!(repo.join("f").is_file() && repo.join("README.md").is_file());
}

#[test]
fn a_link_that_moves_makes_room_for_a_directory() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    std::os::unix::fs::symlink("nowhere", repo.join("dangling")).unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "a link"]);
    let output = guest.run(
        &repo,
        &[],
        &["sh", "-c", "mkdir d; mv dangling d/moved; mkdir dangling; echo 1 >dangling/f"],
    );
    assert!(output.status.success(), "{}", said(&output));
    git(&repo, &["apply", guest.path("p.patch").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(repo.join("dangling/f")).unwrap(), "1\n");
    assert_eq!(fs::read_link(repo.join("d/moved")).unwrap(), std::path::Path::new("nowhere"));
}
