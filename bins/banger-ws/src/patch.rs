//! Whether a patch that a guest made may be handed on: it is exactly what `git diff` prints, and applying it writes nothing outside
//! the checkout and nothing into a directory of version control. What it does to which file is learned on the way.
//!
//! The grammar is strict where `git apply` is lenient (it skips what it does not know, and so may see another patch than a
//! reader does): every byte is accounted for, in git's own order, or the patch is refused.

mod entry;
mod hunk;
pub mod known;
mod path;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest, Sha256};
use thiserror::Error;

use banger_contract::error::escape_controls;
pub use entry::{Entry, Scanned, Status};
use hunk::{Block, Hunks, NO_NEWLINE};
pub use hunk::{hunk, in_hunk};
pub use path::{is_inside, printed, side};

/// The largest patch unless the caller says otherwise, bytes.
pub const MAX_PATCH_BYTES: u64 = 1 << 30;
/// The most that what is binary in a patch may unpack to, both sides of each file together: the time that reading it takes.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// The longest line outside of content: two paths of 4096 bytes, each byte quoted as `\ooo`, and room for words.
const MAX_HEADER_LINE: usize = 2 * 4 * 4096 + 256;
/// The most files, and the most bytes that their names may have together: what is kept of a patch while it is read.
const MAX_FILES: usize = 1 << 18;
const MAX_NAME_BYTES: usize = 24 << 20;
/// The longest target of a symbolic link that is looked at, bytes (PATH_MAX).
const MAX_TARGET: usize = 4096;

/// Why a patch is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// It is larger than allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// It touches more than is sensible.
    #[error("it touches more than {MAX_FILES} files, or names {MAX_NAME_BYTES} bytes long together")]
    TooMany,
    /// It is no output of `git diff`.
    #[error("line {line} is not what git diff prints: {shown:?}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// The line's beginning, escaped.
        shown: String,
    },
    /// It names a file as git does not.
    #[error("line {line} names a file in another way than git diff does: {shown:?}")]
    Name {
        /// Counted from 1.
        line: u64,
        /// The line's beginning, escaped.
        shown: String,
    },
    /// It ends in the middle.
    #[error("it ends in the middle of a file")]
    Truncated,
    /// It would write where it must not.
    #[error("it would write to {0:?}")]
    Path(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `diff --git`.
    Start,
    /// After the line of a file's header that this names.
    Header(Head),
    /// After `--- `.
    Minus,
    /// After `+++ ` (false), or after a whole hunk (true).
    Hunks(bool),
    /// In a hunk: lines left on the old and the new side.
    Hunk(u64, u64),
    /// After `GIT binary patch` or its first half: blocks left.
    Binary(u8),
    /// In a block: blocks left after it.
    Block(u8),
}

/// The lines of a file's header, in the order in which git prints them (fill_metainfo and builtin_diff in diff.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// `diff --git a/X b/Y`.
    Names,
    /// `old mode`.
    OldMode,
    /// `new mode`.
    NewMode,
    /// `new file mode`.
    Created,
    /// `deleted file mode`.
    Deleted,
    /// `similarity index`.
    Similarity,
    /// `rename from`.
    From,
    /// `rename to`.
    To,
    /// `index`.
    Index,
}

/// Whether a path is there before and after the patch, so far as its entries say.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    gone: bool,
    there: bool,
}

/// Reads a patch as it comes.
#[derive(Debug)]
pub struct Scanner {
    limit: u64,
    state: State,
    line: Vec<u8>,
    long: bool,
    number: u64,
    bytes: u64,
    digest: Sha256,
    fates: BTreeMap<Vec<u8>, Fate>,
    name_bytes: usize,
    entries: Vec<Entry>,
    /// What follows `diff --git `, and `rename from `, of the current file.
    names: Vec<u8>,
    from: Vec<u8>,
    /// How far the hunks of the current file have come.
    hunks: Hunks,
    /// The block of binary that is being read, and what all of them unpack to, bytes.
    block: Option<Block>,
    unpacked: u64,
    /// Where the current line and the current file began.
    line_begun: u64,
    begun: u64,
}

/// Reads the patch in `from` to its end, as everybody who is to take it would. It may have `limit` bytes.
///
/// # Errors
/// It cannot be read, or it is not a patch that may be handed on.
pub fn scan(from: &mut impl Read, limit: u64) -> io::Result<Result<Scanned, PatchError>> {
    let mut scanner = Scanner::new(limit);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let fed = match from.read(&mut buffer)? {
            0 => return Ok(scanner.finish()),
            count => scanner.feed(&buffer[..count]),
        };
        if let Err(error) = fed {
            return Ok(Err(error));
        }
    }
}

impl Scanner {
    /// For a patch of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            state: State::Start,
            line: Vec::new(),
            long: false,
            number: 0,
            bytes: 0,
            digest: Sha256::new(),
            fates: BTreeMap::new(),
            name_bytes: 0,
            entries: Vec::new(),
            names: Vec::new(),
            from: Vec::new(),
            hunks: Hunks::default(),
            block: None,
            unpacked: 0,
            line_begun: 0,
            begun: 0,
        }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), PatchError> {
        if self.bytes + piece.len() as u64 > self.limit {
            return Err(PatchError::TooLarge(self.limit));
        }
        self.digest.update(piece);
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = MAX_HEADER_LINE - self.line.len();
            self.long |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.bytes += part.len() as u64;
            if ended {
                self.number += 1;
                let line = std::mem::take(&mut self.line);
                self.state = self.step(&line)?;
                self.line = line;
                self.line.clear();
                self.long = false;
                self.line_begun = self.bytes;
            }
        }
        Ok(())
    }

    /// What the whole patch does.
    pub fn finish(mut self) -> Result<Scanned, PatchError> {
        let done = match self.state {
            State::Start | State::Hunks(true) => true,
            State::Header(head) => self.end_header(head)?,
            _ => false,
        };
        if !done || !self.line.is_empty() {
            return Err(PatchError::Truncated);
        }
        self.close();
        // A file or link that stays must not be a directory of another one: writing through it could leave the checkout.
        for (path, _) in self.fates.iter().filter(|(_, fate)| fate.there) {
            let parents = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
            if parents.into_iter().any(|parent| self.fates.get(parent).is_some_and(|fate| fate.there)) {
                return Err(PatchError::Path(shown(path)));
            }
        }
        Ok(Scanned { entries: self.entries, bytes: self.bytes, sha256: self.digest.finalize().into() })
    }

    fn malformed(&self, line: &[u8]) -> PatchError {
        let (number, shown) = (self.number, shown(&line[..line.len().min(80)]));
        let names = ["diff --git ", "rename from ", "rename to ", "--- ", "+++ "];
        if !self.long && names.iter().any(|word| line.starts_with(word.as_bytes())) {
            return PatchError::Name { line: number, shown };
        }
        PatchError::Malformed { line: number, shown }
    }

    /// The file that is being read.
    fn entry(&mut self) -> &mut Entry {
        self.entries.last_mut().expect("no state but Start is without a file")
    }

    /// Notes how much the file took.
    fn close(&mut self) {
        let bytes = self.line_begun - self.begun;
        self.begun = self.line_begun;
        if let Some(entry) = self.entries.last_mut() {
            entry.bytes = bytes;
        }
    }

    fn step(&mut self, line: &[u8]) -> Result<State, PatchError> {
        let content = matches!(self.state, State::Hunk(..));
        if self.long && !content {
            return Err(self.malformed(line));
        }
        let next = match self.state {
            State::Start => self.file(line)?,
            State::Header(head) => self.header(head, line)?,
            State::Minus => self.plus(line).then_some(State::Hunks(false)),
            State::Hunks(any) => match hunk(line) {
                Some((old, new)) => self.fits(any, old, new).then_some(State::Hunk(old, new)),
                None if any && line == NO_NEWLINE => {
                    self.hunks.end_side(line, 0, 0).then_some(State::Hunks(true))
                }
                None if any => self.file(line)?,
                None => None,
            },
            State::Hunk(old, new) => {
                self.count(line);
                self.hunks.take(line, old, new).map(|(old, new)| State::Hunk(old, new))
            }
            State::Binary(left) => self.begin_block(line)?.then_some(State::Block(left - 1)),
            State::Block(left) if line.is_empty() => {
                let next = if left == 0 { State::Start } else { State::Binary(left) };
                self.block.as_mut().is_some_and(Block::may_end).then_some(next)
            }
            State::Block(left) => self.block.as_mut().and_then(|b| b.take(line)).map(|()| State::Block(left)),
        };
        match next {
            Some(State::Hunk(0, 0)) => Ok(State::Hunks(true)),
            Some(state) => Ok(state),
            None => Err(self.malformed(line)),
        }
    }

    /// `diff --git a/NAME b/NAME`: the next file.
    fn file(&mut self, line: &[u8]) -> Result<Option<State>, PatchError> {
        let Some(names) = line.strip_prefix(b"diff --git ") else { return Ok(None) };
        if names.iter().any(u8::is_ascii_control) {
            return Ok(None);
        }
        self.close();
        if self.entries.len() >= MAX_FILES {
            return Err(PatchError::TooMany);
        }
        // Two different names, which only a rename has, wait for its own lines.
        let path = path::both_names(names).unwrap_or_default();
        self.names = names.to_vec();
        self.hunks = Hunks::default();
        self.entries.push(Entry::at(path));
        Ok(Some(State::Header(Head::Names)))
    }

    /// Takes note of a path that is gone after the patch, or there; gives whether the patch may say so. Two entries name one path
    /// only where its type changes, which git diff prints as a removal and an addition, in this order.
    fn settle(&mut self, path: &[u8], there: bool) -> Result<bool, PatchError> {
        if !path::is_inside(path) {
            return Err(PatchError::Path(shown(path)));
        }
        self.name_bytes += path.len();
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(PatchError::TooMany);
        }
        let fate = self.fates.entry(path.to_vec()).or_default();
        let fresh = if there { !fate.there } else { !fate.there && !fate.gone };
        *fate = if there { Fate { there, ..*fate } } else { Fate { gone: true, ..*fate } };
        Ok(fresh)
    }

    /// The path that the file's header names on both sides, settled.
    fn settle_own(&mut self, status: Status, next: Head) -> Result<Option<State>, PatchError> {
        let path = self.entry().path.clone();
        if path.is_empty() {
            return match path::both_names(&self.names) {
                // `a/ b/`: an empty name rather than two different ones.
                Some(_) => Err(PatchError::Path(String::new())),
                None => Ok(None),
            };
        }
        let fresh = match status {
            // What is changed was there before and no other entry may have touched it.
            Status::Modified => self.settle(&path, false)? && self.settle(&path, true)?,
            _ => self.settle(&path, status == Status::Added)?,
        };
        self.entry().status = status;
        Ok(fresh.then_some(State::Header(next)))
    }

    fn header(&mut self, head: Head, line: &[u8]) -> Result<Option<State>, PatchError> {
        let after = |word: &str| line.strip_prefix(word.as_bytes());
        let go = |next: Head| Ok(Some(State::Header(next)));
        match head {
            Head::Names => {
                if let Some(mode) = after("new file mode ").and_then(mode) {
                    self.entry().new_mode = Some(mode);
                    return self.settle_own(Status::Added, Head::Created);
                }
                if let Some(mode) = after("deleted file mode ").and_then(mode) {
                    self.entry().old_mode = Some(mode);
                    return self.settle_own(Status::Deleted, Head::Deleted);
                }
                if let Some(mode) = after("old mode ").and_then(mode) {
                    self.entry().old_mode = Some(mode);
                    return go(Head::OldMode);
                }
            }
            Head::OldMode => {
                let Some(mode) = after("new mode ").and_then(mode) else { return Ok(None) };
                // A change of type is a removal and an addition, never this.
                let alike = mode & 0o170_000 == 0o100_000
                    && self.entry().old_mode.is_some_and(|old| old & 0o170_000 == 0o100_000 && old != mode);
                self.entry().new_mode = Some(mode);
                return Ok(alike.then_some(State::Header(Head::NewMode)));
            }
            Head::Similarity => {
                let Some(from) = after("rename from ") else { return Ok(None) };
                self.from = from.to_vec();
                return go(Head::From);
            }
            Head::From => {
                let Some(to) = after("rename to ") else { return Ok(None) };
                return self.rename(to);
            }
            Head::NewMode | Head::Created | Head::Deleted | Head::To | Head::Index => {}
        }
        if matches!(head, Head::Names | Head::NewMode) && after("similarity index ").is_some_and(percentage) {
            return go(Head::Similarity);
        }
        if head != Head::Index
            && let Some(index) = after("index ")
        {
            return self.index(head, index);
        }
        if head == Head::Index {
            if line == b"GIT binary patch" && !self.has_target() {
                self.entry().binary = true;
                return Ok(Some(State::Binary(2)));
            }
            if let Some(name) = after("--- ") {
                return Ok(self.minus(name).then_some(State::Minus));
            }
        }
        if self.end_header(head)? { self.file(line) } else { Ok(None) }
    }

    /// Whether a file may end with the line of its header that `head` names.
    fn end_header(&mut self, head: Head) -> Result<bool, PatchError> {
        match head {
            // Only now it is known to be no rename: it is a change of mode alone.
            Head::NewMode => Ok(self.settle_own(Status::Modified, head)?.is_some()),
            Head::To => Ok(true),
            // An empty file that comes or goes. What changes its content shows how.
            Head::Index => Ok(matches!(self.entry().status, Status::Added | Status::Deleted)),
            _ => Ok(false),
        }
    }

    /// `rename to TO`, after `rename from`: both names are known now, and they must be those of the header's first line.
    fn rename(&mut self, to: &[u8]) -> Result<Option<State>, PatchError> {
        let from = std::mem::take(&mut self.from);
        if !path::are_names(&self.names, &from, to) {
            return Ok(None);
        }
        let (Some(from), Some(to)) = (path::plain(&from), path::plain(to)) else { return Ok(None) };
        let fresh = from != to && self.settle(&from, false)?;
        // Where it goes nothing was: git diff makes no rename onto a path that another entry removes.
        let free = !self.fates.contains_key(&to);
        if !(self.settle(&to, true)? && fresh && free) {
            return Ok(None);
        }
        let entry = self.entry();
        (entry.path, entry.from, entry.status) = (to, Some(from), Status::Renamed);
        Ok(Some(State::Header(Head::To)))
    }

    /// `index OLD..NEW[ MODE]`; the mode stands here where it does not change.
    fn index(&mut self, head: Head, text: &[u8]) -> Result<Option<State>, PatchError> {
        let space = text.iter().position(|b| *b == b' ');
        let (ids, same) = space.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
        let fine = ids.windows(2).position(|w| w == b"..").is_some_and(|at| {
            let (old, new) = (&ids[..at], &ids[at + 2..]);
            let is_id = |id: &[u8]| {
                (1..=64).contains(&id.len()) && id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            let is_nothing = |id: &[u8]| id.iter().all(|b| *b == b'0');
            let (from_nothing, to_nothing) = (head == Head::Created, head == Head::Deleted);
            is_id(old)
                && is_id(new)
                && old.len() == new.len()
                && (is_nothing(old), is_nothing(new)) == (from_nothing, to_nothing)
        });
        let known = self.entry().old_mode.or(self.entry().new_mode).is_some();
        let same = match same.map(mode) {
            Some(None) => return Ok(None),
            Some(Some(mode)) => Some(mode),
            None => None,
        };
        if !fine || known == same.is_some() {
            return Ok(None);
        }
        if let Some(mode) = same {
            (self.entry().old_mode, self.entry().new_mode) = (Some(mode), Some(mode));
        }
        match head {
            Head::Names | Head::NewMode => self.settle_own(Status::Modified, Head::Index),
            _ => Ok(Some(State::Header(Head::Index))),
        }
    }

    /// Whether the content is a link's target or a submodule's commit.
    fn has_target(&mut self) -> bool {
        let entry = self.entry();
        entry.is_submodule() || entry.is_symlink() || entry.old_mode == Some(0o120_000)
    }

    /// Whether `name` is what stands behind `--- ` for the current file.
    fn minus(&mut self, name: &[u8]) -> bool {
        let entry = self.entry();
        let path = entry.from.as_ref().unwrap_or(&entry.path);
        if entry.status == Status::Added { name == b"/dev/null" } else { is_side(name, b"a/", path) }
    }

    /// Whether `line` is the `+++ ` of the current file.
    fn plus(&mut self, line: &[u8]) -> bool {
        let Some(name) = line.strip_prefix(b"+++ ") else { return false };
        let entry = self.entry();
        if entry.status == Status::Deleted { name == b"/dev/null" } else { is_side(name, b"b/", &entry.path) }
    }

    /// Whether `line` begins a block of binary.
    fn begin_block(&mut self, line: &[u8]) -> Result<bool, PatchError> {
        self.block = Block::begin(line);
        self.unpacked = self.unpacked.saturating_add(self.block.as_ref().map_or(0, |block| block.size));
        if self.unpacked > MAX_UNPACKED_BYTES {
            return Err(PatchError::TooLarge(MAX_UNPACKED_BYTES));
        }
        Ok(self.block.is_some())
    }

    /// Whether a hunk of `old` and `new` lines may come now; `any` came before. What makes a file or removes it is one hunk of one side.
    fn fits(&mut self, any: bool, old: u64, new: u64) -> bool {
        let fits = match self.entry().status {
            Status::Added => !any && old == 0,
            Status::Deleted => !any && new == 0,
            Status::Modified | Status::Renamed => true,
        };
        fits && self.hunks.begin()
    }

    /// Counts a line of a hunk, and keeps what a link's target or a submodule's commit is to be.
    fn count(&mut self, line: &[u8]) {
        let keeps = self.has_target();
        let entry = self.entry();
        match line.first() {
            Some(b'+') => {
                entry.additions += 1;
                let room = MAX_TARGET.saturating_sub(entry.target.len());
                if keeps {
                    let kept = [if entry.target.is_empty() { &b""[..] } else { b"\n" }, &line[1..]].concat();
                    let kept = &kept[..kept.len().min(room)];
                    entry.target.extend_from_slice(kept);
                    self.name_bytes += kept.len();
                }
            }
            Some(b'-') => entry.deletions += 1,
            _ => {}
        }
    }
}

/// Whether `name` is `path` on one side; git ends a name that holds a space, and no other, with a tab, for the sake of patch(1).
fn is_side(name: &[u8], prefix: &[u8], path: &[u8]) -> bool {
    let (bare, ended) = name.strip_suffix(b"\t").map_or((name, false), |bare| (bare, true));
    ended == bare.contains(&b' ')
        && path::plain(bare).is_some_and(|name| name.strip_prefix(prefix) == Some(path))
}

/// A mode that git gives to what it tracks.
fn mode(text: &[u8]) -> Option<u32> {
    match text {
        b"100644" => Some(0o100_644),
        b"100755" => Some(0o100_755),
        b"120000" => Some(0o120_000),
        b"160000" => Some(0o160_000),
        _ => None,
    }
}

/// `N%`.
fn percentage(text: &[u8]) -> bool {
    let Some(number) = text.strip_suffix(b"%") else { return false };
    let written = |n: &u8| n.to_string().as_bytes() == number;
    (0..=100).any(|n| written(&n))
}

pub(super) fn shown(path: &[u8]) -> String {
    escape_controls(&String::from_utf8_lossy(path))
}

/// `path` on one line as git prints it, quoted where it must be.
pub fn quoted(path: &[u8]) -> String {
    path::quoted(path)
}
