//! A guest that lies: in the place of its shell a program that answers what it likes, in the place of its sshd one that speaks no
//! SSH. Whatever it says, banger-ws ends soon, says what was wrong, and leaves no patch.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::guest::{Guest, said};
use crate::support::{self, SOON};

/// A guest with a workspace, that then turns.
struct Turned {
    guest: Guest,
    record: Value,
}

impl Turned {
    fn new() -> Option<Self> {
        let guest = Guest::new()?;
        let repo = guest.repo();
        let path = guest.path("guest");
        let args = ["prepare", "--repo", repo.to_str().unwrap(), "--guest-path", path.to_str().unwrap()];
        let record = support::record(&guest.ws(&args, &guest.record()));
        Some(Self { guest, record })
    }

    /// From now on every command of ours is answered by `answer`, bash. It knows the nonce, as a real guest does: `say WORD` gives
    /// a verdict, `begin` the one that events follow, `finished` the event that ends them; `events` are in a file.
    fn answers(&self, answer: &str) {
        let program = self.guest.path("hostile");
        let text = format!(
            "#!/bin/bash\n\
             nonce=$(printf %s \"$SSH_ORIGINAL_COMMAND\" | sed -n \"1s/.*nonce[^0-9a-f]*\\([0-9a-f]\\{{8,\\}}\\).*/\\1/p\")\n\
             say() {{ printf '\\036banger:%s:%s %s\\n' \"$nonce\" \"$1\" $$; }}\n\
             begin() {{ cat >/dev/null; say ready; }}\n\
             events() {{ cat {events}; }}\n\
             finished() {{ printf '\\010\\0\\0\\0003:end1:0'; }}\n{answer}\n",
            events = self.guest.path("events").display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // sshd reads the key's options anew for each login.
        let keys = self.guest.path("state/ssh/id_ed25519.pub");
        let line = fs::read_to_string(&keys).unwrap();
        let key = line[line.find("ssh-ed25519").unwrap()..].to_owned();
        fs::write(&keys, format!("command=\"{}\" {key}", program.display())).unwrap();
    }

    /// What `events` says from now on.
    fn sends(&self, events: &[u8]) {
        fs::write(self.guest.path("events"), events).unwrap();
    }

    /// Runs banger-ws, which is to fail soon, with `words` in its message or causes, and without a raw control character anywhere.
    #[track_caller]
    fn refuses(&self, args: &[&str], words: &str) -> Output {
        let since = Instant::now();
        let output = self.guest.ws(args, &self.record);
        assert!(since.elapsed() < SOON, "{args:?} took {:?}", since.elapsed());
        let error = support::assert_error(&output, 1, "failed");
        assert!(error["error"].to_string().contains(words), "{words:?} is not in {error}");
        let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(!output.stderr.iter().any(control), "{}", said(&output));
        assert!(!self.guest.path("p.patch").exists());
        let left = fs::read_dir(self.guest.path("")).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.filter(|n| n.to_string_lossy().starts_with(".banger-")).count(), 0, "parts are left");
        output
    }
}

const EXPORT: [&str; 5] = ["export", "--output", "p.patch", "--max-patch-size", "1M"];

/// An event of these words, as banger-guest writes it.
fn event(words: &[&[u8]]) -> Vec<u8> {
    let words = words.iter().flat_map(|word| [format!("{}:", word.len()).as_bytes(), *word].concat());
    let words: Vec<u8> = words.collect();
    [&(words.len() as u32).to_le_bytes()[..], &words].concat()
}

/// A new file at `path` with the bytes `x`.
fn file(path: &str, mode: u32) -> Vec<u8> {
    let mode = mode.to_string();
    [event(&[b"file", b"0", path.as_bytes(), mode.as_bytes(), b"", b"2"]), b"x\n\x01".to_vec()].concat()
}

const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_000;

#[test]
fn a_file_that_would_be_written_elsewhere_is_refused() {
    let Some(turned) = Turned::new() else { return };
    let through_a_link = [file("l", LINK), file("l/x", FILE)].concat();
    for (events, words) in [
        (file(".git/hooks/post-checkout", 0o100_755), "leads elsewhere"),
        (file("../outside", FILE), "leads elsewhere"),
        (file("/etc/profile.d/x.sh", FILE), "leads elsewhere"),
        (file("a//b", FILE), "leads elsewhere"),
        (file("a\0b", FILE), "leads elsewhere"),
        (file("device", 0o020_000), "a mode that git does not know"),
        (event(&[b"file", b"7", b"x", b"33188", b"", b"0"]), "no such submodule"),
        (event(&[b"file", b"0", b"x", b"33188", &[7; 20]]), "never sent"),
        (event(&[b"gone", b"0", b"x"]), "never sent"),
        (through_a_link, "l/x"),
    ] {
        turned.sends(&events);
        turned.answers("begin; events; finished");
        turned.refuses(&EXPORT, words);
    }
}

#[test]
fn what_git_would_not_write_is_lost_by_name() {
    let Some(turned) = Turned::new() else { return };
    for name in ["sub/.GIT/config", "git~1", ".git./x"] {
        turned.sends(&file(name, FILE));
        turned.answers("begin; events; finished");
        let output = turned.guest.ws(&["export", "--output", "lost.patch"], &turned.record);
        assert_eq!(output.status.code(), Some(125), "{}", said(&output));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(record["result"]["lost"][0]["path"], name, "{record}");
        assert_eq!(fs::read(turned.guest.path("lost.patch")).unwrap(), b"");
    }
}

#[test]
fn what_is_no_whole_answer_is_refused() {
    let Some(turned) = Turned::new() else { return };
    turned.sends(&file("x", FILE));
    for (answer, words) in [
        // Nothing proves that it is all.
        ("begin", "not whole"),
        ("begin; events", "not whole"),
        ("begin; events | head -c 20", "not whole"),
        ("begin; events | head -c 20; finished", "telling what changed"),
        ("begin; events; finished; events", "follows the end"),
        ("finished", "looking for changes"),
        ("", "looking for changes"),
        ("kill -9 $$", "looking for changes"),
        ("say perhaps; finished", "looking for changes"),
        ("begin; head -c 100000 /dev/urandom; finished", "telling what changed"),
    ] {
        turned.answers(answer);
        turned.refuses(&EXPORT, words);
    }
}

#[test]
fn what_never_ends_is_ended() {
    let Some(turned) = Turned::new() else { return };
    turned.sends(&event(&[b"left", b"0", b"x", b"a FIFO"]).repeat(10_000));
    let large = event(&[b"file", b"0", b"x", b"33188", b"", b"99999999999"]);
    let large: String = large.iter().map(|byte| format!("\\{byte:03o}")).collect();
    for (verb, answer, words) in [
        (&EXPORT[..], format!("begin; printf '{large}'; yes"), "more bytes come"),
        (&EXPORT, "yes".to_owned(), "prints without end"),
        (&EXPORT, "yes >&2".to_owned(), "without end"),
        (&EXPORT, "say failed; yes".to_owned(), "without end"),
        (&EXPORT, "begin; yes >&2".to_owned(), "without end"),
        (&["status"], "begin; while events; do :; done".to_owned(), "too many changes"),
    ] {
        turned.answers(&answer);
        turned.refuses(verb, words);
    }
}

#[test]
fn what_would_steer_a_terminal_is_shown_as_text() {
    let Some(turned) = Turned::new() else { return };
    let evil = "\\033]0;title\\007\\033[2J\\r\\b\\177";
    for answer in [
        format!("printf 'fatal: {evil}' >&2; say failed"),
        format!("say \"$(printf 'x{evil}y')\""),
        format!("begin; printf '{evil}' >&2"),
        format!("begin; printf '{evil}{evil}\\n'; finished"),
    ] {
        turned.answers(&answer);
        turned.refuses(&EXPORT, "");
    }
}

type Talk = fn(&mut TcpStream) -> std::io::Result<()>;

/// Answers every connection by `talk`; gives its port.
fn server(talk: Talk) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(talk(&mut stream.unwrap()));
        }
    });
    port
}

#[test]
fn what_speaks_no_ssh_is_left_soon() {
    let Some(turned) = Turned::new() else { return };
    let talks: [(&str, Talk); 6] = [
        ("closes", |_| Ok(())),
        ("greets and closes", |s| s.write_all(b"SSH-2.0-x\r\n")),
        ("lines without end", |s| {
            loop {
                s.write_all(&b"hello\r\n".repeat(1000))?;
            }
        }),
        ("a line without end", |s| {
            loop {
                s.write_all(&[b'x'; 5000])?;
            }
        }),
        ("garbage", |s| {
            s.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")?;
            loop {
                s.write_all(&[0xa5; 5000])?;
            }
        }),
        ("a packet of 2 GiB", |s| {
            s.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\x7f\xff\xff\xff\x04\x14")?;
            loop {
                s.write_all(&[0; 5000])?;
            }
        }),
    ];
    for (what, talk) in talks {
        let mut record = turned.record.clone();
        record["net"]["ssh_port"] = server(talk).into();
        let since = Instant::now();
        let output = turned.guest.ws(&EXPORT, &record);
        assert!(since.elapsed() < SOON, "{what} took {:?}", since.elapsed());
        support::assert_error(&output, 1, "failed");
    }
}

/// libssh2 stays busy for as long as packets come that mean nothing; a signal ends that, too.
#[test]
fn a_signal_ends_a_handshake_that_never_does() {
    let Some(turned) = Turned::new() else { return };
    static IN_IT: AtomicBool = AtomicBool::new(false);
    // SSH_MSG_IGNORE (RFC 4253, 6 and 11.2): length, padding length, type, an empty string, padding.
    let ignored: Talk = |s| {
        let packets = b"\0\0\0\x0c\x06\x02\0\0\0\0\0\0\0\0\0\0".repeat(60_000);
        s.write_all(b"SSH-2.0-OpenSSH_9.2\r\n")?;
        loop {
            s.write_all(&packets)?;
            IN_IT.store(true, Ordering::Relaxed);
        }
    };
    let mut record = turned.record.clone();
    record["net"]["ssh_port"] = server(ignored).into();
    let child = turned.guest.start(&EXPORT, &record);
    support::eventually("it is in the handshake", || IN_IT.load(Ordering::Relaxed));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < SOON, "it took {:?}", since.elapsed());
    support::assert_error(&output, 1, "interrupted");
}
