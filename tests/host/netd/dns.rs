//! The resolver on a real bridge: `banger-netd serve`, asked by hand and by real clients.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::boot;
use super::{NETD, STATE, document, document_in, in_turn, ip, isolated, ok, sh, tap};
use crate::support::{self, SOON, assert_error, command, eventually, record, run};

mod forward;
mod hook;
mod hostile;
mod managers;
mod names;

/// Where the resolver answers.
const SERVER: &str = "10.213.7.1:53";
/// How long an answer may take that comes.
const WAIT: Duration = SOON;
/// How long one is waited for that is not to come.
const SILENCE: Duration = Duration::from_millis(400);

/// Record types.
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// A names file as the dispatcher keeps it.
pub struct Names {
    _dir: TempDir,
    path: PathBuf,
}

impl Names {
    /// Of `dev<n>` with the address 10.213.7.n each.
    fn new(numbers: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("dns/names");
        fs::create_dir(dir.path().join("dns")).expect("the directory");
        let names = Self { _dir: dir, path };
        let items = numbers.iter().map(|n| item(&format!("dev{n}"), &[&format!("10.213.7.{n}")], true));
        names.write(items.collect());
        names
    }

    /// Replaces the file in one step.
    fn write(&self, items: Vec<Value>) {
        let text = json!({ "schema": "banger.names/1", "state_id": STATE, "items": items }).to_string();
        fs::write(self.path.with_extension("new"), text).expect("written");
        fs::rename(self.path.with_extension("new"), &self.path).expect("renamed");
    }

    fn serve_command(&self, more: &[&str]) -> std::process::Command {
        let mut command = command(NETD);
        command.args(["serve", "--background", "--names"]).arg(&self.path).args(more);
        command
    }

    fn try_serve(&self, more: &[&str]) -> Output {
        run(&mut self.serve_command(more), b"")
    }

    #[track_caller]
    fn serve(&self, more: &[&str]) -> Value {
        let output = in_turn(|| self.try_serve(more));
        let record = record(&output);
        assert!(output.status.success(), "{record}");
        record
    }
}

fn item(name: &str, addresses: &[&str], forward: bool) -> Value {
    json!({ "name": name, "addresses": addresses, "forward": forward })
}

/// A name as it stands in a packet.
fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A question with the id 0x1234 and RD.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend(wire(name));
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Sends `packet` over UDP and gives the answer.
fn ask(packet: &[u8]) -> std::io::Result<Vec<u8>> {
    ask_for(packet, WAIT)
}

/// The same, and an answer is waited for no longer than `patience`.
fn ask_for(packet: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(packet)?;
    let mut answer = vec![0; 65536];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 15
}

/// Whether the resolver still knows what it should.
#[track_caller]
fn assert_well() {
    let answer = ask(&question("dev2.vm", A)).expect("the resolver answers");
    assert!(code(&answer) == 0 && answer.ends_with(&[10, 213, 7, 2]), "{answer:?}");
}

/// The processes that serve, and those that are just about to be gone: a process loses its command line before its files, and so before
/// its locks.
fn servers() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let serves = |pid: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let goes = || {
            // A zombie without other threads has nothing any more; nobody waits for it here.
            let stat = read("stat");
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            let gone = threads < 2 && stat.windows(4).any(|part| part == b") Z ");
            let name = b"(banger-netd)";
            stat.windows(name.len()).any(|part| part == name) && read("cmdline").is_empty() && !gone
        };
        read("cmdline").starts_with(b"banger-netd\0serve\0") || goes()
    };
    pids.filter(serves).collect()
}

fn dig(args: &str) -> String {
    let output = sh(&format!("dig +tries=1 +time={} {args}", SOON.as_secs()));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn has_clients() -> bool {
    let there = ["dig", "curl", "getent"].into_iter().all(support::has);
    support::require("host", there, "needs dig, curl and getent")
}

#[test]
fn real_clients_on_the_host_and_in_a_guest_resolve_names() {
    isolated("netd::dns::real_clients_on_the_host_and_in_a_guest_resolve_names", || {
        if !has_clients() {
            return;
        }
        for n in [2, 3] {
            ok("attach", &document(n));
        }
        let names = Names::new(&[2, 3]);
        names.write(vec![
            item("dev2", &["10.213.7.2"], true),
            item("dev3", &["10.213.7.3", "fd00::3", "192.0.2.1", "2001:db8::1"], true),
        ]);
        let served = names.serve(&[]);
        assert_eq!((&served["address"], &served["changed"]), (&json!("10.213.7.1"), &json!(true)));
        let (two, three) = (boot(&tap(2), 2), boot(&tap(3), 3));

        let at = "@10.213.7.1";
        assert_eq!(dig(&format!("+short {at} dev2.vm")), "10.213.7.2");
        assert_eq!(dig(&format!("+short {at} dev3.vm AAAA")), "fd00::3", "others' addresses are not told");
        assert_eq!(dig(&format!("+short {at} dev3.vm A")), "10.213.7.3");
        assert_eq!(dig(&format!("+short +tcp {at} DEV3.VM")), "10.213.7.3");
        assert_eq!(dig(&format!("+short {at} -x 10.213.7.3")), "dev3.vm.");
        let said = dig(&format!("{at} dEv2.vM"));
        for part in
            ["status: NOERROR", "dEv2.vM.\t\t5\tIN\tA\t10.213.7.2", "flags: qr aa rd ra;", "udp: 1232"]
        {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        for (what, status, authority) in [
            ("dev9.vm", "NXDOMAIN", "vm.\t"),
            ("x.dev2.vm", "NXDOMAIN", "vm.\t"),
            ("dev2.vm AAAA", "NOERROR", "vm.\t"),
            ("dev2.vm HTTPS", "NOERROR", "vm.\t"),
            ("vm NS", "NOERROR", "vm.\t"),
            ("-x 10.213.7.99", "NXDOMAIN", "7.213.10.in-addr.arpa.\t"),
            ("2.7.213.10.in-addr.arpa A", "NOERROR", "7.213.10.in-addr.arpa.\t"),
        ] {
            let said = dig(&format!("{at} {what}"));
            let found =
                said.contains(&format!("status: {status}")) && said.contains("ANSWER: 0, AUTHORITY: 1");
            let soa = said.lines().any(|line| line.starts_with(authority) && line.contains("\tSOA\t"));
            assert!(found && soa, "{what}: {said}");
        }
        assert!(dig(&format!("{at} vm SOA")).contains("ANSWER: 1, AUTHORITY: 0"));
        assert!(dig(&format!("{at} +dnssec dev2.vm")).contains("flags: do;"));
        assert!(dig(&format!("{at} +edns=1 +noednsneg dev2.vm")).contains("status: BADVERS"));
        for (what, status) in [
            ("+opcode=status dev2.vm", "NOTIMP"),
            ("+opcode=notify dev2.vm", "NOTIMP"),
            ("-c CH version.bind TXT", "REFUSED"),
            ("vm AXFR +tcp +comments", "REFUSED"),
            ("example.org", "REFUSED"),
            ("+norec example.org", "REFUSED"),
        ] {
            let said = dig(&format!("{at} {what}"));
            assert!(
                said.contains(&format!("status: {status}")) || said.contains("Transfer failed"),
                "{what}: {said}"
            );
        }

        // The C library, and a program that uses it: on the host and in a guest. The guest's server has a name.
        fs::write("/run/resolv.conf", "nameserver 10.213.7.1\n").expect("written");
        fs::write("/run/nsswitch.conf", "hosts: files dns\n").expect("written");
        for file in ["resolv.conf", "nsswitch.conf"] {
            assert!(sh(&format!("mount --bind /run/{file} $(readlink -f /etc/{file})")).status.success());
        }
        three.run(|| {
            std::thread::spawn(|| {
                let listener = std::net::TcpListener::bind("0.0.0.0:80").expect("a port");
                for stream in listener.incoming().flatten() {
                    use std::io::{Read, Write};
                    let mut stream = stream;
                    drop(stream.read(&mut [0; 4096]));
                    drop(stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
                }
            })
        });
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let getent = "getent ahostsv4 dev3.vm | head -n 1 | cut -d ' ' -f 1; getent hosts 10.213.7.2";
        let expected = "10.213.7.3\n10.213.7.2      dev2.vm";
        assert_eq!(text(&sh(getent)), expected);
        assert_eq!(text(&two.run(|| sh(getent))), expected);
        assert_eq!(text(&sh("curl -sS -m 45 http://dev3.vm/")), "hello");

        // What changes is known at once.
        names.write(vec![item("new", &["10.213.7.2"], true)]);
        eventually("the new name", || dig(&format!("+short {at} new.vm")) == "10.213.7.2");
        assert!(dig(&format!("{at} dev2.vm")).contains("status: NXDOMAIN"));
        // What is no names file changes nothing.
        for bad in ["", "{", "{\"schema\":\"banger.names/2\",\"state_id\":\"0a1b2c3d\",\"items\":[]}"] {
            fs::write(names.path.with_extension("new"), bad).expect("written");
            fs::rename(names.path.with_extension("new"), &names.path).expect("renamed");
            std::thread::sleep(Duration::from_millis(60));
            assert_eq!(dig(&format!("+short {at} new.vm")), "10.213.7.2", "{bad:?}");
        }
    });
}

#[test]
fn it_lives_as_long_as_a_vm_is_attached_and_runs_once() {
    isolated("netd::dns::it_lives_as_long_as_a_vm_is_attached_and_runs_once", || {
        let names = Names::new(&[2, 3]);
        assert_error(&names.try_serve(&[]), 3, "not-found");
        eventually("the end of what did not serve", || servers().is_empty());
        ok("attach", &document(2));
        ok("attach", &document(3));
        let at_once = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| names.serve(&[]))).collect();
            let served = threads.into_iter().map(|t| t.join().expect("no panic"));
            served.filter(|record| record["changed"] == true).count()
        });
        assert_eq!(at_once, 1);
        eventually("one that serves", || servers().len() == 1);
        assert_well();

        // It has given up what it could.
        let status = fs::read_to_string(format!("/proc/{}/status", servers()[0])).expect("its status");
        assert!(status.starts_with("Name:\tbanger-netd\n"), "{status}");
        for line in ["Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1"]
        {
            assert!(status.contains(line), "{line} is not in {status}");
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set}: {status}");
        }
        let groups = status.lines().find(|line| line.starts_with("Groups:")).expect("its groups");
        assert_eq!(groups.trim(), "Groups:");

        ok("detach", &document(2));
        std::thread::sleep(Duration::from_millis(50));
        assert_well();
        // Killed, it comes back; the lock knows.
        sh(&format!("kill -9 {}", servers()[0]));
        eventually("death", || servers().is_empty());
        assert_eq!(names.serve(&[])["changed"], true);
        assert_well();
        // Told to end.
        sh(&format!("kill {}", servers()[0]));
        eventually("the end", || servers().is_empty());
        names.serve(&[]);
        ok("detach", &document(3));
        eventually("the end with the last VM", || servers().is_empty());
        assert_error(&names.try_serve(&[]), 3, "not-found");
    });
}

#[test]
fn a_vm_that_comes_while_the_last_one_goes_is_served() {
    isolated("netd::dns::a_vm_that_comes_while_the_last_one_goes_is_served", || {
        let names = Names::new(&[2]);
        for round in 0..60 {
            ok("attach", &document(2));
            names.serve(&[]);
            assert_well();
            ok("detach", &document(2));
            eventually(&format!("one server at most in round {round}"), || servers().len() < 2);
        }
        eventually("the end", || servers().is_empty());
        // On one bridge: the one VM comes, serve is asked for, and the other goes at the same time.
        ok("attach", &document(3));
        names.serve(&[]);
        for (came, went) in [(2, 3), (3, 2)].into_iter().cycle().take(20) {
            std::thread::scope(|scope| {
                scope.spawn(move || ok("detach", &document(went)));
                ok("attach", &document(came));
                names.serve(&[]);
            });
            assert_well();
            // The one that gave way has let go of its lock, and may take a moment to be gone.
            eventually("one server", || servers().len() == 1);
        }
    });
}

/// Its threads hold the port until the last instant, and the next one begins only then, however long it takes.
#[test]
fn one_that_is_slow_to_end_is_waited_for() {
    isolated("netd::dns::one_that_is_slow_to_end_is_waited_for", || {
        if !support::require("host", support::has("strace"), "needs strace") {
            return;
        }
        ok("attach", &document(2));
        let names = Names::new(&[2]);
        let slowly =
            ["-f", "-qq", "-o", "/dev/null", "-e", "inject=exit_group:delay_enter=2s", NETD, "serve"];
        let mut slow = command("strace");
        slow.args(slowly).arg("--names").arg(&names.path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut slow = slow.spawn().expect("strace can be started");
        slow.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it says that it serves");
        ok("detach", &document(2));
        ok("attach", &document(2));
        assert_eq!(names.serve(&[])["changed"], true);
        assert_well();
        assert!(slow.wait().expect("it ends").success());
    });
}

#[test]
fn what_a_user_behind_sudo_names_is_read_as_that_user() {
    isolated("netd::dns::what_a_user_behind_sudo_names_is_read_as_that_user", || {
        let names = Names::new(&[2]);
        let mut mine = document(2);
        mine["vm"]["owner_uid"] = json!(61000);
        ok("attach", &mine);
        let as_user = |uid: &str, names: &Names| run(names.serve_command(&[]).env("SUDO_UID", uid), b"");
        // Root's directory, which the user cannot enter.
        fs::set_permissions(names._dir.path(), fs::Permissions::from_mode(0o700)).expect("set");
        assert_error(&as_user("61000", &names), 5, "denied");
        let chown = |uid: &str| {
            assert!(sh(&format!("chown -R {uid} {}", names._dir.path().display())).status.success())
        };
        chown("61001");
        // Another user's bridge.
        assert_error(&as_user("61001", &names), 5, "denied");
        chown("61000");
        // A link to a secret, a pipe that nobody writes, a device, too much.
        let secret = "/run/secret";
        fs::write(secret, fs::read(&names.path).expect("read")).expect("written");
        assert!(sh(&format!("chmod 600 {secret}")).status.success());
        for make in [
            format!("ln -sf {secret} F"),
            "mkfifo F".to_owned(),
            "mknod F c 1 5".to_owned(),
            "mkdir F".to_owned(),
            "head -c 3000000 /dev/zero > F".to_owned(),
            "echo '{}' > F".to_owned(),
        ] {
            let path = names.path.display();
            assert!(sh(&format!("rm -rf {path}; {}", make.replace('F', &path.to_string()))).status.success());
            let output = as_user("61000", &names);
            assert!(matches!(output.status.code(), Some(2 | 5)), "{make}: {}", record(&output));
            assert!(sh(&format!("rm -rf {path}")).status.success());
        }
        eventually("the end of what did not serve", || servers().is_empty());
        names.write(vec![item("dev2", &["10.213.7.2"], true)]);
        chown("61000");
        assert!(as_user("61000", &names).status.success());
        assert_well();
    });
}

#[test]
fn a_taken_port_is_a_conflict_and_two_state_directories_have_a_resolver_each() {
    isolated("netd::dns::a_taken_port_is_a_conflict_and_two_state_directories_have_a_resolver_each", || {
        ok("attach", &document(2));
        let names = Names::new(&[2]);
        let other = UdpSocket::bind("0.0.0.0:53").expect("free");
        let error = assert_error(&names.try_serve(&[]), 1, "conflict");
        assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("10.213.7.1")), "{error}");
        drop(other);
        names.serve(&[]);
        ok("attach", &document_in("ffffffff", "99.1", 2));
        let theirs = Names::new(&[]);
        let text = json!({ "schema": "banger.names/1", "state_id": "ffffffff",
            "items": [item("dev2", &["10.99.1.2"], true), item("stolen", &["10.213.7.2"], true)] });
        fs::write(&theirs.path, text.to_string()).expect("written");
        assert_eq!(theirs.serve(&[])["address"], "10.99.1.1");
        eventually("two that serve", || servers().len() == 2);
        assert_well();
        let ask_theirs = |name| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(WAIT)).expect("a timeout");
            socket.send_to(&question(name, A), "10.99.1.1:53").expect("sent");
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).expect("an answer");
            answer[..length].to_vec()
        };
        assert!(ask_theirs("dev2.vm").ends_with(&[10, 99, 1, 2]));
        assert_eq!(ask_theirs("stolen.vm")[6..8], [0, 0], "an address of another bridge is not told");
    });
}

#[test]
fn nobody_outside_is_answered() {
    isolated("netd::dns::nobody_outside_is_answered", || {
        ok("attach", &document(2));
        Names::new(&[2]).serve(&[]);
        assert_well();
        let (outside, ()) = super::guest::Namespace::new(|| ());
        ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
        outside.take_link("lan1");
        ip(&["addr", "add", "198.51.100.1/24", "dev", "lan0"]);
        ip(&["link", "set", "lan0", "up"]);
        outside.sh(
            "ip link set lo up; ip addr add 198.51.100.2/24 dev lan1; ip addr add 10.213.7.66/32 dev lan1
             ip link set lan1 up; ip route add 10.213.7.1/32 via 198.51.100.1",
        );
        assert!(sh("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/lan0/rp_filter").status.success());
        let server: SocketAddr = SERVER.parse().expect("an address");
        // From its own address, and with one that a guest could have.
        for from in ["198.51.100.2", "10.213.7.66"] {
            let heard = outside.run(|| {
                let socket = UdpSocket::bind((from.parse::<IpAddr>().expect("one"), 0)).expect("a socket");
                socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
                socket.send_to(&question("dev2.vm", A), server).expect("sent");
                socket.recv(&mut [0; 512])
            });
            assert!(heard.is_err(), "{from} got an answer");
        }
        // The packet does come in: somebody who listens on that port of the same address would get it.
        let said = outside.run(|| {
            use std::io::Write;
            let mut stream = TcpStream::connect_timeout(&server, SILENCE)?;
            stream.set_read_timeout(Some(SILENCE))?;
            let packet = question("dev2.vm", A);
            stream.write_all(&(packet.len() as u16).to_be_bytes())?;
            stream.write_all(&packet)?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).map(|_| all)
        });
        assert!(said.is_err() || said.is_ok_and(|all| all.is_empty()), "an outsider got an answer over TCP");
        // A port of 0 and a source that is nobody's are not answered either, and do no harm.
        assert_well();
    });
}
