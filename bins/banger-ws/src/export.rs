//! What changed in the workspace. The guest compares its files with what was sent, and sends those that differ; the patch is made here, by a
//! git that reads no configuration, no attributes and no filters: of two trees, which hold the files that differ as they were and as they are.
//!
//! So a patch is true or says so: applied to the files that were sent it gives the guest's, or what is missing is [`Export::lost`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::digest::hex;
use banger_protocol::changes::{MODE_LINK, Request, SentFile, SentTree, VERB};

use crate::error::WorkspaceError;
use crate::guest::{Ended, Given, Guest, Output, failed, fill, quote};
use crate::incoming::{Incoming, LARGE, Told, refused};
use crate::index::{Index, ObjectId};
use crate::loops;
use crate::maker::{Change, Maker, write_large, write_small};
use crate::object::Objects;
use crate::patch::{self, Scanned};
use crate::resync::is_unable;
use crate::shorten::shorten;
use crate::sys::remote::Exit;

/// How long a guest may say nothing while it looks for changes.
const SILENCE: Duration = Duration::from_secs(600);
/// git in the guest, where it is asked something: in a partial clone it may fetch for that, but runs no hook and leaves nothing running.
const QUIET_GIT: &str =
    "git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c maintenance.auto=false -c gc.auto=0";
/// How much may come of objects that only the guest has, bytes.
const MAX_FETCHED: usize = 256 << 20;

/// What is wanted of the changes.
#[derive(Debug)]
pub struct Wanted {
    /// What the guest's files are compared with; the first of its trees has a patch.
    pub sent: Request,
    /// Of which files and directories alone; all where there is none.
    pub only: Vec<String>,
    /// How large a patch may be, bytes.
    pub max_bytes: u64,
    /// Whether each of the other trees has a patch of its own, too; else what changed in them is lost.
    pub of_each: bool,
}

/// What differs in the trees, as the guest told, and what makes patches of it.
#[derive(Debug)]
pub struct Differences {
    wanted: Wanted,
    told: Told,
    maker: Maker,
}

/// What came out of one tree.
#[derive(Debug)]
pub struct Export {
    /// The patch.
    pub scanned: Scanned,
    /// What should be in it and is not.
    pub lost: Vec<(Vec<u8>, String)>,
    /// What no patch can hold.
    pub left_out: Vec<(Vec<u8>, String)>,
    /// How many new files are ignored.
    pub ignored: u64,
}

/// Has banger-guest, or `helper` in its place, compare; `bytes` is the request.
fn talk(
    guest: &Guest<'_>,
    guest_path: &str,
    bytes: &[u8],
    helper: Option<&str>,
    incoming: &mut Incoming<'_>,
) -> Result<Ended, WorkspaceError> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
    let ended = std::thread::scope(|scope| {
        // A guest that does not read on says why itself.
        scope.spawn(move || drop(File::from(writer).write_all(bytes)));
        let given = Given { input: Some(reader), patience: Some(SILENCE), ..Given::default() };
        match helper {
            None => guest.run_own(VERB, &["--", guest_path], given, incoming),
            Some(helper) => {
                guest.run_helper(helper, VERB, &["--remove-self", "--", guest_path], given, incoming)
            }
        }
    });
    incoming.failure().map_or(ended, Err)
}

/// Asks the guest what differs from `request` at `guest_path`.
fn ask(
    guest: &Guest<'_>,
    guest_path: &str,
    request: &Request,
    incoming: &mut Incoming<'_>,
) -> Result<(), WorkspaceError> {
    let bytes = request.encode();
    let mut ended = talk(guest, guest_path, &bytes, None, incoming)?;
    if is_unable(&ended)
        && let Some(helper) = guest.bring_helper()?
    {
        ended = talk(guest, guest_path, &bytes, Some(&helper), incoming)?;
    }
    if is_unable(&ended) {
        return Err(WorkspaceError::OldGuest);
    }
    if !ended.is_ready() {
        return Err(failed("looking for changes", guest_path, ended));
    }
    Ok(())
}

/// Has the guest's files compared with `commit` of the guest's instead of with what was sent. Here the guest's git is asked what that commit
/// holds; what the files are it is not asked. `tree` is what git had of what was `sent`.
///
/// # Errors
/// [`WorkspaceError`]; there is no such commit.
pub fn rebase(
    guest: &Guest<'_>,
    guest_path: &str,
    commit: &str,
    tree: &Index,
    sent: &mut Request,
) -> Result<(), WorkspaceError> {
    let script = "cd @PATH@ && @GIT@ rev-parse -q --verify @COMMIT@ >/dev/null && say ready && @GIT@ ls-tree -r -z --full-tree @COMMIT@\n";
    let values = BTreeMap::from([
        ("GIT", QUIET_GIT.to_owned()),
        ("PATH", quote([guest_path])),
        ("COMMIT", quote([format!("{commit}^{{commit}}").as_str()])),
    ]);
    let mut listed = Fetched::default();
    let ended = guest.run(&fill(script, &values), None, Some(SILENCE), &mut listed)?;
    if !ended.is_ready() || ended.exit != Exit::Status(0) {
        return Err(failed("looking for the commit", guest_path, ended));
    }
    let root = sent.trees.first_mut().ok_or(WorkspaceError::Forgotten)?;
    let known: HashMap<&[u8], &SentFile> =
        root.files.iter().map(|file| (file.path.as_slice(), file)).collect();
    // MODE TYPE ID<tab>PATH.
    let file = |line: &[u8]| {
        let (head, path) = line.split_at(line.iter().position(|byte| *byte == b'\t')?);
        let [mode, b"blob", id] = head.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (path, id) = (path[1..].to_vec(), ObjectId::from_hex(id)?);
        // What git has not changed since has the bytes that were sent, whatever git makes of them.
        let same = tree.of(&path).first().is_some_and(|entry| entry.state.object == id);
        let bytes = known.get(path.as_slice()).filter(|_| same).map(|file| file.id.clone());
        let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
        Some(SentFile { path, mode, id: bytes.unwrap_or_else(|| id.as_bytes().to_vec()) })
    };
    root.files = banger_host::git::split_nul(&listed.0).filter_map(file).collect();
    Ok(())
}

/// Has the guest tell what differs in its workspace at `guest_path`.
///
/// # Errors
/// [`WorkspaceError`].
pub fn compare(
    guest: &Guest<'_>,
    guest_path: &str,
    mut wanted: Wanted,
    maker: Maker,
) -> Result<Differences, WorkspaceError> {
    for number in 0..wanted.sent.trees.len() {
        wanted.sent.trees[number].names_only = !wanted.has_patch(number);
    }
    let request = &mut wanted.sent;
    (request.max_file_bytes, request.max_bytes) = (wanted.max_bytes, wanted.max_bytes.saturating_mul(2));
    let objects = maker.objects.clone();
    let mut incoming = Incoming::new(request, &objects, maker.temp.path().join("files"));
    ask(guest, guest_path, request, &mut incoming)?;
    let told = incoming.finish()?;
    Ok(Differences { wanted, told, maker })
}

impl Wanted {
    /// Whether there is a patch of the tree `number`: not of a submodule of which nothing was sent, since the host has not checked it out.
    fn has_patch(&self, number: usize) -> bool {
        number == 0 || self.of_each && !self.sent.trees[number].files.is_empty()
    }
}

impl Differences {
    /// The numbers of the trees that have a patch, and where each is from the first one.
    pub fn trees(&self) -> Vec<(u16, Vec<u8>)> {
        let numbers = (0..self.wanted.sent.trees.len()).filter(|number| self.wanted.has_patch(*number));
        let numbers = numbers.filter_map(|number| u16::try_from(number).ok());
        numbers.map(|number| (number, place(&self.wanted.sent, number))).collect()
    }

    /// Writes what changed in the tree `number` to `out`, as a patch; `path` is its name for people. With that of the first tree comes what
    /// is lost of the trees that have none. When it fails, `out` holds part of a patch.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn write_patch(
        &mut self,
        number: u16,
        guest: &Guest<'_>,
        guest_path: &str,
        out: &mut File,
        path: &Path,
    ) -> Result<Export, WorkspaceError> {
        let Self { wanted, told, maker } = self;
        let request = &wanted.sent;
        // What there is to say of trees without a patch is said with the first one's.
        let is_said = |tree: u16| tree == number || number == 0 && !wanted.has_patch(usize::from(tree));
        let mut lost = named(request, &told.lost, is_said);
        if number == 0 {
            lost.extend(of_other_trees(wanted, told));
        }
        let mut own = Vec::new();
        let mut changes = changes(request, told, number, &wanted.only, &mut own);
        let sizes = known_sizes(maker, guest, guest_path, &changes)?;
        changes.retain(|change| is_known(change, &sizes, &mut own));
        drop_below_loops(&request.trees[usize::from(number)], maker, &mut changes, &mut own);
        let large = |change: &Change<'_>| {
            let old = change.old.is_some_and(|old| sizes.get(&old.id).is_some_and(|size| *size > LARGE));
            old || change
                .new
                .is_some_and(|new| new.large.is_some() || sizes.get(&new.id).is_some_and(|s| *s > LARGE))
        };
        let (large, small): (Vec<_>, Vec<_>) = changes.iter().partition(|change| large(change));
        write_small(maker, &small, &changes, out)?;
        write_large(maker, &large, out)?;
        let error = || WorkspaceError::io("write", path);
        let scanned = scan(out, error)?;
        let scanned = if scanned.bytes > wanted.max_bytes {
            shorten(&scanned, wanted.max_bytes, out, maker, &mut own)?
        } else {
            scanned
        };
        out.seek(io::SeekFrom::End(0)).map_err(error())?;
        lost.extend(own.into_iter().map(|(path, why)| (whole(request, number, &path), why)));
        let is_wanted = |path: &[u8]| wanted.only.is_empty() || is_below(path, &wanted.only);
        lost.retain(|(path, _)| is_wanted(path));
        let mut left_out = named(request, &told.left_out, is_said);
        left_out.retain(|(path, _)| is_wanted(path));
        lost.sort();
        lost.dedup();
        left_out.sort();
        Ok(Export { scanned, lost, left_out, ignored: told.ignored })
    }
}

/// The paths that differ.
///
/// # Errors
/// [`WorkspaceError`].
pub fn changed(guest: &Guest<'_>, guest_path: &str, sent: &Request) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let mut request = sent.clone();
    (request.max_file_bytes, request.max_bytes) = (u64::MAX / 8, u64::MAX / 8);
    request.trees.iter_mut().for_each(|tree| tree.names_only = true);
    let objects = Objects::at("/nonexistent", request.sha256);
    let mut incoming = Incoming::new(&request, &objects, PathBuf::new());
    ask(guest, guest_path, &request, &mut incoming)?;
    let told = incoming.finish()?;
    let places = told.files.keys().chain(&told.gone).chain(told.lost.iter().map(|(place, _)| place));
    let paths: BTreeSet<Vec<u8>> = places.map(|(tree, path)| whole(&request, *tree, path)).collect();
    Ok(paths.into_iter().collect())
}

/// Where the tree `number` is, from the first one.
fn place(request: &Request, number: u16) -> Vec<u8> {
    let prefix = |number: u16| request.trees.get(usize::from(number)).map_or(&b""[..], |tree| &tree.prefix);
    let below = prefix(number).strip_prefix(prefix(0)).unwrap_or(prefix(number));
    below.strip_prefix(b"/").unwrap_or(below).to_vec()
}

/// The path in the workspace of what is at `path` in a tree.
fn whole(request: &Request, tree: u16, path: &[u8]) -> Vec<u8> {
    match &place(request, tree)[..] {
        b"" => path.to_vec(),
        place => [place, b"/", path].concat(),
    }
}

/// What was `told` of the trees that `is_said` names, by its path in the workspace.
fn named(
    request: &Request,
    told: &[((u16, Vec<u8>), String)],
    is_said: impl Fn(u16) -> bool,
) -> Vec<(Vec<u8>, String)> {
    let said = told.iter().filter(|((tree, _), _)| is_said(*tree));
    said.map(|((tree, path), why)| (whole(request, *tree, path), why.clone())).collect()
}

/// What changed in submodules of which there is no patch here.
fn of_other_trees(wanted: &Wanted, told: &Told) -> Vec<(Vec<u8>, String)> {
    let request = &wanted.sent;
    let places = told.files.keys().chain(&told.gone);
    let of = |(tree, path): &(u16, Vec<u8>)| {
        let submodule = String::from_utf8_lossy(&place(request, *tree)).into_owned();
        let why = if request.trees[usize::from(*tree)].files.is_empty() {
            format!("it is in the submodule {submodule}, of which the host has no files")
        } else {
            format!(
                "it is in the submodule {submodule}, which has a patch of its own (--patch-dir, --submodule)"
            )
        };
        (whole(request, *tree, path), why)
    };
    places.filter(|(tree, _)| !wanted.has_patch(usize::from(*tree))).map(of).collect()
}

pub(super) fn is_below(path: &[u8], only: &[String]) -> bool {
    only.iter().map(|only| only.trim_end_matches('/').as_bytes()).any(|only| {
        matches!(only, b"" | b".")
            || path == only
            || path.strip_prefix(only).is_some_and(|rest| rest.starts_with(b"/"))
    })
}

/// The differences of the tree `number` that a patch can hold.
fn changes<'a>(
    request: &'a Request,
    told: &'a Told,
    number: u16,
    only: &[String],
    lost: &mut Vec<(Vec<u8>, String)>,
) -> Vec<Change<'a>> {
    let Some(tree) = request.trees.get(usize::from(number)) else { return Vec::new() };
    let old: HashMap<&[u8], &SentFile> = tree.files.iter().map(|file| (file.path.as_slice(), file)).collect();
    let mut changes = Vec::new();
    for ((_, path), new) in told.files.iter().filter(|((tree, _), _)| *tree == number) {
        let old = old.get(path.as_slice()).copied();
        if old.is_some_and(|old| (old.mode, &old.id) == (new.mode, &new.id)) {
            continue;
        }
        match refused(path, new.mode) {
            Some(why) => lost.push((path.clone(), why.to_owned())),
            None => changes.push(Change { path, old, new: Some(new) }),
        }
    }
    let gone = told.gone.iter().filter(|place| place.0 == number && !told.files.contains_key(*place));
    changes.extend(gone.map(|(_, path)| Change { path, old: old.get(path.as_slice()).copied(), new: None }));
    if !only.is_empty() {
        changes.retain(|change| is_below(change.path, only));
    }
    changes.sort_unstable_by_key(|change| change.path);
    changes
}

/// The sizes of all objects that `changes` need. What the host does not have is asked of the guest's git, and taken where it is what its
/// name says.
fn known_sizes(
    maker: &mut Maker,
    guest: &Guest<'_>,
    guest_path: &str,
    changes: &[Change<'_>],
) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
    let old = changes.iter().filter_map(|change| Some(change.old?.id.clone()));
    let new = changes.iter().filter_map(|change| change.new.filter(|new| new.large.is_none()));
    let ids: BTreeSet<Vec<u8>> = old.chain(new.map(|new| new.id.clone())).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut sizes = maker.sizes(&ids)?;
    let missing: Vec<&Vec<u8>> = ids.iter().filter(|id| !sizes.contains_key(*id)).collect();
    if !missing.is_empty() {
        sizes.extend(fetch(guest, guest_path, &missing, &maker.objects)?);
    }
    Ok(sizes)
}

/// Collects what the guest's git says.
#[derive(Default)]
struct Fetched(Vec<u8>);

impl Output for Fetched {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.len() + bytes.len() > MAX_FETCHED {
            return Err(io::Error::other("the guest's objects are too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Takes objects of the guest's repository.
fn fetch(
    guest: &Guest<'_>,
    guest_path: &str,
    ids: &[&Vec<u8>],
    objects: &Objects,
) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
    let names: Vec<String> = ids.iter().map(|id| hex(id)).collect();
    let script = "cd @PATH@ && say ready && printf '%s\\n' @IDS@ | @GIT@ cat-file --batch 2>/dev/null\n";
    let mut sizes = HashMap::new();
    // A command line holds so many.
    for some in names.chunks(200) {
        let ids = quote(some.iter().map(String::as_str));
        let git = QUIET_GIT.to_owned();
        let values = BTreeMap::from([("PATH", quote([guest_path])), ("GIT", git), ("IDS", ids)]);
        let mut fetched = Fetched::default();
        // Where it fails what is missing is lost by name, and the rest comes.
        if guest.run(&fill(script, &values), None, Some(SILENCE), &mut fetched).is_err() {
            break;
        }
        let mut rest = fetched.0.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            let [_, "blob", size] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let Some(bytes) = size.parse().ok().and_then(|size: usize| rest.get(..size)) else { break };
            let id = objects.write("blob", bytes)?;
            sizes.insert(id, bytes.len() as u64);
            rest = rest.get(bytes.len() + 1..).unwrap_or_default();
        }
    }
    Ok(sizes)
}

/// Takes those of `changes` away that git applies to no checkout whose links are those of `tree`.
fn drop_below_loops(
    tree: &SentTree,
    maker: &mut Maker,
    changes: &mut Vec<Change<'_>>,
    lost: &mut Vec<(Vec<u8>, String)>,
) {
    let links = tree.files.iter().filter(|file| file.mode == MODE_LINK);
    let links: HashMap<&[u8], &SentFile> = links.map(|file| (file.path.as_slice(), file)).collect();
    let is_below_link = |path: &[u8]| {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(at, _)| &path[..at]).any(|above| links.contains_key(above))
    };
    let mut targets: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    changes.retain(|change| {
        let is_endless = change.new.is_some() && is_below_link(change.path) && {
            let mut read =
                |link: &SentFile| maker.content(&link.id).ok().and_then(|file| fs::read(file).ok());
            loops::is_endless(change.path, |path| {
                let link = links.get(path)?;
                targets.entry(path.to_vec()).or_insert_with(|| read(link)).clone()
            })
        };
        if is_endless {
            let why = "git makes no file below what was a symbolic link that leads round in a circle";
            lost.push((change.path.to_vec(), why.to_owned()));
        }
        !is_endless
    });
}

/// Whether all is there that the change needs.
fn is_known(change: &Change<'_>, sizes: &HashMap<Vec<u8>, u64>, lost: &mut Vec<(Vec<u8>, String)>) -> bool {
    let old = change.old.is_none_or(|old| sizes.contains_key(&old.id));
    let new = change.new.is_none_or(|new| new.large.is_some() || sizes.contains_key(&new.id));
    if !(old && new) {
        let why = "neither the host nor the guest has what was sent of it any more";
        lost.push((change.path.to_vec(), why.to_owned()));
    }
    old && new
}

/// Reads the patch in `out`, as everybody who is to take it would.
pub(super) fn scan<E: FnOnce(io::Error) -> WorkspaceError>(
    out: &mut File,
    error: impl Fn() -> E,
) -> Result<Scanned, WorkspaceError> {
    out.rewind().map_err(error())?;
    patch::scan(out, u64::MAX).map_err(error())?.map_err(WorkspaceError::Patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_directory_is_told_from_what_begins_like_it() {
        assert!(is_below(b"src/a", &["src/".into()]) && !is_below(b"srca", &["src".into()]));
    }
}
