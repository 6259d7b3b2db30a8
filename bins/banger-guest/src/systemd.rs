//! The image's own init: banger-guest leaves its place to it, and stays beside it as the agent.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::agent::Agent;
use crate::clock::{Steps, now_us};
use crate::disks::Disk;
use crate::error::{BootFailure, Context, Error};
use crate::{halt, inspect, sshd, sys};

const INIT: &std::ffi::CStr = c"/sbin/init";
const MACHINE_ID: &str = "/etc/machine-id";

/// Forks the agent and hands over. Returns only if the image's init cannot be executed.
pub fn run(disks: Vec<Disk>, steps: Steps) -> Result<Infallible, BootFailure> {
    let failure = |error| BootFailure { step: "sshd", error };
    prepare().map_err(failure)?;
    let start_us = now_us();
    let is_agent = sys::fork_child().context(|| "cannot fork the agent".to_owned()).map_err(failure)?;
    if is_agent {
        run_agent(disks, steps, start_us);
    }
    let error = Err(sys::exec(INIT)).context(|| format!("cannot execute {}", INIT.to_string_lossy()));
    error.map_err(failure)
}

fn prepare() -> Result<(), Error> {
    // An empty file has systemd make an id; a missing one would make it a "first boot", with presets and questions.
    if !Path::new(MACHINE_ID).exists() {
        fs::write(MACHINE_ID, "").context(|| format!("cannot write {MACHINE_ID}"))?;
    }
    if let Err(error) = sshd::leave_variables() {
        halt::say(&error.to_string());
    }
    Ok(())
}

/// Waits for the image's sshd, if it has one, and serves the host.
fn run_agent(disks: Vec<Disk>, mut steps: Steps, start_us: u64) -> ! {
    if let Err(error) = sys::mark_as_spared() {
        halt::say(&format!("systemd will end the agent early: {error}"));
    }
    nix::unistd::setsid().ok();
    while sshd::is_installed() && !inspect::is_listening(22) {
        std::thread::sleep(Duration::from_millis(50));
    }
    steps.add("sshd", start_us);
    let agent = Agent { init: "systemd", disks, shut_down: || sys::ask_systemd(halt::by_reboot()) };
    agent.run(steps);
    // Without a channel there is nothing to serve; ending would be no harm, but this function promises not to return.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
