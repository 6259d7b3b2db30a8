//! The checkout goes in a second time.

use std::fs;
use std::path::Path;

use crate::home::{Home, said};
use crate::support;

#[test]
fn a_checkout_that_moved_on_goes_in_again() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    fs::write(repo.join("loose"), "untracked\n").unwrap();
    let path = repo.to_str().unwrap();
    let start =
        ["vm", "run", "--name", "v1", "--net", "user", "--include-untracked", "--guest-path", "/root/w"];
    let output = home.run(&[&start[..], &[path, "--", "sh", "-c", "echo own >own"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let again = home.run(&["vm", "workspace", "prepare", "v1"]);
    assert!(again.status.success() && said(&again).contains("nothing changed"), "{}", said(&again));

    fs::write(repo.join("README.md"), "the host's\n").unwrap();
    fs::remove_file(repo.join("LICENSE")).unwrap();
    let record = home.json(&["vm", "workspace", "prepare", "v1"]);
    assert_eq!(record["result"]["changed"], true);
    let steps = record["timings"].as_array().unwrap().iter();
    assert!(steps.clone().any(|timing| timing["step"] == "resync"), "{record}");
    let seen = home.run(&[
        "vm",
        "exec",
        "v1",
        "--",
        "sh",
        "-c",
        "cat README.md own; ls LICENSE; git status --short",
    ]);
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert_eq!(text, "the host's\nown\n D LICENSE\n M README.md\n?? loose\n?? own\n", "{}", said(&seen));
    assert_eq!(home.run(&["vm", "workspace", "status", "v1"]).stdout, b"own\n");

    as_it_was_sent_before(&home, &repo);

    // Both have changed it: the guest's stays until it is given up.
    assert!(home.run(&["vm", "exec", "v1", "--", "sh", "-c", "echo guest >README.md"]).status.success());
    fs::write(repo.join("README.md"), "the host's second\n").unwrap();
    let conflict = home.run(&["vm", "workspace", "prepare", "--json", "v1"]);
    let error = support::assert_error(&conflict, 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], serde_json::json!(["README.md"]));
    let auto = home.run(&["vm", "exec", "--auto-prepare", "v1", "--", "true"]);
    assert_eq!(auto.status.code(), Some(125), "{}", said(&auto));
    // The command has no --force of its own: what the hint says is the way.
    assert!(said(&auto).contains("banger vm reset v1 -- 'README.md'"), "{}", said(&auto));
    assert_eq!(home.run(&["vm", "exec", "v1", "--", "cat", "README.md"]).stdout, b"guest\n");
    assert!(home.run(&["vm", "workspace", "prepare", "--force", "v1"]).status.success());
    assert_eq!(home.run(&["vm", "exec", "v1", "--", "cat", "README.md"]).stdout, b"the host's second\n");
    assert!(home.run(&["vm", "delete", "--force", "v1"]).status.success());
    home.assert_clean();
}

/// What was chosen for the first copy holds for the next ones: here the place, and untracked files.
fn as_it_was_sent_before(home: &Home, repo: &Path) {
    fs::write(repo.join("later"), "untracked, too\n").unwrap();
    let output = home.run(&["vm", "exec", "--auto-prepare", "v1", "--", "sh", "-c", "pwd; cat loose later"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "/root/w\nuntracked\nuntracked, too\n",
        "{}",
        said(&output)
    );
    let prepare = |options: &[&str]| home.run(&[&["vm", "workspace", "prepare", "v1"], options].concat());
    let listed = |options: &[&str]| {
        let output = prepare(&[&["--dry-run"], options].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.lines().any(|line| line == "later"), said(&output))
    };
    assert!(listed(&[]).0 && !listed(&["--no-include-untracked"]).0, "{:?}", listed(&[]));
    assert!(listed(&["--mode", "shallow"]).1.contains("one commit of history"));
    assert!(said(&prepare(&[])).contains("nothing changed"));
    assert!(prepare(&["--no-include-untracked"]).status.success());
    let seen = home.run(&["vm", "exec", "v1", "--", "ls"]);
    assert_eq!(seen.stdout, b"README.md\nown\nrun.sh\n", "{}", said(&seen));
    let odd = prepare(&["--guest-path", "/root/../x"]);
    assert_eq!(odd.status.code(), Some(2), "{}", said(&odd));
}
