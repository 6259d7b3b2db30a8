//! The streams of one remote command, whatever carries them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{Receiver, RemoteError, Watch, wait};

/// How much is read or written at once, bytes.
pub(crate) const CHUNK: usize = 64 << 10;

/// What carries the streams. Nothing here blocks.
pub(crate) trait Carrier {
    /// Hands `receiver` what came, a bounded piece of it; whether there was anything.
    fn receive(&mut self, receiver: &mut dyn Receiver) -> Result<bool, RemoteError>;
    /// Whether the command has closed its streams, and all that it said was handed on.
    fn has_ended(&self) -> bool;
    /// Sends the beginning of `bytes`: how much was taken, 0 where nothing can be now.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, RemoteError>;
    /// Sends the input's end; whether that was possible now.
    fn send_end(&mut self) -> Result<bool, RemoteError>;
    /// What to wait for when nothing else can be done.
    fn wanted(&self) -> (BorrowedFd<'_>, PollFlags);
}

/// One command's streams, all of them served in turn, so that neither end ever waits for the other.
pub(crate) struct Duplex<C> {
    pub(crate) carrier: C,
    input: Option<File>,
    pending: Vec<u8>,
    sent: usize,
    eof_sent: bool,
    /// Whether it is us, or who feeds us, that there is nothing to send.
    starved: bool,
}

impl<C: Carrier> Duplex<C> {
    pub(crate) fn new(carrier: C, input: Option<OwnedFd>) -> Self {
        let input = input.map(File::from);
        Self { carrier, input, pending: Vec::new(), sent: 0, eof_sent: false, starved: false }
    }

    /// Input that was read, and not sent yet.
    fn unsent(&self) -> &[u8] {
        &self.pending[self.sent..]
    }

    /// The carrier beside it.
    pub(crate) fn parts(&mut self) -> (&mut C, &[u8]) {
        (&mut self.carrier, &self.pending[self.sent..])
    }

    /// Drops it.
    pub(crate) fn drop_unsent(&mut self) {
        self.pending.clear();
        self.sent = 0;
    }

    /// Serves the streams until the command has closed its own, or `receiver` is done.
    pub(crate) fn run(&mut self, receiver: &mut dyn Receiver, watch: &Watch<'_>) -> Result<(), RemoteError> {
        let step = "running the command";
        let mut active = Instant::now();
        loop {
            let mut progress = self.carrier.receive(receiver)?;
            if receiver.is_done() || self.carrier.has_ended() {
                return Ok(());
            }
            if !receiver.wants_input() {
                // What is pending still goes: a part of it may be under way.
                self.input = None;
            }
            progress |= self.send()?;
            if self.starved && receiver.awaits_input() {
                active = Instant::now();
            }
            watch.check()?;
            if let Some(until) = receiver.deadline()
                && Instant::now() >= until
            {
                return Err(RemoteError::Overdue);
            }
            if progress {
                active = Instant::now();
                continue;
            }
            if let Some(limit) = receiver.patience()
                && active.elapsed() > limit
            {
                return Err(RemoteError::Deadline { step, limit });
            }
            // The input matters only while nothing of it waits to be sent.
            let hungry = self.unsent().is_empty();
            let input = self.input.as_ref().filter(|_| hungry).map(AsFd::as_fd);
            let (socket, events) = self.carrier.wanted();
            watch.tick(socket, events, input, step)?;
        }
    }

    /// Sends what is there of the input, one chunk, and its end.
    fn send(&mut self) -> Result<bool, RemoteError> {
        if self.eof_sent {
            return Ok(false);
        }
        self.starved = false;
        if self.unsent().is_empty() {
            match self.refill() {
                Ok(0) => {
                    // A pipe at its end is always "readable": waiting for it would be a busy loop.
                    self.input = None;
                    self.eof_sent = self.carrier.send_end()?;
                    return Ok(self.eof_sent);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.starved = true;
                    return Ok(false);
                }
                Err(error) => return Err(RemoteError::Stream(error)),
            }
        }
        let count = self.carrier.send(&self.pending[self.sent..])?;
        self.sent += count;
        Ok(count > 0)
    }

    /// Reads the next chunk of the input; 0 at its end. It may be anybody's stdin: it stays in the mode that it is in, since that mode
    /// belongs to all who have it open, a shell for one, and is asked before it is read.
    fn refill(&mut self) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Ok(0) };
        if !wait(&mut [PollFd::new(input, PollFlags::IN)], Duration::ZERO)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.pending.resize(CHUNK, 0);
        self.sent = 0;
        let read = input.read(&mut self.pending);
        self.pending.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(io::ErrorKind::WouldBlock.into()),
            read => read,
        }
    }
}
