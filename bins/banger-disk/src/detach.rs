//! `detach`: takes back what attach made for one run of the VM: its initrd, which holds keys, and the note.
//!
//! A device-mapper root goes as well, and comes back with the next attach: its changes are in a file.
//!
//! The disks stay. They hold the guest's changes, so they belong to what the VM is, and are removed with its directory by
//! `banger vm delete`.

use std::fs;
use std::io;

use super::attach::NOTE;
use super::disk_error::DiskError;
use super::volumes::{self, Mapper};
use banger_contract::dm::DmRequest;
use banger_contract::record::Vm;
use banger_state::dir::VmDir;
use banger_state::lock::{VmLock, is_alive};

/// Detaches the disks of `vm`; whether there was anything to detach.
pub fn detach(vm: &Vm, mapper: &dyn Mapper, _: &VmLock) -> Result<bool, DiskError> {
    let dir = VmDir::at(&vm.paths.dir);
    if is_alive(&dir) {
        return Err(DiskError::Alive(vm.id.clone()));
    }
    let note = dir.path().join(NOTE);
    let halves = [dir.root(), dir.upper(), dir.cow(), dir.work(), dir.initrd()]
        .map(|path| volumes::with_suffix(&path));
    let mut changed = false;
    if dir.cow().exists() {
        let removed = mapper.remove(&DmRequest::of(vm));
        changed |= removed.map_err(|source| DiskError::Mapper { vm: vm.id.clone(), source })?.changed;
    }
    for path in [dir.initrd(), note].into_iter().chain(halves) {
        match fs::remove_file(&path) {
            Ok(()) => changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DiskError::Remove { path, source }),
        }
    }
    Ok(changed)
}
