//! Packets that no client sends. Each has an answer, or none, and the resolver goes on.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{A, AAAA, Names, PTR, SERVER, WAIT, ask, assert_well, eventually, question, servers};
use crate::netd::{document, isolated, ok};

/// What is to come of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Silence,
    Code(u8),
    /// BADVERS, which has its higher bits in the OPT record.
    BadVersion,
}

use Expected::{BadVersion, Code, Silence};

const FORMERR: Expected = Code(1);
const NXDOMAIN: Expected = Code(3);
const NOTIMP: Expected = Code(4);
const REFUSED: Expected = Code(5);

/// A question about dev2.vm with changes.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = question("dev2.vm", A);
    change(&mut packet);
    packet
}

/// With an OPT record: its owner, payload, version, flags and data.
fn with_opt(owner: &[u8], version: u8, data: &[u8]) -> Vec<u8> {
    changed(|p| {
        p[11] = 1;
        p.extend(owner);
        p.extend([0, 41, 4, 208, 0, version, 0, 0]);
        p.extend((data.len() as u16).to_be_bytes());
        p.extend(data);
    })
}

/// A packet with the header of one question and this for the rest.
fn raw(rest: &[u8]) -> Vec<u8> {
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], rest].concat()
}

fn attacks() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let long_label = [&[63][..], &[b'a'; 63]].concat();
    let full = |labels: usize| [long_label.repeat(labels), vec![0, 0, 1, 0, 1]].concat();
    let kind = |kind: u16| {
        changed(|p| {
            let end = p.len();
            p[end - 4..end - 2].copy_from_slice(&kind.to_be_bytes());
        })
    };
    let class = |class: u16| {
        changed(|p| {
            let end = p.len();
            p[end - 2..].copy_from_slice(&class.to_be_bytes());
        })
    };
    let two_opts = {
        let mut packet = with_opt(&[0], 0, &[]);
        packet[11] = 2;
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        packet
    };
    let mut list = vec![
        ("nothing", vec![], Silence),
        ("one byte", vec![0], Silence),
        ("half a header", vec![0x12, 0x34, 1, 0, 0], Silence),
        ("a header of one question", raw(&[]), FORMERR),
        ("an answer", changed(|p| p[2] |= 0x80), Silence),
        (
            "an answer that cannot be read",
            changed(|p| {
                p[2] |= 0x80;
                p.truncate(14);
            }),
            Silence,
        ),
        ("TC in a question", changed(|p| p[2] |= 2), Code(0)),
        ("a code in a question", changed(|p| p[3] |= 15), Code(0)),
        (
            "every flag",
            changed(|p| {
                p[2] |= 7;
                p[3] = 0xf0;
            }),
            Code(0),
        ),
        ("no question", changed(|p| p[5] = 0), FORMERR),
        (
            "no question and nothing else",
            changed(|p| {
                p[5] = 0;
                p.truncate(12);
            }),
            FORMERR,
        ),
        (
            "two questions",
            [changed(|p| p[5] = 2), b"\x04dev2\x02vm\x00\x00\x01\x00\x01".to_vec()].concat(),
            FORMERR,
        ),
        (
            "many questions",
            changed(|p| {
                p[4] = 255;
                p[5] = 255;
            }),
            FORMERR,
        ),
        ("answers in a question", changed(|p| p[7] = 1), FORMERR),
        (
            "many answers",
            changed(|p| {
                p[6] = 255;
                p[7] = 255;
            }),
            FORMERR,
        ),
        (
            "many authorities",
            changed(|p| {
                p[8] = 255;
                p[9] = 255;
            }),
            FORMERR,
        ),
        (
            "many additional records",
            changed(|p| {
                p[10] = 255;
                p[11] = 255;
            }),
            FORMERR,
        ),
        ("an additional record that is not there", changed(|p| p[11] = 1), FORMERR),
        ("a tail", changed(|p| p.push(0)), FORMERR),
        ("a long tail", changed(|p| p.extend([7; 1500])), FORMERR),
        ("more than is taken", changed(|p| p.extend([7; 60_000])), FORMERR),
        ("a question cut in its name", changed(|p| p.truncate(16)), FORMERR),
        ("a question cut in its type", changed(|p| p.truncate(22)), FORMERR),
        ("a name without end", raw(b"\x04dev2\x02vm"), FORMERR),
        ("a label longer than the packet", raw(&[63, b'a', 0, 0, 1, 0, 1]), FORMERR),
        ("a label of a reserved kind", raw(&[0x40, b'a', 0, 0, 1, 0, 1]), FORMERR),
        ("another reserved kind", raw(&[0x80, b'a', 0, 0, 1, 0, 1]), FORMERR),
        ("a name that points to itself", raw(&[0xc0, 12, 0, 1, 0, 1]), FORMERR),
        ("two names that point to each other", raw(&[0xc0, 14, 0xc0, 12, 0, 1, 0, 1]), FORMERR),
        ("a name that points forward", raw(&[0xc0, 20, 0, 1, 0, 1, 0, 0, 0]), FORMERR),
        ("a name that points beyond the end", raw(&[0xff, 0xff, 0, 1, 0, 1]), FORMERR),
        ("a name that points into the header", raw(&[0xc0, 4, 0, 1, 0, 1]), FORMERR),
        (
            "a name that begins well and loops",
            raw(&[4, b'd', b'e', b'v', b'2', 0xc0, 12, 0, 1, 0, 1]),
            FORMERR,
        ),
        ("a name of 257 bytes", raw(&full(4)), FORMERR),
        (
            "a name of many one-byte labels",
            raw(&[[1, b'a'].repeat(200), vec![0, 0, 1, 0, 1]].concat()),
            FORMERR,
        ),
        ("an unknown version of EDNS", with_opt(&[0], 1, &[]), BadVersion),
        ("the last version of EDNS", with_opt(&[0], 255, &[]), BadVersion),
        ("an unknown option", with_opt(&[0], 0, &[0xff, 0xfe, 0, 2, 1, 2]), Code(0)),
        ("padding", with_opt(&[0], 0, &[&[0, 12, 0, 200][..], &[0; 200]].concat()), Code(0)),
        ("a cookie", with_opt(&[0], 0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]), Code(0)),
        ("an option longer than its record", with_opt(&[0], 0, &[0, 12, 0, 99, 0]), FORMERR),
        ("an OPT record of another name", with_opt(b"\x01x\x00", 0, &[]), FORMERR),
        ("two OPT records", two_opts, FORMERR),
        (
            "a record that is not OPT",
            [changed(|p| p[11] = 1), b"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04abcd".to_vec()].concat(),
            FORMERR,
        ),
        (
            "a signature",
            [changed(|p| p[11] = 1), [&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 16][..], &[0; 16]].concat()]
                .concat(),
            FORMERR,
        ),
        ("a zone transfer", kind(252), REFUSED),
        ("an incremental transfer", kind(251), REFUSED),
        ("TKEY", kind(249), REFUSED),
        ("MAILA", kind(254), NOTIMP),
        ("an unknown meta type", kind(200), NOTIMP),
        ("the type OPT", kind(41), FORMERR),
        ("the type TSIG", kind(250), FORMERR),
        ("the type 0", kind(0), Code(0)),
        ("an unknown type", kind(65280), Code(0)),
        ("ANY", kind(255), Code(0)),
        ("CHAOS", class(3), REFUSED),
        ("class 0", class(0), REFUSED),
        ("class ANY", class(255), REFUSED),
        ("class NONE", class(254), REFUSED),
        ("the root", question(".", A), REFUSED),
        ("a name with dots in it", raw(b"\x07dev2.vm\x00\x00\x01\x00\x01"), REFUSED),
        ("a name with NUL in it", raw(b"\x05dev2\x00\x02vm\x00\x00\x01\x00\x01"), NXDOMAIN),
        ("a name with high bytes", raw(b"\x03\xff\xfe\xfd\x02vm\x00\x00\x01\x00\x01"), NXDOMAIN),
        (
            "a name of the longest label",
            raw(&[&long_label[..], b"\x02vm\x00\x00\x01\x00\x01"].concat()),
            NXDOMAIN,
        ),
        (
            "the longest name",
            raw(&[&long_label.repeat(3)[..], &[58], &[b'a'; 58], b"\x02vm\x00\x00\x01\x00\x01"].concat()),
            NXDOMAIN,
        ),
        ("the zone itself", question("vm", A), Code(0)),
        ("a name in lower and upper case", question("dEV2.Vm", A), Code(0)),
        ("the other family", question("dev2.vm", AAAA), Code(0)),
        ("a reverse name", question("2.7.213.10.in-addr.arpa", PTR), Code(0)),
        ("a reverse name of another subnet", question("2.8.213.10.in-addr.arpa", PTR), REFUSED),
        ("a reverse name below an address", question("x.2.7.213.10.in-addr.arpa", PTR), NXDOMAIN),
        ("a reverse name with zeros", question("002.7.213.10.in-addr.arpa", PTR), REFUSED),
        ("a reverse name out of range", question("256.7.213.10.in-addr.arpa", PTR), REFUSED),
        ("a reverse name with a sign", question("+2.7.213.10.in-addr.arpa", PTR), REFUSED),
        ("half a reverse name", question("7.213.10.in-addr.arpa", PTR), REFUSED),
        ("in-addr.arpa", question("in-addr.arpa", PTR), REFUSED),
    ];
    for operation in 1..16_u8 {
        list.push(("another operation", changed(|p| p[2] = operation << 3), NOTIMP));
    }
    list.push((
        "another operation that cannot be read",
        changed(|p| {
            p[2] = 5 << 3;
            p.truncate(13);
        }),
        NOTIMP,
    ));
    list
}

fn matches(expected: &Expected, answer: &[u8]) -> bool {
    let code = answer[3] & 15;
    match expected {
        Silence => false,
        Code(wanted) => code == *wanted,
        BadVersion => code == 0 && answer[11] == 1 && answer[answer.len() - 6] == 1,
    }
}

#[test]
fn every_odd_packet_gets_what_it_deserves() {
    isolated("netd::dns::hostile::every_odd_packet_gets_what_it_deserves", || {
        ok("attach", &document(2));
        Names::new(&[2]).serve(&[]);
        let attacks = attacks();
        assert!(attacks.len() > 80);
        for (what, packet, expected) in &attacks {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(SERVER).expect("connected");
            let patience = if *expected == Silence { Duration::from_millis(60) } else { WAIT };
            socket.set_read_timeout(Some(patience)).expect("a timeout");
            socket.send(packet).expect("sent");
            let mut answer = [0; 4096];
            match socket.recv(&mut answer) {
                Err(_) => assert_eq!(*expected, Silence, "{what}: no answer to {packet:?}"),
                Ok(length) => {
                    let answer = &answer[..length];
                    assert!(matches(expected, answer), "{what}: {answer:?} to {packet:?}");
                    assert!(
                        answer.len() <= 512 && answer[..2] == [0x12, 0x34] && answer[2] & 0x80 != 0,
                        "{what}"
                    );
                }
            }
            assert_well();
            // The same over TCP, where silence is the end of the connection.
            if packet.len() <= 4096 {
                let answer = over_tcp(packet);
                let fits = if *expected == Silence {
                    answer.is_none()
                } else {
                    answer.is_some_and(|a| matches(expected, &a))
                };
                assert!(fits, "{what} over TCP");
            }
        }
        assert_eq!(servers().len(), 1);
    });
}

/// One message and its answer; `None` where the connection is closed instead.
fn over_tcp(packet: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(SERVER).expect("connected");
    stream.set_read_timeout(Some(WAIT)).expect("a timeout");
    stream.write_all(&[&(packet.len() as u16).to_be_bytes(), packet].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

/// How long a connection may take (bins/banger-netd/src/dns/tcp.rs).
const LIMIT: Duration = Duration::from_secs(5);

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", servers()[0])).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn slow_and_lying_connections_end_and_thousands_do_no_harm() {
    isolated("netd::dns::hostile::slow_and_lying_connections_end_and_thousands_do_no_harm", || {
        ok("attach", &document(2));
        Names::new(&[2]).serve(&[]);
        let connect = || {
            let stream = TcpStream::connect(SERVER).expect("connected");
            stream.set_read_timeout(Some(WAIT)).expect("a timeout");
            stream
        };
        let ends = |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).unwrap_or(0);
        // Lengths that are lies: nothing, too much, more than comes.
        for length in [0_u16, 1, 11, 4097, 65535] {
            let mut stream = connect();
            stream.write_all(&length.to_be_bytes()).expect("sent");
            if length < 12 {
                stream.write_all(&[0; 12][..usize::from(length)]).expect("sent");
            }
            let began = Instant::now();
            assert_eq!(ends(stream), 0, "{length}");
            assert!(began.elapsed() < LIMIT, "{length}: {:?}", began.elapsed());
        }
        // Many questions at once in pieces of odd sizes, answered in order.
        let mut stream = connect();
        let one = question("dev2.vm", A);
        let message = [&(one.len() as u16).to_be_bytes(), &one[..]].concat();
        for piece in message.repeat(20).chunks(7) {
            stream.write_all(piece).expect("sent");
        }
        let mut answers = vec![0; 20 * (2 + one.len() + 16)];
        stream.read_exact(&mut answers).expect("all answers");
        drop(stream);
        // A byte now and then: the connection ends when its time is up, and nobody else waits for it.
        let began = Instant::now();
        let mut slow = connect();
        slow.write_all(&[0]).expect("sent");
        let held: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
        let mut last = Duration::ZERO;
        while last < LIMIT * 4 / 5 {
            drop(slow.write_all(&[30]));
            assert_well();
            last = began.elapsed();
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(ends(slow), 0);
        let took = began.elapsed();
        assert!(took > LIMIT * 4 / 5 && took < last + LIMIT, "{took:?}, and the last byte went at {last:?}");
        drop(held);
        eventually("room for a connection", || over_tcp(&one).is_some());
        // Thousands, of which most are closed at once.
        let before = memory_kib();
        let (mut open, began) = (Vec::new(), Instant::now());
        for n in 0..3000 {
            let Ok(mut stream) = TcpStream::connect(SERVER) else { break };
            drop(stream.write_all(&[0, 29, 1]));
            if n % 3 == 0 {
                open.push(stream);
            }
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        assert_well();
        let threads = std::fs::read_dir(format!("/proc/{}/task", servers()[0])).expect("its threads").count();
        assert!(threads <= 3 + 8, "{threads} threads");
        assert!(memory_kib() < before + (16 << 10), "{before} KiB, then {} KiB", memory_kib());
        drop(open);
        eventually("room for a connection", || over_tcp(&one).is_some());
        assert!(ask(&one).is_ok());
    });
}
