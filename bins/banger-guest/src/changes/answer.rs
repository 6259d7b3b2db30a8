//! The answer, as it is written.

use std::io::{BufWriter, Write};

use crate::error::{Context, Error};
use banger_protocol::changes::Event;

/// Writes events.
pub struct Answer<W: Write> {
    out: BufWriter<W>,
    /// How many bytes of files were written.
    pub sent_bytes: u64,
}

fn what() -> String {
    "cannot answer the host".to_owned()
}

impl<W: Write> Answer<W> {
    /// An answer that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(128 << 10, out), sent_bytes: 0 }
    }

    /// Writes an event.
    pub fn event(&mut self, event: &Event) -> Result<(), Error> {
        self.out.write_all(&event.encode()).context(what)
    }

    /// Writes bytes of a file.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sent_bytes += bytes.len() as u64;
        self.out.write_all(bytes).context(what)
    }

    /// Writes the byte behind a file: whether it is what came.
    pub fn verdict(&mut self, is_whole: bool) -> Result<(), Error> {
        self.out.write_all(&[is_whole.into()]).context(what)
    }

    /// Ends the answer.
    pub fn end(mut self, ignored: u64) -> Result<(), Error> {
        self.event(&Event::End { ignored })?;
        self.out.flush().context(what)
    }
}
