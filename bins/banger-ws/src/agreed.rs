//! What host and guest last agreed on, where that has moved since the last copy: a patch that was applied to the checkout is on both
//! sides, and no change of the guest's any more. What both agreed on before, with the patch applied to it, is what they agree on now;
//! what the checkout has beside that is the host's own change, and travels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use banger_host::digest::hex;
use banger_host::fs::atomic;
use banger_host::git::{self, Git};
use banger_protocol::changes::{MODE_FILE, MODE_LINK, MODE_PROGRAM, Request, SentFile};
use rustix::fs::OFlags;
use tempfile::TempDir;

use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use crate::index::Index;
use crate::object::{Hasher, Objects};
use crate::patch::Scanned;
use crate::{content, plain_git};

/// The paths of `request` in the workspace, as the host may have to be asked for them.
pub fn paths(request: &Request) -> BTreeSet<Vec<u8>> {
    let whole = |prefix: &[u8], path: &[u8]| match prefix {
        b"" => path.to_vec(),
        prefix => [prefix, b"/", path].concat(),
    };
    request
        .trees
        .iter()
        .flat_map(|tree| tree.files.iter().map(|file| whole(&tree.prefix, &file.path)))
        .collect()
}

/// What a patch makes of the files that were agreed on, by their paths in its tree; `None` for a file that goes.
#[derive(Debug, Default)]
pub struct Step {
    sha256: bool,
    before: BTreeMap<Vec<u8>, SentFile>,
    after: BTreeMap<Vec<u8>, Option<SentFile>>,
}

/// How large a patch of files may be of whose moves one half is home, bytes.
const MAX_SPLIT: usize = 256 << 20;

impl Step {
    /// Applies `patch`, of which `scanned` was read, to the tree number `tree` of `request`; the objects that come of it go to `objects`,
    /// where the others are. `None` where it is a patch of other files.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn of(
        scratch: &Path,
        objects: &Path,
        (request, tree): (&Request, usize),
        (patch, scanned): (&Path, &Scanned),
    ) -> Result<Option<Self>, WorkspaceError> {
        let Some(tree) = request.trees.get(tree) else { return Ok(None) };
        let touched: BTreeSet<&[u8]> =
            scanned.entries.iter().flat_map(|entry| entry.paths().map(Vec::as_slice)).collect();
        let (temp, git) = git_of(scratch, objects, request.sha256)?;
        let failed = |source| WorkspaceError::Git { root: temp.path().to_owned(), source };
        let before = tree.files.iter().filter(|file| touched.contains(file.path.as_slice()));
        let before: BTreeMap<Vec<u8>, SentFile> =
            before.map(|file| (file.path.clone(), file.clone())).collect();
        let lines = before.values().flat_map(|file| {
            [format!("{:06o} {}\t", file.mode, hex(&file.id)).as_bytes(), &file.path, b"\0"].concat()
        });
        let add = git.exec(["update-index", "--add", "-z", "--index-info"]).stdin(lines.collect::<Vec<u8>>());
        add.run().map_err(failed)?;
        if !applies(&git, patch).map_err(failed)? {
            return Ok(None);
        }
        let format = if request.sha256 { "sha256" } else { "sha1" };
        let index = Index::read(&temp.path().join("git/index"), format)?;
        let mut after: BTreeMap<Vec<u8>, Option<SentFile>> =
            touched.into_iter().map(|path| (path.to_vec(), None)).collect();
        for entry in index.entries {
            let (mode, id) = (entry.state.mode, entry.state.object.as_bytes().to_vec());
            after.insert(entry.path.clone(), Some(SentFile { path: entry.path, mode, id }));
        }
        Ok(Some(Self { sha256: request.sha256, before, after }))
    }

    /// Whether `checkout` has at `path` what the patch makes of it. What is reached through a link of the checkout's is not there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_home(&self, checkout: &Checkout, path: &[u8]) -> Result<bool, WorkspaceError> {
        let Some(wanted) = self.after.get(path) else { return Ok(false) };
        let there = checkout.look(&git::path(path))?;
        let (Some(there), Some(wanted)) = (&there, wanted) else {
            return Ok(there.is_none() && wanted.is_none());
        };
        let error = |source| WorkspaceError::io("read", checkout.root.join(&there.path))(source);
        if there.is_symlink() {
            let target = content::target(checkout, there)?;
            let id = self.id(&mut &target[..], target.len() as u64).map_err(error)?;
            return Ok(wanted.mode == MODE_LINK && id == wanted.id);
        }
        let mode = if there.stat.st_mode & 0o100 == 0 { MODE_FILE } else { MODE_PROGRAM };
        if mode != wanted.mode {
            return Ok(false);
        }
        let opened = checkout.open_beneath(&there.path, OFlags::RDONLY);
        let hashed = opened.and_then(|file| match file.map(File::from) {
            Some(mut file) => {
                let size = file.metadata()?.len();
                self.id(&mut file, size).map(Some)
            }
            None => Ok(None),
        });
        Ok(hashed.map_err(error)?.as_ref() == Some(&wanted.id))
    }

    /// Whether `checkout` has made a program of the file at `path` since it was agreed on, or none of a program: git removes such a file all
    /// the same, and only warns.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn has_other_mode(&self, checkout: &Checkout, path: &[u8]) -> Result<bool, WorkspaceError> {
        let (Some(before), Some(there)) = (self.before.get(path), checkout.look(&git::path(path))?) else {
            return Ok(false);
        };
        let is_program = there.stat.st_mode & 0o100 != 0;
        Ok(!there.is_symlink() && before.mode != MODE_LINK && is_program != (before.mode == MODE_PROGRAM))
    }

    /// The patch of `paths` alone, each of them by itself: what has moved is removed here and made there.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn patch_of(
        &self,
        scratch: &Path,
        objects: &Path,
        paths: &BTreeSet<Vec<u8>>,
    ) -> Result<Vec<u8>, WorkspaceError> {
        let (temp, git) = git_of(scratch, objects, self.sha256)?;
        let trees = Objects::at(objects, self.sha256);
        let old: Vec<&SentFile> = paths.iter().filter_map(|path| self.before.get(path)).collect();
        let new: Vec<&SentFile> = paths.iter().filter_map(|path| self.after.get(path)?.as_ref()).collect();
        let mut sides = Vec::new();
        for files in [old, new] {
            let files = files.into_iter().map(|file| (&file.path[..], (file.mode, &file.id[..])));
            sides.push(hex(&trees.write_tree(&files.collect())?));
        }
        let args = [
            "diff-tree",
            "-r",
            "-p",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
        ];
        git.exec(args)
            .args(sides)
            .stdout_limit(MAX_SPLIT)
            .run()
            .map_err(|source| WorkspaceError::Git { root: temp.path().to_owned(), source })
    }

    /// The id that git gives so many bytes.
    fn id(&self, from: &mut dyn Read, size: u64) -> io::Result<Vec<u8>> {
        let mut hasher = Hasher::new(self.sha256, "blob", size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                count => hasher.update(&buffer[..count]),
            }
        }
    }

    /// Moves the tree number `tree` of `request` on by it.
    pub fn take(self, request: &mut Request, tree: usize) {
        let Some(tree) = request.trees.get_mut(tree) else { return };
        tree.files.retain(|file| !self.after.contains_key(&file.path));
        tree.files.extend(self.after.into_values().flatten());
        tree.files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    }
}

/// A git of nothing but the objects in `objects`, where new ones go as well; its directory in `scratch` is gone when that is dropped.
fn git_of(scratch: &Path, objects: &Path, sha256: bool) -> Result<(TempDir, Git), WorkspaceError> {
    let temp = tempfile::Builder::new().prefix("ws-").tempdir_in(scratch);
    let temp = temp.map_err(|e| WorkspaceError::io("make a directory in", scratch)(atomic::bare(e)))?;
    let git_dir = temp.path().join("git");
    plain_git::make(&git_dir, &[], sha256)?;
    let git = plain_git::git(temp.path(), &git_dir).env("GIT_OBJECT_DIRECTORY", objects);
    Ok((temp, git))
}

/// Applies `patch` to the index of `git`; `false` where it does not apply.
fn applies(git: &Git, patch: &Path) -> Result<bool, banger_host::process::exec::ExecError> {
    let exec = git.exec(["apply", "--cached", "-p1", "--whitespace=nowarn", "--"]).arg(patch);
    Ok(exec.output()?.status.success())
}
