//! Fetching the files of an image: several at once, each checked while it comes, and gone on with where an earlier attempt stopped.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::PullError;
use super::manifest::Descriptor;
use super::session::Session;

/// How many files are fetched at once.
const THREADS: usize = 3;

/// How often one file is gone on with after a connection broke.
const ATTEMPTS: u32 = 20;

/// How often without a single new byte.
const IDLE_ATTEMPTS: u32 = 3;

/// The pause after a broken connection.
const PAUSE: Duration = Duration::from_millis(300);

/// The content and progress of one file.
struct Part<'a> {
    session: &'a Session<'a>,
    descriptor: &'a Descriptor,
    /// For messages.
    what: String,
    path: PathBuf,
    hash: Sha256,
    have: u64,
}

/// Where in a layout the file with this digest is, which was checked to be one.
pub(super) fn path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replacen(':', "/", 1))
}

/// Fetches `files` into `layout`. `progress` is told how many bytes have come, now and then.
pub(super) fn fetch_all(
    session: &Session,
    layout: &Path,
    files: &[&Descriptor],
    progress: &mut dyn FnMut(u64),
) -> Result<(), PullError> {
    let queue: Mutex<VecDeque<&Descriptor>> = Mutex::new(files.iter().copied().collect());
    let stop = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    let worker = |tell: Sender<u64>| {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(file) = next else { return Ok(()) };
            if let Err(error) = fetch(session, layout, file, &tell, &stop) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                let tell = tell.clone();
                let worker = &worker;
                scope.spawn(move || worker(tell))
            })
            .collect();
        drop(tell);
        let mut bytes = 0;
        for more in told {
            bytes += more;
            progress(bytes);
        }
        let results: Vec<_> =
            workers.into_iter().map(|w| w.join().expect("a worker does not panic")).collect();
        results.into_iter().collect()
    })
}

fn fetch(
    session: &Session,
    layout: &Path,
    descriptor: &Descriptor,
    tell: &Sender<u64>,
    stop: &AtomicBool,
) -> Result<(), PullError> {
    let target = path(layout, &descriptor.digest);
    if fs::metadata(&target).is_ok_and(|m| m.is_file() && m.len() == descriptor.size) {
        // It was checked before it came to this name, and is again when it is read.
        let _ = tell.send(descriptor.size);
        return Ok(());
    }
    let what = format!("the file {}", descriptor.digest);
    let path = target.with_extension("part");
    let mut part = Part { session, descriptor, what, path, hash: Sha256::new(), have: 0 };
    let resumed = part.resume()?;
    let _ = tell.send(part.have);
    part.complete(tell, stop)?;
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    if part.is_right() || (resumed && part.again(tell, stop)?) {
        let error = |source| PullError::File { path: target.clone(), source };
        return fs::rename(&part.path, &target).map_err(error);
    }
    part.forget()?;
    Err(session.answer(&part.what, "has another content than its digest says"))
}

impl Part<'_> {
    fn error(&self, source: io::Error) -> PullError {
        PullError::File { path: self.path.clone(), source }
    }

    /// Takes over what an earlier attempt left; whether it left anything.
    fn resume(&mut self) -> Result<bool, PullError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.error(error)),
        };
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(|error| self.error(error))? {
                0 => break,
                count => {
                    self.hash.update(&buffer[..count]);
                    self.have += count as u64;
                }
            }
        }
        if self.have > self.descriptor.size {
            self.forget()?;
        }
        Ok(self.have > 0)
    }

    /// Begins anew.
    fn forget(&mut self) -> Result<(), PullError> {
        (self.hash, self.have) = (Sha256::new(), 0);
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(error)),
            _ => Ok(()),
        }
    }

    /// What an earlier attempt left was not the beginning of this: everything once more; whether it is right then.
    fn again(&mut self, tell: &Sender<u64>, stop: &AtomicBool) -> Result<bool, PullError> {
        self.forget()?;
        self.complete(tell, stop)?;
        Ok(self.is_right())
    }

    fn is_right(&self) -> bool {
        let found: String = self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.have == self.descriptor.size && self.descriptor.digest.strip_prefix("sha256:") == Some(&found)
    }

    /// Fetches what is missing, as often as it takes within reason.
    fn complete(&mut self, tell: &Sender<u64>, stop: &AtomicBool) -> Result<(), PullError> {
        let (mut attempts, mut idle) = (0, 0);
        while self.have < self.descriptor.size && !stop.load(Ordering::Relaxed) {
            let before = self.have;
            let Err(broken) = self.continued(tell, stop)? else { continue };
            attempts += 1;
            idle = if self.have > before { 0 } else { idle + 1 };
            if attempts >= ATTEMPTS || idle >= IDLE_ATTEMPTS {
                return Err(self.session.broken(&self.what, broken));
            }
            std::thread::sleep(PAUSE * attempts);
        }
        if self.descriptor.size == 0 {
            File::create(&self.path).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// One request. The inner error: the connection broke, and what came before is kept.
    fn continued(&mut self, tell: &Sender<u64>, stop: &AtomicBool) -> Result<io::Result<()>, PullError> {
        let mut answer = self.session.get("blobs", &self.descriptor.digest, "*/*", self.have);
        if matches!(answer, Err(PullError::Status { status: 416, .. })) && self.have > 0 {
            self.forget()?;
            answer = self.session.get("blobs", &self.descriptor.digest, "*/*", 0);
        }
        let answer = answer?;
        if self.have > 0 {
            let wanted = format!("bytes {}-", self.have);
            let goes_on = answer.status == 206
                && answer.header("content-range").is_some_and(|range| range.trim().starts_with(&wanted));
            if !goes_on {
                // Another part than the one asked for is of no use.
                let whole = answer.status == 200;
                self.forget()?;
                if !whole {
                    return Ok(Err(io::Error::other("the registry gives another part than it is asked for")));
                }
            }
        }
        let left = self.descriptor.size - self.have;
        if let Some(length) = answer.length().filter(|length| *length != left) {
            let problem = format!("has {length} bytes where its manifest says {left}");
            self.forget()?;
            return Err(self.session.answer(&self.what, &problem));
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        let mut file = file.map_err(|error| self.error(error))?;
        let mut body = answer.into_body();
        let mut buffer = vec![0; 1 << 17];
        while !stop.load(Ordering::Relaxed) {
            let count = match body.read(&mut buffer) {
                Ok(0) if self.have == self.descriptor.size => return Ok(Ok(())),
                Ok(0) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => return Ok(Err(error)),
            };
            if self.have + count as u64 > self.descriptor.size {
                self.forget()?;
                return Err(self.session.answer(&self.what, "is longer than its manifest says"));
            }
            file.write_all(&buffer[..count]).map_err(|error| self.error(error))?;
            self.hash.update(&buffer[..count]);
            self.have += count as u64;
            let _ = tell.send(count as u64);
        }
        Ok(Ok(()))
    }
}
