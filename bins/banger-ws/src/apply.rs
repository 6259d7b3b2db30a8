//! A patch onto a checkout of the host: all of it or nothing, whatever happens in between.
//!
//! git applies the patch to copies of the touched files in a directory of our own, on the same file system as the checkout: there a
//! full disk or a broken patch does no harm, and whatever git might make of the patch, only the files that the scanner has named
//! leave that directory. Then each file is exchanged for its new version by rename(2), which needs no space. The plan is written
//! down before the first exchange and the originals stay aside until the last: when something fails they are put back, and when
//! we are killed the next call on the checkout puts them back before it does anything else.

mod journal;
pub(super) mod owner;
mod stage;
mod swap;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::checkout::Checkout;
use super::patch::{Entry, Scanned, Status};
use super::plain_git;
use banger_contract::error::escape_controls;
use banger_contract::{Coded, ErrorCode};
use banger_host::git::{Git, split_nul};
use banger_host::process::exec::{ExecError, Output};

/// How much of git's complaints is read, bytes: a line for each file that does not apply.
const MAX_COMPLAINTS: usize = 1 << 20;
/// How much git may list, bytes: the largest patch's paths, and numbers.
const MAX_LISTED: usize = 64 << 20;
/// How many paths an error's message names.
const MAX_NAMED: usize = 10;

/// Why a patch is not applied. The checkout is as it was, but for [`ApplyError::Left`].
#[derive(Debug, Error)]
pub enum ApplyError {
    /// It does not apply to these files as they stand.
    #[error("the patch does not apply to {root:?}: {}", named(.paths))]
    Conflict {
        /// The checkout.
        root: PathBuf,
        /// What does not apply, with git's reason.
        paths: Vec<String>,
    },
    /// It would write through a symbolic link of the checkout.
    #[error("the patch would write to {path:?} through the symbolic link {link:?}")]
    Through {
        /// The file.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// It would write into a git directory, or into another repository inside the checkout.
    #[error("the patch would write to {path:?}, which belongs to the git repository at {repository:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The repository.
        repository: PathBuf,
    },
    /// Something that the patch knows nothing of is where a file is to go.
    #[error("{0:?} is in the way of the patch")]
    InTheWay(PathBuf),
    /// Somebody wrote to a file while the patch was applied.
    #[error("{0:?} changed while the patch was applied")]
    Moving(PathBuf),
    /// Another apply is at work on the checkout.
    #[error("another banger applies a patch to {0:?}")]
    Busy(PathBuf),
    /// An apply that was killed could not be undone, since files were changed after it.
    #[error("an earlier apply was cut short and could not be undone, since these changed after it: {}", named(.paths))]
    Left {
        /// The files.
        paths: Vec<String>,
        /// Where the originals are.
        originals: PathBuf,
    },
    /// Git made something that the scanner did not read from the patch.
    #[error("git made {0:?} of the patch, which does not name it")]
    Surprise(PathBuf),
    /// Git reads another patch than the scanner.
    #[error("git would not do to {0:?} what the patch was read to do")]
    ReadOtherwise(PathBuf),
    /// git failed.
    #[error("git failed on the checkout {root:?}")]
    Git {
        /// The checkout.
        root: PathBuf,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A signal came before anything was exchanged.
    #[error("interrupted by signal {0}; the checkout is as it was")]
    Interrupted(i32),
}

fn named(paths: &[String]) -> String {
    let more = paths.len().saturating_sub(MAX_NAMED);
    let first = paths.iter().take(MAX_NAMED).map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

impl ApplyError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Coded for ApplyError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Conflict { .. }
            | Self::Through { .. }
            | Self::Foreign { .. }
            | Self::InTheWay(_)
            | Self::Moving(_)
            | Self::Left { .. } => ErrorCode::Conflict,
            Self::Busy(_) => ErrorCode::Busy,
            Self::Git { source: ExecError::NotFound(_), .. } => ErrorCode::Unsupported,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            Self::Git { .. } | Self::Io { .. } | Self::Surprise(_) | Self::ReadOtherwise(_) => {
                ErrorCode::Failed
            }
            Self::Interrupted(_) => ErrorCode::Interrupted,
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Self::Conflict { paths, .. } | Self::Left { paths, .. } = self {
            details.insert("files".into(), paths.iter().take(1000).cloned().collect());
        }
        details
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Conflict { .. } => {
                "both sides have changed these in the same places: stash your changes to them, or merge the patch by hand (banger vm diff, git apply --3way), and apply again"
            }
            Self::Through { .. } => {
                "put a directory in the link's place, or apply what you want of the patch by hand"
            }
            Self::Foreign { .. } => "take the patch and apply what you want of it in that repository by hand",
            Self::InTheWay(_) => "move it away, and apply again",
            Self::Moving(_) | Self::Busy(_) => "try again when nothing writes to the checkout",
            Self::Left { originals, .. } => {
                return Some(format!(
                    "the files as they were before it are in {originals:?}; delete that when you are done"
                ));
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "nothing was changed; make room and apply again"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The checkout has it now; or could have it, where that alone was asked for.
    Yes,
    /// The checkout had it before.
    Already,
    /// The patch is empty.
    Nothing,
}

/// A patch that was read to its end, and where it is to go.
#[derive(Debug)]
pub struct Job<'a> {
    /// The checkout.
    pub checkout: &'a Checkout,
    /// The patch's file, an absolute path.
    pub patch: &'a Path,
    /// What was read of it.
    pub scanned: &'a Scanned,
}

/// Undoes what an apply that was killed left in `checkout`.
///
/// # Errors
/// [`ApplyError`]; another apply is at work.
pub fn recover(checkout: &Checkout) -> Result<(), ApplyError> {
    WorkDir::take(checkout).map(drop)
}

impl Job<'_> {
    /// Says whether the patch applies. What an apply that was killed left is undone before, as it is by [`Job::apply`].
    pub fn check(&self) -> Result<Applied, ApplyError> {
        let work = WorkDir::take(self.checkout)?;
        self.look(&work)
    }

    fn look(&self, work: &WorkDir) -> Result<Applied, ApplyError> {
        if self.scanned.entries.is_empty() {
            return Ok(Applied::Nothing);
        }
        self.check_places()?;
        let root = &self.checkout.root;
        let git = self.git(work, root)?;
        let tried = self.git_apply(&git, &["--check", "--numstat", "-z"])?;
        if tried.status.success() {
            let otherwise = read_otherwise(&self.scanned.entries, &tried.stdout);
            return otherwise.map_or(Ok(Applied::Yes), |path| Err(ApplyError::ReadOtherwise(path)));
        }
        if self.git_apply(&git, &["--check", "--reverse"])?.status.success() {
            return Ok(Applied::Already);
        }
        Err(ApplyError::Conflict { root: root.clone(), paths: self.complaints(&tried.stderr) })
    }

    /// Applies the patch. `interrupted` is asked for a signal before the first file is exchanged, and never after.
    pub fn apply(&self, interrupted: &dyn Fn() -> Option<i32>) -> Result<Applied, ApplyError> {
        let work = WorkDir::take(self.checkout)?;
        let checked = self.look(&work)?;
        if checked != Applied::Yes {
            return Ok(checked);
        }
        let staged = stage::Staged::new(self, &work)?;
        let plan = swap::Plan::new(self.checkout, &work, &staged)?;
        if let Some(signal) = interrupted() {
            return Err(ApplyError::Interrupted(signal));
        }
        plan.carry_out()?;
        Ok(Applied::Yes)
    }

    /// git that applies as it would for nobody in particular: no fuzz and no repair of white space, whatever the configuration.
    /// The patch is of bytes, so no line ending and no encoding is converted: `work_tree` is what it applies to.
    fn git(&self, work: &WorkDir, work_tree: &Path) -> Result<Git, ApplyError> {
        let git_dir = work.join("git");
        let made = plain_git::make(&git_dir, &[], self.checkout.object_format == "sha256");
        made.map_err(|error| ApplyError::io("make", &git_dir)(io::Error::other(error)))?;
        let mut git = plain_git::git(work_tree, &git_dir).env("GIT_WORK_TREE", work_tree);
        git.setting("apply.whitespace", "nowarn");
        git.setting("apply.ignoreWhitespace", "no");
        Ok(git)
    }

    fn git_apply(&self, git: &Git, extra: &[&str]) -> Result<Output, ApplyError> {
        let error = |source| ApplyError::Git { root: self.checkout.root.clone(), source };
        let exec = git.exec(["apply", "-p1", "--whitespace=nowarn"]).args(extra).arg("--").arg(self.patch);
        exec.stdout_limit(MAX_LISTED).stderr_limit(MAX_COMPLAINTS).output().map_err(error)
    }

    /// The paths that the patch touches, without those of submodules, whose files are not of this checkout.
    fn touched(&self) -> BTreeSet<&Path> {
        let entries = self.scanned.entries.iter();
        entries.flat_map(|e| e.paths()).map(|p| Path::new(OsStr::from_bytes(p))).collect()
    }

    /// Whether every path may be written to: through no link of the checkout, into no git directory and no other repository.
    fn check_places(&self) -> Result<(), ApplyError> {
        let root = &self.checkout.root;
        let removed: BTreeSet<&[u8]> = self
            .scanned
            .entries
            .iter()
            .filter(|e| e.status == Status::Deleted)
            .map(|e| e.path.as_slice())
            .collect();
        let git_dirs: Vec<PathBuf> = [Some(self.checkout.git_dir.as_path()), self.checkout.objects.parent()]
            .into_iter()
            .flatten()
            .filter_map(|dir| dir.canonicalize().ok())
            .filter(|dir| dir != root)
            .collect();
        let mut seen = BTreeSet::new();
        for path in self.touched() {
            let full = root.join(path);
            if let Some(repository) = git_dirs.iter().find(|dir| full.starts_with(dir)) {
                return Err(ApplyError::Foreign { path: path.to_owned(), repository: repository.clone() });
            }
            let parents = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
            for parent in parents.filter(|p| seen.insert(p.to_path_buf())) {
                let there = root.join(parent);
                let Ok(meta) = fs::symlink_metadata(&there) else { continue };
                if meta.is_symlink() && !removed.contains(parent.as_os_str().as_bytes()) {
                    return Err(ApplyError::Through { path: path.to_owned(), link: there });
                }
                if meta.is_dir() && fs::symlink_metadata(there.join(".git")).is_ok() {
                    return Err(ApplyError::Foreign { path: path.to_owned(), repository: there });
                }
            }
        }
        Ok(())
    }

    /// The touched paths that git complains of, with its reasons. Its lines are `error: PATH: reason`, PATH as it is.
    fn complaints(&self, said: &str) -> Vec<String> {
        let mut found = Vec::new();
        for path in self.touched() {
            let name = escape_controls(&path.to_string_lossy());
            if said.contains(&format!("error: {name}: "))
                || said.contains(&format!("error: patch failed: {name}:"))
            {
                found.push(path.to_string_lossy().into_owned());
            }
        }
        if found.is_empty() {
            found.push(said.chars().take(300).collect());
        }
        found
    }
}

/// A file that git read otherwise from the patch, by what `git apply --numstat -z` printed: git leaves out what it cannot read, and
/// succeeds.
fn read_otherwise(entries: &[Entry], listed: &[u8]) -> Option<PathBuf> {
    let mut listed = split_nul(listed).map(|line| line.splitn(3, |b| *b == b'\t').nth(2).unwrap_or_default());
    let differs = entries.iter().find(|entry| listed.next() != Some(&entry.path[..]));
    let path = differs.map(|entry| &entry.path[..]).or_else(|| listed.next());
    path.map(|path| OsStr::from_bytes(path).into())
}

/// The directory of our own, held by a lock; nothing of an earlier call is in it any more. Removed when dropped, unless a journal
/// is in it.
#[derive(Debug)]
pub(super) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes it beside git's own files, or in the root of the checkout where these are on another file system; and undoes what
    /// an earlier call left there.
    fn take(checkout: &Checkout) -> Result<Self, ApplyError> {
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev());
        let root = &checkout.root;
        let same = device(&checkout.git_dir).ok().is_some_and(|dev| device(root).is_ok_and(|of| of == dev));
        let path = if same { checkout.git_dir.join("banger-apply") } else { root.join(".banger-apply") };
        loop {
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(ApplyError::io("make", path)(error));
                }
                _ => {}
            }
            let Ok(lock) = File::open(&path) else { continue };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ApplyError::Busy(root.clone())),
                Err(TryLockError::Error(error)) => return Err(ApplyError::io("lock", path)(error)),
            }
            // Whoever held it before may have removed it: then the lock is on a directory without a name.
            let inode = |meta: io::Result<fs::Metadata>| meta.map(|m| (m.dev(), m.ino())).ok();
            if inode(lock.metadata()) != inode(fs::symlink_metadata(&path)) {
                continue;
            }
            let work = Self { path, _lock: lock };
            journal::undo_earlier(checkout, &work)?;
            work.clear()?;
            return Ok(work);
        }
    }

    /// A path in it.
    fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    fn clear(&self) -> Result<(), ApplyError> {
        let error = |e| ApplyError::io("empty", &self.path)(e);
        for entry in fs::read_dir(&self.path).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(error)?;
        }
        Ok(())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if !self.join(journal::NAME).exists() {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::patch::{MAX_PATCH_BYTES, Scanner};
    use super::*;

    #[test]
    fn what_git_reads_otherwise_is_told() {
        let file = |name: &str| format!("diff --git a/{name} b/{name}\nnew file mode 100644\nindex 0..1\n");
        let mut scanner = Scanner::new(MAX_PATCH_BYTES);
        scanner.feed((file("a") + &file("b c")).as_bytes()).unwrap();
        let entries = scanner.finish().unwrap().entries;
        assert_eq!(read_otherwise(&entries, b"0\t0\ta\x000\t0\tb c\0"), None);
        for (listed, path) in [
            (&b"0\t0\ta\0"[..], "b c"),
            (b"", "a"),
            (b"0\t0\ta\x000\t0\tb\0", "b c"),
            (b"0\t0\ta\x000\t0\tb c\x00-\t-\td\0", "d"),
        ] {
            assert_eq!(
                read_otherwise(&entries, listed),
                Some(path.into()),
                "{}",
                String::from_utf8_lossy(listed)
            );
        }
    }
}
