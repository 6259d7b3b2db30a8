//! Large files that are byte for byte an object of git's travel once, in the pack, and the guest makes them from there: encrypting and
//! receiving the same bytes twice costs more than copying them, most of all in an emulated guest.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_host::git::{self, Git};

use crate::checkout::{Checkout, Entry};
use crate::error::WorkspaceError;
use crate::index::Index;

/// From which size on it is worth it, bytes.
const MIN_SIZE: i64 = 1 << 20;
/// The script, from the root of the workspace.
pub const SCRIPT: &str = ".git/banger-fill";
/// The list of objects that it reads, from a git directory.
pub const LIST: &str = "banger-list";
/// How much of a command line holds paths, bytes.
const MAX_WORDS: usize = 32 << 10;

/// Reads one file from what `git cat-file --batch` says.
const FUNCTION: &[u8] =
    b"f() { read -r o t n && [ \"$t\" = blob ] && head -c \"$n\" >\"$1\" && read -r o; }\n";

/// Whether the file is large enough.
pub fn is_worth_it(entry: &Entry) -> bool {
    entry.stat.st_size >= MIN_SIZE && !entry.is_symlink()
}

/// Gives the large ones of `entries` the objects that git has made of them, by the `tree` of the prepared commit.
pub fn choose(entries: &mut [Entry], tree: &Index) {
    for entry in entries.iter_mut().filter(|entry| is_worth_it(entry)) {
        let known = tree.of(entry.path.as_os_str().as_bytes()).first();
        // Of a file that git is told not to look at nobody knows whether it is its object.
        let known = known.filter(|known| !known.assumed && !known.is_link());
        entry.object = known.map(|known| known.state.object.to_string());
    }
}

/// Drops the objects of those `entries` that are not byte for byte the file: where git converts.
/// Line endings and keywords change the size with the content; an encoding may not.
pub fn keep_equal(checkout: &Checkout, git: &Git, entries: &mut [Entry]) -> Result<(), WorkspaceError> {
    let objects: Vec<u8> =
        entries.iter().filter_map(|e| e.object.as_ref()).flat_map(|o| o.bytes().chain([b'\n'])).collect();
    if objects.is_empty() {
        return Ok(());
    }
    let paths: Vec<u8> = entries
        .iter()
        .filter(|e| e.object.is_some())
        .flat_map(|e| e.path.as_os_str().as_bytes().iter().copied().chain([0]))
        .collect();
    let sizes = git.exec(["cat-file", "--batch-check=%(objectsize)"]).stdin(objects);
    let attributes = git.exec(["check-attr", "-z", "--stdin", "working-tree-encoding"]).stdin(paths);
    let (sizes, attributes) = std::thread::scope(|scope| {
        let attributes = scope.spawn(|| attributes.run());
        (sizes.run(), attributes.join().expect("running git does not panic"))
    });
    let sizes = sizes.map_err(checkout.git_error())?;
    let attributes = attributes.map_err(checkout.git_error())?;
    // PATH<nul>ATTRIBUTE<nul>VALUE<nul> each.
    let pieces: Vec<&[u8]> = attributes.split(|b| *b == 0).collect();
    let mut encodings = pieces.chunks_exact(3).map(|piece| piece[2]);
    let mut sizes = sizes.split(|b| *b == b'\n');
    for entry in entries.iter_mut().filter(|e| e.object.is_some()) {
        let size = sizes.next().and_then(|size| git::line(size).parse::<i64>().ok());
        let plain = encodings.next().is_some_and(|value| value == b"unspecified" || value == b"unset");
        if size != Some(entry.stat.st_size) || !plain {
            entry.object = None;
        }
    }
    Ok(())
}

/// `path` as a word of a shell that is not taken for an option.
pub fn word(path: &Path) -> Vec<u8> {
    let mut out = b"'./".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => out.extend_from_slice(br"'\''"),
            other => out.push(*other),
        }
    }
    out.push(b'\'');
    out
}

/// Files that are made from the objects of one repository.
#[derive(Debug)]
pub struct Source<'a> {
    /// Its git directory, from where the script runs.
    pub git_dir: PathBuf,
    /// Where the list of the objects is to be.
    pub list: PathBuf,
    /// The places of the files, the files as they stand on the host, and their objects.
    pub files: Vec<(PathBuf, &'a Entry, &'a str)>,
}

/// The script at `place` that makes the files of `sources` and then removes itself and the lists; they come with it.
pub fn script(place: &Path, sources: &[Source<'_>]) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut script, mut lists) = (FUNCTION.to_vec(), Vec::new());
    let mut modes: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.files.is_empty()) {
        let (mut list, mut calls) = (Vec::new(), Vec::new());
        for (place, entry, object) in &source.files {
            let word = word(place);
            list.extend_from_slice(format!("{object}\n").as_bytes());
            calls.extend_from_slice(b"f ");
            calls.extend_from_slice(&word);
            calls.extend_from_slice(b" &&\n");
            let mode = format!("chmod {:o}", entry.stat.st_mode & 0o777);
            modes.entry(mode).or_default().push(word.clone());
            let time = format!("touch -d @{}", entry.stat.st_mtime.max(0));
            modes.entry(time).or_default().push(word);
        }
        script.extend_from_slice(b"git --git-dir=");
        script.extend(word(&source.git_dir));
        // Large ones are to stream.
        script.extend_from_slice(b" -c core.bigFileThreshold=1m cat-file --batch <");
        script.extend(word(&source.list));
        script.extend_from_slice(b" | {\n");
        script.extend(calls);
        script.extend_from_slice(b":\n} && rm -f ");
        script.extend(word(&source.list));
        script.extend_from_slice(b" &&\n");
        lists.push((source.list.clone(), list));
    }
    if lists.is_empty() {
        return Vec::new();
    }
    for (command, words) in modes {
        for words in batches(&words) {
            script.extend_from_slice(command.as_bytes());
            words.iter().for_each(|word| script.extend([b" ", word.as_slice()].concat()));
            script.extend_from_slice(b" &&\n");
        }
    }
    script.extend_from_slice(b"rm -f ");
    script.extend(word(place));
    script.push(b'\n');
    std::iter::once((place.to_owned(), script)).chain(lists).collect()
}

/// `words` in pieces that fit a command line.
pub fn batches(words: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    if words.is_empty() {
        return Vec::new();
    }
    let (mut out, mut start, mut length) = (Vec::new(), 0, 0);
    for (at, word) in words.iter().enumerate() {
        if length > MAX_WORDS {
            out.push(&words[start..at]);
            (start, length) = (at, 0);
        }
        length += word.len() + 1;
    }
    out.push(&words[start..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_batched() {
        assert_eq!(word(Path::new("-it's")), br"'./-it'\''s'");
        let words = vec![vec![b'x'; MAX_WORDS / 2]; 3];
        assert_eq!(batches(&words).iter().map(|b| b.len()).collect::<Vec<_>>(), [2, 1]);
    }
}
