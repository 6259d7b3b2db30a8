//! The files from which VMs boot, as an image and a kernel of its own both keep them: what makes them out of a distribution's kernel,
//! and what makes them fit to be kept.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::initrd::{self, InitrdError};
use super::modules::Module;
use banger_contract::image::ImageFile;
use banger_contract::{Coded, ErrorCode};
use banger_formats::vmlinuz::{self, VmlinuzError};

/// The distribution's kernel's file name.
pub const KERNEL: &str = "vmlinuz";
/// The ELF kernel's file name.
pub const KERNEL_ELF: &str = "vmlinux";
/// The shared initrd segment's file name.
pub const INITRD: &str = "initrd.cpio";

/// The files of a kernel.
pub const KERNEL_FILES: [&str; 3] = [KERNEL, KERNEL_ELF, INITRD];

/// The largest vmlinuz that is read, bytes.
const MAX_VMLINUZ_BYTES: u64 = 128 << 20;

/// Files that cannot be made.
#[derive(Debug, Error)]
pub enum BootSetError {
    /// The kernel cannot be unpacked.
    #[error("the kernel {path:?} cannot be used")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VmlinuzError,
    },
    /// The initrd.
    #[error("cannot make the kernel's initrd segment")]
    Initrd(#[from] InitrdError),
    /// A file.
    #[error("cannot read or write {path:?}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for BootSetError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Kernel { .. } => ErrorCode::BadInput,
            Self::Initrd(error) => error.code(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::File { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Initrd(error) => error.hint(),
            _ => None,
        }
    }
}

/// A distribution's kernel, as it is and unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// The ELF kernel.
    pub elf: Vec<u8>,
    /// What `uname -r` says in the guest, where the kernel tells.
    pub release: Option<String>,
}

/// Reads the kernel `vmlinuz`.
pub fn unpack(vmlinuz: &Path) -> Result<Unpacked, BootSetError> {
    let packed = read_bounded(vmlinuz, MAX_VMLINUZ_BYTES)?;
    let elf = vmlinuz::elf(&packed);
    let elf = elf.map_err(|source| BootSetError::Kernel { path: vmlinuz.to_owned(), source })?;
    Ok(Unpacked { release: vmlinuz::release(&packed), elf })
}

/// Writes the ELF kernel and the shared initrd segment into `dir`.
pub fn write_unpacked(dir: &Path, elf: &[u8], modules: &[Module], guest: &[u8]) -> Result<(), BootSetError> {
    write(&dir.join(KERNEL_ELF), elf)?;
    write(&dir.join(INITRD), &initrd::kernel_segment(guest, modules)?)
}

/// Size and digest of every file; makes them read-only and durable. Those that `sparse` says yes to, which are all but holes, have no
/// digest.
pub fn seal(
    dir: &Path,
    names: &[&str],
    sparse: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, ImageFile>, BootSetError> {
    let mut files = BTreeMap::new();
    for name in names {
        let path = dir.join(name);
        let describe = || -> io::Result<ImageFile> {
            let mut file = File::open(&path)?;
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.sync_all()?;
            let size_bytes = file.metadata()?.len();
            let sha256 = if sparse(name) { None } else { Some(digest(&mut file)?) };
            Ok(ImageFile { size_bytes, sha256 })
        };
        let described = describe().map_err(|source| BootSetError::File { path: path.clone(), source })?;
        files.insert((*name).to_owned(), described);
    }
    Ok(files)
}

fn digest(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Writes a file that is there whole when this returns.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), BootSetError> {
    fs::write(path, bytes).map_err(|source| BootSetError::File { path: path.to_owned(), source })
}

/// All of a file; one that is longer than `limit` is an error.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, BootSetError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    let read = read.and_then(|n| {
        let fits = n as u64 <= limit;
        fits.then_some(()).ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "larger than expected"))
    });
    read.map(|()| bytes).map_err(|source| BootSetError::File { path: path.to_owned(), source })
}
