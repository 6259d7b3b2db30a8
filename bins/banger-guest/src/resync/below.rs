//! What lies below a directory, by paths that lead through no symbolic link: the guest may have put one in the place of a directory, and
//! what is behind it is none of the workspace's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// A directory.
pub struct Below(OwnedFd);

const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whether there is simply nothing of that name.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}

/// `None` where there is nothing.
fn there<T>(result: nix::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(errno) if is_absent(errno) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// What kind of file it is.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

impl Below {
    /// The directory at `path`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self(open(path.as_ref(), DIRECTORY, Mode::empty())?))
    }

    /// The directory that `path` is in, and its name there; with `make` directories that are lacking are made.
    fn parent<'a>(&self, path: &'a [u8], make: bool) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let mut parts: Vec<&OsStr> = path.split(|byte| *byte == b'/').map(OsStr::from_bytes).collect();
        let name = parts.pop().unwrap_or_default();
        // Nothing that comes has such a name; a path with one would lead elsewhere.
        if parts.iter().chain([&name]).any(|part| part.is_empty() || *part == "." || *part == "..") {
            return Err(Errno::EINVAL);
        }
        let mut directory = self.0.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        for part in parts {
            let mut next = openat(&directory, part, DIRECTORY, Mode::empty());
            if make && matches!(next, Err(Errno::ENOENT)) {
                match mkdirat(&directory, part, Mode::from_bits_truncate(0o777)) {
                    Err(Errno::EEXIST) => {}
                    made => made?,
                }
                next = openat(&directory, part, DIRECTORY, Mode::empty());
            }
            directory = next?;
        }
        Ok((directory, name))
    }

    /// What is at `path`, if there is something.
    pub fn look(&self, path: &[u8]) -> io::Result<Option<FileStat>> {
        let looked = self.parent(path, false);
        there(looked.and_then(|(parent, name)| fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)))
    }

    /// Where the symbolic link at `path` leads.
    pub fn target(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path, false)?;
        Ok(readlinkat(&parent, name)?.into_vec())
    }

    /// Opens the file at `path`.
    pub fn read(&self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = self.parent(path, false)?;
        // Should it be a pipe by now, opening does not wait for anybody.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&parent, name, flags, Mode::empty())?))
    }

    /// Removes whatever is at `path`, and all that is below it.
    pub fn remove_all(&self, path: &[u8]) -> io::Result<()> {
        let Some((parent, name)) = there(self.parent(path, false))? else { return Ok(()) };
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                // As it removes nothing behind a link, and this one leads to where we are.
                fs::remove_dir_all(Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name))
            }
            removed => there(removed).map(drop),
        }
    }

    /// Removes the file or link at `path`.
    pub fn unlink(&self, path: &[u8]) -> io::Result<()> {
        let removed = self.parent(path, false);
        there(removed.and_then(|(parent, name)| unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)))
            .map(drop)
    }

    /// Removes the directory at `path` if it is one and nothing is in it; says whether it did.
    pub fn remove_empty(&self, path: &[u8]) -> bool {
        let removed = self.parent(path, false);
        removed.and_then(|(parent, name)| unlinkat(&parent, name, UnlinkatFlags::RemoveDir)).is_ok()
    }

    /// Gives the file or link `from` the place `path`, in place of a file or a link there, or of directories with nothing in them.
    /// Where `from` is not there any more it has it already.
    pub fn put(&self, from: &Path, path: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(path, true)?;
        match renameat(nix::fcntl::AT_FDCWD, from, &parent, name) {
            Err(Errno::EISDIR) => {
                self.remove_empty_tree(path)?;
                Ok(renameat(nix::fcntl::AT_FDCWD, from, &parent, name)?)
            }
            Err(Errno::ENOENT) => Ok(()),
            moved => Ok(moved?),
        }
    }

    /// Removes the directory at `path` and those in it. Where anything else is in one of them, it fails.
    fn remove_empty_tree(&self, path: &[u8]) -> io::Result<()> {
        for inner in self.list(path)? {
            self.remove_empty_tree(&inner)?;
        }
        let (parent, name) = self.parent(path, false)?;
        Ok(unlinkat(&parent, name, UnlinkatFlags::RemoveDir)?)
    }

    /// The paths of what is in the directory at `path`.
    fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let (parent, name) = self.parent(path, false)?;
        let directory = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        let entry = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| [path, b"/", entry.file_name().as_bytes()].concat())
        };
        fs::read_dir(directory)?.map(entry).collect()
    }

    /// The paths of everything below the directory at `path` that is not a directory itself.
    pub fn files(&self, path: &[u8], found: &mut Vec<Vec<u8>>) -> io::Result<()> {
        for inner in self.list(path)? {
            match self.look(&inner)? {
                Some(stat) if kind(&stat) == SFlag::S_IFDIR => self.files(&inner, found)?,
                Some(_) => found.push(inner),
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_done_behind_a_link_or_above_the_root() {
        let root = std::env::temp_dir().join(format!("banger-guest-below-{}", std::process::id()));
        fs::create_dir_all(root.join("work/a/b")).unwrap();
        fs::create_dir(root.join("outside")).unwrap();
        fs::write(root.join("outside/kept"), "kept").unwrap();
        fs::write(root.join("new"), "new").unwrap();
        symlink("../outside", root.join("work/link")).unwrap();
        symlink("../../outside", root.join("work/a/link")).unwrap();
        let work = Below::open(root.join("work")).unwrap();
        assert!(work.look(b"link/kept").unwrap().is_none());
        work.unlink(b"link/kept").unwrap();
        work.remove_all(b"link/kept").unwrap();
        for path in [&b"link/new"[..], b"../new2", b"/new2", b"a//new2", b"", b"."] {
            assert!(work.put(&root.join("new"), path).is_err(), "{}", path.escape_ascii());
        }
        // Directories with anything in them stay; empty ones give way.
        assert!(work.put(&root.join("new"), b"a").is_err());
        work.remove_all(b"a").unwrap();
        assert_eq!(fs::read(root.join("outside/kept")).unwrap(), b"kept");
        fs::create_dir_all(root.join("work/a/b/c")).unwrap();
        work.put(&root.join("new"), b"a").unwrap();
        assert_eq!(fs::read(root.join("work/a")).unwrap(), b"new");
        // Where it is in its place, there is nothing to do.
        work.put(&root.join("new"), b"a").unwrap();
        let mut files = Vec::new();
        Below::open(&root).unwrap().files(b"work", &mut files).unwrap();
        files.sort();
        assert_eq!(files, [b"work/a".to_vec(), b"work/link".to_vec()]);
        fs::remove_dir_all(root).unwrap();
    }
}
