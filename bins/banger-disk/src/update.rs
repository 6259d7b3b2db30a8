//! `update`: makes the disks that a VM has as large as its record says, also while it runs. The guest grows the filesystems.

use std::io::{Seek, SeekFrom};
use std::path::Path;

use super::disk_error::DiskError;
use super::volumes;
use banger_contract::record::{Disk, DiskBackend, Vm};
use banger_state::dir::VmDir;
use banger_state::lock::VmLock;

/// Grows the disks of `vm`; whether one was too small.
///
/// # Errors
/// [`DiskError::Backend`], before anything has changed, for a root that is a device.
pub fn update(vm: &Vm, disk: &Disk, _: &VmLock) -> Result<bool, DiskError> {
    if disk.backend == DiskBackend::Dm && size(Path::new(&disk.root_device))? < vm.rootfs_size_bytes {
        let reason = "a device-mapper root grows when the VM starts, not while it runs".to_owned();
        return Err(DiskError::Backend { backend: DiskBackend::Dm, reason });
    }
    volumes::grow_kept(vm, &VmDir::at(&vm.paths.dir))
}

/// How large a device is, bytes.
fn size(path: &Path) -> Result<u64, DiskError> {
    let read = |source| DiskError::Read { path: path.to_owned(), source };
    volumes::open(path)?.seek(SeekFrom::End(0)).map_err(read)
}
