//! A look at the host: the checkout and, each a repository of its own, the submodules in it, with what of them travels.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_contract::record::WorkspaceMode;
use banger_host::git;

use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use crate::staging::{Selection, Staging};
use crate::submodule;

/// How deep submodules may lie in submodules.
pub const MAX_DEPTH: usize = 16;

/// What is to travel.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// How much of git.
    pub mode: WorkspaceMode,
    /// Whether untracked files do.
    pub include_untracked: bool,
}

/// One repository.
#[derive(Debug)]
pub struct Part {
    /// Its place in the workspace: empty for the checkout itself, else the submodule's path.
    pub prefix: PathBuf,
    /// The place of its git directory in the workspace.
    pub git_dir: PathBuf,
    /// The checkout.
    pub checkout: Checkout,
    /// What of it travels.
    pub selection: Selection,
    /// Where it was looked at.
    pub staging: Staging,
}

/// What a look at the host found. Part 0 is the checkout itself; a submodule comes after the repository that it is in.
#[derive(Debug)]
pub struct Survey {
    /// What was asked for.
    pub choice: Choice,
    /// The repositories.
    pub parts: Vec<Part>,
}

impl Survey {
    /// Looks at the checkout `checkout`; what that needs is written to directories below `scratch`. Of the files in `agreed`, by their
    /// paths in the workspace, it does not count whether git tracks them.
    pub fn new(
        scratch: &Path,
        checkout: Checkout,
        choice: Choice,
        agreed: &BTreeSet<Vec<u8>>,
    ) -> Result<Self, WorkspaceError> {
        let mut survey = Self { choice, parts: Vec::new() };
        survey.add((scratch, agreed), checkout, PathBuf::new(), ".git".into(), 0)?;
        Ok(survey)
    }

    fn add(
        &mut self,
        (scratch, agreed): (&Path, &BTreeSet<Vec<u8>>),
        checkout: Checkout,
        prefix: PathBuf,
        git_dir: PathBuf,
        depth: usize,
    ) -> Result<(), WorkspaceError> {
        let staging = Staging::new(scratch, &checkout)?;
        let selection =
            match staging.select(&checkout, self.choice.include_untracked, &below(agreed, &prefix)) {
                // A submodule without a commit is to git as one that is not checked out.
                Err(WorkspaceError::Empty(_)) if depth > 0 => return Ok(()),
                other => other?,
            };
        if depth > 0 && selection.head.commit.is_none() {
            return Ok(());
        }
        // A git directory inside another one, but for where that keeps its own submodules, would be part of both.
        let inside = |a: &Path, b: &Path| a.starts_with(b) && !a.starts_with(b.join("modules"));
        let clash = |part: &Part| inside(&git_dir, &part.git_dir) || inside(&part.git_dir, &git_dir);
        if self.parts.iter().any(clash) {
            return Err(WorkspaceError::Submodule {
                path: prefix,
                why: "its name in .gitmodules is that of another one",
            });
        }
        let mut inner = Vec::new();
        let wanted = !selection.links.is_empty() && self.choice.mode != WorkspaceMode::Files;
        let names = if wanted { submodule::names(&checkout)? } else { BTreeMap::new() };
        for path in selection.links.keys() {
            let Some(found) = submodule::open(&checkout, path)? else { continue };
            let place = prefix.join(path);
            if depth >= MAX_DEPTH {
                return Err(WorkspaceError::Submodule { path: place, why: "it lies too deep in others" });
            }
            let git_dir = submodule::git_dir(&git_dir, &place, names.get(path).map(String::as_str))?;
            inner.push((found, place, git_dir));
        }
        self.parts.push(Part { prefix, git_dir, checkout, selection, staging });
        for (checkout, prefix, git_dir) in inner {
            self.add((scratch, agreed), checkout, prefix, git_dir, depth + 1)?;
        }
        Ok(())
    }

    /// The checkout itself.
    pub fn root(&self) -> &Part {
        &self.parts[0]
    }

    /// The files that travel, by their paths in the workspace.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.parts
            .iter()
            .flat_map(|part| part.selection.entries.iter().map(|entry| part.prefix.join(&entry.path)))
    }

    /// The sum over the repositories.
    pub fn sum(&self, of: impl Fn(&Selection) -> usize) -> usize {
        self.parts.iter().map(|part| of(&part.selection)).sum()
    }

    /// The bytes of the files.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.selection.size_bytes()).sum()
    }
}

/// Those of `paths` that are below `prefix`, from there.
pub fn below(paths: &BTreeSet<Vec<u8>>, prefix: &Path) -> BTreeSet<PathBuf> {
    if prefix.as_os_str().is_empty() {
        return paths.iter().map(|path| git::path(path)).collect();
    }
    let inside = [prefix.as_os_str().as_bytes(), b"/"].concat();
    let those = paths.range(inside.clone()..).map_while(|path| path.strip_prefix(&inside[..]));
    those.map(git::path).collect()
}
