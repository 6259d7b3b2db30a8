//! A patch that is larger than it may be: what is taken out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek};

use super::error::WorkspaceError;
use super::export::scan;
use super::maker::Maker;
use super::patch::{Entry, Scanned};

/// Which changes of a patch hang together: those of the same file, by any of its names, and where a file takes a directory's place, or a
/// directory a file's.
struct Related<'a> {
    entries: &'a [Entry],
    by_path: BTreeMap<&'a [u8], Vec<usize>>,
}

impl<'a> Related<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut by_path: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            entry.paths().for_each(|path| by_path.entry(path).or_default().push(at));
        }
        Self { entries, by_path }
    }

    /// The change `at` and all that hang together with it.
    fn to(&self, at: usize) -> BTreeSet<usize> {
        let (mut found, mut open) = (BTreeSet::from([at]), vec![at]);
        while let Some(at) = open.pop() {
            for path in self.entries[at].paths() {
                let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
                let above = slashes.filter_map(|(at, _)| self.by_path.get(&path[..at]));
                let inside = [path.as_slice(), b"/"].concat();
                let below =
                    self.by_path.range(inside.as_slice()..).take_while(|(path, _)| path.starts_with(&inside));
                let all =
                    above.chain(self.by_path.get(path.as_slice())).chain(below.map(|(_, changes)| changes));
                open.extend(all.flatten().filter(|at| found.insert(**at)));
            }
        }
        found
    }

    /// All changes, those together that are of no use without each other, with the bytes of each group: the largest first.
    fn groups(&self) -> Vec<(u64, BTreeSet<usize>)> {
        let mut groups: Vec<(u64, BTreeSet<usize>)> = Vec::new();
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        for at in 0..self.entries.len() {
            if !seen.contains(&at) {
                let group = self.to(at);
                seen.extend(&group);
                groups.push((group.iter().map(|at| self.entries[*at].bytes).sum(), group));
            }
        }
        groups.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        groups
    }
}

/// Takes the largest changes out of the patch in `out` until the rest is no larger than `limit`, and calls them lost.
pub(super) fn shorten(
    scanned: &Scanned,
    limit: u64,
    out: &mut File,
    maker: &Maker,
    lost: &mut Vec<(Vec<u8>, String)>,
) -> Result<Scanned, WorkspaceError> {
    let error = || maker.io("shorten a patch in");
    let (mut dropped, mut left) = (BTreeSet::new(), scanned.bytes);
    for (bytes, group) in Related::of(&scanned.entries).groups() {
        if left <= limit {
            break;
        }
        left -= bytes;
        let others = if group.len() == 1 {
            String::new()
        } else {
            format!(", with the {} that hang together with it,", group.len() - 1)
        };
        let why = format!("its part of the patch{others} has {bytes} bytes, and the whole may have {limit}");
        for at in &group {
            lost.extend(scanned.entries[*at].paths().map(|path| (path.clone(), why.clone())));
        }
        dropped.extend(group);
    }
    let kept = maker.temp.path().join("kept");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&kept).map_err(error())?;
    let mut attempt = || -> io::Result<()> {
        scanned.copy(out, &mut file, |number| !dropped.contains(&number))?;
        file.rewind()?;
        out.set_len(0)?;
        out.rewind()?;
        io::copy(&mut file, out).map(drop)
    };
    attempt().map_err(error())?;
    scan(out, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_goes_with_those_that_hang_together_with_it() {
        let entry = |path: &str, from: Option<&str>| {
            let from = from.map(Into::into);
            Entry { from, ..Entry::at(path.into()) }
        };
        let entries = [
            entry("a", None),
            entry("a/b", Some("c/d/e")),
            entry("a.b", None),
            entry("c", None),
            entry("x", Some("a/b/f")),
            entry("y", None),
        ];
        let related = Related::of(&entries);
        assert_eq!(related.to(0), BTreeSet::from([0, 1, 3, 4]));
        assert_eq!(related.to(3), related.to(0));
        assert_eq!((related.to(2), related.to(5)), (BTreeSet::from([2]), BTreeSet::from([5])));
    }

    #[test]
    fn many_small_changes_that_hang_together_are_one_large_change() {
        let sized = |path: &str, bytes| Entry { bytes, ..Entry::at(path.into()) };
        let entries = [sized("many", 20), sized("many/a", 20), sized("many/b", 20), sized("small", 30)];
        let groups = Related::of(&entries).groups();
        assert_eq!(groups, [(60, BTreeSet::from([0, 1, 2])), (30, BTreeSet::from([3]))]);
    }
}
