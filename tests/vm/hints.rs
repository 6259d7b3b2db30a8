//! What banger says is to be done, done as it says, in the situation in which it says so.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::home::{Home, said};
use crate::support;

/// The commands in `text`: each begins with `banger vm`, and ends with the line, or where another sentence begins.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().flat_map(|line| line.split("; "));
    lines.filter_map(|part| Some(part[part.find("banger vm ")?..].trim_end_matches(')').to_owned())).collect()
}

/// Runs `command` as a person would who copies it.
fn obey(home: &Home, command: &str) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_banger")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = home.program("banger", &[]);
    shell.env("PATH", path);
    let mut with_shell = support::command("sh");
    with_shell.args(["-ec", command]).current_dir(home.dir.path());
    for (name, value) in shell.get_envs() {
        value.map(|value| with_shell.env(name, value));
    }
    support::run(&mut with_shell, b"")
}

/// The commands that the error of `args` says are to be run; `code` is the error's.
fn told(home: &Home, args: &[&str], code: &str) -> Vec<String> {
    let output = home.run(&[args, &["--json"]].concat());
    let record: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(record["error"]["code"], code, "{record}");
    let hint = record["error"]["hint"].as_str().unwrap_or_else(|| panic!("no hint: {record}"));
    let commands = commands(hint);
    assert!(!commands.is_empty(), "{hint}");
    commands
}

fn assert_obeyed(home: &Home, command: &str) {
    let output = obey(home, command);
    assert!(output.status.success(), "{command}: {}", said(&output));
}

#[test]
fn what_is_said_about_the_work_in_a_vm_leads_to_it() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    let path = repo.to_str().unwrap();
    let guest = |script: &str| {
        let output = home.run(&["vm", "exec", "v1", "--", "sh", "-c", script]);
        assert!(output.status.success(), "{script}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // Something is lost: the VM stays, and all of it can be had.
    let run = ["vm", "run", "--rm", "--name", "v1", "--net", "user", "--patch", "p", path, "--"];
    let output = home.run(&[&run[..], &["sh", "-c", "mkdir .GIT; echo kept >.GIT/x"]].concat());
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let [take, delete] = &commands(&text)[..] else { panic!("{text}") };
    assert_obeyed(&home, take);
    let listed = support::run(support::command("tar").arg("-tf").arg(home.path("FILE.tar")), b"");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("./.GIT/x\n"), "{}", said(&listed));
    guest("rm -r .GIT");

    // Both sides changed a file.
    guest("echo guest >README.md");
    fs::write(repo.join("README.md"), "host\n").unwrap();
    let [take, give_up, again] = &told(&home, &["vm", "workspace", "prepare", "v1"], "conflict")[..] else {
        panic!()
    };
    assert_obeyed(&home, take);
    assert!(fs::read_to_string(home.path("FILE")).unwrap().contains("+guest\n"));
    assert_obeyed(&home, give_up);
    assert_obeyed(&home, again);
    assert_eq!(guest("cat README.md"), "host\n");

    // What is there is no copy of this host's any more.
    guest("git update-ref -d refs/banger/prepared; rm -rf .git/banger*; echo lost >own");
    fs::write(repo.join("README.md"), "host again\n").unwrap();
    for command in told(&home, &["vm", "workspace", "prepare", "v1"], "conflict") {
        assert_obeyed(&home, &command);
    }
    assert_eq!(guest("cat README.md; ls own 2>&1 | wc -l"), "host again\n1\n");

    // The guest has removed all of it.
    guest("rm -rf \"$PWD\"");
    for command in told(&home, &["vm", "diff", "v1"], "not-found") {
        assert_obeyed(&home, &command);
    }
    assert_eq!(guest("cat README.md"), "host again\n");

    // This host has forgotten what it sent.
    for vm in fs::read_dir(home.state().join("vms")).unwrap() {
        for name in ["sent", "workspace"] {
            drop(fs::remove_dir_all(vm.as_ref().unwrap().path().join(name)));
        }
    }
    fs::remove_file(home.path("FILE.tar")).unwrap();
    for command in told(&home, &["vm", "diff", "v1"], "not-found") {
        assert_obeyed(&home, &command);
    }
    assert!(home.path("FILE.tar").metadata().unwrap().len() > 1000);

    // It does not run.
    assert!(home.run(&["vm", "stop", "v1"]).status.success());
    for command in told(&home, &["vm", "diff", "v1"], "vm-stopped") {
        assert_obeyed(&home, &command);
    }
    assert_obeyed(&home, delete);
    home.assert_clean();
}
