//! Which resolvers a guest of user networking has.
//!
//! slirp answers names on an address of its own, and asks the first IPv4 resolver of resolv.conf(5) for it: no other one, and none that has
//! an IPv6 address. The host itself asks all of them. So where the first does not answer, the guest is given those that it reaches by
//! other ways: others of the host's by their addresses, and one on the host's 127.0.0.1 by the gateway's, which slirp leads there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::dns::resolvers;
use banger_host::process::poll;

/// Where slirp answers names (`-netdev user` in qemu(1)).
pub const SLIRP_DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Where slirp leads to the host's loopback.
const SLIRP_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The port of a resolver.
const PORT: u16 = 53;
/// How long a resolver may take to answer before another one is preferred. With one that answers nobody waits for this.
const PATIENCE: Duration = Duration::from_millis(500);

/// How much longer than another one those before it may take.
const GRACE: Duration = Duration::from_millis(150);

/// A question that every resolver answers somehow: the name servers of the root (RFC 1035, 4.1).
const QUESTION: [u8; 17] = [0xb4, 0x9e, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The guest's resolvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestResolvers {
    /// Their addresses, in the order in which they are asked.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether the host has resolvers, and none of them is one that a guest could ask and that answers.
    pub is_deaf: bool,
}

/// A way to a resolver of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// What the guest asks.
    guest: Ipv4Addr,
    /// What answers then: an IPv4 address of the host's world.
    host: IpAddr,
}

/// The resolvers for a guest on a host with the file `resolv_conf`.
pub fn of_guest(resolv_conf: &Path) -> GuestResolvers {
    let host = resolvers::of_host(resolv_conf);
    let is_named = resolvers::names_any(resolv_conf);
    choose(&host, is_named, &|ways| first_to_answer(ways, PORT))
}

/// The ways to the resolvers `host`.
fn ways(host: &[IpAddr]) -> Vec<Way> {
    let first = host.iter().find(|address| address.is_ipv4());
    let mut ways: Vec<Way> = first.iter().map(|first| Way { guest: SLIRP_DNS, host: **first }).collect();
    for address in host.iter().filter(|address| Some(*address) != first) {
        let guest = match address {
            // What listens on ::1 often listens there as well.
            address if is_localhost(address) => SLIRP_GATEWAY,
            // In the guest's own network that address is slirp's or nobody's.
            IpAddr::V4(v4) if v4.octets()[..3] == SLIRP_DNS.octets()[..3] => continue,
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_unspecified() => *v4,
            _ => continue,
        };
        if ways.iter().all(|way| way.guest != guest) {
            let host = if guest == SLIRP_GATEWAY { Ipv4Addr::LOCALHOST.into() } else { *address };
            ways.push(Way { guest, host });
        }
    }
    ways
}

fn is_localhost(address: &IpAddr) -> bool {
    *address == IpAddr::V4(Ipv4Addr::LOCALHOST) || *address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// Chooses for a host with the resolvers `host`; `is_named` says whether it has any at all, some of which may be of a form that is not
/// among these.
fn choose(
    host: &[IpAddr],
    is_named: bool,
    first_to_answer: &dyn Fn(&[Way]) -> Option<usize>,
) -> GuestResolvers {
    let slirp = |is_deaf| GuestResolvers { addresses: vec![SLIRP_DNS], is_deaf };
    if !is_named {
        // The C library asks this one then, and slirp none.
        let local = Way { guest: SLIRP_GATEWAY, host: Ipv4Addr::LOCALHOST.into() };
        let answers = first_to_answer(&[local]).is_some();
        return if answers {
            GuestResolvers { addresses: vec![SLIRP_GATEWAY], is_deaf: false }
        } else {
            slirp(false)
        };
    }
    let mut ways = ways(host);
    match (host, ways.as_slice()) {
        // There is nothing to choose, and the host is as well off as the guest.
        ([IpAddr::V4(_)], _) => return slirp(false),
        (_, []) => return slirp(true),
        _ => {}
    }
    let answering = first_to_answer(&ways);
    ways[..=answering.unwrap_or(0)].rotate_right(1);
    GuestResolvers { addresses: ways.iter().map(|way| way.guest).collect(), is_deaf: answering.is_none() }
}

/// The first of `ways` that answers; one after it counts where it answers and those before it take much longer.
fn first_to_answer(ways: &[Way], port: u16) -> Option<usize> {
    let asked = |(at, way): (usize, &Way)| Some((at, ask(SocketAddr::new(way.host, port)).ok()?));
    let mut asked: Vec<(usize, UdpSocket)> = ways.iter().enumerate().filter_map(asked).collect();
    let mut until = Instant::now() + PATIENCE;
    let mut first: Option<usize> = None;
    while asked.iter().any(|(at, _)| first.is_none_or(|first| *at < first)) {
        let mut fds: Vec<PollFd> =
            asked.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
        if poll::wait(&mut fds, Some(until)).unwrap_or(0) == 0 {
            break;
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        asked.retain(|(at, socket)| {
            let is_ready = ready.next().unwrap_or(false);
            if is_ready && is_answer(socket) {
                first = Some(first.map_or(*at, |first| first.min(*at)));
                until = until.min(Instant::now() + GRACE);
            }
            !is_ready
        });
    }
    first
}

/// Sends the question.
fn ask(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    socket.send(&QUESTION)?;
    Ok(socket)
}

/// Whether what came is an answer to the question; an error is that nobody is there.
fn is_answer(socket: &UdpSocket) -> bool {
    let mut answer = [0; 512];
    socket
        .recv(&mut answer)
        .is_ok_and(|length| length >= 12 && answer[..2] == QUESTION[..2] && answer[2] & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(host: &[&str], answers: &[&str]) -> (Vec<String>, bool) {
        let host: Vec<IpAddr> = host.iter().map(|text| text.parse().unwrap()).collect();
        let first =
            |ways: &[Way]| ways.iter().position(|way| answers.contains(&way.host.to_string().as_str()));
        let GuestResolvers { addresses, is_deaf } = choose(&host, !host.is_empty(), &first);
        (addresses.iter().map(Ipv4Addr::to_string).collect(), is_deaf)
    }

    #[test]
    fn a_guest_asks_one_that_answers() {
        type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);
        let table: [Row; 11] = [
            (&["127.0.0.53"], &[], &["10.0.2.3"], false),
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.1", "192.0.2.2"], &["10.0.2.3", "192.0.2.2"], false),
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.2"], &["192.0.2.2", "10.0.2.3"], false),
            (&["192.0.2.1", "127.0.0.1"], &["127.0.0.1"], &["10.0.2.2", "10.0.2.3"], false),
            (&["192.0.2.1", "10.0.2.7"], &["192.0.2.1"], &["10.0.2.3"], false),
            (&["::1"], &["127.0.0.1"], &["10.0.2.2"], false),
            (&["::1"], &[], &["10.0.2.2"], true),
            (&["2001:db8::1"], &["127.0.0.1"], &["10.0.2.3"], true),
            (&["2001:db8::1", "192.0.2.1"], &["192.0.2.1"], &["10.0.2.3"], false),
            (&[], &["127.0.0.1"], &["10.0.2.2"], false),
            (&[], &[], &["10.0.2.3"], false),
        ];
        for (host, answers, addresses, is_deaf) in table {
            let expected = (addresses.iter().map(|text| (*text).to_owned()).collect(), is_deaf);
            assert_eq!(chosen(host, answers), expected, "{host:?}, of which {answers:?} answer");
        }
    }

    #[test]
    fn whoever_answers_is_found_among_those_that_do_not() {
        let server = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 7), 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        // It takes questions and answers none.
        let silent = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 8), port)).unwrap();
        let answering = std::thread::spawn(move || {
            let mut question = [0; 512];
            let (length, from) = server.recv_from(&mut question).unwrap();
            question[2] |= 0x80;
            server.send_to(&question[..length], from).unwrap();
        });
        let way = |last: u8| Way { guest: SLIRP_DNS, host: Ipv4Addr::new(127, 0, 0, last).into() };
        // Nobody is there at all on 9.
        assert_eq!(first_to_answer(&[way(8), way(9), way(7)], port), Some(2));
        answering.join().unwrap();
        let begun = Instant::now();
        assert_eq!(first_to_answer(&[way(8), way(9)], port), None);
        assert!(begun.elapsed() >= PATIENCE);
        drop(silent);
        let begun = Instant::now();
        assert_eq!(first_to_answer(&[way(8), way(9)], port), None);
        assert!(begun.elapsed() < PATIENCE, "nobody listens, and that is known at once");
    }
}
