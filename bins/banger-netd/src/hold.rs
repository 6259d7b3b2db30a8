//! Holding the published ports: as long as rules lead a port of the host's to a guest, no service of the host's listens on it.
//!
//! The rules take what is sent to a published port before any socket sees it, and nothing in them can tell that somebody listens: what
//! nft(8) calls `socket` finds, on the way out, the socket that sends. So the ports are listened on. Neither the program that attaches nor
//! the VM's supervisor can do it: rules outlive the one, and the other, which a guest ends by switching itself off. It is a process of
//! the attached network's own, which has the owner's uid, no capability, the name of the VM's chain, and ends with the tap.
//!
//! It answers nobody. Where it is heard at all (somebody has flushed the rules), it hangs up.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use banger_contract::policy::{Protocol, Publish};
use banger_contract::types::LinkName;
use banger_host::fs::holders::{self, Holder};
use banger_host::net::netlink::Netlink;
use banger_host::net::{linger, listen};
use banger_host::process::{self, poll, privilege};
use nix::net::if_::if_nametoindex;
use rustix::event::{PollFd, PollFlags};

use crate::NetError;
use crate::request::{Names, TapRequest};

/// How long the process may take to end once its tap is gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many that knock are sent away before the tap is looked at again.
const AT_ONCE: usize = 64;

/// A port that nobody else can have.
#[derive(Debug)]
pub enum Port {
    /// It listens.
    Tcp(TcpListener),
    /// It is bound.
    Udp(UdpSocket),
}

impl Port {
    /// Takes the port, as a server would.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn take(publish: &Publish) -> io::Result<Self> {
        let at = SocketAddrV4::new(publish.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), publish.host_port);
        match publish.protocol {
            Protocol::Tcp => {
                // Listening, and not only bound: with SO_REUSEADDR, which std sets for the sake of connections that have just ended, the
                // kernel would let others who set it bind as well (inet_bind_conflict() in net/ipv4/inet_connection_sock.c).
                let listener = TcpListener::bind(at)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// Hangs up on some who knock.
    fn turn_away(&self) {
        for _ in 0..AT_ONCE {
            let turned = match self {
                Self::Tcp(listener) => listener.accept().map(drop),
                Self::Udp(socket) => socket.recv(&mut [0; 1]).map(drop),
            };
            if turned.is_err() {
                return;
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The process that holds the ports, until this is dropped or this program ends: from then on it stays if the tap is there.
#[derive(Debug)]
pub struct Watch {
    _until: PipeWriter,
}

/// Leaves a process behind that holds `ports` as long as the VM's tap is there. Only for a process with one thread.
///
/// # Errors
/// There is no such process.
pub fn leave_behind(names: &Names, ports: &[Port]) -> Result<Watch, NetError> {
    let failed = || NetError::io("leave a process behind that holds the published ports");
    let (mut began, beginning) = io::pipe().map_err(failed())?;
    let (until, made) = io::pipe().map_err(failed())?;
    for port in ports {
        // What ss(8) shows as whose it is. The kernel's own answer stays right without it.
        let owner = rustix::fs::Uid::from_raw(names.tag.uid);
        let _owned = rustix::fs::fchown(port, Some(owner), None);
    }
    let held: Vec<BorrowedFd<'_>> =
        ports.iter().map(AsFd::as_fd).chain([beginning.as_fd(), until.as_fd()]).collect();
    let (tap, chain, uid) = (&names.tap, &names.published, names.tag.uid);
    linger::leave_behind(&held, || drop(stay(ports, (tap, chain, uid), &beginning, &until)))
        .map_err(failed())?;
    drop(beginning);
    let mut word = [0];
    began.read_exact(&mut word).map_err(failed())?;
    Ok(Watch { _until: made })
}

/// The process: holds the ports until whoever attaches is through and the tap is gone.
fn stay(
    ports: &[Port],
    (tap, chain, uid): (&LinkName, &str, u32),
    mut beginning: &PipeWriter,
    until: &PipeReader,
) -> io::Result<()> {
    // Whoever attaches may be on a terminal, and end before this does.
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let links = Netlink::watch_links()?;
    privilege::become_powerless(uid)?;
    process::set_name(chain);
    beginning.write_all(b"b")?;
    wait(ports, &links, Some(until))?;
    let index = if_nametoindex(tap.as_str())?;
    while if_nametoindex(tap.as_str()) == Ok(index) {
        wait(ports, &links, None)?;
    }
    Ok(())
}

/// Turns away who knocks until links change; or, where there is such a pipe, until nobody has the other end of `until` any more.
fn wait(ports: &[Port], links: &Netlink, until: Option<&PipeReader>) -> io::Result<()> {
    loop {
        let mut fds = vec![PollFd::new(links, PollFlags::IN)];
        fds.extend(until.map(|until| PollFd::new(until, PollFlags::IN)));
        let watched = fds.len();
        fds.extend(ports.iter().map(|port| PollFd::new(port, PollFlags::IN)));
        poll::wait(&mut fds, None)?;
        let heard: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        ports
            .iter()
            .zip(&heard[watched..])
            .filter(|(_, heard)| **heard)
            .for_each(|(port, _)| port.turn_away());
        if heard[0] {
            links.forget();
        }
        if heard[watched - 1] {
            return Ok(());
        }
    }
}

/// The processes that hold the ports of a VM; of another user's that call themselves so, none.
fn of(names: &Names) -> Result<Vec<Holder>, NetError> {
    let found = holders::named(&names.published, names.tag.uid);
    found.map_err(NetError::io("look for the process that holds the published ports"))
}

/// Which published ports nobody holds for the VM, in words.
///
/// # Errors
/// /proc cannot be read.
pub fn differences(request: &TapRequest) -> Result<Vec<String>, NetError> {
    if request.publish.is_empty() {
        return Ok(Vec::new());
    }
    let any = !of(&request.names)?.is_empty();
    let held = |p: &&Publish| any && listen::is_taken(p.protocol == Protocol::Tcp, p.host_ip, p.host_port);
    let open = request.publish.iter().filter(|publish| !held(publish));
    Ok(open.map(|publish| format!("nothing holds the published port {publish}")).collect())
}

/// Ends what holds the ports of a VM whose tap is gone. It does so by itself; one that cannot is killed.
///
/// # Errors
/// /proc cannot be read, or poll(2) fails.
pub fn release(names: &Names) -> Result<(), NetError> {
    let failed = || NetError::io("end the process that holds the published ports");
    let left = of(names)?;
    if !holders::wait(&left, Instant::now() + PATIENCE).map_err(failed())? {
        left.iter().try_for_each(Holder::kill).map_err(failed())?;
    }
    Ok(())
}

/// Takes all of `publish`. What holds the ports of a tap that is gone is about to let go of them.
///
/// # Errors
/// What stands in the way, and the port.
pub fn take_all(publish: &[Publish]) -> Result<Vec<Port>, (&Publish, io::Error)> {
    let until = Instant::now() + PATIENCE;
    let take = |one| {
        loop {
            match Port::take(one) {
                Err(error)
                    if error.kind() == ErrorKind::AddrInUse && Instant::now() < until && is_going(one) =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other.map_err(|error| (one, error)),
            }
        }
    };
    publish.iter().map(take).collect()
}

/// Whether the port is held for a VM that has no tap any more.
fn is_going(publish: &Publish) -> bool {
    let holder = listen::holder(publish.protocol == Protocol::Tcp, publish.host_ip, publish.host_port);
    let key = holder.as_ref().and_then(|process| crate::chains::vm_of_chain(&process.name));
    key.is_some_and(|key| if_nametoindex(key.tap().as_str()).is_err())
}
