//! What the rules let through, proved with packets: guests that are played ([`super::guest`]) and an outside world in a
//! namespace behind a veth pair.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;

use super::guest::{Namespace, boot};
use super::reach::counted;
use super::{STATE, document, ip, isolated, ok, sh, tap};
use crate::support::SOON;

/// How long is waited for what is not to come.
pub const WAIT: Duration = Duration::from_millis(700);

/// The outside: TEST-NET-2 (RFC 5737), and a cloud's metadata service.
pub const OUTSIDE: &str = "198.51.100.1:80";
pub const METADATA: &str = "169.254.169.254:80";

/// Connects and gives what the peer says: the address that it sees.
pub fn seen_by(to: &str) -> io::Result<String> {
    seen_within(to, SOON)
}

/// The same where it is to fail, which may be by silence.
pub fn unseen_by(to: &str) -> io::Result<String> {
    seen_within(to, WAIT)
}

fn seen_within(to: &str, patience: Duration) -> io::Result<String> {
    let to: SocketAddr = to.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Serves connections with the peer's address until the process ends.
pub fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let peer = stream.peer_addr().expect("a peer");
            drop(write!(stream, "{}", peer.ip()));
        }
    });
}

pub fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// Whether it was refused at once rather than left to time out.
#[track_caller]
pub fn assert_refused(result: io::Result<String>) {
    let error = result.expect_err("it got through");
    assert!(![ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()), "{error}");
}

#[track_caller]
pub fn assert_lost(result: io::Result<String>) {
    result.expect_err("it got through");
}

pub fn outside() -> Namespace {
    let (outside, ()) = Namespace::new(|| ());
    ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    outside.take_link("up1");
    ip(&["address", "add", "198.51.100.2/24", "dev", "up0"]);
    ip(&["link", "set", "up0", "up"]);
    ip(&["route", "add", "169.254.169.254", "via", "198.51.100.1"]);
    // No route back to the guests' subnet: only masqueraded packets are answered.
    outside.sh("ip link set lo up
         ip address add 198.51.100.1/24 dev up1
         ip address add 169.254.169.254/32 dev lo
         ip link set up1 up");
    outside.run(|| ["198.51.100.1:80", METADATA].map(|a| serve(listen(a))));
    outside
}

#[test]
fn a_guest_reaches_the_outside_masqueraded_and_the_host_reaches_the_guest() {
    isolated("netd::packets::a_guest_reaches_the_outside_masqueraded_and_the_host_reaches_the_guest", || {
        let _outside = outside();
        ok("attach", &document(2));
        let guest = boot(&tap(2), 2);
        assert_eq!(guest.run(|| seen_by(OUTSIDE)).expect("the outside answers"), "198.51.100.2");
        guest.run(|| serve(listen("0.0.0.0:22")));
        assert_eq!(seen_by("10.213.7.2:22").expect("the guest answers"), "10.213.7.1");
    });
}

#[test]
fn a_guest_reaches_of_the_host_only_names_and_ping() {
    isolated("netd::packets::a_guest_reaches_of_the_host_only_names_and_ping", || {
        sh("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        ok("attach", &document(2));
        let guest = boot(&tap(2), 2);
        serve(listen("0.0.0.0:8080"));
        serve(listen("[::]:8081"));
        for to in ["10.213.7.1:8080", "10.213.7.1:8081"] {
            assert_refused(guest.run(|| seen_by(to)));
        }
        let names = UdpSocket::bind("10.213.7.1:53").expect("port 53 is free");
        guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.send_to(b"?", "10.213.7.1:53").expect("sent");
        });
        names.set_read_timeout(Some(SOON)).expect("a timeout");
        let (_, from) = names.recv_from(&mut [0; 9]).expect("the question arrives");
        assert_eq!(from.ip(), Ipv4Addr::new(10, 213, 7, 2));
        // IPv6: the bridge's link-local address follows from its MAC, which follows from the gateway.
        let index = guest.run(|| nix::net::if_::if_nametoindex("eth0").expect("there is a card"));
        let to = SocketAddrV6::new("fe80::aff:fed5:701".parse().expect("an address"), 8081, 0, index);
        assert_refused(guest.run(|| TcpStream::connect_timeout(&to.into(), SOON).map(|_| String::new())));
    });
}

#[test]
fn guests_do_not_reach_each_other_nor_link_local_services() {
    isolated("netd::packets::guests_do_not_reach_each_other_nor_link_local_services", || {
        let _outside = outside();
        [2, 3].iter().for_each(|n| drop(ok("attach", &document(*n))));
        let (two, three) = (boot(&tap(2), 2), boot(&tap(3), 3));
        three.run(|| serve(listen("0.0.0.0:80")));
        assert_eq!(seen_by("10.213.7.3:80").expect("the host reaches it"), "10.213.7.1");
        // On the bridge, with the neighbour known.
        two.sh("ip neighbour replace 10.213.7.3 lladdr 02:00:00:00:00:03 dev eth0 nud permanent");
        assert_lost(two.run(|| unseen_by("10.213.7.3:80")));
        // Around it, through the host.
        two.sh("ip route add 10.213.7.3/32 via 10.213.7.1");
        assert_refused(two.run(|| seen_by("10.213.7.3:80")));
        assert_eq!(seen_by(METADATA).expect("the host itself reaches it"), "198.51.100.2");
        assert_refused(two.run(|| seen_by(METADATA)));
        // Another state directory's guest is as far away.
        ok("attach", &super::document_in("ffffffff", "99.1", 2));
        assert_refused(two.run(|| seen_by("10.99.1.1:80")));
    });
}

#[test]
fn forged_addresses_are_dropped() {
    isolated("netd::packets::forged_addresses_are_dropped", || {
        let _outside = outside();
        let attached = ok("attach", &document(2));
        let guest = boot(&tap(2), 2);
        let names = UdpSocket::bind("0.0.0.0:53").expect("port 53 is free");
        let ask = |from: &str, patience: Duration| {
            names.set_read_timeout(Some(patience)).expect("a timeout");
            guest.run(|| {
                let socket = UdpSocket::bind(format!("{from}:0")).expect("the guest has that address");
                socket.send_to(from.as_bytes(), "10.213.7.1:53").expect("sent");
            });
            let mut text = [0; 32];
            names.recv_from(&mut text).map(|(n, _)| String::from_utf8_lossy(&text[..n]).into_owned())
        };
        assert_eq!(ask("10.213.7.2", SOON).expect("the honest one arrives"), "10.213.7.2");
        // Of the subnet, of the outside, of the host itself.
        guest.sh("for a in 10.213.7.99 198.51.100.9; do ip address add $a/32 dev eth0; done");
        for forged in ["10.213.7.99", "198.51.100.9"] {
            ask(forged, WAIT).expect_err("a forged source got through");
        }
        // A neighbour that claims another's address, the gateway's included, is not believed.
        guest.sh("ip address add 10.213.7.77/32 dev eth0");
        TcpStream::connect_timeout(&"10.213.7.77:22".parse().expect("an address"), WAIT)
            .expect_err("an ARP answer for another address got through");
        // Another Ethernet address, right or wrong in ARP.
        guest.sh("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:98 up");
        guest.sh("ip neighbour replace 10.213.7.1 lladdr 02:00:0a:d5:07:01 dev eth0 nud permanent");
        ask("10.213.7.2", WAIT).expect_err("a forged Ethernet address got through");
        assert!(counted(&attached, "dropped: forged Ethernet address") > 0);
        assert!(counted(&attached, "dropped: forged IPv4 address or odd frame") > 1);
        guest.sh("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:02 up");
        guest.sh("ip neighbour replace 10.213.7.1 lladdr 02:00:0a:d5:07:01 dev eth0 nud permanent");
        assert_eq!(ask("10.213.7.2", SOON).expect("the honest one arrives again"), "10.213.7.2");
    });
}

#[test]
fn without_nat_a_guest_reaches_nothing_and_the_outside_reaches_no_guest() {
    isolated("netd::packets::without_nat_a_guest_reaches_nothing_and_the_outside_reaches_no_guest", || {
        let outside = outside();
        let mut inner = document(2);
        inner["vm"]["nat"] = json!(false);
        ok("attach", &inner);
        ok("attach", &document(3));
        let (two, three) = (boot(&tap(2), 2), boot(&tap(3), 3));
        assert_refused(two.run(|| seen_by(OUTSIDE)));
        three.run(|| seen_by(OUTSIDE)).expect("the other one may");
        [&two, &three].iter().for_each(|guest| guest.run(|| serve(listen("0.0.0.0:22"))));
        outside.sh("ip route add 10.213.7.0/24 via 198.51.100.2");
        for to in ["10.213.7.2:22", "10.213.7.3:22"] {
            seen_by(to).expect("the host may");
            assert_lost(outside.run(|| unseen_by(to)));
        }
        // Detached while it talks: nothing of it is let through any more.
        ok("detach", &document(3));
        assert_lost(three.run(|| unseen_by(OUTSIDE)));
        assert!(!sh(&format!("nft list chain inet banger_{STATE} {}", tap(3))).status.success());
    });
}
