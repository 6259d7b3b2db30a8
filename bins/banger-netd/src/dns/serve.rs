//! The resolver's life. It begins as root, on behalf of the user whose bridge it is: takes its lock, port 53 of the bridge and
//! the names file's directory, and gives everything else up. It ends when no VM is on the bridge any more.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use banger_contract::Coded;
use banger_host::fs::inotify::NewEntries;
use banger_host::net::netlink::Netlink;
use banger_host::process::landlock;
use banger_host::process::signal::Interrupts;
use banger_host::process::{poll, privilege};
use rustix::event::{PollFd, PollFlags};

use crate::caller::Caller;
use crate::dns::error::ServeError;
use crate::dns::names_file::NamesFile;
use crate::dns::serving::Serving;
use crate::dns::shared::Shared;
use crate::dns::site::Site;
use crate::dns::upstream::Upstreams;
use crate::dns::zone::Zone;
use crate::dns::{MARK, PORT, tcp, udp};
use crate::host::Host;
use crate::sys::datagram;

/// Where resolv.conf(5) may be or lead to.
const RESOLVER_DIRECTORIES: [&str; 5] =
    ["/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman"];

/// How long after the names were read they are not read again: many VMs may start at once.
const SETTLE: Duration = Duration::from_millis(20);

/// How long a process that has ended may hold its port.
const RELEASE: Duration = Duration::from_millis(300);

/// What is served to whom.
#[derive(Debug, Clone)]
pub struct Order {
    /// The names file.
    pub names: PathBuf,
    /// Who is asked what others know; empty: the host's resolvers.
    pub upstream: Vec<SocketAddr>,
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
