//! Frames that a guest writes to its tap byte by byte: whatever the kernel takes for the tap itself, and not for the bridge, reaches
//! nothing of the host.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;

use super::guest::{open_tap, wait_until_forwarding};
use super::{STATE, document, ip, isolated, ok, sh, tap};

pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
/// An address of the host's on another link (TEST-NET-1).
const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 10, 213, 7, 1];
/// A VLAN without a number, which only has a priority: the kernel takes the tag off (IEEE 802.1Q).
const PRIORITY_TAG: [u8; 4] = [0x81, 0, 0, 0];
const PRIORITY_TAG_AD: [u8; 4] = [0x88, 0xa8, 0, 0];
const VLAN_5: [u8; 4] = [0x81, 0, 0, 5];
const PORT: u16 = 9999;

/// The groups of IEEE 802.1D that no bridge forwards, and some that others have reserved.
fn groups() -> Vec<[u8; 6]> {
    let reserved = (0..=0x2f).map(|last| [1, 0x80, 0xc2, 0, 0, last]);
    reserved.chain([[1, 0, 0x0c, 0xcc, 0xcc, 0xcc], [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]]).collect()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn udp(port: u16, data: &[u8]) -> Vec<u8> {
    udp_from(5555, port, data)
}

pub fn udp_from(from: u16, port: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    // A checksum of 0 is none, in IPv4.
    [&from.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat()
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut head = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0]].concat();
    head.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    [head, payload.to_vec()].concat()
}

/// An IPv6 packet of the protocol `kind`, whose checksum is at `at` of the payload.
fn ipv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let length = payload.len() as u16;
    let addresses = [from.octets(), to.octets()].concat();
    let sum = checksum(&[&addresses, &[0, 0], &length.to_be_bytes(), &[0, 0, 0, kind], &payload]);
    payload[at..at + 2].copy_from_slice(&sum);
    [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[kind, 255], &addresses, &payload].concat()
}

fn router_advertisement() -> Vec<u8> {
    let prefix: Ipv6Addr = "2001:db8:bad::".parse().expect("an address");
    // A router for 30 minutes; a prefix on the link to make addresses from.
    let mut body = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    body.extend(prefix.octets());
    body.extend([&[1, 1][..], &GUEST_MAC].concat());
    ipv6("fe80::bad".parse().expect("an address"), "ff02::1".parse().expect("an address"), 58, body, 2)
}

fn arp_request(about: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &GUEST_MAC, &GUEST.octets(), &[0; 6], &about.octets()].concat()
}

/// The guest's side of the tap.
pub struct Wire(File);

impl Wire {
    pub fn send(&mut self, to: [u8; 6], from: [u8; 6], tags: &[[u8; 4]], kind: u16, payload: &[u8]) {
        // The header of virtio-net in front of every frame, all zero.
        let frame = [&[0; 10][..], &to, &from, &tags.concat(), &kind.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).expect("written");
    }

    /// Whether a frame comes within a while that `is_wanted` is true of.
    fn receives(&mut self, is_wanted: impl Fn(&[u8]) -> bool) -> bool {
        let until = Instant::now() + Duration::from_millis(300);
        let mut frame = [0; 2048];
        while Instant::now() < until {
            match self.0.read(&mut frame) {
                Ok(n) if n > 10 && is_wanted(&frame[10..n]) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        false
    }
}

/// What has arrived at a service of the host's. The kernel delivers what is written to a tap before the write is done.
fn received(service: &UdpSocket) -> Vec<String> {
    let mut texts = Vec::new();
    let mut text = [0; 200];
    while let Ok((n, from)) = service.recv_from(&mut text) {
        texts.push(format!("{} from {}", String::from_utf8_lossy(&text[..n]), from.ip()));
    }
    texts
}

fn service(at: &str) -> UdpSocket {
    let service = UdpSocket::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"));
    service.set_nonblocking(true).expect("a setting");
    service
}

/// A host with another address, a VM that may reach nothing, and the guest's end of its tap.
fn host() -> Wire {
    sh("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
    ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
    ip(&["address", "add", &format!("{LAN}/24"), "dev", "lan0"]);
    ["lan0", "lan1"].iter().for_each(|link| drop(ip(&["link", "set", link, "up"])));
    let mut shut = document(2);
    shut["vm"]["egress"] = json!({ "policy": "none", "allow": [] });
    ok("attach", &shut);
    wire()
}

pub fn wire() -> Wire {
    use std::os::fd::AsFd;
    let wire = Wire(open_tap(&tap(2)));
    rustix::io::ioctl_fionbio(wire.0.as_fd(), true).expect("a setting");
    wait_until_forwarding(&tap(2));
    wire
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Every way to tag a frame.
const TAGS: [&[[u8; 4]]; 5] =
    [&[], &[PRIORITY_TAG], &[PRIORITY_TAG_AD], &[PRIORITY_TAG_AD, PRIORITY_TAG], &[VLAN_5]];

#[test]
fn no_packet_reaches_a_service_past_the_bridge() {
    isolated("netd::link_layer::no_packet_reaches_a_service_past_the_bridge", || {
        let mut wire = host();
        let names = service("0.0.0.0:53");
        wire.send(BRIDGE_MAC, GUEST_MAC, &[], 0x0800, &ipv4(GUEST, GATEWAY, &udp(53, b"?")));
        assert_eq!(received(&names).len(), 0, "it may ask banger's own resolver only");
        let (four, six) = (service(&format!("0.0.0.0:{PORT}")), service(&format!("[::]:{}", PORT - 1)));
        let elsewhere = Ipv4Addr::new(203, 0, 113, 7);
        let own: Ipv6Addr = "fe80::2".parse().expect("an address");
        let all_nodes: Ipv6Addr = "ff02::1".parse().expect("an address");
        for group in groups().into_iter().chain([BRIDGE_MAC]) {
            for tags in TAGS {
                for (from, to) in [
                    (GUEST, GATEWAY),
                    (GUEST, LAN),
                    (elsewhere, LAN),
                    (GUEST, Ipv4Addr::BROADCAST),
                    (LAN, LAN),
                ] {
                    let label = format!("{} {tags:x?} {from} to {to}", shown(group));
                    let packet = ipv4(from, to, &udp(PORT, label.as_bytes()));
                    wire.send(group, GUEST_MAC, tags, 0x0800, &packet);
                    wire.send(group, BRIDGE_MAC, tags, 0x0800, &packet);
                }
                let label = format!("{} {tags:x?} IPv6", shown(group));
                let packet = ipv6(own, all_nodes, 17, udp(PORT - 1, label.as_bytes()), 6);
                wire.send(group, GUEST_MAC, tags, 0x86dd, &packet);
            }
        }
        let arrived = [received(&four), received(&six)].concat();
        assert!(arrived.is_empty(), "{} arrived:\n{}", arrived.len(), arrived.join("\n"));
        // Its source address would be known for a neighbour behind the tap.
        wire.send([1, 0x80, 0xc2, 0, 0, 0x0e], [2, 0xba, 0xd, 0, 0, 1], &[], 0x0800, &[0; 60]);
        let known = String::from_utf8(sh("bridge fdb show").stdout).expect("text");
        assert!(!known.contains("02:ba:0d:00:00:01"), "{known}");
    });
}

#[test]
fn no_tap_takes_part_in_the_hosts_network() {
    isolated("netd::link_layer::no_tap_takes_part_in_the_hosts_network", || {
        let mut wire = host();
        for group in groups().into_iter().chain([BRIDGE_MAC]) {
            for tags in TAGS {
                wire.send(group, GUEST_MAC, tags, 0x86dd, &router_advertisement());
                wire.send(group, GUEST_MAC, tags, 0x0806, &arp_request(LAN));
            }
        }
        let answer = |frame: &[u8]| frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
        // What the bridge has answered, which a guest may ask.
        wire.receives(|_| false);
        for group in groups().into_iter().filter(|group| group[..3] == [1, 0x80, 0xc2] && group[5] < 0x10) {
            wire.send(group, GUEST_MAC, &[], 0x0806, &arp_request(LAN));
        }
        assert!(!wire.receives(answer), "the tap itself answered ARP");
        let said = |script: &str| String::from_utf8(sh(script).stdout).expect("text");
        assert_eq!(said("ip -6 route show table all | grep -e 'proto ra' -e 2001:db8:bad"), "");
        assert_eq!(said("ip -6 address | grep -e 2001:db8:bad"), "");
        assert_eq!(said(&format!("ip -6 address show dev {}", tap(2))), "");
        assert_eq!(said(&format!("ip neigh show dev {}", tap(2))), "");
        // A kernel without dummy links does without the last.
        let links = [tap(2), format!("bgr{STATE}"), format!("bgd{STATE}")];
        let is_there = |link: &String| sh(&format!("ip link show {link}")).status.success();
        for link in links.into_iter().filter(is_there) {
            assert_eq!(said(&format!("cat /proc/sys/net/ipv6/conf/{link}/accept_ra")), "0\n", "{link}");
        }
    });
}

/// A tap that somebody has taken out of the bridge is shut as well.
#[test]
fn a_tap_that_is_no_port_any_more_reaches_nothing() {
    isolated("netd::link_layer::a_tap_that_is_no_port_any_more_reaches_nothing", || {
        let mut wire = host();
        ip(&["link", "set", &tap(2), "nomaster"]);
        let links: serde_json::Value =
            serde_json::from_slice(&ip(&["-j", "link", "show", &tap(2)])).expect("JSON");
        let octets: Vec<u8> = links[0]["address"]
            .as_str()
            .expect("an address")
            .split(':')
            .map(|pair| u8::from_str_radix(pair, 16).expect("a byte"))
            .collect();
        let mac: [u8; 6] = octets.try_into().expect("six bytes");
        let four = service(&format!("0.0.0.0:{PORT}"));
        for (from, to) in [(GUEST, GATEWAY), (GUEST, LAN), (Ipv4Addr::new(192, 0, 2, 77), LAN)] {
            wire.send(mac, GUEST_MAC, &[], 0x0800, &ipv4(from, to, &udp(PORT, b"?")));
            wire.send([0xff; 6], GUEST_MAC, &[], 0x0800, &ipv4(from, to, &udp(PORT, b"?")));
        }
        assert_eq!(received(&four), [""; 0]);
        wire.send([0xff; 6], GUEST_MAC, &[], 0x0806, &arp_request(LAN));
        assert!(!wire.receives(|frame| frame[12..14] == [8, 6]), "it answered ARP");
    });
}

#[test]
fn the_taps_ipv6_is_switched_off_again_where_somebody_switched_it_on() {
    isolated("netd::link_layer::the_taps_ipv6_is_switched_off_again_where_somebody_switched_it_on", || {
        let attached = ok("attach", &document(2));
        let setting = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap(2));
        assert_eq!(std::fs::read_to_string(&setting).expect("read"), "1\n");
        ok("check", &attached);
        // As NetworkManager does, some time after the attach: nothing is wrong with the network then.
        std::fs::write(&setting, "0").expect("written");
        ok("check", &attached);
        assert_eq!(ok("attach", &attached)["result"]["changed"], true);
        assert_eq!(std::fs::read_to_string(&setting).expect("read"), "1\n");
        ok("detach", &attached);
        // One of the pool's, whose link is made long before.
        ok("pool fill 1", &document(2));
        let waiting = format!("/proc/sys/net/ipv6/conf/bgq{STATE}00/disable_ipv6");
        assert_eq!(std::fs::read_to_string(waiting).expect("read"), "1\n");
        ok("attach", &document(2));
        assert_eq!(std::fs::read_to_string(&setting).expect("read"), "1\n");
        ok("detach", &document(2));
        ok("pool drain", &document(2));
    });
}
