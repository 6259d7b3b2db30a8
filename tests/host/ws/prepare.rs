//! What of a checkout arrives in the guest.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use super::guest::{Guest, ID, WORK, assert_round_trip, copy_of, git, said, status};
use crate::support;

#[test]
fn a_clean_checkout_travels_and_a_patch_comes_back() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let copy = copy_of(&guest, &repo);
    let before = git(&repo, &["rev-parse", "HEAD"]);
    let output =
        guest.run(&repo, &[], &["sh", "-c", &format!("git log --format=%H; {WORK}; echo err >&2; exit 7")]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(output.stdout, before);
    assert_eq!(output.stderr, b"err\n");
    assert_round_trip(&guest, &copy);
    let record = guest.last_record();
    assert_eq!(record["result"]["exit_code"], 7);
    assert_eq!(record["result"]["files"], json!(["LICENSE", "README.md", "bin", "later"]));
    assert_eq!(record["workspace"]["head_commit"], String::from_utf8_lossy(&before).trim());
    assert_eq!(record["workspace"]["file_count"], 7);
    assert_eq!(record["x-mine"], 1);
    let steps: Vec<&str> =
        record["timings"].as_array().unwrap().iter().map(|t| t["step"].as_str().unwrap()).collect();
    assert_eq!(
        steps,
        ["inspect", "commit", "keep", "plan", "confine", "connect", "pack", "unpack", "command", "export"]
    );
    git(&guest.path("guest"), &["fsck", "--strict"]);
    let left: Vec<_> =
        fs::read_dir(guest.path("state/vms").join(ID)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("ws-")), "{left:?}");
}

/// A checkout with something of everything in it.
fn make_dirty(repo: &Path) {
    let write = |name: &str, text: &[u8]| fs::write(repo.join(name), text).unwrap();
    write("staged", b"staged\n");
    git(repo, &["add", "staged"]);
    write("staged", b"staged, then changed\n");
    write("intended", b"later\n");
    git(repo, &["add", "-N", "intended"]);
    write("README.md", b"hello, dirty\n");
    fs::remove_file(repo.join("LICENSE")).unwrap();
    git(repo, &["rm", "-q", "--cached", "src/a.c"]);
    write("new\nline \"quoted\" \\ \t.txt", b"odd\n");
    fs::write(repo.join(std::ffi::OsString::from_vec(b"latin-\xe4".to_vec())), "odd\n").unwrap();
    write("-rf", b"odd\n");
    write(" leading and trailing ", b"odd\n");
    git(repo, &["add", "--", "new\nline \"quoted\" \\ \t.txt", "-rf", " leading and trailing "]);
    let mut add = support::command("git");
    add.arg("-C").arg(repo).arg("add").arg(std::ffi::OsString::from_vec(b"latin-\xe4".to_vec()));
    assert!(support::run(&mut add, b"").status.success());
    let long = "long/".repeat(30) + &"n".repeat(120);
    fs::create_dir_all(repo.join(&long).parent().unwrap()).unwrap();
    write(&long, b"long\n");
    symlink("t/".repeat(100), repo.join("longlink")).unwrap();
    git(repo, &["add", &long, "longlink"]);
    fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    write("untracked", b"stays\n");
}

#[test]
fn a_dirty_checkout_arrives_as_it_stands() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    make_dirty(&repo);
    let (index, expected) = (fs::read(repo.join(".git/index")).unwrap(), status(&repo));
    let copy = copy_of(&guest, &repo);
    fs::remove_file(copy.join("untracked")).unwrap();
    fs::remove_file(copy.join("src/a.c")).unwrap();
    let command = format!("git status --porcelain=v2 -z --untracked-files=no; {WORK}");
    let output = guest.run(&repo, &[], &["sh", "-c", &command]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).replace('\0', "\n"), expected);
    assert!(said(&output).contains("2 untracked files stay behind"), "{}", said(&output));
    assert_round_trip(&guest, &copy);
    assert_eq!(fs::read(repo.join(".git/index")).unwrap(), index, "the host's index is not written");
    assert_eq!(status(&repo), expected);
}

#[test]
fn unmerged_entries_and_untracked_files_travel() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    git(&repo, &["checkout", "-qb", "other"]);
    fs::write(repo.join("README.md"), "theirs\n").unwrap();
    git(&repo, &["commit", "-qam", "theirs"]);
    git(&repo, &["checkout", "-q", "main"]);
    fs::write(repo.join("README.md"), "ours\n").unwrap();
    git(&repo, &["commit", "-qam", "ours"]);
    support::run(support::command("git").arg("-C").arg(&repo).args(["merge", "-q", "other"]), b"");
    assert!(status(&repo).contains("u UU"));
    fs::write(repo.join("loose"), "untracked\n").unwrap();
    fs::write(repo.join("x.o"), "ignored\n").unwrap();
    let copy = copy_of(&guest, &repo);
    fs::remove_file(copy.join("x.o")).unwrap();
    let command =
        "git status --porcelain=v2 -z --untracked-files=no; git branch -a --format='%(refname)'; echo 1 > a";
    let output = guest.run(&repo, &["--include-untracked"], &["sh", "-c", command]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
    assert_eq!(text, status(&repo) + "refs/heads/main\n", "and no other branch");
    assert_round_trip(&guest, &copy);
}

#[test]
fn prepare_twice_changes_nothing_and_something_else_is_a_conflict() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let path = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    let first = support::record(&guest.ws(&args, &guest.record()));
    assert_eq!(first["result"]["changed"], true, "{first}");
    let second = support::record(&guest.ws(&args, &first));
    assert_eq!(second["result"]["changed"], false, "{second}");
    assert_eq!(second["workspace"], first["workspace"]);
    // Another checkout is none that differs: without the note of what was sent it is refused.
    fs::write(repo.join("README.md"), "different\n").unwrap();
    fs::remove_dir_all(guest.path("state/vms").join(ID).join("sent")).unwrap();
    support::assert_error(&guest.ws(&args, &first), 1, "conflict");
    let output = guest.ws(&["exec", "--record", "r.json", "--", "cat", "README.md"], &first);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"hello\n"[..]),
        "{:?}",
        output.stderr
    );
    fs::remove_dir_all(&path).unwrap();
    support::assert_error(&guest.ws(&["check"], &first), 3, "not-found");
    support::assert_error(&guest.ws(&["export", "--output", "x"], &first), 3, "not-found");
    let output = guest.ws(&["exec", "--", "true"], &first);
    support::assert_error(&output, 125, "not-found");
}

#[test]
fn what_a_forced_copy_cannot_replace_is_there_as_before() {
    let Some(guest) = Guest::with_small_files(1 << 20) else { return };
    let repo = guest.repo();
    let copy = guest.path("guest");
    let prepare = |options: &[&str]| {
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", copy.to_str().unwrap()];
        guest.ws(&[&args[..], options].concat(), &guest.record())
    };
    assert!(prepare(&[]).status.success());
    fs::write(copy.join("mine"), "work\n").unwrap();
    git(&copy, &["update-ref", "-d", "refs/banger/prepared"]);
    fs::write(repo.join("LICENSE"), vec![b'l'; 2 << 20]).unwrap();
    let output = prepare(&["--force"]);
    support::assert_error(&output, 1, "failed");
    assert_eq!(fs::read_to_string(copy.join("mine")).unwrap(), "work\n");
    fs::write(repo.join("LICENSE"), "free again\n").unwrap();
    // A copy that was cut off while what was there had stepped aside: that comes back.
    let aside = guest.path(".guest.replaced");
    fs::rename(&copy, &aside).unwrap();
    let output = prepare(&[]);
    support::assert_error(&output, 1, "conflict");
    assert!(copy.join("mine").exists() && !aside.exists());
    assert!(prepare(&["--force"]).status.success());
    assert!(!copy.join("mine").exists() && !aside.exists());
}

#[test]
fn an_edit_that_git_does_not_see_travels() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let file = repo.join("src/a.c");
    // Of the same size, its time put back, within the second in which git read it: git compares no less than that.
    let edit = || {
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        fs::write(&file, "int a;\n").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        git(&repo, &["update-index", "--refresh"]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(&file, "int b;\n").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        git(&repo, &["status", "--porcelain"]).is_empty()
    };
    if !(0..20).any(|_| edit()) {
        // This git compares the nanoseconds, too.
        assert_eq!(git(&repo, &["status", "--porcelain"]), b" M src/a.c\n");
    }
    let output = guest.run(&repo, &[], &["sh", "-c", "cat src/a.c; git status --porcelain"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "int b;\n M src/a.c\n", "{}", said(&output));
    assert_eq!(fs::read(guest.path("p.patch")).unwrap(), b"");
    git(&guest.path("guest"), &["fsck", "--strict"]);
}
