//! A kernel that is not part of an image, under `kernels/<name>/`: `vmlinuz`, `vmlinux`, `initrd.cpio` as in an image, and
//! `manifest.json` ([`KernelManifest`]). A VM asks for one by name instead of its image's own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::boot_set::{INITRD, KERNEL, KERNEL_ELF, KERNEL_FILES};
use banger_contract::kernel::{KernelManifest, KernelPaths, KernelRecord};
use banger_contract::types::{KernelName, VmName};
use banger_contract::{Coded, ErrorCode};
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// What unfinished kernels are called.
pub(super) const TMP_PREFIX: &str = ".tmp-";

/// The largest manifest that is read, bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// A kernel by its files. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What it is.
    pub manifest: KernelManifest,
    /// Its directory.
    pub dir: PathBuf,
    /// The kernel as its distribution ships it (bzImage).
    pub kernel: PathBuf,
    /// The kernel as an uncompressed ELF.
    pub kernel_elf: PathBuf,
    /// The shared initrd segment.
    pub initrd: PathBuf,
}

impl Kernel {
    /// The kernel that `manifest` describes and whose files are in `dir`.
    pub fn at(dir: PathBuf, manifest: KernelManifest) -> Self {
        let [kernel, kernel_elf, initrd] = [KERNEL, KERNEL_ELF, INITRD].map(|name| dir.join(name));
        Self { manifest, dir, kernel, kernel_elf, initrd }
    }

    /// The names of its files that are not there.
    pub fn missing(&self) -> Vec<&'static str> {
        KERNEL_FILES.into_iter().filter(|name| !self.dir.join(name).is_file()).collect()
    }

    /// The kernel as programs report it.
    pub fn record(&self) -> KernelRecord {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        KernelRecord {
            manifest: self.manifest.clone(),
            paths: KernelPaths {
                kernel: text(&self.kernel),
                kernel_elf: text(&self.kernel_elf),
                initrd: text(&self.initrd),
            },
            missing: self.missing().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// A kernel that cannot be used or removed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// There is none of that name.
    #[error("there is no kernel {0}")]
    Unknown(KernelName),
    /// Its directory or manifest cannot be read.
    #[error("cannot read the kernel at {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its manifest is not of its shape.
    #[error("the manifest of the kernel {name} is not valid")]
    Manifest {
        /// The kernel.
        name: KernelName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of it is gone.
    #[error("the kernel {name} lacks its file {path:?}")]
    MissingFile {
        /// The kernel.
        name: KernelName,
        /// The file.
        path: PathBuf,
    },
    /// VMs boot from it.
    #[error("the kernel {name} is in use by {users}")]
    InUse {
        /// The kernel.
        name: KernelName,
        /// The VMs.
        users: String,
    },
    /// Its files cannot be removed.
    #[error("cannot remove the kernel at {path:?}")]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for KernelError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown(_) | Self::MissingFile { .. } => ErrorCode::NotFound,
            Self::InUse { .. } => ErrorCode::InUse,
            Self::Read { .. } | Self::Manifest { .. } | Self::Remove { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some("banger kernel ls lists those that are there".into()),
            Self::MissingFile { .. } => Some("import it again with: banger kernel import".into()),
            Self::Manifest { name, .. } => Some(format!("remove it with: banger kernel delete {name}")),
            Self::InUse { .. } => Some("delete them first with: banger vm delete".into()),
            Self::Read { .. } | Self::Remove { .. } => None,
        }
    }
}

/// The kernel `name` with all its files; `None` where there is no such kernel.
///
/// # Errors
/// [`KernelError::MissingFile`] where one of its files is gone, and what reading can fail with.
pub fn load(state: &StateDir, name: &KernelName) -> Result<Option<Kernel>, KernelError> {
    let Some(kernel) = load_manifest(state, name)? else { return Ok(None) };
    match kernel.missing().first() {
        Some(file) => Err(KernelError::MissingFile { name: name.clone(), path: kernel.dir.join(file) }),
        None => Ok(Some(kernel)),
    }
}

/// The kernel `name` by its manifest alone; files of it may be gone.
pub fn load_manifest(state: &StateDir, name: &KernelName) -> Result<Option<Kernel>, KernelError> {
    let dir = state.kernel(name);
    let path = dir.join(MANIFEST);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KernelError::Read { path, source }),
    }
    let manifest = serde_json::from_slice(&bytes)
        .map_err(|source| KernelError::Manifest { name: name.clone(), source })?;
    Ok(Some(Kernel::at(dir, manifest)))
}

/// A kernel by its name, or why it cannot be read.
pub type Named = (KernelName, Result<Kernel, KernelError>);

/// All kernels by name, those that lack files included ([`Kernel::missing`]); one that cannot be read hides no other.
pub fn list(state: &StateDir) -> Result<Vec<Named>, KernelError> {
    let dir = state.kernels();
    let error = |source| KernelError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut kernels = Vec::new();
    for entry in entries {
        let name = entry.map_err(error)?.file_name();
        // Whatever has no kernel's name, as an unfinished import, is not a kernel.
        let Some(name) = name.to_str().and_then(|n| n.parse::<KernelName>().ok()) else { continue };
        if let Some(kernel) = load_manifest(state, &name).transpose() {
            kernels.push((name, kernel));
        }
    }
    kernels.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(kernels)
}

/// Removes the kernel `name` with all its files; `Ok(false)`: there was none. `in_use_by` are the VMs that boot from it.
///
/// It is renamed away first, so that nobody ever sees half of it; what a crash leaves is an unfinished kernel.
pub fn delete(
    state: &StateDir,
    _: &ImagesLock,
    name: &KernelName,
    in_use_by: &[VmName],
) -> Result<bool, KernelError> {
    refuse_in_use(name, in_use_by)?;
    let path = state.kernel(name);
    let away = state.kernels().join(format!("{TMP_PREFIX}deleted-{name}"));
    let removed = match fs::rename(&path, &away) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(()) => fs::remove_dir_all(&away),
        Err(error) => Err(error),
    };
    removed.map(|()| true).map_err(|source| KernelError::Remove { path, source })
}

/// An error where VMs (`in_use_by`) boot from the kernel `name`.
pub(super) fn refuse_in_use(name: &KernelName, in_use_by: &[VmName]) -> Result<(), KernelError> {
    if in_use_by.is_empty() {
        return Ok(());
    }
    let users = in_use_by.iter().map(VmName::as_str).collect::<Vec<_>>().join(", ");
    Err(KernelError::InUse { name: name.clone(), users })
}

/// Removes what killed imports left; gives the paths.
pub fn clean_leftovers(state: &StateDir, _: &ImagesLock) -> Result<Vec<PathBuf>, KernelError> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(state.kernels()).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(TMP_PREFIX.as_bytes()) {
            continue;
        }
        fs::remove_dir_all(&path).map_err(|source| KernelError::Remove { path: path.clone(), source })?;
        removed.push(path);
    }
    Ok(removed)
}
