//! Device-mapper roots. A host may have no device-mapper, so this runs in a virtual machine of our own, whose kernel has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::home::{Home, git, said};
use crate::support;

/// What runs there.
const INSIDE: &str = include_str!("dm/inside.sh");

/// A checkout with banger-disk, without its symbols, and the script.
fn checkout(home: &Home) -> std::path::PathBuf {
    let repo = home.repo("dm");
    let program = repo.join("banger-disk");
    let stripped =
        support::command("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_banger-disk")).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(env!("CARGO_BIN_EXE_banger-disk"), &program).unwrap();
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(repo.join("inside.sh"), INSIDE).unwrap();
    git(&repo, &["add", "-A"]);
    repo
}

#[test]
fn device_mapper_roots_do_what_they_should_in_a_real_kernel() {
    let Some(home) = Home::with_image("tools") else { return };
    let repo = checkout(&home);
    let output =
        home.run(&["vm", "run", "--rm", "--image", "tools", repo.to_str().unwrap(), "--", "sh", "inside.sh"]);
    assert!(output.status.success(), "{}", said(&output));
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(seen.lines().filter(|line| line.starts_with("seen: ")).count(), 5, "{seen}");
    home.assert_clean();
}
