//! What was read of a stream, kept in a file without a name, so that it can be read again from its beginning.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use thiserror::Error;

/// A stream whose bytes go into a file as they are read.
pub(super) struct Spool<R> {
    input: R,
    file: File,
    left: u64,
    limit: u64,
}

/// The stream is longer than it may be: what an [`io::Error`] of [`Spool`] carries.
#[derive(Debug, Clone, Copy, Error)]
#[error("the stream is longer than {limit_bytes} bytes")]
pub(super) struct SpoolFull {
    /// How long it may be.
    pub(super) limit_bytes: u64,
}

impl SpoolFull {
    /// The reason of `error`, where it is this.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
    }
}

impl<R: Read> Spool<R> {
    /// Keeps up to `limit` bytes of `input` in a file in the directory `dir`.
    pub(super) fn new(input: R, dir: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self { input, file: tempfile::tempfile_in(dir)?, left: limit, limit })
    }

    /// Reads the stream to its end and gives the file, which has all of it.
    pub(super) fn whole(mut self) -> io::Result<File> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.file)
    }

    /// The stream from its beginning. What comes next is not kept.
    pub(super) fn again(mut self) -> io::Result<impl Read> {
        self.file.rewind()?;
        Ok(self.file.chain(self.input))
    }
}

impl<R: Read> Read for Spool<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::other(SpoolFull { limit_bytes: self.limit }))?;
        self.file.write_all(&buffer[..count])?;
        Ok(count)
    }
}
