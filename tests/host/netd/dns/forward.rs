//! Questions about the rest of the world: passed on, believed only when they fit, and never waited for without end.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{A, Names, SILENCE, WAIT, ask, ask_for, assert_well, code, item, question, servers, wire};
use crate::netd::guest::{Namespace, boot};
use crate::netd::{document, isolated, ok, replace_program, tap};

/// How long one of the host's resolvers is waited for (bins/banger-netd/src/dns/upstream.rs).
const PATIENCE: Duration = Duration::from_millis(1500);

/// A resolver of the outside world, as odd as they come: it goes by the first label of the name.
struct Upstream;

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// The answer to `packet`: 192.0.2.9, `count` times.
fn answer(packet: &[u8], count: u16) -> Vec<u8> {
    let end = 12 + packet[12..].iter().position(|b| *b == 0).expect("a name") + 5;
    let mut out = packet[..end].to_vec();
    out[2] |= 0x80;
    out[3] = 0x80;
    out[6..8].copy_from_slice(&count.to_be_bytes());
    out[8..12].fill(0);
    for _ in 0..count {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
    }
    out
}

impl Upstream {
    /// Listens at `address` until the process ends.
    fn start(address: &'static str) {
        let socket = UdpSocket::bind(address).expect("free");
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                ASKED.fetch_add(1, Ordering::SeqCst);
                let packet = &packet[..length];
                let times = seen.entry(packet[12..].to_vec()).or_default();
                *times += 1;
                for reply in Self::udp(packet, *times) {
                    socket.send_to(&reply, from).expect("sent");
                }
            }
        });
        let listener = TcpListener::bind(address).expect("free");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).expect("a length");
                    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut packet).expect("a question");
                    ASKED.fetch_add(1, Ordering::SeqCst);
                    let reply = match Self::label(&packet) {
                        b"mute" => return std::thread::sleep(Duration::from_secs(20)),
                        b"liar" => answer(&question("other.test", A), 1),
                        _ => answer(&packet, 300),
                    };
                    let whole = [&(reply.len() as u16).to_be_bytes(), &reply[..]].concat();
                    drop(stream.write_all(&whole));
                });
            }
        });
    }

    fn label(packet: &[u8]) -> &[u8] {
        &packet[13..13 + usize::from(packet[12])]
    }

    fn udp(packet: &[u8], times: usize) -> Vec<Vec<u8>> {
        let right = answer(packet, 1);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut copy = right.clone();
            let end = copy.len();
            copy[end - 1] = 66;
            change(&mut copy);
            copy
        };
        match Self::label(packet) {
            b"mute" => vec![],
            // It needs a second try.
            b"deaf" if times == 1 => vec![],
            b"long" => {
                let mut cut = answer(packet, 0);
                cut[2] |= 2;
                vec![cut]
            }
            // More than the client can take, and no word of it.
            b"rude" => vec![answer(packet, 60)],
            b"broken" => vec![with(&|p| p[3] |= 2)],
            // Forgeries before the right one: id, question, case, kind of message, length.
            b"forged" => vec![
                with(&|p| p[1] ^= 1),
                with(&|p| p[14] = b'x'),
                with(&|p| p[14] ^= 0x20),
                with(&|p| p[2] &= 0x7f),
                with(&|p| p[2] |= 0x28),
                with(&|p| p[5] = 2),
                with(&|p| p.truncate(20)),
                with(&|p| p.truncate(0)),
                right,
            ],
            _ => vec![right],
        }
    }
}

fn ask_tcp(packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = std::net::TcpStream::connect_timeout(&super::SERVER.parse().expect("one"), WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(&[&(packet.len() as u16).to_be_bytes(), packet].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A server of one VM that asks two resolvers of the outside, and that VM.
fn world(names: &Names, upstream: &[&str]) -> Namespace {
    ok("attach", &document(2));
    let args: Vec<&str> = upstream.iter().flat_map(|address| ["--upstream", address]).collect();
    names.serve(&args);
    boot(&tap(2), 2)
}

#[test]
fn others_names_come_from_the_hosts_resolvers() {
    isolated("netd::dns::forward::others_names_come_from_the_hosts_resolvers", || {
        Upstream::start("127.0.0.1:5300");
        let names = Names::new(&[2]);
        let guest = world(&names, &["127.0.0.1:5300"]);
        let from_guest = |name: &str| guest.run(|| ask(&question(name, A)).expect("an answer"));
        let good = from_guest("Www.Example.Test");
        assert!(good.ends_with(&[192, 0, 2, 9]) && good[..2] == [0x12, 0x34], "{good:?}");
        assert_eq!(good[12..][..wire("Www.Example.Test").len()], wire("Www.Example.Test"));
        // None of the forged answers was believed.
        let forged = from_guest("forged.test");
        assert!(forged.ends_with(&[192, 0, 2, 9]) && code(&forged) == 0, "{forged:?}");
        assert_eq!(code(&from_guest("broken.test")), 2, "SERVFAIL is passed on");
        assert!(from_guest("deaf.test").ends_with(&[192, 0, 2, 9]), "it is asked again");
        // Too long for UDP: TC, and all of it over TCP.
        for name in ["long.test", "rude.test"] {
            let cut = from_guest(name);
            assert!(cut[2] & 2 != 0 && cut.len() < 512, "{name}: {cut:?}");
            let whole = guest.run(|| ask_tcp(&question(name, A)).expect("an answer over TCP"));
            assert_eq!((whole.len(), &whole[..2]), (12 + wire(name).len() + 4 + 300 * 16, &[0x12, 0x34][..]));
        }
        // With EDNS the client says how much it takes.
        let mut roomy = question("rude.test", A);
        roomy[11] = 1;
        roomy.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(guest.run(|| ask(&roomy).expect("an answer"))[7], 60);
        assert_eq!(guest.run(|| code(&ask_tcp(&question("liar.test", A)).expect("an answer"))), 2);
        assert_eq!(
            code(&ask(&question("www.example.test", A)).expect("an answer")),
            5,
            "the host has its own"
        );
        // Not a VM that may not go out. Our own names it knows.
        names.write(vec![item("dev2", &["10.213.7.2"], false)]);
        super::eventually("the refusal", || code(&from_guest("www.example.test")) == 5);
        assert!(from_guest("dev2.vm").ends_with(&[10, 213, 7, 2]));
        let asked = ASKED.load(Ordering::SeqCst);
        from_guest("secret.attacker.test");
        assert_eq!(ASKED.load(Ordering::SeqCst), asked, "it was passed on");
    });
}

#[test]
fn a_silent_resolver_costs_time_and_a_dead_one_none() {
    isolated("netd::dns::forward::a_silent_resolver_costs_time_and_a_dead_one_none", || {
        Upstream::start("127.0.0.1:5300");
        let names = Names::new(&[2]);
        // Nobody listens at the first one.
        let guest = world(&names, &["127.0.0.1:5999", "127.0.0.1:5300"]);
        // Ten questions: each would be waited for as long as a silent resolver is, so the quickest tells.
        let took = (0..10).map(|n| {
            let began = Instant::now();
            let answer = guest.run(|| ask(&question(&format!("a{n}.test"), A)).expect("an answer"));
            assert!(answer.ends_with(&[192, 0, 2, 9]));
            began.elapsed()
        });
        assert!(took.min().is_some_and(|quickest| quickest < PATIENCE / 2));
        // Each at its own port.
        let answer = guest.run(|| ask_tcp(&question("b.test", A)).expect("an answer"));
        assert!(answer.ends_with(&[192, 0, 2, 9]), "{answer:?}");
        // Both do not answer: SERVFAIL before the C library asks again, and nobody else waits meanwhile.
        for mute in [ask, ask_tcp] {
            std::thread::scope(|scope| {
                let (before, began) = (ASKED.load(Ordering::SeqCst), Instant::now());
                let waits = || guest.run(|| code(&mute(&question("mute.test", A)).expect("an answer")));
                // The quickest of them tells what the resolver does, and the others what the machine does.
                let waiting = [(); 3].map(|()| scope.spawn(move || (waits(), began.elapsed())));
                super::eventually("it is passed on", || ASKED.load(Ordering::SeqCst) > before);
                let mut answered = 0;
                while !waiting.iter().any(|thread| thread.is_finished()) {
                    assert_well();
                    answered += 1;
                }
                assert!(answered > 3, "others wait as well: {answered} were answered meanwhile");
                let ends = waiting.map(|thread| thread.join().expect("no panic"));
                assert!(ends.iter().all(|(code, _)| *code == 2), "{ends:?}");
                assert!(ends.iter().any(|(_, took)| *took < Duration::from_secs(5)), "{ends:?}");
            });
        }
    });
}

#[test]
fn one_guest_that_asks_without_end_leaves_room_for_others() {
    isolated("netd::dns::forward::one_guest_that_asks_without_end_leaves_room_for_others", || {
        Upstream::start("127.0.0.1:5300");
        let names = Names::new(&[2, 3]);
        ok("attach", &document(3));
        let (greedy, other) = (world(&names, &["127.0.0.1:5300"]), boot(&tap(3), 3));
        let refused = greedy.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(super::SERVER).expect("connected");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            let (mut packet, mut failed) = ([0; 512], 0);
            for n in 0..2000 {
                socket.send(&question(&format!("mute.{n}.test"), A)).expect("sent");
                if n % 20 == 19 {
                    while socket.recv(&mut packet).is_ok() {
                        failed += u32::from(code(&packet) == 2);
                        socket.set_nonblocking(true).expect("set");
                    }
                    socket.set_nonblocking(false).expect("set");
                }
            }
            failed
        });
        // How many of the refusals arrive is a matter of load: the card loses what it cannot take. One shows that the share was used up.
        assert!(refused > 0, "all of them were passed on");
        // As every resolver does the other guest asks again where no answer came: what the flood filled may have lost its packet.
        let once = || ask_for(&question("www.example.test", A), Duration::from_secs(2));
        let ask_again = || (0..20).find_map(|_| once().ok());
        let answer = other.run(|| ask_again().expect("an answer"));
        assert!(answer.ends_with(&[192, 0, 2, 9]), "{answer:?}");
        let open = std::fs::read_dir(format!("/proc/{}/fd", servers()[0])).expect("its files").count();
        assert!(open < 100, "{open} descriptors");
    });
}

#[test]
fn a_guest_that_may_not_go_out_asks_for_names_of_vms_and_no_others() {
    isolated("netd::dns::forward::a_guest_that_may_not_go_out_asks_for_names_of_vms_and_no_others", || {
        Upstream::start("127.0.0.1:5300");
        let names = Names::new(&[2]);
        let guest = world(&names, &["127.0.0.1:5300"]);
        names.write(vec![item("dev2", &["10.213.7.2"], false)]);
        super::eventually("the refusal", || {
            guest.run(|| code(&ask(&question("www.example.test", A)).expect("an answer")) == 5)
        });
        let asked = ASKED.load(Ordering::SeqCst);
        let mut document = ok("attach", &document(2));
        for (key, value) in [
            ("egress", json!({ "policy": "none", "allow": [] })),
            ("nat", json!(false)),
            (
                "egress",
                json!({ "policy": "allow", "allow": [{ "network": "192.0.2.7/32", "port": null, "protocol": null }] }),
            ),
        ] {
            document["vm"][key] = value;
            document = ok("update", &document);
            for ask in [ask, ask_tcp] {
                let own = guest.run(|| ask(&question("dev2.vm", A)).expect("an answer"));
                assert!(own.ends_with(&[10, 213, 7, 2]), "{key}: {own:?}");
                let others = guest.run(|| ask(&question("www.example.test", A)).expect("an answer"));
                assert_eq!(code(&others), 5, "{key}");
            }
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), asked, "a question was passed on");
    });
}

/// A kernel without the extension by which our resolver is told from others.
#[test]
fn without_nft_socket_all_works_but_that() {
    isolated("netd::dns::forward::without_nft_socket_all_works_but_that", || {
        replace_program(
            "nft",
            "#!/bin/sh\n[ \"$1\" = -f ] || exec @real@ \"$@\"\nscript=$(cat)\ncase $script in *'socket mark'*)\n\
             echo '/dev/stdin:1:1-9: Error: Could not process rule: No such file or directory' >&2\n\
             printf '%s\\n' \"$script\" | grep 'socket mark' >&2; exit 1;;\nesac\nprintf '%s\\n' \"$script\" | @real@ -f -\n",
        );
        let attached = ok("attach", &document(2));
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        ok("check", &attached);
        ok("attach", &document(3));
        let names = Names::new(&[2]);
        names.serve(&[]);
        let guest = boot(&tap(2), 2);
        let own = || guest.run(|| ask(&question("dev2.vm", A)));
        assert!(own().is_ok_and(|answer| answer.ends_with(&[10, 213, 7, 2])));
        let mut shut = attached.clone();
        shut["vm"]["egress"] = json!({ "policy": "none", "allow": [] });
        let shut = ok("update", &shut);
        guest.run(|| ask_for(&question("dev2.vm", A), SILENCE)).expect_err("the resolver is not known");
        ok("check", &shut);
    });
}
