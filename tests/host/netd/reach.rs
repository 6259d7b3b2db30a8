//! Who reaches whom, proved with packets: published ports, egress, peers, and the change of all that while the guest runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use super::guest::{Namespace, boot};
use super::packets::{
    METADATA, OUTSIDE, WAIT, assert_lost, assert_refused, listen, outside, seen_by, serve, unseen_by,
};
use super::{NETD, STATE, document, document_in, ip, isolated, netd, ok, sh, snapshot, tap};
use crate::support::{SOON, assert_error, command, run};

pub fn published(n: u8, ports: Value) -> Value {
    let mut document = document(n);
    document["vm"]["publish"] = ports;
    document
}

pub fn port(host_ip: Option<&str>, host_port: u16, guest_port: u16, protocol: &str) -> Value {
    json!({ "host_ip": host_ip, "host_port": host_port, "guest_port": guest_port, "protocol": protocol })
}

fn egress(text: &str) -> Value {
    match text.strip_prefix("allow=") {
        None => json!({ "policy": text, "allow": [] }),
        Some(list) => {
            let entries: Vec<Value> = list
                .split(',')
                .map(|entry| {
                    let (network, port) = entry.split_once(':').unwrap_or((entry, ""));
                    let port: Option<u16> = port.parse().ok();
                    json!({ "network": network, "port": port, "protocol": port.map(|_| "tcp") })
                })
                .collect();
            json!({ "policy": "allow", "allow": entries })
        }
    }
}

/// Changes the network of a running guest.
#[track_caller]
fn update(attached: &mut Value, key: &str, value: Value) {
    attached["vm"][key] = value;
    *attached = ok("update", attached);
    assert_eq!(attached["result"]["changed"], true, "{key}");
    assert_eq!(attached["net"][key], attached["vm"][key]);
    assert_eq!(ok("update", attached)["result"]["changed"], false, "{key}");
    ok("check", attached);
}

/// The packets that a rule has counted.
#[track_caller]
pub fn counted(attached: &Value, rule: &str) -> u64 {
    let status = ok("status", attached);
    let rules = status["rules"].as_array().expect("a list");
    let found =
        rules.iter().find(|r| r["rule"] == rule).unwrap_or_else(|| panic!("no rule {rule}: {status}"));
    found["packets"].as_u64().expect("a number")
}

/// Asserts that asking for `to` is refused, and counted once by a rule. A client asks again by itself where a busy machine takes more
/// than a second to refuse, so that one time of several tells.
#[track_caller]
fn assert_refused_by(attached: &Value, rule: &str, guest: &Namespace, to: &str) {
    let before = counted(attached, rule);
    assert!(before > 0, "{rule}: what was refused before is not counted");
    let counts = (0..5).map(|_| {
        assert_refused(guest.run(|| seen_by(to)));
        counted(attached, rule)
    });
    let counts: Vec<u64> = [before].into_iter().chain(counts).collect();
    assert!(counts.is_sorted_by(|one, next| one < next), "{rule}: {counts:?}");
    assert!(counts.windows(2).any(|pair| pair[1] == pair[0] + 1), "{rule}: {counts:?}");
}

/// A connection that stays: every line sent comes back.
fn echo(namespace: &Namespace, at: &str) {
    echo_on(namespace.run(|| listen(at)));
}

fn echo_on(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn answers(stream: &mut TcpStream) -> std::io::Result<String> {
    answers_within(stream, SOON)
}

fn answers_within(stream: &mut TcpStream, patience: Duration) -> std::io::Result<String> {
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.write_all(b"?")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).map(|()| "?".to_owned())
}

#[test]
fn a_published_port_is_reached_from_the_lan_and_the_host_and_by_nobody_else() {
    isolated("netd::reach::a_published_port_is_reached_from_the_lan_and_the_host_and_by_nobody_else", || {
        let outside = outside();
        let ports = json!([
            port(None, 8080, 80, "tcp"),
            port(Some("127.0.0.1"), 8081, 81, "tcp"),
            port(Some("198.51.100.2"), 8082, 82, "tcp"),
            port(None, 5353, 53, "udp"),
        ]);
        let before = snapshot();
        let mut document = published(2, ports);
        // What comes in by a published port is answered whatever the guest itself may reach.
        document["vm"]["egress"] = egress("none");
        let attached = ok("attach", &document);
        assert_eq!(attached["net"]["publish"], attached["vm"]["publish"]);
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        ok("check", &attached);
        let (two, three) = (boot(&tap(2), 2), {
            ok("attach", &super::document(3));
            boot(&tap(3), 3)
        });
        for port in [80, 81, 82, 22] {
            two.run(|| serve(listen(&format!("0.0.0.0:{port}"))));
        }
        // From the LAN, with the client's own address; from the host by each of its addresses.
        assert_eq!(outside.run(|| seen_by("198.51.100.2:8080")).expect("from the LAN"), "198.51.100.1");
        assert_eq!(seen_by("127.0.0.1:8080").expect("from localhost"), "10.213.7.1");
        assert_eq!(seen_by("127.0.0.1:8081").expect("from localhost"), "10.213.7.1");
        assert_eq!(seen_by("198.51.100.2:8080").expect("from the host"), "198.51.100.2");
        seen_by("198.51.100.2:8082").expect("the one address");
        outside.run(|| seen_by("198.51.100.2:8082")).expect("the one address from the LAN");
        // Only the address that was named, only the ports that were published, and no way around them.
        unseen_by("127.0.0.1:8082").expect_err("another address");
        outside.run(|| unseen_by("198.51.100.2:8081")).expect_err("localhost only");
        outside.sh("ip route add 10.213.7.0/24 via 198.51.100.2; ip route add 127.0.0.9/32 via 198.51.100.2 2>/dev/null || true");
        assert_lost(outside.run(|| unseen_by("10.213.7.2:80")));
        assert_lost(outside.run(|| unseen_by("10.213.7.2:22")));
        // A neighbour on the link that sends to 127.0.0.1.
        outside.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
             ip address del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 198.51.100.2
             ip route del local 127.0.0.0/8 dev lo table local 2>/dev/null || true");
        assert_lost(outside.run(|| unseen_by("127.0.0.1:8081")));
        // Another guest: neither the port nor, though the bridge routes it now, the host's loopback.
        serve(listen("127.0.0.1:9999"));
        for to in ["198.51.100.2:8080", "10.213.7.1:8080"] {
            assert_refused(three.run(|| seen_by(to)));
        }
        three.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
             ip address del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 10.213.7.1");
        for to in ["127.0.0.1:9999", "127.0.0.1:8080"] {
            assert_lost(three.run(|| unseen_by(to)));
        }
        assert_eq!(counted(&attached, "published: 8080:80"), 3, "connections");
        udp_is_published_too(&two, &outside);
        [2, 3].iter().for_each(|n| drop(ok("detach", &super::document(*n))));
        assert_eq!(snapshot(), before);
    });
}

fn udp_is_published_too(guest: &Namespace, outside: &Namespace) {
    let server = guest.run(|| UdpSocket::bind("0.0.0.0:53").expect("the port is free"));
    std::thread::spawn(move || {
        let mut buffer = [0; 9];
        while let Ok((n, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..n], from).expect("sent");
        }
    });
    let ask = |to: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.send_to(b"?", to).expect("sent");
        socket.recv_from(&mut [0; 9]).map(|(n, _)| n)
    };
    assert_eq!(outside.run(|| ask("198.51.100.2:5353")).expect("from the LAN"), 1);
    assert_eq!(ask("127.0.0.1:5353").expect("from localhost"), 1);
}

#[test]
fn a_taken_port_names_its_holder_and_changes_nothing() {
    isolated("netd::reach::a_taken_port_names_its_holder_and_changes_nothing", || {
        let holder = |output: &std::process::Output| {
            let error = assert_error(output, 1, "in-use");
            error["error"]["details"]["holder"].as_str().expect("a holder").to_owned()
        };
        // A process, on any of its addresses.
        let listener = listen("127.0.0.1:8080");
        let before = snapshot();
        let taken = netd("attach", &published(2, json!([port(None, 8080, 80, "tcp")])));
        let own = format!("(process {})", std::process::id());
        assert!(holder(&taken).contains(&own), "{taken:?}");
        let udp = UdpSocket::bind("0.0.0.0:5353").expect("the port is free");
        let taken = netd("attach", &published(2, json!([port(Some("127.0.0.1"), 5353, 53, "udp")])));
        assert!(holder(&taken).contains(&own));
        assert_error(
            &netd("attach", &published(2, json!([port(Some("192.0.2.99"), 1, 1, "tcp")]))),
            2,
            "bad-input",
        );
        assert_eq!(snapshot(), before);
        drop((listener, udp));
        // Another VM, also of another state directory, also where only one of the two names an address.
        let mut first =
            published(2, json!([port(None, 8080, 80, "tcp"), port(Some("127.0.0.1"), 9090, 80, "tcp")]));
        first["vm"]["name"] = json!("webserver");
        let first = ok("attach", &first);
        let before = snapshot();
        let mut other = document_in("ffffffff", "99.1", 2);
        for ports in [
            json!([port(None, 8080, 81, "tcp")]),
            json!([port(None, 1, 1, "tcp"), port(Some("127.0.0.1"), 8080, 81, "tcp")]),
            json!([port(None, 9090, 81, "tcp")]),
        ] {
            other["vm"]["publish"] = ports.clone();
            for document in [&published(3, ports), &other] {
                let found = holder(&netd("attach", document));
                assert_eq!(found, format!("VM webserver ({})", first["vm"]["id"].as_str().expect("an id")));
                assert_eq!(snapshot(), before);
            }
        }
        // The other protocol is another port, and so is another address.
        ok(
            "attach",
            &published(3, json!([port(None, 8080, 80, "udp"), port(Some("10.213.7.1"), 9090, 80, "tcp")])),
        );
        // Free again once the VM is gone.
        ok("detach", &first);
        other["vm"]["publish"] = json!([port(None, 8080, 80, "tcp")]);
        ok("attach", &other);
    });
}

#[test]
fn egress_lets_out_what_is_listed_and_refuses_the_rest_at_once() {
    isolated("netd::reach::egress_lets_out_what_is_listed_and_refuses_the_rest_at_once", || {
        let outside = outside();
        outside.sh("ip address add 203.0.113.5/32 dev lo");
        sh("ip route add 203.0.113.0/24 via 198.51.100.1");
        outside.run(|| ["198.51.100.1:81", "203.0.113.5:80", "203.0.113.5:443"].map(|a| serve(listen(a))));
        let mut document = document(2);
        document["vm"]["egress"] = egress("allow=198.51.100.0/24:80,203.0.113.5/32");
        let attached = ok("attach", &document);
        ok("check", &attached);
        let guest = boot(&tap(2), 2);
        for to in [OUTSIDE, "203.0.113.5:80", "203.0.113.5:443"] {
            assert_eq!(guest.run(|| seen_by(to)).expect("it is listed"), "198.51.100.2");
        }
        guest.sh("ping -c1 -W45 203.0.113.5");
        for to in ["198.51.100.1:81", METADATA] {
            assert_refused(guest.run(|| seen_by(to)));
        }
        // UDP to a port that is listed for TCP.
        let refused = guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            socket.connect("198.51.100.1:80").expect("a route");
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
            socket.send(b"?").expect("sent");
            socket.recv(&mut [0; 9]).expect_err("it is not listed")
        });
        assert!(![ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&refused.kind()), "{refused}");
        assert!(counted(&attached, "let through: 198.51.100.0/24:80") > 3);
        assert!(counted(&attached, "let through: 203.0.113.5") > 3);
        assert_refused_by(&attached, "refused: egress", &guest, "198.51.100.1:81");
        assert_refused_by(&attached, "refused: link-local services", &guest, METADATA);
        assert_refused(guest.run(|| seen_by("10.213.7.1:8080")));
        assert_refused_by(&attached, "refused: the host", &guest, "10.213.7.1:8080");
        // The host still reaches the guest.
        guest.run(|| serve(listen("0.0.0.0:22")));
        seen_by("10.213.7.2:22").expect("the host may");
    });
}

#[test]
fn a_change_takes_effect_at_once_on_established_connections_too() {
    isolated("netd::reach::a_change_takes_effect_at_once_on_established_connections_too", || {
        let outside = outside();
        echo(&outside, "198.51.100.1:7");
        let mut attached = ok("attach", &document(2));
        ok("attach", &document(3));
        let (guest, other) = (boot(&tap(2), 2), boot(&tap(3), 3));
        let connect =
            || guest.run(|| TcpStream::connect_timeout(&"198.51.100.1:7".parse().expect("an address"), SOON));
        let mut bystander = other.run(|| TcpStream::connect("198.51.100.1:7")).expect("the other guest may");
        for (key, closed, open) in [
            ("egress", egress("none"), egress("open")),
            ("nat", json!(false), json!(true)),
            ("egress", egress("allow=203.0.113.0/24"), egress("allow=198.51.100.1/32:7")),
        ] {
            let mut stream = connect().expect("it may");
            answers(&mut stream).expect("it may");
            update(&mut attached, key, closed);
            let error = answers(&mut stream).expect_err("an established connection went on");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{key}: {error}");
            assert_refused(connect().map(|_| String::new()));
            answers(&mut bystander).expect("the other guest's connection is none of this");
            update(&mut attached, key, open);
            let mut stream = connect().expect("it may again");
            answers(&mut stream).expect("it may again");
        }
        a_stream_from_outside_ends_too(&mut attached, &guest, &outside);
    });
}

/// What is asked of a resolver gets outside, too.
#[test]
fn a_guest_that_may_not_reach_everything_asks_no_server_of_the_hosts() {
    isolated("netd::reach::a_guest_that_may_not_reach_everything_asks_no_server_of_the_hosts", || {
        let mut attached = ok("attach", &document(2));
        let guest = boot(&tap(2), 2);
        let names = UdpSocket::bind("10.213.7.1:53").expect("port 53 is free");
        echo_on(listen("10.213.7.1:53"));
        // One that talks all the time, so that its connections are established ones.
        let old = guest.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
        let asks_within = |socket: &UdpSocket, patience: Duration| {
            names.set_read_timeout(Some(patience)).expect("a timeout");
            socket.send_to(b"?", "10.213.7.1:53").is_ok()
                && names.recv_from(&mut [0; 9]).is_ok_and(|(_, from)| names.send_to(b"!", from).is_ok())
        };
        let asks = |socket: &UdpSocket| asks_within(socket, SOON);
        let connect =
            || guest.run(|| TcpStream::connect_timeout(&"10.213.7.1:53".parse().expect("one"), SOON));
        for (key, closed, open) in [
            ("egress", egress("none"), egress("open")),
            ("nat", json!(false), json!(true)),
            ("egress", egress("allow=192.0.2.7/32"), egress("open")),
        ] {
            let mut stream = connect().expect("it may");
            answers(&mut stream).expect("it may");
            assert!(asks(&old) && asks(&guest.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"))));
            update(&mut attached, key, closed);
            assert!(!asks_within(&old, WAIT), "{key}: an established connection went on");
            let fresh = guest.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
            assert!(!asks_within(&fresh, WAIT), "{key}");
            answers_within(&mut stream, WAIT).expect_err("an established connection went on");
            assert_refused(connect().map(|_| String::new()));
            update(&mut attached, key, open);
        }
        assert!(asks(&old) && connect().is_ok());
    });
}

/// A server that goes on sending over UDP keeps its connection alive in conntrack without a packet of the guest's.
fn a_stream_from_outside_ends_too(attached: &mut Value, guest: &Namespace, outside: &Namespace) {
    update(attached, "egress", egress("open"));
    let server = outside.run(|| UdpSocket::bind("198.51.100.1:9").expect("the port is free"));
    let socket = guest.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
    socket.send_to(b"?", "198.51.100.1:9").expect("sent");
    for socket in [&server, &socket] {
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
    }
    let (_, client) = server.recv_from(&mut [0; 9]).expect("the question arrives");
    server.send_to(b"1", client).expect("sent");
    socket.recv(&mut [0; 9]).expect("the answer arrives");
    update(attached, "egress", egress("none"));
    socket.set_read_timeout(Some(WAIT)).expect("a timeout");
    server.send_to(b"2", client).expect("sent");
    socket.recv(&mut [0; 9]).expect_err("the stream went on");
}

#[test]
fn peers_reach_each_other_and_nobody_else_does() {
    isolated("netd::reach::peers_reach_each_other_and_nobody_else_does", || {
        let peer = |n| {
            let mut document = document(n);
            document["vm"]["peer"] = json!(true);
            // Peers are not the outside.
            document["vm"]["egress"] = egress("none");
            ok("attach", &document)
        };
        let before = snapshot();
        let mut two = peer(2);
        let three = peer(3);
        let four = ok("attach", &document(4));
        [&two, &three, &four].iter().for_each(|document| drop(ok("check", document)));
        let guests = [2, 3, 4].map(|n| boot(&tap(n), n));
        guests.iter().for_each(|guest| guest.run(|| serve(listen("0.0.0.0:80"))));
        let [a, b, c] = &guests;
        assert_eq!(a.run(|| seen_by("10.213.7.3:80")).expect("peers"), "10.213.7.2");
        assert_eq!(b.run(|| seen_by("10.213.7.2:80")).expect("peers"), "10.213.7.3");
        a.sh("ping -c1 -W45 10.213.7.3");
        assert!(counted(&two, "let through: peers") > 3);
        // The third is none, whoever begins, and is told at once.
        for (guest, to) in
            [(a, "10.213.7.4:80"), (c, "10.213.7.2:80"), (c, "10.213.7.3:80"), (c, "10.213.7.99:80")]
        {
            assert_refused(guest.run(|| seen_by(to)));
        }
        assert_refused_by(&four, "refused: other VMs", c, "10.213.7.2:80");
        // No way around the host on the bridge.
        a.sh("ip neighbour replace 10.213.7.3 lladdr 02:00:00:00:00:03 dev eth0 nud permanent");
        assert_lost(a.run(|| unseen_by("10.213.7.3:80")));
        a.sh("ip neighbour del 10.213.7.3 dev eth0");
        a.run(|| seen_by("10.213.7.3:80")).expect("peers");
        // A change while they talk.
        echo(b, "0.0.0.0:7");
        let mut stream = a.run(|| TcpStream::connect("10.213.7.3:7")).expect("peers");
        answers(&mut stream).expect("peers");
        // One that only ever answers, which keeps the connection alive in conntrack.
        let talker = b.run(|| UdpSocket::bind("10.213.7.3:9").expect("the port is free"));
        let listener = a.run(|| UdpSocket::bind("10.213.7.2:0").expect("a port"));
        listener.send_to(b"?", "10.213.7.3:9").expect("sent");
        for socket in [&talker, &listener] {
            socket.set_read_timeout(Some(SOON)).expect("a timeout");
        }
        let (_, to) = talker.recv_from(&mut [0; 9]).expect("peers");
        talker.send_to(b"1", to).expect("sent");
        listener.recv(&mut [0; 9]).expect("peers");
        update(&mut two, "peer", json!(false));
        answers_within(&mut stream, WAIT).expect_err("no peer any more");
        listener.set_read_timeout(Some(WAIT)).expect("a timeout");
        drop(talker.send_to(b"2", to));
        listener.recv(&mut [0; 9]).expect_err("no peer any more");
        assert_refused(a.run(|| seen_by("10.213.7.3:80")));
        assert_refused(b.run(|| seen_by("10.213.7.2:80")));
        update(&mut two, "peer", json!(true));
        b.run(|| seen_by("10.213.7.2:80")).expect("peers again");
        [2, 3, 4].iter().for_each(|n| drop(ok("detach", &document(*n))));
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn update_and_status_refuse_what_is_not_theirs_to_do() {
    isolated("netd::reach::update_and_status_refuse_what_is_not_theirs_to_do", || {
        assert_error(&netd("update", &document(2)), 2, "bad-input");
        let attached = ok("attach", &document(2));
        let before = snapshot();
        for (key, value) in [
            ("publish", json!([port(None, 8080, 80, "tcp")])),
            ("address", json!("10.213.7.9")),
            ("mac", json!("02:00:00:00:00:99")),
            ("net_mode", json!("user")),
        ] {
            let mut other = attached.clone();
            other["vm"][key] = value;
            assert_error(&netd("update", &other), 1, "conflict");
        }
        // Of the VM's own record, another's network.
        let mut other = ok("attach", &document(3));
        ok("detach", &document(3));
        assert_error(&netd("update", &other), 3, "not-found");
        other["vm"]["owner_uid"] = json!(61000);
        let sudo = run(command(NETD).arg("update").env("SUDO_UID", "61000"), other.to_string().as_bytes());
        assert_error(&sudo, 1, "conflict");
        let mut theirs = attached.clone();
        theirs["vm"]["owner_uid"] = json!(61000);
        for (verb, status, code) in [("update", 1, "conflict"), ("status", 3, "not-found")] {
            let sudo = run(command(NETD).arg(verb).env("SUDO_UID", "61000"), theirs.to_string().as_bytes());
            assert_error(&sudo, status, code);
        }
        // Through sudo nobody publishes a port that is root's.
        let mut low = published(4, json!([port(None, 80, 80, "tcp")]));
        low["vm"]["owner_uid"] = json!(61000);
        low["vm"]["state_id"] = json!("ffffffff");
        let sudo = run(command(NETD).arg("attach").env("SUDO_UID", "61000"), low.to_string().as_bytes());
        assert_error(&sudo, 5, "denied");
        assert_eq!(snapshot(), before);
        // Nothing attached is a status, too.
        let status = ok("status", &document(2));
        assert_eq!((&status["attached"], &status["rules"]), (&json!(false), &json!([])));
        let status = ok("status", &attached);
        assert_eq!((&status["schema"], &status["attached"]), (&json!("banger.network/1"), &json!(true)));
    });
}

#[test]
fn what_is_left_of_a_published_port_is_collected_and_mended() {
    isolated("netd::reach::what_is_left_of_a_published_port_is_collected_and_mended", || {
        let before = snapshot();
        let mut document =
            published(2, json!([port(None, 8080, 80, "tcp"), port(Some("127.0.0.1"), 1, 2, "udp")]));
        document["vm"]["peer"] = json!(true);
        let attached = ok("attach", &document);
        let id = attached["vm"]["id"].as_str().expect("an id");
        let table = format!("inet banger_{STATE}");
        for damage in [
            format!("nft flush chain {table} bgp{id}"),
            format!("nft delete element {table} published '{{ tcp . 8080 }}'"),
            format!("nft delete element {table} open_ports '{{ 10.213.7.2 . tcp . 80 }}'"),
            format!("nft delete element {table} peers '{{ 10.213.7.2 }}'"),
            format!("nft add element {table} open_ports '{{ 10.213.7.2 . tcp . 22 }}'"),
            format!("nft flush chain {table} loopback"),
            format!("echo 0 > /proc/sys/net/ipv4/conf/bgr{STATE}/route_localnet"),
            format!("echo 0 > /proc/sys/net/ipv4/conf/bgr{STATE}/proxy_arp_pvlan"),
        ] {
            assert!(sh(&damage).status.success(), "{damage}");
            assert_error(&netd("check", &attached), 1, "conflict");
            assert_eq!(ok("attach", &attached)["result"]["changed"], true, "{damage}");
            ok("check", &attached);
        }
        // A VM whose tap is gone, beside one that lives.
        let other = ok("attach", &super::document(3));
        ip(&["link", "del", &tap(2)]);
        let gone = super::gc(&[&other]);
        assert_eq!(gone["removed"].as_array().map(Vec::len), Some(1), "{gone}");
        let rules = String::from_utf8(sh(&format!("nft list table {table}")).stdout).expect("text");
        assert!(!rules.contains("10.213.7.2") && !rules.contains("8080"), "{rules}");
        ok("check", &other);
        ok("detach", &other);
        assert_eq!(snapshot(), before);
    });
}
