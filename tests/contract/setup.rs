//! `--setup`, with a package manager that only notes what it is asked.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::FlockOperation;

use crate::support::{self, assert_error, command, run};

/// Where Ubuntu's keys are.
const KEYS: &str = "/usr/share/keyrings/ubuntu-archive-keyring.gpg";

/// A place with package managers of ours before the host's own.
struct Place {
    state: tempfile::TempDir,
}

impl Place {
    /// `apt_get` is what apt-get does after it noted what it was asked.
    fn new(apt_get: &str) -> Self {
        let place = Self { state: support::state_with_fake_image() };
        fs::create_dir(place.path("bin")).unwrap();
        let apt_get = format!("echo \"$@\" >> \"$LOG\"\n{apt_get}");
        for (name, text) in
            [("apt-get", apt_get.as_str()), ("sudo", "[ \"$1\" != -n ] || shift; exec \"$@\"")]
        {
            let path = place.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// `program` with the environment in which banger finds them.
    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("LOG", self.path("log")).env("HERE", self.state.path());
        command.env("BANGER_CONFIG", "/dev/null").env("BANGER_STATE_DIR", self.state.path());
        command
    }

    fn banger(&self, args: &[&str]) -> Output {
        run(self.command(env!("CARGO_BIN_EXE_banger")).args(args).arg("--json"), b"")
    }

    /// The first words of what apt-get was asked for so far.
    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }
}

/// What of Ubuntu's this host lacks, so that something is to be installed.
fn lacks_keys() -> bool {
    support::require("contract", !Path::new(KEYS).exists(), "this host has Ubuntu's keys already")
}

const BUILD: [&str; 4] = ["image", "build", "ubuntu", "--setup"];

#[test]
fn what_an_image_of_ubuntu_needs_is_installed_and_held_against_what_is_there() {
    if !lacks_keys() {
        return;
    }
    let place = Place::new("");
    let error = assert_error(&place.banger(&["image", "build", "ubuntu"]), 5, "unsupported");
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("image build ubuntu --setup") && hint.contains("--keyring"), "{hint}");
    assert!(place.asked().is_empty(), "nothing is installed unasked");

    let error = assert_error(&place.banger(&BUILD), 1, "failed");
    let asked = fs::read_to_string(place.path("log")).unwrap();
    let install = asked.lines().last().unwrap();
    assert!(install.starts_with("install ") && install.contains("ubuntu-archive-keyring"), "{asked}");
    assert!(error.to_string().contains("still not there"), "{error}");
    assert_eq!(support::disk::names(&place.path("images")), ["debian"]);
}

#[test]
fn a_network_that_comes_back_is_waited_for_and_a_package_that_is_not_there_is_not() {
    if !lacks_keys() {
        return;
    }
    // An update without a network is a success of apt's that warns; what it is about shows only afterwards.
    let place = Place::new(
        "case $1 in
update) [ -e \"$HERE/up\" ] || echo \"W: Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'\" >&2 ;;
install) [ \"$2\" != -s ] && [ ! -e \"$HERE/up\" ] || exit 0
    : > \"$HERE/up\"; echo 'E: Unable to locate package ubuntu-archive-keyring' >&2; exit 100 ;;
esac",
    );
    let output = place.banger(&BUILD);
    assert_error(&output, 1, "failed");
    assert_eq!(place.asked(), ["update", "install", "install", "update", "install", "install"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("trying again in 2 s") && said.contains("resolving 'deb.example'"), "{said}");
    assert!(said.contains("still not there"), "{said}");

    let place = Place::new("[ $1 = update ] || { echo 'E: Unable to locate package x' >&2; exit 100; }");
    let error = assert_error(&place.banger(&BUILD), 1, "failed");
    assert_eq!(place.asked(), ["update", "install", "install"]);
    assert!(error.to_string().contains("Unable to locate"), "{error}");
}

#[test]
fn a_lock_that_only_apt_may_see_is_waited_for_in_its_words() {
    if !lacks_keys() {
        return;
    }
    let place = Place::new(
        "[ $1 = update ] && [ ! -e \"$HERE/free\" ] || exit 0
: > \"$HERE/free\"
echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (elsewhere)' >&2; exit 100",
    );
    let output = place.banger(&BUILD);
    assert_error(&output, 1, "failed");
    assert_eq!(place.asked(), ["update", "update", "install", "install"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("waiting for E: Could not get lock") && said.contains("(elsewhere)"), "{said}");
}

/// With dpkg's real lock file in a directory that only banger and its apt-get see as dpkg's: this process holds the lock.
#[test]
fn whoever_holds_the_lock_of_dpkg_is_named_and_waited_for() {
    let namespaces = run(command("unshare").args(["--user", "--map-root-user", "--mount", "true"]), b"");
    let usable = namespaces.status.success() && Path::new("/var/lib/dpkg").is_dir();
    if !support::require("contract", usable, "no user namespace, or this host has no dpkg") || !lacks_keys() {
        return;
    }
    let place = Place::new("");
    fs::create_dir(place.path("dpkg")).unwrap();
    let lock = fs::File::create(place.path("dpkg/lock-frontend")).unwrap();
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let script = "mount --bind \"$HERE/dpkg\" /var/lib/dpkg && exec \"$0\" \"$@\"";
    let mut banger = place.command("unshare");
    banger.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_banger")]);
    banger.args(BUILD).arg("--json").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut banger = banger.spawn().unwrap();
    let said = BufReader::new(banger.stderr.take().unwrap());
    let mut lines = said.lines().map_while(Result::ok);
    let this = format!("(process {}), which holds /var/lib/dpkg/lock-frontend", std::process::id());
    assert!(lines.any(|line| line.contains("waiting for ") && line.contains(&this)), "it names this process");
    assert!(place.asked().is_empty(), "apt-get is not run meanwhile");
    drop(lock);
    assert!(lines.any(|line| line.contains("still not there")), "it goes on");
    assert!(!banger.wait().unwrap().success());
    assert_eq!(place.asked(), ["update", "install", "install"]);
}
