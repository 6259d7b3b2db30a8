//! Connections that end early, and a peer that is not the VM.

use std::fs;
use std::net::TcpListener;

use super::guest::{Guest, ID, git, keygen, said};
use crate::support;

#[test]
fn a_connection_that_ends_early_is_a_failure() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    // Kills the sshd process of this connection: the shell's parent.
    let output = guest.run(&repo, &[], &["sh", "-c", "sleep 0.5; exec >&- 2>&-; kill -9 $PPID; sleep 1"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    let record = guest.last_record();
    assert_eq!(record["error"]["code"], "failed", "{record}");
    assert_eq!(record["error"]["details"]["command_ran"], true);
}

/// Passes `limit` bytes on to `port` and then closes both sides; gives its own port.
fn cutting_proxy(port: u16, limit: u64) -> u16 {
    use std::io::{Read, copy};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(copy(&mut back_from, &mut back_to)));
        drop(copy(&mut (&client).take(limit), &mut &server));
        drop((client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both)));
    });
    own
}

#[test]
fn a_copy_that_is_cut_leaves_nothing_behind() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    fs::write(repo.join("big"), support::noise(4 << 20)).unwrap();
    git(&repo, &["add", "big"]);
    let mut record = guest.record();
    record["net"]["ssh_port"] = cutting_proxy(guest.port, 1 << 20).into();
    let path = guest.path("guest");
    let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
    let output = guest.ws(&args, &record);
    support::assert_error(&output, 1, "failed");
    support::eventually("half a workspace goes", || !path.exists());
    // A VM whose supervisor is gone is said to be stopped.
    fs::write(guest.path("state/vms").join(ID).join("run.lock"), "").unwrap();
    record["net"]["ssh_port"] = cutting_proxy(guest.port, 1 << 20).into();
    support::assert_error(&guest.ws(&args, &record), 1, "vm-stopped");
}

#[test]
fn another_host_key_is_refused() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    keygen(&guest.path("other"));
    fs::copy(guest.path("other.pub"), guest.path("state/vms").join(ID).join("host_key.pub")).unwrap();
    let output = guest.run(&repo, &[], &["true"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(guest.last_record()["error"]["code"], "denied", "{}", said(&output));
}
