//! A patch goes to a checkout of the host: all of it, or nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::guest::{Guest, copy_of, git, said};
use crate::support;
use crate::support::changes::{File, tree};

/// Something of everything that can happen to a file.
const EVERYTHING: &str = "
    echo hi >> README.md; printf '\\0\\1' > bin; rm LICENSE; git add -A; git commit -qm wip
    mkdir -p deep/er 'sp ace'; echo x > deep/er/new; git mv src/a.c 'sp ace/b.c'; echo y > .envrc
    chmod -x run.sh; rm link; mkdir link; echo z > link/inner; ln -s ../../x deep/l; ln -s /etc deep/out
    rm forced.o; mkdir forced.o; echo q > forced.o/r; git add -f forced.o; printf 'no newline' > \"$(printf 'odd\\nname')\"
";

/// A guest whose workspace was made from `repo` and changed by `script`; the patch is `p.patch`.
fn changed(script: &str) -> Option<(Guest, PathBuf)> {
    let guest = Guest::new()?;
    let repo = guest.repo();
    let output = guest.run(&repo, &[], &["sh", "-c", script]);
    assert!(output.status.success(), "{}", said(&output));
    Some((guest, repo))
}

fn apply(guest: &Guest, extra: &[&str]) -> Output {
    let args = [&["apply", "--patch", "p.patch"], extra].concat();
    guest.ws(&args, &guest.last_record())
}

#[track_caller]
fn applied(output: &Output, how: &str) -> Value {
    let record = support::record(output);
    assert_eq!(record["result"]["applied"], how, "{}", said(output));
    record
}

/// Everything in a checkout that an apply could touch, git's own files among it.
fn all(repo: &Path) -> Vec<File> {
    tree(repo).into_iter().chain(tree(&repo.join(".git"))).collect()
}

#[test]
fn a_patch_of_everything_makes_the_checkout_as_the_workspace_is() {
    let Some((guest, repo)) = changed(EVERYTHING) else { return };
    let (before, status) = (all(&repo), git(&repo, &["status", "--porcelain", "-z"]));
    let record = applied(&apply(&guest, &["--check"]), "applies");
    assert_eq!(record["result"]["changed"], false);
    assert_eq!(
        (all(&repo), git(&repo, &["status", "--porcelain", "-z"])),
        (before, status),
        "--check only checks"
    );
    let index = fs::read(repo.join(".git/index")).unwrap();
    let record = applied(&apply(&guest, &[]), "applied");
    assert_eq!(record["result"]["changed"], true);
    assert_eq!(tree(&repo), tree(&guest.path("guest")));
    assert_eq!(fs::read(repo.join(".git/index")).unwrap(), index, "the index is the user's");
    assert!(!repo.join(".git/banger-apply").exists() && !repo.join("src").exists());
    let flagged = record["result"]["flagged"].as_array().unwrap();
    let paths: Vec<&str> = flagged.iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".envrc", "deep/l", "deep/out"], "{flagged:?}");
    let again = applied(&apply(&guest, &[]), "already");
    assert_eq!(again["result"]["changed"], false);
    assert_eq!(tree(&repo), tree(&guest.path("guest")));
}

#[test]
fn a_checkout_that_moved_on_is_fine_as_long_as_the_patch_applies() {
    let Some((guest, repo)) = changed("echo new > added; echo hi >> README.md") else { return };
    fs::write(repo.join("src/a.c"), "int b;\n").unwrap();
    git(&repo, &["commit", "-qam", "moved on"]);
    applied(&apply(&guest, &[]), "applied");
    assert_eq!(fs::read_to_string(repo.join("README.md")).unwrap(), "hello\nhi\n");
    assert_eq!(fs::read_to_string(repo.join("src/a.c")).unwrap(), "int b;\n");
    // Another checkout, named by a directory in it.
    let Some((guest, repo)) = changed("echo new > added") else { return };
    let copy = copy_of(&guest, &repo);
    applied(&apply(&guest, &["--to", copy.join("src").to_str().unwrap()]), "applied");
    assert!(copy.join("added").exists() && !repo.join("added").exists());
    fs::remove_dir_all(&repo).unwrap();
    let record = support::assert_error(&apply(&guest, &[]), 3, "not-found");
    assert!(record["error"]["hint"].as_str().unwrap().contains("--to"), "{record}");
}

#[test]
fn a_conflict_names_what_does_not_apply_and_changes_nothing() {
    let Some((guest, repo)) = changed("echo hi >> README.md; echo 1 > new; rm LICENSE; echo 2 > fine") else {
        return;
    };
    fs::write(repo.join("README.md"), "other\n").unwrap();
    fs::write(repo.join("new"), "mine\n").unwrap();
    // That is gone on both sides, which is no conflict.
    fs::remove_file(repo.join("LICENSE")).unwrap();
    let before = all(&repo);
    for extra in [&[][..], &["--check"]] {
        let record = support::assert_error(&apply(&guest, extra), 1, "conflict");
        assert_eq!(record["error"]["details"]["files"], json!(["README.md", "new"]), "{record}");
        assert_eq!(all(&repo), before);
    }
}

#[test]
fn what_git_would_not_see_in_time_is_in_the_way() {
    let Some((guest, repo)) =
        changed("mkdir a d; echo 1 > a/b; echo 2 > other; rm link; mkdir link; echo 3 > link/x")
    else {
        return;
    };
    fs::write(repo.join("a"), "mine\n").unwrap();
    let before = all(&repo);
    let record = support::assert_error(&apply(&guest, &[]), 1, "conflict");
    assert!(record["error"]["message"].as_str().unwrap().contains("/a\" is in the way"), "{record}");
    assert_eq!(all(&repo), before);
    // A directory with somebody's files where a file is to go; an empty one makes room.
    let Some((guest, repo)) = changed("rm -r src; echo file > src") else { return };
    fs::create_dir_all(repo.join("src/deep/empty")).unwrap();
    fs::write(repo.join("src/deep/x.o"), "ignored\n").unwrap();
    let before = all(&repo);
    support::assert_error(&apply(&guest, &[]), 1, "conflict");
    assert_eq!(all(&repo), before);
    fs::remove_file(repo.join("src/deep/x.o")).unwrap();
    applied(&apply(&guest, &[]), "applied");
    assert_eq!(fs::read_to_string(repo.join("src")).unwrap(), "file\n");
}

#[test]
fn nothing_is_written_through_links_or_into_other_repositories() {
    let Some((guest, repo)) = changed("mkdir l s; echo 1 > l/x; echo 2 > s/x") else { return };
    let outside = guest.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, repo.join("l")).unwrap();
    let record = support::assert_error(&apply(&guest, &[]), 1, "conflict");
    assert!(record["error"]["message"].as_str().unwrap().contains("symbolic link"), "{record}");
    fs::remove_file(repo.join("l")).unwrap();
    git(&repo, &["init", "-q", "s"]);
    let record = support::assert_error(&apply(&guest, &[]), 1, "conflict");
    assert!(record["error"]["message"].as_str().unwrap().contains("repository"), "{record}");
    assert!(!repo.join("l").exists() && fs::read_dir(&outside).unwrap().next().is_none());
    // The checkout's own git directory under another name.
    let Some((guest, repo)) = changed("mkdir data; echo '[x]' > data/hooks") else { return };
    fs::rename(repo.join(".git"), repo.join("data")).unwrap();
    fs::write(repo.join(".git"), "gitdir: data\n").unwrap();
    support::assert_error(&apply(&guest, &[]), 1, "conflict");
}

#[test]
fn hooks_filters_and_settings_of_the_host_have_no_say() {
    let Some((guest, repo)) =
        changed("echo 'trailing  ' >> README.md; echo '* filter=evil' > .gitattributes")
    else {
        return;
    };
    let marker = guest.path("ran");
    let touch = format!("touch '{}'; cat", marker.display());
    for (key, value) in [
        ("filter.evil.clean", touch.as_str()),
        ("filter.evil.smudge", &touch),
        ("filter.evil.required", "true"),
        ("core.fsmonitor", &touch),
        ("apply.whitespace", "error-all"),
    ] {
        git(&repo, &["config", key, value]);
    }
    applied(&apply(&guest, &[]), "applied");
    assert_eq!(tree(&repo), tree(&guest.path("guest")));
    assert!(!marker.exists(), "a program of the checkout's ran");
}

#[test]
fn line_endings_are_those_of_the_checkout() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join(".gitattributes"), "*.txt text eol=crlf\n").unwrap();
    fs::write(repo.join("t.txt"), "one\r\ntwo\r\n").unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "crlf"]);
    let output =
        guest.run(&repo, &[], &["sh", "-c", "printf 'three\\r\\n' >> t.txt; printf 'new\\r\\n' > n.txt"]);
    assert!(output.status.success(), "{}", said(&output));
    applied(&apply(&guest, &[]), "applied");
    assert_eq!(fs::read_to_string(repo.join("t.txt")).unwrap(), "one\r\ntwo\r\nthree\r\n");
    assert_eq!(tree(&repo), tree(&guest.path("guest")));
}

/// Runs `banger-ws apply` under strace with `inject`.
fn under_strace(guest: &Guest, inject: &str) -> Output {
    let mut command = support::command("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", inject, env!("CARGO_BIN_EXE_banger-ws")]);
    command.args(["apply", "--patch", "p.patch"]).current_dir(guest.path(""));
    support::run(&mut command, guest.last_record().to_string().as_bytes())
}

/// Takes an apply back. (`git apply --reverse` would make a file of a link that became a directory.)
fn restore(repo: &Path) {
    git(repo, &["reset", "-q", "--hard"]);
    git(repo, &["clean", "-fdq"]);
}

/// A checkout, as it was and as it is to be, by inode too: what was put back is the very file.
fn inodes(repo: &Path) -> Vec<(PathBuf, u64)> {
    let paths = tree(repo).into_iter().map(|(path, _, _)| path);
    paths.map(|path| (path.clone(), fs::symlink_metadata(repo.join(path)).unwrap().ino())).collect()
}

#[test]
fn an_apply_that_is_killed_anywhere_is_undone_by_the_next() {
    if !support::require("host", support::has("strace"), "strace is not installed") {
        return;
    }
    let Some((guest, repo)) = changed(EVERYTHING) else { return };
    let (before, first_inodes) = (tree(&repo), inodes(&repo));
    let wanted = tree(&guest.path("guest"));
    let mut cut_short = 0;
    for call in ["renameat2", "mkdirat", "unlinkat", "unlink"] {
        for when in 1..40 {
            let output = under_strace(&guest, &format!("inject={call}:signal=KILL:when={when}"));
            if output.status.code() == Some(0) {
                assert_eq!(tree(&repo), wanted, "{call} {when}");
                break;
            }
            let done = tree(&repo) == wanted;
            cut_short += usize::from(tree(&repo) != before && !done);
            // Whatever comes next first makes the checkout whole again: as it was, or as it is to be.
            let next = apply(&guest, &["--check"]);
            if tree(&repo) == wanted {
                applied(&next, "already");
                restore(&repo);
            } else {
                applied(&next, "applies");
                assert_eq!(inodes(&repo).len(), first_inodes.len());
            }
            assert_eq!(tree(&repo), before, "{call} {when}");
            assert!(!repo.join(".git/banger-apply").exists());
        }
        restore(&repo);
    }
    assert!(cut_short > 5, "the kills came too early or too late: {cut_short}");
}

#[test]
fn an_apply_that_fails_anywhere_puts_the_very_files_back() {
    if !support::require("host", support::has("strace"), "strace is not installed") {
        return;
    }
    let Some((guest, repo)) = changed(EVERYTHING) else { return };
    let (before, first) = (tree(&repo), inodes(&repo));
    let mut failed = 0;
    for when in 1..40 {
        let output = under_strace(&guest, &format!("inject=renameat2:error=ENOSPC:when={when}"));
        if output.status.success() {
            break;
        }
        failed += 1;
        support::assert_error(&output, 1, "failed");
        assert_eq!((tree(&repo), inodes(&repo)), (before.clone(), first.clone()), "{when}");
        assert!(!repo.join(".git/banger-apply").exists());
    }
    assert!(failed > 5, "{failed}");
    // A file system that cannot exchange two names, or promise that one is free.
    restore(&repo);
    let output = under_strace(&guest, "inject=renameat2:error=EINVAL");
    applied(&output, "applied");
    assert_eq!(tree(&repo), tree(&guest.path("guest")));
}

#[test]
fn what_was_changed_after_a_kill_is_left_and_the_originals_are_kept() {
    if !support::require("host", support::has("strace"), "strace is not installed") {
        return;
    }
    let Some((guest, repo)) = changed("echo 1 >> LICENSE; echo 2 >> README.md; echo 3 >> src/a.c") else {
        return;
    };
    let output = under_strace(&guest, "inject=renameat2:signal=KILL:when=3");
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(repo.join("README.md")).unwrap(), "hello\n2\n", "it was cut short");
    fs::write(repo.join("README.md"), "my own words\n").unwrap();
    let record = support::assert_error(&apply(&guest, &[]), 1, "conflict");
    assert_eq!(record["error"]["details"]["files"], json!(["README.md"]), "{record}");
    assert_eq!(fs::read_to_string(repo.join("README.md")).unwrap(), "my own words\n");
    assert_eq!(fs::read_to_string(repo.join("LICENSE")).unwrap(), "free\n");
    let kept = fs::read_dir(repo.join(".git")).unwrap().map(|e| e.unwrap().path());
    let kept =
        kept.into_iter().find(|p| p.to_string_lossy().contains("banger-apply.")).expect("the originals");
    assert_eq!(fs::read_to_string(kept.join("new/README.md")).unwrap(), "hello\n");
    support::assert_error(&apply(&guest, &[]), 1, "conflict");
}

#[test]
fn a_full_disk_changes_nothing() {
    let Some((guest, repo)) = changed("head -c 3000000 /dev/urandom > big; echo 2 >> README.md") else {
        return;
    };
    let small = guest.path("small");
    fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2m none {small} && cp -a {repo} {small}/repo && cd {small}/repo && \
         {ws} apply --patch ../../p.patch --to . --input ../../r.json; echo $?; \
         git status --porcelain; ls -A . .git | grep banger; cat README.md",
        small = small.display(),
        repo = repo.display(),
        ws = env!("CARGO_BIN_EXE_banger-ws"),
    );
    let output = support::run(support::command("unshare").args(["-m", "sh", "-c", &script]), b"");
    let text = String::from_utf8_lossy(&output.stdout);
    let (record, rest) = text.split_once('\n').expect("a record");
    let record: Value = serde_json::from_str(record).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    assert_eq!(record["error"]["code"], "failed", "{record}");
    assert!(record["error"]["hint"].as_str().unwrap_or_default().contains("make room"), "{record}");
    assert_eq!(rest, "1\nhello\n", "{}", said(&output));
}

#[test]
fn hostile_patches_are_refused_with_the_path_named() {
    let Some((guest, repo)) = changed("true") else { return };
    let before = all(&repo);
    let new = |path: &str| {
        format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
        )
    };
    let link = new("l").replace("100644", "120000");
    for (patch, path) in [
        (new("../x"), "../x"),
        (new(".git/hooks/pre-commit"), ".git/hooks/pre-commit"),
        (new("a/.GiT/config"), "a/.GiT/config"),
        (new("git~1/config"), "git~1/config"),
        (new(".g\u{200c}it/config"), ".g\\u{200c}it/config"),
        (link + &new("l/x"), "l/x"),
    ] {
        fs::write(guest.path("p.patch"), patch).unwrap();
        let record = support::assert_error(&apply(&guest, &[]), 1, "failed");
        assert!(record["error"]["causes"][0].as_str().unwrap().contains(path), "{path}: {record}");
    }
    fs::write(guest.path("p.patch"), new("x")).unwrap();
    let record = support::assert_error(&apply(&guest, &["--max-patch-size", "100"]), 1, "failed");
    assert!(record["error"]["causes"][0].as_str().unwrap().contains("larger than 100 bytes"), "{record}");
    support::assert_error(&apply(&guest, &["--patch", "/dev/null"]), 2, "usage");
    assert_eq!(all(&repo), before);
}

/// Owner, group and permissions of a file of the checkout.
fn held(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

#[test]
fn root_leaves_a_checkout_to_its_owner_and_its_files_as_closed_as_they_were() {
    let script = "echo 1 >> README.md; echo 2 >> src/a.c; git mv src/a.c src/b.c; mkdir -p new/er; echo 3 > new/er/file
        echo 4 > src/new; chmod -x run.sh; echo 5 >> LICENSE; chmod +x LICENSE; ln -s LICENSE made";
    let Some((guest, repo)) = changed(script) else { return };
    let mode =
        |path: &str, mode| fs::set_permissions(repo.join(path), fs::Permissions::from_mode(mode)).unwrap();
    for (path, bits) in [("README.md", 0o600), ("src/a.c", 0o640), ("run.sh", 0o750), ("LICENSE", 0o640)] {
        mode(path, bits);
    }
    let mut chown = support::command("chown");
    assert!(support::run(chown.args(["-hR", "61000:61001"]).arg(&repo), b"").status.success());
    chown_to(&repo.join("LICENSE"), 61002, 61003);
    chown_to(&repo.join("src"), 61004, 61005);
    applied(&apply_in(&guest, &repo), "applied");
    let expected = [
        ("README.md", (61000, 61001, 0o600)),
        ("src/b.c", (61000, 61001, 0o640)),
        ("run.sh", (61000, 61001, 0o640)),
        ("LICENSE", (61002, 61003, 0o750)),
        ("src/new", (61004, 61005, 0o644)),
        ("new", (61000, 61001, 0o755)),
        ("new/er", (61000, 61001, 0o755)),
        ("new/er/file", (61000, 61001, 0o644)),
        ("made", (61000, 61001, 0o777)),
    ];
    for (path, of) in expected {
        let shown = |(uid, gid, mode): (u32, u32, u32)| format!("{path}: {uid}:{gid} {mode:o}");
        assert_eq!(shown(held(&repo.join(path))), shown(of));
    }
    // Nothing of the apply's own is left, either.
    assert!(!repo.join(".git/banger-apply").exists());
}

/// The apply of root, with the umask that most have, to a checkout that is somebody else's.
fn apply_in(guest: &Guest, repo: &Path) -> Output {
    let config = guest.path("gitconfig");
    fs::write(&config, format!("[safe]\n\tdirectory = {}\n", repo.display())).unwrap();
    let script = "umask 022; exec \"$0\" apply --patch p.patch";
    let mut shell = support::command("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_banger-ws")]).current_dir(guest.path("."));
    shell.env("GIT_CONFIG_GLOBAL", config);
    support::run(&mut shell, guest.last_record().to_string().as_bytes())
}

fn chown_to(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
}
