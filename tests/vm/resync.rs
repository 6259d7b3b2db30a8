//! The checkout goes in a second time.

use std::fs;

use crate::home::{Home, said};
use crate::support;

#[test]
fn a_checkout_that_moved_on_goes_in_again() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let path = repo.to_str().unwrap();
    let output =
        home.run(&["vm", "run", "--name", "v1", "--net", "user", path, "--", "sh", "-c", "echo own >own"]);
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
    assert_eq!(text, "the host's\nown\n D LICENSE\n M README.md\n?? own\n", "{}", said(&seen));
    assert_eq!(home.run(&["vm", "workspace", "status", "v1"]).stdout, b"own\n");

    // Both have changed it: the guest's stays until it is given up.
    assert!(home.run(&["vm", "exec", "v1", "--", "sh", "-c", "echo guest >README.md"]).status.success());
    fs::write(repo.join("README.md"), "the host's second\n").unwrap();
    let conflict = home.run(&["vm", "workspace", "prepare", "--json", "v1"]);
    let error = support::assert_error(&conflict, 1, "conflict");
    assert_eq!(error["error"]["details"]["paths"], serde_json::json!(["README.md"]));
    assert_eq!(home.run(&["vm", "exec", "v1", "--", "cat", "README.md"]).stdout, b"guest\n");
    assert!(home.run(&["vm", "workspace", "prepare", "--force", "v1"]).status.success());
    assert_eq!(home.run(&["vm", "exec", "v1", "--", "cat", "README.md"]).stdout, b"the host's second\n");
    assert!(home.run(&["vm", "delete", "--force", "v1"]).status.success());
    home.assert_clean();
}
