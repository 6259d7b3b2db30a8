//! Commands on a machine elsewhere, whatever carries them: what they are given, what ends a wait for them, how they end.

pub(super) mod duplex;
mod exit;

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use thiserror::Error;

use banger_host::process::signal::Interrupts;
pub use exit::Exit;

/// How often a wait looks at deadlines and at whether the peer still lives.
const TICK: Duration = Duration::from_millis(500);
/// How long the peer may take to start a command.
pub(super) const START: Duration = Duration::from_secs(60);
/// How long the peer may take to see that a command is done with.
pub(super) const CLOSE: Duration = Duration::from_secs(10);

/// Why there is no connection to a guest, or why it broke.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// A key file cannot be read or is no ed25519 key.
    #[error("cannot use the SSH key {path:?}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no TCP connection.
    #[error("cannot connect to sshd at {address}")]
    Connect {
        /// Where.
        address: SocketAddrV4,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something answers that is no sshd.
    #[error("what answers at {0} does not speak SSH")]
    NoSsh(SocketAddrV4),
    /// The host key is another one than the pinned one.
    #[error("the host key of sshd at {0} is not the one made for this VM")]
    HostKey(SocketAddrV4),
    /// The protocol failed.
    #[error("SSH failed ({step})")]
    Protocol {
        /// What was going on.
        step: &'static str,
        /// Why.
        #[source]
        source: ssh2::Error,
    },
    /// The VMM does not take a connection to the guest.
    #[error("cannot connect to the guest through {path:?}")]
    Socket {
        /// The VMM's socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest takes commands over SSH alone.
    #[error("the guest takes no commands over its agent's channel")]
    NoService,
    /// As many commands run over the agent's channel as it takes.
    #[error("all ports of the guest's agent for commands are in use")]
    Taken,
    /// What the guest says are no frames.
    #[error("the guest does not keep to the protocol ({0})")]
    Malformed(&'static str),
    /// The guest does not start commands.
    #[error("the guest refuses the command: {0}")]
    Refused(String),
    /// The peer closed the connection, or is gone.
    #[error("the guest closed the connection ({step})")]
    Closed {
        /// What was going on.
        step: &'static str,
    },
    /// A deadline passed.
    #[error("the guest did not answer within {} s ({step})", .limit.as_secs())]
    Deadline {
        /// What was going on.
        step: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The command should have been ended by now, and nothing says that it was.
    #[error("the command is over its time, and the guest does not end it")]
    Overdue,
    /// A signal came.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// Nobody takes what the command said, or there is no room for it.
    #[error("cannot pass on the command's output")]
    Output(#[source] io::Error),
    /// What came could not be passed on, or the command's input could not be read.
    #[error("cannot pass on the command's streams")]
    Stream(#[source] io::Error),
}

/// What is to run.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// A command line, by root's login shell.
    Line(&'a str),
    /// banger-guest itself, with arguments of which none holds a NUL.
    Own(&'a [&'a str]),
}

/// What ends a wait beside its own event.
pub struct Watch<'a> {
    /// Signals; `None` where none is to end it.
    pub interrupts: Option<&'a Interrupts>,
    /// Whether the peer's machine still lives; asked twice a second while nothing happens.
    pub alive: &'a dyn Fn() -> bool,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("interrupts", &self.interrupts).finish_non_exhaustive()
    }
}

/// Takes what a remote command says.
pub trait Receiver {
    /// Takes a piece of its stdout.
    fn stdout(&mut self, bytes: &[u8]) -> Result<(), RemoteError>;
    /// Takes a piece of its stderr.
    fn stderr(&mut self, bytes: &[u8]) -> Result<(), RemoteError>;
    /// How long the command may now be silent, and take nothing of its input; `None`: for ever.
    fn patience(&self) -> Option<Duration>;
    /// Whether it still wants its input; once it does not, the input is closed.
    fn wants_input(&self) -> bool;
    /// Whether the peer waits for our input, so that its silence says nothing while there is none.
    fn awaits_input(&self) -> bool {
        false
    }
    /// Whether it has all that it wants, though the command's streams may go on.
    fn is_done(&self) -> bool {
        false
    }
    /// When the command should have ended, whatever it says; `None`: never.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Waits for `fds` until `timeout`; true when something came.
pub(super) fn wait(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<bool> {
    let timeout =
        Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    match poll(fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

impl Watch<'_> {
    /// An error where a signal came.
    pub(super) fn check(&self) -> Result<(), RemoteError> {
        self.interrupts
            .and_then(Interrupts::pending)
            .map_or(Ok(()), |signal| Err(RemoteError::Interrupted(signal)))
    }

    /// Waits for an event of `socket` or on `input`, a signal, or one tick.
    pub(super) fn tick(
        &self,
        socket: BorrowedFd<'_>,
        events: PollFlags,
        input: Option<BorrowedFd<'_>>,
        step: &'static str,
    ) -> Result<(), RemoteError> {
        // sshd leaves Nagle's algorithm on where there is no terminal, so a small answer waits for our acknowledgement of the one
        // before, which the kernel delays by 40 ms unless told otherwise each time (tcp(7), TCP_QUICKACK).
        let _ = sockopt::set_tcp_quickack(socket, true);
        let mut fds = vec![PollFd::from_borrowed_fd(socket, events)];
        fds.extend(self.interrupts.map(|signals| PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)));
        fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let happened = wait(&mut fds, TICK).map_err(RemoteError::Stream)?;
        self.check()?;
        if !happened && !(self.alive)() {
            return Err(RemoteError::Closed { step });
        }
        Ok(())
    }
}
