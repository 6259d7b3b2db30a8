//! Why an image cannot be had from a registry.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::credentials::CredentialsError;
use crate::sys::web::WebError;
use banger_contract::{Coded, ErrorCode};

/// An image that cannot be pulled. What came of it stays in the cache, for the next attempt; nothing else is left.
#[derive(Debug, Error)]
pub enum PullError {
    /// The registry cannot be asked.
    #[error("cannot pull {reference}")]
    Web {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: WebError,
    },
    /// The user's credentials.
    #[error("cannot log in to the registry of {reference}")]
    Credentials {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// The registry does not let this user.
    #[error("the registry does not give {reference}: {reason}")]
    Denied {
        /// The image.
        reference: String,
        /// Its words, or ours.
        reason: String,
    },
    /// There is no such thing.
    #[error("the registry has no {what} of {reference}")]
    Unknown {
        /// The image.
        reference: String,
        /// What was asked for.
        what: String,
    },
    /// The registry is asked too often.
    #[error("the registry of {reference} wants to be asked again in {seconds} s")]
    Later {
        /// The image.
        reference: String,
        /// How long.
        seconds: u64,
    },
    /// It answers with an error.
    #[error("the registry of {reference} answers {what} with status {status}")]
    Status {
        /// The image.
        reference: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
    },
    /// It answers with something else than it should.
    #[error("{what} of {reference} {problem}")]
    Answer {
        /// The image.
        reference: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No image for the platform.
    #[error("{reference} has no image for {wanted}; it has: {found}")]
    Platform {
        /// The image.
        reference: String,
        /// What is asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// It is larger than it may be.
    #[error("{reference} has {size_bytes} bytes, and {limit_bytes} are allowed")]
    TooLarge {
        /// The image.
        reference: String,
        /// What its manifest says, bytes.
        size_bytes: u64,
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// A connection broke, again and again.
    #[error("{what} of {reference} does not come through")]
    Broken {
        /// The image.
        reference: String,
        /// What was asked for.
        what: String,
        /// The last time.
        #[source]
        source: io::Error,
    },
    /// A file of the cache.
    #[error("cannot write {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for PullError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Web { source: WebError::Plain(_), .. } => ErrorCode::Usage,
            Self::Web { source: WebError::Redirect { .. } | WebError::Loop(_), .. } => ErrorCode::BadInput,
            Self::Web { source: WebError::NoCertificates(_), .. } => ErrorCode::Unsupported,
            Self::Denied { .. } => ErrorCode::Denied,
            Self::Unknown { .. } | Self::Platform { .. } => ErrorCode::NotFound,
            Self::Later { .. } => ErrorCode::Busy,
            Self::Answer { .. } | Self::TooLarge { .. } => ErrorCode::BadInput,
            Self::Web { .. }
            | Self::Credentials { .. }
            | Self::Status { .. }
            | Self::Broken { .. }
            | Self::File { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Web { source: WebError::Unreachable { .. }, .. } => {
                "without the registry: banger image import takes an archive or a directory, and banger image build makes an image"
                    .into()
            }
            Self::Web { source: WebError::Plain(_), .. } => {
                "--insecure takes it from a registry without encryption".into()
            }
            Self::Web { source, .. } => return source.certificate_hint().map(str::to_owned),
            Self::Denied { .. } => "log in with: docker login, or podman login --authfile ~/.docker/config.json".into(),
            Self::Platform { .. } => "choose one with --platform".into(),
            Self::TooLarge { .. } => "allow more with --max-download".into(),
            Self::Broken { .. } => "try again: it goes on where it stopped".into(),
            _ => return None,
        })
    }
}
