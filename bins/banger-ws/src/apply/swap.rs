//! The files change places: a plan of single steps, each of which can be undone, carried out in order.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::stage::{Found, Identity, NEW, Staged, look};
use super::{ApplyError, WorkDir, journal, owner};
use crate::checkout::Checkout;

/// The part of [`WorkDir`] where what is removed is kept, under the number of its step.
pub(super) const OLD: &str = "old";

/// One step. Paths are relative to the root of the checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The file goes aside.
    Remove { path: PathBuf, old: Identity },
    /// The empty directory makes room for a file.
    RemoveDir { path: PathBuf, mode: u32 },
    /// A directory for what follows.
    MakeDir { path: PathBuf },
    /// The new file comes, in place of the old one if there is one.
    Put { path: PathBuf, old: Option<Identity>, new: Identity },
}

/// The root of a checkout and our directory, by their descriptors.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) root: PathBuf,
    root_fd: OwnedFd,
    pub(super) work: &'a WorkDir,
    work_fd: OwnedFd,
}

impl<'a> Ground<'a> {
    pub(super) fn new(checkout: &Checkout, work: &'a WorkDir) -> Result<Self, ApplyError> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(path, flags, Mode::empty());
            opened.map_err(|e| ApplyError::io("open", path)(e.into()))
        };
        Ok(Self {
            root_fd: open(&checkout.root)?,
            work_fd: open(&work.path)?,
            root: checkout.root.clone(),
            work,
        })
    }

    /// The directory that `path` is in, reached through no link, and its name there.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok((rustix::fs::openat2(&self.root_fd, dir, flags, Mode::empty(), resolve)?, name))
    }

    pub(super) fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode))?;
        owner::follow_parent(&dir, name)
    }

    pub(super) fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
    }

    /// Moves `path` of the checkout to `aside` of our directory, where nothing is.
    pub(super) fn take(&self, path: &Path, aside: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        rename_to_free((&dir, Path::new(name)), (&self.work_fd, aside))
    }

    /// The reverse.
    pub(super) fn give(&self, aside: &Path, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        rename_to_free((&self.work_fd, aside), (&dir, Path::new(name)))
    }

    /// Exchanges the two. `Ok(false)` where the file system cannot do that.
    pub(super) fn exchange(&self, aside: &Path, path: &Path) -> io::Result<bool> {
        let (dir, name) = self.parent(path)?;
        match rustix::fs::renameat_with(&self.work_fd, aside, &dir, name, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What is at `path` of the checkout.
    pub(super) fn found(&self, path: &Path) -> Result<Found, ApplyError> {
        look(&self.root.join(path))
    }
    /// What is at `aside` of our directory.
    pub(super) fn aside(&self, aside: &Path) -> Result<Found, ApplyError> {
        look(&self.work.join(aside))
    }
}

/// Renames where nothing is at the new place, also on file systems that cannot promise that in one call.
fn rename_to_free(from: (&impl AsFd, &Path), to: (&impl AsFd, &Path)) -> io::Result<()> {
    match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return Ok(other?),
    }
    if rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Errno::EXIST.into());
    }
    Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?)
}

/// Where the step `number` puts what it removes.
pub(super) fn kept(number: usize) -> PathBuf {
    Path::new(OLD).join(number.to_string())
}
/// Where the new version of `path` is, and after an exchange the old one.
pub(super) fn staged(path: &Path) -> PathBuf {
    Path::new(NEW).join(path)
}

/// All steps of an apply.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    ground: Ground<'a>,
    steps: Vec<Step>,
}

impl<'a> Plan<'a> {
    /// Removals first, as git does: a directory may come where a file was, and the other way round.
    pub(super) fn new(checkout: &Checkout, work: &'a WorkDir, staged: &Staged) -> Result<Self, ApplyError> {
        let ground = Ground::new(checkout, work)?;
        let (mut steps, mut later) = (Vec::new(), Vec::new());
        let mut removed = BTreeSet::new();
        for (path, (before, after)) in &staged.paths {
            match (*before, *after) {
                (Found::File(old), Found::Nothing | Found::Directory) => {
                    removed.insert(path.as_path());
                    steps.push(Step::Remove { path: path.clone(), old });
                }
                // The directory of a submodule that is gone: git leaves it unless it is empty, and so do we.
                (Found::Directory | Found::Nothing, Found::Nothing)
                | (Found::Directory, Found::Directory) => {}
                (Found::File(old), Found::File(new)) if old == new => {}
                (Found::File(old), Found::File(new)) => {
                    later.push(Step::Put { path: path.clone(), old: Some(old), new });
                }
                (_, Found::File(new)) => later.push(Step::Put { path: path.clone(), old: None, new }),
                (Found::Nothing, Found::Directory) => {}
            }
        }
        let mut made = BTreeSet::new();
        for (path, (before, after)) in &staged.paths {
            if matches!((before, after), (Found::Directory, Found::File(_))) {
                remove_dirs(&ground.root, path, &removed, &mut steps)?;
            }
            let wanted = match after {
                Found::File(_) => path.parent(),
                // A submodule's directory, or one with other touched files in it.
                Found::Directory => Some(path.as_path()),
                Found::Nothing => None,
            };
            let dirs: Vec<&Path> =
                wanted.into_iter().flat_map(Path::ancestors).filter(|p| !p.as_os_str().is_empty()).collect();
            for dir in dirs.into_iter().rev() {
                match ground.found(dir)? {
                    Found::Directory => {}
                    Found::File(_) if !removed.contains(dir) => {
                        return Err(ApplyError::InTheWay(ground.root.join(dir)));
                    }
                    _ if made.insert(dir.to_path_buf()) => {
                        steps.push(Step::MakeDir { path: dir.to_path_buf() })
                    }
                    _ => {}
                }
            }
        }
        steps.extend(later);
        Ok(Self { ground, steps })
    }

    /// Carries out all steps, or undoes those that were.
    pub(super) fn carry_out(&self) -> Result<(), ApplyError> {
        let work = self.ground.work;
        fs::create_dir(work.join(OLD)).map_err(ApplyError::io("make", work.join(OLD)))?;
        journal::write(work, &self.steps)?;
        for (number, step) in self.steps.iter().enumerate() {
            if let Err(error) = self.take_step(number, step) {
                journal::undo(&self.ground, &self.steps)?;
                return Err(error);
            }
        }
        journal::forget(work)?;
        self.prune();
        Ok(())
    }

    fn take_step(&self, number: usize, step: &Step) -> Result<(), ApplyError> {
        let ground = &self.ground;
        match step {
            Step::Remove { path, old } => {
                self.expect(path, *old)?;
                ground.take(path, &kept(number)).map_err(ApplyError::io("remove", path))
            }
            Step::RemoveDir { path, .. } => match ground.remove_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    Err(ApplyError::InTheWay(ground.root.join(path)))
                }
                done => done.map_err(ApplyError::io("remove", path)),
            },
            Step::MakeDir { path } => ground.make_dir(path, 0o777).map_err(ApplyError::io("make", path)),
            Step::Put { path, old: None, .. } => match ground.give(&staged(path), path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    Err(ApplyError::InTheWay(ground.root.join(path)))
                }
                done => done.map_err(ApplyError::io("write", path)),
            },
            Step::Put { path, old: Some(old), .. } => {
                self.expect(path, *old)?;
                let replace = || {
                    if !ground.exchange(&staged(path), path)? {
                        ground.take(path, &kept(number))?;
                        ground.give(&staged(path), path)?;
                    }
                    Ok(())
                };
                replace().map_err(ApplyError::io("replace", path))
            }
        }
    }

    /// The file is still the one that git's version was made from.
    fn expect(&self, path: &Path, old: Identity) -> Result<(), ApplyError> {
        match self.ground.found(path)? {
            Found::File(now) if now == old => Ok(()),
            _ => Err(ApplyError::Moving(self.ground.root.join(path))),
        }
    }

    /// Removes the directories that the removals left empty, as git does. What cannot be removed is in use.
    fn prune(&self) {
        let removed = self.steps.iter().filter_map(|step| match step {
            Step::Remove { path, .. } => Some(path),
            _ => None,
        });
        for path in removed {
            let parents = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
            for dir in parents {
                if self.ground.remove_dir(dir).is_err() {
                    break;
                }
            }
        }
    }
}

/// The steps that remove `dir` where a file is to go: it may hold nothing but directories, and files that are removed before.
fn remove_dirs(
    root: &Path,
    dir: &Path,
    removed: &BTreeSet<&Path>,
    steps: &mut Vec<Step>,
) -> Result<(), ApplyError> {
    let full = root.join(dir);
    for entry in fs::read_dir(&full).map_err(ApplyError::io("read", &full))? {
        let path = dir.join(entry.map_err(ApplyError::io("read", &full))?.file_name());
        if removed.contains(path.as_path()) {
            continue;
        }
        match look(&root.join(&path))? {
            Found::Directory => remove_dirs(root, &path, removed, steps)?,
            _ => return Err(ApplyError::InTheWay(root.join(path))),
        }
    }
    let meta = fs::symlink_metadata(&full).map_err(ApplyError::io("look at", &full))?;
    steps.push(Step::RemoveDir { path: dir.to_owned(), mode: meta.permissions().mode() & 0o7777 });
    Ok(())
}
