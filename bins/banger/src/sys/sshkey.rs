//! Ed25519 key pairs in OpenSSH's format, made on the host.

use std::path::{Path, PathBuf};

use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_host::fs::atomic::{self, WriteFileError};

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

/// Makes a key pair at `path` (0600) and `path`.pub (0644), the private key only where there is none; gives the public key's line.
pub fn ensure(path: &Path, comment: &str) -> Result<String, MakeKeyError> {
    let error = |source| MakeKeyError::Key { path: path.to_owned(), source };
    if !path.exists() {
        let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(error)?;
        key.set_comment(comment);
        // Two programs may come here at once: the first key stays, and both take it.
        atomic::create(path, key.to_openssh(LineEnding::LF).map_err(error)?.as_bytes(), 0o600)?;
    }
    let key = PrivateKey::read_openssh_file(path).map_err(error)?;
    let line = key.public_key().to_openssh().map_err(error)?;
    let public = path.with_extension("pub");
    if std::fs::read_to_string(&public).ok().as_deref().map(str::trim_end) != Some(line.as_str()) {
        atomic::write(&public, format!("{line}\n").as_bytes(), 0o644)?;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_at_the_same_time_gets_the_same_key() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("id_ed25519");
            let lines: Vec<String> = std::thread::scope(|scope| {
                let ask = || ensure(&path, "test").unwrap();
                let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
                asking.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
            assert!(lines.iter().all(|line| format!("{line}\n") == public), "{lines:?} {public}");
            let private = PrivateKey::read_openssh_file(&path).unwrap();
            assert_eq!(private.public_key().to_openssh().unwrap() + "\n", public);
        }
    }
}
