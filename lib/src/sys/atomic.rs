//! Files that are there whole or not at all: written beside their place, flushed, renamed.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use thiserror::Error;

use crate::contract::{Coded, ErrorCode};

/// A file that could not be written.
#[derive(Debug, Error)]
#[error("cannot write {path:?}")]
pub struct WriteFileError {
    path: std::path::PathBuf,
    #[source]
    source: io::Error,
}

/// Writes `bytes` to `path` with `mode`: a reader sees the old content or the new one, also after a crash.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteFileError> {
    let attempt = || {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".banger-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_data()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|source| WriteFileError { path: path.to_owned(), source })
}

impl Coded for WriteFileError {
    fn code(&self) -> ErrorCode {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        }
    }
}
