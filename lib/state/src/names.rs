//! The names file, as the dispatcher keeps it: which VMs the resolver knows. It is a cache of what the database and the kernel
//! say, made anew after each VM that comes or goes.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::dir::StateDir;
use banger_contract::names::Names;
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::atomic::{self, WriteFileError};

/// How long others may take to write theirs, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file beside it that becomes it.
const DRAFT: &str = ".names";

/// The names file could not be kept.
#[derive(Debug, Error)]
pub enum NamesFileError {
    /// Its directory.
    #[error("cannot use the directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others write it without end.
    #[error("the names file is in use by another process")]
    Busy,
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteFileError),
}

impl Coded for NamesFileError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Directory { .. } => ErrorCode::Failed,
            Self::Busy => ErrorCode::Busy,
            Self::Write(error) => error.code(),
        }
    }
}

/// Proof that nobody else writes the names file: the lock on its directory.
#[derive(Debug)]
pub struct NamesLock {
    _dir: File,
    path: PathBuf,
}

impl NamesLock {
    /// Makes the directory where it is not there, and locks it. What goes into the file is to be found out after this, so that the last
    /// who writes knows most.
    ///
    /// # Errors
    /// The directory cannot be used, or others do not let go of it.
    pub fn acquire(state: &StateDir) -> Result<Self, NamesFileError> {
        let dir = state.dns();
        let error = |source| NamesFileError::Directory { path: dir.clone(), source };
        match DirBuilder::new().mode(0o755).create(&dir) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(error(source)),
            _ => {}
        }
        let file = File::open(&dir).map_err(error)?;
        // Whatever the umask: the resolver is nobody's process.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|e| error(e.into()))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _dir: file, path: state.names() }),
                Err(TryLockError::Error(source)) => return Err(error(source)),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return Err(NamesFileError::Busy),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Replaces the file where it says something else; removes it where there are no names.
    ///
    /// # Errors
    /// It cannot be written or removed.
    pub fn write(&self, names: &Names) -> Result<(), NamesFileError> {
        if names.items.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(NamesFileError::Directory { path: self.path.clone(), source })
                }
                _ => Ok(()),
            };
        }
        let bytes = names.to_bytes();
        if std::fs::read(&self.path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        // Not by `atomic::write`: whatever the umask here, too.
        Ok(atomic::write_by(&self.path.with_file_name(DRAFT), &self.path, &bytes, 0o644)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use banger_contract::names::NamedVm;

    #[test]
    fn the_file_is_there_for_everybody_while_there_are_names() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::at(temp.path());
        let vm = NamedVm {
            name: "dev1".parse().unwrap(),
            addresses: vec!["10.213.7.2".parse().unwrap()],
            forward: true,
        };
        let names = Names::new("0a1b2c3d".parse().unwrap(), vec![vm]);
        let lock = NamesLock::acquire(&state).unwrap();
        // The resolver is nobody's process, and root's umask may be strict.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        lock.write(&names).unwrap();
        rustix::process::umask(mask);
        assert_eq!(Names::parse(&std::fs::read(state.names()).unwrap()).unwrap(), names);
        for (path, mode) in [(state.dns(), 0o755), (state.names(), 0o644)] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        lock.write(&Names::new(names.state_id, vec![])).unwrap();
        assert!(!state.names().exists());
        lock.write(&Names::new("0a1b2c3d".parse().unwrap(), vec![])).unwrap();
        drop(lock);
        NamesLock::acquire(&state).unwrap();
    }
}
