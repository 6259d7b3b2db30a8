//! Faults that people have met, of banger's and of others: each alone, the patch applied by git to the files as they were sent, and compared by
//! diff(1) with the guest's. tests/truth tries everything that is like them.

use std::fs;
use std::path::Path;

use super::guest::{Guest, git, said};
use crate::support;

/// One that was met.
struct Fault {
    name: &'static str,
    /// What happens to a checkout with the files a, b, c and d/x before it is sent.
    host: &'static str,
    /// What the guest does to its copy.
    guest: &'static str,
    /// What no patch can hold, or a part of its name.
    left_out: Option<&'static str>,
}

const FAULTS: [Fault; 13] = [
    Fault {
        name: "another owner in the guest",
        host: "",
        guest: "chown -R 1000:1000 . && echo new >n && echo more >>a",
        left_out: None,
    },
    Fault {
        name: "a filter that the guest has configured",
        host: "echo '*.dat filter=big' >.gitattributes; echo old >f.dat; git add -A; git commit -qm two",
        guest: "git config --global filter.big.clean 'wc -c'; echo changed >f.dat; echo new >g.dat",
        left_out: None,
    },
    Fault {
        name: "an edit of the same size whose time is put back",
        host: "",
        guest: "touch -r a \"$HOME/ref\"; sed -i s/content/CONTENT/ a; touch -r \"$HOME/ref\" a",
        left_out: None,
    },
    Fault {
        name: "a new repository without a commit",
        host: "",
        guest: "mkdir -p app/src; cd app; git init -q; echo 'int main;' >src/main.c; echo keep >../k",
        left_out: Some("app/.git"),
    },
    Fault { name: "made bare", host: "", guest: "echo more >>a; git config core.bare true", left_out: None },
    Fault {
        name: "another worktree",
        host: "",
        guest: "echo more >>a; git config core.worktree /nonexistent",
        left_out: None,
    },
    Fault {
        name: "a gitlink without .gitmodules",
        host: "git init -q sub; (cd sub; echo s >s; git add s; git commit -qm s); git -c advice.addEmbeddedRepo=false add sub; git commit -qm link",
        guest: "echo more >>sub/s",
        left_out: Some("sub/.git"),
    },
    Fault {
        name: "line endings that git warns of",
        host: "git config core.autocrlf input; git config core.safecrlf true; printf 'a\\r\\nb\\r\\n' >b",
        guest: "printf 'c\\r\\n' >>b; echo new >n",
        left_out: None,
    },
    Fault {
        name: "line endings that the guest sets",
        host: "",
        guest: "git config --global core.autocrlf input; printf 'x\\r\\n' >crlf.txt; git add -A",
        left_out: None,
    },
    Fault {
        name: "a FIFO in the place of a file",
        host: "",
        guest: "rm a; mkfifo a; echo new >n; echo more >>b",
        left_out: Some("a"),
    },
    Fault {
        name: "no repository any more",
        host: "",
        guest: "rm -rf .git; echo more >>a; rm b",
        left_out: None,
    },
    Fault {
        name: "a git that lies",
        host: "",
        guest: "printf '#!/bin/sh\\nexit 0\\n' >\"$HOME/git\"; chmod +x \"$HOME/git\"; echo 'PATH=$HOME:$PATH' >\"$HOME/.profile\"; echo more >>a",
        left_out: None,
    },
    Fault {
        name: "files that git is told not to look at",
        host: "",
        guest: "git update-index --assume-unchanged a; git update-index --skip-worktree b; echo more >>a; echo more >>b; rm c",
        left_out: None,
    },
];

/// Plays `fault` in a guest with banger-guest at its place (`helper`), or with one that it is sent along with.
fn play(fault: &Fault, helper: bool) {
    let home = tempfile::tempdir().unwrap();
    let Some(guest) = Guest::with_variable(&format!("HOME={}", home.path().display()), helper) else {
        return;
    };
    let repo = guest.path("checkout");
    fs::create_dir_all(repo.join("d")).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["config", "user.name", "A"]);
    git(&repo, &["config", "user.email", "a@b"]);
    for name in ["a", "b", "c", "d/x"] {
        fs::write(repo.join(name), format!("{name} content\n")).unwrap();
    }
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "one"]);
    let environment = [("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@b")];
    let committer = [("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@b")];
    let mut shell = support::command("sh");
    shell.args(["-ec", fault.host]).current_dir(&repo).envs(environment.into_iter().chain(committer));
    let output = support::run(&mut shell, b"");
    assert!(output.status.success(), "{}: {}", fault.name, said(&output));
    let output = guest.run(&repo, &[], &["sh", "-c", fault.guest]);
    assert!(output.status.success(), "{}: {}", fault.name, said(&output));
    let left_out = &guest.last_record()["result"]["left_out"];
    assert_eq!(left_out[0]["path"].as_str(), fault.left_out, "{}: {left_out}", fault.name);
    assert_same(&guest, &repo, fault);
}

/// The files that were sent, with the patch, are the guest's.
fn assert_same(guest: &Guest, repo: &Path, fault: &Fault) {
    let applied = guest.path("applied");
    let copied = support::run(support::command("cp").arg("-a").args([repo, &applied]), b"");
    assert!(copied.status.success(), "{}", said(&copied));
    for repository in [applied.join(".git"), applied.join("sub/.git")] {
        drop(fs::remove_dir_all(repository));
    }
    let patch = guest.path("p.patch");
    let mut apply = support::command("git");
    apply.args(["apply", "--whitespace=nowarn"]).arg(&patch).current_dir(&applied);
    // A directory that is in no repository, whatever is above it.
    let output = support::run(apply.env("GIT_CEILING_DIRECTORIES", guest.path("")), b"");
    assert!(output.status.success(), "{}: {}", fault.name, said(&output));
    let copy = guest.path("guest");
    if fault.left_out == Some("a") {
        assert!(!applied.join("a").exists());
        fs::remove_file(copy.join("a")).unwrap();
    }
    let mut diff = support::command("diff");
    diff.args(["-r", "--no-dereference", "--exclude=.git"]).args([&applied, &copy]);
    let output = support::run(&mut diff, b"");
    assert!(output.status.success(), "{}: {}", fault.name, said(&output));
}

#[test]
fn what_people_met_is_in_the_patch() {
    FAULTS.iter().for_each(|fault| play(fault, true));
}

#[test]
fn what_people_met_is_in_the_patch_of_a_machine_without_banger_guest() {
    FAULTS.iter().for_each(|fault| play(fault, false));
}

/// Whatever comes and goes while the guest is compared, what stays is in the patch.
#[test]
fn files_that_come_and_go_keep_nothing_else_out() {
    let Some(guest) = Guest::with_helper() else { return };
    let repo = guest.repo();
    let stop = guest.path("stop");
    let script = format!(
        "echo new >keep; (while [ ! -e {0} ]; do for i in 1 2 3 4 5 6 7 8 9; do echo x >tmp.$i; mv tmp.$i tmq.$i; done; rm -f tmq.*; done) >/dev/null 2>&1 &",
        stop.display()
    );
    let output = guest.run(&repo, &[], &["sh", "-c", &script]);
    fs::write(&stop, "").unwrap();
    assert!([Some(0), Some(125)].contains(&output.status.code()), "{}", said(&output));
    let result = &guest.last_record()["result"];
    let lost = result["lost"].as_array().into_iter().flatten();
    assert!(lost.clone().all(|lost| lost["path"].as_str().unwrap().starts_with("tm")), "{result}");
    assert_eq!(output.status.code(), Some(if lost.count() > 0 { 125 } else { 0 }));
    assert!(fs::read_to_string(guest.path("p.patch")).unwrap().contains("+new"));
}
