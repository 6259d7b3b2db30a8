//! The host's repository: what it has, which of its branches may be moved, and how a pack and a ref get into it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::FetchError;
use crate::apply::owner;
use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use banger_host::git::{self, Git};

const HEADS: &str = "refs/heads/";

/// A ref of the repository.
#[derive(Debug)]
struct Ref {
    id: String,
    name: String,
    /// What it stands for, where it is a symbolic one.
    target: String,
}

/// The repository that a workspace was copied from.
#[derive(Debug)]
pub struct Home<'a> {
    checkout: &'a Checkout,
    /// The git directory that all working trees share.
    common: PathBuf,
    refs: Vec<Ref>,
    /// Working trees, each with the branch or the commit that is checked out there.
    worktrees: Vec<(PathBuf, String)>,
}

impl<'a> Home<'a> {
    /// Looks at the refs and the working trees of `checkout`.
    ///
    /// # Errors
    /// Those of git.
    pub fn look(checkout: &'a Checkout) -> Result<Self, FetchError> {
        let error = checkout.git_error();
        let args = ["for-each-ref", "--format=%(objectname) %(refname) %(symref)"];
        let said = checkout.git().run(args).map_err(&error)?;
        let parse = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            Some(Ref { id: words.next()?, name: words.next()?, target: words.next()? })
        };
        let refs = String::from_utf8_lossy(&said).lines().filter_map(parse).collect();
        let said = checkout.git().run(["worktree", "list", "--porcelain"]).map_err(&error)?;
        let worktrees = worktrees(&String::from_utf8_lossy(&said));
        let common = checkout.objects.parent().unwrap_or(&checkout.git_dir).to_owned();
        Ok(Self { checkout, common, refs, worktrees })
    }

    /// The ids that refs and working trees are at.
    pub fn ids(&self) -> Vec<String> {
        let is_id = |text: &&String| text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let worktrees = self.worktrees.iter().map(|(_, at)| at).filter(is_id);
        let refs = self.refs.iter().map(|found| &found.id);
        refs.chain(worktrees).filter(|id| id.bytes().any(|b| b != b'0')).cloned().collect()
    }

    /// The commits of the branches whose names begin with `prefix`.
    pub fn below<'b>(&'b self, prefix: &'b str) -> impl Iterator<Item = &'b str> {
        let branches = self.refs.iter().filter_map(|found| Some((found.name.strip_prefix(HEADS)?, found)));
        branches.filter(move |(name, _)| name.starts_with(prefix)).map(|(_, found)| found.id.as_str())
    }

    /// Whether a branch called `branch` may be made or moved; gives where it is, if it is there.
    ///
    /// # Errors
    /// [`FetchError`] says what is in the way.
    pub fn admit(&self, branch: &str) -> Result<Option<String>, FetchError> {
        self.check_name(branch)?;
        let full = format!("{HEADS}{branch}");
        let busy = self.worktrees.iter().find(|(_, at)| *at == full).map(|(place, _)| place.clone());
        if let Some(place) = busy.or_else(|| self.busy_with(branch)) {
            return Err(FetchError::CheckedOut { branch: branch.to_owned(), place });
        }
        let is_around = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|r| r.starts_with('/'));
        let blocks = |found: &&Ref| is_around(&found.name, &full) || is_around(&full, &found.name);
        if let Some(other) = self.refs.iter().find(blocks) {
            let other = other.name.strip_prefix(HEADS).unwrap_or(&other.name).to_owned();
            return Err(FetchError::NoRoom { branch: branch.to_owned(), other });
        }
        let Some(found) = self.refs.iter().find(|found| found.name == full) else { return Ok(None) };
        if !found.target.is_empty() {
            let (branch, target) = (branch.to_owned(), found.target.clone());
            return Err(FetchError::Symbolic { branch, target });
        }
        Ok(Some(found.id.clone()))
    }

    fn check_name(&self, branch: &str) -> Result<(), FetchError> {
        let wrong = || FetchError::BranchName(branch.to_owned());
        let said = self.checkout.git().exec(["check-ref-format", "--branch", branch]).output();
        let said = said.map_err(self.checkout.git_error())?;
        // A name such as @{-1} is another one to git.
        if said.status.success() && git::line(&said.stdout) == branch { Ok(()) } else { Err(wrong()) }
    }

    /// The git directory of a working tree where `branch` is in the middle of a rebase or a bisection, and will be checked out again.
    fn busy_with(&self, branch: &str) -> Option<PathBuf> {
        let linked = fs::read_dir(self.common.join("worktrees")).into_iter().flatten();
        let dirs = linked.filter_map(|entry| Some(entry.ok()?.path())).chain([self.common.clone()]);
        let names = ["rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"];
        let is_of_it = |text: String| {
            let name = text.trim_end_matches('\n');
            name.strip_prefix(HEADS).unwrap_or(name) == branch
        };
        let is_busy =
            |dir: &PathBuf| names.iter().any(|name| fs::read_to_string(dir.join(name)).is_ok_and(is_of_it));
        dirs.into_iter().find(is_busy)
    }

    /// Puts the pack in `from`, if there is one, among those of the repository.
    ///
    /// # Errors
    /// Those of the files; nothing is left of it then.
    pub fn place(&self, from: &Path) -> Result<Placed, FetchError> {
        let dir = self.checkout.objects.join("pack");
        let mut placed = Placed { files: Vec::new() };
        let mut files: Vec<PathBuf> = fs::read_dir(from)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(WorkspaceError::io("read", from))?;
        // git looks for the indices of packs, so that comes last.
        files.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "idx"));
        let Some(name) = files.last().and_then(|path| path.file_name()) else { return Ok(placed) };
        if dir.join(name).exists() {
            return Ok(placed);
        }
        for file in &files {
            let to = dir.join(file.file_name().unwrap_or_default());
            // First, so that what fails half-way is removed.
            placed.files.push(to.clone());
            put(file, &to, &dir).map_err(WorkspaceError::io("write", &to))?;
        }
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(WorkspaceError::io("write", &dir))?;
        Ok(placed)
    }

    /// Has the branch be at `new`, if it is at `old` still, and notes `why` in its reflog.
    ///
    /// # Errors
    /// [`FetchError::Moved`], those of git; the branch is where it was then.
    pub fn set(&self, branch: &str, old: Option<&str>, new: &str, why: &str) -> Result<(), FetchError> {
        let full = format!("{HEADS}{branch}");
        let nothing = "0".repeat(new.len());
        let mut git = self.checkout.git().clone();
        // What is written here stays.
        git.setting("core.fsync", "committed,reference");
        let args = ["update-ref", "--no-deref", "-m", why, &full, new, old.unwrap_or(&nothing)];
        let set = git.run(args);
        self.leave_to_owner(&full);
        let Err(source) = set else { return Ok(()) };
        // git may have been ended when it had done it.
        match self.now(&git, &full) {
            Some(now) if now == new => Ok(()),
            now if now.as_deref() != old => Err(FetchError::Moved(branch.to_owned())),
            _ => Err(self.checkout.git_error()(source).into()),
        }
    }

    fn now(&self, git: &Git, full: &str) -> Option<String> {
        git.run(["rev-parse", "-q", "--verify", full]).ok().map(|said| git::line(&said))
    }

    /// Leaves to the repository's owner what root has added for the ref `full`. Where refs are kept otherwise there is nothing.
    fn leave_to_owner(&self, full: &str) {
        for top in [self.common.clone(), self.common.join("logs")] {
            let mut place = top;
            for part in full.split('/') {
                let Ok(parent) = fs::symlink_metadata(&place) else { break };
                place.push(part);
                // The branch is there, whoever its file belongs to.
                drop(owner::follow(&place, &parent));
            }
        }
    }
}

/// Files of a pack that was put into a repository, whose objects no ref reaches yet.
#[derive(Debug)]
#[must_use]
pub struct Placed {
    files: Vec<PathBuf>,
}

impl Placed {
    /// Leaves them there.
    pub fn keep(mut self) {
        self.files.clear();
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // The index first: git finds the others by it.
        for file in self.files.iter().rev() {
            drop(fs::remove_file(file));
        }
    }
}

/// Copies `from` to its place `to` in `dir`, whole or not at all, for everybody to read who may read the directory.
fn put(from: &Path, to: &Path, dir: &Path) -> io::Result<()> {
    // git's own name for such files: what is left of one after a crash it removes in time (git-prune(1)).
    let mut temp = tempfile::Builder::new().prefix("tmp_pack_").tempfile_in(dir)?;
    io::copy(&mut File::open(from)?, temp.as_file_mut())?;
    let parent = fs::metadata(dir)?;
    temp.as_file().set_permissions(Permissions::from_mode(parent.mode() & 0o444))?;
    temp.as_file().sync_all()?;
    owner::follow(temp.path(), &parent)?;
    temp.persist(to).map(drop).map_err(|error| error.error)
}

/// Where the working trees are that git lists, and what is checked out there.
fn worktrees(listed: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut place = PathBuf::new();
    for line in listed.lines() {
        match line.split_once(' ') {
            Some(("worktree", path)) => place = path.into(),
            Some(("HEAD" | "branch", at)) => found.push((place.clone(), at.to_owned())),
            _ => {}
        }
    }
    found
}
