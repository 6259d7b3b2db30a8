//! SSH as a client: one connection with a pinned host key, and commands on it. Over libssh2, never blocking in it: what the
//! peer sends or withholds cannot hold up a signal or a deadline.
//!
//! The peer is hostile. libssh2 parses its packets (see facts about versions in `Cargo.toml`); everything above is bounded here.

mod guard;
mod streams;

use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use ssh2::{BlockDirections, MethodType};

use super::remote::duplex::Duplex;
use super::remote::{Exit, Receiver, RemoteError, START, Watch, wait};
use banger_host::process::signal::Interrupts;
use streams::{Streams, close};

/// libssh2's "would block" (LIBSSH2_ERROR_EAGAIN).
const EAGAIN: i32 = -37;

/// The key exchange and the host key that are offered. Only the ed25519 key made on the host is ever valid.
const METHODS: [(MethodType, &str); 2] = [
    (MethodType::Kex, "curve25519-sha256,curve25519-sha256@libssh.org"),
    (MethodType::HostKey, "ssh-ed25519"),
];
/// The ciphers, best first, where both processors have AES instructions: libssh2 leaves AES to OpenSSL, while its chacha20 is
/// plain C and took two thirds of a large copy's time.
const WITH_AES: &str = "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr";
/// The ciphers, best first, for a peer whose processor has to imitate AES instructions.
const WITHOUT_AES: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr";

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
    /// Whether its processor is emulated.
    pub emulated: bool,
}

impl Target {
    /// sshd at `host`:`port` as root.
    pub fn root(host: Ipv4Addr, port: u16, host_key_pub: PathBuf, client_key: PathBuf) -> Self {
        let address = SocketAddrV4::new(host, port);
        Self { address, user: "root".to_owned(), host_key_pub, client_key, emulated: false }
    }
}

/// The keys of a connection.
#[derive(Debug)]
pub struct Keys {
    host: Vec<u8>,
    client: String,
}

impl Keys {
    /// Reads the keys of `target`.
    pub fn read(target: &Target) -> Result<Self, RemoteError> {
        let text = |path: &Path| {
            let read = std::fs::File::open(path).and_then(|file| {
                let mut text = String::new();
                file.take(1 << 16).read_to_string(&mut text).map(|_| text)
            });
            read.map_err(|e| RemoteError::Key { path: path.to_owned(), source: e.into() })
        };
        let host = ssh_key::PublicKey::from_openssh(text(&target.host_key_pub)?.trim())
            .and_then(|key| key.to_bytes())
            .map_err(|e| RemoteError::Key { path: target.host_key_pub.clone(), source: e.into() })?;
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

impl Watch<'_> {
    /// Does `work` with a guard beside it, which needs at most a quarter of a minute more than `until` or a signal allow.
    fn guard<T>(
        &self,
        socket: &OwnedFd,
        until: Option<Instant>,
        work: impl FnOnce() -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let signals = self.interrupts.map(AsFd::as_fd);
        let done = guard::beside(socket, until, signals, work).map_err(RemoteError::Stream)?;
        // What the guard does looks like the peer's doing.
        let signal = self.interrupts.and_then(Interrupts::pending).filter(|_| done.is_err());
        signal.map_or(done, |signal| Err(RemoteError::Interrupted(signal)))
    }
}

/// Opens a TCP connection without ever blocking.
fn connect_tcp(
    address: SocketAddrV4,
    until: Instant,
    limit: Duration,
    watch: &Watch<'_>,
) -> Result<OwnedFd, RemoteError> {
    let step = "connecting";
    let error = |source: io::Error| RemoteError::Connect { address, source };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(|e| error(e.into()))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => loop {
            if Instant::now() >= until {
                return Err(RemoteError::Deadline { step, limit });
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

/// Waits for the first bytes of sshd's greeting, and leaves them where they are. The protocol allows lines before it (RFC 4253, 4.2),
/// which libssh2 reads without end; sshd sends none.
fn await_greeting(
    socket: &OwnedFd,
    address: SocketAddrV4,
    (until, limit): (Instant, Duration),
    watch: &Watch<'_>,
) -> Result<(), RemoteError> {
    const GREETING: &[u8] = b"SSH-";
    let step = "waiting for a greeting";
    loop {
        let mut begin = [0; GREETING.len()];
        match rustix::net::recv(socket, &mut begin, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(RemoteError::Closed { step }),
            Ok((_, count)) if !GREETING.starts_with(&begin[..count]) => {
                return Err(RemoteError::NoSsh(address));
            }
            Ok((_, count)) if count == GREETING.len() => return Ok(()),
            // Part of it: poll(2) would say at once that there is something.
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(RemoteError::Connect { address, source: errno.into() }),
        }
        if Instant::now() >= until {
            return Err(RemoteError::Deadline { step, limit });
        }
        watch.tick(socket.as_fd(), PollFlags::IN, None, step)?;
    }
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
    ) -> Result<Self, RemoteError> {
        let until = Instant::now() + limit;
        let socket = Rc::new(connect_tcp(target.address, until, limit, watch)?);
        await_greeting(&socket, target.address, (until, limit), watch)?;
        let protocol = |source| RemoteError::Protocol { step: "setting up", source };
        let inner = ssh2::Session::new().map_err(protocol)?;
        let ciphers = if target.emulated { WITHOUT_AES } else { WITH_AES };
        let ciphers = [(MethodType::CryptCs, ciphers), (MethodType::CryptSc, ciphers)];
        for (method, preferences) in METHODS.into_iter().chain(ciphers) {
            inner.method_pref(method, preferences).map_err(protocol)?;
        }
        let mut session = Self { inner, socket };
        session.inner.set_tcp_stream(Socket(Rc::clone(&session.socket)));
        session.inner.set_blocking(false);
        watch.guard(&session.socket, Some(until), || session.log_in(target, keys, (until, limit), watch))?;
        Ok(session)
    }

    /// Exchanges keys and authenticates.
    fn log_in(
        &self,
        target: &Target,
        keys: &Keys,
        limit: (Instant, Duration),
        watch: &Watch<'_>,
    ) -> Result<(), RemoteError> {
        let mut handle = self.inner.clone();
        self.complete("key exchange", Some(limit), watch, || handle.handshake())?;
        if self.inner.host_key().is_none_or(|(key, _)| key != keys.host) {
            return Err(RemoteError::HostKey(target.address));
        }
        self.complete("authentication", Some(limit), watch, || {
            self.inner.userauth_pubkey_memory(&target.user, None, &keys.client, None)
        })
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
    ) -> Result<T, RemoteError> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if error.code() == ssh2::ErrorCode::Session(EAGAIN) => {}
                Err(error) => return Err(self.broken(step, error)),
            }
            if let Some((until, limit)) = until
                && Instant::now() >= until
            {
                return Err(RemoteError::Deadline { step, limit });
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

    fn broken(&self, step: &'static str, source: ssh2::Error) -> RemoteError {
        if self.is_closed() { RemoteError::Closed { step } } else { RemoteError::Protocol { step, source } }
    }

    /// Runs `command` by the user's login shell, feeds it `input` (any descriptor, left in the mode that it is in; nothing where it is
    /// `None`), hands what it says to `receiver`, and waits for its end; `None` where the receiver was done before.
    pub fn exec(
        &self,
        command: &str,
        input: Option<OwnedFd>,
        receiver: &mut dyn Receiver,
        watch: &Watch<'_>,
    ) -> Result<Option<Exit>, RemoteError> {
        // Where no signal counts, time does.
        let brief = || Instant::now() + receiver.patience().unwrap_or(START);
        let until = watch.interrupts.is_none().then(brief);
        watch.guard(&self.socket, until, || self.exec_unguarded(command, input, receiver, watch))
    }

    fn exec_unguarded(
        &self,
        command: &str,
        input: Option<OwnedFd>,
        receiver: &mut dyn Receiver,
        watch: &Watch<'_>,
    ) -> Result<Option<Exit>, RemoteError> {
        let limit = receiver.patience().map_or(START, |patience| patience.min(START));
        let until = Some((Instant::now() + limit, limit));
        let mut channel =
            self.complete("opening a channel", until, watch, || self.inner.channel_session())?;
        self.complete("starting the command", until, watch, || channel.exec(command))?;
        let mut duplex = Duplex::new(Streams::new(self, channel), input);
        let ran = duplex.run(receiver, watch);
        if receiver.is_done() || matches!(ran, Err(RemoteError::Interrupted(_))) {
            // After it others can use the connection, to end a command that was left alone for one.
            close(duplex, watch)?;
            return ran.map(|()| None);
        }
        ran?;
        let mut channel = duplex.carrier.into_channel();
        let step = "waiting for the command's end";
        self.complete(step, None, watch, || channel.wait_close())?;
        // libssh2 also ends that wait without an error when the connection is gone, and then has 0 for a status.
        if self.is_closed() {
            return Err(RemoteError::Closed { step });
        }
        let step = "asking how the command ended";
        let signal =
            channel.exit_signal().map_err(|source| RemoteError::Protocol { step, source })?.exit_signal;
        // The signal first: libssh2 has 0 for the status of what a signal ended.
        if let Some(name) = signal {
            return Ok(Some(Exit::Signal(name.chars().take(32).collect())));
        }
        let status = channel.exit_status().map_err(|source| RemoteError::Protocol { step, source })?;
        Ok(Some(Exit::Status(status as u8)))
    }
}
