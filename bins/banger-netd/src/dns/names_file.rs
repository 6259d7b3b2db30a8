//! The names file as the server reads it: a user's file, opened with that user's rights, through a directory that stays open
//! when the rights are gone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, openat};

use banger_contract::names::{MAX_NAMES_BYTES, Names};
use banger_host::process::privilege;

/// A names file by its open directory.
#[derive(Debug)]
pub struct NamesFile {
    dir: OwnedFd,
    name: OsString,
}

impl NamesFile {
    /// Opens the directory of `path`, as the user `uid` where one is given.
    ///
    /// # Errors
    /// The path names no file, or the user may not go there.
    pub fn open(path: &Path, uid: Option<u32>) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Open for reading: with O_PATH the right to enter it would not be asked for.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || Ok(open(parent, flags, Mode::empty())?);
        let dir = uid.map_or_else(open, |uid| privilege::as_user(uid, open))?;
        Ok(Self { dir, name })
    }

    /// The names that are in it now, read while root's rights are still there: as nobody, as it will be from then on.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as_nobody(&self) -> io::Result<Names> {
        privilege::as_user(privilege::NOBODY, || self.read())
    }

    /// The names that are in it now.
    ///
    /// # Errors
    /// The file is not a plain one, is too large, or holds something else.
    pub fn read(&self) -> io::Result<Names> {
        // What is there may be a link to a secret or a pipe without a writer, by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.dir, &self.name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_NAMES_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_NAMES_BYTES {
            return Err(io::Error::other(format!("it is longer than {MAX_NAMES_BYTES} bytes")));
        }
        Names::parse(&bytes).map_err(io::Error::other)
    }

    /// A path to the directory that needs no rights on those above it.
    pub fn dir_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_fd().as_raw_fd()).into()
    }
}
