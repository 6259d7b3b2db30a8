//! `gc`: ends what runs and is not to, and removes sockets whose VM does not run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use thiserror::Error;

use super::error::VmmError;
use super::stop::{Manner, SOCKETS, stop};
use banger_contract::types::{StateId, VmId};
use banger_contract::{Coded, ErrorCode};
use banger_state::dir::{StateDir, VmDir};
use banger_state::lock::{LockError, VmLock, is_alive};

/// What went wrong with one VM, or with all.
#[derive(Debug, Error)]
pub enum GcError {
    /// The VMs' directory cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The list is another state directory's.
    #[error("the list is of state directory {listed}, and {path:?} is {found}")]
    OtherState {
        /// The list's.
        listed: String,
        /// The state directory.
        path: std::path::PathBuf,
        /// Its identifier.
        found: String,
    },
    /// Somebody works on the VM.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be ended.
    #[error(transparent)]
    Vmm(#[from] VmmError),
}

impl Coded for GcError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Read { .. } => ErrorCode::Failed,
            Self::OtherState { .. } => ErrorCode::Conflict,
            Self::Lock(error) => error.code(),
            Self::Vmm(error) => error.code(),
        }
    }
}

/// What was removed, for people, and what could not be.
#[derive(Debug, Default)]
pub struct Swept {
    /// `VM <id>` for one that was killed, a socket's path.
    pub removed: Vec<String>,
    /// One per VM that resisted.
    pub errors: Vec<GcError>,
}

/// Compares the VMs under `state` with those that are to stay: those of `keep`, and those of which `is_recorded` says, once nobody
/// else works on them, that they are the state directory's own.
///
/// # Errors
/// [`GcError::Read`], [`GcError::OtherState`].
pub fn sweep(
    state: &StateDir,
    state_id: &StateId,
    keep: &BTreeSet<VmId>,
    is_recorded: &dyn Fn(&VmId) -> bool,
) -> Result<Swept, GcError> {
    let mut swept = Swept::default();
    let found = std::fs::read_to_string(state.state_id()).unwrap_or_default();
    if !found.trim().is_empty() && found.trim() != state_id.as_str() {
        let (listed, found) = (state_id.to_string(), found.trim().to_owned());
        return Err(GcError::OtherState { listed, path: state.root().to_owned(), found });
    }
    let entries = match std::fs::read_dir(state.vms()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        entries => entries.map_err(|source| GcError::Read { path: state.vms(), source })?,
    };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<VmId>().ok());
    for id in ids {
        if let Err(error) =
            sweep_one(state, &id, &|| keep.contains(&id) || is_recorded(&id), &mut swept.removed)
        {
            swept.errors.push(error);
        }
    }
    Ok(swept)
}

fn sweep_one(
    state: &StateDir,
    id: &VmId,
    stays: &dyn Fn() -> bool,
    removed: &mut Vec<String>,
) -> Result<(), GcError> {
    let dir = &VmDir::at(state.vm(id));
    let sockets: Vec<_> = SOCKETS.iter().map(|name| dir.path().join(name)).filter(|p| is_there(p)).collect();
    let alive = is_alive(dir);
    if (alive && stays()) || (!alive && sockets.is_empty()) {
        return Ok(());
    }
    let lock = VmLock::acquire(state, id, "gc")?;
    // It may have been started between the look and the lock.
    if is_alive(dir) && stays() {
        return Ok(());
    }
    stop(dir, id.as_str(), Manner::Kill, &lock)?;
    if alive {
        removed.push(format!("VM {id}"));
    }
    removed.extend(sockets.iter().map(|path| path.to_string_lossy().into_owned()));
    Ok(())
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
