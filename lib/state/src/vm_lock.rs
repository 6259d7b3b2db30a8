//! The lifecycle lock of the VM of a record: inherited from the program above, else taken.

use std::path::Path;

use serde_json::{Map, Value};
use thiserror::Error;

use banger_contract::record::Vm;
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::fd;

use crate::dir::StateDir;
use crate::lock::{LockError, VmLock};

/// The variable with the number of the descriptor on which the parent process holds the VM's lifecycle lock.
pub const LOCK_FD_VARIABLE: &str = "BANGER_LOCK_FD";

/// Why the lock cannot be had.
#[derive(Debug, Error)]
pub enum VmLockError {
    /// The VM's directory is not in a state directory.
    #[error("vm.paths.dir {0:?} is not a VM's directory in a state directory (…/vms/<id>)")]
    Directory(String),
    /// The variable is not a descriptor.
    #[error("{LOCK_FD_VARIABLE} is {0:?}, which is not an open descriptor")]
    Descriptor(String),
    /// It is somebody else's, or cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl Coded for VmLockError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Directory(_) | Self::Descriptor(_) => ErrorCode::BadInput,
            Self::Lock(error) => error.code(),
        }
    }
    fn details(&self) -> Map<String, Value> {
        match self {
            Self::Directory(_) | Self::Descriptor(_) => Map::new(),
            Self::Lock(error) => error.details(),
        }
    }
}

/// The state directory that `vm` lives in, by its record.
///
/// # Errors
/// [`VmLockError::Directory`].
pub fn state_of(vm: &Vm) -> Result<StateDir, VmLockError> {
    let dir = Path::new(&vm.paths.dir);
    let ours = dir.is_absolute() && dir.file_name().is_some_and(|name| name == vm.id.as_str());
    let state = StateDir::of_vm_dir(dir).filter(|_| ours);
    state.ok_or_else(|| VmLockError::Directory(vm.paths.dir.clone()))
}

/// The lifecycle lock of `vm`: the parent's where it handed one down, else a new one. `operation` names its holder to others.
///
/// Call it once, before any thread or child process exists: an inherited descriptor becomes close-on-exec here.
///
/// # Errors
/// [`VmLockError`].
pub fn vm_lock(vm: &Vm, operation: &str) -> Result<VmLock, VmLockError> {
    let state = state_of(vm)?;
    #[expect(clippy::disallowed_methods, reason = "whoever asks for the lock inherits it from its caller")]
    let inherited = std::env::var_os(LOCK_FD_VARIABLE);
    let Some(text) = inherited else {
        return Ok(VmLock::acquire(&state, &vm.id, operation)?);
    };
    let shown = text.to_string_lossy().into_owned();
    let fd = shown.parse().ok().and_then(fd::inherit).ok_or(VmLockError::Descriptor(shown))?;
    Ok(VmLock::inherited(&state, &vm.id, fd)?)
}
