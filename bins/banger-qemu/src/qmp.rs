//! QEMU's machine protocol: one JSON object per line over a Unix socket. What QEMU says is bounded in size and time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thiserror::Error;

/// The longest line that is read, bytes.
const MAX_LINE: usize = 64 << 10;
/// How many lines (events, mostly) may come before the answer.
const MAX_LINES: usize = 256;

/// A conversation that failed.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket fails; `UnexpectedEof`: QEMU ended.
    #[error("QEMU does not answer on its QMP socket")]
    Io(#[source] io::Error),
    /// It says something else than QMP.
    #[error("what QEMU says on its QMP socket is not QMP")]
    Nonsense,
    /// It refuses a command.
    #[error("QEMU refuses {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// Why.
        reason: String,
    },
}

/// A connection past the greeting.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    until: Instant,
    version: String,
}

impl Qmp {
    /// Waits for the greeting on `stream` and agrees on capabilities. Everything on this connection must be done by `until`.
    ///
    /// # Errors
    /// Any [`QmpError`].
    pub fn greet(stream: UnixStream, until: Instant) -> Result<Self, QmpError> {
        let mut qmp = Self { stream, pending: Vec::new(), until, version: String::new() };
        let greeting = qmp.line()?;
        let qemu = &greeting["QMP"]["version"]["qemu"];
        let number = |part: &str| qemu[part].as_u64().ok_or(QmpError::Nonsense);
        qmp.version = format!("{}.{}.{}", number("major")?, number("minor")?, number("micro")?);
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// QEMU's version, from its greeting.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Executes a command without arguments.
    ///
    /// # Errors
    /// Any [`QmpError`].
    pub fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        self.execute_with(command, &json!({}))
    }

    /// The same with arguments.
    ///
    /// # Errors
    /// Any [`QmpError`].
    pub fn execute_with(&mut self, command: &'static str, arguments: &Value) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.set_write_timeout(Some(self.left()?)).map_err(QmpError::Io)?;
        self.stream.write_all(line.as_bytes()).map_err(QmpError::Io)?;
        for _ in 0..MAX_LINES {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command, reason });
            }
        }
        Err(QmpError::Nonsense)
    }

    fn left(&self) -> Result<Duration, QmpError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(QmpError::Io(io::ErrorKind::TimedOut.into())) } else { Ok(left) }
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| QmpError::Nonsense);
            }
            if self.pending.len() > MAX_LINE {
                return Err(QmpError::Nonsense);
            }
            self.stream.set_read_timeout(Some(self.left()?)).map_err(QmpError::Io)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(QmpError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(QmpError::Io(io::ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(QmpError::Io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(script: &'static [u8]) -> Result<String, QmpError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let qemu = std::thread::spawn(move || {
            drop(theirs.write_all(script));
            drop(theirs.shutdown(std::net::Shutdown::Write));
            drop(theirs.read(&mut [0; 256]));
        });
        let result =
            Qmp::greet(ours, Instant::now() + Duration::from_secs(45)).map(|qmp| qmp.version().to_owned());
        qemu.join().unwrap();
        result
    }

    #[test]
    fn greetings_good_and_bad() {
        let good = b"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7}}}}\n{\"event\":\"X\"}\n{\"return\":{}}\n";
        assert_eq!(talk(good).unwrap(), "7.2.22");
        let refusing = b"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":1,\"major\":8}}}}\n{\"error\":{\"desc\":\"no\"}}\n";
        assert!(matches!(talk(refusing), Err(QmpError::Refused { reason, .. }) if reason == "no"));
        assert!(matches!(talk(b"hello\n"), Err(QmpError::Nonsense)));
        assert!(matches!(talk(b"{\"QMP\":"), Err(QmpError::Io(_))));
    }
}
