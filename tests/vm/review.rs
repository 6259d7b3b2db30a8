//! What changed in a running VM, looked at and taken over: `vm diff` and `vm apply`.

use std::fs;

use crate::home::{Home, said};
use crate::support;

#[test]
fn a_change_is_looked_at_and_applied() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let script = "printf 'hi \\033]0;pwned\\007\\n' >>README.md; echo export A=1 >.envrc; git mv run.sh go.sh; git commit -qm moved";
    let path = repo.to_str().unwrap();
    let output = home
        .run(&["vm", "run", "--name", "v1", "--net", "user", "--patch", "p", path, "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", said(&output));
    // No terminal, and yet a word about what is to be looked at.
    let line = said(&output).lines().find(|line| line.contains("p: 3 files changed")).map(str::to_owned);
    assert!(line.as_ref().is_some_and(|line| line.contains(".envrc")), "{}", said(&output));
    let patch = fs::read(home.path("p")).unwrap();
    let raw = home.run(&["vm", "diff", "v1"]);
    assert_eq!(raw.stdout, patch, "to a pipe it is the patch: {}", said(&raw));
    let names = home.run(&["vm", "diff", "v1", "--name-only", "--", "README.md", "run.sh"]);
    assert_eq!(names.stdout, b"README.md\nrun.sh\n", "{}", said(&names));
    let head = home.run(&["vm", "exec", "v1", "--", "git", "rev-parse", "HEAD"]).stdout;
    let head = String::from_utf8_lossy(&head).trim().to_owned();
    let names = home.run(&["vm", "diff", "v1", "--name-only", "--base-commit", &head]);
    assert_eq!(names.stdout, b".envrc\nREADME.md\n", "since the guest's own commit: {}", said(&names));
    // A terminal gets our colours and no escape sequence of the guest's, whatever the pager.
    let mut terminal = support::command("script");
    let diff = format!("{} vm diff v1", env!("CARGO_BIN_EXE_banger"));
    terminal.args(["-qec", &diff, "/dev/null"]).env("BANGER_STATE_DIR", home.state());
    terminal.env("TERM", "xterm").env("GIT_PAGER", "sed s/^/paged:/").env_remove("NO_COLOR");
    let shown = support::run(&mut terminal, b"");
    let text = said(&shown);
    assert!(text.contains("paged:\u{1b}[32m+hi \\u{1b}]0;pwned\\u{7}\u{1b}[m"), "{text:?}");
    assert!(text.contains("paged:\u{1b}[1mrename from run.sh"), "{text:?}");
    assert!(!text.contains("\u{1b}]") && !text.contains('\u{7}'), "{text:?}");

    let check = home.json(&["vm", "apply", "v1", "--check"]);
    assert_eq!(
        (&check["result"]["applied"], &check["result"]["patch_file"]),
        (&"applies".into(), &().into())
    );
    assert!(!repo.join(".envrc").exists());
    fs::write(repo.join("LICENSE"), "moved on\n").unwrap();
    let applied = home.run(&["vm", "apply", "v1"]);
    assert!(
        applied.status.success()
            && said(&applied).contains("applied: 3 files changed")
            && said(&applied).contains("look before you use the checkout: .envrc"),
        "{}",
        said(&applied)
    );
    assert_eq!(fs::read(repo.join("README.md")).unwrap(), b"hello\nhi \x1b]0;pwned\x07\n");
    assert!(repo.join("go.sh").exists() && !repo.join("run.sh").exists() && repo.join(".envrc").exists());
    assert_eq!(home.json(&["vm", "apply", "v1"])["result"]["applied"], "nothing");
    let more = home.run(&["vm", "exec", "v1", "--", "sh", "-c", "echo more >>README.md"]);
    assert!(more.status.success(), "{}", said(&more));
    fs::write(repo.join("README.md"), "mine\n").unwrap();
    let record = support::assert_error(&home.run(&["vm", "apply", "v1", "--json"]), 1, "conflict");
    assert!(record["error"]["details"]["files"].to_string().contains("README.md"), "{record}");
    assert_eq!(fs::read_to_string(repo.join("README.md")).unwrap(), "mine\n");
    assert!(home.run(&["vm", "delete", "--force", "v1"]).status.success());
    home.assert_clean();
}
