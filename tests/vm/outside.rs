//! A host and the world outside of it, each a network namespace of its own, for what guests reach and who reaches them.

use std::fs;
use std::net::UdpSocket;

use nix::sched::{CloneFlags, unshare};

use crate::guest::Namespace;
use crate::home::{Home, said};
use crate::support;

/// Runs `work` on the host, 198.51.100.2, which has the outside, 198.51.100.1, for its way out and its resolver. Every name there is
/// 192.0.2.9.
pub fn beside(home: &Home, work: impl FnOnce(&Namespace) + Send) {
    let (host, ()) = Namespace::new(|| ());
    host.run(|| {
        let (outside, ()) = Namespace::new(|| ());
        host.sh("ip link set lo up; ip link add up0 type veth peer name up1");
        outside.take_link("up1");
        host.sh("ip address add 198.51.100.2/24 dev up0; ip link set up0 up; ip route add default via 198.51.100.1");
        outside.sh("ip link set lo up; ip address add 198.51.100.1/24 dev up1; ip link set up1 up");
        outside.run(|| resolver("198.51.100.1:53"));
        resolve_by(home, "198.51.100.1");
        work(&outside);
    });
}

/// Has this thread's programs, and what they start, ask the resolver `address` as the host's.
fn resolve_by(home: &Home, address: &str) {
    let file = home.path("resolv.conf");
    fs::write(&file, format!("nameserver {address}\n")).expect("written");
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let script = r#"mount --make-rprivate / && mount --bind "$1" "$(readlink -f /etc/resolv.conf)""#;
    let mounted = support::run(support::command("sh").args(["-c", script, "sh"]).arg(&file), b"");
    assert!(mounted.status.success(), "{}", said(&mounted));
}

/// A resolver for which every name is 192.0.2.9, until the process ends.
fn resolver(at: &str) {
    let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"));
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut packet) {
            let end = 12 + packet[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
            let mut reply = packet[..end].to_vec();
            // The header's flags and counts: an answer, with one record where an IPv4 address (type 1) is asked for.
            let known = packet[end - 4..end - 2] == [0, 1];
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
            if known {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
            }
            drop(socket.send_to(&reply, from));
        }
    });
}
