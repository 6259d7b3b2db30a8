//! Locks that only root can take: flocks on files in a directory of root's.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use banger_contract::{Coded, ErrorCode};

/// Where the locks are.
const DIRECTORY: &str = "/run/banger";

/// A lock that is not to be had.
#[derive(Debug, Error)]
pub enum RootLockError {
    /// Others held it all the time.
    #[error("the lock {path:?} was held by others for {} s", .waited.as_secs())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// The directory could be written by others than root.
    #[error("{0:?} is not a directory that only root can write")]
    Unsafe(PathBuf),
    /// The file cannot be opened or locked.
    #[error("cannot lock {path:?}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for RootLockError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Busy { .. } => ErrorCode::Busy,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            Self::Unsafe(_) | Self::Io { .. } => ErrorCode::Failed,
        }
    }
}

/// The held lock; dropping it, or dying, releases it. Programs that are started meanwhile inherit it, so when this one is
/// killed the lock lasts until what it had started has ended, too.
#[derive(Debug)]
pub struct RootLock {
    file: File,
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // Whoever has inherited it: what was to be kept apart is done. Should this fail, closing the file does it.
        drop(self.file.unlock());
    }
}

impl AsFd for RootLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl RootLock {
    /// Takes the lock `name`, waiting at most `patience` for others who hold it.
    ///
    /// # Errors
    /// Others held it all the time, or the directory is not root's.
    pub fn acquire(name: &str, patience: Duration) -> Result<Self, RootLockError> {
        let (path, file) = open(name, 0o600)?;
        let error = |source| RootLockError::Io { path: path.clone(), source };
        wait(&file, patience)
            .map_err(error)?
            .ok_or(RootLockError::Busy { path: path.clone(), waited: patience })?;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).map_err(|e| error(e.into()))?;
        Ok(Self { file })
    }
}

/// Opens the lock file `name`, which others may read as `mode` lets them, in the directory that is root's alone.
fn open(name: &str, mode: u32) -> Result<(PathBuf, File), RootLockError> {
    let dir = Path::new(DIRECTORY);
    let path = dir.join(name);
    let error = |source| RootLockError::Io { path: path.clone(), source };
    match DirBuilder::new().mode(0o755).create(dir) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error(source)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(dir).map_err(error)?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(RootLockError::Unsafe(dir.to_owned()));
    }
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(error)?;
    Ok((path, file))
}

/// A lock that lasts as long as the process that took it, which says in the file what it does. Everybody can read that.
#[derive(Debug)]
pub struct Beacon {
    file: File,
}

impl Beacon {
    /// Takes the lock `name`; `None` where another process has it.
    ///
    /// # Errors
    /// The file cannot be opened or locked, or the directory is not root's.
    pub fn light(name: &str) -> Result<Option<Self>, RootLockError> {
        let (path, file) = open(name, 0o644)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(RootLockError::Io { path, source }),
        }
    }

    /// Says `text`, at most [`SAID`] bytes, instead of what was said before.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn say(&self, text: &str) -> io::Result<()> {
        // Padded and in one call, so that a reader never sees half of it.
        let line = format!("{text:<width$}", width = SAID);
        self.file.write_all_at(&line.as_bytes()[..SAID], 0)
    }
}

/// How long what a [`Beacon`] says is, bytes.
const SAID: usize = 64;

/// What the process says that holds the [`Beacon`] `name`; `None` where nobody does.
pub fn beacon(name: &str) -> Option<String> {
    let mut file = File::open(Path::new(DIRECTORY).join(name)).ok()?;
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    file.by_ref().take(SAID as u64).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// Tries until it succeeds or `patience` is over (`None`). flock(2) has no deadline of its own, and holders keep the lock
/// for some 20 ms.
fn wait(file: &File, patience: Duration) -> io::Result<Option<()>> {
    let end = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(())),
            Err(TryLockError::Error(source)) => return Err(source),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
