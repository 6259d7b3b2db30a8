//! The README's loop, in which several attempts at one checkout compete.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::home::{BANGER, Home, git, said};
use crate::support;

/// The loop as the README has it.
fn loop_of_the_readme() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("### Several attempts at once").nth(1).expect("the README's section");
    let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("sh\n")).expect("its block");
    assert!(block.lines().count() <= 10, "the loop is to have ten lines:\n{block}");
    block.to_owned()
}

#[test]
fn the_loop_of_the_readme_gives_a_patch_and_a_record_for_each_attempt() {
    let Some(home) = Home::new() else { return };
    if !support::require("vm", support::has("jq"), "the README's loop prints with jq") {
        return;
    }
    let repo = home.repo("repo");
    fs::write(
        repo.join("attempt"),
        "#!/bin/sh\necho \"attempt $1\" >>README.md\n[ \"$1\" = 1 ] || kill -TERM $$\n",
    )
    .unwrap();
    fs::set_permissions(repo.join("attempt"), fs::Permissions::from_mode(0o755)).unwrap();
    git(&repo, &["add", "attempt"]);
    git(&repo, &["commit", "-qm", "an attempt"]);
    let script = loop_of_the_readme();
    let two = script.replace("1 2 3 4", "1 2");
    assert_ne!(two, script, "the loop is over four attempts");
    fs::create_dir(home.path("tmp")).unwrap();
    let path =
        format!("{}:{}", Path::new(BANGER).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut sh = support::command("sh");
    sh.args(["-eu", "-c", &(two + "echo \"$out\"")]).current_dir(&repo);
    sh.env("PATH", path).env("BANGER_STATE_DIR", home.state()).env("TMPDIR", home.path("tmp"));
    let output = support::run(&mut sh, b"");
    let logs = support::run(
        support::command("sh").args(["-c", "cat tmp/*/*.log"]).current_dir(home.dir.path()),
        b"",
    );
    assert!(output.status.success(), "{}\n{}", said(&output), said(&logs));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..2],
        ["attempt 1: exit 0, [\"README.md\"]", "attempt 2: exit 143, [\"README.md\"]"],
        "{}",
        said(&output)
    );
    assert_eq!(
        fs::read_to_string(repo.join("README.md")).unwrap(),
        "hello\nattempt 1\n",
        "the first was applied"
    );

    let out = Path::new(lines[2]);
    for (try_, code, signal) in [("1", 0, Value::Null), ("2", 143, json!("TERM"))] {
        let record: Value =
            serde_json::from_slice(&fs::read(out.join(format!("{try_}.json"))).unwrap()).unwrap();
        let result = &record["result"];
        assert_eq!((&result["exit_code"], &result["signal"]), (&json!(code), &signal), "{record}");
        assert_eq!(result["base_commit"], record["workspace"]["base_commit"], "{record}");
        assert_eq!(result["patch_file"], out.join(format!("{try_}.patch")).to_str().unwrap(), "{record}");
        assert_eq!(result["files"], json!(["README.md"]), "{record}");
        assert!(record["timings"].as_array().unwrap().iter().any(|t| t["step"] == "command"), "{record}");
        let patch = fs::read_to_string(out.join(format!("{try_}.patch"))).unwrap();
        assert!(patch.contains(&format!("\n+attempt {try_}\n")), "{patch}");
    }
    home.assert_clean();
}
