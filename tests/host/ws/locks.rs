//! Who waits for whom: a copy that stalls keeps nobody from stopping the VM, and copies into one workspace never mix.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::time::Instant;

use super::guest::{Guest, ID, assert_round_trip, copy_of, git, said};
use crate::support;
use crate::support::changes::tree;

/// Passes `limit` bytes on to `port` and then takes no more, the connection open; gives its own port, and says when it stalls.
fn stalling_proxy(port: u16, limit: u64) -> (u16, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let (stalls, stalled) = mpsc::channel();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut back_from, &mut back_to)));
        drop(std::io::copy(&mut (&client).take(limit), &mut &server));
        stalls.send(()).unwrap();
        // For as long as this process lives: both connections stay open.
        loop {
            std::thread::park();
        }
    });
    (own, stalled)
}

#[test]
fn a_copy_that_stalls_holds_nobody_up_and_ends_with_its_vm() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join("big"), support::noise(16 << 20)).unwrap();
    git(&repo, &["add", "big"]);
    // What a supervisor holds.
    let alive = File::create(guest.path("state/vms").join(ID).join("run.lock")).unwrap();
    alive.lock().unwrap();
    let path = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    let (port, stalled) = stalling_proxy(guest.port, 1 << 20);
    let mut record = guest.record();
    record["net"]["ssh_port"] = port.into();
    let copying = guest.start(&args, &record);
    stalled.recv_timeout(support::SOON).unwrap();

    let lifecycle = File::create(guest.path("state/locks").join(format!("vm-{ID}.lock"))).unwrap();
    lifecycle.try_lock().expect("stop and delete find the lifecycle lock free");
    let error = support::assert_error(&guest.ws(&args, &guest.record()), 4, "busy");
    assert!(error["error"]["message"].as_str().unwrap().contains("banger-ws prepare (process "), "{error}");

    drop(alive);
    let since = Instant::now();
    let output = copying.wait_with_output().unwrap();
    assert!(since.elapsed() < support::SOON, "{:?}", since.elapsed());
    support::assert_error(&output, 1, "vm-stopped");
    let left: Vec<_> =
        fs::read_dir(guest.path("state/vms").join(ID)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("ws-")), "{left:?}");
}

#[test]
fn of_three_checkouts_sent_at_once_to_one_place_one_arrives_whole() {
    let Some(guest) = Guest::new() else { return };
    let path = guest.path("guest");
    let repos = ["one", "two", "three"].map(|name| {
        let made = guest.repo();
        let repo = guest.path(name);
        fs::rename(made, &repo).unwrap();
        for number in 0..40 {
            fs::write(repo.join(format!("{name}-{number}")), name.repeat(20_000)).unwrap();
            fs::write(repo.join(format!("all-{number}")), name.repeat(500)).unwrap();
        }
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-qm", name]);
        repo
    });
    for round in 0..5 {
        drop(fs::remove_dir_all(&path));
        let start = |repo: &std::path::PathBuf| {
            let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
            guest.start(&args, &guest.record())
        };
        let outputs = repos.each_ref().map(start).map(|child| child.wait_with_output().unwrap());
        let mut arrived = Vec::new();
        for (repo, output) in repos.iter().zip(&outputs) {
            match output.status.code() {
                Some(0) => arrived.push(repo),
                Some(4) => drop(support::assert_error(output, 4, "busy")),
                // The first was done before this one came.
                _ => drop(support::assert_error(output, 1, "conflict")),
            }
        }
        let [winner] = arrived[..] else {
            panic!("round {round}: {}", outputs.each_ref().map(said).join("\n"))
        };
        assert_eq!(tree(&path), tree(winner), "round {round}");
        git(&path, &["fsck", "--strict"]);
        assert_eq!(git(&path, &["log", "-1", "--format=%s"]), git(winner, &["log", "-1", "--format=%s"]));
    }
}

/// Quotes, blanks, a dollar and more in every path that is said: the checkout's, the workspace's, the patch's.
#[test]
fn an_apostrophe_in_a_path_is_a_letter_like_any_other() {
    let Some(guest) = Guest::new() else { return };
    let name = "it's \"$HOME\" `x` \\ ; & ünï";
    let repo = guest.path(name);
    fs::rename(guest.repo(), &repo).unwrap();
    fs::write(repo.join("don't"), "one\n").unwrap();
    git(&repo, &["add", "-A"]);
    let copy = copy_of(&guest, &repo);
    fs::create_dir(guest.path("in")).unwrap();
    let (there, patch) = (guest.path("in").join(name), guest.path("p'.patch"));
    let (there_arg, patch_arg) = (there.to_str().unwrap(), patch.to_str().unwrap());
    let args = ["run", "--repo", repo.to_str().unwrap(), "--guest-path", there_arg, "--patch", patch_arg];
    let command = ["--record", "r.json", "--", "sh", "-c", "pwd; echo two >> \"don't\"; echo x > \"can't\""];
    let output = guest.ws(&[&args[..], &command].concat(), &guest.record());
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", there.display()));
    let record = guest.last_record();
    for verb in [&["check"][..], &["status"], &["export", "--output", "p.patch"]] {
        let output = guest.ws(verb, &record);
        assert!(output.status.success(), "{verb:?}: {}", said(&output));
    }
    assert_eq!(fs::read(&patch).unwrap(), fs::read(guest.path("p.patch")).unwrap());
    symlink(&there, guest.path("guest")).unwrap();
    assert_round_trip(&guest, &copy);
}
