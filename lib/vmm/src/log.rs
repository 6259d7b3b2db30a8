//! A log that a guest can write for ever and that fills nothing: its head and its tail are kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::marks::Marks;

/// The largest that a log gets, bytes.
const MAX: u64 = 4 << 20;
/// What is always kept of its beginning, bytes.
const HEAD: u64 = 1 << 20;
/// What is kept of its end when it is shortened, bytes.
const TAIL: u64 = 1 << 20;
/// Stands where something was left out.
const GAP: &[u8] = b"\n[banger: output was left out here]\n";
/// How much is held in memory of its end, for errors, bytes.
const MEMORY: usize = 8 << 10;
/// How much is read at once, bytes.
const CHUNK: usize = 16 << 10;

/// A pipe that is copied into a file.
#[derive(Debug)]
pub struct CappedLog {
    pipe: Option<File>,
    file: File,
    size: u64,
    max: u64,
    tail: Vec<u8>,
    marks: Marks,
}

impl CappedLog {
    /// Copies `pipe`, which must not block, into a new file at `path`, mode 0600.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: Some(pipe.into()), ..Self::alone(path)? })
    }

    /// One that only [`Self::write`] fills.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn alone(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        let marks = Marks::create(path);
        Ok(Self { pipe: None, file, size: 0, max: MAX, tail: Vec::new(), marks })
    }

    /// What to poll; `None` once the writers have ended.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Copies what is there, at most one chunk; whether there may be more.
    pub fn pump(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let mut chunk = [0; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(n @ 1..) => {
                self.write(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                self.pipe = None;
                false
            }
        }
    }

    /// Appends `bytes`. A disk that is full or fails costs the log, never the VM.
    pub fn write(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let excess = self.tail.len().saturating_sub(MEMORY);
        self.tail.drain(..excess);
        self.marks.note(self.size);
        if self.file.write_all_at(bytes, self.size).is_ok() {
            self.size += bytes.len() as u64;
        }
        if self.size > self.max {
            // Where even that fails the log starts over: it must not grow.
            self.size = self.shorten().unwrap_or(0);
            drop(self.file.set_len(self.size));
        }
    }

    /// Moves the tail up to the head; the new size.
    fn shorten(&mut self) -> io::Result<u64> {
        let (head, keep) = (HEAD.min(self.max / 4), TAIL.min(self.max / 4));
        self.file.write_all_at(GAP, head)?;
        let (mut from, mut to) = (self.size - keep, head + GAP.len() as u64);
        self.marks.moved(head, from, to);
        let mut chunk = [0; CHUNK];
        while from < self.size {
            let n = chunk.len().min(usize::try_from(self.size - from).unwrap_or(CHUNK));
            self.file.read_exact_at(&mut chunk[..n], from)?;
            self.file.write_all_at(&chunk[..n], to)?;
            (from, to) = (from + n as u64, to + n as u64);
        }
        Ok(to)
    }

    /// The end of it as text, a few KiB, as hostile as it came.
    pub fn tail(&self) -> String {
        String::from_utf8_lossy(&self.tail).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_without_end_keeps_its_head_and_tail() {
        let temp = tempfile::tempdir().unwrap();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let mut log = CappedLog::create(&temp.path().join("log"), read).unwrap();
        log.max = 64 << 10;
        for n in 0..20_000 {
            log.write(format!("line {n}\n").as_bytes());
        }
        let text = std::fs::read_to_string(temp.path().join("log")).unwrap();
        assert!(text.len() as u64 <= log.max, "{}", text.len());
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 19998\nline 19999\n"));
        assert!(text.contains("left out here"));
        assert!(log.tail().ends_with("line 19999\n") && log.tail().len() <= MEMORY);
    }
}
