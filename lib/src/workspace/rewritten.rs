//! Files whose bytes are others though git calls them unchanged: line endings, keywords and encodings are converted, what a filter
//! makes of a file is not ours to run, and what git is told not to look at may be anything.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::error::WorkspaceError;
use super::index::{Entry, Index, ObjectId};
use super::shipment::Part;
use super::stream;
use crate::sys::git;

/// What decides how git reads and writes a file (gitattributes(5)); the first three convert line endings.
const ATTRIBUTES: [&str; 6] = ["text", "eol", "crlf", "ident", "filter", "working-tree-encoding"];
const ENDINGS: usize = 3;
/// The modes that git keeps of files (gitformat-index(5)).
const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_LINK: u32 = 0o120_000;

/// The paths of `part` whose files are the same to git in `old` and `new`, both with what the files were when they were looked at,
/// but whose bytes differ, or may. One that was only written again is the same: users change branches and go back.
pub fn find<'a>(part: &Part, old: &'a Index, new: &'a Index) -> Result<Vec<&'a [u8]>, WorkspaceError> {
    let touched = old.differing(new, |one, other| match (one, other) {
        ([one], [other]) => {
            let seen = |entry: &Entry| (entry.size(), entry.modified());
            let there = !one.skipped && !other.skipped && !one.is_link();
            there && one.state == other.state && seen(one) != seen(other)
        }
        _ => false,
    });
    let at = |index: &'a Index, path: &[u8]| &index.of(path)[0];
    let is_sure = |path: &&[u8]| {
        let (one, other) = (at(old, path), at(new, path));
        one.size() != other.size() || one.assumed || other.assumed
    };
    let (mut found, doubtful): (Vec<_>, Vec<_>) = touched.into_iter().partition(is_sure);
    if !doubtful.is_empty() {
        let said = attributes(part, &doubtful)?;
        // PATH<nul>ATTRIBUTE<nul>VALUE<nul> each.
        let values: Vec<&[u8]> = said.split(|byte| *byte == 0).skip(2).step_by(3).collect();
        let all = doubtful.iter().zip(values.chunks_exact(ATTRIBUTES.len()));
        found.extend(all.filter(|(path, values)| may_differ(part, path, values)).map(|(path, _)| *path));
    }
    Ok(found)
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
        let hashed = hash(part, &["--stdin"], &stream::target(&part.checkout, file)?)?;
        entry.set(MODE_LINK, hashed.first().copied().unwrap_or(entry.state.object));
    }
    // A line is one path there, quoted where it begins so.
    let plain = |path: &[u8]| !path.contains(&b'\n') && !path.starts_with(b"\"");
    let files: Vec<_> = files.into_iter().filter(|(entry, _)| plain(&entry.path)).collect();
    if files.is_empty() {
        return Ok(());
    }
    let paths: Vec<u8> = files.iter().flat_map(|(entry, _)| [&entry.path[..], b"\n"].concat()).collect();
    for ((entry, file), id) in files.into_iter().zip(hash(part, &["--stdin-paths"], &paths)?) {
        entry.set(if file.stat.st_mode & 0o100 == 0 { MODE_FILE } else { MODE_PROGRAM }, id);
    }
    Ok(())
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

/// Whether a file of the same object and the same size may hold other bytes, by its attributes.
fn may_differ(part: &Part, path: &[u8], values: &[&[u8]]) -> bool {
    let is_given = |value: &&[u8]| !matches!(*value, b"unspecified" | b"unset");
    let (endings, others) = values.split_at(ENDINGS);
    let config = &part.checkout.config;
    let automatic = config.is_true("core.autocrlf") || config.get("core.autocrlf") == Some(b"input");
    others.iter().any(is_given)
        || ((automatic || endings.iter().any(is_given)) && is_mixed(part, &git::path(path)))
}

/// Whether lines end in both ways: where all end in one, the size tells in which.
fn is_mixed(part: &Part, path: &Path) -> bool {
    let Ok(Some(file)) = part.checkout.open_beneath(path, OFlags::RDONLY) else { return true };
    let (mut before, mut with, mut without) = (0, false, false);
    for byte in BufReader::with_capacity(64 << 10, File::from(file)).bytes() {
        let Ok(byte) = byte else { return true };
        if byte == b'\n' {
            with |= before == b'\r';
            without |= before != b'\r';
        }
        before = byte;
    }
    with && without
}
