//! A guard beside libssh2, which goes on without a pause for as long as the peer sends what is to be ignored. Meanwhile nobody looks
//! at a deadline or at signals; shutting the socket down from another thread ends that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys::remote::wait;

/// How long after a deadline or a signal the connection may still be used, as to close a channel.
const GRACE: Duration = Duration::from_secs(15);
/// A wait that has no end of its own.
const LONG: Duration = Duration::from_secs(3600);

/// Does `work` on a connection over `socket`. Once `until` or a signal (`signals` becomes readable) is past by [`GRACE`], the socket
/// is shut down, which `work` sees as the peer's doing.
pub(super) fn beside<T>(
    socket: &OwnedFd,
    until: Option<Instant>,
    signals: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> T,
) -> io::Result<T> {
    let (over, working) = pipe_with(PipeFlags::CLOEXEC)?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_stuck(over.as_fd(), until, signals) {
                // It may be closed already.
                let _ = shutdown(socket, Shutdown::Both);
            }
        });
        let done = work();
        drop(working);
        Ok(done)
    })
}

/// Whether the work, which hangs `over` up when it ends, goes on for too long.
fn is_stuck(over: BorrowedFd<'_>, until: Option<Instant>, signals: Option<BorrowedFd<'_>>) -> bool {
    let mut until = until.map(|until| until + GRACE);
    let mut watched: Vec<_> = [over].into_iter().chain(signals).collect();
    loop {
        let left = until.map_or(LONG, |until| until.saturating_duration_since(Instant::now()));
        let mut fds: Vec<_> = watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        // A poll that fails protects nobody: the work has its own deadlines.
        if wait(&mut fds, left).is_err() || !fds[0].revents().is_empty() {
            return false;
        }
        if fds.get(1).is_some_and(|signal| !signal.revents().is_empty()) {
            watched.truncate(1);
            let told = Instant::now() + GRACE;
            until = Some(until.map_or(told, |until| until.min(told)));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return true;
        }
    }
}
