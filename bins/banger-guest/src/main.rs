//! The static program inside a VM: init of the initramfs, then lean init or agent. Where it is not PID 1 it runs a command for
//! the host.
//!
//! [`boot`] is the way from the kernel's hand-over to the image's root; [`init`] (lean) and [`systemd`] are the two ways on
//! from there; [`agent`] answers the host; [`serve`] takes its commands, [`command`] runs one, and
//! [`resync`] is the second copy of a checkout, [`changes`] tells what became of it. `sys` holds everything that
//! is unsafe.

#![allow(clippy::disallowed_methods, reason = "it is a command line of its own")]

mod agent;
mod boot;
mod changes;
mod channel;
mod clock;
mod command;
mod conversation;
mod disks;
mod error;
mod files;
mod halt;
mod home;
mod init;
mod inspect;
mod java;
mod login;
mod modules;
mod mounts;
mod network;
mod notice;
mod resync;
mod serve;
mod sshd;
#[allow(unsafe_code, reason = "interfaces of the kernel")]
mod sys;
mod systemd;
mod trust;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return command::main();
    }
    halt::power_off_on_panic();
    match boot::run() {
        Ok(never) => match never {},
        Err(failure) => halt::fail(&failure),
    }
}
