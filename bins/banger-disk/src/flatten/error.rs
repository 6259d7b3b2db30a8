//! Why layers cannot be flattened.

use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_formats::decompress::StreamError;
use banger_formats::ext4::WriteError;
use banger_formats::tar::TarError;

/// Layers that do not become a filesystem.
#[derive(Debug, Error)]
pub enum FlattenError {
    /// An archive.
    #[error("layer {layer} cannot be unpacked")]
    Archive {
        /// Which one, counted from 1.
        layer: u16,
        /// Why.
        #[source]
        source: TarError,
    },
    /// An entry of an archive.
    #[error("the entry {entry:?} of layer {layer} cannot be unpacked")]
    Entry {
        /// Which one, counted from 1.
        layer: u16,
        /// Its path.
        entry: String,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// They are more than is allowed.
    #[error("the layers unpack to more than {limit_bytes} bytes")]
    Unpacked {
        /// How much is allowed.
        limit_bytes: u64,
    },
    /// They are more than is allowed.
    #[error("there are more than {0} layers")]
    Layers(u16),
    /// The filesystem.
    #[error("cannot write the root filesystem")]
    Disk(#[source] WriteError),
    /// A signal.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

/// What is wrong with an entry.
#[derive(Debug, Error)]
pub enum EntryError {
    /// It goes up.
    #[error("its path has \"..\" in it")]
    DotDot,
    /// It has no path.
    #[error("it has no path")]
    Empty,
    /// A NUL, which no file name can have.
    #[error("its path has a NUL in it")]
    Nul,
    /// A name is too long.
    #[error("a name in its path is longer than 255 bytes, which ext4 cannot hold")]
    LongName,
    /// The path is too long.
    #[error("its path is longer than 64 KiB")]
    LongPath,
    /// Symbolic links lead to each other.
    #[error("its path leads through too many symbolic links")]
    Loop,
    /// It is below something else than a directory.
    #[error("{0:?} in its path is not a directory")]
    NotDirectory(String),
    /// There is nothing of that name.
    #[error("there is no such file")]
    Missing,
    /// A directory, where a file should be.
    #[error("it is a directory")]
    Directory,
    /// A hard link to nothing that it could be a link to.
    #[error("it is a hard link to {target:?}")]
    Link {
        /// The link's target.
        target: String,
        /// What is wrong with that.
        #[source]
        source: Box<EntryError>,
    },
    /// The root is not a directory.
    #[error("it would replace the root directory")]
    Root,
    /// A whiteout of nothing.
    #[error("it is a whiteout that names no file")]
    Whiteout,
    /// An owner or group that Linux does not have.
    #[error("it belongs to the user or group {0}, which Linux cannot have")]
    Owner(u64),
    /// A device that Linux does not have.
    #[error("it is a device with a number that Linux cannot have")]
    Device,
    /// One too many.
    #[error("the layers have more files or longer names than {limit} entries may have")]
    TooMany {
        /// How many are allowed.
        limit: u64,
    },
    /// The filesystem cannot hold it.
    #[error("it cannot be written")]
    Write(#[source] WriteError),
}

impl Coded for FlattenError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Archive { source, .. } if source.is_host_failure() => ErrorCode::Failed,
            Self::Disk(_) => ErrorCode::Failed,
            Self::Interrupted(_) => ErrorCode::Interrupted,
            _ => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Archive { source, .. } => source.hint(),
            Self::Entry { source: EntryError::Write(WriteError::Content(source)), .. } => {
                StreamError::of(source).and_then(StreamError::hint)
            }
            Self::Entry { source: EntryError::TooMany { .. }, .. } => {
                Some("allow more with --max-entries; each takes about 90 bytes of memory".into())
            }
            Self::Unpacked { .. } => Some("allow more with --max-unpacked".into()),
            Self::Layers(_) => Some("squash some of the image's layers".into()),
            Self::Entry { source: EntryError::Write(WriteError::Full { .. }), .. }
            | Self::Disk(WriteError::Full { .. }) => Some("allow more with --max-size".into()),
            _ => None,
        }
    }
}
