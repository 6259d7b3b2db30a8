//! poll(2) with an instant as its deadline.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

/// Waits until one of `fds` is ready and gives how many are; 0 once `until` has passed. `None` waits for ever.
///
/// # Errors
/// Those of poll(2) but EINTR, after which it goes on waiting.
pub fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<usize> {
    loop {
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        match rustix::event::poll(fds, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
