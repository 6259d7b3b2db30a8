//! `check`: the section "disk" of a record against the host.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::disk_error::{DiskError, name};
use super::{dm, volumes};
use banger_contract::record::{Disk, DiskBackend, Vm};
use banger_state::dir::VmDir;

/// Compares `disk` with the files that it names. All that is wrong is in one error.
pub fn check(vm: &Vm, disk: &Disk) -> Result<(), DiskError> {
    let dir = VmDir::at(&vm.paths.dir);
    let mut problems = Vec::new();
    let mut file = |what: &str, path: &str, least_bytes: u64| match fs::metadata(path) {
        Err(error) => problems.push(format!("{what} {path:?}: {error}")),
        Ok(metadata) if !metadata.is_file() => problems.push(format!("{what} {path:?} is not a file")),
        Ok(metadata) if metadata.len() < least_bytes => {
            problems.push(format!("{what} {path:?} has {} bytes, not {least_bytes}", metadata.len()));
        }
        Ok(_) => {}
    };
    let overlay = disk.backend == DiskBackend::Overlay;
    if disk.backend == DiskBackend::Dm {
        file("the file of changes", &dir.cow().to_string_lossy(), 1);
    } else {
        file("the root", &disk.root_device, if overlay { 1 } else { vm.rootfs_size_bytes });
    }
    if let Some(upper) = &disk.upper_device {
        file("the upper disk", upper, volumes::upper_size_bytes(vm));
    }
    file("the work disk", &disk.work_device, vm.work_size_bytes);
    file("the kernel", &disk.kernel, 1);
    file("the kernel", &disk.kernel_elf, 1);
    file("the initrd", &disk.initrd, 1);
    if disk.backend == DiskBackend::Dm {
        problems.extend(dm_problem(vm, &disk.root_device));
    }
    let own = |path: &str| Path::new(path).parent() == Some(dir.path());
    let writable = if disk.backend == DiskBackend::Dm {
        None
    } else if overlay {
        disk.upper_device.as_deref()
    } else {
        Some(disk.root_device.as_str())
    };
    match writable {
        Some(path) if own(path) => {}
        Some(path) => problems.push(format!("the VM would write to {path:?}, which is not its own")),
        None if disk.backend == DiskBackend::Dm => {}
        None => problems.push(format!("the backend {} lacks its upper disk", name(disk.backend))),
    }
    if !own(&disk.work_device) {
        problems.push(format!("the VM would write to {:?}, which is not its own", disk.work_device));
    }
    if problems.is_empty() { Ok(()) } else { Err(DiskError::Check { vm: vm.id.clone(), problems }) }
}

/// What is wrong with a device-mapper root.
fn dm_problem(vm: &Vm, device: &str) -> Option<String> {
    if Path::new(device) != dm::node(&vm.state_id, &vm.id, vm.owner_uid) {
        return Some(format!("the VM would write to {device:?}, which is not its own"));
    }
    let block = fs::metadata(device).is_ok_and(|metadata| metadata.file_type().is_block_device());
    (!block).then(|| format!("the root {device:?} is not a block device"))
}
