//! The supervisor's client-facing socket: HTTP/1.1, one request per connection, everything bounded.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;

/// How many clients are served at once; more wait in the listener's backlog.
const MAX_CLIENTS: usize = 8;
/// The largest request, bytes.
const MAX_REQUEST: usize = 8 << 10;
/// How long a client may take to send its request or to read its answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// The path, as sent.
    pub path: String,
    /// The body, often empty.
    pub body: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Reading(Vec<u8>),
    /// For an answer, which the supervisor bounds in time.
    Waiting,
    Writing(Vec<u8>),
}

#[derive(Debug)]
struct Client {
    id: u64,
    socket: UnixStream,
    state: State,
    until: Instant,
}

/// The listener and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    ids: u64,
}

impl Server {
    /// Serves `listener`.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), ids: 0 })
    }

    /// What to poll.
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.clients.len() < MAX_CLIENTS {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for client in &self.clients {
            let flags = match client.state {
                State::Reading(_) => PollFlags::IN,
                State::Writing(_) => PollFlags::OUT,
                State::Waiting => continue,
            };
            fds.push(PollFd::new(&client.socket, flags));
        }
    }

    /// When [`Self::pump`] must be called although nothing came.
    pub fn wake(&self) -> Option<Instant> {
        self.clients.iter().filter(|c| !matches!(c.state, State::Waiting)).map(|c| c.until).min()
    }

    /// Accepts, reads, writes and drops who is late; the requests that came, with the client to answer. Never blocks.
    pub fn pump(&mut self) -> Vec<(u64, Request)> {
        let now = Instant::now();
        while self.clients.len() < MAX_CLIENTS
            && let Ok((socket, _)) = self.listener.accept()
        {
            self.ids += 1;
            if socket.set_nonblocking(true).is_ok() {
                let (state, until) = (State::Reading(Vec::new()), now + CLIENT_LIMIT);
                self.clients.push(Client { id: self.ids, socket, state, until });
            }
        }
        let mut requests = Vec::new();
        self.clients.retain_mut(|client| {
            let alive = client.pump(&mut requests);
            alive && (client.until > now || matches!(client.state, State::Waiting))
        });
        requests
    }

    /// Answers a client; one that has gone is no error.
    pub fn answer(&mut self, id: u64, status: u16, body: &Value) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
            client.state = State::Writing(response(status, body));
            client.until = Instant::now() + CLIENT_LIMIT;
            let mut none = Vec::new();
            if !client.pump(&mut none) {
                self.clients.retain(|c| c.id != id);
            }
        }
    }
}

impl Client {
    /// `false`: the connection is done with.
    fn pump(&mut self, requests: &mut Vec<(u64, Request)>) -> bool {
        match &mut self.state {
            State::Reading(bytes) => {
                let mut chunk = [0; 4096];
                match self.socket.read(&mut chunk) {
                    Ok(0) => return false,
                    Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                    Err(error) => return is_transient(&error),
                }
                match parse(bytes) {
                    Parsed::Partial => {}
                    Parsed::Whole(request) => {
                        self.state = State::Waiting;
                        requests.push((self.id, request));
                    }
                    Parsed::Bad(status) => {
                        let body =
                            serde_json::json!({ "error": "this is not a request that is served here" });
                        self.state = State::Writing(response(status, &body));
                    }
                }
                true
            }
            State::Writing(bytes) => match self.socket.write(bytes) {
                Ok(n) => {
                    bytes.drain(..n);
                    n > 0 && !bytes.is_empty()
                }
                Err(error) => is_transient(&error),
            },
            State::Waiting => true,
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

enum Parsed {
    Partial,
    Whole(Request),
    Bad(u16),
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_REQUEST => return Parsed::Partial,
        Ok(httparse::Status::Partial) => return Parsed::Bad(431),
        Err(_) => return Parsed::Bad(400),
    };
    let length = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Some(0), |h| std::str::from_utf8(h.value).ok()?.trim().parse::<usize>().ok());
    let Some(length) = length else { return Parsed::Bad(400) };
    if length > MAX_REQUEST {
        return Parsed::Bad(413);
    }
    let Some(body) = bytes.get(head..head + length) else { return Parsed::Partial };
    let (method, path) =
        (request.method.unwrap_or_default().to_owned(), request.path.unwrap_or_default().to_owned());
    Parsed::Whole(Request { method, path, body: body.to_vec() })
}

fn response(status: u16, body: &Value) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    };
    let body = format!("{body}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_whole_partial_and_bad() {
        let whole = b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        let Parsed::Whole(request) = parse(whole) else { panic!() };
        assert_eq!(
            (request.method.as_str(), request.path.as_str(), &*request.body),
            ("POST", "/v1/stop", &b"{}"[..])
        );
        assert!(matches!(parse(&whole[..whole.len() - 1]), Parsed::Partial));
        assert!(matches!(parse(b"\x01\x02 nonsense\r\n\r\n"), Parsed::Bad(400)));
        assert!(matches!(parse(b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"), Parsed::Bad(413)));
        assert!(matches!(parse(b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), Parsed::Bad(400)));
        let long = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST]].concat();
        assert!(matches!(parse(&long), Parsed::Bad(431)));
    }
}
