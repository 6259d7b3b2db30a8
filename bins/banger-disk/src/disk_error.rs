//! Why a VM's disks cannot be attached, detached or checked.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::dm_error::MapperError;
use super::initrd::InitrdError;
use banger_contract::record::DiskBackend;
use banger_contract::types::{ImageName, KernelName, VmId};
use banger_contract::{Coded, ErrorCode};
use banger_formats::ext4::Ext4Error;
use banger_host::fs::atomic::WriteFileError;
use banger_state::lock::LockError;

/// A stage of a VM's disks that failed. What it had made is gone again.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A path of the record is not absolute.
    #[error("the record's {field} {path:?} is not an absolute path")]
    Relative {
        /// Which one.
        field: &'static str,
        /// Its value.
        path: String,
    },
    /// A size that no disk has.
    #[error("the record's {field} is {size_bytes}; a disk has at most 16 TiB")]
    Size {
        /// Which one.
        field: &'static str,
        /// Its value, bytes.
        size_bytes: u64,
    },
    /// A file of the image is gone.
    #[error("the image of VM {vm} lacks its file {path:?}")]
    ImageFile {
        /// The VM.
        vm: VmId,
        /// The image's name.
        image: ImageName,
        /// The file.
        path: PathBuf,
    },
    /// A file of the VM's kernel, which is not its image's, is gone.
    #[error("the kernel {kernel} of VM {vm} lacks its file {path:?}")]
    KernelFile {
        /// The VM.
        vm: VmId,
        /// The kernel's name.
        kernel: KernelName,
        /// The file.
        path: PathBuf,
    },
    /// A file of the VM's directory that `banger vm plan` makes is gone.
    #[error("VM {vm} lacks its file {path:?}")]
    VmFile {
        /// The VM.
        vm: VmId,
        /// The file.
        path: PathBuf,
    },
    /// The backend is not there.
    #[error("the disk backend {} cannot be used: {reason}", name(*.backend))]
    Backend {
        /// The backend.
        backend: DiskBackend,
        /// Why not.
        reason: String,
    },
    /// The VM's disks are of another backend.
    #[error("VM {vm} keeps its changes with the backend {}, and {} is asked for", name(*.have), name(*.want))]
    OtherBackend {
        /// The VM.
        vm: VmId,
        /// What its files are.
        have: DiskBackend,
        /// What is asked for.
        want: DiskBackend,
    },
    /// It is attached, but not as this record has it.
    #[error("the disks of VM {vm} are attached with another {what}")]
    Differs {
        /// The VM.
        vm: VmId,
        /// What differs.
        what: &'static str,
    },
    /// Device-mapper.
    #[error("cannot make or remove the device-mapper root of VM {vm}")]
    Mapper {
        /// The VM.
        vm: VmId,
        /// Why.
        #[source]
        source: MapperError,
    },
    /// The file of changes was full once: what was written after that is lost.
    #[error("the root of VM {vm} is broken: its file of changes {path:?} was full")]
    Broken {
        /// The VM.
        vm: VmId,
        /// The file.
        path: PathBuf,
    },
    /// It runs.
    #[error("VM {0} is running")]
    Alive(VmId),
    /// A file cannot be made.
    #[error("cannot make the disk file {path:?}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be removed.
    #[error("cannot remove {path:?}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key in a file is no OpenSSH key.
    #[error("{path:?} holds no OpenSSH public key")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// An entry of the files that travel is wrong.
    #[error("file_sync[{index}].{field} is {found:?}; {allowed} is allowed")]
    SyncField {
        /// Which entry.
        index: usize,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// One of the user's files cannot be packed.
    #[error("file_sync[{index}]: cannot take {path:?} along")]
    Sync {
        /// Which entry.
        index: usize,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The user's files are too many or too large.
    #[error("file_sync[{index}]: with {path:?} it is more than {max_mib} MiB or {max_entries} files")]
    SyncSize {
        /// Which entry.
        index: usize,
        /// The first file that was too much.
        path: PathBuf,
        /// The most of all entries together, MiB.
        max_mib: u64,
        /// The most files, directories and links.
        max_entries: usize,
    },
    /// A seed.
    #[error("cannot use the image's filesystems")]
    Ext4(#[from] Ext4Error),
    /// The initrd.
    #[error("cannot make the VM's initrd")]
    Initrd(#[from] InitrdError),
    /// A small file.
    #[error("cannot note what is attached")]
    Note(#[from] WriteFileError),
    /// A lock.
    #[error("cannot clean up VM {0}")]
    Lock(VmId, #[source] LockError),
    /// What the record says is not so.
    #[error("the disks of VM {vm} are not as the record says: {}", problems.join("; "))]
    Check {
        /// The VM.
        vm: VmId,
        /// What is wrong.
        problems: Vec<String>,
    },
}

/// The backend as the record writes it.
pub(super) fn name(backend: DiskBackend) -> &'static str {
    match backend {
        DiskBackend::Auto => "auto",
        DiskBackend::Dm => "dm",
        DiskBackend::Reflink => "reflink",
        DiskBackend::Overlay => "overlay",
        DiskBackend::Copy => "copy",
    }
}

impl Coded for DiskError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Relative { .. } | Self::Size { .. } | Self::Key { .. } => ErrorCode::BadInput,
            Self::SyncField { .. } | Self::SyncSize { .. } => ErrorCode::BadInput,
            Self::Sync { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::ImageFile { .. } | Self::KernelFile { .. } | Self::VmFile { .. } => ErrorCode::NotFound,
            Self::Backend { .. } => ErrorCode::Unsupported,
            Self::OtherBackend { .. } | Self::Differs { .. } => ErrorCode::Conflict,
            Self::Alive(_) => ErrorCode::InUse,
            Self::Mapper { source, .. } => source.code(),
            Self::Initrd(error) => error.code(),
            Self::Lock(_, error) => error.code(),
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::KernelFile { kernel, .. } => {
                Some(format!("import it again with: banger kernel import --name {kernel}"))
            }
            Self::ImageFile { image, .. } => Some(format!(
                "make the image again; if it was built, with: {}",
                super::image::build_command(image)
            )),
            Self::VmFile { vm, .. } => {
                Some(format!("banger vm start {vm} makes it where the command that made the VM was killed"))
            }
            Self::Backend { .. } => Some("use auto, which takes what this host can do".into()),
            Self::OtherBackend { .. } => Some("ask for that one or for auto, or delete the VM".into()),
            Self::Differs { .. } => Some("run banger-disk detach first".into()),
            Self::Alive(_) => Some("stop it first with: banger vm stop".into()),
            Self::Sync { .. } => Some("let it be read, or take the entry out of the configuration".into()),
            Self::SyncSize { .. } => {
                Some("name smaller directories; banger vm workspace prepare copies large ones".into())
            }
            Self::Mapper { source, .. } => source.hint(),
            Self::Broken { .. } => Some("delete the VM, and make room on that filesystem".into()),
            Self::Make { source, .. } if is_full(source) => Some("make room on that filesystem".into()),
            _ => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
