//! Descriptors that a parent process hands down by number.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Takes over the descriptor `number` (3 or more) and makes it close-on-exec; `None` where it is not open.
///
/// Call it once per descriptor and before threads or children exist: the number becomes this process's to close.
pub fn inherit(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD on any number is harmless and tells whether it is an open descriptor (fcntl(2)).
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, was handed down for us to own, and nothing else in this process knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// Lets the child that `command` starts inherit `fd`, whose number it finds in the variable `variable`. `fd` must stay open
/// until the child has been started.
pub fn hand_down(command: &mut Command, fd: &impl AsFd, variable: &str) {
    let number = fd.as_fd().as_raw_fd();
    command.env(variable, number.to_string());
    // SAFETY: the closure runs between fork and exec and only calls fcntl, which is async-signal-safe (signal-safety(7)).
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
}
