//! The filesystems of one VM, as files of its directory: copies of the image's seeds that cost milliseconds whatever their size.
//!
//! A file appears under its name only when it is whole. One that is there belongs to the VM: it holds the guest's changes and
//! is never made again, only removed with the VM.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::disk_error::DiskError;
use super::dm;
use super::dm_error::MapperError;
use banger_contract::dm::{DmReply, DmRequest};
use banger_contract::record::{DiskBackend, Vm};
use banger_contract::{Coded, ErrorCode};
use banger_formats::ext4;
use banger_host::fs::reflink;
use banger_state::dir::VmDir;

/// Where a file is made before it has its name.
pub(super) const NEW_SUFFIX: &str = ".new";

/// What this call made; removes it when dropped, unless kept.
#[derive(Debug, Default)]
pub(super) struct Made {
    files: Vec<PathBuf>,
}

impl Made {
    /// Makes `path` with `fill`, which writes into the new file.
    pub(super) fn file(
        &mut self,
        path: &Path,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), DiskError> {
        let new = with_suffix(path);
        let make = || -> io::Result<()> {
            // What a killed attach left half-made.
            if let Err(error) = fs::remove_file(&new)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(&new)?;
            fill(&file)?;
            fs::rename(&new, path)
        };
        match make() {
            Ok(()) => {
                self.files.push(path.to_owned());
                Ok(())
            }
            Err(source) => {
                // It may not have come into being; the first error is the one to tell.
                drop(fs::remove_file(&new));
                Err(DiskError::Make { path: path.to_owned(), source })
            }
        }
    }

    /// Everything went well.
    pub(super) fn keep(mut self) {
        self.files.clear();
    }

    /// Removes one file that was made after all.
    fn take_back(&mut self, path: &Path) {
        if let Some(at) = self.files.iter().position(|file| file == path) {
            drop(fs::remove_file(self.files.swap_remove(at)));
        }
    }

    /// Whether anything was made.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            // The error that brought us here is the one to tell.
            drop(fs::remove_file(file));
        }
    }
}

/// The name under which `path` is made.
pub(super) fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW_SUFFIX);
    PathBuf::from(name)
}

/// How the root is kept apart from its image, why so, and which device it is where it is not a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) backend: DiskBackend,
    pub(super) reason: String,
    pub(super) device: Option<PathBuf>,
}

/// Sees to it that the VM has its root; gives the backend.
pub(super) fn root(vm: &Vm, dir: &VmDir, mapper: &dyn Mapper, made: &mut Made) -> Result<Choice, DiskError> {
    if let Some(have) = kept(vm, dir) {
        let fits = matches!(vm.disk_backend, DiskBackend::Auto) || vm.disk_backend == have;
        if !fits {
            return Err(DiskError::OtherBackend { vm: vm.id.clone(), have, want: vm.disk_backend });
        }
        let device = if have == DiskBackend::Dm { Some(snapshot(vm, dir, mapper, made)?) } else { None };
        return Ok(Choice { backend: have, reason: "the VM has its changes in it already".into(), device });
    }
    let choice = |backend, reason: &str| Choice { backend, reason: reason.to_owned(), device: None };
    match vm.disk_backend {
        DiskBackend::Auto => {
            if let Some(device) = try_snapshot(vm, dir, mapper, made)? {
                let reason = "device-mapper is there, and the privilege to use it";
                return Ok(Choice { device: Some(device), ..choice(DiskBackend::Dm, reason) });
            }
            // A reflinked root cannot be kept from growing to its full size.
            if vm.max_changes_bytes.is_none() && reflink_root(vm, dir, made)? {
                return Ok(choice(DiskBackend::Reflink, "the filesystem can share the image's blocks"));
            }
            overlay(vm, dir, made)?;
            Ok(choice(
                DiskBackend::Overlay,
                "the filesystem cannot share blocks between files, so the guest joins the image and an empty disk",
            ))
        }
        DiskBackend::Reflink if reflink_root(vm, dir, made)? => Ok(choice(DiskBackend::Reflink, "asked for")),
        DiskBackend::Reflink => Err(DiskError::Backend {
            backend: DiskBackend::Reflink,
            reason: format!("the filesystem of {:?} cannot share blocks between files", vm.paths.dir),
        }),
        DiskBackend::Overlay => {
            overlay(vm, dir, made)?;
            Ok(choice(DiskBackend::Overlay, "asked for"))
        }
        DiskBackend::Copy => {
            let image = open(Path::new(&vm.paths.rootfs))?;
            made.file(&dir.root(), |file| {
                reflink::copy_sparse(&image, file)?;
                grow(file, vm.rootfs_size_bytes)
            })?;
            Ok(choice(DiskBackend::Copy, "asked for"))
        }
        DiskBackend::Dm => {
            let device = Some(snapshot(vm, dir, mapper, made)?);
            Ok(Choice { device, ..choice(DiskBackend::Dm, "asked for") })
        }
    }
}

/// The backend whose files the VM has.
fn kept(vm: &Vm, dir: &VmDir) -> Option<DiskBackend> {
    if dir.upper().exists() {
        return Some(DiskBackend::Overlay);
    }
    if dir.cow().exists() {
        return Some(DiskBackend::Dm);
    }
    // The same file either way, once it is there.
    let backend = if vm.disk_backend == DiskBackend::Copy { DiskBackend::Copy } else { DiskBackend::Reflink };
    dir.root().exists().then_some(backend)
}

/// Who makes device-mapper roots: this process where it is root, else the same program through sudo.
pub trait Mapper {
    /// Whether the caller may be expected to use device-mapper here without being asked for it.
    fn is_at_hand(&self, vm: &Vm) -> bool;

    /// Makes or finds the root.
    ///
    /// # Errors
    /// Whatever [`super::dm::create`] or the way to it gives.
    fn create(&self, request: &DmRequest) -> Result<DmReply, MapperError>;

    /// Removes the root; the file of changes stays.
    ///
    /// # Errors
    /// Whatever [`super::dm::remove`] or the way to it gives.
    fn remove(&self, request: &DmRequest) -> Result<DmReply, MapperError>;
}

/// The root as a device-mapper snapshot.
fn snapshot(vm: &Vm, dir: &VmDir, mapper: &dyn Mapper, made: &mut Made) -> Result<PathBuf, DiskError> {
    // The privileged part follows no symbolic link, so it is told where the files really are.
    let real =
        |path: &Path| path.canonicalize().map_err(|source| DiskError::Read { path: path.to_owned(), source });
    let base = real(Path::new(&vm.paths.rootfs))?;
    let length = fs::metadata(&base).map_err(|source| DiskError::Read { path: base.clone(), source })?.len();
    let size = vm.rootfs_size_bytes.max(length);
    if !dir.cow().exists() {
        made.file(&dir.cow(), |file| file.set_len(capped(vm, dm::cow_size_bytes(size))))?;
    }
    let cow = Some(real(&dir.cow())?);
    let request = DmRequest { base: Some(base), cow, size_bytes: Some(size), ..DmRequest::of(vm) };
    let reply = mapper.create(&request).map_err(|source| DiskError::Mapper { vm: vm.id.clone(), source })?;
    if reply.broken {
        return Err(DiskError::Broken { vm: vm.id.clone(), path: dir.cow() });
    }
    reply.device.ok_or(DiskError::Backend {
        backend: DiskBackend::Dm,
        reason: "it was made, and no device was told".into(),
    })
}

/// The same where nobody asked for it: `None` where it is not to be had.
fn try_snapshot(
    vm: &Vm,
    dir: &VmDir,
    mapper: &dyn Mapper,
    made: &mut Made,
) -> Result<Option<PathBuf>, DiskError> {
    if !mapper.is_at_hand(vm) {
        return Ok(None);
    }
    match snapshot(vm, dir, mapper, made) {
        Ok(device) => Ok(Some(device)),
        // No privilege, no module: the next best will do.
        Err(DiskError::Mapper { source, .. })
            if matches!(source.code(), ErrorCode::Denied | ErrorCode::Unsupported) =>
        {
            made.take_back(&dir.cow());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `Ok(false)`: the filesystem cannot.
fn reflink_root(vm: &Vm, dir: &VmDir, made: &mut Made) -> Result<bool, DiskError> {
    let image = open(Path::new(&vm.paths.rootfs))?;
    let mut shared = false;
    let result = made.file(&dir.root(), |file| {
        shared = reflink::reflink(&image, file)?;
        if !shared {
            return Err(io::ErrorKind::Unsupported.into());
        }
        grow(file, vm.rootfs_size_bytes)
    });
    match result {
        Err(DiskError::Make { source, .. }) if source.kind() == io::ErrorKind::Unsupported && !shared => {
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

fn overlay(vm: &Vm, dir: &VmDir, made: &mut Made) -> Result<(), DiskError> {
    from_seed(Path::new(&vm.paths.upper_seed), &dir.upper(), "banger-upper", upper_size_bytes(vm), made)
}

/// Makes `path` a filesystem of `size_bytes` after `seed`: a copy, which the guest grows when it mounts it. A filesystem does not shrink, so
/// where a smaller one is wanted an empty one is made. The guest knows it by the seed's UUID, and fills an empty work disk itself.
fn from_seed(
    seed: &Path,
    path: &Path,
    label: &str,
    size_bytes: u64,
    made: &mut Made,
) -> Result<(), DiskError> {
    let seed_size = open(seed)?.metadata().map_or(0, |metadata| metadata.len());
    if size_bytes >= seed_size {
        return clone(seed, path, size_bytes, made);
    }
    let uuid = ext4::uuid(seed)?;
    made.file(path, |file| {
        file.set_len(size_bytes)?;
        ext4::format(&with_suffix(path), label, &uuid).map_err(io::Error::other)
    })
}

/// How large the ext4 above the image is to be.
pub(super) fn upper_size_bytes(vm: &Vm) -> u64 {
    capped(vm, vm.rootfs_size_bytes)
}

fn capped(vm: &Vm, size_bytes: u64) -> u64 {
    vm.max_changes_bytes.map_or(size_bytes, |most| size_bytes.min(most))
}

/// Grows the files that the VM has to the sizes of its record; the guest grows the filesystems. Whether any was too small.
pub(super) fn grow_kept(vm: &Vm, dir: &VmDir) -> Result<bool, DiskError> {
    let cow_size = capped(vm, dm::cow_size_bytes(vm.rootfs_size_bytes));
    let wanted = [
        (dir.upper(), upper_size_bytes(vm)),
        (dir.cow(), cow_size),
        (dir.root(), vm.rootfs_size_bytes),
        (dir.work(), vm.work_size_bytes),
    ];
    let mut grown = false;
    for (path, size) in wanted {
        let grow = || -> io::Result<bool> {
            if fs::symlink_metadata(&path)?.len() >= size {
                return Ok(false);
            }
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            OpenOptions::new().write(true).custom_flags(flags).open(&path)?.set_len(size).map(|()| true)
        };
        match grow() {
            Ok(done) => grown |= done,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DiskError::Make { path, source }),
        }
    }
    Ok(grown)
}

/// Sees to it that the VM has its work disk.
pub(super) fn work(vm: &Vm, dir: &VmDir, made: &mut Made) -> Result<(), DiskError> {
    if dir.work().exists() {
        return Ok(());
    }
    from_seed(Path::new(&vm.paths.work_seed), &dir.work(), "banger-work", vm.work_size_bytes, made)
}

/// Makes `path` a copy of `seed`, `size_bytes` large if that is larger: the guest grows the filesystem when it mounts it.
fn clone(seed: &Path, path: &Path, size_bytes: u64, made: &mut Made) -> Result<(), DiskError> {
    let seed = open(seed)?;
    made.file(path, |file| {
        if !reflink::reflink(&seed, file)? {
            reflink::copy_sparse(&seed, file)?;
        }
        grow(file, size_bytes)
    })
}

fn grow(file: &File, size_bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < size_bytes { file.set_len(size_bytes) } else { Ok(()) }
}

pub(super) fn open(path: &Path) -> Result<File, DiskError> {
    File::open(path).map_err(|source| DiskError::Read { path: path.to_owned(), source })
}
