//! A line for whoever works in the guest, on every terminal, as wall(1) writes it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Says that the VM is stopped in so many seconds.
pub fn expires(seconds: u64) {
    let left = match seconds {
        0..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    };
    let line = format!("\r\nbanger: the time of this VM is over in {left}; then it is shut down\r\n");
    let terminals = fs::read_dir("/dev/pts").into_iter().flatten().flatten();
    for entry in terminals.filter(|entry| entry.file_name() != "ptmx") {
        // A terminal that nobody reads takes nothing any more; that must not hold up the agent.
        let mut options = File::options();
        let terminal = options.write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(entry.path());
        drop(terminal.and_then(|mut terminal| terminal.write_all(line.as_bytes())));
    }
    crate::halt::say(&format!("the time of this VM is over in {left}"));
}
