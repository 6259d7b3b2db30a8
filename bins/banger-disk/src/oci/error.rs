//! Why an image of a layout or archive cannot be found or read.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_formats::tar::TarError;

/// An image that cannot be found or read.
#[derive(Debug, Error)]
pub enum OciError {
    /// A file cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive {path:?}")]
    Archive {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: TarError,
    },
    /// A file is not of its shape.
    #[error("{what} is not valid")]
    Json {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file is not what it should be.
    #[error("{what} {problem}")]
    Invalid {
        /// Which one.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The digest is another one.
    #[error("{what} has the digest sha256:{found}, which is not the {expected} that is asked for")]
    Digest {
        /// Which file.
        what: String,
        /// What its content is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// There is neither an index nor a manifest.
    #[error(
        "it holds no image: expected index.json, as in an OCI image layout, or manifest.json, as docker save writes it"
    )]
    NoImage,
    /// No image fits.
    #[error("there is no image {wanted}; there are: {found}")]
    NoMatch {
        /// What is asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// Several images fit.
    #[error("there are several images: {found}")]
    Several {
        /// Which.
        found: String,
    },
}

impl Coded for OciError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Read { .. } => ErrorCode::Failed,
            Self::NoMatch { .. } => ErrorCode::NotFound,
            Self::Archive { source, .. } if source.is_host_failure() => ErrorCode::Failed,
            _ => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Several { .. } => {
                Some("choose one with --ref NAME, or with --ref sha256:… for its digest".into())
            }
            Self::NoMatch { .. } => Some("choose one with --platform or --ref".into()),
            Self::Archive { source: TarError::Header { .. }, .. } => Some(
                "expected a tar, which may be compressed with gzip, zstd or xz, or an ext4 file".into(),
            ),
            Self::Archive { source, .. } => source.hint(),
            Self::NoImage => Some(
                "a root filesystem is imported as a tar, such as with: tar -C DIRECTORY -c . | banger image import - NAME".into(),
            ),
            Self::Digest { .. } => Some("it was damaged or changed on its way: get it again".into()),
            _ => None,
        }
    }
}
