//! Ed25519 key pairs in OpenSSH's format, made on the host.

use std::path::{Path, PathBuf};

use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use thiserror::Error;

use super::atomic::{self, WriteFileError};
use crate::contract::{Coded, ErrorCode};

/// A key pair that could not be made.
#[derive(Debug, Error)]
pub enum MakeKeyError {
    /// Generating or encoding failed.
    #[error("cannot make the SSH key {path:?}")]
    Key {
        /// The private key's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
    /// A file could not be written.
    #[error("cannot store an SSH key")]
    Write(#[from] WriteFileError),
}

impl Coded for MakeKeyError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Key { .. } => ErrorCode::Failed,
            Self::Write(error) => error.code(),
        }
    }
}

/// Makes a key pair at `path` (0600) and `path`.pub (0644) unless the private key is there; gives the public key's line.
pub fn ensure(path: &Path, comment: &str) -> Result<String, MakeKeyError> {
    let error = |source| MakeKeyError::Key { path: path.to_owned(), source };
    let key = if path.exists() {
        PrivateKey::read_openssh_file(path).map_err(error)?
    } else {
        let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(error)?;
        key.set_comment(comment);
        atomic::write(path, key.to_openssh(LineEnding::LF).map_err(error)?.as_bytes(), 0o600)?;
        key
    };
    let line = key.public_key().to_openssh().map_err(error)?;
    let public = path.with_extension("pub");
    if !public.exists() {
        atomic::write(&public, format!("{line}\n").as_bytes(), 0o644)?;
    }
    Ok(line)
}
