//! SSH as a client: one connection with a pinned host key, and commands on it. Over libssh2, never blocking in it: what the
//! peer sends or withholds cannot hold up a signal or a deadline.
//!
//! The peer is hostile. libssh2 parses its packets (see facts about versions in `Cargo.toml`); everything above is bounded here.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use ssh2::{BlockDirections, MethodType};
use thiserror::Error;

use super::signal::Interrupts;

/// How often a wait looks at deadlines and at whether the peer still lives.
const TICK: Duration = Duration::from_millis(500);
/// How much is read or written at once, bytes. libssh2 packs at most 32 KiB into a packet.
const CHUNK: usize = 64 << 10;
/// More than libssh2 queues for one channel, which is its window of 2 MiB.
const MAX_QUEUED: usize = 4 << 20;
/// libssh2's "would block" (LIBSSH2_ERROR_EAGAIN).
const EAGAIN: i32 = -37;

/// The key exchange, host key and ciphers that are offered, best first. Only the ed25519 key made on the host is ever valid.
/// chacha20 needs no AES instructions, which an emulated processor has to imitate.
const METHODS: [(MethodType, &str); 4] = [
    (MethodType::Kex, "curve25519-sha256,curve25519-sha256@libssh.org"),
    (MethodType::HostKey, "ssh-ed25519"),
    (MethodType::CryptCs, "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr"),
    (MethodType::CryptSc, "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr"),
];

/// Why there is no connection, or why it broke.
#[derive(Debug, Error)]
pub enum SshError {
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
    /// The peer closed the connection, or is gone.
    #[error("the guest closed the SSH connection ({step})")]
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
    /// A signal came.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// What the command said could not be passed on, or its input could not be read.
    #[error("cannot pass on the command's streams")]
    Stream(#[source] io::Error),
}

/// How a remote command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(u8),
    /// By this signal, without `SIG`.
    Signal(String),
}

impl Exit {
    /// The status that a shell would report: 128+n for a signal. OpenSSH names the 13 signals of RFC 4254 only; any other is
    /// `SIG@openssh.com`, and gives 128.
    pub fn shell_status(&self) -> u8 {
        match self {
            Self::Status(status) => *status,
            Self::Signal(name) => 128 + signal_number(name),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// The numbers of the signals that RFC 4254 names (§6.10), which Linux has in common on every architecture but MIPS, Alpha, SPARC.
fn signal_number(name: &str) -> u8 {
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => 0,
    }
}

/// Whom to connect to, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// sshd's address.
    pub address: SocketAddrV4,
    /// The user.
    pub user: String,
    /// The host key, one line of OpenSSH's public format.
    pub host_key_pub: PathBuf,
    /// The client's private key, OpenSSH format.
    pub client_key: PathBuf,
}

impl Target {
    /// sshd at `host`:`port` as root.
    pub fn root(host: Ipv4Addr, port: u16, host_key_pub: PathBuf, client_key: PathBuf) -> Self {
        Self { address: SocketAddrV4::new(host, port), user: "root".to_owned(), host_key_pub, client_key }
    }
}

/// What ends a wait beside its own event.
pub struct Watch<'a> {
    /// Signals.
    pub interrupts: &'a Interrupts,
    /// Whether the peer's machine still lives; asked twice a second while nothing happens.
    pub alive: &'a dyn Fn() -> bool,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("interrupts", self.interrupts).finish_non_exhaustive()
    }
}

/// Takes what a remote command says.
pub trait Receiver {
    /// Takes a piece of its stdout.
    fn stdout(&mut self, bytes: &[u8]) -> Result<(), SshError>;
    /// Takes a piece of its stderr.
    fn stderr(&mut self, bytes: &[u8]) -> Result<(), SshError>;
    /// How long the command may now be silent, and take nothing of its input; `None`: for ever.
    fn patience(&self) -> Option<Duration>;
    /// Whether it still wants its input; once it does not, the input is closed.
    fn wants_input(&self) -> bool;
}

/// The keys of a connection.
#[derive(Debug)]
pub struct Keys {
    host: Vec<u8>,
    client: String,
}

impl Keys {
    /// Reads the keys of `target`.
    pub fn read(target: &Target) -> Result<Self, SshError> {
        let text = |path: &Path| {
            let read = std::fs::File::open(path).and_then(|file| {
                let mut text = String::new();
                file.take(1 << 16).read_to_string(&mut text).map(|_| text)
            });
            read.map_err(|e| SshError::Key { path: path.to_owned(), source: e.into() })
        };
        let host = ssh_key::PublicKey::from_openssh(text(&target.host_key_pub)?.trim())
            .and_then(|key| key.to_bytes())
            .map_err(|e| SshError::Key { path: target.host_key_pub.clone(), source: e.into() })?;
        Ok(Self { host, client: text(&target.client_key)? })
    }
}

/// The descriptor's number; the descriptor itself lives as long as the last owner, session included.
struct Socket(Rc<OwnedFd>);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An authenticated connection.
pub struct Session {
    inner: ssh2::Session,
    socket: Rc<OwnedFd>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Waits for `fds` until `timeout`; true when something came.
fn wait(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<bool> {
    let timeout =
        Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    match poll(fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

impl Watch<'_> {
    /// Waits for an event of `socket` or on `input`, a signal, or one tick.
    fn tick(
        &self,
        socket: BorrowedFd<'_>,
        events: PollFlags,
        input: Option<BorrowedFd<'_>>,
        step: &'static str,
    ) -> Result<(), SshError> {
        // sshd leaves Nagle's algorithm on where there is no terminal, so a small answer waits for our acknowledgement of the one
        // before, which the kernel delays by 40 ms unless told otherwise each time (tcp(7), TCP_QUICKACK).
        let _ = sockopt::set_tcp_quickack(socket, true);
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.interrupts.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket, events),
        ];
        fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let happened = wait(&mut fds, TICK).map_err(SshError::Stream)?;
        if let Some(signal) = self.interrupts.pending() {
            return Err(SshError::Interrupted(signal));
        }
        if !happened && !(self.alive)() {
            return Err(SshError::Closed { step });
        }
        Ok(())
    }
}

/// Opens a TCP connection without ever blocking.
fn connect_tcp(
    address: SocketAddrV4,
    until: Instant,
    limit: Duration,
    watch: &Watch<'_>,
) -> Result<OwnedFd, SshError> {
    let step = "connecting";
    let error = |source: io::Error| SshError::Connect { address, source };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(|e| error(e.into()))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => loop {
            if Instant::now() >= until {
                return Err(SshError::Deadline { step, limit });
            }
            watch.tick(socket.as_fd(), PollFlags::OUT, None, step)?;
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            if wait(&mut fds, Duration::ZERO).map_err(error)? {
                sockopt::socket_error(&socket).map_err(|e| error(e.into()))?.map_err(|e| error(e.into()))?;
                break;
            }
        },
        Err(errno) => return Err(error(errno.into())),
    }
    tune(&socket).map_err(error)?;
    Ok(socket)
}

/// No delay for small packets, and a peer that vanished is noticed after half a minute even while nothing is sent.
fn tune(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

impl Session {
    /// Connects and authenticates within `limit`.
    pub fn connect(
        target: &Target,
        keys: &Keys,
        limit: Duration,
        watch: &Watch<'_>,
    ) -> Result<Self, SshError> {
        let until = Instant::now() + limit;
        let socket = Rc::new(connect_tcp(target.address, until, limit, watch)?);
        let protocol = |source| SshError::Protocol { step: "setting up", source };
        let inner = ssh2::Session::new().map_err(protocol)?;
        for (method, preferences) in METHODS {
            inner.method_pref(method, preferences).map_err(protocol)?;
        }
        let mut session = Self { inner, socket };
        session.inner.set_tcp_stream(Socket(Rc::clone(&session.socket)));
        session.inner.set_blocking(false);
        let mut handle = session.inner.clone();
        session.complete("key exchange", Some((until, limit)), watch, || handle.handshake())?;
        if session.inner.host_key().is_none_or(|(key, _)| key != keys.host) {
            return Err(SshError::HostKey(target.address));
        }
        session.complete("authentication", Some((until, limit)), watch, || {
            session.inner.userauth_pubkey_memory(&target.user, None, &keys.client, None)
        })?;
        Ok(session)
    }

    /// What libssh2 waits for.
    fn wanted(&self) -> PollFlags {
        match self.inner.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        }
    }

    /// Calls `attempt` until it does not block.
    fn complete<T>(
        &self,
        step: &'static str,
        until: Option<(Instant, Duration)>,
        watch: &Watch<'_>,
        mut attempt: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, SshError> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == ssh2::ErrorCode::Session(EAGAIN) => {}
                Err(error) => return Err(self.broken(step, error)),
            }
            if let Some((until, limit)) = until
                && Instant::now() >= until
            {
                return Err(SshError::Deadline { step, limit });
            }
            watch.tick(self.socket.as_fd(), self.wanted(), None, step)?;
        }
    }

    /// Whether the peer has closed the TCP connection.
    fn is_closed(&self) -> bool {
        let mut byte = [0_u8; 1];
        match rustix::net::recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, count)) => count == 0,
            Err(errno) => errno != rustix::io::Errno::AGAIN && errno != rustix::io::Errno::INTR,
        }
    }

    fn broken(&self, step: &'static str, source: ssh2::Error) -> SshError {
        if self.is_closed() { SshError::Closed { step } } else { SshError::Protocol { step, source } }
    }

    /// Runs `command` by the user's login shell, feeds it `input` (a pipe that is made non-blocking; nothing where it is
    /// `None`), hands what it says to `receiver`, and waits for its end.
    pub fn exec(
        &self,
        command: &str,
        input: Option<OwnedFd>,
        receiver: &mut dyn Receiver,
        watch: &Watch<'_>,
    ) -> Result<Exit, SshError> {
        let limit = Duration::from_secs(60);
        let until = Some((Instant::now() + limit, limit));
        let mut channel =
            self.complete("opening a channel", until, watch, || self.inner.channel_session())?;
        self.complete("starting the command", until, watch, || channel.exec(command))?;
        let mut duplex = Duplex::new(self, channel, input)?;
        duplex.run(receiver, watch)?;
        let mut channel = duplex.channel;
        self.complete("waiting for the command's end", None, watch, || channel.wait_close())?;
        // libssh2 also ends that wait without an error when the connection is gone, and then has 0 for a status.
        if self.is_closed() {
            return Err(SshError::Closed { step: "waiting for the command's end" });
        }
        let step = "asking how the command ended";
        let signal = channel.exit_signal().map_err(|source| SshError::Protocol { step, source })?.exit_signal;
        if let Some(name) = signal {
            return Ok(Exit::Signal(name.chars().take(32).collect()));
        }
        let status = channel.exit_status().map_err(|source| SshError::Protocol { step, source })?;
        Ok(Exit::Status(status as u8))
    }
}

/// One command's streams, all of them served in turn: libssh2 deadlocks when more than its window is unread while it writes.
struct Duplex<'a> {
    session: &'a Session,
    channel: ssh2::Channel,
    input: Option<std::fs::File>,
    pending: Vec<u8>,
    sent: usize,
    eof_sent: bool,
    /// Whether it is us, or who feeds us, that there is nothing to send.
    starved: bool,
}

impl<'a> Duplex<'a> {
    fn new(session: &'a Session, channel: ssh2::Channel, input: Option<OwnedFd>) -> Result<Self, SshError> {
        if let Some(fd) = &input {
            rustix::io::ioctl_fionbio(fd, true).map_err(|e| SshError::Stream(e.into()))?;
        }
        let input = input.map(std::fs::File::from);
        Ok(Self { session, channel, input, pending: Vec::new(), sent: 0, eof_sent: false, starved: false })
    }

    fn run(&mut self, receiver: &mut dyn Receiver, watch: &Watch<'_>) -> Result<(), SshError> {
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
            if self.channel.eof() {
                return Ok(());
            }
            if !receiver.wants_input() {
                // What is pending still goes: libssh2 may be in the middle of a packet of it.
                self.input = None;
            }
            progress |= self.send()?;
            if self.starved {
                // The peer waits for us: its silence says nothing.
                active = Instant::now();
            }
            if let Some(signal) = watch.interrupts.pending() {
                return Err(SshError::Interrupted(signal));
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

    /// Reads the next chunk of the input; 0 at its end.
    fn refill(&mut self) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Ok(0) };
        self.pending.resize(CHUNK, 0);
        self.sent = 0;
        let read = input.read(&mut self.pending);
        self.pending.truncate(*read.as_ref().unwrap_or(&0));
        read
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
