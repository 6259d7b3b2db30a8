//! The streams of one remote command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{CLOSE, Receiver, Session, SshError, Watch, wait};

/// How much is read or written at once, bytes. libssh2 packs at most 32 KiB into a packet.
const CHUNK: usize = 64 << 10;
/// More than libssh2 queues for one channel, which is its window of 2 MiB.
const MAX_QUEUED: usize = 4 << 20;

/// One command's streams, all of them served in turn: libssh2 deadlocks when more than its window is unread while it writes.
pub(super) struct Duplex<'a> {
    session: &'a Session,
    channel: ssh2::Channel,
    input: Option<File>,
    pending: Vec<u8>,
    sent: usize,
    eof_sent: bool,
    /// Whether it is us, or who feeds us, that there is nothing to send.
    starved: bool,
}

impl<'a> Duplex<'a> {
    pub(super) fn new(session: &'a Session, channel: ssh2::Channel, input: Option<OwnedFd>) -> Self {
        Self {
            session,
            channel,
            input: input.map(File::from),
            pending: Vec::new(),
            sent: 0,
            eof_sent: false,
            starved: false,
        }
    }

    pub(super) fn into_channel(self) -> ssh2::Channel {
        self.channel
    }

    /// Leaves the command alone, whatever its streams still hold: sshd closes them when it hears of it. That is not waited for,
    /// since sshd first passes on all that we have sent, and nobody may read it.
    pub(super) fn close(mut self, watch: &Watch<'_>) -> Result<(), SshError> {
        let step = "leaving the command";
        let (until, mut scrap) = (Instant::now() + CLOSE, vec![0; CHUNK]);
        while Instant::now() < until {
            // What is half sent must be completed by the call that began it, or nothing else is sent: our window's adjustment by
            // reading, the input's packet by writing.
            self.receive(0, &mut scrap)?;
            self.receive(1, &mut scrap)?;
            let blocked = if self.sent < self.pending.len() {
                match self.channel.write(&self.pending[self.sent..]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_half_sent(),
                    _ => false,
                }
            } else {
                // An error of any other kind: there is nothing to be left.
                let closed = self.channel.close();
                if !(closed.is_err() && self.is_half_sent()) {
                    return Ok(());
                }
                true
            };
            if blocked {
                watch.tick(self.session.socket.as_fd(), self.session.wanted(), None, step)?;
            } else {
                self.pending.clear();
                self.sent = 0;
            }
        }
        Err(SshError::Deadline { step, limit: CLOSE })
    }

    /// Whether libssh2 waits for room in the socket.
    fn is_half_sent(&self) -> bool {
        self.session.wanted().contains(PollFlags::OUT)
    }

    /// Serves the streams until the command has closed its own, or `receiver` is done.
    pub(super) fn run(&mut self, receiver: &mut dyn Receiver, watch: &Watch<'_>) -> Result<(), SshError> {
        let step = "running the command";
        let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut active = Instant::now();
        loop {
            // What came on stderr is handed on after what came before it on stdout, all of which is in libssh2's queue by then.
            let said = self.receive(1, &mut err)?;
            let mut progress = false;
            for _ in 0..MAX_QUEUED / CHUNK {
                let count = self.receive(0, &mut out)?;
                if count == 0 {
                    break;
                }
                progress = true;
                receiver.stdout(&out[..count])?;
            }
            if said > 0 {
                progress = true;
                receiver.stderr(&err[..said])?;
            }
            if receiver.is_done() || self.channel.eof() {
                return Ok(());
            }
            if !receiver.wants_input() {
                // What is pending still goes: libssh2 may be in the middle of a packet of it.
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
                return Err(SshError::Overdue);
            }
            if progress {
                active = Instant::now();
                continue;
            }
            if let Some(limit) = receiver.patience()
                && active.elapsed() > limit
            {
                return Err(SshError::Deadline { step, limit });
            }
            // The input matters only while nothing of it waits to be sent.
            let hungry = self.sent == self.pending.len();
            let input = self.input.as_ref().filter(|_| hungry).map(AsFd::as_fd);
            watch.tick(self.session.socket.as_fd(), self.session.wanted(), input, step)?;
        }
    }

    /// Reads what came on stdout (0) or stderr (1), one chunk; 0 where there is nothing now.
    fn receive(&mut self, id: i32, buffer: &mut [u8]) -> Result<usize, SshError> {
        match self.channel.stream(id).read(buffer) {
            Ok(count) => Ok(count),
            Err(error) => self.no_progress(error).map(|_| 0),
        }
    }

    /// Sends what is there of the input, one chunk, and its end.
    fn send(&mut self) -> Result<bool, SshError> {
        if self.eof_sent {
            return Ok(false);
        }
        self.starved = false;
        if self.sent == self.pending.len() {
            match self.refill() {
                Ok(0) => {
                    // A pipe at its end is always "readable": waiting for it would be a busy loop.
                    self.input = None;
                    return match self.channel.send_eof() {
                        Ok(()) => {
                            self.eof_sent = true;
                            Ok(true)
                        }
                        Err(error) => self.no_progress(error.into()),
                    };
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.starved = true;
                    return Ok(false);
                }
                Err(error) => return Err(SshError::Stream(error)),
            }
        }
        match self.channel.write(&self.pending[self.sent..]) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.sent += count;
                Ok(true)
            }
            Err(error) => self.no_progress(error),
        }
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

    fn no_progress(&self, error: io::Error) -> Result<bool, SshError> {
        let step = "running the command";
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(false);
        }
        if self.channel.eof() {
            // It ended without reading all of its input: that is for it to decide.
            return Ok(false);
        }
        Err(if self.session.is_closed() { SshError::Closed { step } } else { SshError::Stream(error) })
    }
}
