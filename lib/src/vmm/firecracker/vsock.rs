//! The guest behind Firecracker's vsock, which shows on the host as Unix sockets: one that Firecracker listens on, for
//! connections to the guest, and one per port that the host listens on, for connections from it (docs/vsock.md there).

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::launch::short_path;
use crate::contract::guest::{MAX_LINE_BYTES, VSOCK_AGENT_PORT, VSOCK_EVENT_PORT};

/// The socket that Firecracker makes in the VM's directory.
pub const SOCKET: &str = "vsock.sock";

/// The name of the socket on which the host awaits the guest's events.
pub fn event_socket() -> String {
    format!("{SOCKET}_{VSOCK_EVENT_PORT}")
}

/// Listens for the guest's events in the VM's directory. It must stand before the start: a guest that finds nobody is
/// refused. A socket that an earlier run left is replaced, so the caller must hold the VM's run lock.
///
/// # Errors
/// Those of unlink(2), bind(2) and listen(2).
pub fn listen_for_events(dir: BorrowedFd<'_>) -> io::Result<UnixListener> {
    let path = short_path(dir, &event_socket());
    remove(&path)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes what Firecracker leaves: it never unlinks its sockets and refuses to start where they are (#766).
///
/// # Errors
/// Those of unlink(2); that one is not there is none.
pub fn remove_sockets(dir: BorrowedFd<'_>, api_socket: &str) -> io::Result<()> {
    for name in [api_socket, SOCKET, &event_socket()] {
        remove(&short_path(dir, name))?;
    }
    Ok(())
}

fn remove(path: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why the agent did not answer.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Firecracker is not there or does not take the connection.
    #[error("cannot reach Firecracker's vsock")]
    Unreachable(#[source] io::Error),
    /// Nobody listens in the guest: Firecracker shows it as an end of file.
    #[error("nobody listens on the agent's port in the guest")]
    NoListener,
    /// Firecracker's answer to `CONNECT` is none.
    #[error("Firecracker's vsock answers {0:?} to CONNECT")]
    Handshake(String),
    /// The guest closed or broke the connection before a whole line had come.
    #[error("the guest's agent broke the connection")]
    Broken(#[source] io::Error),
    /// The guest is too slow.
    #[error("the guest's agent did not answer in time")]
    Deadline,
    /// The guest says more than it may.
    #[error("the guest's agent said more than {MAX_LINE_BYTES} bytes")]
    TooLong,
}

impl AgentError {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Deadline,
            _ => Self::Broken(error),
        }
    }
}

/// Sends one line (with its newline) to the guest's agent and gives the line it answers, without its newline. Takes at most
/// until `until`, however slowly the guest dribbles.
///
/// # Errors
/// Any [`AgentError`].
pub fn exchange(dir: BorrowedFd<'_>, line: &[u8], until: Instant) -> Result<Vec<u8>, AgentError> {
    let mut stream = UnixStream::connect(short_path(dir, SOCKET)).map_err(AgentError::Unreachable)?;
    // In one write: Firecracker reads the port from what comes first.
    write_until(&mut stream, format!("CONNECT {VSOCK_AGENT_PORT}\n").as_bytes(), until)?;
    // Byte by byte, so that nothing of what follows is swallowed: "OK" and a port of at most ten digits.
    let answer = read_line(&mut stream, 32, 1, until).map_err(|error| match error {
        AgentError::Broken(source) if source.kind() == io::ErrorKind::UnexpectedEof => AgentError::NoListener,
        AgentError::TooLong => AgentError::Handshake("a longer line".to_owned()),
        other => other,
    })?;
    let text = String::from_utf8_lossy(&answer);
    if text.strip_prefix("OK ").and_then(|port| port.parse::<u32>().ok()).is_none() {
        return Err(AgentError::Handshake(text.into_owned()));
    }
    write_until(&mut stream, line, until)?;
    read_line(&mut stream, MAX_LINE_BYTES, 4096, until)
}

fn left(until: Instant) -> Result<Option<Duration>, AgentError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(AgentError::Deadline) } else { Ok(Some(left)) }
}

fn write_until(stream: &mut UnixStream, bytes: &[u8], until: Instant) -> Result<(), AgentError> {
    stream.set_write_timeout(left(until)?).and_then(|()| stream.write_all(bytes)).map_err(AgentError::of)
}

/// The first line of `stream`, read in pieces of at most `piece` bytes; at most `limit` bytes with its newline.
fn read_line(
    stream: &mut UnixStream,
    limit: usize,
    piece: usize,
    until: Instant,
) -> Result<Vec<u8>, AgentError> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(left(until)?).map_err(AgentError::of)?;
        let n = match stream.read(&mut buffer[..piece.min(4096)]) {
            Ok(0) => return Err(AgentError::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(AgentError::of(error)),
        };
        let end = buffer[..n].iter().position(|b| *b == b'\n');
        line.extend_from_slice(&buffer[..end.unwrap_or(n)]);
        if line.len() >= limit {
            return Err(AgentError::TooLong);
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// What `exchange` makes of a vsock whose end says `answer` after CONNECT, and then `reply`.
    fn talk(answer: &'static [u8], reply: Vec<u8>) -> Result<Vec<u8>, AgentError> {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let listener = UnixListener::bind(temp.path().join(SOCKET)).unwrap();
        let firecracker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 100];
            let n = stream.read(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"CONNECT 1024\n");
            drop(stream.write_all(answer));
            if !answer.is_empty() {
                drop(stream.read(&mut buffer));
                drop(stream.write_all(&reply));
                drop(stream.read(&mut buffer));
            }
        });
        let result = exchange(dir.as_fd(), b"hello\n", Instant::now() + Duration::from_millis(300));
        firecracker.join().unwrap();
        result
    }

    #[test]
    fn one_line_each_way() {
        assert_eq!(talk(b"OK 1073741824\n", b"{}\nmore".to_vec()).unwrap(), b"{}");
    }

    #[test]
    fn hostile_ends_are_bounded() {
        assert!(matches!(talk(b"", Vec::new()), Err(AgentError::NoListener)));
        assert!(matches!(talk(b"NO\n", Vec::new()), Err(AgentError::Handshake(_))));
        assert!(matches!(talk(&[b'x'; 90], Vec::new()), Err(AgentError::Handshake(_))));
        assert!(matches!(talk(b"OK 1\n", vec![b'x'; 1 << 20]), Err(AgentError::TooLong)));
        assert!(matches!(talk(b"OK 1\n", b"half".to_vec()), Err(AgentError::Deadline)));
    }

    #[test]
    fn sockets_work_below_a_path_longer_than_a_socket_address() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let dir = std::fs::File::open(&deep).unwrap();
        drop(listen_for_events(dir.as_fd()).unwrap());
        let listener = listen_for_events(dir.as_fd()).unwrap();
        assert!(UnixStream::connect(short_path(dir.as_fd(), &event_socket())).is_ok());
        drop(listener);
        remove_sockets(dir.as_fd(), "api.sock").unwrap();
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
    }
}
