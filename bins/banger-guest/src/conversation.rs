//! One host's commands over one stream, one after the other (see [`banger_protocol::frames`]). Nothing here waits for anything but poll(2), and
//! what is held is bounded, whatever host and command do.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::login::{self, Streams};
use crate::sys;
use banger_protocol::frames::{
    self, Frame, GREETING, HEADER_BYTES, Kind, MAX_COMMAND, MAX_DATA, MAX_REASON, Malformed, WINDOW,
};
use banger_protocol::guest::TIMEOUT_GRACE;

/// Frames that may wait until no more output is read.
const MAX_WAITING: usize = 2;
/// How much is heard before it is looked at, bytes. A virtio-serial port gives a page at a time.
const CHUNK: usize = 64 << 10;
/// The room for it: the longest frame, and more.
const ROOM: usize = HEADER_BYTES + MAX_COMMAND + 2 * CHUNK;
/// How much input is passed on before the host hears of it, bytes.
const TAKEN_STEP: usize = WINDOW / 8;
/// How long what a lost host has started has, with its streams closed, until it is told to end.
const ALONE: Duration = Duration::from_secs(1);

/// Why a conversation does not go on.
#[derive(Debug)]
pub enum Over {
    /// The host's end is closed.
    Gone,
    /// What the host says is not to be understood.
    Malformed,
    /// The stream failed.
    Failed,
}

impl From<Malformed> for Over {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A command that runs, with our ends of its streams.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    input: Option<UnixStream>,
    /// Input that the command has not taken yet.
    held: VecDeque<u8>,
    input_ended: bool,
    /// Input that was passed on, or dropped, and of which the host has not heard.
    taken: usize,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    status: Option<ExitStatus>,
}

impl Running {
    fn start(kind: Kind, line: &[u8]) -> io::Result<Self> {
        let (ours, input) = UnixStream::pair()?;
        let (stdout, output) = io::pipe()?;
        let (stderr, errors) = io::pipe()?;
        for fd in [ours.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            set_blocking(fd, false)?;
        }
        let streams = Streams { input: input.into(), output: output.into(), errors: errors.into() };
        let child =
            if kind == Kind::Own { login::start_own(line, streams)? } else { login::start(line, streams)? };
        let pidfd = sys::pidfd_open(child.id())?;
        let (stdout, stderr) = (Some(stdout), Some(stderr));
        let (held, taken, status) = (VecDeque::new(), 0, None);
        Ok(Self { child, pidfd, input: Some(ours), held, input_ended: false, taken, stdout, stderr, status })
    }

    /// Passes input on. Where nobody reads it any more it is dropped.
    fn pass_input(&mut self) {
        while let Some(input) = &mut self.input
            && !self.held.is_empty()
        {
            match input.write(self.held.as_slices().0) {
                Ok(count) => {
                    self.held.drain(..count);
                    self.taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.input = None,
            }
        }
        if self.input.is_none() {
            self.taken += self.held.len();
            self.held.clear();
        }
        if self.input_ended && self.held.is_empty() {
            self.input = None;
        }
    }

    /// Closes its streams and lets somebody wait for it. `ending`: nobody is there any more for whom it runs, so it is told to end.
    fn abandon(mut self, ending: bool) -> JoinHandle<()> {
        drop((self.input.take(), self.stdout.take(), self.stderr.take()));
        std::thread::spawn(move || {
            if ending && self.status.is_none() {
                // What tidies up when its input ends, as the copying of a checkout, has time to do so.
                let group = Pid::from_raw(self.child.id().cast_signed());
                let told = [(ALONE, Signal::SIGTERM), (TIMEOUT_GRACE, Signal::SIGKILL)];
                for (patience, signal) in told {
                    if is_over(&self.pidfd, patience) {
                        break;
                    }
                    // It was not waited for, so the group is still its own.
                    killpg(group, signal).ok();
                    killpg(group, Signal::SIGCONT).ok();
                }
            }
            drop(self.child.wait());
        })
    }
}

/// Whether the process ends within `patience`.
fn is_over(pidfd: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

/// Sets whether reading and writing wait.
pub fn set_blocking(fd: impl AsFd, blocking: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    let flags = if blocking { flags - OFlag::O_NONBLOCK } else { flags | OFlag::O_NONBLOCK };
    fcntl(&fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(Into::into)
}

/// A stream to a host.
pub struct Conversation {
    /// Never blocking.
    stream: File,
    heard: Vec<u8>,
    /// How much of `heard` there is.
    filled: usize,
    greeted: bool,
    /// Whole frames, so that a write to a port is never the beginning of one: this process may end after it.
    waiting: VecDeque<Vec<u8>>,
    written: usize,
    running: Option<Running>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abandon(true);
        }
    }
}

/// What poll(2) is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Stream,
    Input,
    Stdout,
    Stderr,
    End,
}

impl Conversation {
    /// Over `stream`.
    pub fn over(stream: File) -> io::Result<Self> {
        set_blocking(&stream, false)?;
        let (heard, waiting) = (vec![0; ROOM], VecDeque::new());
        Ok(Self { stream, heard, filled: 0, greeted: false, waiting, written: 0, running: None })
    }

    /// Waits for a host at the other end of a port, which has no other sign of one: a write waits until somebody is there, while a read
    /// says "end" at once. The port stays open, since closing it drops what a new host has already said.
    pub fn await_host(&mut self) -> io::Result<()> {
        if let Some(running) = self.running.take() {
            running.abandon(true);
        }
        (self.greeted, self.written) = (false, 0);
        self.waiting.clear();
        set_blocking(&self.stream, true)?;
        let written = self.stream.write_all(&frames::frame(Kind::Anew, &[]));
        set_blocking(&self.stream, false)?;
        written
    }

    /// Ends what still runs, and waits for that.
    pub fn end(mut self) {
        if let Some(running) = self.running.take() {
            drop(running.abandon(true).join());
        }
    }

    /// Serves the host until it is gone, or cannot be understood.
    pub fn serve(&mut self) -> Over {
        let mut turned = self.hear();
        loop {
            match turned {
                Ok(()) => turned = self.turn(),
                Err(over) => return over,
            }
        }
    }

    fn turn(&mut self) -> Result<(), Over> {
        let ready = self.wait().map_err(|_| Over::Failed)?;
        let is_ready = |source: Source| ready.contains(&source);
        if is_ready(Source::Stream) {
            self.write()?;
            self.read()?;
        }
        if let Some(running) = &mut self.running {
            if is_ready(Source::End) {
                running.status = running.child.try_wait().map_err(|_| Over::Failed)?;
            }
            running.pass_input();
        }
        for (source, kind) in [(Source::Stdout, Kind::Stdout), (Source::Stderr, Kind::Stderr)] {
            if is_ready(source) {
                self.take_output(kind);
            }
        }
        self.report();
        self.write()
    }

    /// Waits until something can be done; says with what.
    fn wait(&self) -> Result<Vec<Source>, Errno> {
        let mut fds = Vec::with_capacity(5);
        let mut sources = Vec::with_capacity(5);
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        let write = if self.waiting.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        add(Source::Stream, self.stream.as_fd(), PollFlags::POLLIN | write);
        if let Some(running) = &self.running {
            if running.status.is_none() {
                add(Source::End, running.pidfd.as_fd(), PollFlags::POLLIN);
            }
            if let Some(input) = running.input.as_ref().filter(|_| !running.held.is_empty()) {
                add(Source::Input, input.as_fd(), PollFlags::POLLOUT);
            }
            if self.waiting.len() < MAX_WAITING {
                let outputs = [(Source::Stdout, &running.stdout), (Source::Stderr, &running.stderr)];
                for (source, pipe) in outputs {
                    if let Some(pipe) = pipe {
                        add(source, pipe.as_fd(), PollFlags::POLLIN);
                    }
                }
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(fds.iter().zip(&sources).filter(|(fd, _)| happened(fd)).map(|(_, source)| *source).collect())
    }

    /// Reads all that is there, and does what it says. It ends, since the host sends no more than the window.
    fn read(&mut self) -> Result<(), Over> {
        loop {
            match self.stream.read(&mut self.heard[self.filled..]) {
                Ok(0) => return Err(Over::Gone),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.hear(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over::Failed),
            }
            if self.filled >= CHUNK {
                self.hear()?;
            }
        }
    }

    /// Does what the host has said so far. What cannot be understood stays: the greeting of another host may follow.
    fn hear(&mut self) -> Result<(), Over> {
        let mut heard = std::mem::take(&mut self.heard);
        let mut at = 0;
        let obeyed = loop {
            match self.hear_one(&heard[at..self.filled]) {
                Ok(0) => break Ok(()),
                Ok(length) => at += length,
                Err(over) => break Err(over),
            }
        };
        heard.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.heard = heard;
        obeyed
    }

    /// Does what the first frame of `bytes` says; gives its length, 0 where it is not all there yet.
    fn hear_one(&mut self, bytes: &[u8]) -> Result<usize, Over> {
        if self.greeted && bytes.first() != Some(&GREETING[0]) {
            let Some(Frame { kind, payload, length }) = frames::split(bytes)? else { return Ok(0) };
            self.obey(kind, payload)?;
            return Ok(length);
        }
        match frames::find_greeting(bytes) {
            Ok((nonce, length)) => {
                self.greet(nonce);
                Ok(length)
            }
            // What begins like one in the place of a frame must be one.
            Err(useless) if self.greeted && useless > 0 => Err(Over::Malformed),
            Err(useless) => Ok(useless),
        }
    }

    /// A host begins: what runs was another's.
    fn greet(&mut self, nonce: [u8; frames::NONCE_BYTES]) {
        if let Some(running) = self.running.take() {
            running.abandon(true);
        }
        self.greeted = true;
        self.waiting.push_back(frames::greeting(nonce));
    }

    fn obey(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Over> {
        match (kind, &mut self.running) {
            (Kind::Start | Kind::Own, None) => match Running::start(kind, payload) {
                Ok(running) => self.running = Some(running),
                Err(error) => {
                    let mut reason = format!("cannot start it for root: {error}");
                    reason.truncate(MAX_REASON);
                    self.say(Kind::Refused, reason.as_bytes());
                }
            },
            (Kind::Input, Some(running)) => {
                if running.held.len() + running.taken + payload.len() > WINDOW {
                    return Err(Over::Malformed);
                }
                running.held.extend(payload);
            }
            (Kind::InputEnd, Some(running)) => running.input_ended = true,
            (Kind::Leave, _) => {
                if let Some(running) = self.running.take() {
                    running.abandon(false);
                }
                self.say(Kind::Left, &[]);
            }
            // They crossed the command's end.
            (Kind::Input | Kind::InputEnd, None) => {}
            _ => return Err(Over::Malformed),
        }
        Ok(())
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) {
        self.waiting.push_back(frames::frame(kind, payload));
    }

    /// Takes one frame of output.
    fn take_output(&mut self, kind: Kind) {
        let Some(running) = &mut self.running else { return };
        let pipe = if kind == Kind::Stdout { &mut running.stdout } else { &mut running.stderr };
        let Some(open) = pipe else { return };
        let mut frame = vec![0; HEADER_BYTES + MAX_DATA];
        match open.read(&mut frame[HEADER_BYTES..]) {
            Ok(count @ 1..) => {
                frame[..HEADER_BYTES].copy_from_slice(&frames::header(kind, count));
                frame.truncate(HEADER_BYTES + count);
                self.waiting.push_back(frame);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => *pipe = None,
        }
    }

    /// Says what input was taken, and that the command ended.
    fn report(&mut self) {
        let Some(running) = &mut self.running else { return };
        let taken = if running.taken >= TAKEN_STEP { std::mem::take(&mut running.taken) } else { 0 };
        let status = running.status.filter(|_| running.stdout.is_none() && running.stderr.is_none());
        if taken > 0 {
            self.say(Kind::Taken, &(taken as u32).to_le_bytes());
        }
        if let Some(status) = status {
            self.running = None;
            let end = match status.signal() {
                Some(signal) => [1, signal as u8],
                None => [0, status.code().unwrap_or(0) as u8],
            };
            self.say(Kind::Ended, &end);
        }
    }

    /// Writes what the stream takes.
    fn write(&mut self) -> Result<(), Over> {
        while let Some(frame) = self.waiting.front() {
            match self.stream.write(&frame[self.written..]) {
                Ok(0) => return Err(Over::Failed),
                Ok(count) => {
                    self.written += count;
                    if self.written == frame.len() {
                        self.waiting.pop_front();
                        self.written = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over::Failed),
            }
        }
        Ok(())
    }
}
