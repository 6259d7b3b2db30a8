//! What the guest has changed is thrown away: its files are again as host and guest last agreed on, and all of git is as it was given.
//! The guest says what it has changed, and is sent that as a second copy would be.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tar::Builder;

use super::agreed;
use super::delta::index_digest;
use super::error::WorkspaceError;
use super::export;
use super::guest::Guest;
use super::maker::Maker;
use super::note::{Note, Notes, Stage};
use super::resync::{Exchange, Resynced};
use super::stream;
use banger_contract::record::WorkspaceMode;
use banger_host::clock::Timeline;
use banger_host::git;
use banger_protocol::changes::{Request, SentFile};
use banger_protocol::resync::{self, Known, Plan, Staged};

/// What is said where the guest's HEAD stood elsewhere.
pub const COMMITS_KEPT: &str =
    "the guest's HEAD was elsewhere: the commit that it stood at is refs/banger/replaced there";

/// What is to be as it was.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// What host and guest last agreed on.
    pub agreed: &'a Request,
    /// The prepared commit of the last copy.
    pub base_commit: &'a str,
    /// These files and directories alone; where there is none, everything, HEAD and index included.
    pub only: &'a [String],
    /// Whether ignored files go as well.
    pub clean: bool,
}

/// What was thrown away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Thrown {
    /// The paths that differed.
    pub paths: Vec<Vec<u8>>,
    /// Whether HEAD stood elsewhere; the commit is at refs/banger/replaced now.
    pub head: bool,
}

/// Throws what the guest has changed at `guest_path` away.
///
/// # Errors
/// [`WorkspaceError`].
pub fn reset(
    guest: &Guest<'_>,
    guest_path: &str,
    wanted: &Wanted<'_>,
    notes: &Notes,
    maker: &mut Maker,
    timeline: &mut Timeline,
) -> Result<Thrown, WorkspaceError> {
    let request = Request { everything: wanted.clean, ..wanted.agreed.clone() };
    let mut paths = timeline.step("look", || export::changed(guest, guest_path, &request))?;
    paths.retain(|path| wanted.only.is_empty() || export::is_below(path, wanted.only));
    let paths = one_by_one(wanted.agreed, paths);
    let note = notes.load(Stage::Sent).filter(|note| note.base_commit == wanted.base_commit);
    let note = note.filter(|note| wanted.only.is_empty() && note.mode != WorkspaceMode::Files);
    if paths.is_empty() && note.is_none() {
        return Ok(Thrown::default());
    }
    let files = files(wanted.agreed, &paths);
    let plan = plan(wanted.agreed, &paths, &files, note.as_ref(), notes)?;
    let sources = files
        .iter()
        .map(|file| Ok((file, maker.content(&file.id)?)))
        .collect::<Result<Vec<_>, WorkspaceError>>()?;
    let index = note.as_ref().map(|_| notes.index(Stage::Sent));
    let exchange = Exchange { from: wanted.base_commit, guest_path };
    let resynced = exchange.carry_out(guest, timeline, |out| {
        let sent = write(out, &plan, &sources, note.as_ref(), index.as_deref());
        sources.iter().for_each(|(_, file)| drop(fs::remove_file(file)));
        sent
    })?;
    match resynced {
        Resynced::Done(kept) => Ok(Thrown { paths, head: kept.iter().any(|word| word == resync::REPLACED) }),
        Resynced::Other(_) => {
            let why = "what is there was not sent by this host, or came back from an older disk";
            Err(WorkspaceError::Whole { guest_path: guest_path.to_owned(), why })
        }
        Resynced::Unable => Err(WorkspaceError::OldGuest),
    }
}

/// `paths`, and in place of directories of which the guest cannot tell anything the files that were agreed on in them.
fn one_by_one(agreed: &Request, paths: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let (unread, mut paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.ends_with(b"/"));
    if !unread.is_empty() {
        let known = agreed::paths(agreed);
        paths.extend(known.into_iter().filter(|path| unread.iter().any(|dir| path.starts_with(dir))));
        paths.sort_unstable();
        paths.dedup();
    }
    paths
}

/// Those of the files that were agreed on that are at `paths`, with their paths in the workspace.
fn files(agreed: &Request, paths: &[Vec<u8>]) -> Vec<SentFile> {
    let paths: BTreeSet<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    let mut files = Vec::new();
    for tree in &agreed.trees {
        for file in &tree.files {
            let path = match &tree.prefix[..] {
                b"" => file.path.clone(),
                prefix => [prefix, b"/", &file.path].concat(),
            };
            if paths.contains(path.as_slice()) {
                files.push(SentFile { path, mode: file.mode, id: file.id.clone() });
            }
        }
    }
    files
}

/// What the guest is to do: put `files` in their places and remove what else is at `paths`; with a `note` also give HEAD and index back.
fn plan(
    agreed: &Request,
    paths: &[Vec<u8>],
    files: &[SentFile],
    note: Option<&Note>,
    notes: &Notes,
) -> Result<Plan, WorkspaceError> {
    let known: Vec<Known> = files
        .iter()
        .map(|file| Known { path: file.path.clone(), mode: file.mode, id: file.id.clone() })
        .collect();
    let there: BTreeSet<&[u8]> = files.iter().map(|file| file.path.as_slice()).collect();
    let above = |path: &[u8]| -> Vec<Vec<u8>> {
        path.iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| path[..at].to_vec())
            .collect()
    };
    let directories: BTreeSet<Vec<u8>> = there.iter().flat_map(|path| above(path)).collect();
    let mut plan = Plan {
        force: true,
        sha256: agreed.sha256,
        placed: known.clone(),
        known,
        directories: directories.into_iter().collect(),
        gone: paths.iter().filter(|path| !there.contains(path.as_slice())).cloned().collect(),
        ..Plan::default()
    };
    if let Some(note) = note {
        let line = note.head.trim_end_matches('\n').as_bytes().to_vec();
        let commit = note.head_commit.clone().unwrap_or_default();
        let branch = line.strip_prefix(b"ref: ").map(<[u8]>::to_vec);
        plan.refs =
            branch.filter(|_| !commit.is_empty()).map(|name| (name, commit.clone())).into_iter().collect();
        plan.head = Some((line, commit));
        let format = if agreed.sha256 { "sha256" } else { "sha1" };
        plan.staged =
            Some(Staged { digest: index_digest(&notes.index(Stage::Sent), format)?, ..Staged::default() });
    }
    Ok(plan)
}

/// Writes the stream, as a second copy does.
fn write(
    out: File,
    plan: &Plan,
    sources: &[(&SentFile, PathBuf)],
    note: Option<&Note>,
    index: Option<&Path>,
) -> Result<(), WorkspaceError> {
    let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, out));
    let tree = Path::new(resync::TREE);
    if let Some(index) = index {
        stream::git_file(&mut tar, index, Path::new(resync::INDEX))?;
    }
    for (file, source) in sources {
        stream::kept(&mut tar, file, source, &tree.join(git::path(&file.path)))?;
    }
    if let Some(note) = note {
        stream::bytes(&mut tar, &tree.join(".git/HEAD"), note.head.as_bytes())?;
    }
    stream::bytes(&mut tar, Path::new(resync::PLAN), &plan.encode())?;
    let sent = tar.into_inner().and_then(|mut out| out.flush());
    sent.map_err(WorkspaceError::io("send", resync::PLAN))
}
