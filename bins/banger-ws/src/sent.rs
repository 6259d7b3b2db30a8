//! What was sent, by its bytes: what a guest's files are compared with, and what a patch applies to. It is kept in the VM's directory with
//! the objects that the host's repository may not have, so that neither the guest's repository nor what becomes of the checkout counts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use banger_host::fs::atomic;
use banger_protocol::changes::{MODE_FILE, MODE_LINK, MODE_PROGRAM, Request, SentFile, SentTree};
use banger_state::dir::VmDir;

use crate::checkout::Entry;
use crate::error::WorkspaceError;
use crate::index::{self, Index};
use crate::known::Known;
use crate::staging::quote;
use crate::survey::{Part, Survey};
use crate::{gitdir, rewritten, submodule};

/// The directory in the VM's own.
const DIRECTORY: &str = "sent";
/// How many copies are remembered at least, and how many bytes what is remembered may take.
const REMEMBERED: usize = 8;
const MAX_MEMORY: u64 = 64 << 20;

/// What is sent of `survey`, whose prepared commits have `trees`; of the checkout itself, what is `known` is not read again.
///
/// # Errors
/// Those of git and of the files.
pub fn of(survey: &Survey, commits: &[Index], known: Option<&Known>) -> Result<Request, WorkspaceError> {
    let sha256 = survey.root().checkout.object_format == "sha256";
    let mut request = Request { sha256, ..Request::default() };
    // The place of each part's tree; a repository that is no submodule to its owner is files like others.
    let mut trees: Vec<(usize, PathBuf)> = Vec::new();
    for (part, tree) in survey.parts.iter().zip(commits) {
        let own = is_submodule(survey, part)?;
        let owner = trees.iter().enumerate().rev().find(|(_, (_, prefix))| {
            part.prefix.starts_with(prefix) && part.prefix.as_os_str() != prefix.as_os_str()
        });
        let (number, below) = match owner {
            Some((_, (number, prefix))) if !own => {
                let below = part.prefix.strip_prefix(prefix).unwrap_or(&part.prefix).to_owned();
                let place = below.as_os_str().as_bytes().to_vec();
                request.trees[*number].repositories.push((place, gitdir::rules(&part.checkout)));
                (*number, below)
            }
            _ => {
                request.trees.push(SentTree {
                    prefix: part.prefix.as_os_str().as_bytes().to_vec(),
                    rules: gitdir::rules(&part.checkout),
                    ..SentTree::default()
                });
                (request.trees.len() - 1, PathBuf::new())
            }
        };
        trees.push((number, part.prefix.clone()));
        let known = known.filter(|_| part.prefix.as_os_str().is_empty());
        let files = files(part, tree, survey.root(), known)?;
        let below = below.as_os_str().as_bytes();
        let placed = files.into_iter().map(|file| match below {
            b"" => file,
            below => SentFile { path: [below, b"/", &file.path].concat(), ..file },
        });
        request.trees[number].files.extend(placed);
    }
    add_absent_submodules(survey, &mut request)?;
    for tree in &mut request.trees {
        tree.files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    }
    Ok(request)
}

/// Whether `part` is a submodule to the repository that holds it: one without a name in .gitmodules is only another repository.
fn is_submodule(survey: &Survey, part: &Part) -> Result<bool, WorkspaceError> {
    if part.prefix.as_os_str().is_empty() {
        return Ok(true);
    }
    let owner = survey.parts.iter().rev().find(|owner| {
        part.prefix.starts_with(&owner.prefix) && owner.prefix.as_os_str() != part.prefix.as_os_str()
    });
    let Some(owner) = owner else { return Ok(true) };
    let path = part.prefix.strip_prefix(&owner.prefix).unwrap_or(&part.prefix);
    Ok(submodule::names(&owner.checkout)?.contains_key(path))
}

/// Submodules that the host has not checked out: what the guest puts there is none of the checkout's.
fn add_absent_submodules(survey: &Survey, request: &mut Request) -> Result<(), WorkspaceError> {
    for part in &survey.parts {
        let links = part.selection.links.keys();
        let absent: Vec<&PathBuf> = links
            .filter(|path| !survey.parts.iter().any(|other| other.prefix == part.prefix.join(path)))
            .collect();
        if absent.is_empty() {
            continue;
        }
        let names = submodule::names(&part.checkout)?;
        for path in absent.into_iter().filter(|path| names.contains_key(*path)) {
            let prefix = part.prefix.join(path).into_os_string().into_vec();
            request.trees.push(SentTree { prefix, ..SentTree::default() });
        }
    }
    Ok(())
}

/// The files of `part`, whose prepared commit has `tree`. Where its objects have other names than those of `root`, they are named as there.
fn files(
    part: &Part,
    tree: &Index,
    root: &Part,
    before: Option<&Known>,
) -> Result<Vec<SentFile>, WorkspaceError> {
    let there = &part.selection.entries;
    let mut files = Vec::with_capacity(there.len());
    let mut touched = HashSet::new();
    for entry in there {
        match before.and_then(|before| before.file(&entry.path, &entry.stat)) {
            Some(file) => files.push(file.clone()),
            None => drop(touched.insert(entry.path.as_os_str().as_bytes())),
        }
    }
    let is_alike = part.checkout.object_format == root.checkout.object_format;
    let known = tree.entries.iter().filter(|entry| is_alike && touched.contains(entry.path.as_slice()));
    let known: HashMap<&[u8], &index::Entry> = known.map(|entry| (entry.path.as_slice(), entry)).collect();
    let unsure = rewritten::converted(part, &known)?;
    let mut hashed = Vec::new();
    for entry in there.iter().filter(|entry| touched.contains(entry.path.as_os_str().as_bytes())) {
        let path = entry.path.as_os_str().as_bytes();
        let mode = mode_of(entry);
        match known.get(path) {
            Some(known) if !unsure.contains(path) => {
                files.push(SentFile {
                    path: path.to_vec(),
                    mode,
                    id: known.state.object.as_bytes().to_vec(),
                });
            }
            _ => hashed.push((entry, mode)),
        }
    }
    let keeper = if is_alike { part } else { root };
    let ids = rewritten::keep(keeper, part, &hashed.iter().map(|(entry, _)| *entry).collect::<Vec<_>>())?;
    let named = hashed.into_iter().zip(ids);
    files.extend(named.map(|((entry, mode), id)| SentFile {
        path: entry.path.as_os_str().as_bytes().to_vec(),
        mode,
        id: id.as_bytes().to_vec(),
    }));
    Ok(files)
}

/// What was sent, by what git had of it: `tree` is that of the prepared commit, with what the files were.
pub fn of_index(tree: &Index) -> Request {
    let there = tree.entries.iter().filter(|entry| !entry.skipped && !entry.is_link());
    let files: Vec<SentFile> = there
        .map(|entry| SentFile {
            path: entry.path.clone(),
            mode: entry.state.mode,
            id: entry.state.object.as_bytes().to_vec(),
        })
        .collect();
    let sha256 = files.first().is_some_and(|file| file.id.len() == 32);
    Request { sha256, trees: vec![SentTree { files, ..SentTree::default() }], ..Request::default() }
}

fn mode_of(entry: &Entry) -> u32 {
    match entry.stat.st_mode {
        _ if entry.is_symlink() => MODE_LINK,
        mode if mode & 0o100 != 0 => MODE_PROGRAM,
        _ => MODE_FILE,
    }
}

/// What a VM remembers of its copies.
#[derive(Debug, Clone)]
pub struct Memory {
    dir: PathBuf,
}

impl Memory {
    /// In the VM's directory.
    pub fn of(dir: &VmDir) -> Self {
        Self { dir: dir.path().join(DIRECTORY) }
    }

    fn place(&self, base_commit: &str) -> PathBuf {
        self.dir.join(format!("{base_commit}.files"))
    }

    fn pending(&self, base_commit: &str) -> PathBuf {
        self.dir.join(format!("{base_commit}.coming"))
    }

    /// What both sides agree on since a patch of that copy was applied.
    fn moved(&self, base_commit: &str) -> PathBuf {
        self.dir.join(format!("{base_commit}.agreed"))
    }

    /// What the workspace was when it was first copied.
    fn first(&self) -> PathBuf {
        self.dir.join("first")
    }

    /// Where objects are kept.
    pub fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Remembers what is on its way with the prepared commit `base_commit`.
    ///
    /// # Errors
    /// Those of the file.
    pub fn expect(&self, base_commit: &str, request: &Request) -> Result<(), WorkspaceError> {
        let path = self.pending(base_commit);
        atomic::write(&path, &request.encode(), 0o600)
            .map_err(|source| WorkspaceError::io("write", &path)(io::Error::other(source)))
    }

    /// What was on its way has arrived.
    ///
    /// # Errors
    /// Those of the file.
    pub fn arrived(&self, base_commit: &str) -> Result<(), WorkspaceError> {
        let (from, to) = (self.pending(base_commit), self.place(base_commit));
        // First: what comes is what both sides agree on.
        allow_absent(fs::remove_file(self.moved(base_commit)), "remove", &self.moved(base_commit))?;
        allow_absent(fs::rename(&from, &to), "rename", &from)?;
        self.forget_old();
        Ok(())
    }

    /// The copy with the prepared commit `base_commit` is one of everything: what it brought is how the workspace begins.
    ///
    /// # Errors
    /// Those of the file.
    pub fn begins(&self, base_commit: &str) -> Result<(), WorkspaceError> {
        let first = self.first();
        allow_absent(fs::remove_file(&first), "remove", &first)?;
        allow_absent(fs::hard_link(self.place(base_commit), &first), "link", &first)
    }

    /// What the guest was given when the workspace was copied as a whole.
    pub fn beginning(&self) -> Option<Request> {
        read(&self.first())
    }

    /// What was sent with the prepared commit `base_commit`, where that is remembered.
    pub fn recall(&self, base_commit: &str) -> Option<Request> {
        // A copy whose end nobody saw may be there all the same.
        read(&self.place(base_commit)).or_else(|| read(&self.pending(base_commit)))
    }

    /// What host and guest last agreed on: what was sent with the prepared commit `base_commit`, and what of the guest's has come home
    /// since.
    pub fn agreed(&self, base_commit: &str) -> Option<Request> {
        read(&self.moved(base_commit)).or_else(|| self.recall(base_commit))
    }

    /// Both sides agree on `request` now, since the copy with the prepared commit `base_commit`.
    ///
    /// # Errors
    /// Those of the file.
    pub fn agree(&self, base_commit: &str, request: &Request) -> Result<(), WorkspaceError> {
        let path = self.moved(base_commit);
        atomic::write(&path, &request.encode(), 0o600)
            .map_err(|source| WorkspaceError::io("write", &path)(io::Error::other(source)))
    }

    /// Forgets all but the last copies. A file that cannot be removed is no harm.
    fn forget_old(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let is_one =
            |path: &PathBuf| path.extension().is_some_and(|e| e == "files" || e == "coming" || e == "agreed");
        let copy = |path: PathBuf| {
            let metadata = fs::metadata(&path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), path))
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(is_one);
        let mut copies: Vec<_> = paths.filter_map(copy).collect();
        // The newest first.
        copies.sort_by(|one, other| other.cmp(one));
        let mut bytes = 0;
        for (at, (_, length, path)) in copies.into_iter().enumerate() {
            bytes += length;
            if at >= REMEMBERED && bytes > MAX_MEMORY {
                drop(fs::remove_file(path));
            }
        }
    }

    /// Keeps the objects of what is sent that only this transfer has, and where the others are.
    ///
    /// # Errors
    /// Those of the files.
    pub fn keep_objects(&self, survey: &Survey) -> Result<(), WorkspaceError> {
        let objects = self.objects();
        let make = |path: &Path| fs::create_dir_all(path).map_err(WorkspaceError::io("make", path));
        make(&objects.join("info"))?;
        let mut alternates: BTreeSet<Vec<u8>> = lines(&objects.join("info/alternates"));
        for part in &survey.parts {
            link_all(&part.staging.objects(), &objects)?;
            link_all(&part.staging.raw(), &objects)?;
            alternates.extend(lines(&part.staging.objects().join("info/alternates")));
        }
        alternates.remove(&quote(objects.as_os_str()));
        let text: Vec<u8> = alternates.into_iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
        let path = objects.join("info/alternates");
        atomic::write(&path, &text, 0o600)
            .map_err(|source| WorkspaceError::io("write", &path)(io::Error::other(source)))
    }
}

fn read(path: &Path) -> Option<Request> {
    fs::read(path).ok().and_then(|bytes| Request::decode(&bytes))
}

/// The result of doing `action` to `path`, which need not be there.
fn allow_absent(done: io::Result<()>, action: &'static str, path: &Path) -> Result<(), WorkspaceError> {
    match done {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(WorkspaceError::io(action, path)(source))
        }
        _ => Ok(()),
    }
}

fn lines(path: &Path) -> BTreeSet<Vec<u8>> {
    let text = fs::read(path).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Gives the objects in `from` a second name in `to`.
fn link_all(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    for entry in fs::read_dir(from).map_err(WorkspaceError::io("read", from))? {
        let entry = entry.map_err(WorkspaceError::io("read", from))?;
        let name = entry.file_name();
        let target = to.join(&name);
        if name == "info" {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::create_dir_all(&target).map_err(WorkspaceError::io("make", &target))?;
            link_all(&entry.path(), &target)?;
        } else if !target.exists() {
            fs::hard_link(entry.path(), &target).map_err(WorkspaceError::io("link", &target))?;
        }
    }
    Ok(())
}
