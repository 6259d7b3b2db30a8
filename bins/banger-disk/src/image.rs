//! An image and the boot set that it owns, under `images/<name>/`.
//!
//! | file | what |
//! |---|---|
//! | `rootfs.ext4` | the root filesystem; never written, shared by all VMs |
//! | `vmlinuz`, `vmlinux` | the kernel as the distribution ships it, and as an uncompressed ELF |
//! | `initrd.cpio` | the initrd segment that all VMs share: banger-guest and the kernel's modules |
//! | `work-seed.ext4` | an ext4 made from the image's /root: each VM's work disk is a copy |
//! | `upper-seed.ext4` | an empty ext4: each VM's changes go to a copy (backend `overlay`) |
//! | `seeds.json` | what the seeds were made for: see [`super::seed`] |
//! | `manifest.json` | [`Manifest`] |

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_contract::image::{ImagePaths, ImageRecord, Manifest};
use banger_contract::record::Init;
use banger_contract::types::ImageName;
use banger_contract::{Coded, ErrorCode};
use banger_state::dir::StateDir;
use thiserror::Error;

pub use crate::boot_set::{INITRD, KERNEL, KERNEL_ELF};
use crate::distribution::Distribution;

/// The root filesystem's file name.
pub const ROOTFS: &str = "rootfs.ext4";
/// The work seed's file name.
pub const WORK_SEED: &str = "work-seed.ext4";
/// The upper seed's file name.
pub const UPPER_SEED: &str = "upper-seed.ext4";
/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// The boot set: every file without which a VM cannot be made from the image.
pub const BOOT_SET: [&str; 6] = [ROOTFS, KERNEL, KERNEL_ELF, INITRD, WORK_SEED, UPPER_SEED];

/// The largest manifest that is written and read, bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// An image by its files. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is.
    pub manifest: Manifest,
    /// Its directory.
    pub dir: PathBuf,
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// The kernel as its distribution ships it (bzImage).
    pub kernel: PathBuf,
    /// The kernel as an uncompressed ELF.
    pub kernel_elf: PathBuf,
    /// The shared initrd segment.
    pub initrd: PathBuf,
    /// The ext4 made from the image's /root.
    pub work_seed: PathBuf,
    /// The empty ext4.
    pub upper_seed: PathBuf,
}

impl Image {
    /// The image that `manifest` describes and whose files are in `dir`.
    pub fn at(dir: PathBuf, manifest: Manifest) -> Self {
        Self {
            rootfs: dir.join(ROOTFS),
            kernel: dir.join(KERNEL),
            kernel_elf: dir.join(KERNEL_ELF),
            initrd: dir.join(INITRD),
            work_seed: dir.join(WORK_SEED),
            upper_seed: dir.join(UPPER_SEED),
            dir,
            manifest,
        }
    }

    /// Its name.
    pub fn name(&self) -> &ImageName {
        &self.manifest.name
    }

    /// Which init runs unless a VM asks for another.
    pub fn init(&self) -> Init {
        self.manifest.init
    }

    /// Size of a VM's root filesystem unless it asks for another, bytes.
    pub fn default_rootfs_size_bytes(&self) -> u64 {
        self.manifest.default_rootfs_size_bytes
    }

    /// Size of a VM's work disk unless it asks for another, bytes.
    pub fn default_work_size_bytes(&self) -> u64 {
        self.manifest.default_work_size_bytes
    }

    /// The names of the boot set's files that are not there.
    pub fn missing(&self) -> Vec<&'static str> {
        BOOT_SET.into_iter().filter(|name| !self.dir.join(name).is_file()).collect()
    }

    /// The image as programs report it.
    pub fn record(&self) -> ImageRecord {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        ImageRecord {
            manifest: self.manifest.clone(),
            paths: ImagePaths {
                rootfs: text(&self.rootfs),
                kernel: text(&self.kernel),
                kernel_elf: text(&self.kernel_elf),
                initrd: text(&self.initrd),
                work_seed: text(&self.work_seed),
                upper_seed: text(&self.upper_seed),
            },
            registered: self.registered().map(|path| text(&path)),
            missing: self.missing().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// An image that cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// There is none of that name.
    #[error("there is no image {0}")]
    Unknown(ImageName),
    /// Its directory or manifest cannot be read.
    #[error("cannot read the image at {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its manifest is not of its shape.
    #[error("the manifest of the image {name} is not valid")]
    Manifest {
        /// The image.
        name: ImageName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of its boot set is gone.
    #[error("the image {name} lacks its file {path:?}")]
    MissingFile {
        /// The image.
        name: ImageName,
        /// The file.
        path: PathBuf,
    },
}

impl Coded for ImageError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown(_) | Self::MissingFile { .. } => ErrorCode::NotFound,
            Self::Read { .. } | Self::Manifest { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(name) => Some(format!(
                "make it with: {}, or get it with banger image pull or banger image import",
                build_command(name)
            )),
            Self::MissingFile { name, .. } => {
                Some(format!("delete it and make it again; if it was built, with: {}", build_command(name)))
            }
            Self::Manifest { name, .. } => Some(format!("remove it with: banger image delete {name}")),
            Self::Read { .. } => None,
        }
    }
}

/// The command that builds an image called `name`.
pub(super) fn build_command(name: &ImageName) -> String {
    match Distribution::named(name.as_str()) {
        Some(distribution) => format!("banger image build {}", distribution.name),
        None => format!("banger image build --name {name}"),
    }
}

/// The image `name` with its whole boot set; `None` where there is no such image.
///
/// # Errors
/// [`ImageError::MissingFile`] where a file of the boot set is gone, and what reading can fail with.
pub fn load(state: &StateDir, name: &ImageName) -> Result<Option<Image>, ImageError> {
    let Some(image) = load_manifest(state, name)? else { return Ok(None) };
    match image.missing().first() {
        Some(file) => Err(ImageError::MissingFile { name: name.clone(), path: image.dir.join(file) }),
        None => Ok(Some(image)),
    }
}

/// The image `name` by its manifest alone; files of its boot set may be gone.
pub fn load_manifest(state: &StateDir, name: &ImageName) -> Result<Option<Image>, ImageError> {
    let dir = state.image(name);
    let path = dir.join(MANIFEST);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ImageError::Read { path, source }),
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes);
    read.map_err(|source| ImageError::Read { path, source })?;
    let manifest = serde_json::from_slice(&bytes)
        .map_err(|source| ImageError::Manifest { name: name.clone(), source })?;
    Ok(Some(Image::at(dir, manifest)))
}

/// An image by its name, or why it cannot be read.
pub type Named = (ImageName, Result<Image, ImageError>);

/// All images by name, those that lack files included ([`Image::missing`]); one that cannot be read hides no other.
pub fn list(state: &StateDir) -> Result<Vec<Named>, ImageError> {
    let dir = state.images();
    let error = |source| ImageError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut images = Vec::new();
    for entry in entries {
        let name = entry.map_err(error)?.file_name();
        // Whatever has no image's name, as an unfinished build, is not an image.
        let Some(name) = name.to_str().and_then(|n| n.parse::<ImageName>().ok()) else { continue };
        if let Some(image) = load_manifest(state, &name).transpose() {
            images.push((name, image));
        }
    }
    images.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(images)
}

/// What unfinished images are called.
pub const TMP_PREFIX: &str = ".tmp-";
