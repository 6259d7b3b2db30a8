//! One HTTP/1.1 exchange with a local service: request, bounded answer, end of the connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// The largest answer, bytes.
const MAX_ANSWER: usize = 256 << 10;

/// Sends a request on `stream` and gives status and body of the answer. All of it must be over by `until`.
///
/// # Errors
/// Those of the socket; `TimedOut`; `InvalidData` where the answer is no HTTP or too long.
pub fn exchange(
    mut stream: UnixStream,
    method: &str,
    path: &str,
    body: &str,
    until: Instant,
) -> io::Result<(u16, Vec<u8>)> {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(request.as_bytes()).map_err(timed_out)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return parse(&answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
        if answer.len() > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

fn parse(answer: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(head)) => Ok((response.code.unwrap_or(0), answer[head..].to_vec())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
