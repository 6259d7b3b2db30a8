//! `gc`: removes what belongs to nobody: unfinished images, kernels and downloads, and directories of VMs that are no more.

use std::collections::BTreeSet;
use std::fs;

use super::disk_error::DiskError;
use super::{build, kernel, registry};
use banger_contract::Coded;
use banger_contract::types::VmId;
use banger_state::dir::{StateDir, VmDir};
use banger_state::lock::{CacheLock, ImagesLock, LockError, VmLock, is_alive};

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// The paths that are gone.
    pub removed: Vec<String>,
    /// What could not be removed.
    pub errors: Vec<Box<dyn Coded>>,
}

/// Collects in `state`. The VMs in `keep` stay, as do those that run, those whose lifecycle somebody else holds, and those that
/// `is_recorded` knows: the list is from before, and a VM may have been planned since.
pub fn collect(state: &StateDir, keep: &BTreeSet<VmId>, is_recorded: &dyn Fn(&VmId) -> bool) -> Collected {
    let mut collected = Collected::default();
    unfinished(state, &mut collected);
    downloads(state, &mut collected);
    for entry in fs::read_dir(state.vms()).into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<VmId>().ok()) else {
            continue;
        };
        if keep.contains(&id) || is_recorded(&id) {
            continue;
        }
        match remove(state, &id) {
            Ok(true) => collected.removed.push(state.vm(&id).to_string_lossy().into_owned()),
            Ok(false) => {}
            Err(error) => collected.errors.push(Box::new(error)),
        }
    }
    collected
}

fn unfinished(state: &StateDir, collected: &mut Collected) {
    if !state.images().is_dir() && !state.kernels().is_dir() {
        return;
    }
    let lock = match ImagesLock::acquire(state, "banger-disk gc") {
        Ok(lock) => lock,
        // A build is under way, and what it makes is no leftover.
        Err(LockError::Busy { .. }) => return,
        Err(error) => return collected.errors.push(Box::new(error)),
    };
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    match build::clean_leftovers(state, &lock) {
        Ok(removed) => collected.removed.extend(removed.into_iter().map(text)),
        Err(error) => collected.errors.push(Box::new(error)),
    }
    match kernel::clean_leftovers(state, &lock) {
        Ok(removed) => collected.removed.extend(removed.into_iter().map(text)),
        Err(error) => collected.errors.push(Box::new(error)),
    }
}

/// What downloads left, unless one is under way.
fn downloads(state: &StateDir, collected: &mut Collected) {
    let directories = [state.layouts(), state.downloads()];
    if !directories.iter().any(|directory| directory.is_dir()) {
        return;
    }
    let _lock = match CacheLock::acquire(state, "banger-disk gc") {
        Ok(lock) => lock,
        Err(LockError::Busy { .. }) => return,
        Err(error) => return collected.errors.push(Box::new(error)),
    };
    for directory in directories {
        match registry::remove(&directory) {
            Ok(true) => collected.removed.push(directory.to_string_lossy().into_owned()),
            Ok(false) => {}
            Err(error) => collected.errors.push(Box::new(error)),
        }
    }
}

/// Removes the directory of the VM `id`; `Ok(false)`: it is somebody's after all.
fn remove(state: &StateDir, id: &VmId) -> Result<bool, DiskError> {
    let lock = match VmLock::acquire(state, id, "banger-disk gc") {
        Ok(lock) => lock,
        Err(LockError::Busy { .. }) => return Ok(false),
        Err(error) => return Err(DiskError::Lock(id.clone(), error)),
    };
    let path = state.vm(id);
    if is_alive(&VmDir::at(&path)) {
        return Ok(false);
    }
    fs::remove_dir_all(&path).map_err(|source| DiskError::Remove { path, source })?;
    // Nobody waits for the lock of a VM that is no more; the file is all that is left of it.
    drop(lock.remove_files(state, id));
    Ok(true)
}
