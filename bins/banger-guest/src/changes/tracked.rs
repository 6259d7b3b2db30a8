//! What the guest's git tracks, by its index (gitformat-index(5)): a file that was added in spite of the rules is wanted. Nothing else is taken
//! from there, and nothing is left out by it: an index that is not there, or says nothing of use, changes nothing.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::disk::read_file;

/// The largest file `.git` that is read, which says where the git directory is, bytes.
const MAX_GIT_FILE: u64 = 16 << 10;
/// The largest index that is read, bytes.
const MAX_INDEX: u64 = 256 << 20;
/// What an entry has before its id: ten numbers of 32 bits.
const STAT: usize = 40;

/// Paths, and the directories that they are in.
#[derive(Debug, Default)]
pub struct Tracked {
    paths: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
}

impl Tracked {
    /// Of the repository in the directory `prefix` of the workspace.
    pub fn read(prefix: &[u8], sha256: bool) -> Self {
        let root = PathBuf::from(OsString::from_vec(if prefix.is_empty() {
            b".".to_vec()
        } else {
            prefix.to_vec()
        }));
        let mut git_dir = root.join(".git");
        if let Some(text) = read_file(&git_dir, MAX_GIT_FILE)
            && let Some(place) = text.strip_prefix(b"gitdir: ")
        {
            let place = place.strip_suffix(b"\n").unwrap_or(place);
            git_dir = root.join(OsString::from_vec(place.to_vec()));
        }
        let bytes = read_file(&git_dir.join("index"), MAX_INDEX).unwrap_or_default();
        Self::of(&bytes, if sha256 { 32 } else { 20 })
    }

    fn of(bytes: &[u8], id_length: usize) -> Self {
        let mut all = Self::default();
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let (Some(version @ 2..=4), Some(count), true) = (number(4), number(8), bytes.starts_with(b"DIRC"))
        else {
            return all;
        };
        let (mut rest, mut path) = (&bytes[12..], Vec::new());
        for _ in 0..count {
            let Some((length, next)) = entry(rest, version, id_length, &path) else { break };
            path = next;
            rest = rest.get(length..).unwrap_or_default();
            for (at, _) in path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/') {
                if !all.directories.insert(path[..at].to_vec()) {
                    break;
                }
            }
            all.paths.insert(path.clone());
        }
        all
    }

    /// Whether `path` is tracked.
    pub fn is_one(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    /// Whether something below the directory `path` is.
    pub fn is_below(&self, path: &[u8]) -> bool {
        self.directories.contains(path)
    }
}

/// How long the first entry of `bytes` is, and its path; the path of the one before it is `before`.
fn entry(bytes: &[u8], version: u32, id_length: usize, before: &[u8]) -> Option<(usize, Vec<u8>)> {
    let flags = STAT + id_length;
    let is_extended = bytes.get(flags)? & 0x40 != 0;
    let mut at = flags + if is_extended && version > 2 { 4 } else { 2 };
    let mut path = Vec::new();
    if version == 4 {
        // How much of the path before is not this one's: a number in base 128, each further digit one more than it says.
        let mut strip = usize::from(bytes.get(at)? & 0x7f);
        while bytes.get(at)? & 0x80 != 0 {
            at += 1;
            strip = ((strip + 1) << 7) | usize::from(bytes.get(at)? & 0x7f);
        }
        at += 1;
        path.extend_from_slice(&before[..before.len().checked_sub(strip)?]);
    }
    let length = bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
    path.extend_from_slice(&bytes[at..at + length]);
    let end = at + length;
    Some((if version == 4 { end + 1 } else { (end + 8) & !7 }, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with one entry, as `git add` writes it.
    fn index(version: u8, paths: &[&[u8]]) -> Vec<u8> {
        let mut out = [b"DIRC\0\0\0", &[version][..], &(paths.len() as u32).to_be_bytes()].concat();
        let mut before: &[u8] = b"";
        for path in paths {
            let start = out.len();
            out.extend([0; 60]);
            out.extend((path.len() as u16).to_be_bytes());
            if version == 4 {
                let common = path.iter().zip(before).take_while(|(one, other)| one == other).count();
                out.push((before.len() - common) as u8);
                out.extend(&path[common..]);
                out.push(0);
            } else {
                out.extend(*path);
                let length = (out.len() - start + 8) & !7;
                out.resize(start + length, 0);
            }
            before = path;
        }
        out
    }

    #[test]
    fn the_paths_of_an_index_are_read_and_garbage_has_none() {
        for version in [2, 4] {
            let bytes = index(version, &[b"a", b"build/deep/x.o", b"build/deep/y.o"]);
            let tracked = Tracked::of(&bytes, 20);
            assert!(
                tracked.is_one(b"build/deep/y.o") && tracked.is_one(b"a") && !tracked.is_one(b"build"),
                "{version}"
            );
            assert!(tracked.is_below(b"build") && tracked.is_below(b"build/deep") && !tracked.is_below(b"a"));
            for end in 0..bytes.len() {
                Tracked::of(&bytes[..end], 20);
            }
        }
        assert!(Tracked::of(b"not an index", 20).paths.is_empty());
    }
}
