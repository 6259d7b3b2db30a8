//! The touched files as they are to be, made by git in a directory of our own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ApplyError, Job, WorkDir, owner};
use crate::patch::Entry;

/// The part of [`WorkDir`] that git works in.
pub(super) const NEW: &str = "new";

/// What tells a file from any other and from itself at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) mtime_ns: i64,
}

impl From<&Metadata> for Identity {
    fn from(meta: &Metadata) -> Self {
        Self { inode: meta.ino(), size: meta.size(), mtime: meta.mtime(), mtime_ns: meta.mtime_nsec() }
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    File(Identity),
}

/// What is at `path`; a link is a file.
pub(super) fn look(path: &Path) -> Result<Found, ApplyError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(Found::Directory),
        Ok(meta) => Ok(Found::File(Identity::from(&meta))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(ApplyError::io("look at", path)(error)),
    }
}

/// The touched paths: what is in the checkout, and what git made of it.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) paths: BTreeMap<PathBuf, (Found, Found)>,
}

impl Staged {
    /// Brings the touched files over and has git apply the patch to them.
    pub(super) fn new(job: &Job<'_>, work: &WorkDir) -> Result<Self, ApplyError> {
        let (root, new) = (&job.checkout.root, work.join(NEW));
        fs::create_dir(&new).map_err(ApplyError::io("make", &new))?;
        let touched = job.touched();
        let mut before = BTreeMap::new();
        for path in &touched {
            let found = look(&root.join(path))?;
            bring(root, &new, path, found)?;
            before.insert(path.to_path_buf(), found);
        }
        let git = job.git(work, &new)?;
        let applied = job.git_apply(&git, &[])?;
        if !applied.status.success() {
            let words = applied.stderr.chars().take(500).collect::<String>();
            let source = if words.contains("No space left") {
                io::Error::from(io::ErrorKind::StorageFull)
            } else {
                io::Error::other(words)
            };
            return Err(ApplyError::io("apply the patch to copies in", &new)(source));
        }
        let staged = Self::read(&new, before)?;
        staged.settle_owners(job, &new)?;
        Ok(staged)
    }

    /// Gives each file that git made to whom it belongs; see [`owner`].
    fn settle_owners(&self, job: &Job<'_>, new: &Path) -> Result<(), ApplyError> {
        let root = &job.checkout.root;
        let renamed: BTreeMap<&Path, &Path> = job.scanned.entries.iter().filter_map(rename).collect();
        for (path, found) in &self.paths {
            let (before, Found::File(after)) = found else { continue };
            let made = new.join(path);
            let error = |e| ApplyError::io("set the owner and permissions of", &made)(e);
            let old = match (before, renamed.get(path.as_path())) {
                (Found::File(before), _) if before == after => continue,
                (Found::File(_), _) => Some(root.join(path)),
                (_, from) => from.map(|from| root.join(from)),
            };
            match old {
                Some(old) => owner::keep(&made, &fs::symlink_metadata(old).map_err(error)?).map_err(error)?,
                None => {
                    // What is not there yet is made with its parent's owner.
                    let directories = path.ancestors().skip(1).map(|dir| fs::metadata(root.join(dir)));
                    let directory = directories.flatten().find(Metadata::is_dir);
                    directory.map_or(Ok(()), |directory| owner::follow(&made, &directory)).map_err(error)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at what git made. Nothing may be there that was not expected.
    fn read(new: &Path, before: BTreeMap<PathBuf, Found>) -> Result<Self, ApplyError> {
        let mut made = BTreeMap::new();
        walk(new, Path::new(""), &mut made)?;
        if let Some(path) = made.keys().find(|p| !before.contains_key(*p)) {
            return Err(ApplyError::Surprise(path.clone()));
        }
        let after = |path: &Path| match made.get(path) {
            Some(found) => Ok(*found),
            None => look(&new.join(path)),
        };
        let mut paths = BTreeMap::new();
        for (path, found) in before {
            let after = after(&path)?;
            paths.insert(path, (found, after));
        }
        Ok(Self { paths })
    }
}

/// The new and the old path of a file that the patch renames.
fn rename(entry: &Entry) -> Option<(&Path, &Path)> {
    let path = |bytes| Path::new(OsStr::from_bytes(bytes));
    Some((path(&entry.path), path(entry.from.as_ref()?)))
}

/// Everything below `dir` that is not a directory.
fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Found>) -> Result<(), ApplyError> {
    let here = root.join(dir);
    for entry in fs::read_dir(&here).map_err(ApplyError::io("read", &here))? {
        let path = dir.join(entry.map_err(ApplyError::io("read", &here))?.file_name());
        match look(&root.join(&path))? {
            Found::Directory => walk(root, &path, out)?,
            found => drop(out.insert(path, found)),
        }
    }
    Ok(())
}

/// Brings `path` of the checkout over: as a second name of the same file, which git never writes to but replaces (apply.c unlinks
/// before it creates); else as a copy.
fn bring(root: &Path, new: &Path, path: &Path, found: Found) -> Result<(), ApplyError> {
    let (from, to) = (root.join(path), new.join(path));
    let error = |e| ApplyError::io("copy", &from)(e);
    if found == Found::Nothing {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        match fs::create_dir_all(parent) {
            // A file and something below it: the checkout has only one of them.
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            made => made.map_err(error)?,
        }
    }
    if found == Found::Directory {
        return fs::create_dir_all(&to).map_err(error);
    }
    if fs::hard_link(&from, &to).is_ok() {
        return Ok(());
    }
    match fs::read_link(&from) {
        Ok(target) => std::os::unix::fs::symlink(target, &to).map_err(error),
        Err(_) => fs::copy(&from, &to).map(drop).map_err(error),
    }
}
