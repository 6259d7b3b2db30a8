//! Reading in a thread of its own, so that unpacking and writing go on side by side, and whoever waits for a slow stream still notices
//! that it is to stop.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

/// Bytes of a piece, and how many pieces may wait.
const PIECE: usize = 128 << 10;
const WAITING: usize = 8;
/// How often the wish to stop is looked for.
const PATIENCE: Duration = Duration::from_millis(100);

/// The reason of an [`io::Error`] where the reader was asked to stop.
#[derive(Debug, Error)]
#[error("interrupted by signal {0}")]
pub struct Stopped(pub i32);

impl Stopped {
    /// The signal, where this is why `error` came.
    pub fn of(error: &io::Error) -> Option<i32> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).map(|stopped| stopped.0)
    }
}

/// What a thread reads.
pub struct Pump<'a, T> {
    pieces: Option<Receiver<io::Result<Vec<u8>>>>,
    piece: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<T>>,
    interrupted: &'a dyn Fn() -> Option<i32>,
}

impl<'a, T: Send + 'static> Pump<'a, T> {
    /// Reads what `open` opens to its end; `finish` runs behind that, in the same thread. `interrupted` tells whether to stop, and why.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static,
        finish: impl FnOnce() -> T + Send + 'static,
        interrupted: &'a dyn Fn() -> Option<i32>,
    ) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(WAITING);
        let work = move || {
            let mut input = match open() {
                Ok(input) => input,
                Err(error) => {
                    // Nobody reads any more, then nobody is to be told.
                    drop(sender.send(Err(error)));
                    return finish();
                }
            };
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                let read = input.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                let is_end = !matches!(read, Ok(PIECE));
                if !piece.is_empty() && sender.send(Ok(piece)).is_err() {
                    break;
                }
                if let Err(error) = read {
                    drop(sender.send(Err(error)));
                }
                if is_end {
                    break;
                }
            }
            drop(sender);
            finish()
        };
        let thread = std::thread::Builder::new().name("unpack".into()).spawn(work)?;
        let (pieces, thread) = (Some(pieces), Some(thread));
        Ok(Self { pieces, piece: Vec::new(), at: 0, thread, interrupted })
    }

    /// What `finish` gave. What was not read is lost. `None`: the thread panicked.
    pub fn finish(mut self) -> Option<T> {
        self.pieces = None;
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl<T> Pump<'_, T> {
    /// Waits until there is something to take, or nothing more to come.
    fn fill(&mut self) -> io::Result<()> {
        while self.at == self.piece.len() {
            let Some(pieces) = &self.pieces else { return Ok(()) };
            match pieces.recv_timeout(PATIENCE) {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(signal) = (self.interrupted)() {
                return Err(io::Error::other(Stopped(signal)));
            }
        }
        Ok(())
    }
}

impl<T> Read for Pump<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_errors_come_behind_it() {
        let bytes: Vec<u8> = (0..500_000u32).map(|i| i as u8).collect();
        let copy = bytes.clone();
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
        let open = || Ok(Box::new(io::Cursor::new(copy).chain(Broken)) as Box<dyn Read + Send>);
        let mut pump = Pump::start(open, || 7, &|| None).unwrap();
        let mut read = Vec::new();
        assert_eq!(pump.read_to_end(&mut read).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read == bytes);
        assert_eq!(pump.finish(), Some(7));
    }

    #[test]
    fn whoever_waits_notices_that_it_is_to_stop() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut pump = Pump::start(|| Ok(Box::new(reader)), || (), &|| Some(2)).unwrap();
        let error = pump.read(&mut [0]).unwrap_err();
        assert_eq!(Stopped::of(&error), Some(2));
    }
}
