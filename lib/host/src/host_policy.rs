//! The file in which root says what others may have: banger-netd.toml(5). Who could change it would be root.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::process::sealed::{self, Untrusted};
use banger_contract::host_policy::{HostPolicy, HostPolicyError};
use banger_contract::{Coded, ErrorCode};

/// The file.
pub const FILE: &str = "/etc/banger/netd.toml";

/// The largest file that is read, bytes.
const MAX_BYTES: u64 = 64 << 10;

/// More than root lets a user have.
#[derive(Debug, Error)]
#[error("uid {uid} may not have {what}: {FILE} allows {allowed} ({key})")]
pub struct NotPermitted {
    /// The user.
    pub uid: u32,
    /// What was asked for.
    pub what: String,
    /// What there may be.
    pub allowed: String,
    /// The key that says so, or says nothing and has this default.
    pub key: &'static str,
}

/// A file that does not say what is allowed. Then nothing is.
#[derive(Debug, Error)]
#[error("cannot tell what others than root may do from {path:?}")]
pub struct ReadPolicyError {
    path: PathBuf,
    #[source]
    source: ReadPolicyCause,
}

/// Why not.
#[derive(Debug, Error)]
pub enum ReadPolicyCause {
    /// It is not root's alone.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a file of a policy's size.
    #[error("it is not a regular file of at most {MAX_BYTES} bytes")]
    Unfit,
    /// It says something that it cannot.
    #[error(transparent)]
    Text(#[from] HostPolicyError),
}

impl Coded for ReadPolicyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Denied
    }

    fn hint(&self) -> Option<String> {
        let text = match &self.source {
            ReadPolicyCause::Untrusted(untrusted) => untrusted.remedy(),
            _ => format!("have root correct {:?}: banger-netd.toml(5)", self.path),
        };
        Some(text)
    }
}

/// What the file says; where there is none, [`HostPolicy::default`].
///
/// # Errors
/// There is one, and others than root can change it, or it cannot be read or understood.
pub fn read() -> Result<HostPolicy, ReadPolicyError> {
    read_from(Path::new(FILE)).map_err(|source| ReadPolicyError { path: FILE.into(), source })
}

fn read_from(path: &Path) -> Result<HostPolicy, ReadPolicyCause> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HostPolicy::default()),
        other => other?,
    };
    // A link is root's word as well where its directory is (NixOS has the file in its store).
    let directory = path.parent().unwrap_or(Path::new("/")).canonicalize()?;
    let file = path.canonicalize()?;
    sealed::require_roots(&directory)?;
    sealed::require_roots(&file)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = fs::File::from(rustix::fs::open(&file, flags, Mode::empty()).map_err(io::Error::from)?);
    let metadata = opened.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(ReadPolicyCause::Unfit);
    }
    let mut text = String::new();
    opened.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(HostPolicy::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn none_is_the_default_and_one_of_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netd.toml");
        assert_eq!(read_from(&path).unwrap(), HostPolicy::default());
        symlink("nowhere", &path).unwrap();
        assert!(
            matches!(read_from(&path), Err(ReadPolicyCause::Io(_))),
            "a link that leads nowhere says nothing"
        );
        fs::remove_file(&path).unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        fs::write(&path, "taps = 3\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_from(&path).unwrap().taps, 3);
        for mode in [0o664, 0o646] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_from(&path), Err(ReadPolicyCause::Untrusted(_))), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        chown(&path, Some(1000), None).unwrap();
        assert!(matches!(read_from(&path), Err(ReadPolicyCause::Untrusted(_))));
        chown(&path, Some(0), None).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(read_from(&path), Err(ReadPolicyCause::Untrusted(_))), "its directory is anybody's");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, "taps = 3\nx = 1\n").unwrap();
        assert!(matches!(read_from(&path), Err(ReadPolicyCause::Text(_))));
        fs::write(&path, " ".repeat(100_000)).unwrap();
        assert!(matches!(read_from(&path), Err(ReadPolicyCause::Unfit)));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read_from(&path), Err(ReadPolicyCause::Unfit)));
    }
}
