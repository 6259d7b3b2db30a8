//! The way to the host: a virtio-serial port where the VM has one, else vsock.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getpeername, listen, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::clock::now_us;
use crate::error::{Context, Error};
use crate::modules::virtio_devices;
use crate::sys;
use banger_protocol::guest::{
    AgentReply, AgentRequest, Event, MAX_LINE_BYTES, PORT_NAME, VSOCK_AGENT_PORT, VSOCK_EVENT_PORT,
};

/// How long the port may take to get its name after its driver was loaded, microseconds.
const PORT_WITHIN_US: u64 = 2_000_000;
/// How long the host may take for the last word of a failing guest, milliseconds.
const LAST_WORD_MS: u16 = 2_000;
/// How long a connected host may stay silent on vsock, seconds.
const VSOCK_PATIENCE_S: i64 = 5;
/// The virtio device id of a console, whose ports these are.
const VIRTIO_CONSOLE: u32 = 3;

/// An open way to the host.
#[derive(Debug)]
pub enum Channel {
    /// The virtio-serial port: one stream for everything.
    Port(File),
    /// A listening vsock socket; events are connections of their own.
    Vsock(OwnedFd),
}

impl Channel {
    /// Opens what the VM has.
    pub fn open() -> Result<Self, Error> {
        if let Some(path) = port_path() {
            let port = File::options().read(true).write(true).open(&path);
            return port.map(Self::Port).context(|| format!("cannot open {path}"));
        }
        let what = || "cannot listen on vsock".to_owned();
        let listener = vsock_socket().context(what)?;
        let address = VsockAddr::new(libc::VMADDR_CID_ANY, VSOCK_AGENT_PORT);
        bind(listener.as_raw_fd(), &address).context(what)?;
        listen(&listener, Backlog::new(8).context(what)?).context(what)?;
        Ok(Self::Vsock(listener))
    }

    /// Pushes an event. On the port this waits until the host has connected.
    pub fn push(&mut self, event: &Event) -> Result<(), Error> {
        let what = || "cannot push an event to the host".to_owned();
        let line = json_line(event).context(what)?;
        match self {
            Self::Port(port) => port.write_all(&line).context(what),
            Self::Vsock(_) => push_over_vsock(&line).context(what),
        }
    }

    /// Answers the host for ever. Nothing that comes in ends this; a line that is not a request is dropped. `sent` is called after
    /// each reply is on its way.
    pub fn serve(self, mut answer: impl FnMut(&AgentRequest) -> AgentReply, mut sent: impl FnMut()) {
        let mut reply_to = |line: &[u8]| {
            let request: AgentRequest = serde_json::from_slice(line).ok()?;
            Some(reply_line(&answer(&request)))
        };
        match self {
            Self::Port(port) => serve_port(port, &mut reply_to, &mut sent),
            Self::Vsock(listener) => serve_vsock(&listener, &mut reply_to, &mut sent),
        }
    }
}

fn json_line(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The reply, or in its place that it is too long to be sent.
fn reply_line(reply: &AgentReply) -> Vec<u8> {
    let line = json_line(reply).unwrap_or_default();
    if line.len() <= MAX_LINE_BYTES && !line.is_empty() {
        return line;
    }
    let body = serde_json::json!({ "error": "the answer is too long for the agent channel" });
    json_line(&AgentReply { nonce: reply.nonce.clone(), status: 500, body }).unwrap_or_default()
}

fn serve_port(mut port: File, reply_to: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>, sent: &mut impl FnMut()) {
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            // Nobody is connected on the host: the port has no way to wait for that.
            Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(250)),
            Ok(n) => {
                for reply in lines.feed(&buffer[..n]).iter().filter_map(|line| reply_to(line)) {
                    drop(port.write_all(&reply));
                    sent();
                }
            }
        }
    }
}

fn serve_vsock(
    listener: &OwnedFd,
    reply_to: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>,
    sent: &mut impl FnMut(),
) {
    loop {
        let Ok(connection) = sys::accept(listener) else {
            std::thread::sleep(Duration::from_millis(250));
            continue;
        };
        // A guest's own user can connect through the loopback of vsock.
        let peer = getpeername::<VsockAddr>(connection.as_raw_fd());
        if peer.is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST) {
            drop(exchange(connection, reply_to));
            sent();
        }
    }
}

/// One request, one reply.
fn exchange(connection: OwnedFd, reply_to: &mut impl FnMut(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    setsockopt(&connection, ReceiveTimeout, &TimeVal::seconds(VSOCK_PATIENCE_S))?;
    setsockopt(&connection, SendTimeout, &TimeVal::seconds(VSOCK_PATIENCE_S))?;
    let mut stream = File::from(connection);
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    for _ in 0..=MAX_LINE_BYTES / buffer.len() {
        let n = stream.read(&mut buffer)?;
        if let Some(line) = lines.feed(&buffer[..n]).first() {
            return reply_to(line).map_or(Ok(()), |reply| stream.write_all(&reply));
        }
        if n == 0 {
            break;
        }
    }
    Ok(())
}

/// A socket of the family.
pub fn vsock_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn push_over_vsock(line: &[u8]) -> io::Result<()> {
    let socket = vsock_socket()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, VSOCK_EVENT_PORT))?;
    File::from(socket).write_all(line)
}

/// Pushes the last event of a boot that failed, if there is a way and the host listens.
pub fn push_briefly(event: &Event) {
    drop(json_line(event).and_then(|line| match port_path() {
        None => push_over_vsock(&line),
        Some(path) => {
            let flags = libc::O_NONBLOCK;
            let mut port = File::options().read(true).write(true).custom_flags(flags).open(path)?;
            let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::from(LAST_WORD_MS))?;
            if !fds[0].revents().is_some_and(|revents| revents.contains(PollFlags::POLLOUT)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // A blocking write returns when the host has taken the line: the VM may end right after.
            fcntl(&port, FcntlArg::F_SETFL(OFlag::empty()))?;
            port.write_all(&line)
        }
    }));
}

/// The device of the port that carries the agent's name. The name comes in a message of the device's own, shortly after its
/// driver was loaded.
fn port_path() -> Option<String> {
    let deadline = now_us() + PORT_WITHIN_US;
    while virtio_devices().contains(&VIRTIO_CONSOLE) && now_us() < deadline {
        let entries = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        for entry in entries {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Cuts a stream into lines of at most [`MAX_LINE_BYTES`]; a longer one is dropped whole.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    dropping: bool,
}

impl Lines {
    /// The lines that are complete with these bytes, without their newlines.
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..at]);
            if !std::mem::take(&mut self.dropping) {
                complete.push(std::mem::take(&mut self.partial));
            }
            bytes = &bytes[at + 1..];
        }
        self.extend(bytes);
        complete
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.dropping || self.partial.len() + bytes.len() >= MAX_LINE_BYTES {
            self.dropping = true;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_stream_is() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"ab").is_empty());
        assert_eq!(lines.feed(b"c\n\nd"), [b"abc".to_vec(), Vec::new()]);
        assert_eq!(lines.feed(b"\n"), [b"d".to_vec()]);
    }

    #[test]
    fn a_line_too_long_is_dropped_and_the_next_one_counts() {
        let mut lines = Lines::default();
        for _ in 0..20 {
            assert!(lines.feed(&[b'x'; 4096]).is_empty());
        }
        assert!(lines.partial.is_empty());
        assert_eq!(lines.feed(b"x\nok\n"), [b"ok".to_vec()]);
    }

    #[test]
    fn an_exchange_is_one_request_and_one_reply() {
        let (mut host, guest) = std::os::unix::net::UnixStream::pair().unwrap();
        host.write_all(b"a request\nanother\n").unwrap();
        exchange(guest.into(), &mut |line| Some([line, b"!\n"].concat())).unwrap();
        let mut reply = String::new();
        host.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "a request!\n");
    }

    #[test]
    fn an_exchange_without_an_end_of_line_ends() {
        let (mut host, guest) = std::os::unix::net::UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || drop(host.write_all(&vec![b'x'; 4 * MAX_LINE_BYTES])));
        exchange(guest.into(), &mut |_| panic!("no line came")).unwrap();
        writer.join().unwrap();
    }

    #[test]
    fn an_answer_too_long_becomes_an_error() {
        let body = serde_json::Value::String("x".repeat(MAX_LINE_BYTES));
        let line = reply_line(&AgentReply { nonce: "n".into(), status: 200, body });
        let reply: AgentReply = serde_json::from_slice(&line).unwrap();
        assert_eq!((reply.nonce.as_str(), reply.status), ("n", 500));
    }
}
