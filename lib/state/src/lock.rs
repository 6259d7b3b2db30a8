//! Locks are flock(2)s, so a crash releases them. A guard is proof: what changes a VM takes one as an argument.
//!
//! Order: a VM's lifecycle, then creation or images. The outermost unprivileged program takes the lifecycle lock and its
//! children inherit the descriptor ([`VmLock::inherited`]), so it lasts until the last stage has ended even when the
//! outermost program is killed. VMM and supervisor never inherit it (descriptors are close-on-exec).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::dir::{StateDir, VmDir};
use banger_contract::error::escape_controls;
use banger_contract::record::Vm;
use banger_contract::types::VmId;
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::fd;

/// The variable with the number of the descriptor on which the parent process holds the VM's lifecycle lock.
pub const LOCK_FD_VARIABLE: &str = "BANGER_LOCK_FD";

/// A lock that is not to be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("{what} is in use by {holder}")]
    Busy {
        /// What is locked.
        what: String,
        /// Who holds it: what it does, and its process.
        holder: String,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {path:?}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The descriptor that was handed in is not this lock.
    #[error("the inherited descriptor is not the lock {path:?}")]
    NotThisLock {
        /// The lock file.
        path: PathBuf,
    },
    /// The VM's directory is not in a state directory.
    #[error("vm.paths.dir {0:?} is not a VM's directory in a state directory (…/vms/<id>)")]
    Directory(String),
    /// The variable is not a descriptor.
    #[error("{LOCK_FD_VARIABLE} is {0:?}, which is not an open descriptor")]
    Descriptor(String),
}

impl Coded for LockError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Busy { .. } => ErrorCode::Busy,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Io { .. } => ErrorCode::Failed,
            Self::NotThisLock { .. } | Self::Directory(_) | Self::Descriptor(_) => ErrorCode::BadInput,
        }
    }
    fn details(&self) -> Map<String, Value> {
        match self {
            Self::Busy { holder, .. } => Map::from_iter([("holder".to_owned(), holder.clone().into())]),
            _ => Map::new(),
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::Busy { .. }).then(|| "try again when that has ended".into())
    }
}

/// The state directory that `vm` lives in, by its record.
///
/// # Errors
/// [`LockError::Directory`].
pub fn state_of(vm: &Vm) -> Result<StateDir, LockError> {
    let dir = Path::new(&vm.paths.dir);
    let ours = dir.is_absolute() && dir.file_name().is_some_and(|name| name == vm.id.as_str());
    let state = StateDir::of_vm_dir(dir).filter(|_| ours);
    state.ok_or_else(|| LockError::Directory(vm.paths.dir.clone()))
}

/// The lifecycle lock of `vm`: the parent's where it handed one down, else a new one. `operation` names its holder to others.
///
/// Call it once, before any thread or child process exists: an inherited descriptor becomes close-on-exec here.
///
/// # Errors
/// [`LockError`].
pub fn vm_lock(vm: &Vm, operation: &str) -> Result<VmLock, LockError> {
    let state = state_of(vm)?;
    #[expect(clippy::disallowed_methods, reason = "whoever asks for the lock inherits it from its caller")]
    let inherited = std::env::var_os(LOCK_FD_VARIABLE);
    let Some(text) = inherited else {
        return VmLock::acquire(&state, &vm.id, operation);
    };
    let shown = text.to_string_lossy().into_owned();
    let fd = shown.parse().ok().and_then(fd::inherit).ok_or(LockError::Descriptor(shown))?;
    VmLock::inherited(&state, &vm.id, fd)
}

/// The VMs of which there are lock files, whether or not there are such VMs. Without those that somebody is about to lock, which is
/// when a file is empty.
pub fn named_by_files(state: &StateDir) -> io::Result<BTreeSet<VmId>> {
    let entries = match std::fs::read_dir(state.locks()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let (mut named, mut awaited) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".lock")?.split_once('-')?.1.parse().ok());
        let Some(id): Option<VmId> = id else { continue };
        let empty = entry.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if empty { &mut awaited } else { &mut named }.insert(id);
    }
    Ok(&named - &awaited)
}

/// Opens and locks `path` without waiting; the holder leaves its name in the file.
fn lock_file(path: &Path, what: &str, operation: &str) -> Result<File, LockError> {
    let error = |source| LockError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            drop(file.take(200).read_to_string(&mut holder));
            let holder = escape_controls(holder.trim());
            let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
            return Err(LockError::Busy { what: what.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    let name = format!("{operation} (process {})\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(name.as_bytes()))
        .map_err(error)?;
    Ok(file)
}

/// Proof that this program, or the one that started it, changes the VM's lifecycle alone.
#[derive(Debug)]
pub struct VmLock {
    file: File,
}

impl VmLock {
    fn path(state: &StateDir, vm: &VmId) -> PathBuf {
        state.locks().join(format!("vm-{vm}.lock"))
    }

    /// Takes the lock without waiting. `operation` tells others who holds it, such as `banger vm stop`.
    pub fn acquire(state: &StateDir, vm: &VmId, operation: &str) -> Result<Self, LockError> {
        lock_file(&Self::path(state, vm), &format!("VM {vm}"), operation).map(|file| Self { file })
    }

    /// Takes over the lock that the parent process holds and handed down as `fd`.
    pub fn inherited(state: &StateDir, vm: &VmId, fd: OwnedFd) -> Result<Self, LockError> {
        let path = Self::path(state, vm);
        let error = |source| LockError::Io { path: path.clone(), source };
        let file = File::from(fd);
        let (ours, theirs) = (file.metadata().map_err(error)?, std::fs::metadata(&path).map_err(error)?);
        if (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()) {
            return Err(LockError::NotThisLock { path });
        }
        // Same open file description as the parent's: this succeeds at once, and fails if the parent lied.
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(LockError::NotThisLock { path }),
            Err(TryLockError::Error(source)) => Err(error(source)),
        }
    }

    /// Removes the lock files of a VM that is no more; the lock itself lasts until the guard is dropped. Files that are not
    /// there are no error.
    pub fn remove_files(&self, state: &StateDir, vm: &VmId) -> io::Result<()> {
        let locks = state.locks();
        for path in [Self::path(state, vm), SessionLock::path(state, vm), locks.join(format!("ws-{vm}.lock"))]
        {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl AsFd for VmLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Proof that this program alone copies into or out of the VM's workspace.
#[derive(Debug)]
pub struct WorkspaceLock {
    _file: File,
}

impl WorkspaceLock {
    /// Takes the lock without waiting.
    pub fn acquire(state: &StateDir, vm: &VmId, operation: &str) -> Result<Self, LockError> {
        let path = state.locks().join(format!("ws-{vm}.lock"));
        lock_file(&path, &format!("the workspace of VM {vm}"), operation).map(|file| Self { _file: file })
    }
}

/// Proof that this program alone changes images.
#[derive(Debug)]
pub struct ImagesLock {
    file: File,
}

impl ImagesLock {
    /// Takes the lock without waiting.
    pub fn acquire(state: &StateDir, operation: &str) -> Result<Self, LockError> {
        let path = state.locks().join("images.lock");
        lock_file(&path, "the image store", operation).map(|file| Self { file })
    }
}

impl AsFd for ImagesLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Proof that this program alone downloads into the cache.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl CacheLock {
    /// Takes the lock without waiting.
    pub fn acquire(state: &StateDir, operation: &str) -> Result<Self, LockError> {
        let path = state.locks().join("cache.lock");
        lock_file(&path, "the download cache", operation).map(|file| Self { _file: file })
    }
}

/// Proof that the command which makes the VM, or which will delete it (`vm run --rm`), still runs. Where such a VM's session is
/// free, its command was killed and the VM is a wreck for the next command to clean.
#[derive(Debug)]
pub struct SessionLock {
    file: File,
}

impl SessionLock {
    fn path(state: &StateDir, vm: &VmId) -> PathBuf {
        state.locks().join(format!("run-{vm}.lock"))
    }

    /// Takes the lock without waiting.
    pub fn acquire(state: &StateDir, vm: &VmId, operation: &str) -> Result<Self, LockError> {
        lock_file(&Self::path(state, vm), &format!("VM {vm}"), operation).map(|file| Self { file })
    }
}

impl AsFd for SessionLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Life itself: held by a VM's supervisor, inherited by its VMM, released by the kernel with the last of the two.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock without waiting; [`LockError::Busy`] means that the VM runs.
    pub fn acquire(dir: &VmDir, operation: &str) -> Result<Self, LockError> {
        lock_file(&dir.run_lock(), "the VM's run lock", operation).map(|file| Self { file })
    }
}

impl AsFd for RunLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether the VM runs: somebody holds its run lock. The probe holds a shared lock for an instant, so a start at that very
/// moment could see it; starting programs therefore hold the lifecycle lock, as probing ones that act on the answer do.
pub fn is_alive(dir: &VmDir) -> bool {
    let Ok(file) = File::open(dir.run_lock()) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_lock_names_its_holder_and_children_inherit_it() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::at(temp.path());
        std::fs::create_dir(state.locks()).unwrap();
        let vm = VmId::from_bytes([1; 6]);
        let lock = VmLock::acquire(&state, &vm, "banger vm stop").unwrap();
        let error = VmLock::acquire(&state, &vm, "other").unwrap_err();
        assert_eq!(error.code(), ErrorCode::Busy);
        assert!(error.to_string().contains("banger vm stop (process "), "{error}");
        let inherited = VmLock::inherited(&state, &vm, lock.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(lock);
        assert!(VmLock::acquire(&state, &vm, "other").is_err(), "the child's descriptor still holds it");
        drop(inherited);
        VmLock::acquire(&state, &vm, "other").unwrap();
        let stranger = File::open("/dev/null").unwrap();
        assert!(matches!(
            VmLock::inherited(&state, &vm, stranger.into()),
            Err(LockError::NotThisLock { .. })
        ));
    }
}
