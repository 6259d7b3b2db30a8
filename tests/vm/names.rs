//! The names of VMs. systemd-resolved wants a system of its own, so what it makes of them is looked at in a virtual machine; the
//! names of real guests are asked for by the guests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::home::{BANGER, Home, git, said};
use crate::support;

/// What runs in the virtual machine.
const INSIDE: &str = include_str!("names/inside.sh");

/// A checkout with two programs, without their symbols, and the script.
fn checkout(home: &Home) -> PathBuf {
    let repo = home.repo("names");
    for name in ["banger", "banger-netd"] {
        let (from, to) = (Path::new(BANGER).with_file_name(name), repo.join(name));
        let stripped = support::command("strip").arg("-o").arg(&to).arg(&from).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(&from, &to).unwrap();
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(repo.join("inside.sh"), INSIDE).unwrap();
    git(&repo, &["add", "-A"]);
    repo
}

#[test]
fn systemd_resolved_resolves_names_and_forgets_them() {
    let Some(home) = Home::with_image("tools") else { return };
    let packages = fs::read_to_string(home.state().join("images/tools/manifest.json")).unwrap();
    let fit = packages.contains("\"systemd-resolved\"");
    if !support::require("vm", fit, "the image tools is one without systemd-resolved: use tests/run") {
        return;
    }
    let repo = checkout(&home);
    let options = ["vm", "run", "--rm", "--image", "tools", "--init", "systemd", "--mode", "files"];
    let output = home.run(&[&options[..], &[repo.to_str().unwrap(), "--", "bash", "inside.sh"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(seen.lines().filter(|line| line.starts_with("seen: ")).count(), 5, "{seen}");
    home.assert_clean();
}
