//! Files and directories as they lie on the disk, looked at below a directory that is open.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::digest::Id;
use crate::resync::kind;
use banger_protocol::changes::{MODE_FILE, MODE_LINK, MODE_PROGRAM};

/// How often a file is read that changes while it is read.
pub const TRIES: usize = 4;
/// How much is read at once, bytes.
pub const CHUNK: usize = 128 << 10;
/// How files are opened: it does not wait, whatever they are by then.
const FILE: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);
/// How directories are opened.
pub const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// How reading a file ended.
pub enum ReadFile<T> {
    Whole(T),
    /// It is not there any more.
    Vanished,
    /// It is not a file any more.
    Other,
    /// It changed each time.
    Moving,
}

/// The bytes of the file at `path`, unless it is larger than `most` bytes, no file, or not there. A FIFO may be at any path of the guest's, and
/// opening it is not to wait for anybody.
pub fn read_file(path: &Path, most: u64) -> Option<Vec<u8>> {
    let file = File::from(open(path, FILE, Mode::empty()).ok()?);
    let stat = fstat(&file).ok()?;
    if kind(&stat) != SFlag::S_IFREG || stat.st_size.unsigned_abs() > most {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok().map(|_| bytes)
}

/// git's mode of a file or a link.
pub fn mode_of(stat: &FileStat) -> u32 {
    match kind(stat) {
        SFlag::S_IFLNK => MODE_LINK,
        _ if stat.st_mode & 0o100 != 0 => MODE_PROGRAM,
        _ => MODE_FILE,
    }
}

/// Reads a piece of a file.
pub fn read(file: &mut File, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
}

/// Opens a file and looks at it. Should it be a FIFO by now, opening does not wait for anybody.
pub fn open_file(directory: &OwnedFd, name: &CStr) -> Result<ReadFile<(File, FileStat)>, Errno> {
    match openat(directory, name, FILE | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(file) => {
            let stat = fstat(&file)?;
            let is_file = kind(&stat) == SFlag::S_IFREG;
            Ok(if is_file { ReadFile::Whole((File::from(file), stat)) } else { ReadFile::Other })
        }
        Err(Errno::ENOENT) => Ok(ReadFile::Vanished),
        Err(Errno::ELOOP | Errno::ENXIO) => Ok(ReadFile::Other),
        Err(errno) => Err(errno),
    }
}

/// Whether nobody has written to `file` since it was `stat`.
pub fn is_still(file: &File, stat: &FileStat) -> bool {
    let times = |stat: &FileStat| {
        (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec, stat.st_mode)
    };
    fstat(file).is_ok_and(|now| times(&now) == times(stat))
}

/// The id of a file, and its mode.
pub fn hash(
    directory: &OwnedFd,
    name: &CStr,
    sha256: bool,
    buffer: &mut [u8],
) -> Result<ReadFile<(Vec<u8>, u32)>, Errno> {
    for _ in 0..TRIES {
        let (mut file, stat) = match open_file(directory, name)? {
            ReadFile::Whole(opened) => opened,
            ReadFile::Vanished => return Ok(ReadFile::Vanished),
            _ => return Ok(ReadFile::Other),
        };
        let size = stat.st_size.unsigned_abs();
        let (mut id, mut left) = (Id::of_blob(sha256, size), size);
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            match read(&mut file, &mut buffer[..most])? {
                0 => break,
                count => {
                    id.update(&buffer[..count]);
                    left -= count as u64;
                }
            }
        }
        if left == 0 && is_still(&file, &stat) {
            return Ok(ReadFile::Whole((id.finish(), mode_of(&stat))));
        }
    }
    Ok(ReadFile::Moving)
}

/// What is in a directory, but for itself and the one above it; sorted.
pub fn list(directory: &OwnedFd) -> nix::Result<Vec<(CString, Type)>> {
    let again = openat(directory, ".", DIRECTORY, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            // Where the filesystem does not say, it is looked at.
            entries.push((name.to_owned(), entry.file_type().unwrap_or(Type::Fifo)));
        }
    }
    entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

/// Whether a directory is there.
pub fn is_directory(directory: &OwnedFd, name: &CStr) -> bool {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
}

/// Whether it is a directory of a filesystem that does not say so.
pub fn is_unknown_directory(kind: Type, directory: &OwnedFd, name: &CStr) -> bool {
    kind == Type::Fifo && is_directory(directory, name)
}

/// How many files are below a directory, as far as that can be read.
pub fn count(directory: &OwnedFd) -> u64 {
    let Ok(entries) = list(directory) else { return 0 };
    let each = entries.iter().map(|(name, kind)| match kind {
        Type::Directory => {
            openat(directory, &**name, DIRECTORY, Mode::empty()).map_or(0, |inner| count(&inner))
        }
        _ => 1,
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fifo_is_waited_for() {
        let root = std::env::temp_dir().join(format!("banger-guest-disk-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let (fifo, file) = (root.join("fifo"), root.join("file"));
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "text").unwrap();
        assert_eq!(read_file(&fifo, 10), None);
        assert_eq!(read_file(&file, 10).as_deref(), Some(&b"text"[..]));
        assert_eq!(
            (read_file(&file, 3), read_file(&root, 10), read_file(&root.join("no"), 10)),
            (None, None, None)
        );
        std::fs::remove_dir_all(root).unwrap();
    }
}
