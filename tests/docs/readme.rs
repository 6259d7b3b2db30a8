//! The README's commands, as far as they can be tried without running them: every program and verb it names exists.

use crate::{PROGRAMS, read, root, support};

/// The lines of the README's fenced blocks, continued lines joined, comments left out.
fn commands(readme: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in readme.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside && !line.contains("text");
        } else if inside {
            lines.push(line.split(" # ").next().unwrap_or(line).trim().to_owned());
        }
    }
    lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The calls of banger's programs in a command line: program and the words that follow it, up to the first that is no verb.
fn calls(line: &str) -> Vec<(String, Vec<String>)> {
    // What runs in the guest, and what awk or jq are told, is not banger's.
    let simple = line.split(['|', ';', '&', '(', ')']).map(str::trim);
    simple
        .filter_map(|command| {
            let mut words =
                command.split_whitespace().skip_while(|w| matches!(*w, "sudo" | "time" | "exec" | "nix"));
            let program = words.next()?.trim_start_matches("target/release/").to_owned();
            PROGRAMS.iter().any(|(name, _)| *name == program).then_some(())?;
            let is_verb =
                |w: &&str| w.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !w.starts_with('-');
            Some((program, words.take_while(is_verb).map(str::to_owned).collect()))
        })
        .collect()
}

/// Whether `program verbs… --help` is understood.
fn parses(program: &str, verbs: &[String]) -> bool {
    let path = PROGRAMS.iter().find(|(name, _)| *name == program).expect("a known program").1;
    support::run(support::command(path).args(verbs).arg("--help"), b"").status.success()
}

#[test]
fn every_program_and_verb_in_the_readme_exists() {
    let readme = read(&root().join("README.md"));
    let all: Vec<_> = commands(&readme).iter().flat_map(|line| calls(line)).collect();
    assert!(all.len() >= 8, "the README's commands are not to be found: {all:?}");
    for (program, words) in all {
        // `vm show dev1` has a name behind its verb: the longest prefix that is a verb decides, and one word at least must be.
        let verbs = if program == "banger"
            && matches!(words.first().map(String::as_str), Some("vm" | "image" | "kernel"))
        {
            words.iter().take(2)
        } else {
            words.iter().take(1)
        };
        let verbs: Vec<String> = verbs.cloned().collect();
        assert!(parses(&program, &verbs), "README: {program} {} is not understood", verbs.join(" "));
    }
    assert!(!parses("banger", &["no-such-verb".to_owned()]), "an unknown verb must be refused");
}

#[test]
fn the_two_commands_stand_in_the_readme_as_they_are() {
    let readme = read(&root().join("README.md"));
    let commands = commands(&readme);
    for wanted in [
        "cargo build --release && target/release/banger vm run --setup . -- sh -c 'uname -r; git log --oneline | head -1; exit 7'",
        "tests/run",
    ] {
        assert!(commands.iter().any(|line| line == wanted), "the README lacks: {wanted}");
    }
}

#[test]
fn commands_are_found_in_fenced_blocks() {
    let readme = "a\n```sh\nbanger vm plan dev1 \\\n  --image debian | banger-netd attach # c\n# c\n```\nbanger x\n```text\ny\n```\n";
    let found = commands(readme);
    assert_eq!(found.len(), 1, "{found:?}");
    let calls = calls(&found[0]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[1], ("banger-netd".to_owned(), vec!["attach".to_owned()]));
}
