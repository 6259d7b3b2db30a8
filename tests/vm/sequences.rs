//! Random sequences of changes in a real VM; tests/host tries many more of them, without one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::home::{Home, git, said};
use crate::support;
use crate::support::changes::{self, Dice, IGNORED, assert_same, everything, listed, tree};

/// Sequences in the one VM.
const SEQUENCES: usize = 10;

/// Runs `script` in the VM's workspace, and gives a copy of the whole workspace after it.
fn after(home: &Home, script: &str, story: &str) -> PathBuf {
    let copy = home.path("there");
    drop(fs::remove_dir_all(&copy));
    fs::create_dir(&copy).unwrap();
    let all = format!("( {script} ) >&2; tar -cf - .");
    let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", &all]);
    assert!(output.status.success(), "{story}\n{}", said(&output));
    let unpacked = support::run(support::command("tar").arg("-xpC").arg(&copy), &output.stdout);
    assert!(unpacked.status.success(), "{}", said(&unpacked));
    copy
}

#[test]
fn sequences_of_changes_come_out_of_a_vm_and_leave_it_as_it_is() {
    let Some(home) = Home::new() else { return };
    let seed = changes::seeds(1..2)[0];
    let mut dice = Dice::of(seed);
    let repo = home.repo("repo");
    changes::random_tree(&repo, &mut dice);
    fs::write(repo.join(".gitignore"), "*.o\nbuild/\n").unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "random"]);
    let dirty = changes::script(&mut dice);
    let mut story = format!("BANGER_TEST_SEED={seed}\non the host:\n{dirty}");
    support::run(support::command("sh").args(["-c", &dirty]).current_dir(&repo), b"");
    let args = ["vm", "run", "--name", "dev1", "--include-untracked", repo.to_str().unwrap(), "--", "true"];
    let output = home.run(&args);
    assert!(output.status.success(), "{story}\n{}", said(&output));
    for path in listed(&repo, &IGNORED) {
        fs::remove_file(repo.join(path)).unwrap();
    }
    let shown = home.run(&["vm", "show", "dev1", "--record"]).stdout;
    for _ in 0..SEQUENCES {
        let script = changes::script(&mut dice);
        story += &format!("in the guest:\n{script}");
        let before = everything(&after(&home, &script, &story));
        let export = support::run(&mut home.program("banger-ws", &["export", "--output", "p"]), &shown);
        assert!(export.status.success(), "{story}\n{}", said(&export));
        let there = after(&home, "true", &story);
        assert_same(&everything(&there), &before, &story);
        let tried = home.path("tried");
        support::run(support::command("cp").arg("-a").arg(&repo).arg(&tried), b"");
        if fs::metadata(home.path("p")).unwrap().len() > 0 {
            git(&tried, &["apply", home.path("p").to_str().unwrap()]);
        }
        // What was sent is never ignored, whether the guest's git tracks it or not.
        let sent: BTreeSet<_> = tree(&repo).into_iter().map(|(path, ..)| path).collect();
        let ignored = listed(&there, &IGNORED);
        let is_wanted = |path: &std::path::PathBuf| !ignored.contains(path) || sent.contains(path);
        let wanted = tree(&there).into_iter().filter(|(path, ..)| is_wanted(path)).collect();
        assert_same(&tree(&tried), &wanted, &story);
        fs::remove_dir_all(&tried).unwrap();
    }
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}
