//! The streams of one command over libssh2.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::PollFlags;

use super::Session;
use crate::sys::remote::duplex::{CHUNK, Carrier, Duplex};
use crate::sys::remote::{CLOSE, Receiver, RemoteError, Watch};

/// More than libssh2 queues for one channel, which is its window of 2 MiB.
const MAX_QUEUED: usize = 4 << 20;

/// One command's channel. libssh2 deadlocks when more than its window is unread while it writes.
pub(super) struct Streams<'a> {
    session: &'a Session,
    channel: ssh2::Channel,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(session: &'a Session, channel: ssh2::Channel) -> Self {
        Self { session, channel, out: vec![0; CHUNK], err: vec![0; CHUNK] }
    }

    pub(super) fn into_channel(self) -> ssh2::Channel {
        self.channel
    }

    /// Whether libssh2 waits for room in the socket.
    fn is_half_sent(&self) -> bool {
        self.session.wanted().contains(PollFlags::OUT)
    }

    /// Reads what came on stdout (0) or stderr (1), one chunk; 0 where there is nothing now.
    fn read(&mut self, id: i32) -> Result<usize, RemoteError> {
        let buffer = if id == 0 { &mut self.out } else { &mut self.err };
        match self.channel.stream(id).read(buffer) {
            Ok(count) => Ok(count),
            Err(error) => self.no_progress(error).map(|()| 0),
        }
    }

    fn no_progress(&self, error: io::Error) -> Result<(), RemoteError> {
        let step = "running the command";
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(());
        }
        if self.channel.eof() {
            // It ended without reading all of its input: that is for it to decide.
            return Ok(());
        }
        Err(if self.session.is_closed() { RemoteError::Closed { step } } else { RemoteError::Stream(error) })
    }
}

impl Carrier for Streams<'_> {
    fn receive(&mut self, receiver: &mut dyn Receiver) -> Result<bool, RemoteError> {
        // What is said on stderr is handed on after what came before it on stdout, all of which is in libssh2's queue by then.
        let said = self.read(1)?;
        let mut progress = false;
        for _ in 0..MAX_QUEUED / CHUNK {
            let count = self.read(0)?;
            if count == 0 {
                break;
            }
            progress = true;
            receiver.stdout(&self.out[..count])?;
        }
        if said > 0 {
            progress = true;
            receiver.stderr(&self.err[..said])?;
        }
        Ok(progress)
    }

    fn has_ended(&self) -> bool {
        self.channel.eof()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, RemoteError> {
        match self.channel.write(bytes) {
            Ok(count) => Ok(count),
            Err(error) => self.no_progress(error).map(|()| 0),
        }
    }

    fn send_end(&mut self) -> Result<bool, RemoteError> {
        match self.channel.send_eof() {
            Ok(()) => Ok(true),
            Err(error) => self.no_progress(error.into()).map(|()| false),
        }
    }

    fn wanted(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.session.socket.as_fd(), self.session.wanted())
    }
}

/// Leaves the command alone, whatever its streams still hold: sshd closes them when it hears of it. That is not waited for,
/// since sshd first passes on all that we have sent, and nobody may read it.
pub(super) fn close(mut duplex: Duplex<Streams<'_>>, watch: &Watch<'_>) -> Result<(), RemoteError> {
    let step = "leaving the command";
    let until = Instant::now() + CLOSE;
    while Instant::now() < until {
        let (streams, unsent) = duplex.parts();
        // What is half sent must be completed by the call that began it, or nothing else is sent: our window's adjustment by
        // reading, the input's packet by writing.
        streams.read(0)?;
        streams.read(1)?;
        let blocked = if unsent.is_empty() {
            // An error of any other kind: there is nothing to be left.
            let closed = streams.channel.close();
            if !(closed.is_err() && streams.is_half_sent()) {
                return Ok(());
            }
            true
        } else {
            match streams.channel.write(unsent) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => streams.is_half_sent(),
                _ => false,
            }
        };
        if blocked {
            let (socket, events) = streams.wanted();
            watch.tick(socket, events, None, step)?;
        } else {
            duplex.drop_unsent();
        }
    }
    Err(RemoteError::Deadline { step, limit: CLOSE })
}
