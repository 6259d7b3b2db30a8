//! What every tier needs: finding the programs, running them, and skipping out loud.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::new_without_default,
    unsafe_code,
    reason = "what is for users of a library is not for tests"
)]

pub mod archive;
pub mod changes;
pub mod disk;
pub mod kernel;
pub mod tree;
pub mod web;

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Whatever comes at all comes sooner, also on a machine that is busy with other things: what a test takes it apart from takes for
/// ever, or minutes.
pub const SOON: Duration = Duration::from_secs(45);

/// Whether a test of `tier` may run. Where `condition` does not hold the reason is printed and the test is to return; it fails
/// instead where `BANGER_TEST_REQUIRE` (a comma-separated list) names the tier.
pub fn require(tier: &str, condition: bool, reason: &str) -> bool {
    let required = std::env::var("BANGER_TEST_REQUIRE").unwrap_or_default();
    if !condition && required.split(',').any(|t| t == tier) {
        panic!("this test must not be skipped (BANGER_TEST_REQUIRE={required}): {reason}");
    }
    if !condition {
        tell(&format!("SKIPPED: {reason}"));
        note_skip(tier, reason);
    }
    condition
}

/// Says something that is no failure; runners show it where they are asked to.
pub fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr is there");
}

/// Runners hide what a passed test says, so tests/run collects the reasons in a file.
fn note_skip(tier: &str, reason: &str) {
    let Some(path) = std::env::var_os("BANGER_TEST_SKIPPED") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    // One write, so that tests side by side do not mix their lines.
    let written = file.and_then(|mut file| file.write_all(format!("{tier}: {reason}\n").as_bytes()));
    written.expect("the reason can be noted");
}

/// The program `name` that was built for the tests that run, as cargo tells them (`CARGO_BIN_EXE_<name>`): never one of an earlier build.
pub fn program(name: &str) -> PathBuf {
    let told = std::env::var_os(format!("CARGO_BIN_EXE_{name}"));
    told.map(PathBuf::from).unwrap_or_else(|| panic!("cargo says where {name} is; start the tests by it"))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// A command; tests may start programs as they like. The configuration of whoever runs the tests is none of theirs.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("BANGER_CONFIG", "/dev/null");
    command
}

/// Runs `command` with `stdin` and gives everything it said.
pub fn run(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut pipe = child.stdin.take().expect("piped");
    let bytes = stdin.to_vec();
    // A program may end without reading all of its input.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().expect("the child can be waited for");
    writer.join().expect("the writer does not panic");
    output
}

/// Waits until `condition` holds, and says whether it came to hold.
pub fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + SOON;
    while !condition() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Waits until `condition` holds, which it must.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(soon(condition), "{what}: not within {SOON:?}");
}

/// The exit code of `child`, which ends soon; `None` where a signal ended it, or where it did not end and was killed for that.
pub fn wait(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child.kill());
    drop(child.wait());
    None
}

/// A TCP port of this machine for a program that is to listen there later. Not one that the kernel chooses: it would give the same to
/// the next connection of a test beside this one. These are below those and below banger's own, and each process begins at its own.
pub fn free_port() -> u16 {
    static USED: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 560) as u16 * 16;
    loop {
        let port = 11_000 + (own + USED.fetch_add(1, Ordering::Relaxed)) % (560 * 16);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The one record on stdout.
pub fn record(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "no record on stdout ({e}): {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Asserts that a program failed with `status` and an error record of `code`; gives the record.
#[track_caller]
pub fn assert_error(output: &Output, status: i32, code: &str) -> Value {
    let record = record(output);
    assert_eq!(record["schema"], "banger.error/1", "{record}");
    assert_eq!(record["error"]["code"], code, "{record}");
    assert_eq!(output.status.code(), Some(status), "{record}");
    record
}

/// Whether `program` is installed, system directories included.
pub fn has(program: &str) -> bool {
    which::which(program).is_ok() || Path::new("/usr/sbin").join(program).exists()
}

/// Puts the built programs `names` into the directory `bin`, which is on any filesystem: links of them, which nobody may write or chown.
pub fn link_programs(bin: &Path, names: &[&str]) {
    for name in names {
        let built = program(name);
        let linked = std::fs::hard_link(&built, bin.join(name));
        linked.or_else(|_| std::fs::copy(&built, bin.join(name)).map(drop)).unwrap();
    }
}

/// A state directory with an image `debian` whose files are empty: enough to plan VMs, not to start them.
pub fn state_with_fake_image() -> tempfile::TempDir {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let image = temp.path().join("images/debian");
    std::fs::create_dir_all(&image).expect("the image's directory");
    for file in ["rootfs.ext4", "vmlinuz", "vmlinux", "initrd.cpio", "work-seed.ext4", "upper-seed.ext4"] {
        std::fs::write(image.join(file), b"").expect("a file of the image");
    }
    let manifest = serde_json::json!({
        "schema": "banger.image/1", "name": "debian", "created_at": "2026-01-01T00:00:00.000Z", "source": "test",
        "distribution": "debian", "suite": "bookworm", "packages": [], "kernel_version": "6.1.0-test", "arch": "x86_64",
        "init": "lean", "default_rootfs_size_bytes": 1 << 30, "default_work_size_bytes": 1 << 30, "files": {},
    });
    std::fs::write(image.join("manifest.json"), manifest.to_string()).expect("the manifest");
    temp
}

/// Bytes without a pattern that a lost or doubled packet would leave intact, and that nothing compresses.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
