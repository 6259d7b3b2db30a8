//! Firecracker's side of HTTP/1.1, byte for byte as its server (micro_http) writes it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// `HTTP_MAX_PAYLOAD_SIZE`.
const MAX_PAYLOAD: usize = 51_200;

/// A request as it came.
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

/// One client.
pub struct Connection {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The next request; `None` once the client has closed or says what is not a request (which is answered).
    pub fn read_request(&mut self) -> Option<Request> {
        loop {
            match self.parse() {
                Ok(Some(request)) => return Some(request),
                Ok(None) => {}
                Err(problem) => {
                    drop(self.reply(400, &json!({"fault_message": problem})));
                    return None;
                }
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
            self.unread.extend_from_slice(&buffer[..n]);
        }
    }

    fn parse(&mut self) -> Result<Option<Request>, String> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(&self.unread).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        if request.version != Some(1) {
            return Err("Invalid HTTP Version.".to_owned());
        }
        let header = |name: &str| request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        let length = match header("content-length") {
            Some(value) => std::str::from_utf8(value.value)
                .ok()
                .and_then(|v| v.parse().ok())
                .ok_or("Invalid value for Content-Length.")?,
            None => 0,
        };
        if length > 0 && header("content-type").is_none_or(|h| h.value != b"application/json") {
            return Err("Unsupported Content-Type.".to_owned());
        }
        if length > MAX_PAYLOAD {
            return Err(format!(
                "Request payload with size {length} is larger than the limit of {MAX_PAYLOAD}"
            ));
        }
        if self.unread.len() < head + length {
            return Ok(None);
        }
        let method = request.method.unwrap_or_default().to_owned();
        let path = request.path.unwrap_or_default().to_owned();
        let body = self.unread[head..head + length].to_vec();
        self.unread.drain(..head + length);
        Ok(Some(Request { method, path, body }))
    }

    /// Answers: a 204 has no body.
    pub fn reply(&mut self, status: u16, body: &Value) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n");
        let body = if status == 204 { String::new() } else { body.to_string() };
        if !body.is_empty() {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        self.stream.write_all(format!("{head}\r\n{body}").as_bytes())
    }
}
