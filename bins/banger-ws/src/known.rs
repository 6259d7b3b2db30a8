//! What is known of the files of a checkout from when they were last sent: what nobody has touched since is not read again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use banger_protocol::changes::{Request, SentFile};
use rustix::fs::Stat;

use crate::checkout::{Checkout, Entry};
use crate::error::WorkspaceError;
use crate::index::{self, Index};
use crate::staging::{Selection, Staging, is_recent, quote};
use crate::{attributes, gitdir};

/// What git had of the files of a checkout when they were last looked at, and what their bytes were.
#[derive(Debug)]
pub struct Known {
    /// The tree that was made of them, with what each file was.
    pub tree: Index,
    /// What was sent.
    pub sent: Request,
    /// When they were looked at, or before.
    pub looked_at: SystemTime,
    /// Where the objects are that the checkout may not have.
    pub objects: PathBuf,
}

impl Known {
    /// The entry of the file at `path`, if `stat` is what the file was then: nobody has touched it since. What changed while it was looked
    /// at, or right before, may have changed again within the same tick.
    fn untouched(&self, path: &Path, stat: &Stat) -> Option<&index::Entry> {
        let [entry] = self.tree.of(path.as_os_str().as_bytes()) else { return None };
        (!entry.skipped && entry.is_as(stat) && !is_recent(stat, self.looked_at)).then_some(entry)
    }

    /// What was sent of the file at `path` of the checkout itself, if its bytes are certainly the same.
    pub fn file(&self, path: &Path, stat: &Stat) -> Option<&SentFile> {
        self.untouched(path, stat).and_then(|_| self.sent_as(path))
    }

    fn sent_as(&self, path: &Path) -> Option<&SentFile> {
        let files = &self.sent.trees.first()?.files;
        let at = files.binary_search_by(|file| file.path.as_slice().cmp(path.as_os_str().as_bytes()));
        at.ok().map(|at| &files[at])
    }

    fn has_loose(&self, object: &str) -> bool {
        self.objects.join(&object[..2]).join(&object[2..]).exists()
    }
}

impl Staging {
    /// Those of the files at `paths` of which git certainly would make what is `known`, and the others.
    pub(super) fn unread<'k, 'p>(
        &self,
        checkout: &Checkout,
        selection: &Selection,
        known: &'k Known,
        paths: Vec<&'p PathBuf>,
    ) -> Result<(Vec<&'k index::Entry>, Vec<&'p PathBuf>), WorkspaceError> {
        if paths.is_empty() {
            return Ok((Vec::new(), paths));
        }
        let there = &selection.entries;
        // Where git is told not to look its tree has what is staged, and what is known is what stood there.
        let index = self.read_index(checkout)?;
        let is_unseen = |path: &Path| {
            index.of(path.as_os_str().as_bytes()).iter().any(|entry| entry.assumed || entry.skipped)
        };
        let entry_of = |path: &Path| {
            let at = there.binary_search_by(|file| file.path.as_os_str().cmp(path.as_os_str())).ok()?;
            known
                .untouched(path, &there[at].stat)
                .filter(|entry| !(entry.assumed || entry.is_link() || is_unseen(path)))
        };
        let same: Vec<(&PathBuf, &index::Entry)> =
            paths.iter().filter_map(|path| entry_of(path).map(|entry| (*path, entry))).collect();
        if same.is_empty() {
            return Ok((Vec::new(), paths));
        }
        // What git makes of a file may be another thing by now, though the file is the same.
        let git = self.git(checkout, &self.index());
        let is_attributes = |entry: &Entry| entry.path.file_name() == Some(OsStr::new(".gitattributes"));
        let has_attributes = there.iter().any(is_attributes) || gitdir::has_attributes(checkout);
        let names: Vec<&[u8]> = same.iter().map(|(path, _)| path.as_os_str().as_bytes()).collect();
        let plain = attributes::taken_as_they_are(&git, checkout, has_attributes, &names)?;
        let same = same.into_iter().zip(plain).filter(|((path, entry), is_plain)| {
            *is_plain && known.sent_as(path).is_some_and(|file| file.id == entry.state.object.as_bytes())
        });
        let same = same.map(|(one, _)| one);
        let file = self.objects().join("info/alternates");
        let line = [&quote(known.objects.as_os_str())[..], b"\n"].concat();
        let appended = File::options().append(true).open(&file).and_then(|mut file| file.write_all(&line));
        appended.map_err(WorkspaceError::io("write", file))?;
        let (mut there, asked): (Vec<_>, Vec<_>) =
            same.partition(|(_, entry)| known.has_loose(&entry.state.object.to_string()));
        if !asked.is_empty() {
            let lines = asked.iter().flat_map(|(_, entry)| format!("{}\n", entry.state.object).into_bytes());
            let exec =
                git.exec(["cat-file", "--batch-check=%(objecttype)"]).stdin(lines.collect::<Vec<u8>>());
            let said = exec.run().map_err(checkout.git_error())?;
            let answers = said.split(|byte| *byte == b'\n').map(|line| line == b"blob");
            there
                .extend(asked.into_iter().zip(answers).filter(|(_, is_there)| *is_there).map(|(one, _)| one));
        }
        let same: BTreeMap<&PathBuf, &index::Entry> = there.into_iter().collect();
        let others = paths.into_iter().filter(|path| !same.contains_key(path)).collect();
        Ok((same.into_values().collect(), others))
    }
}
