//! VMs whose making or deletion was cut short: each of them starts, or is gone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::replaceable::{ShellWorld, said};
use crate::support::{self, record};

const NEW: [&str; 4] = ["--net", "user", "--vmm", "qemu"];

impl ShellWorld {
    fn create(&self, name: &str) -> PathBuf {
        self.ok(&[&["vm", "create", name], &NEW[..]].concat());
        PathBuf::from(
            record(&self.ok(&["vm", "show", name, "--json"]))["vm"]["paths"]["dir"].as_str().unwrap(),
        )
    }

    /// Runs `arguments` and kills it after `delay`, unless it has ended by then.
    fn killed_after(&self, arguments: &[&str], delay: Duration) {
        let mut banger = self.command(arguments);
        let banger = banger.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = banger.spawn().unwrap();
        std::thread::sleep(delay);
        drop(child.kill());
        child.wait().unwrap();
    }

    /// Runs `arguments` once what a killed command left running has ended.
    fn undisturbed(&self, arguments: &[&str]) -> std::process::Output {
        let until = Instant::now() + support::SOON;
        loop {
            let output = self.run(arguments);
            if output.status.code() != Some(4) || Instant::now() > until {
                return output;
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let list = record(&self.ok(&["ps", "--json"]));
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| vm["vm"]["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_vm_that_lacks_what_its_making_gives_it_starts() {
    let Some(world) = ShellWorld::new() else { return };
    let dir = world.create("dev1");
    let remove = |name: &str| fs::remove_file(dir.join(name)).unwrap();
    let damages: [(&str, &dyn Fn()); 5] = [
        ("no directory", &|| fs::remove_dir_all(&dir).unwrap()),
        ("no key", &|| ["host_key", "host_key.pub"].iter().for_each(|name| remove(name))),
        ("half a key", &|| remove("host_key.pub")),
        ("no known_hosts", &|| remove("known_hosts")),
        ("no client key", &|| fs::remove_dir_all(world.bench.state().join("ssh")).unwrap()),
    ];
    for (what, damage) in damages {
        damage();
        let output = world.run(&["vm", "start", "dev1"]);
        assert!(output.status.success(), "{what}: {}", said(&output));
        let key = fs::read_to_string(dir.join("host_key.pub")).unwrap();
        let known = fs::read_to_string(dir.join("known_hosts")).unwrap();
        assert!(known.trim().ends_with(key.trim()), "{what}: {known} is of another key than {key}");
        world.ok(&["vm", "stop", "dev1"]);
    }
    world.ok(&["vm", "delete", "dev1"]);
}

#[test]
fn a_creation_killed_at_any_instant_leaves_nothing_or_a_vm_that_starts() {
    let Some(world) = ShellWorld::new() else { return };
    let begun = Instant::now();
    world.create("whole");
    let whole = begun.elapsed();
    for at in 0..8 {
        let name = format!("half{at}");
        world.killed_after(&[&["vm", "create", &name], &NEW[..]].concat(), whole * at / 8);
        if world.names().contains(&name) {
            let output = world.undisturbed(&["vm", "start", &name]);
            assert!(output.status.success(), "killed after {:?}: {}", whole * at / 8, said(&output));
            world.ok(&["vm", "delete", "--force", &name]);
        }
    }
    world.ok(&["vm", "delete", "whole"]);
    world.ok(&["gc"]);
    assert!(support::disk::names(&world.bench.state().join("vms")).is_empty());
}

#[test]
fn a_deletion_killed_at_any_instant_leaves_nothing_or_a_vm_that_starts() {
    let Some(world) = ShellWorld::new() else { return };
    world.create("whole");
    let begun = Instant::now();
    world.ok(&["vm", "delete", "whole"]);
    let whole = begun.elapsed();
    for at in 0..8 {
        world.create("dev1");
        world.killed_after(&["vm", "delete", "dev1"], whole * at / 8);
        let output = world.undisturbed(&["vm", "start", "dev1"]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "after {:?}: {}", whole * at / 8, said(&output));
        assert_eq!(world.names().is_empty(), output.status.code() == Some(3), "{}", said(&output));
        let deleted = world.undisturbed(&["vm", "delete", "--force", "dev1"]);
        assert!(matches!(deleted.status.code(), Some(0 | 3)), "{}", said(&deleted));
    }
    assert!(support::disk::names(&world.bench.state().join("vms")).is_empty());
}

/// What is decided: once a deletion has begun to remove files, the next command completes it.
#[test]
fn a_vm_whose_files_began_to_go_is_gone_at_the_next_command() {
    let Some(world) = ShellWorld::new() else { return };
    let dir = world.create("dev1");
    let writer = Writer::into(&dir);
    let mut delete = world.command(&["vm", "delete", "dev1"]);
    let mut delete = delete.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The writer keeps the directory from going.
    support::eventually("its files go", || !dir.join("host_key").exists());
    delete.kill().unwrap();
    delete.wait().unwrap();
    drop(writer);
    let output = world.undisturbed(&["vm", "start", "dev1"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    world.create("dev1");
    world.ok(&["vm", "delete", "dev1"]);
}

/// A program that writes into a VM's directory as long as that is there, as one does that outlives a `banger` that was killed.
struct Writer {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn into(dir: &Path) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (stopped, dir) = (stop.clone(), dir.to_owned());
        let write = move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                // Once the directory is gone there is nowhere to write to.
                if let Ok(mut file) = fs::File::create(dir.join(format!("late-{number}"))) {
                    drop(file.write_all(b"late"));
                }
                number += 1;
            }
        };
        Self { stop, thread: Some(std::thread::spawn(write)) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_vm_is_deleted_while_somebody_still_writes_into_its_directory() {
    let Some(world) = ShellWorld::new() else { return };
    let dir = world.create("dev1");
    let writer = Writer::into(&dir);
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        drop(writer);
    });
    let output = world.run(&["vm", "delete", "dev1"]);
    end.join().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(!dir.exists() && world.names().is_empty());
}
