//! The seeds of an image: the filesystems whose copies VMs write. One that is missing, or that was made for another root filesystem than
//! the image has now, is made again, empty and under its old UUID: banger-guest fills an empty work disk from the root's own /root, and
//! disks that VMs have made of the old seed are still found.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::image::{self, Image};
use banger_contract::types::ImageName;
use banger_contract::{Coded, ErrorCode};
use banger_formats::ext4::{self, Ext4Error};
use banger_host::fs::atomic::{self, WriteFileError};
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

/// The file beside the seeds that tells what they were made for.
const FINGERPRINT: &str = "seeds.json";
/// The largest of these that is read, bytes.
const MAX_FINGERPRINT_BYTES: u64 = 64 << 10;

/// A seed that cannot be made.
#[derive(Debug, Error)]
pub enum SeedError {
    /// A file.
    #[error("cannot make the seed {path:?} of the image {image} again")]
    File {
        /// The image.
        image: ImageName,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// mke2fs.
    #[error("cannot make the seeds of the image {image} again")]
    Format {
        /// The image.
        image: ImageName,
        /// Why.
        #[source]
        source: Ext4Error,
    },
    /// The fingerprint.
    #[error("cannot note what the seeds of the image {image} were made for")]
    Note {
        /// The image.
        image: ImageName,
        /// Why.
        #[source]
        source: WriteFileError,
    },
}

impl Coded for SeedError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Note { source, .. } => source.code(),
            _ => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        let (Self::File { image, .. } | Self::Format { image, .. } | Self::Note { image, .. }) = self;
        Some(format!(
            "delete the image and make it again; if it was built, with: {}",
            image::build_command(image)
        ))
    }
}

/// What the seeds were made for, and their UUIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    rootfs_size_bytes: u64,
    rootfs_mtime_ns: i128,
    work_uuid: String,
    upper_uuid: String,
}

/// Notes what the seeds in `dir`, an image that is being made, were made for.
///
/// # Errors
/// A file of the image cannot be read, or the note not be written.
pub fn note(dir: &Path) -> io::Result<()> {
    let (rootfs_size_bytes, rootfs_mtime_ns) = stamp(&dir.join(image::ROOTFS))?;
    let uuid = |name: &str| ext4::uuid(&dir.join(name)).map_err(io::Error::other);
    let (work_uuid, upper_uuid) = (uuid(image::WORK_SEED)?, uuid(image::UPPER_SEED)?);
    let fingerprint = Fingerprint { rootfs_size_bytes, rootfs_mtime_ns, work_uuid, upper_uuid };
    let json = serde_json::to_vec(&fingerprint).expect("numbers and strings are JSON");
    atomic::write(&dir.join(FINGERPRINT), &json, 0o444).map_err(io::Error::other)
}

/// Length and time of modification: what is cheap to ask of a file that nobody writes.
fn stamp(rootfs: &Path) -> io::Result<(u64, i128)> {
    let metadata = fs::metadata(rootfs)?;
    Ok((metadata.len(), i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())))
}

fn load(image: &Image) -> Option<Fingerprint> {
    let path = image.dir.join(FINGERPRINT);
    let is_small = fs::metadata(&path).ok()?.len() <= MAX_FINGERPRINT_BYTES;
    is_small.then(|| serde_json::from_slice(&fs::read(path).ok()?).ok())?
}

/// The seeds that are to be made again, each with what it is called. An image without a fingerprint is of an older banger, and what it
/// has is taken for good.
fn wanting(image: &Image, fingerprint: Option<&Fingerprint>) -> Vec<(PathBuf, &'static str)> {
    let stale = match (fingerprint, stamp(&image.rootfs)) {
        (Some(made_for), Ok(now)) => (made_for.rootfs_size_bytes, made_for.rootfs_mtime_ns) != now,
        // Without a root filesystem no seed helps.
        _ => false,
    };
    let mut wanting = Vec::new();
    if stale || !image.work_seed.is_file() {
        wanting.push((image.work_seed.clone(), "banger-work"));
    }
    if !image.upper_seed.is_file() {
        wanting.push((image.upper_seed.clone(), "banger-upper"));
    }
    wanting
}

/// Makes the seeds of the image `name` again that are missing or stale; whether any was. An image that is not there has none.
///
/// # Errors
/// [`SeedError`]; what was there is there still.
pub fn heal(state: &StateDir, name: &ImageName) -> Result<bool, SeedError> {
    let image = match image::load_manifest(state, name) {
        Ok(Some(image)) if image.rootfs.is_file() => image,
        // Whoever loads it says what is wrong with it.
        _ => return Ok(false),
    };
    if wanting(&image, load(&image).as_ref()).is_empty() {
        return Ok(false);
    }
    let file = |path: &Path| {
        let (image, path) = (name.clone(), path.to_owned());
        move |source| SeedError::File { image, path, source }
    };
    fs::create_dir_all(state.locks()).map_err(file(&state.locks()))?;
    let _lock = ImagesLock::acquire(state, "making a seed again")
        .map_err(|error| file(&image.dir)(io::Error::other(error)))?;
    // Looked at again: now nobody else makes them.
    let fingerprint = load(&image);
    for (path, label) in wanting(&image, fingerprint.as_ref()) {
        let known = fingerprint.as_ref().map(|known| match label {
            "banger-work" => known.work_uuid.clone(),
            _ => known.upper_uuid.clone(),
        });
        let uuid = known.or_else(|| ext4::uuid(&path).ok()).unwrap_or_else(|| derived_uuid(&image, label));
        let size = image.manifest.default_work_size_bytes.max(MIN_SEED_BYTES);
        make(&path, label, &uuid, size, name)?;
    }
    note(&image.dir).map_err(file(&image.dir.join(FINGERPRINT)))?;
    Ok(true)
}

/// The smallest work disk that has room for what the image's has in it, bytes. A smaller one than the seed is made empty, and the guest
/// fills it.
///
/// # Errors
/// The seed is not an ext4.
pub fn least_work_bytes(image: &Image) -> Result<u64, Ext4Error> {
    let content = ext4::content_bytes(&image.work_seed)?;
    // A journal takes 4 MiB of a small filesystem and 64 MiB of one of some GiB, inodes the 64th part.
    let spare = if content < MIN_SEED_BYTES / 2 { 16 << 20 } else { 80 << 20 };
    let least = (content + content / 4 + spare).next_multiple_of(1 << 20);
    Ok(least.max(MIN_SEED_BYTES))
}

/// ext4 with a journal wants this much.
const MIN_SEED_BYTES: u64 = 64 << 20;

fn make(path: &Path, label: &str, uuid: &str, size: u64, name: &ImageName) -> Result<(), SeedError> {
    let mut new = path.as_os_str().to_owned();
    new.push(super::volumes::NEW_SUFFIX);
    let new = PathBuf::from(new);
    let file = |source| SeedError::File { image: name.clone(), path: path.to_owned(), source };
    let attempt = || -> Result<(), SeedError> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(error)),
            _ => {}
        }
        ext4::create_file(&new).and_then(|made| made.set_len(size)).map_err(file)?;
        ext4::format(&new, label, uuid)
            .map_err(|source| SeedError::Format { image: name.clone(), source })?;
        let made = File::open(&new).map_err(file)?;
        made.set_permissions(Permissions::from_mode(0o444)).and_then(|()| made.sync_all()).map_err(file)?;
        fs::rename(&new, path).map_err(file)
    };
    attempt().inspect_err(|_| {
        // The first error is the one to tell.
        drop(fs::remove_file(&new));
    })
}

/// A UUID for a seed of which nothing is known any more: always the same one for the same image (RFC 9562, version 8).
fn derived_uuid(image: &Image, label: &str) -> String {
    let hash = Sha256::new()
        .chain_update(image.name().as_str())
        .chain_update(&image.manifest.created_at)
        .chain_update(label)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
