//! `--setup`, with a package manager that only notes what it is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{self, assert_error, command, run};

/// Where Ubuntu's keys are.
const KEYS: &str = "/usr/share/keyrings/ubuntu-archive-keyring.gpg";

#[test]
fn what_an_image_of_ubuntu_needs_is_installed_and_held_against_what_is_there() {
    if !support::require("contract", !Path::new(KEYS).exists(), "this host has Ubuntu's keys already") {
        return;
    }
    let state = support::state_with_fake_image();
    let (bin, log) = (state.path().join("bin"), state.path().join("log"));
    fs::create_dir(&bin).unwrap();
    let programs =
        [("apt-get", "echo \"$@\" >> \"$LOG\""), ("sudo", "[ \"$1\" != -n ] || shift; exec \"$@\"")];
    for (name, text) in programs {
        fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let banger = |args: &[&str]| {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        banger
            .args(args)
            .args(["--json"])
            .env("PATH", path)
            .env("LOG", &log)
            .env("BANGER_CONFIG", "/dev/null");
        run(banger.env("BANGER_STATE_DIR", state.path()), b"")
    };
    let error = assert_error(&banger(&["image", "build", "ubuntu"]), 5, "unsupported");
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("image build ubuntu --setup") && hint.contains("--keyring"), "{hint}");
    assert!(!log.exists(), "nothing is installed unasked");

    let error = assert_error(&banger(&["image", "build", "ubuntu", "--setup"]), 1, "failed");
    let asked = fs::read_to_string(&log).unwrap();
    let install = asked.lines().last().unwrap();
    assert!(install.starts_with("install ") && install.contains("ubuntu-archive-keyring"), "{asked}");
    assert!(error.to_string().contains("still not there"), "{error}");
    assert_eq!(support::disk::names(&state.path().join("images")), ["debian"]);
}
