//! The walk through a workspace. Directories are opened one in the other, so that neither a symbolic link that appears meanwhile nor a path
//! too long for one call leads elsewhere.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::fstatfs;

use super::answer::Answer;
use super::cache::{Cache, joined};
use super::digest::Id;
use super::disk::{
    CHUNK, DIRECTORY, ReadFile, TRIES, count, hash, is_directory, is_still, is_unknown_directory, list,
    mode_of, open_file, read,
};
use super::rules::Rules;
use super::tracked::Tracked;
use crate::error::{Context, Error};
use crate::resync::kind;
use banger_protocol::changes::{Content, Event, MAX_PATH, MODE_LINK, Request, SentTree};

/// The largest file of rules that git reads, bytes (dir.c, PATTERN_MAX_FILE_SIZE).
const MAX_RULES: u64 = 100 << 20;
/// From which size on it is worth looking whether a new file is one that was sent, bytes.
const WORTH_KNOWING: u64 = 64 << 10;
/// How much of a path is told that is too long for git, bytes.
const MAX_TOLD: usize = 8192;
/// Filesystems that are the kernel's own words (statfs(2)): proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, devpts, bpf,
/// configfs, mqueue, binfmt_misc, fusectl, efivarfs, pstore, selinuxfs.
const OF_THE_KERNEL: [i64; 16] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x1cd1,
    0xcafe_4a11,
    0x6265_6570,
    0x1980_0202,
    0x4249_4e4d,
    0x6573_5543,
    0xde5e_81e4,
    0x6165_676c,
    0xf97c_ff8c,
];

/// Compares the workspace that this process is in with what was sent, and tells what differs; gives how many new files are ignored.
pub fn compare<W: Write>(request: &Request, known: &Cache, answer: &mut Answer<W>) -> Result<u64, Error> {
    let root = open(".", DIRECTORY, Mode::empty()).context(|| "cannot open the workspace".into())?;
    let ids: HashSet<&[u8]> =
        request.trees.iter().flat_map(|tree| tree.files.iter().map(|file| file.id.as_slice())).collect();
    let mut ignored = 0;
    for (number, tree) in request.trees.iter().enumerate() {
        let number = u16::try_from(number).map_err(|_| Error::new("there are too many submodules"))?;
        let mut walk = Walk::new(request, number, tree, known, &ids, answer);
        match enter(root.as_fd(), &tree.prefix) {
            Ok(Some(directory)) => walk.directory(directory, b"", false)?,
            Ok(None) => {}
            Err(errno) => walk.lost_below(b"", errno)?,
        }
        ignored += walk.finish()?;
    }
    Ok(ignored)
}

/// The directory at `path`; `None` where there is none.
fn enter(root: BorrowedFd<'_>, path: &[u8]) -> nix::Result<Option<OwnedFd>> {
    let mut directory = openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        match openat(&directory, part, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            next => directory = next?,
        }
    }
    Ok(Some(directory))
}

/// How a look at a file ended.
enum Seen {
    /// It was told of, or there is nothing to tell.
    Told,
    /// It is not there any more.
    Vanished,
    /// It is something else by now.
    Other,
}

struct Walk<'a, W: Write> {
    request: &'a Request,
    number: u16,
    tree: &'a SentTree,
    known: &'a Cache,
    ids: &'a HashSet<&'a [u8]>,
    answer: &'a mut Answer<W>,
    /// What was sent, by its path: its place in the tree's list.
    sent: HashMap<&'a [u8], usize>,
    /// Whether each of them is there, or was told of.
    is_there: Vec<bool>,
    /// The directories of what was sent.
    directories: HashSet<&'a [u8]>,
    /// Where other trees are in this one.
    others: HashSet<Vec<u8>>,
    /// Where repositories are whose files are this tree's, and the rules of each.
    repositories: HashMap<&'a [u8], &'a [u8]>,
    rules: Rules,
    /// What the guest's git tracks: it is not ignored, whatever the rules say.
    tracked: Tracked,
    ignored: u64,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Walk<'a, W> {
    fn new(
        request: &'a Request,
        number: u16,
        tree: &'a SentTree,
        known: &'a Cache,
        ids: &'a HashSet<&'a [u8]>,
        answer: &'a mut Answer<W>,
    ) -> Self {
        let sent = tree.files.iter().enumerate().map(|(at, file)| (file.path.as_slice(), at)).collect();
        let mut directories = HashSet::new();
        for file in &tree.files {
            let slashes = file.path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
            for (at, _) in slashes {
                if !directories.insert(&file.path[..at]) {
                    break;
                }
            }
        }
        let below = |other: &SentTree| {
            let rest = match (&*tree.prefix, &*other.prefix) {
                (b"", other) => other,
                (own, other) => other.strip_prefix(own)?.strip_prefix(b"/")?,
            };
            (!rest.is_empty()).then(|| rest.to_vec())
        };
        Self {
            request,
            number,
            tree,
            known,
            ids,
            answer,
            sent,
            is_there: vec![false; tree.files.len()],
            directories,
            others: request.trees.iter().filter_map(below).collect(),
            repositories: tree.repositories.iter().map(|(path, rules)| (&path[..], &rules[..])).collect(),
            rules: Rules::new(&tree.rules),
            tracked: Tracked::read(&tree.prefix, request.sha256),
            ignored: 0,
            buffer: vec![0; CHUNK],
        }
    }

    /// Tells what was sent and is no more.
    fn finish(self) -> Result<u64, Error> {
        for (file, _) in self.tree.files.iter().zip(&self.is_there).filter(|(_, is_there)| !**is_there) {
            self.answer.event(&Event::Gone { tree: self.number, path: file.path.clone() })?;
        }
        Ok(self.ignored)
    }

    /// Whether what is new at `path` does not count.
    fn ignores(&self, path: &[u8], is_dir: bool) -> bool {
        !self.request.everything && self.rules.ignores(path, is_dir)
    }

    fn lost(&mut self, path: &[u8], reason: impl Into<Vec<u8>>) -> Result<(), Error> {
        let path = if path.len() > MAX_TOLD { [&path[..MAX_TOLD], b"..."].concat() } else { path.to_vec() };
        self.answer.event(&Event::Lost { tree: self.number, path, reason: reason.into() })
    }

    fn left_out(&mut self, path: &[u8], reason: &str) -> Result<(), Error> {
        let (tree, reason) = (self.number, reason.as_bytes().to_vec());
        self.answer.event(&Event::LeftOut { tree, path: path.to_vec(), reason })
    }

    /// Nothing can be told of what is below the directory `path`: what was sent of it is not called gone.
    fn lost_below(&mut self, path: &[u8], errno: Errno) -> Result<(), Error> {
        let all = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        for (at, file) in self.tree.files.iter().enumerate() {
            if file.path.starts_with(&all) {
                self.is_there[at] = true;
            }
        }
        let name = if all.is_empty() { b"./".to_vec() } else { all };
        self.lost(&name, format!("it cannot be read in the guest: {}", errno.desc()))
    }

    /// What is in the directory at `path`, all that is below it included. `is_ignored`: what is new in it does not count.
    fn directory(&mut self, directory: OwnedFd, path: &[u8], is_ignored: bool) -> Result<(), Error> {
        let Some(rules) = self.repositories.get(path) else {
            return self.within(directory, path, is_ignored);
        };
        let own = Rules::of_repository(path, rules);
        let around = std::mem::replace(&mut self.rules, own);
        let told = self.within(directory, path, false);
        self.rules = around;
        told
    }

    /// The same, by the rules as they are.
    fn within(&mut self, directory: OwnedFd, path: &[u8], is_ignored: bool) -> Result<(), Error> {
        let entries = match list(&directory) {
            Ok(entries) => entries,
            Err(errno) => return self.lost_below(path, errno),
        };
        if entries.is_empty() && !path.is_empty() && !is_ignored {
            return self.left_out(path, "an empty directory");
        }
        let depth = self.rules.depth();
        let has_rules =
            entries.iter().any(|(name, kind)| &**name == c".gitignore" && *kind != Type::Directory);
        if has_rules && !is_ignored {
            self.read_rules(&directory, path);
        }
        let mut inner = Vec::new();
        for (name, kind) in entries {
            if name.to_bytes() == b".git" {
                if !path.is_empty() && !is_ignored {
                    let reason = "a repository's own files; what else is in its directory is in the patch";
                    self.left_out(&joined(path, b".git"), reason)?;
                }
                continue;
            }
            let place = joined(path, name.to_bytes());
            if self.others.contains(&place) {
                // Another tree: told of by itself, and by its absence where it is not a directory any more.
                if kind != Type::Directory && !is_directory(&directory, &name) {
                    self.lost(&place, "it stands where a submodule was")?;
                }
            } else if kind == Type::Directory || is_unknown_directory(kind, &directory, &name) {
                inner.push((name, place));
            } else {
                self.entry(&directory, &name, &place, is_ignored)?;
            }
        }
        let last = inner.pop();
        for (name, place) in inner {
            self.enter(&directory, &name, &place, is_ignored)?;
        }
        if let Some((name, place)) = last {
            let opened = self.open(&directory, &name, &place, is_ignored)?;
            // One that leads ever deeper takes no more descriptors than another.
            drop(directory);
            if let Some((inner, is_ignored)) = opened {
                self.directory(inner, &place, is_ignored)?;
            }
        }
        self.rules.truncate(depth);
        Ok(())
    }

    /// Reads the rules in a directory. git follows no link there, and neither do we.
    fn read_rules(&mut self, directory: &OwnedFd, path: &[u8]) {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = openat(directory, ".gitignore", flags, Mode::empty()) else { return };
        let is_file = fstat(&file).is_ok_and(|stat| kind(&stat) == SFlag::S_IFREG);
        let mut text = Vec::new();
        let read = is_file.then(|| File::from(file).take(MAX_RULES + 1).read_to_end(&mut text));
        if read.is_some_and(|read| read.is_ok()) && text.len() as u64 <= MAX_RULES {
            self.rules.push(&joined(path, b".gitignore"), &text);
        }
    }

    /// A directory in `directory`.
    fn enter(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        is_ignored: bool,
    ) -> Result<(), Error> {
        match self.open(directory, name, path, is_ignored)? {
            Some((inner, is_ignored)) => self.directory(inner, path, is_ignored),
            None => Ok(()),
        }
    }

    /// Opens a directory in `directory` that is to be looked at, and says whether it is ignored. `None` where all is told that there is to tell.
    fn open(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        is_ignored: bool,
    ) -> Result<Option<(OwnedFd, bool)>, Error> {
        let is_ignored = is_ignored || self.ignores(path, true);
        let holds_sent = self.directories.contains(path)
            || self.repositories.contains_key(path)
            || self.tracked.is_below(path)
            || self.holds_another(path);
        if path.len() >= MAX_PATH {
            let below = [path, b"/"].concat();
            if !is_ignored {
                self.lost(&below, "its path is longer than git can open")?;
            }
            return Ok(None);
        }
        let inner = match openat(directory, name, DIRECTORY, Mode::empty()) {
            Ok(inner) => inner,
            // Gone, or something else: what was sent of it is told as gone, what is new is the next export's.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            Err(_) if is_ignored && !holds_sent => return Ok(None),
            Err(errno) => return self.lost_below(path, errno).map(|()| None),
        };
        let crosses = || Some(fstat(directory).ok()?.st_dev != fstat(&inner).ok()?.st_dev);
        if crosses() == Some(true)
            && fstatfs(&inner).is_ok_and(|fs| OF_THE_KERNEL.contains(&fs.filesystem_type().0))
        {
            if !is_ignored {
                self.left_out(path, "a mount of what the kernel tells")?;
            }
            return Ok(None);
        }
        if is_ignored && !holds_sent {
            self.ignored += count(&inner);
            return Ok(None);
        }
        Ok(Some((inner, is_ignored)))
    }

    /// Whether another tree is below the directory at `path`.
    fn holds_another(&self, path: &[u8]) -> bool {
        self.others.iter().any(|other| other.starts_with(path) && other.get(path.len()) == Some(&b'/'))
    }

    /// Something in `directory` that is not a directory.
    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        is_ignored: bool,
    ) -> Result<(), Error> {
        let at = self.sent.get(path).copied();
        for _ in 0..TRIES {
            let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => return Ok(()),
                Err(errno) => return self.unreadable(at, path, errno),
            };
            let what = match kind(&stat) {
                SFlag::S_IFREG | SFlag::S_IFLNK => "",
                // It has just become one: what is in it is looked at as in any other.
                SFlag::S_IFDIR => return self.enter(directory, name, path, is_ignored),
                SFlag::S_IFIFO => "a FIFO",
                SFlag::S_IFSOCK => "a socket",
                SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
                _ => "no file",
            };
            let is_ignored = is_ignored || self.ignores(path, false);
            if at.is_none() && is_ignored && !self.tracked.is_one(path) {
                self.ignored += 1;
                return Ok(());
            }
            if !what.is_empty() {
                return self.left_out(path, what);
            }
            if path.len() > MAX_PATH {
                return self.lost(path, "its path is longer than git can open");
            }
            match self.file(directory, name, path, at, &stat)? {
                Seen::Told => {
                    if let Some(at) = at {
                        self.is_there[at] = true;
                    }
                    return Ok(());
                }
                Seen::Vanished => return Ok(()),
                Seen::Other => {}
            }
        }
        self.moving(at, path)
    }

    fn moving(&mut self, at: Option<usize>, path: &[u8]) -> Result<(), Error> {
        if let Some(at) = at {
            self.is_there[at] = true;
        }
        self.lost(path, "it was written all the time while it was read")
    }

    fn unreadable(&mut self, at: Option<usize>, path: &[u8], errno: Errno) -> Result<(), Error> {
        if let Some(at) = at {
            self.is_there[at] = true;
        }
        self.lost(path, format!("it cannot be read in the guest: {}", errno.desc()))
    }

    /// A file or a link, which is `stat`; `at`: what was sent of it.
    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        at: Option<usize>,
        stat: &FileStat,
    ) -> Result<Seen, Error> {
        let sent = at.map(|at| &self.tree.files[at]);
        let mode = mode_of(stat);
        if mode == MODE_LINK {
            return self.link(directory, name, path, at);
        }
        let whole = joined(&self.tree.prefix, path);
        let same_kind = sent.filter(|sent| sent.mode != MODE_LINK);
        if let Some(sent) = same_kind
            && self.known.is_same(&whole, stat, &sent.id)
        {
            return self.same(path, mode, sent.mode, &sent.id);
        }
        let is_other = same_kind.is_some_and(|sent| self.known.is_other(&whole, stat, &sent.id));
        let is_large = stat.st_size.unsigned_abs() >= WORTH_KNOWING;
        if (same_kind.is_some() && !is_other) || is_large {
            match hash(directory, name, self.request.sha256, &mut self.buffer) {
                Ok(ReadFile::Whole((id, mode))) => match same_kind {
                    Some(sent) if sent.id == id => return self.same(path, mode, sent.mode, &id),
                    _ if self.ids.contains(id.as_slice()) => return self.known_file(path, mode, id),
                    _ => {}
                },
                Ok(ReadFile::Vanished) => return Ok(Seen::Vanished),
                Ok(ReadFile::Other) => return Ok(Seen::Other),
                Ok(ReadFile::Moving) => return self.moving(at, path).map(|()| Seen::Told),
                Err(errno) => return self.unreadable(at, path, errno).map(|()| Seen::Told),
            }
        }
        self.send(directory, name, path, at)
    }

    /// A file whose bytes are those that were sent of it.
    fn same(&mut self, path: &[u8], mode: u32, sent_mode: u32, id: &[u8]) -> Result<Seen, Error> {
        if mode == sent_mode { Ok(Seen::Told) } else { self.known_file(path, mode, id.to_vec()) }
    }

    fn known_file(&mut self, path: &[u8], mode: u32, id: Vec<u8>) -> Result<Seen, Error> {
        let content = Content::Known(id);
        self.answer.event(&Event::File { tree: self.number, path: path.to_vec(), mode, content })?;
        Ok(Seen::Told)
    }

    fn link(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        at: Option<usize>,
    ) -> Result<Seen, Error> {
        let target = match readlinkat(directory, name) {
            Ok(target) => target.into_vec(),
            Err(Errno::ENOENT) => return Ok(Seen::Vanished),
            Err(Errno::EINVAL) => return Ok(Seen::Other),
            Err(errno) => return self.unreadable(at, path, errno).map(|()| Seen::Told),
        };
        let mut id = Id::of_blob(self.request.sha256, target.len() as u64);
        id.update(&target);
        let id = id.finish();
        let sent = at.map(|at| &self.tree.files[at]);
        if sent.is_some_and(|sent| sent.mode == MODE_LINK && sent.id == id) {
            return Ok(Seen::Told);
        }
        let content = Content::Follows(target.len() as u64);
        let (tree, path) = (self.number, path.to_vec());
        self.answer.event(&Event::File { tree, path, mode: MODE_LINK, content })?;
        self.answer.bytes(&target)?;
        self.answer.verdict(true)?;
        Ok(Seen::Told)
    }

    /// Sends the bytes of a file.
    fn send(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        path: &[u8],
        at: Option<usize>,
    ) -> Result<Seen, Error> {
        for _ in 0..TRIES {
            let (mut file, stat) = match open_file(directory, name) {
                Ok(ReadFile::Whole(opened)) => opened,
                Ok(ReadFile::Vanished) => return Ok(Seen::Vanished),
                Ok(_) => return Ok(Seen::Other),
                Err(errno) => return self.unreadable(at, path, errno).map(|()| Seen::Told),
            };
            let size = if self.tree.names_only { 0 } else { stat.st_size.unsigned_abs() };
            if let Some(reason) = self.too_large(size) {
                return self.lost(path, reason).map(|()| Seen::Told);
            }
            let (tree, content) = (self.number, Content::Follows(size));
            self.answer.event(&Event::File { tree, path: path.to_vec(), mode: mode_of(&stat), content })?;
            let failed = self.pass(&mut file, size)?;
            let is_whole = failed.is_none() && is_still(&file, &stat);
            self.answer.verdict(is_whole)?;
            match failed {
                Some(Errno::UnknownErrno) | None if !is_whole => {}
                Some(errno) => return self.unreadable(at, path, errno).map(|()| Seen::Told),
                None => return Ok(Seen::Told),
            }
        }
        self.moving(at, path).map(|()| Seen::Told)
    }

    /// Why a file of `size` bytes is not sent, where that is so.
    fn too_large(&self, size: u64) -> Option<String> {
        let all = self.answer.sent_bytes.saturating_add(size);
        if size > self.request.max_file_bytes {
            Some(format!("it has {size} bytes, and a patch may have {}", self.request.max_file_bytes))
        } else if all > self.request.max_bytes {
            Some(format!("with it more than {} bytes would have changed", self.request.max_bytes))
        } else {
            None
        }
    }

    /// Passes on `size` bytes of `file`, and zeros for what is not there. Gives what failed: `UnknownErrno` where the file is shorter.
    fn pass(&mut self, file: &mut File, size: u64) -> Result<Option<Errno>, Error> {
        let (mut left, mut failed) = (size, None);
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            let count = if failed.is_some() {
                self.buffer[..most].fill(0);
                most
            } else {
                match read(file, &mut self.buffer[..most]) {
                    Ok(0) => {
                        failed = Some(Errno::UnknownErrno);
                        continue;
                    }
                    Ok(count) => count,
                    Err(errno) => {
                        failed = Some(errno);
                        continue;
                    }
                }
            };
            self.answer.bytes(&self.buffer[..count])?;
            left -= count as u64;
        }
        Ok(failed)
    }
}
