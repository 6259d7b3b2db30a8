//! Why an image cannot be made or removed.

use std::io;
use std::path::PathBuf;

use banger_contract::types::ImageName;
use banger_contract::{Coded, ErrorCode};
use banger_formats::ext4::Ext4Error;
use thiserror::Error;

use crate::boot_set::BootSetError;
use crate::distribution::Distribution;
use crate::image::{ImageError, MAX_MANIFEST_BYTES};
use crate::modules::ModulesError;
use crate::sys::mmdebstrap::BootstrapError;

/// An image that cannot be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Something asked for is not of its shape.
    #[error("{value:?} is not a valid {what}")]
    Argument {
        /// What it was to be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// The script is none.
    #[error("the script is not text of at most {MAX_SCRIPT_BYTES} bytes that begins with #!")]
    Script,
    /// A file that a build is given cannot be used.
    #[error("cannot use {path:?} as {what}")]
    Given {
        /// What it was to be.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody could tell whether packages are the distribution's.
    #[error("the keys of {}'s archive are not on this host: there is no {path:?}", distribution.title)]
    NoKeyring {
        /// The distribution.
        distribution: &'static Distribution,
        /// Where they would be.
        path: PathBuf,
    },
    /// There is an image of that name.
    #[error("the image {0} exists")]
    Exists(ImageName),
    /// The image of that name cannot be read.
    #[error("cannot make the image")]
    Image(#[from] ImageError),
    /// It lacks files, and VMs have their changes above what it was.
    #[error("cannot replace the image")]
    InUse(#[from] DeleteError),
    /// mmdebstrap.
    #[error("cannot make the root filesystem")]
    Bootstrap(#[from] BootstrapError),
    /// The kernel's name is odd.
    #[error("the image's kernel has the odd version {0:?}")]
    KernelVersion(String),
    /// The kernel's modules.
    #[error("the modules of the image's kernel cannot be used")]
    Modules(#[from] ModulesError),
    /// The kernel, its initrd or another file of the boot set.
    #[error("cannot make the image's boot set")]
    BootSet(#[from] BootSetError),
    /// A filesystem.
    #[error("cannot make the image's seeds")]
    Ext4(#[from] Ext4Error),
    /// What it says of itself is too much.
    #[error(
        "the image {0} is described by more than {MAX_MANIFEST_BYTES} bytes of labels, commands and the like"
    )]
    Manifest(ImageName),
    /// What an unfinished build left cannot be removed.
    #[error("cannot remove {path:?}, which an unfinished build left")]
    Leftover {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error("cannot write {path:?}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for BuildError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Argument { .. } | Self::Script => ErrorCode::Usage,
            Self::Given { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Given { .. } => ErrorCode::BadInput,
            Self::NoKeyring { .. } => ErrorCode::Unsupported,
            Self::Exists(_) => ErrorCode::Conflict,
            Self::Manifest(_) => ErrorCode::BadInput,
            Self::Image(error) => error.code(),
            Self::InUse(error) => error.code(),
            Self::Bootstrap(BootstrapError::Program(_) | BootstrapError::NoUserNamespace(_)) => {
                ErrorCode::Unsupported
            }
            Self::Bootstrap(BootstrapError::Interrupted(_)) => ErrorCode::Interrupted,
            Self::Modules(error) => error.code(),
            Self::BootSet(error) => error.code(),
            _ => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Argument { what: "mirror", .. } => {
                Some("give an address such as http://deb.debian.org/debian".into())
            }
            Self::Argument { what: "size", .. } => {
                Some("give a size between 256M and 16T, a multiple of 4K".into())
            }
            Self::Argument { what: "suite", .. } => {
                Some("give a release's code name, such as bookworm or noble".into())
            }
            Self::NoKeyring { distribution: Distribution { name, keyring_package, .. }, .. } => {
                let setup =
                    format!("install the package {keyring_package}: banger image build {name} --setup does");
                Some(setup + "; where the host's distribution has none, give a file of keys with --keyring")
            }
            Self::Exists(name) => Some(format!("remove it first with: banger image delete {name}")),
            Self::Bootstrap(BootstrapError::Program(_)) => Some(
                "install what is missing: banger vm run --setup does, or apt install mmdebstrap e2fsprogs"
                    .into(),
            ),
            Self::Bootstrap(BootstrapError::NoUserNamespace(_)) => {
                Some(format!("install uidmap, and as root: {} USER", crate::sys::mmdebstrap::SUBUID_FIX))
            }
            Self::Bootstrap(BootstrapError::Failed { lines, .. }) => about_archive(lines).map(str::to_owned),
            Self::Image(error) => error.hint(),
            Self::InUse(error) => error.hint(),
            Self::Modules(error) => error.hint(),
            Self::BootSet(error) => error.hint(),
            _ => None,
        }
    }
}

/// What to do about what apt says of an archive.
fn about_archive(lines: &str) -> Option<&'static str> {
    if lines.contains("is not signed") || lines.contains("NO_PUBKEY") {
        return Some("--keyring names the keys that sign the archive");
    }
    if lines.contains("does not have a Release file") {
        return Some("the archive has no such release: see --suite and --mirror");
    }
    lines.contains("Failed to fetch").then_some(
        "without that archive: --mirror names another (file:/// as well), and banger image import makes an image of an archive from elsewhere",
    )
}

/// An image that cannot be removed.
#[derive(Debug, Error)]
pub enum DeleteError {
    /// VMs boot from it.
    #[error("the image {name} is in use by {users}")]
    InUse {
        /// The image.
        name: ImageName,
        /// The VMs.
        users: String,
    },
    /// Its files cannot be removed.
    #[error("cannot remove the image {name}")]
    Remove {
        /// The image.
        name: ImageName,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for DeleteError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::InUse { .. } => ErrorCode::InUse,
            Self::Remove { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::InUse { .. }).then(|| "delete them first with: banger vm delete".into())
    }
}

/// The longest script, bytes: it travels in one variable, of which the kernel takes 128 KiB.
pub const MAX_SCRIPT_BYTES: u64 = 100_000;
