//! The agent channel, host side: one request at a time, matched to its reply by a nonce, and the guest's events. Whatever the
//! guest says, memory and time are bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;

use super::lines::{Line, Lines};
use super::log::CappedLog;
use super::monitor::Channel;
use banger_host::clock::now_rfc3339;
use banger_host::net::unix;
use banger_host::random;
use banger_protocol::guest::{AgentReply, AgentRequest, Event, RESIZE_PATH, VSOCK_AGENT_PORT};

/// How long the guest may take for a reply.
pub const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to grow its filesystems.
pub const RESIZE_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection of the guest's may take to push its event.
const EVENT_LIMIT: Duration = Duration::from_secs(5);
/// How many requests may wait.
const MAX_WAITING: usize = 16;
/// How much may wait to be written to a port whose guest does not read, bytes.
const MAX_UNWRITTEN: usize = 16 << 10;
/// How much of the guest's babble is read per second, bytes: a guest that talks for ever does not cost the host a processor.
const MAX_PER_SECOND: usize = 4 << 20;

/// How a request ended.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The guest's reply.
    Reply {
        /// An HTTP status, 200–599.
        status: u16,
        /// Anything.
        body: Value,
    },
    /// The guest said something that is no reply.
    Malformed,
    /// The guest did not reply in time.
    Late,
    /// Nobody listens in the guest, or too many requests wait.
    Unreachable,
}

/// What the guest said.
#[derive(Debug)]
pub enum Said {
    /// Something of its own accord.
    Event(Event),
    /// The answer to the request with this ticket.
    Answer(u64, Answer),
}

#[derive(Debug)]
struct Request {
    ticket: u64,
    nonce: String,
    name: String,
    line: Vec<u8>,
    until: Instant,
}

/// One connection over vsock, or the port.
#[derive(Debug)]
struct Stream {
    socket: UnixStream,
    lines: Lines,
    unwritten: Vec<u8>,
    until: Option<Instant>,
}

impl Stream {
    fn new(socket: UnixStream, until: Option<Instant>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, lines: Lines::default(), unwritten: Vec::new(), until })
    }

    /// Writes what the socket takes. An error shows when reading.
    fn flush(&mut self) {
        while !self.unwritten.is_empty() {
            match self.socket.write(&self.unwritten) {
                Ok(n @ 1..) => drop(self.unwritten.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    /// The lines of one chunk, and how long it was; `None` at the end of the stream.
    fn read(&mut self) -> Option<(Vec<Line>, usize)> {
        let mut chunk = [0; 16 << 10];
        match self.socket.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => Some((self.lines.feed(&chunk[..n]), n)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Some((Vec::new(), 0))
            }
            Err(_) => None,
        }
    }

    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let write = if self.unwritten.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        fds.push(PollFd::new(&self.socket, PollFlags::IN | write));
    }
}

#[derive(Debug)]
enum Transport {
    Port(Option<Stream>),
    Vsock { events: UnixListener, requests: PathBuf, incoming: Option<Stream>, outgoing: Option<Stream> },
}

/// The host's side of the channel.
#[derive(Debug)]
pub struct Agent {
    transport: Transport,
    waiting: VecDeque<Request>,
    /// The front of `waiting` was sent.
    sent: bool,
    tickets: u64,
    window: Instant,
    read_in_window: usize,
    log: CappedLog,
}

impl Agent {
    /// Speaks over `channel`, and notes in `log` what about.
    ///
    /// # Errors
    /// Its sockets cannot be made non-blocking.
    pub fn new(channel: Channel, log: CappedLog) -> io::Result<Self> {
        let transport = match channel {
            Channel::Port(socket) => Transport::Port(Some(Stream::new(socket, None)?)),
            Channel::Vsock { events, requests } => {
                events.set_nonblocking(true)?;
                Transport::Vsock { events, requests, incoming: None, outgoing: None }
            }
        };
        let (waiting, window) = (VecDeque::new(), Instant::now());
        Ok(Self { transport, waiting, sent: false, tickets: 0, window, read_in_window: 0, log })
    }

    /// Queues a request; its answer comes out of [`Self::pump`] with the ticket given here.
    pub fn ask(&mut self, method: &str, path: &str) -> u64 {
        self.tickets += 1;
        let nonce: String = random::bytes::<8>().iter().map(|b| format!("{b:02x}")).collect();
        let request = AgentRequest { nonce: nonce.clone(), method: method.into(), path: path.into() };
        let mut line = serde_json::to_vec(&request).expect("three strings are JSON");
        line.push(b'\n');
        let until = Instant::now() + if path == RESIZE_PATH { RESIZE_LIMIT } else { REPLY_LIMIT };
        let (ticket, name) = (self.tickets, format!("{method} {path}"));
        self.waiting.push_back(Request { ticket, nonce, name, line, until });
        self.tickets
    }

    /// What to poll.
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.babbles() {
            return;
        }
        match &self.transport {
            Transport::Port(stream) => stream.iter().for_each(|s| s.watch(fds)),
            Transport::Vsock { events, incoming, outgoing, .. } => {
                match incoming {
                    Some(stream) => stream.watch(fds),
                    None => fds.push(PollFd::new(events, PollFlags::IN)),
                }
                outgoing.iter().for_each(|s| s.watch(fds));
            }
        }
    }

    fn babbles(&self) -> bool {
        self.read_in_window > MAX_PER_SECOND && self.window.elapsed() < Duration::from_secs(1)
    }

    /// When [`Self::pump`] must be called although nothing came.
    pub fn wake(&self) -> Option<Instant> {
        if !self.sent && !self.waiting.is_empty() {
            return Some(Instant::now());
        }
        let again = self.babbles().then(|| self.window + Duration::from_secs(1));
        let request = self.waiting.iter().map(|r| r.until).min();
        let event = match &self.transport {
            Transport::Vsock { incoming, .. } => incoming.as_ref().and_then(|s| s.until),
            Transport::Port(_) => None,
        };
        [again, request, event].into_iter().flatten().min()
    }

    /// Reads, writes and gives up what is late. Never blocks.
    pub fn pump(&mut self) -> Vec<Said> {
        let now = Instant::now();
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            (self.window, self.read_in_window) = (now, 0);
        }
        let mut said = Vec::new();
        self.refuse_excess(&mut said);
        self.send_next(&mut said);
        if !self.babbles() {
            self.read_replies(&mut said);
            self.read_pushed(now, &mut said);
        }
        while let Some(late) = self.waiting.iter().position(|r| r.until <= now) {
            self.finish(late, Answer::Late, &mut said);
        }
        self.send_next(&mut said);
        said
    }

    fn refuse_excess(&mut self, said: &mut Vec<Said>) {
        while self.waiting.len() > MAX_WAITING {
            self.finish(self.waiting.len() - 1, Answer::Unreachable, said);
        }
    }

    /// Ends the request at `index`. Over vsock its connection ends with it.
    fn finish(&mut self, index: usize, answer: Answer, said: &mut Vec<Said>) {
        let Some(request) = self.waiting.remove(index) else { return };
        if index == 0
            && std::mem::take(&mut self.sent)
            && let Transport::Vsock { outgoing, .. } = &mut self.transport
        {
            *outgoing = None;
        }
        let end = match &answer {
            Answer::Reply { status, .. } => status.to_string(),
            Answer::Malformed => "a malformed answer".to_owned(),
            Answer::Late => "no answer in time".to_owned(),
            Answer::Unreachable => "not reached".to_owned(),
        };
        self.note(&format!("{}: {end}", request.name));
        said.push(Said::Answer(request.ticket, answer));
    }

    /// A line of the log. What is in it is banger's own word.
    pub fn note(&mut self, text: &str) {
        self.log.write(format!("{} {text}\n", now_rfc3339()).as_bytes());
    }

    fn send_next(&mut self, said: &mut Vec<Said>) {
        while !self.sent && !self.waiting.is_empty() {
            let line = &self.waiting[0].line;
            let sent = match &mut self.transport {
                Transport::Port(Some(stream)) if stream.unwritten.len() < MAX_UNWRITTEN => {
                    stream.unwritten.extend_from_slice(line);
                    true
                }
                Transport::Port(_) => false,
                Transport::Vsock { requests, outgoing, .. } => {
                    *outgoing = unix::connect(requests).and_then(|socket| Stream::new(socket, None)).ok();
                    if let Some(stream) = outgoing {
                        // The greeting and the request in one write: the VMM passes on what follows its newline. A
                        // guest where nobody listens ends the connection.
                        stream.unwritten = format!("CONNECT {VSOCK_AGENT_PORT}\n").into_bytes();
                    }
                    outgoing.is_some()
                }
            };
            if sent { self.sent = true } else { self.finish(0, Answer::Unreachable, said) }
        }
        match &mut self.transport {
            Transport::Port(stream) => stream.iter_mut().for_each(Stream::flush),
            Transport::Vsock { outgoing, .. } => outgoing.iter_mut().for_each(Stream::flush),
        }
    }

    fn read_replies(&mut self, said: &mut Vec<Said>) {
        let stream = match &mut self.transport {
            Transport::Port(stream) => stream,
            Transport::Vsock { outgoing, .. } => outgoing,
        };
        let Some(open) = stream else { return };
        let Some((lines, read)) = open.read() else {
            *stream = None;
            if self.sent {
                self.finish(0, Answer::Unreachable, said);
            }
            return;
        };
        self.read_in_window += read;
        for line in lines {
            self.take_line(&line, said);
        }
    }

    fn take_line(&mut self, line: &Line, said: &mut Vec<Said>) {
        let over_vsock = matches!(self.transport, Transport::Vsock { .. });
        let text = match line {
            Line::Whole(text) => text,
            Line::TooLong if self.sent => return self.finish(0, Answer::Malformed, said),
            Line::TooLong => return,
        };
        if over_vsock && self.accept_greeting(text) {
            return;
        }
        if !over_vsock && let Ok(event) = serde_json::from_slice::<Event>(text) {
            return said.push(Said::Event(event));
        }
        let Some(request) = self.waiting.front().filter(|_| self.sent) else { return };
        match serde_json::from_slice::<AgentReply>(text) {
            // An older request's, or babble: what belongs to this one repeats its nonce.
            Ok(reply) if reply.nonce != request.nonce => {}
            Ok(AgentReply { status: status @ 200..=599, body, .. }) => {
                self.finish(0, Answer::Reply { status, body }, said);
            }
            Ok(_) => self.finish(0, Answer::Malformed, said),
            Err(_) if over_vsock => self.finish(0, Answer::Malformed, said),
            Err(_) => {}
        }
    }

    /// `OK <port>`, the VMM's own answer to `CONNECT`, after which the request is sent.
    fn accept_greeting(&mut self, text: &[u8]) -> bool {
        let Transport::Vsock { outgoing: Some(stream), .. } = &mut self.transport else { return false };
        let Some(request) = self.waiting.front() else { return false };
        if !text.starts_with(b"OK ") || stream.until.is_some() {
            return false;
        }
        stream.until = Some(request.until);
        stream.unwritten.extend_from_slice(&request.line);
        stream.flush();
        true
    }

    /// Events over vsock: one connection at a time, one line each.
    fn read_pushed(&mut self, now: Instant, said: &mut Vec<Said>) {
        let Transport::Vsock { events, incoming, .. } = &mut self.transport else { return };
        if incoming.is_none()
            && let Ok((socket, _)) = events.accept()
        {
            *incoming = Stream::new(socket, Some(now + EVENT_LIMIT)).ok();
        }
        let Some(stream) = incoming else { return };
        let Some((lines, read)) = stream.read() else {
            *incoming = None;
            return;
        };
        self.read_in_window += read;
        let late = stream.until.is_some_and(|until| until <= now);
        if let Some(first) = lines.first() {
            if let Line::Whole(text) = first
                && let Ok(event) = serde_json::from_slice(text)
            {
                said.push(Said::Event(event));
            }
            *incoming = None;
        } else if late {
            *incoming = None;
        }
    }
}
