//! Commands over a stream of frames ([`banger_protocol::frames`]) that a VMM carries to its guest: a Unix socket that ends in a
//! virtio-serial port or in a vsock connection.
//!
//! The peer is hostile: every frame is checked before it is believed, and no more is held than one of the longest.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::remote::duplex::{Carrier, Duplex};
use super::remote::{CLOSE, Exit, Program, Receiver, RemoteError, Watch};
use banger_contract::error::escape_controls;
use banger_host::random;
use banger_protocol::frames::{self, Frame, HEADER_BYTES, Kind, MAX_COMMAND, MAX_DATA, Malformed, WINDOW};

/// How much is heard at once, bytes; more than the longest frame.
const ROOM: usize = 256 << 10;
/// How much of earlier conversations may come before the guest's greeting, bytes.
const MAX_STALE: usize = 16 << 20;
/// The longest answer of a VMM to `CONNECT`, bytes.
const MAX_ANSWER: usize = 64;

/// A conversation with the service of a guest that runs commands.
pub struct Session {
    socket: UnixStream,
    state: RefCell<State>,
    /// What keeps others from the port.
    _lock: Option<File>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What is between us and the socket.
struct State {
    heard: Vec<u8>,
    /// What of it was not looked at yet.
    from: usize,
    until: usize,
    unsent: Vec<u8>,
    sent: usize,
    /// Whether a command was started and nothing was heard of its end.
    busy: bool,
}

fn closed(step: &'static str) -> RemoteError {
    RemoteError::Closed { step }
}

impl State {
    fn new() -> Self {
        Self { heard: vec![0; ROOM], from: 0, until: 0, unsent: Vec::new(), sent: 0, busy: false }
    }

    /// Reads what is there, where there is room; whether something came.
    fn read(&mut self, mut socket: &UnixStream, step: &'static str) -> Result<bool, RemoteError> {
        if self.from > 0 {
            self.heard.copy_within(self.from..self.until, 0);
            self.until -= self.from;
            self.from = 0;
        }
        match socket.read(&mut self.heard[self.until..]) {
            Ok(0) => Err(closed(step)),
            Ok(count) => {
                self.until += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(false)
            }
            Err(_) => Err(closed(step)),
        }
    }

    fn queue(&mut self, kind: Kind, payload: &[u8]) {
        self.unsent.extend_from_slice(&frames::header(kind, payload.len()));
        self.unsent.extend_from_slice(payload);
    }

    /// Writes what the socket takes; whether nothing is left.
    fn flush(&mut self, mut socket: &UnixStream, step: &'static str) -> Result<bool, RemoteError> {
        while self.sent < self.unsent.len() {
            match socket.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(closed(step)),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(true)
    }

    /// What to wait for.
    fn wanted(&self) -> PollFlags {
        if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }
}

impl Session {
    /// Begins a conversation on `socket` within `limit`; `vsock_port` where the VMM is to be told which port to connect to. `lock` is held
    /// as long as the session.
    pub fn begin(
        socket: UnixStream,
        lock: Option<File>,
        vsock_port: Option<u32>,
        limit: Duration,
        watch: &Watch<'_>,
    ) -> Result<Self, RemoteError> {
        socket.set_nonblocking(true).map_err(RemoteError::Stream)?;
        let session = Self { socket, state: RefCell::new(State::new()), _lock: lock };
        let limit = (Instant::now() + limit, limit);
        if let Some(port) = vsock_port {
            session.ask_for(port, limit, watch)?;
        }
        session.greet(limit, watch)?;
        Ok(session)
    }

    /// Waits until something came.
    fn await_more(
        &self,
        state: &mut State,
        (until, limit): (Instant, Duration),
        watch: &Watch<'_>,
        step: &'static str,
    ) -> Result<(), RemoteError> {
        loop {
            state.flush(&self.socket, step)?;
            if state.read(&self.socket, step)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(RemoteError::Deadline { step, limit });
            }
            watch.tick(self.socket.as_fd(), state.wanted(), None, step)?;
        }
    }

    /// Has the VMM connect: `CONNECT <port>`, to which it says `OK <port>` (Firecracker, docs/vsock.md).
    fn ask_for(&self, port: u32, limit: (Instant, Duration), watch: &Watch<'_>) -> Result<(), RemoteError> {
        let mut state = self.state.borrow_mut();
        state.unsent = format!("CONNECT {port}\n").into_bytes();
        loop {
            self.await_more(&mut state, limit, watch, "connecting")?;
            let answer = &state.heard[state.from..state.until];
            let end = answer.iter().take(MAX_ANSWER).position(|byte| *byte == b'\n');
            match end {
                Some(end) if answer.starts_with(b"OK ") => {
                    state.from += end + 1;
                    return Ok(());
                }
                None if answer.len() < MAX_ANSWER => {}
                _ => return Err(RemoteError::Malformed("the VMM does not connect")),
            }
        }
    }

    /// Finds the beginning of the conversation in what comes.
    fn greet(&self, limit: (Instant, Duration), watch: &Watch<'_>) -> Result<(), RemoteError> {
        let mut state = self.state.borrow_mut();
        let nonce = random::bytes::<{ frames::NONCE_BYTES }>();
        state.unsent = frames::greeting(nonce);
        let mut stale = 0;
        while stale <= MAX_STALE {
            match frames::find_greeting(&state.heard[state.from..state.until]) {
                Ok((found, length)) => {
                    state.from += length;
                    stale += length;
                    if found == nonce {
                        return Ok(());
                    }
                }
                Err(useless) => {
                    state.from += useless;
                    stale += useless;
                    self.await_more(&mut state, limit, watch, "waiting for the guest's greeting")?;
                }
            }
        }
        Err(RemoteError::Malformed("it does not greet"))
    }

    /// Runs `program`, feeds it `input` (any descriptor, left in the mode that it is in; nothing where it is `None`), hands what it
    /// says to `receiver`, and waits for its end; `None` where the receiver was done before.
    pub fn exec(
        &self,
        program: Program<'_>,
        input: Option<OwnedFd>,
        receiver: &mut dyn Receiver,
        watch: &Watch<'_>,
    ) -> Result<Option<Exit>, RemoteError> {
        let (kind, command) = match program {
            Program::Line(line) => (Kind::Start, line.as_bytes().to_vec()),
            Program::Own(args) => (Kind::Own, args.iter().flat_map(|arg| arg.bytes().chain([0])).collect()),
        };
        let mut state = self.state.borrow_mut();
        if state.busy {
            self.leave(&mut state, watch)?;
        }
        if command.is_empty() || command.len() >= MAX_COMMAND {
            return Err(RemoteError::Refused("the command line is too long".to_owned()));
        }
        state.queue(kind, &command);
        state.busy = true;
        let mut duplex = Duplex::new(Streams { session: self, state, credit: WINDOW, exit: None }, input);
        let ran = duplex.run(receiver, watch);
        let Streams { mut state, exit, .. } = duplex.carrier;
        if exit.is_none() && (receiver.is_done() || matches!(ran, Err(RemoteError::Interrupted(_)))) {
            // After it others can use the connection, to end a command that was left alone for one.
            self.leave(&mut state, watch)?;
        }
        ran.map(|()| exit)
    }

    /// Leaves the command alone, whatever it still says.
    fn leave(&self, state: &mut State, watch: &Watch<'_>) -> Result<(), RemoteError> {
        let step = "leaving the command";
        state.queue(Kind::Leave, &[]);
        let limit = (Instant::now() + CLOSE, CLOSE);
        loop {
            while let Some(Frame { kind, length, .. }) = split(&state.heard[state.from..state.until])? {
                state.from += length;
                match kind {
                    Kind::Left => {
                        state.busy = false;
                        return Ok(());
                    }
                    Kind::Anew => return Err(closed(step)),
                    _ => {}
                }
            }
            // Not for as long as it likes to talk.
            if Instant::now() >= limit.0 {
                return Err(RemoteError::Deadline { step, limit: CLOSE });
            }
            self.await_more(state, limit, watch, step)?;
        }
    }
}

fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, RemoteError> {
    frames::split(bytes).map_err(|Malformed| RemoteError::Malformed("what it says are no frames"))
}

/// One command's streams.
struct Streams<'a> {
    session: &'a Session,
    state: RefMut<'a, State>,
    /// How much of the input may still be sent.
    credit: usize,
    exit: Option<Exit>,
}

const STEP: &str = "running the command";

/// How it ended.
fn ending(payload: &[u8]) -> Option<Exit> {
    match payload {
        [0, status] => Some(Exit::Status(*status)),
        [1, signal] => Exit::by_signal(*signal),
        _ => None,
    }
}

impl Streams<'_> {
    /// Takes the next frame, if it is there.
    fn take(&mut self, receiver: &mut dyn Receiver) -> Result<bool, RemoteError> {
        let state = &mut *self.state;
        let Some(Frame { kind, payload, length }) = split(&state.heard[state.from..state.until])? else {
            return Ok(false);
        };
        state.from += length;
        match kind {
            Kind::Stdout => receiver.stdout(payload)?,
            Kind::Stderr => receiver.stderr(payload)?,
            Kind::Taken => {
                let taken = payload.iter().rev().fold(0, |count, byte| count << 8 | usize::from(*byte));
                self.credit = Some(self.credit + taken)
                    .filter(|credit| *credit <= WINDOW)
                    .ok_or(RemoteError::Malformed("it takes what was not sent"))?;
            }
            Kind::Ended => {
                let exit = ending(payload).ok_or(RemoteError::Malformed("it does not say how it ended"))?;
                self.exit = Some(exit);
                state.busy = false;
            }
            Kind::Refused => {
                state.busy = false;
                return Err(RemoteError::Refused(escape_controls(&String::from_utf8_lossy(payload))));
            }
            Kind::Anew => return Err(closed(STEP)),
            Kind::Start | Kind::Own | Kind::Input | Kind::InputEnd | Kind::Leave | Kind::Left => {
                return Err(RemoteError::Malformed("it says what is not its to say"));
            }
        }
        Ok(true)
    }
}

impl Carrier for Streams<'_> {
    fn receive(&mut self, receiver: &mut dyn Receiver) -> Result<bool, RemoteError> {
        self.state.flush(&self.session.socket, STEP)?;
        let mut progress = self.state.read(&self.session.socket, STEP)?;
        while !self.has_ended() && !receiver.is_done() && self.take(receiver)? {
            progress = true;
        }
        Ok(progress)
    }

    fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, RemoteError> {
        let count = bytes.len().min(MAX_DATA).min(self.credit);
        if !self.state.flush(&self.session.socket, STEP)? || count == 0 {
            return Ok(0);
        }
        self.state.queue(Kind::Input, &bytes[..count]);
        self.credit -= count;
        self.state.flush(&self.session.socket, STEP)?;
        Ok(count)
    }

    fn send_end(&mut self) -> Result<bool, RemoteError> {
        self.state.queue(Kind::InputEnd, &[]);
        self.state.flush(&self.session.socket, STEP)?;
        Ok(true)
    }

    fn wanted(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.session.socket.as_fd(), self.state.wanted())
    }
}

const _: () = assert!(HEADER_BYTES + MAX_COMMAND <= ROOM);
