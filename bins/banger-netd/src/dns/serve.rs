//! The resolver's life. It begins as root, on behalf of the user whose bridge it is: takes its lock, port 53 of the bridge and
//! the names file's directory, and gives everything else up. It ends when no VM is on the bridge any more.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use thiserror::Error;

use super::names_file::NamesFile;
use super::serving::Serving;
use super::site::{Site, SiteError};
use super::upstream::Upstreams;
use super::zone::Zone;
use super::{MARK, PORT, tcp, udp};
use crate::NetError;
use crate::caller::Caller;
use crate::host::Host;
use crate::sys::datagram;
use banger_contract::types::StateId;
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::inotify::NewEntries;
use banger_host::net::netlink::Netlink;
use banger_host::process::landlock::{self, ConfineError};
use banger_host::process::poll;
use banger_host::process::privilege;
use banger_host::process::signal::Interrupts;

/// Where resolv.conf(5) may be or lead to.
const RESOLVER_DIRECTORIES: [&str; 5] =
    ["/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman"];

/// How long after the names were read they are not read again: many VMs may start at once.
const SETTLE: Duration = Duration::from_millis(20);

/// How long a process that has ended may hold its port.
const RELEASE: Duration = Duration::from_millis(300);

/// Why there is no resolver.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The names file.
    #[error("cannot read the names file {path:?}")]
    Names {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no bridge to serve.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Another server has the lock and is neither ready nor gone.
    #[error("another resolver of the state directory {0} neither answers nor ends")]
    Stuck(StateId),
    /// Somebody else answers there.
    #[error("port {PORT} of {address} is taken")]
    Taken {
        /// The bridge's address.
        address: Ipv4Addr,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A thread that answers has ended.
    #[error("the resolver cannot go on")]
    Broken(#[source] io::Error),
    /// Confinement.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Something of the host.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl ServeError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Net(NetError::io(what)(source))
    }
}

impl Coded for ServeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Names { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Names { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Names { .. } => ErrorCode::BadInput,
            Self::Site(error) => error.code(),
            Self::Stuck(_) => ErrorCode::Busy,
            Self::Taken { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Taken { .. } => ErrorCode::Conflict,
            Self::Broken(_) | Self::Confine(_) => ErrorCode::Failed,
            Self::Net(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let denied = self.code() == ErrorCode::Denied;
        let own = match self {
            Self::Taken { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "have the program that listens on all addresses leave the bridge alone (dnsmasq: bind-dynamic or except-interface=bgr*); guests use the host's resolvers meanwhile".into(),
            ),
            Self::Site(error) => error.hint(),
            Self::Net(error) => error.hint(),
            _ => None,
        };
        own.or_else(|| denied.then(|| "run banger-netd serve as root or through sudo".into()))
    }
}

/// What is served to whom.
#[derive(Debug, Clone)]
pub struct Order {
    /// The names file.
    pub names: PathBuf,
    /// Who is asked what others know; empty: the host's resolvers.
    pub upstream: Vec<SocketAddr>,
}

/// What the threads that answer know.
#[derive(Debug)]
pub(super) struct Shared {
    zone: RwLock<Arc<Zone>>,
    pub(super) upstreams: Upstreams,
    links: [u32; 2],
}

impl Shared {
    /// The names as of now.
    pub(super) fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether packets from the link with this number are guests' or the host's own.
    pub(super) fn is_inside(&self, link: u32) -> bool {
        self.links.contains(&link)
    }
}

/// A resolver that has all it needs, and still root's rights.
#[derive(Debug)]
pub struct Server {
    site: Site,
    serving: Serving,
    names: NamesFile,
    changes: NewEntries,
    links: Netlink,
    udp: UdpSocket,
    tcp: TcpListener,
    shared: Arc<Shared>,
    ports: Vec<u16>,
}

/// What became of an order to serve.
#[derive(Debug)]
pub enum Begun {
    /// A resolver of this bridge runs already.
    Already(Site),
    /// This process is it.
    Ours(Box<Server>),
}

/// Takes everything that needs privilege. Call it before any thread is started.
///
/// # Errors
/// There is no VM to serve, or something is not to be had.
pub fn begin(order: &Order, caller: &Caller, user: Option<u32>) -> Result<Begun, ServeError> {
    let unreadable = |source| ServeError::Names { path: order.names.clone(), source };
    let names = NamesFile::open(&order.names, user).map_err(unreadable)?;
    // Watched before it is read, so that no change is missed.
    let changes = NewEntries::watch(names.dir_path()).map_err(unreadable)?;
    let known = names.read_as_nobody().map_err(unreadable)?;
    let links = Netlink::watch_links().map_err(ServeError::io("watch the links"))?;
    let site = Site::find(&known.state_id, caller)?;
    let Some(serving) = Serving::claim(&site.realm, site.bridge.index)? else {
        return Ok(Begun::Already(site));
    };
    let taken = |source| ServeError::Taken { address: site.address, source };
    let at = SocketAddrV4::new(site.address, PORT);
    let udp = patiently(|| UdpSocket::bind(at)).map_err(taken)?;
    datagram::tell_links(&udp).map_err(ServeError::io("have packets told by their links"))?;
    let tcp = patiently(|| TcpListener::bind(at)).map_err(taken)?;
    let marked = datagram::mark(&udp, MARK).and_then(|()| datagram::mark(&tcp, MARK));
    marked.map_err(ServeError::io("mark the sockets"))?;
    let host = Host::read()?;
    let loopback = host.links.iter().find(|link| link.name == "lo").map_or(0, |link| link.index);
    let shared = Shared {
        zone: RwLock::new(Arc::new(Zone::new(&known, site.address, site.subnet))),
        upstreams: Upstreams::new(&order.upstream, site.address),
        links: [site.bridge.index, loopback],
    };
    let mut ports: Vec<u16> = order.upstream.iter().map(SocketAddr::port).collect();
    if ports.is_empty() {
        ports.push(PORT);
    }
    let shared = Arc::new(shared);
    Ok(Begun::Ours(Box::new(Server { site, serving, names, changes, links, udp, tcp, shared, ports })))
}

/// Binds a port that a server which has just ended may still hold: the kernel closes its lock first.
fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + RELEASE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

impl Server {
    /// Where it answers.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Gives up root, confines itself, answers, calls `ready`, and returns when there is no VM left or a signal says so.
    /// `complain` is told of what goes wrong on the way.
    ///
    /// # Errors
    /// It cannot be confined or cannot go on.
    pub fn run(self, ready: impl FnOnce(), complain: impl Fn(&dyn Coded)) -> Result<(), ServeError> {
        // Signals are blocked before threads inherit the mask.
        let interrupts = Interrupts::catch().map_err(ServeError::io("watch for signals"))?;
        let names_dir = self.names.dir_path();
        let mut readable = RESOLVER_DIRECTORIES.map(Path::new).to_vec();
        readable.push(&names_dir);
        landlock::confine(&readable, &[], &self.ports)?;
        privilege::renounce().map_err(ServeError::io("give up root"))?;
        let alive = self.answer()?;
        self.serving.announce()?;
        ready();
        loop {
            let mut fds = [
                PollFd::new(&interrupts, PollFlags::IN),
                PollFd::new(&self.links, PollFlags::IN),
                PollFd::new(&self.changes, PollFlags::IN),
                PollFd::from_borrowed_fd(alive.as_fd(), PollFlags::IN),
            ];
            poll::wait(&mut fds, None).map_err(ServeError::io("wait"))?;
            let [signal, links, changes, ended] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                return Err(ServeError::Broken(io::Error::other("a thread that answers has ended")));
            }
            if signal && interrupts.pending().is_some() {
                self.serving.retract()?;
                break;
            }
            if links {
                self.links.forget();
                if self.is_over()? {
                    break;
                }
            }
            if changes {
                // At once: a VM may have lost a right.
                self.changes.clear();
                self.reload(&complain);
                std::thread::sleep(SETTLE);
            }
        }
        self.serving.keep();
        Ok(())
    }

    /// Starts the threads that answer. What is given is readable once one of them has ended, however that came.
    fn answer(&self) -> Result<OwnedFd, ServeError> {
        let broken = ServeError::io("start the threads that answer");
        let attempt = || -> io::Result<OwnedFd> {
            let (alive, ends) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (udp, shared) = (self.udp.try_clone()?, self.shared.clone());
            let end = ends.try_clone()?;
            std::thread::Builder::new().name("udp".into()).spawn(move || {
                let _end = end;
                udp::run(&udp, &shared)
            })?;
            let (tcp, shared) = (self.tcp.try_clone()?, self.shared.clone());
            std::thread::Builder::new().name("tcp".into()).spawn(move || {
                let _end = ends;
                tcp::run(&tcp, &shared);
            })?;
            Ok(alive)
        };
        attempt().map_err(broken)
    }

    /// Whether the last VM has gone. After saying so it looks again: one that came before that counts on this server.
    fn is_over(&self) -> Result<bool, ServeError> {
        if self.site.is_used()? {
            return Ok(false);
        }
        self.serving.retract()?;
        if self.site.is_used()? {
            self.serving.announce()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads the names anew. Those that were known stay where the file cannot be used.
    fn reload(&self, complain: &impl Fn(&dyn Coded)) {
        match self.names.read() {
            Ok(names) if names.state_id == *self.site.realm.state() => {
                let zone = Zone::new(&names, self.site.address, self.site.subnet);
                *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
            }
            // It was removed with the last VM, whose tap goes next; or it is another's.
            Ok(_) => {}
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => complain(&ServeError::Names { path: "names".into(), source }),
        }
    }
}
