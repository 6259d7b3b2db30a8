//! Everything that travels: the checkout and, each a repository of its own, the submodules in it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkout::Checkout;
use super::error::WorkspaceError;
use super::index::Index;
use super::known::Known;
use super::pack::Packing;
use super::staging::{PREPARED_REF, Selection, Staging};
use super::tags::{self, Tag};
use super::{fill, gitdir, rewritten, sent, submodule};
use banger_contract::record::WorkspaceMode;
use banger_host::git;
use banger_protocol::changes::Request;

/// How deep submodules may lie in submodules.
const MAX_DEPTH: usize = 16;

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
fn below(paths: &BTreeSet<Vec<u8>>, prefix: &Path) -> BTreeSet<PathBuf> {
    if prefix.as_os_str().is_empty() {
        return paths.iter().map(|path| git::path(path)).collect();
    }
    let inside = [prefix.as_os_str().as_bytes(), b"/"].concat();
    let those = paths.range(inside.clone()..).map_while(|path| path.strip_prefix(&inside[..]));
    those.map(git::path).collect()
}

/// One repository's git directory for the guest.
#[derive(Debug)]
pub struct Repository {
    /// The place of the git directory in the workspace.
    pub git_dir: PathBuf,
    /// The commit that holds the tree as it was seen.
    pub prepared: String,
    /// Its small files.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Its index, on the host.
    pub index: PathBuf,
    /// Its objects.
    pub packing: Packing,
}

/// A survey and the commits that hold what it saw.
#[derive(Debug)]
pub struct Committed {
    /// What the host holds.
    pub survey: Survey,
    /// The prepared commits of its parts.
    pub prepared: Vec<String>,
    /// Their trees, and what the files were when they were looked at.
    pub trees: Vec<Index>,
    /// The small files of the git directories; none in the mode `files`.
    files: Vec<Vec<(PathBuf, Vec<u8>)>>,
    /// The tags that travel; none but with all of the history.
    pub tags: Vec<Vec<Tag>>,
    /// What is sent, by its bytes.
    pub sent: Request,
}

impl Committed {
    /// Makes the prepared commits; of the checkout itself, what is `known` is not read again.
    pub fn new(survey: Survey, known: Option<&Known>) -> Result<Self, WorkspaceError> {
        let with_git = survey.choice.mode != WorkspaceMode::Files;
        let (prepared, files) = std::thread::scope(|scope| {
            let files = || -> Result<Vec<_>, _> {
                survey.parts.iter().filter(|_| with_git).map(|part| git_files(part, &survey)).collect()
            };
            let files = scope.spawn(files);
            (commit(&survey, known), files.join().expect("reading a configuration does not panic"))
        });
        let (prepared, mut trees) = (prepared?, Vec::new());
        let (tags, files) = files?.into_iter().unzip();
        for part in &survey.parts {
            let mut tree = Index::read(&part.staging.prepared_index(), &part.checkout.object_format)?;
            tree.stamp(&part.selection.entries);
            rewritten::see(part, &mut tree)?;
            trees.push(tree);
            part.staging.keep_packs()?;
        }
        let sent = sent::of(&survey, &trees, known)?;
        Ok(Self { prepared, survey, trees, files, tags, sent })
    }

    /// The prepared commit of the checkout. It names the submodules' own, and the mode where that is not `full`, so two with the
    /// same one are the same.
    pub fn base_commit(&self) -> &str {
        &self.prepared[0]
    }
}

/// Everything that is sent.
#[derive(Debug)]
pub struct Shipment {
    /// What the host holds.
    pub survey: Survey,
    /// See [`Committed::base_commit`].
    pub base_commit: String,
    /// The trees of the prepared commits; see [`Committed::trees`].
    pub trees: Vec<Index>,
    /// The git directories, the checkout's first; none in the mode `files`.
    pub repositories: Vec<Repository>,
    /// What is sent, by its bytes.
    pub sent: Request,
}

impl Shipment {
    /// Starts to pack, or, with `hold`, gets ready to: what is sent may be less than all.
    pub fn new(committed: Committed, hold: bool) -> Result<Self, WorkspaceError> {
        let Committed { mut survey, prepared, trees, files, tags, sent } = committed;
        let mut repositories = Vec::new();
        let mode = survey.choice.mode;
        let parts = survey.parts.iter_mut().zip(&trees).zip(&prepared).zip(files).zip(tags);
        for ((((part, tree), prepared), files), tags) in parts {
            let Part { checkout, selection, staging, .. } = &mut *part;
            // Where less than all is sent, most likely, whether a file is byte for byte its object is not worth asking git.
            if !hold && !checkout.is_partial() {
                fill::choose(&mut selection.entries, tree);
                fill::keep_equal(checkout, &staging.git(checkout, &staging.index()), &mut selection.entries)?;
            }
            repositories.push(repository(part, (prepared, &tags), mode, hold, files)?);
        }
        Ok(Self { base_commit: prepared[0].clone(), survey, trees, repositories, sent })
    }

    /// The files that are in no repository of the host's: the submodules' `.git`.
    pub fn git_files(&self) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
        let parts = self.survey.parts.iter().zip(&self.repositories).skip(1);
        let away = parts.filter(|(part, _)| part.git_dir != part.prefix.join(".git"));
        away.map(|(part, _)| (part.prefix.join(".git"), submodule::git_file(&part.prefix, &part.git_dir)))
    }
}

/// The prepared commits of the parts: of submodules first, since those that hold them name them.
fn commit(survey: &Survey, known: Option<&Known>) -> Result<Vec<String>, WorkspaceError> {
    let parts = &survey.parts;
    let mut prepared = vec![String::new(); parts.len()];
    for (at, part) in parts.iter().enumerate().rev() {
        let mut heads = BTreeMap::new();
        let mut message = b"The checkout as banger sent it\n".to_vec();
        if survey.choice.mode != WorkspaceMode::Full {
            message.extend_from_slice(format!("\nmode {}\n", survey.choice.mode.as_str()).as_bytes());
        }
        for (inner, own) in parts.iter().zip(&prepared).skip(at + 1) {
            let Ok(path) = inner.prefix.strip_prefix(&part.prefix) else { continue };
            // What lies deeper is in the commits of those between.
            if !part.selection.links.contains_key(path) {
                continue;
            }
            message.extend_from_slice(format!("\nsubmodule {own} ").as_bytes());
            message.extend_from_slice(path.as_os_str().as_bytes());
            message.push(b'\n');
            heads.insert(path, inner.selection.head.commit.as_deref().unwrap_or_default());
        }
        prepared[at] = part.staging.commit(
            &part.checkout,
            &part.selection,
            &heads,
            &message,
            known.filter(|_| at == 0),
        )?;
    }
    Ok(prepared)
}

fn repository(
    part: &Part,
    (prepared, tags): (&str, &[Tag]),
    mode: WorkspaceMode,
    hold: bool,
    mut files: Vec<(PathBuf, Vec<u8>)>,
) -> Result<Repository, WorkspaceError> {
    let (checkout, staging, head) = (&part.checkout, &part.staging, &part.selection.head);
    let packing = Packing::start(checkout, staging, head, (prepared, tags), mode, hold)?;
    if !hold && !part.prefix.as_os_str().is_empty() {
        // One at a time beside the checkout's own: memory is bounded by the number of packs that are being made.
        packing.wait()?;
    }
    files.push((PREPARED_REF.into(), format!("{prepared}\n").into_bytes()));
    Ok(Repository {
        git_dir: part.git_dir.clone(),
        prepared: prepared.to_owned(),
        files,
        index: staging.index(),
        packing,
    })
}

/// The small files of the part's git directory, and the tags in them.
#[expect(clippy::type_complexity, reason = "taken apart at once by the one caller")]
fn git_files(part: &Part, survey: &Survey) -> Result<(Vec<Tag>, Vec<(PathBuf, Vec<u8>)>), WorkspaceError> {
    let (head, mode) = (&part.selection.head, survey.choice.mode);
    let whole = mode == WorkspaceMode::Full;
    let tags = if whole { tags::reachable(&part.checkout, head)? } else { Vec::new() };
    let away = part.git_dir.parent() != Some(&part.prefix);
    let worktree = away.then(|| submodule::relative(&part.git_dir, &part.prefix));
    let files = gitdir::files(&part.checkout, head, &tags, mode, worktree.as_deref());
    Ok((tags, files))
}
