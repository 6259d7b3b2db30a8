//! Files that are there whole or not at all: written beside their place, flushed, renamed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};

/// A file that could not be written.
#[derive(Debug, Error)]
#[error("cannot write {path:?}")]
pub struct WriteFileError {
    path: std::path::PathBuf,
    #[source]
    source: io::Error,
}

impl WriteFileError {
    /// Whether there was no room for it.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Writes `bytes` to `path` with `mode`: a reader sees the old content or the new one, also after a crash.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteFileError> {
    place(path, bytes, mode, |file| file.persist(path).map(drop).map_err(|e| e.error))
}

/// The same by way of the file `beside`, in the same directory, for callers that no other process does this with: what a crash leaves
/// of it is overwritten the next time, or found by its name.
pub fn write_by(beside: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteFileError> {
    let attempt = || {
        // Anew, so that neither what is there nor where a link leads has a say.
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(beside)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|source| WriteFileError { path: path.to_owned(), source })
}

/// Writes `bytes` to `path` with `mode` unless there is a file, which then stays as it is: a reader sees nothing or all of it.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteFileError> {
    place(path, bytes, mode, |file| match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    })
}

/// Writes a file beside `path`, and flushes it before and its directory after `put` brings it to its place.
fn place(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    put: impl FnOnce(tempfile::NamedTempFile) -> io::Result<()>,
) -> Result<(), WriteFileError> {
    let attempt = || {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".banger-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_data()?;
        put(file)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|source| WriteFileError { path: path.to_owned(), source: bare(source) })
}

/// Where a file that a person named is: a symbolic link is followed, so that what it leads to is replaced and not the link.
pub fn place_of(path: &Path) -> PathBuf {
    let is_link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    // /dev/stdout leads to a pipe, which has no other name: it stays what it is.
    if is_link { fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

/// Whether `path` is a device, a pipe or a socket: something to write to, and never to be replaced by a file.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Writes `bytes` to what is already there at `path`, as [`is_special`] tells.
pub fn write_through(path: &Path, mut bytes: impl io::Read) -> Result<(), WriteFileError> {
    let mut attempt = || io::copy(&mut bytes, &mut OpenOptions::new().write(true).open(path)?);
    attempt().map(drop).map_err(|source| WriteFileError { path: path.to_owned(), source })
}

/// Whether [`write`] could make `path`; nothing of it stays. Asked before work whose outcome is to go there.
pub fn check_writable(path: &Path) -> Result<(), WriteFileError> {
    let attempt = || {
        if is_special(path) {
            return Ok(access(path, Access::WRITE_OK)?);
        }
        if path.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tempfile::Builder::new().prefix(".banger-").tempfile_in(dir).map(drop)
    };
    attempt().map_err(|source| WriteFileError { path: path.to_owned(), source: bare(source) })
}

/// The system's reason without the name of the temporary file, which tempfile adds and which says nothing to anybody.
pub fn bare(error: io::Error) -> io::Error {
    match error.to_string().rsplit_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    }
}

impl Coded for WriteFileError {
    fn code(&self) -> ErrorCode {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_place_is_found_wanting_before_anything_is_written() {
        let error = check_writable(Path::new("/proc/x")).unwrap_err();
        let source = error.source().expect("the system's reason").to_string();
        assert_eq!(source, "No such file or directory (os error 2)");
        let dir = tempfile::tempdir().unwrap();
        let error = check_writable(dir.path()).unwrap_err();
        assert_eq!(error.source().expect("the system's reason").to_string(), "Is a directory (os error 21)");
        check_writable(&dir.path().join("p")).unwrap();
        check_writable(Path::new("/dev/null")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_followed_and_devices_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, dangling) = (dir.path().join("f"), dir.path().join("l"), dir.path().join("d"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        std::os::unix::fs::symlink("gone", &dangling).unwrap();
        assert_eq!(place_of(&link), fs::canonicalize(&file).unwrap());
        assert_eq!(place_of(&dangling), dangling);
        assert!(is_special(Path::new("/dev/null")) && !is_special(&link) && !is_special(dir.path()));
        write_through(Path::new("/dev/full"), &b"x"[..]).unwrap_err();
    }
}
