//! The main job: a checkout in, a command, its exit code and a patch out.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::home::{Home, git, said};
use crate::support;

#[test]
fn output_and_exit_code_come_back_from_another_kernel() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let script = "uname -r; git log --oneline | head -1; echo oops >&2; exit 7";
    let output = home.run(&["vm", "run", "--rm", repo.to_str().unwrap(), "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut lines = stdout.lines();
    let kernel = lines.next().expect("uname's line");
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(kernel.contains("cloud") && kernel != host.trim(), "{kernel}");
    assert!(lines.next().expect("git's line").ends_with("the first commit"), "{stdout}");
    assert_eq!(lines.next(), None, "stdout is the command's alone");
    assert!(String::from_utf8_lossy(&output.stderr).contains("oops"), "{}", said(&output));
    home.assert_clean();
}

/// What a coding agent leaves: commits, untracked files, deletions, binary content.
const WORK: &str = r#"echo hi >> README.md; printf "\0\1" > bin; rm -f LICENSE; git add -A; git commit -qm wip; echo more > later"#;

#[track_caller]
fn assert_work(copy: &Path, readme: &str) {
    assert_eq!(fs::read_to_string(copy.join("README.md")).unwrap(), readme);
    assert_eq!(fs::read(copy.join("bin")).unwrap(), b"\0\x01");
    assert_eq!(fs::read_to_string(copy.join("later")).unwrap(), "more\n");
    assert!(!copy.join("LICENSE").exists());
}

#[test]
fn the_patch_applies_to_a_clean_checkout() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let before = git(&repo, &["status", "--porcelain=v2", "--branch"]);
    let output = home.run(&[
        "vm",
        "run",
        "--rm",
        "--patch",
        "p.patch",
        repo.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        WORK,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(
        git(&repo, &["status", "--porcelain=v2", "--branch"]),
        before,
        "the host's checkout is untouched"
    );
    let patch = home.path("p.patch");
    git(&repo, &["apply", "--check", patch.to_str().unwrap()]);
    git(&repo, &["apply", patch.to_str().unwrap()]);
    assert_work(&repo, "hello\nhi\n");
    home.assert_clean();
}

#[test]
fn the_patch_applies_to_a_dirty_checkout_and_comes_on_stdout() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    fs::write(repo.join("README.md"), "hello\nstaged\n").unwrap();
    git(&repo, &["add", "README.md"]);
    fs::write(repo.join("README.md"), "hello\nstaged\nunstaged\n").unwrap();
    fs::write(repo.join("added"), "new\n").unwrap();
    git(&repo, &["add", "added"]);
    fs::remove_file(repo.join("run.sh")).unwrap();
    fs::write(repo.join("stays"), "untracked\n").unwrap();
    let script = format!("git status --porcelain >&2; {WORK}");
    let output = home.run(&[
        "vm",
        "run",
        "--rm",
        "--patch",
        "-",
        "--record",
        "r.json",
        repo.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for line in ["MM README.md", "A  added", " D run.sh", "1 untracked file stays behind"] {
        assert!(stderr.contains(line), "{line:?} is not in {stderr}");
    }
    let applied = support::run(
        support::command("git").arg("-C").arg(&repo).args(["apply", "--check", "-"]),
        &output.stdout,
    );
    assert!(applied.status.success(), "{}", said(&applied));
    support::run(support::command("git").arg("-C").arg(&repo).args(["apply", "-"]), &output.stdout);
    assert_work(&repo, "hello\nstaged\nunstaged\nhi\n");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(home.path("r.json")).unwrap()).unwrap();
    assert_eq!(record["result"]["changed"], true);
    assert_eq!(record["result"]["exit_code"], 0);
    home.assert_clean();
}

#[test]
fn json_reports_the_exit_code_and_accounts_for_every_stage() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let output = home.run(&[
        "vm",
        "run",
        "--rm",
        "--json",
        "--net",
        "user",
        repo.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "kill -9 $$",
    ]);
    assert_eq!(output.status.code(), Some(137), "{}", said(&output));
    let record = support::record(&output);
    assert_eq!(record["result"]["exit_code"], 137, "{record}");
    assert_eq!(record["net"]["mode"], "user");
    let timings = record["timings"].as_array().unwrap();
    let tools: std::collections::BTreeSet<&str> = timings.iter().filter_map(|t| t["tool"].as_str()).collect();
    for tool in ["banger", "banger-netd", "banger-disk", "banger-qemu", "banger-guest", "banger-ws"] {
        assert!(tools.contains(tool), "{tool} is not in {tools:?}");
    }
    home.assert_clean();
}

#[test]
fn odd_file_names_arrive_intact_and_come_back() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("it's a \"repo\"");
    let names: [&[u8]; 6] =
        [b"new\nline", b"quo'te\"s", b"not-utf8-\xff\xfe", b"-rf", b"sp ace\t", b"back\\slash"];
    for name in names {
        fs::write(repo.join(OsStr::from_bytes(name)), "one\n").unwrap();
    }
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "odd names"]);
    let script = r#"git status --porcelain; for file in ./*; do echo two >> "$file"; done"#;
    let mut run = home.banger(&[
        "vm",
        "run",
        "--rm",
        "--guest-path",
        "/root/odd",
        "--patch",
        "p",
        repo.to_str().unwrap(),
    ]);
    let output = support::run(run.args(["--", "sh", "-c", script]), b"");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{}", said(&output));
    git(&repo, &["apply", home.path("p").to_str().unwrap()]);
    for name in names {
        assert_eq!(fs::read_to_string(repo.join(OsStr::from_bytes(name))).unwrap(), "one\ntwo\n", "{name:?}");
    }
    home.assert_clean();
}
