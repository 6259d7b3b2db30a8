//! What a real guest reaches and who reaches it, through banger alone, and the change of that while it runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::guest::Namespace;
use crate::home::{Home, said};
use crate::outside;
use crate::support::{self, SOON, command};

/// Serves connections with a word until the process ends.
fn serve(at: &str) {
    let listener = TcpListener::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.expect("a connection").write_all(b"outside\n"));
        }
    });
}

/// What a server says.
fn said_by(at: &str) -> std::io::Result<String> {
    let to: SocketAddr = at.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// A server in the guest that greets whoever connects to port 80.
const SERVER: &str = r#"perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die;
while ($c = $s->accept) { print $c "inside\n"; close $c }' >/dev/null 2>&1 &
for n in $(seq 400); do (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null && exit 0; sleep 0.1; done; exit 1"#;

/// Runs a script in the guest's shell.
fn inside(home: &Home, name: &str, script: &str) -> (Option<i32>, String) {
    let output = home.run(&["vm", "exec", name, "--", "bash", "-c", script]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Connects from the guest: what it hears, or that it was refused, and not left waiting.
fn asks(home: &Home, name: &str, address: &str, port: u16) -> String {
    let script = format!("timeout 30 bash -c 'exec 3<>/dev/tcp/{address}/{port} && cat <&3' 2>/dev/null");
    match inside(home, name, &script) {
        (Some(0), text) => text,
        (Some(124), _) => "left waiting".to_owned(),
        _ => "refused".to_owned(),
    }
}

/// Whether the guest's own C library finds its VM's name, and one of the outside's.
fn resolves(home: &Home, name: &str) -> [bool; 2] {
    let own = inside(home, name, &format!("getent ahostsv4 {name}.vm"));
    let others = inside(home, name, "timeout 20 getent ahostsv4 www.example.test");
    assert!(others.0 != Some(0) || others.1.starts_with("192.0.2.9 "), "{others:?}");
    [own.0 == Some(0) && own.1.starts_with("10."), others.0 == Some(0)]
}

#[test]
fn a_guest_reaches_what_it_may_and_is_reached_where_it_is_published() {
    let Some(home) = Home::new() else { return };
    outside::beside(&home, |outside| {
        outside.sh("for a in 203.0.113.5 169.254.169.254; do ip address add $a/32 dev lo; done");
        outside.run(|| {
            ["198.51.100.1:80", "198.51.100.1:81", "203.0.113.5:80", "169.254.169.254:80"].map(serve)
        });
        scenario(&home, outside);
    });
    home.assert_clean();
}

fn scenario(home: &Home, outside: &Namespace) {
    let repo = home.repo("repo");
    let egress = "allow=198.51.100.1:80";
    let arguments = ["vm", "run", "--name", "web", "--net", "tap", "-p", "8080:80", "--egress", egress];
    let output = home.run(&[&arguments[..], &[repo.to_str().unwrap(), "--", "bash", "-c", SERVER]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    // Who reaches it: the host by localhost, others by the host's address, and where that is told.
    assert_eq!(said_by("127.0.0.1:8080").expect("from localhost"), "inside\n");
    assert_eq!(outside.run(|| said_by("198.51.100.2:8080")).expect("from the LAN"), "inside\n");
    let list = home.run(&["ps"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("8080:80"), "{}", said(&list));
    let taken =
        home.run(&["vm", "run", "--net", "tap", "-p", "8080:80", repo.to_str().unwrap(), "--", "true"]);
    assert_eq!(taken.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("VM web"), "{}", said(&taken));

    // What it reaches: what is listed, and nothing else.
    assert_eq!(asks(home, "web", "198.51.100.1", 80), "outside\n");
    for (address, port) in
        [("198.51.100.1", 81), ("203.0.113.5", 80), ("169.254.169.254", 80), ("2001:db8::1", 80)]
    {
        assert_eq!(asks(home, "web", address, port), "refused", "{address}:{port}");
    }
    let network = home.json(&["vm", "net", "web"]);
    let rules = network["rules"].as_array().expect("a list");
    // A guest that is emulated on a busy machine may ask again before it sees that it was refused.
    let count = |rule: &str| rules.iter().find(|r| r["rule"] == rule).and_then(|r| r["packets"].as_u64());
    assert!(count("refused: egress").is_some_and(|n| n >= 2), "{network}");
    assert!(count("refused: link-local services").is_some_and(|n| n >= 1), "{network}");
    assert_eq!(resolves(home, "web"), [true, false]);

    // Changed while it runs, and for good.
    let change = |args: &[&str]| {
        let output = home.run(&[&["vm", "set", "web"], args].concat());
        assert!(output.status.success(), "{}", said(&output));
    };
    change(&["--egress", "none"]);
    assert_eq!(asks(home, "web", "198.51.100.1", 80), "refused");
    assert_eq!(resolves(home, "web"), [true, false]);
    assert_eq!(outside.run(|| said_by("198.51.100.2:8080")).expect("published all the same"), "inside\n");
    change(&["--egress", "open"]);
    assert_eq!(asks(home, "web", "203.0.113.5", 80), "outside\n");
    assert_eq!(resolves(home, "web"), [true, true]);
    change(&["--nat", "off"]);
    assert_eq!(asks(home, "web", "203.0.113.5", 80), "refused");
    let shown = home.json(&["vm", "show", "web"]);
    for section in ["vm", "net"] {
        let (nat, policy) = (&shown[section]["nat"], &shown[section]["egress"]["policy"]);
        assert_eq!((nat, policy), (&false.into(), &"open".into()), "{shown}");
    }
    let deleted = home.run(&["vm", "delete", "--force", "web"]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    let links = support::run(command("ip").args(["-o", "link"]), b"");
    assert!(!String::from_utf8_lossy(&links.stdout).contains("bg"), "{}", said(&links));
    let rules = support::run(command("nft").args(["list", "ruleset"]), b"");
    assert_eq!(String::from_utf8_lossy(&rules.stdout), "");
}

#[test]
fn user_networking_publishes_ports_and_can_be_closed() {
    let Some(home) = Home::new() else { return };
    let (host, ()) = Namespace::new(|| ());
    host.run(|| {
        host.sh("ip link set lo up; ip link add up0 type dummy 2>/dev/null || ip link add up0 type bridge
             ip address add 198.51.100.2/24 dev up0; ip link set up0 up");
        serve("198.51.100.2:80");
        let repo = home.repo("repo");
        let arguments =
            ["vm", "run", "--name", "web", "--net", "user", "-p", "127.0.0.1:8080:80", "--egress", "none"];
        let output =
            home.run(&[&arguments[..], &[repo.to_str().unwrap(), "--", "bash", "-c", SERVER]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(said_by("127.0.0.1:8080").expect("from localhost"), "inside\n");
        said_by("198.51.100.2:8080").expect_err("published on localhost only");
        for (address, port) in [("198.51.100.2", 80), ("10.0.2.2", 8080)] {
            assert_eq!(asks(&home, "web", address, port), "refused", "{address}:{port}");
        }
        // The holder of a port is told whichever way it is held.
        let mut plan = command(env!("CARGO_BIN_EXE_banger"));
        plan.args(["vm", "plan", "two", "--net", "user", "-p", "8080:80"])
            .env("BANGER_STATE_DIR", home.state());
        let planned = support::run(&mut plan, b"");
        let attached = support::run(&mut home.program("banger-netd", &["attach"]), &planned.stdout);
        let error = support::assert_error(&attached, 1, "in-use");
        let id = home.json(&["vm", "show", "web"])["vm"]["id"].as_str().expect("an id").to_owned();
        assert!(error["error"]["details"]["holder"].as_str().is_some_and(|h| h.contains(&id)), "{error}");
        // It cannot be changed while it runs, and nothing is recorded then.
        let refused = home.run(&["vm", "set", "web", "--egress", "open"]);
        assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
        assert_eq!(home.json(&["vm", "show", "web"])["vm"]["egress"]["policy"], "none");
        let deleted = home.run(&["vm", "delete", "--force", "web", "two"]);
        assert!(deleted.status.success(), "{}", said(&deleted));
    });
    home.assert_clean();
}
