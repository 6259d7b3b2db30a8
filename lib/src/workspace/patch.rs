//! Whether a patch that a guest made may be handed on: it is exactly what `git diff` prints, and applying it writes nothing outside
//! the checkout and nothing into its git directory.
//!
//! The grammar is strict where `git apply` is lenient (it skips what it does not know, and so may see another patch than a
//! reader does): every byte is accounted for, or the patch is refused.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::contract::error::escape_controls;

/// The largest patch, bytes.
pub const MAX_PATCH_BYTES: u64 = 1 << 30;
/// The longest line outside of content: two paths of 4096 bytes, each byte quoted as `\ooo`, and room for words.
const MAX_HEADER_LINE: usize = 2 * 4 * 4096 + 256;
/// The most files.
const MAX_FILES: usize = 1 << 20;

/// Why a patch is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// It is larger than [`MAX_PATCH_BYTES`].
    #[error("it is larger than {MAX_PATCH_BYTES} bytes")]
    TooLarge,
    /// It touches more files than [`MAX_FILES`].
    #[error("it touches more than {MAX_FILES} files")]
    TooMany,
    /// It is no output of `git diff`.
    #[error("line {line} is not what git diff prints: {shown:?}")]
    Malformed {
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
    /// After it: modes, index, then a body or the next file.
    Header,
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

/// Reads a patch as it comes.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    line: Vec<u8>,
    long: bool,
    number: u64,
    bytes: u64,
    /// Whether each path is there after the patch.
    files: BTreeMap<Vec<u8>, bool>,
    current: Vec<u8>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Start,
            line: Vec::new(),
            long: false,
            number: 0,
            bytes: 0,
            files: BTreeMap::new(),
            current: Vec::new(),
        }
    }
}

impl Scanner {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), PatchError> {
        self.bytes += piece.len() as u64;
        if self.bytes > MAX_PATCH_BYTES {
            return Err(PatchError::TooLarge);
        }
        for part in piece.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = MAX_HEADER_LINE - self.line.len();
            self.long |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.number += 1;
                let line = std::mem::take(&mut self.line);
                self.state = self.step(&line)?;
                self.line = line;
                self.line.clear();
                self.long = false;
            }
        }
        Ok(())
    }

    /// The paths that the whole patch touches.
    pub fn finish(self) -> Result<BTreeSet<Vec<u8>>, PatchError> {
        let done = matches!(self.state, State::Start | State::Header | State::Hunks(true));
        if !done || !self.line.is_empty() {
            return Err(PatchError::Truncated);
        }
        // A file or link that stays must not be a directory of another one: writing through it could leave the checkout.
        for (path, there) in &self.files {
            let parents = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
            if *there && parents.into_iter().any(|parent| self.files.get(parent) == Some(&true)) {
                return Err(PatchError::Path(shown(path)));
            }
        }
        Ok(self.files.into_keys().collect())
    }

    fn malformed(&self, line: &[u8]) -> PatchError {
        PatchError::Malformed { line: self.number, shown: shown(&line[..line.len().min(80)]) }
    }

    fn step(&mut self, line: &[u8]) -> Result<State, PatchError> {
        let content = matches!(self.state, State::Hunk(..));
        if self.long && !content {
            return Err(self.malformed(line));
        }
        let next = match self.state {
            State::Start => self.file(line)?,
            State::Header => self.header(line)?,
            State::Minus => {
                line.strip_prefix(b"+++ ").filter(|n| self.is_side(n, b'b')).map(|_| State::Hunks(false))
            }
            State::Hunks(any) => match hunk(line) {
                Some((old, new)) => Some(State::Hunk(old, new)),
                None if any && line.starts_with(b"\\ ") => Some(State::Hunks(true)),
                None if any => self.file(line)?,
                None => None,
            },
            State::Hunk(old, new) => in_hunk(line, old, new),
            State::Binary(left) => block(line).then_some(State::Block(left - 1)),
            State::Block(0) if line.is_empty() => Some(State::Start),
            State::Block(left) if line.is_empty() => Some(State::Binary(left)),
            State::Block(left) => {
                (line.len() <= 66 && line[0].is_ascii_alphabetic()).then_some(State::Block(left))
            }
        };
        match next {
            Some(State::Hunk(0, 0)) => Ok(State::Hunks(true)),
            Some(state) => Ok(state),
            None => Err(self.malformed(line)),
        }
    }

    /// `diff --git a/NAME b/NAME`.
    fn file(&mut self, line: &[u8]) -> Result<Option<State>, PatchError> {
        let Some(name) = line.strip_prefix(b"diff --git ").and_then(both_names) else { return Ok(None) };
        if !is_inside(&name) {
            return Err(PatchError::Path(shown(&name)));
        }
        if self.files.len() >= MAX_FILES {
            return Err(PatchError::TooMany);
        }
        // Two entries for one path: a change of its type, which git diff prints as a removal and an addition, in this order.
        let seen = self.files.insert(name.clone(), true);
        self.current = name;
        Ok((seen != Some(true)).then_some(State::Header))
    }

    fn header(&mut self, line: &[u8]) -> Result<Option<State>, PatchError> {
        let starts = |word: &str| line.starts_with(word.as_bytes());
        if starts("deleted file mode ") {
            self.files.insert(self.current.clone(), false);
            return Ok(Some(State::Header));
        }
        let plain = ["old mode ", "new mode ", "new file mode ", "index "];
        if plain.into_iter().any(starts) {
            return Ok(Some(State::Header));
        }
        if line == b"GIT binary patch" {
            return Ok(Some(State::Binary(2)));
        }
        if let Some(name) = line.strip_prefix(b"--- ") {
            return Ok(self.is_side(name, b'a').then_some(State::Minus));
        }
        self.file(line)
    }

    /// Whether `name` in a `---` or `+++` line is the current file, or the null device.
    fn is_side(&self, name: &[u8], side: u8) -> bool {
        // git ends a name that holds a space with a tab, for the sake of patch(1).
        let name = name.strip_suffix(b"\t").unwrap_or(name);
        let name = if name.first() == Some(&b'"') { unquote(name) } else { Some(name.to_vec()) };
        name.is_some_and(|name| {
            name == b"/dev/null" || (name.starts_with(&[side, b'/']) && name[2..] == self.current)
        })
    }
}

fn shown(path: &[u8]) -> String {
    escape_controls(&String::from_utf8_lossy(path))
}

/// `NAME` where `text` is `a/NAME b/NAME`, quoted or not.
fn both_names(text: &[u8]) -> Option<Vec<u8>> {
    let middle = text.len().checked_sub(1)? / 2;
    let (old, new) = (text.get(..middle)?, text.get(middle + 1..)?);
    let quoted = text.first() == Some(&b'"');
    let (old, new) = if quoted { (unquote(old)?, unquote(new)?) } else { (old.to_vec(), new.to_vec()) };
    let (old, new) = (old.strip_prefix(b"a/")?, new.strip_prefix(b"b/")?);
    (text[middle] == b' ' && old == new).then(|| old.to_vec())
}

/// Undoes git's quoting of a path (core.quotePath in git-config(1)).
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                b'a' => 7,
                b'b' => 8,
                b't' => 9,
                b'n' => 10,
                b'v' => 11,
                b'f' => 12,
                b'r' => 13,
                same @ (b'"' | b'\\') => same,
                high @ b'0'..=b'3' => {
                    let digit = |b: Option<u8>| b.filter(|b| (b'0'..=b'7').contains(b)).map(|b| b - b'0');
                    (high - b'0') << 6 | digit(bytes.next())? << 3 | digit(bytes.next())?
                }
                _ => return None,
            },
            other => other,
        };
        out.push(plain);
    }
    Some(out)
}

/// Whether a path stays in the checkout and out of its git directory, also where names are folded (`.GIT`, and NTFS's `git~1`).
fn is_inside(path: &[u8]) -> bool {
    let fine = |part: &[u8]| {
        let folded = part.to_ascii_lowercase();
        !matches!(folded.as_slice(), b"" | b"." | b".." | b".git" | b"git~1") && !part.contains(&0)
    };
    path.split(|b| *b == b'/').all(fine)
}

/// The lines on either side that `@@ -a,b +c,d @@` announces.
fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let text = line.strip_prefix(b"@@ -")?;
    let end = text.windows(3).position(|w| w == b" @@")?;
    let (old, new) = std::str::from_utf8(&text[..end]).ok()?.split_once(" +")?;
    let count = |range: &str| {
        let (start, count) = range.split_once(',').unwrap_or((range, "1"));
        let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
        number(start)?;
        number(count)
    };
    let counts = (count(old)?, count(new)?);
    (counts != (0, 0)).then_some(counts)
}

fn in_hunk(line: &[u8], old: u64, new: u64) -> Option<State> {
    match line.first()? {
        b' ' => Some(State::Hunk(old.checked_sub(1)?, new.checked_sub(1)?)),
        b'-' => Some(State::Hunk(old.checked_sub(1)?, new)),
        b'+' => Some(State::Hunk(old, new.checked_sub(1)?)),
        b'\\' => Some(State::Hunk(old, new)),
        _ => None,
    }
}

/// `literal N` or `delta N`.
fn block(line: &[u8]) -> bool {
    let size = line.strip_prefix(b"literal ").or_else(|| line.strip_prefix(b"delta "));
    size.is_some_and(|n| !n.is_empty() && n.len() <= 12 && n.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Result<Vec<String>, PatchError> {
        // In two ways: at once and byte by byte.
        let mut scanner = Scanner::default();
        let whole = scanner.feed(text.as_bytes()).and_then(|()| scanner.finish());
        let mut scanner = Scanner::default();
        let pieces = text.as_bytes().chunks(1).try_for_each(|piece| scanner.feed(piece));
        assert_eq!(whole, pieces.and_then(|()| scanner.finish()));
        whole.map(|paths| paths.into_iter().map(|p| String::from_utf8_lossy(&p).into_owned()).collect())
    }

    #[test]
    fn a_patch_of_every_kind_is_read() {
        let text = concat!(
            "diff --git a/a b b/a b\nindex 1..2 100644\n--- a/a b\t\n+++ b/a b\t\n@@ -1,2 +1 @@\n-x\n-+++ b/../x\n",
            "\\ No newline at end of file\n+y\n\\ No newline at end of file\n",
            "diff --git \"a/\\303\\244\\n\" \"b/\\303\\244\\n\"\nnew file mode 100644\nindex 0..1\n",
            "diff --git a/bin b/bin\nnew file mode 100644\nindex 0..1\nGIT binary patch\nliteral 2\nJcmZQz00961\n\n",
            "literal 0\nHcmV?d00001\n\n",
            "diff --git a/m b/m\nold mode 100644\nnew mode 100755\n",
            "diff --git a/t b/t\ndeleted file mode 100644\nindex 1..0\n--- a/t\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
            "diff --git a/t b/t\nnew file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/t\n@@ -0,0 +1 @@\n+x\n",
        );
        assert_eq!(scan(text).unwrap(), ["a b", "bin", "m", "t", "ä\n"]);
        assert_eq!(scan("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn paths_outside_and_in_the_git_directory_are_refused() {
        for path in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            ".git/hooks/x",
            "a/.GIT/config",
            "a//b",
            "./a",
            "git~1/x",
            "",
        ] {
            let text = format!("diff --git a/{path} b/{path}\nold mode 100644\nnew mode 100755\n");
            assert!(matches!(scan(&text), Err(PatchError::Path(_))), "{path}");
        }
        let through = "diff --git a/l b/l\nnew file mode 120000\nindex 0..1\n\
                       diff --git a/l/x b/l/x\nnew file mode 100644\nindex 0..1\n";
        assert_eq!(scan(through), Err(PatchError::Path("l/x".into())));
        let replaced = through.replace("new file mode 120000", "deleted file mode 100644");
        assert!(scan(&replaced).is_ok());
    }

    #[test]
    fn anything_but_git_diff_is_refused() {
        let head = "diff --git a/x b/x\nindex 1..2 100644\n";
        for text in [
            "hello\n".to_owned(),
            "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n".to_owned(),
            "diff --git a/x b/y\n".to_owned(),
            format!("{head}rename from x\n"),
            format!("{head}--- a/y\n"),
            format!("{head}--- a/x\n+++ b/../y\n"),
            format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n"),
            format!("{head}--- a/x\n+++ b/x\nhello\n"),
            format!("{head}Binary files a/x and b/x differ\n"),
            format!("{head}GIT binary patch\nliteral x\n"),
        ] {
            assert!(matches!(scan(&text), Err(PatchError::Malformed { .. })), "{text}");
        }
        assert_eq!(scan(&format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n")), Err(PatchError::Truncated));
        assert_eq!(scan("diff --git a/x b/x"), Err(PatchError::Truncated));
    }
}
