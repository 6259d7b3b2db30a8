//! The lifecycle lock at the edge: inherited from the program above, else taken.

use std::path::Path;

use thiserror::Error;

use super::Failure;
use crate::contract::record::Vm;
use crate::contract::{Coded, ErrorCode};
use crate::state::dir::StateDir;
use crate::state::lock::VmLock;
use crate::sys::fd;

/// The variable with the number of the descriptor on which the parent process holds the VM's lifecycle lock.
pub const LOCK_FD_VARIABLE: &str = "BANGER_LOCK_FD";

/// Why the lock cannot be found.
#[derive(Debug, Error)]
pub enum LockEdgeError {
    /// The VM's directory is not in a state directory.
    #[error("vm.paths.dir {0:?} is not a VM's directory in a state directory (…/vms/<id>)")]
    Directory(String),
    /// The variable is no descriptor.
    #[error("{LOCK_FD_VARIABLE} is {0:?}, which is not an open descriptor")]
    Descriptor(String),
}

impl Coded for LockEdgeError {
    fn code(&self) -> ErrorCode {
        ErrorCode::BadInput
    }
}

/// The state directory that `vm` lives in, by its record.
pub fn state_of(vm: &Vm) -> Result<StateDir, Failure> {
    let dir = Path::new(&vm.paths.dir);
    let ours = dir.is_absolute() && dir.file_name().is_some_and(|name| name == vm.id.as_str());
    let state = StateDir::of_vm_dir(dir).filter(|_| ours);
    Ok(state.ok_or_else(|| LockEdgeError::Directory(vm.paths.dir.clone()))?)
}

/// The lifecycle lock of `vm`: the parent's where it handed one down, else a new one. `operation` names its holder to others.
///
/// Call it once, before any thread or child process exists: an inherited descriptor becomes close-on-exec here.
pub fn vm_lock(vm: &Vm, operation: &str) -> Result<VmLock, Failure> {
    let state = state_of(vm)?;
    let Some(text) = std::env::var_os(LOCK_FD_VARIABLE) else {
        return Ok(VmLock::acquire(&state, &vm.id, operation)?);
    };
    let shown = text.to_string_lossy().into_owned();
    let fd = shown.parse().ok().and_then(fd::inherit).ok_or(LockEdgeError::Descriptor(shown))?;
    Ok(VmLock::inherited(&state, &vm.id, fd)?)
}
