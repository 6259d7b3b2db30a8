//! `update`: makes the disks that a VM has as large as its record says, also while it runs. The guest grows the filesystems, and
//! disks never shrink: only the guest could tell what is in the part that would go.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;

use super::disk_error::DiskError;
use super::volumes;
use crate::contract::record::{Disk, DiskBackend, Vm};
use crate::state::dir::VmDir;
use crate::state::lock::VmLock;

/// Grows the disks of `vm`; whether one was smaller.
///
/// # Errors
/// [`DiskError::Shrinks`], before anything has changed; [`DiskError::Backend`] for a root that is a device.
pub fn update(vm: &Vm, disk: &Disk, _: &VmLock) -> Result<bool, DiskError> {
    let dir = VmDir::at(&vm.paths.dir);
    let root = match disk.backend {
        DiskBackend::Overlay => dir.upper(),
        DiskBackend::Dm => PathBuf::from(&disk.root_device),
        _ => dir.root(),
    };
    let mut small = Vec::new();
    for (what, path, wanted) in
        [("root", root, vm.rootfs_size_bytes), ("work disk", dir.work(), vm.work_size_bytes)]
    {
        let have = size(&path)?;
        if have > wanted {
            return Err(DiskError::Shrinks { vm: vm.id.clone(), what, have, wanted });
        }
        if have < wanted && what == "root" && disk.backend == DiskBackend::Dm {
            let reason = "a device-mapper root grows when the VM starts, not while it runs".to_owned();
            return Err(DiskError::Backend { backend: DiskBackend::Dm, reason });
        }
        small.extend((have < wanted).then_some((path, wanted)));
    }
    for (path, wanted) in &small {
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(*wanted))
            .map_err(|source| DiskError::Make { path: path.clone(), source })?;
    }
    Ok(!small.is_empty())
}

/// How large a file or a device is, bytes.
fn size(path: &std::path::Path) -> Result<u64, DiskError> {
    let mut file: File = volumes::open(path)?;
    file.seek(SeekFrom::End(0)).map_err(|source| DiskError::Read { path: path.to_owned(), source })
}
