//! git's index file (gitformat-index(5)), read here: a program that prints it costs more than all that is asked of it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Stat;

use super::checkout;
use super::error::WorkspaceError;
use super::object::Hasher;

/// What an entry has of the file's status: ten numbers of 32 bits.
const STAT: usize = 40;
/// Where in that the modification time, the mode and the size are.
const MTIME: usize = 8;
const MODE: usize = 24;
const SIZE: usize = 36;
/// Extensions that point at other files or processes, or change what entries mean.
const FOREIGN: [&[u8]; 4] = [b"link", b"sdir", b"FSMN", b"UNTR"];

/// The id of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    length: u8,
    bytes: [u8; 32],
}

impl ObjectId {
    fn new(from: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..from.len()].copy_from_slice(from);
        Self { length: from.len() as u8, bytes }
    }

    /// Of 40 or 64 hexadecimal digits.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let (pairs, []) = hex.as_chunks::<2>() else { return None };
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>()?;
        matches!(bytes.len(), 20 | 32).then(|| Self::new(&bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The path, from the root of the working tree.
    pub path: Vec<u8>,
    /// What it stands for.
    pub state: State,
    /// Whether git is told not to look at the file (assume-unchanged), and calls it unchanged, whatever it is.
    pub assumed: bool,
    /// Whether a sparse checkout leaves it out (skip-worktree).
    pub skipped: bool,
    stat: [u8; STAT],
}

/// Mode, object and, where a merge is under way, the side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The mode that git keeps.
    pub mode: u32,
    /// The object.
    pub object: ObjectId,
    /// 0, or 1 to 3 in a merge.
    pub stage: u8,
}

impl Entry {
    /// Whether it is a submodule.
    pub fn is_link(&self) -> bool {
        self.state.mode == 0o160_000
    }

    /// Size of the file as git saw it last, or as [`Index::stamp`] has it; 32 bits of it.
    pub fn size(&self) -> u32 {
        word(&self.stat, SIZE)
    }

    /// Its modification time, seconds and nanoseconds.
    pub fn modified(&self) -> (u32, u32) {
        (word(&self.stat, MTIME), word(&self.stat, MTIME + 4))
    }

    /// Whether `stat` is that of the file as it was then, by all that an index has of it.
    pub fn is_as(&self, stat: &Stat) -> bool {
        self.stat == numbers(stat, self.state.mode)
    }

    /// Lets it stand for another file than git says.
    pub fn set(&mut self, mode: u32, object: ObjectId) {
        (self.state.mode, self.state.object) = (mode, object);
        self.stat[MODE..MODE + 4].copy_from_slice(&mode.to_be_bytes());
    }

    /// As `git ls-files -s -z` prints it and `git update-index -z --index-info` reads it.
    pub fn line(&self) -> Vec<u8> {
        let State { mode, object, stage } = self.state;
        [format!("{mode:06o} {object} {stage}\t").as_bytes(), &self.path, b"\0"].concat()
    }
}

/// What an index has of `stat`; the mode is git's own.
fn numbers(stat: &Stat, mode: u32) -> [u8; STAT] {
    let words = [
        stat.st_ctime as u32,
        stat.st_ctime_nsec as u32,
        stat.st_mtime as u32,
        stat.st_mtime_nsec as u32,
        stat.st_dev as u32,
        stat.st_ino as u32,
        mode,
        stat.st_uid,
        stat.st_gid,
        stat.st_size as u32,
    ];
    let mut bytes = [0; STAT];
    for (at, word) in words.into_iter().enumerate() {
        bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

/// An index.
#[derive(Debug, Default)]
pub struct Index {
    /// Its entries, sorted by path and stage.
    pub entries: Vec<Entry>,
    /// Whether something in it has a meaning on this host only, or one that is not known here.
    pub is_foreign: bool,
}

impl Index {
    /// Reads the file at `path`; one that is not there, or of no bytes, is empty.
    pub fn read(path: &Path, object_format: &str) -> Result<Self, WorkspaceError> {
        let bytes = match fs::read(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(WorkspaceError::io("read", path))?,
        };
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "it is not an index of git's");
        let parsed = Self::parse(&bytes, if object_format == "sha1" { 20 } else { 32 });
        parsed.ok_or_else(|| WorkspaceError::io("read", path)(broken()))
    }

    fn parse(bytes: &[u8], id_length: usize) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let version = word(bytes, 4);
        if !bytes.starts_with(b"DIRC") || !(2..=4).contains(&version) {
            return None;
        }
        let end = bytes.len().checked_sub(id_length)?;
        let mut rest = bytes.get(12..end)?;
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..word(bytes, 8) {
            let before = entries.last().map_or(&[][..], |entry| &entry.path);
            let (entry, length) = entry(rest, version, id_length, before)?;
            entries.push(entry);
            rest = rest.get(length..)?;
        }
        let mut is_foreign = false;
        while !rest.is_empty() {
            let name = rest.get(..4)?;
            is_foreign |= FOREIGN.contains(&name) || !name[0].is_ascii_uppercase();
            rest = rest.get(8 + word(rest, 4) as usize..)?;
        }
        Some(Self { entries, is_foreign })
    }

    /// Has git read the files again, in the index that `bytes` are, whose entries are in `doubt`: it compares with the size 0 as with none.
    /// `None` where there is no such entry.
    pub fn smudge(
        mut bytes: Vec<u8>,
        object_format: &str,
        mut doubt: impl FnMut(&Entry) -> Result<bool, WorkspaceError>,
    ) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let id_length = if object_format == "sha1" { 20 } else { 32 };
        let (version, count) = (word(&bytes, 4), word(&bytes, 8));
        let (mut at, mut before, mut any) = (12, Vec::new(), false);
        for _ in 0..count {
            let Some((entry, length)) = entry(&bytes[at..], version, id_length, &before) else { break };
            if doubt(&entry)? {
                bytes[at + SIZE..at + STAT].fill(0);
                any = true;
            }
            (at, before) = (at + length, entry.path);
        }
        let end = bytes.len().saturating_sub(id_length);
        // Without one (index.skipHash) it stays without.
        if any && bytes[end..].iter().any(|byte| *byte != 0) {
            let mut hasher = Hasher::bare(object_format != "sha1");
            hasher.update(&bytes[..end]);
            bytes[end..].copy_from_slice(&hasher.finish());
        }
        Ok(any.then_some(bytes))
    }

    /// Takes over of the files `there`, which are sorted, what they were when they were looked at; what else there is an entry of
    /// counts as not there.
    pub fn stamp(&mut self, there: &[checkout::Entry]) {
        let mut there = there.iter().peekable();
        for entry in &mut self.entries {
            let path = |file: &checkout::Entry| file.path.as_os_str().as_bytes().cmp(&entry.path);
            while there.next_if(|file| path(file).is_lt()).is_some() {}
            let found = there.peek().filter(|file| path(file).is_eq());
            // git does not look at a file that it takes for left out, either.
            entry.assumed |= entry.skipped;
            entry.skipped = found.is_none() && !entry.is_link();
            entry.stat = found.map_or([0; STAT], |file| numbers(&file.stat, entry.state.mode));
        }
    }

    /// All of it as a file of git's.
    pub fn to_bytes(&self) -> Vec<u8> {
        write(self.entries.iter().map(|entry| (entry, &entry.stat)))
    }

    /// The entries of `path`: one, several where a merge is under way, or none.
    pub fn of(&self, path: &[u8]) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.path.as_slice() < path);
        let end = start + self.entries[start..].partition_point(|entry| entry.path == path);
        &self.entries[start..end]
    }

    /// Whether there is an entry of `path`.
    pub fn has(&self, path: &[u8]) -> bool {
        !self.of(path).is_empty()
    }

    /// The paths whose entries are others than in `other`, by `differ`; sorted.
    pub fn differing<'a>(
        &'a self,
        other: &'a Self,
        differ: impl Fn(&[Entry], &[Entry]) -> bool,
    ) -> Vec<&'a [u8]> {
        let (mut left, mut right) = (self.entries.as_slice(), other.entries.as_slice());
        let mut paths = Vec::new();
        while let Some(path) = [left.first(), right.first()].into_iter().flatten().map(|e| &*e.path).min() {
            let count = |entries: &[Entry]| entries.iter().take_while(|entry| entry.path == path).count();
            let (of_left, of_right) = (left.split_at(count(left)), right.split_at(count(right)));
            if differ(of_left.0, of_right.0) {
                paths.push(path);
            }
            (left, right) = (of_left.1, of_right.1);
        }
        paths
    }
}

/// The entries, each with what is known of its file, as a file of git's: version 3 where one is skipped, else 2; without a checksum, which git does not look at.
fn write<'a>(entries: impl Iterator<Item = (&'a Entry, &'a [u8; STAT])>) -> Vec<u8> {
    let (mut out, mut count) = (b"DIRC\0\0\0\x02\0\0\0\0".to_vec(), 0_u32);
    let mut id_length = 20;
    for (entry, stat) in entries {
        count += 1;
        let start = out.len();
        let id = entry.state.object;
        id_length = id.as_bytes().len();
        out.extend_from_slice(stat);
        // A submodule or a file that is not there still has its mode.
        out[start + MODE..start + MODE + 4].copy_from_slice(&entry.state.mode.to_be_bytes());
        out.extend_from_slice(id.as_bytes());
        let extended = if entry.skipped { 0x4000 } else { 0 };
        let flags = entry.path.len().min(0xfff) as u16 | u16::from(entry.state.stage) << 12 | extended;
        out.extend_from_slice(&flags.to_be_bytes());
        if entry.skipped {
            out[7] = 3;
            out.extend_from_slice(&0x4000_u16.to_be_bytes());
        }
        out.extend_from_slice(&entry.path);
        let length = (out.len() - start + 8) & !7;
        out.resize(start + length, 0);
    }
    out[8..12].copy_from_slice(&count.to_be_bytes());
    out.resize(out.len() + id_length, 0);
    out
}

/// Whether entries of one path stand for different things.
pub fn differ(one: &[Entry], other: &[Entry]) -> bool {
    !one.iter().map(|entry| entry.state).eq(other.iter().map(|entry| entry.state))
}

/// Reads the entry that `bytes` begin with; gives its length, too.
fn entry(bytes: &[u8], version: u32, id_length: usize, before: &[u8]) -> Option<(Entry, usize)> {
    let mut at = STAT + id_length + 2;
    let stat: [u8; STAT] = bytes.get(..STAT)?.try_into().ok()?;
    let object = ObjectId::new(bytes.get(STAT..STAT + id_length)?);
    let flags = u16::from_be_bytes([*bytes.get(at - 2)?, *bytes.get(at - 1)?]);
    let mut more = 0;
    if flags & 0x4000 != 0 {
        more = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
        at += 2;
    }
    let mut path = Vec::new();
    if version == 4 {
        let (cut, length) = offset(bytes.get(at..)?)?;
        path.extend_from_slice(before.get(..before.len().checked_sub(cut)?)?);
        at += length;
    }
    let length = bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
    path.extend_from_slice(&bytes[at..at + length]);
    // Before version 4 entries are filled up with 1 to 8 NULs to a multiple of 8 bytes.
    let end = if version == 4 { at + length + 1 } else { (at + length + 8) & !7 };
    let stage = (flags >> 12 & 3) as u8;
    let state = State { mode: word(&stat, MODE), object, stage };
    Some((Entry { path, state, assumed: flags & 0x8000 != 0, skipped: more & 0x4000 != 0, stat }, end))
}

/// A number as an index of version 4 has it, and its length.
fn offset(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value = value << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
        value += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::process::exec::Exec;

    fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
        Exec::new("git").current_dir(dir).args(args).run().unwrap()
    }

    fn lines(index: &Index) -> Vec<u8> {
        index.entries.iter().flat_map(Entry::line).collect()
    }

    #[test]
    fn every_version_is_read_as_git_reads_it() {
        for format in ["sha1", "sha256"] {
            let temp = tempfile::tempdir().unwrap();
            let dir = temp.path();
            git(dir, &["init", "-q", &format!("--object-format={format}")]);
            let names = ["a", "a/b", "abcdefgh", "d/e/f", "d/e/ff", "new\nline", "ä", "z"];
            for name in names.iter().filter(|name| **name != "a") {
                fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
                fs::write(dir.join(name), name).unwrap();
            }
            fs::write(dir.join("x".repeat(200)), "").unwrap();
            git(dir, &["add", "-A"]);
            fs::write(dir.join("intended"), "").unwrap();
            git(dir, &["add", "-N", "intended"]);
            git(dir, &["update-index", "--skip-worktree", "z"]);
            git(dir, &["update-index", "--assume-unchanged", "ä"]);
            for version in ["2", "4"] {
                git(dir, &["update-index", "--index-version", version]);
                let file = dir.join(".git/index");
                let index = Index::read(&file, format).unwrap();
                assert_eq!(lines(&index), git(dir, &["ls-files", "-s", "-z"]), "{version}");
                let flagged = |of: &dyn Fn(&Entry) -> bool| {
                    let found = index.entries.iter().filter(|entry| of(entry));
                    found.map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect::<Vec<_>>()
                };
                assert_eq!(
                    (flagged(&|e| e.skipped), flagged(&|e| e.assumed)),
                    (vec!["z".into()], vec!["ä".into()])
                );
                assert!(!index.is_foreign && index.has(b"a/b") && !index.has(b"a"));
                assert_eq!(index.of(b"a/b")[0].size(), 3);
                // Cut short anywhere it is refused, not taken for a smaller one.
                let bytes = fs::read(&file).unwrap();
                for end in 1..bytes.len() {
                    let id_length = if format == "sha1" { 20 } else { 32 };
                    let parsed = Index::parse(&bytes[..end], id_length);
                    assert!(parsed.is_none_or(|index| index.entries.len() == names.len() + 1), "{end}");
                }
            }
            git(dir, &["update-index", "--split-index"]);
            assert!(Index::read(&dir.join(".git/index"), format).unwrap().is_foreign);
        }
    }
}
