//! Files whose bytes are others than those of the objects that git has of them: line endings, keywords and encodings are converted, what a filter
//! makes of a file is not ours to run, and what git is told not to look at may be anything.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use banger_host::git;

use crate::attributes::ATTRIBUTES;
use crate::checkout;
use crate::error::WorkspaceError;
use crate::index::{Entry, Index, ObjectId};
use crate::survey::Part;
use crate::{content, gitdir};
/// The modes that git keeps of files (gitformat-index(5)).
const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_LINK: u32 = 0o120_000;

/// The paths of `part` whose files may have other bytes than the objects that git has of them, which `known` are.
///
/// # Errors
/// Those of git.
pub fn converted<'a>(
    part: &Part,
    known: &HashMap<&'a [u8], &'a Entry>,
) -> Result<HashSet<&'a [u8]>, WorkspaceError> {
    // Of a file that git is told not to look at nobody knows whether it is its object.
    let mut found: HashSet<&[u8]> =
        known.iter().filter(|(_, entry)| entry.assumed).map(|(path, _)| *path).collect();
    let there = &part.selection.entries;
    let mut files: Vec<_> = there
        .iter()
        .filter(|entry| !entry.is_symlink())
        .filter_map(|entry| Some((entry, *known.get_key_value(entry.path.as_os_str().as_bytes())?.0)))
        .filter(|(_, path)| !found.contains(path))
        .collect();
    let is_attributes =
        |entry: &checkout::Entry| entry.path.file_name() == Some(OsStr::new(".gitattributes"));
    if there.iter().any(is_attributes) || gitdir::has_attributes(&part.checkout) {
        let said = attributes(part, &files.iter().map(|(_, path)| *path).collect::<Vec<_>>())?;
        // PATH<nul>ATTRIBUTE<nul>VALUE<nul> each.
        let values: Vec<&[u8]> = said.split(|byte| *byte == 0).skip(2).step_by(3).collect();
        let is_given = |value: &&[u8]| !matches!(*value, b"unspecified" | b"unset");
        let given = files.iter().zip(values.chunks_exact(ATTRIBUTES.len()));
        found.extend(given.filter(|(_, values)| values.iter().any(is_given)).map(|((_, path), _)| *path));
        files.retain(|(_, path)| !found.contains(path));
    }
    // Line endings change the size with the bytes. All are looked at, whatever the attributes say: git calls a file unchanged that was
    // converted by others, which it had when git last read it, or by another name.
    let objects: Vec<u8> =
        files.iter().flat_map(|(_, path)| format!("{}\n", known[path].state.object).into_bytes()).collect();
    if !files.is_empty() {
        let git = part.staging.git(&part.checkout, &part.staging.index());
        let said = git.exec(["cat-file", "--batch-check=%(objectsize)"]).stdin(objects).run();
        let said = said.map_err(part.checkout.git_error())?;
        let sizes = said.split(|byte| *byte == b'\n').map(|size| git::line(size).parse::<i64>().ok());
        let others =
            files.into_iter().zip(sizes).filter(|((entry, _), size)| *size != Some(entry.stat.st_size));
        found.extend(others.map(|((_, path), _)| path));
    }
    Ok(found)
}

/// Makes objects of the bytes of `entries` of `part` as they are, in what `keeper` has of them, and gives their ids.
///
/// # Errors
/// Those of git, and of reading the files.
pub fn keep(
    keeper: &Part,
    part: &Part,
    entries: &[&checkout::Entry],
) -> Result<Vec<ObjectId>, WorkspaceError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let (staging, checkout) = (&keeper.staging, &keeper.checkout);
    let git = staging.git(checkout, &staging.index()).env("GIT_OBJECT_DIRECTORY", staging.raw());
    let below = part.prefix.strip_prefix(&keeper.prefix).unwrap_or(Path::new(""));
    let run = |args: &[&str], input: &[u8]| -> Result<Vec<ObjectId>, WorkspaceError> {
        let words = ["hash-object", "-w", "--no-filters"].iter().chain(args);
        let said = git.exec(words).stdin(input).run().map_err(checkout.git_error())?;
        Ok(said.split(|byte| *byte == b'\n').filter_map(ObjectId::from_hex).collect())
    };
    let path = |entry: &checkout::Entry| below.join(&entry.path).into_os_string().into_vec();
    let plain = |entry: &&&checkout::Entry| !entry.is_symlink() && is_line(&path(entry));
    let lines: Vec<u8> =
        entries.iter().filter(plain).flat_map(|entry| [path(entry), b"\n".to_vec()].concat()).collect();
    let ids = if lines.is_empty() { Vec::new() } else { run(&["--stdin-paths"], &lines)? };
    let (mut ids, mut all) = (ids.into_iter(), Vec::with_capacity(entries.len()));
    for entry in entries {
        let id = if plain(&entry) {
            ids.next()
        } else {
            let bytes = if entry.is_symlink() {
                content::target(&part.checkout, entry)?
            } else {
                content::content(&part.checkout, entry)?
            };
            run(&["--stdin"], &bytes)?.first().copied()
        };
        let moving = || WorkspaceError::Moving(part.checkout.root.join(&entry.path));
        all.push(id.ok_or_else(moving)?);
    }
    Ok(all)
}

/// Gives the entries of files that git is told not to look at the modes and objects that these would have: else nothing tells whether
/// the guest still has what it was given.
pub fn see(part: &Part, tree: &mut Index) -> Result<(), WorkspaceError> {
    let there = &part.selection.entries;
    let file = |path: &[u8]| {
        let at = there.binary_search_by(|file| file.path.as_os_str().as_bytes().cmp(path));
        at.ok().map(|at| &there[at])
    };
    let unseen = tree.entries.iter_mut().filter(|entry| entry.assumed && !entry.skipped && !entry.is_link());
    let unseen = unseen.filter_map(|entry| file(&entry.path).map(|file| (entry, file)));
    let (links, files): (Vec<_>, Vec<_>) = unseen.partition(|(_, file)| file.is_symlink());
    for (entry, file) in links {
        let hashed = hash(part, &["--stdin"], &content::target(&part.checkout, file)?)?;
        entry.set(MODE_LINK, hashed.first().copied().unwrap_or(entry.state.object));
    }
    let files: Vec<_> = files.into_iter().filter(|(entry, _)| is_line(&entry.path)).collect();
    if files.is_empty() {
        return Ok(());
    }
    let paths: Vec<u8> = files.iter().flat_map(|(entry, _)| [&entry.path[..], b"\n"].concat()).collect();
    for ((entry, file), id) in files.into_iter().zip(hash(part, &["--stdin-paths"], &paths)?) {
        entry.set(if file.stat.st_mode & 0o100 == 0 { MODE_FILE } else { MODE_PROGRAM }, id);
    }
    Ok(())
}

/// Whether git reads `path` as a line of `--stdin-paths`: a line is one path there, quoted where it begins so, and a return at its end is
/// none of it.
fn is_line(path: &[u8]) -> bool {
    !path.contains(&b'\n') && !path.starts_with(b"\"") && !path.ends_with(b"\r")
}

/// What `git hash-object` says to `input`.
fn hash(part: &Part, args: &[&str], input: &[u8]) -> Result<Vec<ObjectId>, WorkspaceError> {
    let git = part.staging.git(&part.checkout, &part.staging.index());
    let said = git.exec(["hash-object"].iter().chain(args)).stdin(input).run();
    let said = said.map_err(part.checkout.git_error())?;
    Ok(said.split(|byte| *byte == b'\n').filter_map(ObjectId::from_hex).collect())
}

fn attributes(part: &Part, paths: &[&[u8]]) -> Result<Vec<u8>, WorkspaceError> {
    let git = part.staging.git(&part.checkout, &part.staging.index());
    let paths: Vec<u8> = paths.iter().flat_map(|path| path.iter().copied().chain([0])).collect();
    let exec = git.exec(["check-attr", "-z", "--stdin"].iter().chain(&ATTRIBUTES)).stdin(paths);
    exec.run().map_err(part.checkout.git_error())
}
