//! The static program inside a VM: init of the initramfs, then lean init or agent. Where it is not PID 1 it runs a command for
//! the host.
//!
//! [`boot`] is the way from the kernel's hand-over to the image's root; [`init`] (lean) and [`systemd`] are the two ways on
//! from there; [`agent`] answers the host; [`serve`] takes its commands, [`command`] runs one, and
//! [`resync`] is the second copy of a checkout, [`changes`] tells what became of it. `sys` holds everything that
//! is unsafe.

mod agent;
mod boot;
mod changes;
#[path = "../../../lib/src/contract/changes.rs"]
#[allow(dead_code, reason = "the host uses the rest, and so do the tests")]
mod changes_protocol;
mod channel;
mod clock;
mod command;
mod conversation;
mod disks;
mod error;
mod files;
#[path = "../../../lib/src/contract/frames.rs"]
mod frames;
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
#[path = "../../../lib/src/contract/resync.rs"]
mod plan;
#[path = "../../../lib/src/contract/guest.rs"]
#[expect(dead_code, reason = "the host uses the rest")]
mod protocol;
mod resync;
mod serve;
mod sshd;
mod sys;
mod systemd;
mod trust;
#[path = "../../../lib/src/contract/words.rs"]
mod words;

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
