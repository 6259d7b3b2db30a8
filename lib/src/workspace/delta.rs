//! What differs between a checkout and what a guest was given of it, and the stream that carries that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tar::Builder;

use super::checkout::{Checkout, Head};
use super::error::WorkspaceError;
use super::gitdir;
use super::note::{Note, Notes, Stage};
use super::shipment::{Committed, Part};
use super::stream;
use crate::contract::record::WorkspaceMode;
use crate::sys::exec::Running;
use crate::sys::git;

/// The file that ends a stream.
pub const END: &str = "end";
/// How long packing may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Mode, object and stage of a path in an index.
type State = Vec<(String, String, String)>;
/// An index: paths and their entries, several where a merge is under way.
type Listing = BTreeMap<Vec<u8>, State>;

/// What differs.
#[derive(Debug)]
pub struct Delta {
    /// What the guest was given.
    pub from: Note,
    /// Files that are new or different.
    pub changed: Vec<Vec<u8>>,
    /// Those of them that the guest was not given before.
    pub fresh: Vec<Vec<u8>>,
    /// Files that are no more.
    pub gone: Vec<Vec<u8>>,
    old_tree: Listing,
    old_index: Listing,
    new_index: Listing,
    packing: Mutex<Option<Running>>,
    packs: PathBuf,
}

/// What comparing gave.
#[derive(Debug)]
pub enum Compared {
    /// Nothing differs.
    Same,
    /// Something does.
    Differs(Box<Delta>),
    /// Something does that is not sent as a difference: what.
    Unlike(&'static str),
}

impl Delta {
    /// Compares, and starts to pack what the guest lacks.
    pub fn compare(committed: &Committed, from: Note, notes: &Notes) -> Result<Compared, WorkspaceError> {
        let part = committed.survey.root();
        let checkout = &part.checkout;
        let of = |index: &Path| listing(checkout, index);
        let (old_tree, old_index) = (of(&notes.tree(Stage::Sent))?, of(&notes.index(Stage::Sent))?);
        let (new_tree, new_index) = (of(&part.staging.prepared_index())?, of(&part.staging.index())?);
        let touched: Vec<&Vec<u8>> = old_tree
            .keys()
            .chain(new_tree.keys())
            .filter(|path| old_tree.get(*path) != new_tree.get(*path))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let is_link = |path: &&Vec<u8>| {
            let states = [old_tree.get(*path), new_tree.get(*path)];
            states.into_iter().flatten().flatten().any(|(mode, ..)| mode == "160000")
        };
        if touched.iter().any(is_link) {
            return Ok(Compared::Unlike("a submodule is another one"));
        }
        let head = &part.selection.head;
        let same_head =
            head.commit == from.head_commit && String::from_utf8_lossy(&gitdir::head_file(head)) == from.head;
        if touched.is_empty() && old_index == new_index && same_head {
            return Ok(Compared::Same);
        }
        let present: BTreeSet<&[u8]> =
            part.selection.entries.iter().map(|entry| entry.path.as_os_str().as_bytes()).collect();
        let (mut changed, mut fresh, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for path in touched {
            if !new_tree.contains_key(path) {
                gone.push(path.clone());
            } else if present.contains(path.as_slice()) {
                changed.push(path.clone());
                if !old_tree.contains_key(path) {
                    fresh.push(path.clone());
                }
            }
        }
        let packs = part.staging.objects().join("pack");
        let known: BTreeSet<&str> = [&old_tree, &old_index]
            .into_iter()
            .flat_map(|listing| listing.values().flatten().map(|(_, object, _)| object.as_str()))
            .collect();
        let packing = Mutex::new(Some(pack(committed, &from, &known, &new_index)?));
        let delta = Self { from, changed, fresh, gone, old_tree, old_index, new_index, packing, packs };
        Ok(Compared::Differs(Box::new(delta)))
    }

    /// Where a file of the workspace is sent that is needed at another place than it is now: directories that the guest must have
    /// as such, or not at all.
    fn directories(&self) -> BTreeSet<&[u8]> {
        let gone: BTreeSet<&[u8]> = self.gone.iter().map(Vec::as_slice).collect();
        let mut directories = BTreeSet::new();
        for path in &self.changed {
            for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                // A file that becomes a directory was looked at as a file.
                if !gone.contains(&path[..at]) {
                    directories.insert(&path[..at]);
                }
            }
        }
        directories
    }

    /// Directories that become files: nothing but what goes may be in them.
    fn replaced(&self) -> Vec<&[u8]> {
        let below = |dir: &[u8]| {
            self.gone.iter().any(|path| path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
        };
        self.fresh.iter().map(Vec::as_slice).filter(|path| below(path)).collect()
    }

    /// The paths whose entry in the index differs.
    fn staged(&self) -> Vec<&Vec<u8>> {
        let all: BTreeSet<&Vec<u8>> = self.old_index.keys().chain(self.new_index.keys()).collect();
        all.into_iter().filter(|path| self.old_index.get(*path) != self.new_index.get(*path)).collect()
    }

    /// The lists for the guest's script, by their names.
    fn lists(&self, head: &Head) -> Vec<(&'static str, Vec<u8>)> {
        let staged = self.staged();
        let replaced = self.replaced();
        let becomes_file: BTreeSet<&[u8]> = replaced.iter().copied().collect();
        let fresh = self.fresh.iter().map(Vec::as_slice).filter(|path| !becomes_file.contains(path));
        let known = self.changed.iter().chain(&self.gone).filter(|path| self.old_tree.contains_key(*path));
        let mut known: Vec<&Vec<u8>> = known.collect();
        known.sort();
        vec![
            // For update-index --index-info: these paths as the guest was given them.
            ("given", entries(&self.old_tree, known.iter().copied(), None)),
            ("changed", nul(self.changed.iter().map(Vec::as_slice))),
            ("fresh", nul(fresh)),
            ("gone", nul(self.gone.iter().map(Vec::as_slice))),
            ("directories", nul(self.directories())),
            ("replaced", nul(replaced)),
            ("staged", nul(staged.iter().map(|path| path.as_slice()))),
            // As ls-files -s prints them, before and after.
            ("staged-before", entries(&self.old_index, staged.iter().copied(), None)),
            ("staged-after", entries(&self.new_index, staged.iter().copied(), None)),
            ("index", entries(&self.new_index, staged.iter().copied(), Some(&self.old_index))),
            ("head-before", self.from.head.clone().into_bytes()),
            ("head-after", gitdir::head_file(head)),
        ]
    }

    /// Whether HEAD stands elsewhere: on another branch, or at another commit.
    pub fn head_moved(&self, head: &Head) -> bool {
        head.commit != self.from.head_commit
            || String::from_utf8_lossy(&gitdir::head_file(head)) != self.from.head
    }

    /// SHA-256 of the index as the guest was given it, as `ls-files -s -z` prints it; hexadecimal.
    pub fn index_digest(&self) -> String {
        let text = entries(&self.old_index, self.old_index.keys(), None);
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the stream: lists, files, packs, and the file that says that it is whole.
    pub fn write(&self, part: &Part, out: impl Write) -> Result<(), WorkspaceError> {
        let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, out));
        for (name, text) in self.lists(&part.selection.head) {
            stream::bytes(&mut tar, &Path::new("lists").join(name), &text)?;
        }
        if self.old_index != self.new_index {
            stream::git_file(&mut tar, &part.staging.index(), Path::new("lists/whole-index"))?;
        }
        let changed: BTreeSet<&[u8]> = self.changed.iter().map(Vec::as_slice).collect();
        for entry in &part.selection.entries {
            if !changed.contains(entry.path.as_os_str().as_bytes()) {
                continue;
            }
            let place = Path::new("files").join(&entry.path);
            if entry.is_symlink() {
                stream::link(&mut tar, &part.checkout, entry, &place)?;
            } else {
                stream::file(&mut tar, &part.checkout, entry, &place)?;
            }
        }
        let packing = self.packing.lock().unwrap_or_else(PoisonError::into_inner).take();
        packing.map_or(Ok(()), Running::wait).map_err(part.checkout.git_error())?;
        for entry in fs::read_dir(&self.packs).map_err(WorkspaceError::io("read", &self.packs))? {
            let path = entry.map_err(WorkspaceError::io("read", &self.packs))?.path();
            let name = path.file_name().unwrap_or_default();
            if path.extension().is_some_and(|e| e == "pack" || e == "idx") {
                stream::git_file(&mut tar, &path, &Path::new("pack").join(name))?;
            }
        }
        stream::bytes(&mut tar, Path::new(END), b"")?;
        let sent = tar.into_inner().and_then(|mut out| out.flush());
        sent.map_err(WorkspaceError::io("send", END))
    }
}

/// The entries of an index.
fn listing(checkout: &Checkout, index: &Path) -> Result<Listing, WorkspaceError> {
    // git takes an index that is not there for an empty one, and one of no bytes for a broken one.
    if fs::metadata(index).map_or(true, |metadata| metadata.len() == 0) {
        return Ok(Listing::new());
    }
    let git = checkout.git().clone().env("GIT_INDEX_FILE", index);
    let said = git.run(["ls-files", "-s", "-z"]).map_err(checkout.git_error())?;
    let mut listing = Listing::new();
    for line in git::split_nul(&said) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        let words = String::from_utf8_lossy(&line[..tab]).into_owned();
        let mut words = words.split(' ').map(str::to_owned);
        if let (Some(mode), Some(object), Some(stage)) = (words.next(), words.next(), words.next()) {
            listing.entry(line[tab + 1..].to_vec()).or_default().push((mode, object, stage));
        }
    }
    Ok(listing)
}

/// `paths`, each with a NUL behind it.
fn nul<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    paths.into_iter().flat_map(|path| path.iter().copied().chain([0])).collect()
}

/// The entries of `paths` as `ls-files -s -z` prints them and `update-index --index-info` reads them. Those that are in `before`
/// are taken out first: a path may be merged or unmerged, a file or a directory.
fn entries<'a>(
    listing: &Listing,
    paths: impl Iterator<Item = &'a Vec<u8>> + Clone,
    before: Option<&Listing>,
) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths.clone().filter(|path| before.is_some_and(|before| before.contains_key(*path))) {
        let length = listing.values().chain(before.into_iter().flat_map(|b| b.values())).flatten().next();
        let zero = "0".repeat(length.map_or(40, |(_, object, _)| object.len()));
        text.extend_from_slice(format!("0 {zero} 0\t").as_bytes());
        text.extend_from_slice(path);
        text.push(0);
    }
    for path in paths {
        for (mode, object, stage) in listing.get(path).into_iter().flatten() {
            text.extend_from_slice(format!("{mode} {object} {stage}\t").as_bytes());
            text.extend_from_slice(path);
            text.push(0);
        }
    }
    text
}

/// Starts to pack what the guest lacks: what is reachable from the prepared commit and the index but neither from where HEAD was nor
/// in what was sent.
fn pack(
    committed: &Committed,
    from: &Note,
    known: &BTreeSet<&str>,
    index: &Listing,
) -> Result<Running, WorkspaceError> {
    let part = committed.survey.root();
    let (checkout, staging) = (&part.checkout, &part.staging);
    let mut git = staging.git(checkout, &staging.index());
    for (key, value) in super::pack::SETTINGS {
        git.setting(key, value);
    }
    if committed.survey.choice.mode == WorkspaceMode::Shallow {
        let file = staging.path().join("shallow");
        let text = gitdir::shallow(checkout, &part.selection.head, WorkspaceMode::Shallow);
        fs::write(&file, text).map_err(WorkspaceError::io("write", &file))?;
        git = git.env("GIT_SHALLOW_FILE", &file);
    }
    let mut args = vec!["rev-list", "--objects", "--no-object-names", committed.base_commit()];
    let before = from.head_commit.as_ref().map(|commit| format!("^{commit}"));
    let there = from
        .head_commit
        .as_ref()
        .is_some_and(|commit| git.run(["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok());
    args.extend(before.as_deref().filter(|_| there));
    let said = git.run(args).map_err(checkout.git_error())?;
    let mut wanted: BTreeSet<String> = String::from_utf8_lossy(&said)
        .lines()
        .filter(|object| !known.contains(object))
        .map(str::to_owned)
        .collect();
    let staged = index
        .values()
        .flatten()
        .filter(|(mode, object, _)| mode != "160000" && !known.contains(object.as_str()));
    wanted.extend(staged.map(|(_, object, _)| object.clone()));
    let list: Vec<u8> = wanted.iter().flat_map(|object| object.bytes().chain([b'\n'])).collect();
    let stem = staging.objects().join("pack/pack");
    let words = ["pack-objects", "-q", "--non-empty", "--delta-base-offset"].map(OsStr::new);
    let exec = git.exec(words.into_iter().chain([stem.as_os_str()])).deadline(PATIENCE).stdin(list);
    exec.start().map_err(checkout.git_error())
}

/// Whether an error of a sender is only that nobody reads any more.
pub(super) fn is_unread(error: &WorkspaceError) -> bool {
    matches!(error, WorkspaceError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}
