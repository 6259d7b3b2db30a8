//! The names of VMs. systemd-resolved wants a system of its own, so what it makes of them is looked at in a virtual machine; the
//! names of real guests are asked for by the guests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::home::{BANGER, Home, git, said};
use crate::{outside, support};

/// What runs in the virtual machine.
const INSIDE: &str = include_str!("names/inside.sh");

/// The units of the package.
const SERVICE: &str = include_str!("../../bins/banger-netd/banger-netd@.service");
const PATH: &str = include_str!("../../bins/banger-netd/banger-netd@.path");

/// A checkout with two programs, without their symbols, the units and the script.
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
    for (name, text) in
        [("inside.sh", INSIDE), ("banger-netd@.service", SERVICE), ("banger-netd@.path", PATH)]
    {
        fs::write(repo.join(name), text).unwrap();
    }
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
    assert_eq!(seen.lines().filter(|line| line.starts_with("seen: ")).count(), 6, "{seen}");
    home.assert_clean();
}

/// What a program in the guest `vm` finds for `name`, and the status of getent(1).
fn found(home: &Home, vm: &str, name: &str) -> (Option<i32>, String) {
    let output = home.run(&["vm", "exec", vm, "--", "timeout", "20", "getent", "hosts", name]);
    let text = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    (output.status.code(), text)
}

#[test]
fn guests_resolve_each_other_and_the_world_until_they_are_deleted() {
    let Some(home) = Home::new() else { return };
    outside::beside(&home, |_| names_of_guests(&home));
    home.assert_clean();
}

fn names_of_guests(home: &Home) {
    let repo = home.repo("repo");
    for name in ["web", "db"] {
        let output =
            home.run(&["vm", "run", "--net", "tap", "--name", name, repo.to_str().unwrap(), "--", "true"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    let address = |name: &str| {
        let record = home.json(&["vm", "show", name]);
        record["net"]["address"].as_str().expect("an address").to_owned()
    };
    let (web, db) = (address("web"), address("db"));
    for (name, address) in [("web.vm", &web), ("db.vm", &db), ("DB.vm.", &db)] {
        let (status, text) = found(home, "web", name);
        assert!(status == Some(0) && text.starts_with(address.as_str()), "{name}: {status:?} {text}");
    }
    assert_eq!(found(home, "web", &db), (Some(0), format!("{db} db.vm")));
    assert_eq!(found(home, "db", "example.org"), (Some(0), "192.0.2.9 example.org".to_owned()));
    // The resolver outside would know this one, too.
    assert_eq!(found(home, "web", "nobody.vm"), (Some(2), String::new()));
    let status = home.json(&["dns", "status"]);
    assert_eq!((&status["served"], &status["enabled"]), (&true.into(), &false.into()), "{status}");
    let tried = status["names"].as_array().expect("a list");
    assert!(tried.len() == 2 && tried.iter().all(|name| name["resolves"] == false), "{status}");

    let deleted = home.run(&["vm", "delete", "--force", "db"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    assert_eq!(found(home, "web", "db.vm"), (Some(2), String::new()));
    let deleted = home.run(&["vm", "delete", "--force", "web"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
}
