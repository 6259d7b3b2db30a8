//! Why a device-mapper root cannot be made, removed or looked at.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::sys::dm::DmError;
use banger_contract::{Coded, ErrorCode, Fault};
use banger_host::fs::rootlock::RootLockError;
use banger_host::host_policy::{NotPermitted, ReadPolicyError};
use banger_host::process::exec::ExecError;

/// A `dm` verb that failed. What it had made is gone again.
#[derive(Debug, Error)]
pub enum DmVerbError {
    /// Somebody else's.
    #[error("user {caller} may not do this for user {owner}")]
    NotOwner {
        /// Whose it is.
        owner: u32,
        /// Who asks.
        caller: u32,
    },
    /// More than root lets this user have.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// What root allows cannot be told.
    #[error(transparent)]
    Policy(#[from] ReadPolicyError),
    /// A field is missing.
    #[error("the request lacks base, cow or size_bytes")]
    Incomplete,
    /// A file cannot be opened.
    #[error("cannot open {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not one that may be used.
    #[error("{path:?} cannot be used: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The file of changes cannot be kept from being changed while the kernel reads it.
    #[error("cannot keep others from the file of changes {path:?} while it is read")]
    Lease {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A size that the root cannot have.
    #[error("a root of {size} bytes over an image of {base} is not possible")]
    Size {
        /// What is asked for, bytes.
        size: u64,
        /// The image's, bytes.
        base: u64,
    },
    /// A size that the file of changes cannot have.
    #[error("the file of changes {path:?} has {size} bytes, which is too small or too large")]
    CowSize {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
    },
    /// There is no device-mapper, or it may not be used.
    #[error("device-mapper is not to be used here")]
    NoDeviceMapper(#[source] DmError),
    /// An ioctl failed.
    #[error(transparent)]
    Dm(DmError),
    /// Loops failed.
    #[error("cannot make a loop device for {path:?}")]
    Loop {
        /// The node of the root that it is for.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node failed.
    #[error("cannot make or remove the device node {path:?}")]
    Node {
        /// The node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device of that name is not banger's.
    #[error("{0:?} is not banger's, or another state directory's")]
    Foreign(String),
    /// It is there, over another file or of another size.
    #[error("{0:?} is there with another file of changes or another size")]
    Differs(String),
    /// It was there a moment ago.
    #[error("{0:?} vanished while it was being made")]
    Vanished(String),
    /// Others hold the lock.
    #[error("cannot take the lock on device-mapper roots")]
    Lock(#[from] RootLockError),
}

impl Coded for DmVerbError {
    fn code(&self) -> ErrorCode {
        let os = |source: &io::Error| source.raw_os_error();
        match self {
            Self::NotOwner { .. } | Self::Unfit { .. } | Self::NotPermitted(_) => ErrorCode::Denied,
            Self::Policy(error) => error.code(),
            Self::Incomplete | Self::Size { .. } | Self::CowSize { .. } => ErrorCode::BadInput,
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::NoDeviceMapper(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::NoDeviceMapper(_) => ErrorCode::Unsupported,
            Self::Dm(error) if os(&error.source) == Some(libc::EBUSY) => ErrorCode::InUse,
            // An unknown target: its module is not there.
            Self::Dm(error) if os(&error.source) == Some(libc::EINVAL) => ErrorCode::Unsupported,
            Self::Lease { source, .. } if os(source) == Some(libc::EAGAIN) => ErrorCode::InUse,
            Self::Lease { source, .. } if os(source) == Some(libc::EINVAL) => ErrorCode::Unsupported,
            Self::Foreign(_) | Self::Differs(_) => ErrorCode::Conflict,
            Self::Lock(error) => error.code(),
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotPermitted(NotPermitted { key, .. }) => {
                Some(format!("use --disk overlay, or have root change {key} (banger-netd.toml(5))"))
            }
            Self::Policy(error) => error.hint(),
            Self::NoDeviceMapper(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root, or use --disk overlay".into())
            }
            Self::NoDeviceMapper(_) => {
                Some("load the modules dm_mod and dm_snapshot, or use --disk overlay".into())
            }
            Self::Lease { source, .. } if source.raw_os_error() == Some(libc::EAGAIN) => {
                Some("end what has the file open".into())
            }
            Self::Lease { .. } => Some("use --disk overlay".into()),
            Self::Differs(_) => Some("detach the VM's disks first".into()),
            Self::Dm(error) if error.source.raw_os_error() == Some(libc::EBUSY) => {
                Some("stop the VM that has it open first".into())
            }
            _ => None,
        }
    }
}

/// The privileged part could not be reached, or failed.
#[derive(Debug, Error)]
pub enum MapperError {
    /// It failed in this process.
    #[error(transparent)]
    Here(#[from] DmVerbError),
    /// It failed as a process of its own, which told why.
    #[error("{}", .0.message)]
    Told(Box<Fault>),
    /// It could not be run as root.
    #[error("cannot run banger-disk dm as root")]
    Sudo(#[source] ExecError),
    /// It said nothing that was to be understood.
    #[error("banger-disk dm, run as root, gave no reply")]
    NoReply,
    /// This program's own path is not known.
    #[error("cannot tell where this program is")]
    Own(#[source] io::Error),
}

impl Coded for MapperError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Here(error) => error.code(),
            Self::Told(fault) => fault.code,
            Self::Sudo(_) | Self::NoReply => ErrorCode::Denied,
            Self::Own(_) => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Here(error) => error.hint(),
            Self::Told(fault) => fault.hint.clone(),
            Self::Sudo(_) | Self::NoReply => {
                Some("run `sudo -v` first, or use --disk overlay, which needs no privilege".into())
            }
            Self::Own(_) => None,
        }
    }
}
