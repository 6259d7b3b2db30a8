//! What of a checkout travels, looked at beside the host's repository: a copy of the index and a directory for new objects, which
//! names the host's objects as alternates. The host's repository is read and never written.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{OFlags, Stat};

use super::checkout::{Checkout, Entry, Head, Status};
use super::error::WorkspaceError;
use super::index::{self, Index};
use super::known::Known;
use banger_host::fs::atomic;
use banger_host::git::{self, Git};

/// The ref in the guest that holds what was sent.
pub const PREPARED_REF: &str = "refs/banger/prepared";

/// How a pointer of Git LFS begins, and how large it may be, bytes (its specification, "The Pointer").
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
const MAX_LFS_POINTER: i64 = 1024;

/// What of one checkout travels, by name.
#[derive(Debug)]
pub struct Selection {
    /// The files, sorted by the bytes of their paths.
    pub entries: Vec<Entry>,
    /// Submodules whose directory is there, and the commits that the index has them at.
    pub links: BTreeMap<PathBuf, String>,
    /// Submodules whose directory is not there, though no sparse checkout leaves it out.
    pub gone_links: Vec<PathBuf>,
    /// Where HEAD stands.
    pub head: Head,
    /// What differs from HEAD and the index.
    pub status: Status,
    /// How many untracked files stay behind.
    pub left_behind: usize,
    /// How many files a sparse checkout leaves out.
    pub skipped: usize,
    /// How many files are pointers of Git LFS.
    pub lfs_pointers: usize,
    /// When the first file was looked at, or before.
    pub looked_at: SystemTime,
}

impl Selection {
    /// The bytes of the files.
    pub fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|e| u64::try_from(e.stat.st_size).unwrap_or(0)).sum()
    }
}

/// A directory for one transfer, removed when dropped, with a copy of the host's index in it.
#[derive(Debug)]
pub struct Staging {
    temp: tempfile::TempDir,
}

/// How long a clock that stamps files may stand still.
const TICK: Duration = Duration::from_millis(20);

/// The same, where a file system keeps no parts of a second.
const WHOLE_SECOND: Duration = Duration::from_secs(2);

/// Whether a file has changed when the index was `written`, or after.
pub(super) fn is_recent(stat: &Stat, written: SystemTime) -> bool {
    let changed = UNIX_EPOCH + Duration::new(stat.st_ctime.max(0).unsigned_abs(), stat.st_ctime_nsec as u32);
    // Some file systems know whole seconds alone.
    let tick = if stat.st_ctime_nsec == 0 { WHOLE_SECOND } else { TICK };
    changed + tick >= written
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkspaceError> {
    fs::write(path, bytes).map_err(WorkspaceError::io("write", path))
}

fn make_dir(path: &Path) -> Result<(), WorkspaceError> {
    fs::create_dir_all(path).map_err(WorkspaceError::io("make", path))
}

impl Staging {
    /// Makes the directory below `parent`, named `ws-…`, and copies the index into it.
    pub fn new(parent: &Path, checkout: &Checkout) -> Result<Self, WorkspaceError> {
        let temp = tempfile::Builder::new().prefix("ws-").tempdir_in(parent);
        let temp = temp.map_err(|e| WorkspaceError::io("make a directory in", parent)(atomic::bare(e)))?;
        let staging = Self { temp };
        make_dir(&staging.objects().join("pack"))?;
        let mut alternates = quote(checkout.objects.as_os_str());
        alternates.push(b'\n');
        for objects in [staging.objects(), staging.raw()] {
            make_dir(&objects.join("info"))?;
            write(&objects.join("info/alternates"), &alternates)?;
        }
        staging.copy_index(checkout)?;
        Ok(staging)
    }

    /// Where new objects are.
    pub fn objects(&self) -> PathBuf {
        self.temp.path().join("objects")
    }
    /// The copy of the index.
    pub fn index(&self) -> PathBuf {
        self.temp.path().join("index")
    }
    /// The index of the prepared commit's tree, once that is made.
    pub fn prepared_index(&self) -> PathBuf {
        self.temp.path().join("index.prepared")
    }
    /// Where objects are of files as they stand, where git has made others of them; they do not travel.
    pub fn raw(&self) -> PathBuf {
        self.temp.path().join("raw")
    }
    /// The directory.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// git on this staging's objects and `index`.
    pub fn git(&self, checkout: &Checkout, index: &Path) -> Git {
        checkout.git().clone().env("GIT_OBJECT_DIRECTORY", self.objects()).env("GIT_INDEX_FILE", index)
    }

    /// Marks the packs that git has made of large files: they travel as they are, and are in no other one.
    pub fn keep_packs(&self) -> Result<(), WorkspaceError> {
        let dir = self.objects().join("pack");
        for entry in fs::read_dir(&dir).map_err(WorkspaceError::io("read", &dir))? {
            let path = entry.map_err(WorkspaceError::io("read", &dir))?.path();
            if path.extension().is_some_and(|extension| extension == "pack") {
                write(&path.with_extension("keep"), b"")?;
            }
        }
        Ok(())
    }

    /// Copies the host's index, its time included: by it git tells which entries it must not believe (racy-git.adoc).
    fn copy_index(&self, checkout: &Checkout) -> Result<(), WorkspaceError> {
        let index = self.index();
        if checkout.index.exists() {
            let copied = fs::copy(&checkout.index, &index);
            copied.map_err(WorkspaceError::io("copy the checkout's index to", &index))?;
            let stamp = |path: &Path| {
                let modified = fs::metadata(&checkout.index)?.modified()?;
                File::options().write(true).open(path)?.set_times(FileTimes::new().set_modified(modified))
            };
            stamp(&index).map_err(WorkspaceError::io("copy", &checkout.index))?;
        }
        Ok(())
    }

    /// Reads the copy once git has refreshed it. One that is not there, or that points at files or processes of this host, is
    /// written anew.
    pub(super) fn read_index(&self, checkout: &Checkout) -> Result<Index, WorkspaceError> {
        let path = self.index();
        let index = Index::read(&path, &checkout.object_format)?;
        if !index.is_foreign && path.exists() {
            return Ok(index);
        }
        let args = [
            "update-index",
            "-q",
            "--unmerged",
            "--ignore-submodules",
            "--no-split-index",
            "--no-untracked-cache",
            "--no-fsmonitor",
            "--force-write-index",
            "--refresh",
        ];
        self.git(checkout, &path).run(args).map_err(checkout.git_error())?;
        Index::read(&path, &checkout.object_format)
    }

    /// Has git read again what it might take for unchanged though it is not: of the change time it compares whole seconds, if that, and
    /// a file may have got its size and its modification time back within one.
    fn doubt(&self, checkout: &Checkout) -> Result<(), WorkspaceError> {
        let path = self.index();
        if !path.exists() {
            return Ok(());
        }
        // One that points elsewhere is written anew.
        self.read_index(checkout)?;
        let error = || WorkspaceError::io("read", &path);
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(error())?;
        let mut looker = checkout.looker();
        let doubt = |entry: &index::Entry| {
            if entry.is_link() || entry.assumed || entry.skipped || entry.size() == 0 {
                return Ok(false);
            }
            let found = looker.look(&git::path(&entry.path))?;
            Ok(found.is_some_and(|found| !entry.is_as(&found.stat) || is_recent(&found.stat, modified)))
        };
        let bytes = fs::read(&path).map_err(error())?;
        if let Some(bytes) = Index::smudge(bytes, &checkout.object_format, doubt)? {
            write(&path, &bytes)?;
            let file = File::options().write(true).open(&path);
            let stamped = file.and_then(|file| file.set_times(FileTimes::new().set_modified(modified)));
            stamped.map_err(error())?;
        }
        Ok(())
    }

    /// Looks at everything that travels: also those of the files in `agreed` that are there, whether git tracks them or not.
    pub fn select(
        &self,
        checkout: &Checkout,
        include_untracked: bool,
        agreed: &BTreeSet<PathBuf>,
    ) -> Result<Selection, WorkspaceError> {
        let looked_at = SystemTime::now();
        self.doubt(checkout)?;
        let git = self.git(checkout, &self.index()).env("GIT_OPTIONAL_LOCKS", "1");
        let (head, mut status) = checkout.status(&git)?;
        let index = self.read_index(checkout)?;
        let nothing_loose = !include_untracked || status.untracked.is_empty();
        if index.entries.is_empty() && head.commit.is_none() && nothing_loose {
            return Err(WorkspaceError::Empty(checkout.root.clone()));
        }
        let mut looker = checkout.looker();
        let (mut links, mut gone_links) = (BTreeMap::new(), Vec::new());
        let (mut entries, mut skipped) = (Vec::with_capacity(index.entries.len()), 0);
        for of_path in index.entries.chunk_by(|one, next| one.path == next.path) {
            let first = &of_path[0];
            let path = git::path(&first.path);
            if first.is_link() && checkout.has_dir(&path) {
                links.insert(path, first.state.object.to_string());
                continue;
            }
            let found = looker.look(&path)?;
            if let Some(entry) = found {
                entries.push(entry);
            } else if first.is_link() && !first.skipped {
                gone_links.push(path);
            } else if first.skipped {
                skipped += usize::from(!first.is_link());
            }
        }
        // A repository inside the checkout that is no submodule shows as a directory; it stays behind. git reads the other files by
        // the attributes, tracked or not: without them it would call the same bytes others in the guest.
        let is_dir = |path: &Path| path.as_os_str().as_bytes().ends_with(b"/");
        let travels = |path: &Path| !is_dir(path) && (include_untracked || is_attributes(path));
        let loose = |path: &Path| travels(path) || agreed.contains(path);
        let mut taken = Vec::new();
        let mut left_behind = 0;
        for path in &status.untracked {
            if loose(path) { taken.push(looker.look(path)?) } else { left_behind += 1 }
        }
        for path in untold(agreed, &index, &links, &status) {
            if let Some(entry) = looker.look(&path)? {
                status.untracked.insert(path);
                taken.push(Some(entry));
            }
        }
        if !taken.is_empty() {
            entries.extend(taken.into_iter().flatten());
            entries.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        }
        let lfs_pointers = count_lfs_pointers(checkout, &entries);
        Ok(Selection {
            entries,
            links,
            gone_links,
            head,
            status,
            left_behind,
            skipped,
            lfs_pointers,
            looked_at,
        })
    }

    /// Makes the commit that holds the tree exactly as `selection` saw it, its parent HEAD. `heads` are the commits that submodules
    /// stand at. The same checkout and `message` give the same id. What is `known` is not read again.
    pub fn commit(
        &self,
        checkout: &Checkout,
        selection: &Selection,
        heads: &BTreeMap<&Path, &str>,
        message: &[u8],
        known: Option<&Known>,
    ) -> Result<String, WorkspaceError> {
        let index = self.prepared_index();
        fs::copy(self.index(), &index).map_err(WorkspaceError::io("copy", self.index()))?;
        let git = self.git(checkout, &index);
        let present: BTreeSet<&Path> = selection.entries.iter().map(|e| e.path.as_path()).collect();
        let untracked = selection.status.untracked.iter().filter(|p| present.contains(p.as_path()));
        let changed = selection.status.changed.iter().filter(|p| !selection.links.contains_key(p.as_path()));
        let (there, gone): (Vec<&PathBuf>, Vec<&PathBuf>) =
            changed.chain(untracked).partition(|p| present.contains(p.as_path()));
        let (same, there) = match known {
            Some(known) => self.unread(checkout, selection, known, there)?,
            None => (Vec::new(), there),
        };
        // Removals first: a directory may stand where a file was, and the other way round. A line with mode 0 removes.
        let mut lines = Vec::new();
        let mut line = |mode: &str, object: &str, path: &Path| {
            lines.extend_from_slice(format!("{mode} {object}\t").as_bytes());
            lines.extend_from_slice(path.as_os_str().as_bytes());
            lines.push(0);
        };
        let none = "0".repeat(if checkout.object_format == "sha1" { 40 } else { 64 });
        for path in gone.into_iter().chain(&selection.gone_links) {
            line("0", &none, path);
        }
        for (path, commit) in heads.iter().filter(|(path, commit)| {
            // A commit that is named otherwise than here has no place in this tree.
            commit.len() == none.len()
                && (selection.status.changed.contains(**path)
                    || selection.links.get(**path).is_none_or(|c| c != **commit))
        }) {
            line("160000", commit, path);
        }
        for entry in same {
            line(
                &format!("{:06o}", entry.state.mode),
                &entry.state.object.to_string(),
                &git::path(&entry.path),
            );
        }
        if !lines.is_empty() {
            let exec = git.exec(["update-index", "--add", "--replace", "-z", "--index-info"]).stdin(lines);
            exec.run().map_err(checkout.git_error())?;
        }
        if !there.is_empty() {
            add(checkout, &git, &there)?;
        }
        // A partial clone lacks files that a sparse checkout leaves out; anything else that is missing stops the packing.
        let tree = git::line(&git.run(["write-tree", "--missing-ok"]).map_err(checkout.git_error())?);
        let mut args = vec!["commit-tree", tree.as_str(), "-F", "-"];
        if let Some(parent) = &selection.head.commit {
            args.extend(["-p", parent]);
        }
        let mut git = git;
        for who in ["AUTHOR", "COMMITTER"] {
            git = git.env(format!("GIT_{who}_NAME"), "banger");
            git = git.env(format!("GIT_{who}_EMAIL"), "banger@localhost");
            git = git.env(format!("GIT_{who}_DATE"), "@0 +0000");
        }
        git.setting("commit.gpgSign", "false");
        git.setting("i18n.commitEncoding", "UTF-8");
        Ok(git::line(&git.exec(args).stdin(message).run().map_err(checkout.git_error())?))
    }
}

/// Adds files to the index of `git`. One that git cannot convert, as its attributes want it, is added as it stands: that a file is not
/// encoded as somebody said keeps nothing from travelling.
fn add(checkout: &Checkout, git: &Git, files: &[&PathBuf]) -> Result<(), WorkspaceError> {
    let paths = files.iter().flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0]));
    let exec = git.exec(["update-index", "--add", "--replace", "-z", "--stdin"]);
    match (exec.stdin(paths.collect::<Vec<u8>>()).run(), files) {
        (Ok(_), _) => Ok(()),
        (Err(error), [path]) => add_unconverted(checkout, git, path).map_err(|_| checkout.git_error()(error)),
        (Err(_), files) => {
            let (one, other) = files.split_at(files.len() / 2);
            add(checkout, git, one)?;
            add(checkout, git, other)
        }
    }
}

fn add_unconverted(checkout: &Checkout, git: &Git, path: &Path) -> Result<(), WorkspaceError> {
    let args = [OsStr::new("hash-object"), OsStr::new("-w"), OsStr::new("--no-filters"), OsStr::new("--")];
    let id = git::line(&git.run(args.into_iter().chain([path.as_os_str()])).map_err(checkout.git_error())?);
    let entry = checkout.look(path)?.filter(|entry| !entry.is_symlink());
    let entry = entry.ok_or_else(|| WorkspaceError::Moving(checkout.root.join(path)))?;
    let mode = if entry.stat.st_mode & 0o100 == 0 { "100644" } else { "100755" };
    let line = [format!("{mode} {id}\t").as_bytes(), path.as_os_str().as_bytes(), b"\0"].concat();
    let exec = git.exec(["update-index", "--add", "--replace", "-z", "--index-info"]).stdin(line);
    exec.run().map(drop).map_err(checkout.git_error())
}

/// Those of the files in `agreed` of which git says nothing: they may be ignored, or not there at all.
fn untold(
    agreed: &BTreeSet<PathBuf>,
    index: &Index,
    links: &BTreeMap<PathBuf, String>,
    status: &Status,
) -> Vec<PathBuf> {
    if agreed.is_empty() {
        return Vec::new();
    }
    let tracked: HashSet<&[u8]> = index.entries.iter().map(|entry| entry.path.as_slice()).collect();
    let is_told = |path: &PathBuf| {
        tracked.contains(path.as_os_str().as_bytes())
            || status.untracked.contains(path)
            || path.ancestors().any(|above| links.contains_key(above))
    };
    agreed.iter().filter(|path| !is_told(path)).cloned().collect()
}

/// Whether git reads attributes in it (gitattributes(5)).
fn is_attributes(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new(".gitattributes"))
}

/// How many of `entries` are pointers of Git LFS. A checkout without attributes has none.
fn count_lfs_pointers(checkout: &Checkout, entries: &[Entry]) -> usize {
    if !entries.iter().any(|entry| is_attributes(&entry.path)) && !checkout.info.join("attributes").exists() {
        return 0;
    }
    entries.iter().filter(|entry| is_lfs_pointer(checkout, entry)).count()
}

fn is_lfs_pointer(checkout: &Checkout, entry: &Entry) -> bool {
    let fits = (LFS_POINTER.len() as i64..=MAX_LFS_POINTER).contains(&entry.stat.st_size);
    if !fits || entry.is_symlink() {
        return false;
    }
    let mut start = [0; LFS_POINTER.len()];
    let opened = checkout.open_beneath(&entry.path, OFlags::RDONLY).ok().flatten();
    opened.is_some_and(|fd| File::from(fd).read_exact(&mut start).is_ok()) && start == LFS_POINTER
}

/// A path as a line of an alternates file: quoted as C does where it would be read otherwise.
pub(super) fn quote(path: &OsStr) -> Vec<u8> {
    let bytes = path.as_bytes();
    let plain = !bytes.starts_with(b"\"") && !bytes.starts_with(b"#") && !bytes.contains(&b'\n');
    if plain {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    let mut quoted = |text: &[u8]| out.write_all(text).expect("a vector takes everything");
    quoted(b"\"");
    for byte in bytes {
        match byte {
            b'\n' => quoted(b"\\n"),
            b'"' | b'\\' => quoted(&[b'\\', *byte]),
            other => quoted(&[*other]),
        }
    }
    quoted(b"\"");
    out
}
