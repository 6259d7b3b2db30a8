//! Everything that travels: the checkout and, each a repository of its own, the submodules in it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_contract::record::WorkspaceMode;
use banger_protocol::changes::Request;

use crate::error::WorkspaceError;
use crate::fill::{self, LIST, SCRIPT, Source, script};
use crate::index::Index;
use crate::known::Known;
use crate::pack::Packing;
use crate::repository::Repository;
use crate::staging::PREPARED_REF;
use crate::survey::{Part, Survey};
use crate::tags::{self, Tag};
use crate::{gitdir, rewritten, sent, submodule};

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
pub fn commit(survey: &Survey, known: Option<&Known>) -> Result<Vec<String>, WorkspaceError> {
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

/// The script that makes the files of a shipment, its place first, and the lists that it reads; nothing where there are none.
pub fn files(shipment: &Shipment) -> Vec<(PathBuf, Vec<u8>)> {
    let sources = shipment.survey.parts.iter().zip(&shipment.repositories).map(|(part, repository)| {
        let made = part.selection.entries.iter().filter_map(|e| Some((e, e.object.as_deref()?)));
        Source {
            git_dir: repository.git_dir.clone(),
            list: repository.git_dir.join(LIST),
            files: made.map(|(entry, object)| (part.prefix.join(&entry.path), entry, object)).collect(),
        }
    });
    script(Path::new(SCRIPT), &sources.collect::<Vec<_>>())
}
