//! Locks that only root can take: flocks on files in a directory of root's.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::contract::{Coded, ErrorCode};

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
    _file: File,
}

impl RootLock {
    /// Takes the lock `name`, waiting at most `patience` for others who hold it.
    ///
    /// # Errors
    /// Others held it all the time, or the directory is not root's.
    pub fn acquire(name: &str, patience: Duration) -> Result<Self, RootLockError> {
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
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(error)?;
        wait(&file, patience)
            .map_err(error)?
            .ok_or(RootLockError::Busy { path: path.clone(), waited: patience })?;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).map_err(|e| error(e.into()))?;
        Ok(Self { _file: file })
    }
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
