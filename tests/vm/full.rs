//! A host whose disk fills up under a running VM.

use std::path::PathBuf;
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::home::{Home, prepared, said};

/// A mount that goes with the test, however it ends.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // One that cannot go is the namespace's to take along.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The guest's command fails with an I/O error instead of hanging, and is told why; the VM goes on, and everything can be removed.
#[test]
fn a_full_host_gives_the_guest_an_error_and_the_user_the_reason() {
    let Some(home) = Home::new() else { return };
    let state = home.state();
    // Enough for a VM that does not write: tests run in a mount namespace of their own.
    let size = Some("size=64m,mode=0700");
    mount(Some("banger-test"), &state, Some("tmpfs"), MsFlags::empty(), size).unwrap();
    let _mounted = Mounted(state.clone());
    std::fs::create_dir(state.join("images")).unwrap();
    std::os::unix::fs::symlink(prepared().join("images/debian"), state.join("images/debian")).unwrap();
    let repo = home.repo("repo");
    let repo = repo.to_str().unwrap();

    let started = Instant::now();
    let fill = "dd if=/dev/zero of=/root/fill bs=1M count=150 conv=fsync";
    let output =
        home.run(&["vm", "run", "--name", "dev1", "--disk", "overlay", repo, "--", "sh", "-c", fill]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // Where the guest's kernel writes some of it before it is asked to, its filesystem is read-only by then.
    let told = ["Input/output error", "Read-only file system"];
    assert!(told.iter().any(|error| text.contains(error)), "{text}");
    assert!(text.contains("is full, so dev1 gets I/O errors"), "{text}");
    assert!(started.elapsed().as_secs() < 180, "it took {:?}", started.elapsed());

    // The VM lives, and one can get in; what looks at it says so as well.
    let output = home.run(&["vm", "exec", "dev1", "--", "cat", "/proc/1/comm"]);
    assert!(output.status.success(), "{}", said(&output));
    let stats = home.json(&["vm", "stats", "dev1"]);
    let storage = &stats["items"][0]["storage"];
    assert!(storage["work_bytes"].as_u64().unwrap() > 20 << 20, "{storage}");
    assert!(storage["free_bytes"].as_u64().unwrap() < 1 << 20, "{storage}");
    assert!(said(&home.run(&["ps"])).contains("VMs get I/O errors when it is full"));
    let doctor = home.run(&["doctor", "--json"]);
    let doctor = crate::support::record(&doctor);
    let space = doctor["items"].as_array().unwrap().iter().find(|item| item["name"] == "space").unwrap();
    assert_eq!(space["state"], "note", "{space}");

    // Full or not, it can be removed, and then there is room again.
    let deleted = home.run(&["vm", "delete", "--force", "dev1"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    assert!(!said(&home.run(&["ps"])).contains("I/O errors"));
    home.assert_clean();
}
