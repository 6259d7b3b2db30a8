//! What the host needs does not grow with what travels. `tests/bench/workspace memory` measures more of it, and the sum.

use std::fs;
use std::io::Write;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Command, Stdio};

use super::guest::{Guest, git};
use crate::support;

/// The most that banger-ws or any program that it starts may hold in memory, KiB; all of them together may hold 64 MiB.
const BOUND_KIB: i64 = 32 << 10;

/// Runs `command`, which must succeed, with `input` on its stdin; gives the largest resident set that it or a process below it had, KiB.
#[expect(clippy::zombie_processes, reason = "wait4(2) waits, and tells what the standard library does not")]
fn peak_kib(command: &mut Command, input: &str) -> i64 {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: a child that is waited for here only, and pointers to what is written.
    let waited = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!((waited, status), (child.id().cast_signed(), 0), "{command:?}");
    // SAFETY: wait4(2) has filled it, and all zeroes are one, too.
    unsafe { usage.assume_init() }.ru_maxrss
}

fn noise(path: &Path, megabytes: usize) {
    let mut from = fs::File::open("/dev/urandom").unwrap();
    let mut to = fs::File::create(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    for _ in 0..megabytes {
        std::io::Read::read_exact(&mut from, &mut piece).unwrap();
        to.write_all(&piece).unwrap();
    }
}

#[test]
fn large_files_and_patches_do_not_fill_the_hosts_memory() {
    let Some(guest) = Guest::new() else { return };
    let (repo, copy) = (guest.repo(), guest.path("guest"));
    noise(&repo.join("large.bin"), 100);
    git(&repo, &["add", "-N", "large.bin"]);
    let record = guest.path("record.json");
    let ws = |args: &[&str]| {
        let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        command.args(args);
        command
    };
    let mut prepare =
        ws(&["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", copy.to_str().unwrap()]);
    let peak = peak_kib(&mut prepare, &guest.record().to_string());
    assert!(peak < BOUND_KIB, "prepare: {peak} KiB");
    assert_eq!(fs::metadata(copy.join("large.bin")).unwrap().len(), 100 << 20);

    let mut sent = guest.record();
    let handles = fs::read(guest.path("state/vms").join(super::guest::ID).join("handles.json")).unwrap();
    let handles: serde_json::Value = serde_json::from_slice(&handles).unwrap();
    sent["workspace"] = handles["workspace"].clone();
    noise(&copy.join("new.bin"), 60);
    let patch = guest.path("p.patch");
    let mut export =
        ws(&["export", "--output", patch.to_str().unwrap(), "--record", record.to_str().unwrap()]);
    let peak = peak_kib(&mut export, &sent.to_string());
    assert!(peak < BOUND_KIB, "export: {peak} KiB");
    assert!(fs::metadata(&patch).unwrap().len() > 60 << 20);
}
