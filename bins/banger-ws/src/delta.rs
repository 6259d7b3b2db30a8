//! What differs between a checkout and what a guest was given of it, and the stream that carries that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use banger_contract::record::WorkspaceMode;
use banger_host::digest::hex;
use banger_host::process::exec::Running;
use banger_protocol::changes::{Request, SentFile};
use banger_protocol::resync::{self, Known, Plan, Staged};
use sha2::{Digest, Sha256};
use tar::Builder;

use crate::checkout::{Entry, Head};
use crate::error::WorkspaceError;
use crate::index::{self, Index};
use crate::note::{Note, Notes, Stage};
use crate::shipment::{Committed, Shipment};
use crate::staging::PREPARED_REF;
use crate::survey::Part;
use crate::tags::{self, Tag};
use crate::{content, fill, gitdir, stream};

/// How long packing may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What differs.
#[derive(Debug)]
pub struct Delta {
    /// What the guest was given.
    pub from: Note,
    /// Files that are new or different, sorted.
    pub changed: Vec<Vec<u8>>,
    /// Those of them that the guest was not given before.
    pub fresh: Vec<Vec<u8>>,
    /// Files that are no more, sorted.
    pub gone: Vec<Vec<u8>>,
    /// What was sent, by its bytes.
    given: Request,
    /// What was sent, as git has it.
    old_index: Index,
    new_index: Index,
    /// Tags that are new, or of another commit.
    pub new_tags: Vec<Tag>,
    /// The objects of large files that the guest makes from the pack.
    made: Vec<Entry>,
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
    ///
    /// # Errors
    /// Those of git and of the files.
    pub fn compare(
        committed: &Committed,
        from: Note,
        notes: &Notes,
        given: Request,
    ) -> Result<Compared, WorkspaceError> {
        let part = committed.survey.root();
        let checkout = &part.checkout;
        let read = |path: &Path| Index::read(path, &checkout.object_format);
        let (old_tree, old_index) = (read(&notes.tree(Stage::Sent))?, read(&notes.index(Stage::Sent))?);
        let (new_tree, new_index) = (&committed.trees[0], read(&part.staging.index())?);
        let mut touched = old_tree.differing(new_tree, differs);
        let is_link = |path: &&[u8]| {
            [&old_tree, new_tree].iter().any(|tree| tree.of(path).iter().any(index::Entry::is_link))
        };
        if touched.iter().any(is_link) {
            return Ok(Compared::Unlike("a submodule is another one"));
        }
        let (old_files, new_files) = (root_files(&given), root_files(&committed.sent));
        // What git takes for the same may have other bytes all the same, and both sides may have agreed on other files than git has of
        // the last copy.
        touched.extend(old_files.keys().chain(new_files.keys()).copied());
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|path| old_files.get(path) != new_files.get(path));
        let head = &part.selection.head;
        let same_head =
            head.commit == from.head_commit && String::from_utf8_lossy(&gitdir::head_file(head)) == from.head;
        let same_index = old_index.differing(&new_index, staged_otherwise).is_empty();
        let new_tags: Vec<Tag> = new_tags(committed, &from);
        let same_commit = from.base_commit == committed.base_commit();
        if touched.is_empty() && same_index && same_head && same_commit && new_tags.is_empty() {
            return Ok(Compared::Same);
        }
        let (mut changed, mut fresh, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for path in touched {
            match (old_files.contains_key(path), new_files.contains_key(path)) {
                (true, true) => changed.push(path.to_vec()),
                (false, true) => {
                    changed.push(path.to_vec());
                    fresh.push(path.to_vec());
                }
                (true, false) => gone.push(path.to_vec()),
                (false, false) => {}
            }
        }
        let packs = part.staging.objects().join("pack");
        let packing =
            Mutex::new(Some(pack(committed, &from, [&old_tree, &old_index], &new_index, &new_tags)?));
        let made = made(part, new_tree, &changed)?;
        let delta = Self {
            from,
            changed,
            fresh,
            gone,
            given: given.clone(),
            old_index,
            new_index,
            new_tags,
            made,
            packing,
            packs,
        };
        Ok(Compared::Differs(Box::new(delta)))
    }

    /// Directories that the guest must have as such, or not at all.
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

    /// Whether HEAD stands elsewhere: on another branch, or at another commit.
    fn head_moved(&self, head: &Head) -> bool {
        head.commit != self.from.head_commit
            || String::from_utf8_lossy(&gitdir::head_file(head)) != self.from.head
    }

    /// The paths whose entry in the index differs.
    fn staged(&self) -> Vec<&[u8]> {
        self.old_index.differing(&self.new_index, staged_otherwise)
    }

    /// What differs in the index; `None` where nothing does.
    fn staging(&self) -> Option<Staged> {
        let staged = self.staged();
        if staged.is_empty() {
            return None;
        }
        let entries = |index: &Index| -> Vec<u8> {
            staged.iter().flat_map(|path| index.of(path)).flat_map(index::Entry::line).collect()
        };
        // What is there before is taken out first: a path may be merged or unmerged, a file or a directory.
        let taken_out = staged.iter().flat_map(|path| self.old_index.of(path).first());
        let taken_out = taken_out.flat_map(|entry| {
            let none = "0".repeat(entry.state.object.to_string().len());
            [format!("0 {none} 0\t").as_bytes(), &entry.path, b"\0"].concat()
        });
        let after = entries(&self.new_index);
        let flagged = |is: fn(&index::Entry) -> bool| {
            let there = staged.iter().flat_map(|path| self.new_index.of(path));
            nul(there.filter(|entry| is(entry)).map(|entry| entry.path.as_slice()))
        };
        let has_flags = |index: &Index| {
            staged.iter().flat_map(|path| index.of(path)).any(|entry| entry.skipped || entry.assumed)
        };
        let mut flags = Vec::new();
        if has_flags(&self.old_index) || has_flags(&self.new_index) {
            flags.extend([
                ("skip-worktree".to_owned(), flagged(|entry| entry.skipped)),
                ("no-skip-worktree".to_owned(), flagged(|entry| !entry.skipped)),
                ("assume-unchanged".to_owned(), flagged(|entry| entry.assumed)),
                ("no-assume-unchanged".to_owned(), flagged(|entry| !entry.assumed)),
            ]);
        }
        Some(Staged {
            digest: digest_of(&self.old_index),
            paths: nul(staged.iter().copied()),
            before: entries(&self.old_index),
            info: taken_out.chain(after.clone()).collect(),
            after,
            flags,
        })
    }

    /// What the guest is to compare, and to do. `force`: over what it has changed.
    pub fn plan(&self, shipment: &Shipment, force: bool) -> Plan {
        let part = shipment.survey.root();
        let head = &part.selection.head;
        let owned = |paths: Vec<&[u8]>| paths.into_iter().map(<[u8]>::to_vec).collect();
        let replaced = self.replaced();
        let becomes_file: BTreeSet<&[u8]> = replaced.iter().copied().collect();
        let files = |of: &Request, paths: &mut dyn Iterator<Item = &[u8]>| -> Vec<Known> {
            let files = root_files(of);
            let known = paths.filter_map(|path| files.get(path));
            known
                .map(|file| Known { path: file.path.clone(), mode: file.mode, id: file.id.clone() })
                .collect()
        };
        let mut refs = Vec::new();
        let head_moved = self.head_moved(head);
        if let (true, Some(branch), Some(commit)) = (head_moved, &head.branch, &head.commit) {
            refs.push(([b"refs/heads/", branch.as_bytes()].concat(), commit.clone()));
        }
        refs.extend(self.new_tags.iter().map(|tag| (tag.name.clone(), tag.object.clone())));
        let before = || {
            let line = self.from.head.trim_end_matches('\n').as_bytes().to_vec();
            (line, self.from.head_commit.clone().unwrap_or_default())
        };
        let is_shallow = shipment.survey.choice.mode == WorkspaceMode::Shallow;
        let settings = gitdir::sparse(&part.checkout);
        Plan {
            force,
            sha256: shipment.sent.sha256,
            known: files(&self.given, &mut self.known()),
            placed: files(&shipment.sent, &mut self.changed.iter().map(Vec::as_slice)),
            fresh: self
                .fresh
                .iter()
                .filter(|path| !becomes_file.contains(path.as_slice()))
                .cloned()
                .collect(),
            directories: owned(self.directories().into_iter().collect()),
            replaced: owned(replaced),
            gone: self.gone.clone(),
            staged: self.staging(),
            head: head_moved.then(before),
            refs,
            shallow: head.commit.clone().filter(|_| is_shallow),
            settings: if settings == self.from.sparse { Vec::new() } else { settings },
            ..Plan::default()
        }
    }

    /// Writes the stream: files, index, packs, and at last the `plan`, by which it is whole. See [`banger_protocol::resync`].
    pub fn write(
        &self,
        part: &Part,
        base_commit: &str,
        plan: &Plan,
        out: impl Write,
    ) -> Result<(), WorkspaceError> {
        let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, out));
        if plan.staged.is_some() {
            stream::git_file(&mut tar, &part.staging.index(), Path::new(resync::INDEX))?;
        }
        let tree = Path::new(resync::TREE);
        self.write_files(&mut tar, part, tree)?;
        self.write_git(&mut tar, part, base_commit, &tree.join(".git"))?;
        let packing = self.packing.lock().unwrap_or_else(PoisonError::into_inner).take();
        packing.map_or(Ok(()), Running::wait).map_err(part.checkout.git_error())?;
        for entry in fs::read_dir(&self.packs).map_err(WorkspaceError::io("read", &self.packs))? {
            let path = entry.map_err(WorkspaceError::io("read", &self.packs))?.path();
            let name = path.file_name().unwrap_or_default();
            if path.extension().is_some_and(|e| e == "pack" || e == "idx") {
                stream::git_file(&mut tar, &path, &tree.join(".git/objects/pack").join(name))?;
            }
        }
        stream::bytes(&mut tar, Path::new(resync::PLAN), &plan.encode())?;
        let sent = tar.into_inner().and_then(|mut out| out.flush());
        sent.map_err(WorkspaceError::io("send", resync::PLAN))
    }

    fn write_files(
        &self,
        tar: &mut Builder<impl Write>,
        part: &Part,
        tree: &Path,
    ) -> Result<(), WorkspaceError> {
        let mut entries = part.selection.entries.iter();
        let mut made = self.made.iter().peekable();
        for path in &self.changed {
            let found = entries.find(|entry| entry.path.as_os_str().as_bytes() == path);
            let Some(entry) = found else { continue };
            let place = tree.join(&entry.path);
            if made.next_if(|made| made.path == entry.path).is_some() {
                content::unchanged(&part.checkout, entry)?;
                stream::directory(tar, place.parent().unwrap_or(tree), 0)?;
            } else if entry.is_symlink() {
                stream::link(tar, &part.checkout, entry, &place)?;
            } else {
                stream::file(tar, &part.checkout, entry, &place)?;
            }
        }
        // From the directory of the files, where their pack is, too.
        let source =
            fill::Source { git_dir: "../..".into(), list: "../objects.list".into(), files: Vec::new() };
        let files =
            self.made.iter().filter_map(|entry| Some((entry.path.clone(), entry, entry.object.as_deref()?)));
        let source = fill::Source { files: files.collect(), ..source };
        fill::script(&Path::new("..").join(resync::FILL), &[source])
            .iter()
            .try_for_each(|(name, text)| stream::bytes(tar, name.strip_prefix("..").unwrap_or(name), text))
    }

    /// What is new in the git directory, but for objects and index.
    fn write_git(
        &self,
        tar: &mut Builder<impl Write>,
        part: &Part,
        base_commit: &str,
        git_dir: &Path,
    ) -> Result<(), WorkspaceError> {
        let head = &part.selection.head;
        if self.head_moved(head) {
            stream::bytes(tar, &git_dir.join("HEAD"), &gitdir::head_file(head))?;
        }
        if let Some((name, text)) = gitdir::again(&part.checkout) {
            stream::bytes(tar, &git_dir.join(name), &text)?;
        }
        stream::bytes(tar, &git_dir.join(PREPARED_REF), format!("{base_commit}\n").as_bytes())
    }

    /// The paths that the guest was given and that differ now, sorted.
    fn known(&self) -> impl Iterator<Item = &[u8]> {
        let fresh: HashSet<&[u8]> = self.fresh.iter().map(Vec::as_slice).collect();
        let known: BTreeSet<&[u8]> = self.changed.iter().chain(&self.gone).map(Vec::as_slice).collect();
        known.into_iter().filter(move |path| !fresh.contains(path))
    }
}

/// The tags that the guest was not given as they are now.
fn new_tags(committed: &Committed, from: &Note) -> Vec<Tag> {
    let tags = committed.tags.first().into_iter().flatten();
    let is_known = |tag: &Tag| from.tags.get(&*String::from_utf8_lossy(&tag.name)) == Some(&tag.object);
    tags.filter(|tag| !is_known(tag)).cloned().collect()
}

/// The files of the checkout itself.
fn root_files(request: &Request) -> HashMap<&[u8], &SentFile> {
    let root = request.trees.first().into_iter();
    root.flat_map(|tree| tree.files.iter().map(|file| (file.path.as_slice(), file))).collect()
}

/// Whether there is a file of it.
fn is_there(entries: &[index::Entry]) -> bool {
    entries.iter().any(|entry| !entry.skipped)
}

/// Whether a file is another one, or is there or not.
fn differs(one: &[index::Entry], other: &[index::Entry]) -> bool {
    index::differ(one, other) || is_there(one) != is_there(other)
}

/// Whether an index says something else of a path. By the size that is in it git calls a file changed before it reads it, though
/// it may be the same once its line endings are converted; 0 means that it does not know.
fn staged_otherwise(one: &[index::Entry], other: &[index::Entry]) -> bool {
    let flags = |entries: &[index::Entry]| entries.first().map(|entry| (entry.skipped, entry.assumed));
    let size = |entries: &[index::Entry]| entries.first().map(index::Entry::size).filter(|size| *size > 0);
    let sizes_differ = size(one).zip(size(other)).is_some_and(|(one, other)| one != other);
    index::differ(one, other) || flags(one) != flags(other) || sizes_differ
}

/// `paths`, each with a NUL behind it.
fn nul<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    paths.into_iter().flat_map(|path| path.iter().copied().chain([0])).collect()
}

/// The large ones of the `changed` files, which the guest makes from the objects that hold the same bytes.
fn made(part: &Part, tree: &Index, changed: &[Vec<u8>]) -> Result<Vec<Entry>, WorkspaceError> {
    let mut entries = part.selection.entries.iter();
    let large = changed.iter().filter_map(|path| {
        entries
            .find(|entry| entry.path.as_os_str().as_bytes() == path)
            .filter(|entry| fill::is_worth_it(entry))
    });
    let mut large: Vec<Entry> = large.cloned().collect();
    fill::choose(&mut large, tree);
    let git = part.staging.git(&part.checkout, &part.staging.index());
    fill::keep_equal(&part.checkout, &git, &mut large)?;
    large.retain(|entry| entry.object.is_some());
    Ok(large)
}

/// SHA-256 of what `ls-files -s -z` prints of the index at `path`, hexadecimal.
pub(super) fn index_digest(path: &Path, object_format: &str) -> Result<String, WorkspaceError> {
    Ok(digest_of(&Index::read(path, object_format)?))
}

fn digest_of(index: &Index) -> String {
    let mut digest = Sha256::new();
    index.entries.iter().for_each(|entry| digest.update(entry.line()));
    hex(&digest.finalize())
}

/// Starts to pack what the guest lacks: what is reachable from the prepared commit and the index but neither from where HEAD was nor
/// in what was sent.
fn pack(
    committed: &Committed,
    from: &Note,
    known: [&Index; 2],
    index: &Index,
    new_tags: &[Tag],
) -> Result<Running, WorkspaceError> {
    let part = committed.survey.root();
    let (checkout, staging, head) = (&part.checkout, &part.staging, &part.selection.head);
    let mut git = staging.git(checkout, &staging.index());
    for (key, value) in super::pack::SETTINGS {
        git.setting(key, value);
    }
    if committed.survey.choice.mode == WorkspaceMode::Shallow {
        let file = staging.path().join("shallow");
        let text = gitdir::shallow(checkout, head, WorkspaceMode::Shallow);
        fs::write(&file, text).map_err(WorkspaceError::io("write", &file))?;
        git = git.env("GIT_SHALLOW_FILE", &file);
    }
    let mut lines = format!("{}\n{}", committed.base_commit(), tags::lines(new_tags));
    let is_there = |commit: &str| {
        head.commit.as_deref() == Some(commit)
            || git.run(["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok()
    };
    if let Some(commit) = from.head_commit.as_deref().filter(|commit| is_there(commit)) {
        lines += &format!("^{commit}\n");
    }
    // Where HEAD, index and working tree are one they are packed by way of HEAD, or are there.
    for path in &part.selection.status.changed {
        let path = path.as_os_str().as_bytes();
        let is_known =
            |object| known.iter().any(|tree| tree.of(path).iter().any(|entry| entry.state.object == object));
        // What has the object that a file would have which git is told not to look at: no git has that. The tree has what the index has.
        let of_tree = committed.trees[0].of(path).iter().filter(|entry| entry.skipped || !entry.assumed);
        let of_tree = of_tree.map(|entry| (entry, true));
        for (entry, is_reached) in of_tree.chain(index.of(path).iter().map(|entry| (entry, false))) {
            let object = entry.state.object;
            match is_known(object) {
                _ if entry.is_link() => {}
                true => lines += &format!("^{object}\n"),
                false if !is_reached => lines += &format!("{object}\n"),
                false => {}
            }
        }
    }
    let stem = staging.objects().join("pack/pack");
    let words = ["pack-objects", "-q", "--revs", "--non-empty", "--delta-base-offset", "--honor-pack-keep"];
    let exec = git.exec(words.iter().map(OsStr::new).chain([stem.as_os_str()])).deadline(PATIENCE);
    exec.stdin(lines).start().map_err(checkout.git_error())
}

/// Whether an error of a sender is only that nobody reads any more.
pub(super) fn is_unread(error: &WorkspaceError) -> bool {
    matches!(error, WorkspaceError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}
