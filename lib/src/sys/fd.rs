//! Descriptors that a parent process handed down by number.

use std::os::fd::{FromRawFd, OwnedFd};

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
