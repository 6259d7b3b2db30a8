//! Signals as something to wait for, and waiting for a child until one comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// SIGINT, SIGTERM and SIGHUP, blocked and readable. Children that [`super::exec`] starts have an empty mask again.
#[derive(Debug)]
pub struct Interrupts {
    fd: SignalFd,
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The child ended.
    Child(ExitStatus),
    /// A signal of this number came; the child still runs.
    Signal(i32),
}

impl Interrupts {
    /// Blocks the signals in this thread and those it starts. Call it once, before any thread.
    pub fn catch() -> io::Result<Self> {
        let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        mask.thread_block()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }

    /// The signal that came, if one did.
    pub fn pending(&self) -> Option<i32> {
        self.fd.read_signal().ok().flatten().and_then(|info| i32::try_from(info.ssi_signo).ok())
    }

    /// Waits for `time`, or until a signal comes: its number.
    pub fn pause(&self, time: Duration) -> Option<i32> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        // A poll that fails ends the pause early, which does no harm.
        let _ = super::poll::wait(&mut fds, Some(Instant::now() + time));
        self.pending()
    }

    /// Waits until `child` ends or a signal comes.
    pub fn wait(&self, child: &mut Child) -> io::Result<Ended> {
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        loop {
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if !fds[0].revents().is_empty() {
                return child.wait().map(Ended::Child);
            }
            if let Some(signal) = self.pending() {
                return Ok(Ended::Signal(signal));
            }
        }
    }
}

/// Sends `signal` to the process group that `child` leads; a group that is gone is no error.
pub fn signal_group(child: &Child, signal: Signal) {
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    // ESRCH: it has ended, which is what the signal was to bring about.
    let _ = nix::sys::signal::killpg(group, signal);
}
