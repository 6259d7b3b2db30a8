//! Published ports are held: nobody else listens on them, and nobody is cut off in silence.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};

use super::packets::listen;
use super::reach::{port, published};
use super::{ip, isolated, netd, ok, sh};
use crate::support::{SOON, assert_error, eventually};

/// The process that holds the ports of a VM: its number.
fn holder_of(attached: &Value) -> Option<String> {
    let name = attached["net"]["tap"].as_str().expect("a tap").replace("bgt", "bgp");
    let found = sh(&format!("grep -lx {name} /proc/[0-9]*/comm"));
    let paths = String::from_utf8(found.stdout).expect("text");
    let alive = |pid: &&str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.contains("State:\tZ")
    };
    paths.lines().filter_map(|path| path.split('/').nth(2)).find(alive).map(str::to_owned)
}

/// The ports of [`assert_held`].
fn three_ports() -> Value {
    json!([
        port(None, 8080, 80, "tcp"),
        port(Some("127.0.0.1"), 9090, 80, "tcp"),
        port(None, 5353, 53, "udp")
    ])
}

/// Whoever comes later gets none of them, whichever address and family it asks for; and the neighbours are free.
fn assert_held() {
    let taken = |result: std::io::Result<()>| result.is_err_and(|e| e.kind() == ErrorKind::AddrInUse);
    // As std does it, with SO_REUSEADDR.
    for at in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "0.0.0.0:9090", "127.0.0.1:9090", "[::]:9090"] {
        assert!(taken(TcpListener::bind(at).map(drop)), "{at}");
    }
    for at in ["0.0.0.0:5353", "127.0.0.1:5353", "[::]:5353"] {
        assert!(taken(UdpSocket::bind(at).map(drop)), "{at}");
    }
    for at in ["127.0.0.2:9090", "0.0.0.0:5353"] {
        TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
}

fn assert_free() {
    for at in ["0.0.0.0:8080", "127.0.0.1:9090"] {
        TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    UdpSocket::bind("0.0.0.0:5353").expect("it is free");
}

#[test]
fn a_published_port_is_held_as_long_as_it_is_published() {
    isolated("netd::held::a_published_port_is_held_as_long_as_it_is_published", || {
        let mut document = published(2, three_ports());
        document["vm"]["owner_uid"] = json!(61000);
        let attached = ok("attach", &document);
        assert_held();
        // Not by a process that could do anything.
        let holder = holder_of(&attached).expect("a process");
        let status = std::fs::read_to_string(format!("/proc/{holder}/status")).expect("it is there");
        for line in
            ["Uid:\t61000\t61000\t61000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Groups:\t \n"]
        {
            assert!(status.contains(line), "{line}: {status}");
        }
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        assert_eq!(holder_of(&attached), Some(holder));
        // Detached, they are free at once; and attached again.
        for _ in 0..3 {
            ok("detach", &attached);
            assert_free();
            ok("attach", &document);
            assert_held();
        }
        // So they are where the tap goes by itself, or back to the pool.
        ip(&["link", "del", attached["net"]["tap"].as_str().expect("a tap")]);
        ok("attach", &document);
        assert_held();
        ok("detach", &document);
        ok("pool fill 1", &document);
        ok("attach", &document);
        assert_held();
        ok("detach", &document);
        assert_free();
        assert_eq!(holder_of(&attached), None);
    });
}

#[test]
fn a_port_that_is_not_held_any_more_is_noticed_and_mended_or_named() {
    isolated("netd::held::a_port_that_is_not_held_any_more_is_noticed_and_mended_or_named", || {
        let attached = ok("attach", &published(2, three_ports()));
        let end = || {
            let holder = holder_of(&attached).expect("a process");
            assert!(sh(&format!("kill -9 {holder}")).status.success());
            eventually("it has ended", || holder_of(&attached).is_none());
        };
        end();
        let error = assert_error(&netd("check", &attached), 1, "conflict");
        let differences = error["error"]["details"]["differences"].to_string();
        assert!(differences.contains("nothing holds the published port 8080:80"), "{differences}");
        assert_eq!(ok("attach", &attached)["result"]["changed"], true);
        ok("check", &attached);
        assert_held();
        // Somebody was faster.
        end();
        let service = listen("127.0.0.1:9090");
        let error = assert_error(&netd("attach", &attached), 1, "in-use");
        let own = format!("(process {})", std::process::id());
        assert!(error["error"]["details"]["holder"].to_string().contains(&own), "{error}");
        drop(service);
        ok("attach", &attached);
        // Without the rules it is no service, and keeps nobody waiting.
        assert!(sh("nft flush ruleset").status.success());
        let mut heard = TcpStream::connect("127.0.0.1:8080").expect("somebody listens");
        heard.set_read_timeout(Some(SOON)).expect("a timeout");
        assert!(!matches!(heard.read(&mut [0; 1]), Ok(1..)), "it says something");
        // One that does not end by itself is ended.
        let holder = holder_of(&attached).expect("a process");
        assert!(sh(&format!("kill -STOP {holder}")).status.success());
        ok("detach", &attached);
        eventually("it has ended", || holder_of(&attached).is_none());
        assert_free();
    });
}
