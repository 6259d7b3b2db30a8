//! The ways to end the VM: on request, when the boot fails, when this program has a bug.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

use crate::channel;
use crate::error::BootFailure;
use banger_protocol::guest::{Event, HALT_PARAMETER};

/// How the VMM is ended, from the kernel's command line.
static MODE: OnceLock<bool> = OnceLock::new();

/// Reads how to end the VMM. /proc must be mounted.
pub fn read_mode() {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let wanted = format!("{HALT_PARAMETER}=reboot");
    MODE.set(line.split_whitespace().any(|word| word == wanted)).ok();
}

/// Whether the VMM ends with a reboot rather than with powering off.
pub fn by_reboot() -> bool {
    MODE.get().copied().unwrap_or(false)
}

/// Ends the VM at once. Filesystems are synced, not unmounted.
pub fn now() -> ! {
    nix::unistd::sync();
    let mode = if by_reboot() { RebootMode::RB_AUTOBOOT } else { RebootMode::RB_POWER_OFF };
    reboot(mode).ok();
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// One line on the console, after this program's name.
pub fn say(message: &str) {
    let line = format!("banger-guest: {message}\n");
    let console = File::options().write(true).open("/dev/console");
    match console {
        Ok(mut console) => drop(console.write_all(line.as_bytes())),
        Err(_) => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// Tells the host and the console why the boot cannot go on, and ends the VM.
pub fn fail(failure: &BootFailure) -> ! {
    let message = failure.error.to_string();
    say(&format!("{}: {message}", failure.step));
    channel::push_briefly(&Event::Failed { step: failure.step.to_owned(), message });
    now()
}

/// PID 1 must not die: a panic says where it was and ends the VM. The agent beside systemd is not PID 1 and just ends.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("bug: {panic}"));
        if std::process::id() == 1 {
            now();
        }
    }));
}
