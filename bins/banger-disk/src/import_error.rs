//! Why an image cannot be imported.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::build_error::BuildError;
use super::flatten::FlattenError;
use super::image::ImageError;
use super::kernel::KernelError;
use super::oci::OciError;
use banger_contract::types::ImageName;
use banger_contract::{Coded, ErrorCode};
use banger_formats::decompress::StreamError;
use banger_formats::ext4::Ext4Error;

/// An image that cannot be imported. Nothing is left of it.
#[derive(Debug, Error)]
pub enum ImportError {
    /// What every image can fail with.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Another image.
    #[error("cannot make the image")]
    Image(#[from] ImageError),
    /// A kernel that is not part of an image.
    #[error("cannot make the image")]
    Kernel(#[from] KernelError),
    /// There is no kernel for it.
    #[error("there is no kernel that it could have, neither an image's nor one of its own")]
    NoKernel,
    /// The source.
    #[error("cannot read {path:?}")]
    Source {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is nothing that an image can be made of.
    #[error(
        "{path:?} is neither an image nor a root filesystem: it has {}; expected index.json (an OCI image layout), manifest.json \
         (what docker save writes), or directories such as bin, etc and usr", listed(.names)
    )]
    Unrecognized {
        /// Which file.
        path: PathBuf,
        /// Some of the names at its top.
        names: Vec<String>,
    },
    /// An image's files.
    #[error("cannot import the image")]
    Oci(#[from] OciError),
    /// A layer's file.
    #[error("cannot read layer {layer}")]
    Layer {
        /// Which one, counted from 1.
        layer: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its files.
    #[error("cannot make the root filesystem")]
    Flatten(#[from] FlattenError),
    /// An ext4 that cannot be taken.
    #[error("cannot take the filesystem")]
    Ext4(#[from] Ext4Error),
    /// A registered file is no longer what it was.
    #[error("the root filesystem {path:?} of the image {name} has changed since it was registered")]
    Changed {
        /// The image.
        name: ImageName,
        /// The file.
        path: PathBuf,
    },
    /// No thread.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names for people.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "no entries".into();
    }
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

impl Coded for ImportError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Build(error) => error.code(),
            Self::Image(error) => error.code(),
            Self::Kernel(error) => error.code(),
            Self::NoKernel => ErrorCode::NotFound,
            Self::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Source { source, .. } if StreamError::of(source).is_some() => ErrorCode::BadInput,
            Self::Oci(error) => error.code(),
            Self::Flatten(error) => error.code(),
            Self::Ext4(_) | Self::Unrecognized { .. } => ErrorCode::BadInput,
            Self::Changed { .. } => ErrorCode::Conflict,
            Self::Source { .. } | Self::Layer { .. } | Self::Thread { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Build(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Kernel(error) => error.hint(),
            Self::NoKernel => Some(
                "build an image that has one: banger image build debian; or: banger kernel import".into(),
            ),
            Self::Oci(error) => error.hint(),
            Self::Changed { name, .. } => {
                Some(format!("register it again after: banger image delete {name}"))
            }
            Self::Flatten(error) => error.hint(),
            Self::Unrecognized { .. } => {
                Some("if it is a root filesystem nevertheless, say so with --format tar".into())
            }
            Self::Source { source, .. } => StreamError::of(source).and_then(StreamError::hint),
            _ => None,
        }
    }
}
