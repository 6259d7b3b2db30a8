//! `detach`: takes back what attach made for one run of the VM: its initrd, which holds keys, and the note.
//!
//! The disks stay. They hold the guest's changes, so they belong to what the VM is, and are removed with its directory by
//! `banger vm delete`.

use std::fs;
use std::io;

use super::attach::NOTE;
use super::disk_error::DiskError;
use super::volumes;
use crate::contract::record::Vm;
use crate::state::dir::VmDir;
use crate::state::lock::{VmLock, is_alive};

/// Detaches the disks of `vm`; whether there was anything to detach.
pub fn detach(vm: &Vm, _: &VmLock) -> Result<bool, DiskError> {
    let dir = VmDir::at(&vm.paths.dir);
    if is_alive(&dir) {
        return Err(DiskError::Alive(vm.id.clone()));
    }
    let note = dir.path().join(NOTE);
    let halves = [dir.root(), dir.upper(), dir.work(), dir.initrd()].map(|path| volumes::with_suffix(&path));
    let mut changed = false;
    for path in [dir.initrd(), note].into_iter().chain(halves) {
        match fs::remove_file(&path) {
            Ok(()) => changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DiskError::Remove { path, source }),
        }
    }
    Ok(changed)
}
