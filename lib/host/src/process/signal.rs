//! Signals as something to wait for, and waiting for a child until one comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
        let mask = Self::mask();
        mask.thread_block()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }

    /// From now on they do again what they usually do.
    pub fn release(self) {
        // The mask was set before; there is no reason to fail.
        let _ = Self::mask().thread_unblock();
    }

    fn mask() -> SigSet {
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
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

    /// Waits for a `child` that has our terminal. SIGTERM and SIGHUP are passed on to it; of SIGINT the terminal tells it. Where it
    /// is stopped so is this process, for the shell to see.
    pub fn attend(&self, child: &mut Child) -> io::Result<ExitStatus> {
        const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        loop {
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, Some(&TICK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            match self.pending().map(Signal::try_from) {
                Some(Ok(Signal::SIGINT)) | None => {}
                Some(signal) => signal_one(child, signal.unwrap_or(Signal::SIGTERM)),
            }
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
            if let Ok(WaitStatus::Stopped(..)) = waitid(Id::Pid(pid), flags) {
                nix::sys::signal::raise(Signal::SIGSTOP)?;
            }
        }
    }
}

/// Lets the child that `command` starts begin with no signal blocked: it would inherit the mask of this process otherwise, and
/// SIGTERM would not end it.
pub fn unblock_in_child(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and only calls pthread_sigmask, which is async-signal-safe
    // (signal-safety(7)).
    unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(io::Error::from)) };
}

/// Has a write beyond the largest file that this process may have (`ulimit -f`) fail with EFBIG, in this process and what it starts,
/// instead of ending it without a word.
pub fn survive_file_limit() {
    // Errors are only of signals that do not exist.
    // SAFETY: no handler of ours runs.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) };
}

/// Sends `signal` to `child`; one that has ended is no error.
pub fn signal_one(child: &Child, signal: Signal) {
    // ESRCH cannot be: a child that was not waited for is still there.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal);
}

/// Sends `signal` to the process group that `child` leads; a group that is gone is no error.
pub fn signal_group(child: &Child, signal: Signal) {
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    // ESRCH: it has ended, which is what the signal was to bring about.
    let _ = nix::sys::signal::killpg(group, signal);
}
