//! A small HTTP/1.1 client over Firecracker's API socket: one connection, one request at a time, all before one deadline,
//! every reply bounded.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::api::FaultMessage;

/// The largest request that Firecracker takes (`HTTP_MAX_PAYLOAD_SIZE`), bytes.
pub const MAX_REQUEST_BYTES: usize = 51_200;
/// The largest head of a reply that is read, bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// The largest body of a reply that is read, bytes. The whole configuration of a VM is a few KiB.
const MAX_BODY_BYTES: usize = 256 << 10;
/// The longest fault message that is passed on, characters.
const MAX_FAULT_CHARS: usize = 1000;

/// A request that was not answered, or not with success. `request` is the method and the path.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Firecracker says no.
    #[error("Firecracker refused {request} ({status}): {fault}")]
    Refused {
        /// The request.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Firecracker's words.
        fault: String,
    },
    /// The connection broke. A Firecracker that dies closes it.
    #[error("the connection to Firecracker broke at {request}")]
    Broken {
        /// The request.
        request: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No reply came in time.
    #[error("Firecracker did not answer {request} in time")]
    Deadline {
        /// The request.
        request: String,
    },
    /// The reply is not one of Firecracker's.
    #[error("Firecracker's reply to {request} makes no sense: {problem}")]
    Nonsense {
        /// The request.
        request: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The request is longer than Firecracker takes.
    #[error("{request} would have {bytes} bytes, and Firecracker takes {MAX_REQUEST_BYTES}")]
    TooLong {
        /// The request.
        request: String,
        /// Its size.
        bytes: usize,
    },
}

/// A connection to the API.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    until: Instant,
    /// What was read beyond the last reply.
    unread: Vec<u8>,
}

/// A reply's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of the head itself.
    bytes: usize,
    /// Bytes of the body that follows.
    content: usize,
}

impl Client {
    /// Speaks over `stream`, until `until` at the latest.
    pub fn new(stream: UnixStream, until: Instant) -> Self {
        Self { stream, until, unread: Vec::new() }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// Any [`RequestError`] but [`RequestError::TooLong`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, RequestError> {
        let request = format!("GET {path}");
        let body = self.exchange(&request, &[])?;
        let nonsense =
            |error: serde_json::Error| RequestError::Nonsense { request, problem: error.to_string() };
        serde_json::from_slice(&body).map_err(nonsense)
    }

    /// `PUT path` with `body`.
    ///
    /// # Errors
    /// Any [`RequestError`].
    pub fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), RequestError> {
        self.send_body(&format!("PUT {path}"), body)
    }

    /// `PATCH path` with `body`.
    ///
    /// # Errors
    /// Any [`RequestError`].
    pub fn patch(&mut self, path: &str, body: &impl Serialize) -> Result<(), RequestError> {
        self.send_body(&format!("PATCH {path}"), body)
    }

    fn send_body(&mut self, request: &str, body: &impl Serialize) -> Result<(), RequestError> {
        let body = serde_json::to_vec(body).expect("API bodies have string keys only");
        self.exchange(request, &body).map(drop)
    }

    /// Sends a request and gives the body of the successful reply.
    fn exchange(&mut self, request: &str, body: &[u8]) -> Result<Vec<u8>, RequestError> {
        let mut message = format!("{request} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        if !body.is_empty() {
            message += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        message += "\r\n";
        let bytes = [message.as_bytes(), body].concat();
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong { request: request.to_owned(), bytes: bytes.len() });
        }
        self.send(&bytes).map_err(|source| transport(request, source))?;
        let (status, body) = self.receive(request)?;
        match status {
            200..=299 => Ok(body),
            _ => Err(RequestError::Refused { request: request.to_owned(), status, fault: fault(&body) }),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.until)?))?;
        self.stream.write_all(bytes)
    }

    /// The status and the body of the next reply; interim replies (`100 Continue`) are skipped.
    fn receive(&mut self, request: &str) -> Result<(u16, Vec<u8>), RequestError> {
        loop {
            let head = loop {
                let parsed = parse_head(&self.unread);
                if let Some(head) = parsed.map_err(|problem| nonsense(request, problem))? {
                    break head;
                }
                self.read_more().map_err(|source| transport(request, source))?;
            };
            let end = head.bytes + head.content;
            while self.unread.len() < end {
                self.read_more().map_err(|source| transport(request, source))?;
            }
            let rest = self.unread.split_off(end);
            let mut message = std::mem::replace(&mut self.unread, rest);
            if head.status >= 200 {
                return Ok((head.status, message.split_off(head.bytes)));
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What is left until `until`; an error once nothing is, since a timeout of zero would mean none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn transport(request: &str, source: io::Error) -> RequestError {
    let request = request.to_owned();
    match source.kind() {
        // A socket's timeout shows as EAGAIN (socket(7), SO_RCVTIMEO).
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => RequestError::Deadline { request },
        _ => RequestError::Broken { request, source },
    }
}

fn nonsense(request: &str, problem: String) -> RequestError {
    RequestError::Nonsense { request: request.to_owned(), problem }
}

/// The head at the start of `bytes`, `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&bytes[..bytes.len().min(MAX_HEAD_BYTES)]).map_err(|e| e.to_string())?;
    let httparse::Status::Complete(head) = parsed else {
        let full = bytes.len() >= MAX_HEAD_BYTES;
        return if full { Err(format!("its head is longer than {MAX_HEAD_BYTES} bytes")) } else { Ok(None) };
    };
    let status = response.code.unwrap_or(0);
    if response.headers.iter().any(|h| h.name.eq_ignore_ascii_case("transfer-encoding")) {
        return Err("it has a transfer encoding, which Firecracker never uses".to_owned());
    }
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let content = match length {
        // RFC 9110 §6.4.1: these have no body whatever they say.
        _ if status < 200 || status == 204 => 0,
        None => 0,
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or("its Content-Length is not a number")?,
    };
    if content > MAX_BODY_BYTES {
        return Err(format!("its body has {content} bytes, more than {MAX_BODY_BYTES}"));
    }
    Ok(Some(Head { status, bytes: head, content }))
}

/// Firecracker's words in the body of a refusal, or the body itself where it has another shape.
fn fault(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<FaultMessage>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) if body.is_empty() => "no reason given".to_owned(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.trim();
    text.chars().take(MAX_FAULT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Longer than a thread of a busy machine waits for its turn.
    const LIMIT: Duration = Duration::from_secs(45);

    /// A client whose other end answers with `reply` in pieces of `piece` bytes, and then closes where `close`.
    fn answered(reply: &[u8], piece: usize, close: bool) -> (Client, std::thread::JoinHandle<Vec<u8>>) {
        answered_within(LIMIT, reply, piece, close)
    }

    fn answered_within(
        limit: Duration,
        reply: &[u8],
        piece: usize,
        close: bool,
    ) -> (Client, std::thread::JoinHandle<Vec<u8>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reply = reply.to_vec();
        let server = std::thread::spawn(move || {
            let mut request = vec![0; MAX_REQUEST_BYTES];
            let n = theirs.read(&mut request).unwrap();
            request.truncate(n);
            for part in reply.chunks(piece) {
                if theirs.write_all(part).is_err() {
                    break;
                }
            }
            if !close {
                drop(theirs.read(&mut [0]));
            }
            request
        });
        (Client::new(ours, Instant::now() + limit), server)
    }

    fn error_of(reply: &[u8], close: bool) -> RequestError {
        let (mut client, server) = answered(reply, 1 << 16, close);
        let error = client.get::<Value>("/version").unwrap_err();
        drop(client);
        server.join().unwrap();
        error
    }

    #[test]
    fn a_reply_may_come_byte_by_byte_and_after_an_interim_one() {
        let body = r#"{"firecracker_version":"1.14.0"}"#;
        let reply =
            format!("HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 \r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (mut client, server) = answered(reply.as_bytes(), 1, false);
        assert_eq!(client.get::<Value>("/version").unwrap(), json!({"firecracker_version": "1.14.0"}));
        drop(client);
        let request = String::from_utf8(server.join().unwrap()).unwrap();
        assert!(request.starts_with("GET /version HTTP/1.1\r\nHost: localhost\r\n"), "{request}");
        assert!(!request.contains("Content-Length"), "Firecracker refuses a GET with a body: {request}");
    }

    #[test]
    fn two_replies_in_one_packet_are_told_apart() {
        let reply = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\nHTTP/1.1 400 \r\nContent-Length: 22\r\n\r\n{\"fault_message\":\"no\"}";
        let (mut client, server) = answered(reply, 1 << 16, false);
        client.put("/entropy", &json!({})).unwrap();
        let error = client.put("/entropy", &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "Firecracker refused PUT /entropy (400): no");
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn hostile_replies_are_bounded() {
        let error = error_of(b"HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", false);
        assert!(matches!(error, RequestError::Nonsense { .. }), "{error}");
        let error = error_of(b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", false);
        assert!(matches!(error, RequestError::Nonsense { .. }), "{error}");
        let error = error_of(b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", false);
        assert!(matches!(error, RequestError::Nonsense { .. }), "{error}");
        let endless = [b"HTTP/1.1 200 \r\nX: ".to_vec(), vec![b'x'; 100_000]].concat();
        let error = error_of(&endless, false);
        assert!(error.to_string().contains("head is longer"), "{error}");
        let error = error_of(b"SSH-2.0-OpenSSH\r\n\r\n", false);
        assert!(matches!(error, RequestError::Nonsense { .. }), "{error}");
        let error = error_of(b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nnope", false);
        assert!(matches!(error, RequestError::Nonsense { .. }), "{error}");
    }

    #[test]
    fn silence_ends_at_the_deadline_and_a_closed_connection_at_once() {
        let (mut client, server) = answered_within(Duration::from_millis(200), b"", 1, false);
        let error = client.get::<Value>("/version").unwrap_err();
        assert!(matches!(error, RequestError::Deadline { .. }), "{error}");
        drop(client);
        server.join().unwrap();
        let error = error_of(b"HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\n{", true);
        assert!(matches!(error, RequestError::Broken { .. }), "{error}");
    }

    #[test]
    fn a_request_beyond_the_limit_is_not_sent() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Client::new(ours, Instant::now() + LIMIT)
            .put("/mmds", &"x".repeat(MAX_REQUEST_BYTES))
            .unwrap_err();
        assert!(matches!(error, RequestError::TooLong { .. }), "{error}");
    }
}
