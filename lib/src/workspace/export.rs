//! What changed in the workspace: as a patch, or as names.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::error::WorkspaceError;
use super::guest::{Guest, Output, fill, quote};
use super::patch::{PatchError, Scanned, Scanner};
use super::transfer::failed;
use crate::contract::error::escape_controls;
use crate::sys::ssh::Exit;

/// How long `git` in the guest may say nothing while it looks for changes.
const EXPORT_SILENCE: Duration = Duration::from_secs(600);
/// How much a list of names may take, bytes.
const MAX_NAMES: u64 = 64 << 20;

/// Compares the workspace with the base. A copy of the guest's own index beside it takes everything that `git add -A` finds (a new
/// one would lose files that were added with -f), and new objects go to a directory of their own, so that the
/// guest's repository stays as it is. Each process costs an emulated guest tens of milliseconds, hence install(1), which makes
/// the directory and copies; and objects that live for a second are neither compressed nor flushed.
const COMPARE: &str = r#"
if ! cd @PATH@ || [ ! -f .git/HEAD ]; then say missing; exit 0; fi
for old in .git/banger-export.*; do if [ -d "$old" ]; then rm -rf "$old"; fi; done
t=$PWD/.git/banger-export.$$
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT PIPE TERM
umask 077
if [ -f .git/index ]; then install -D -p .git/index "$t/index"; else mkdir "$t"; fi || { say failed; exit 0; }
export GIT_INDEX_FILE="$t/index" GIT_OBJECT_DIRECTORY="$t" GIT_ALTERNATE_OBJECT_DIRECTORIES=.git/objects
export GIT_OPTIONAL_LOCKS=0 GIT_LITERAL_PATHSPECS=1
add() {
    git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.splitIndex=false -c core.safecrlf=false \
        -c core.looseCompression=0 -c core.fsync=none -c advice.addEmbeddedRepo=false add -A "$@"
}
# A repository without a commit cannot be added, and holds nothing that a patch could; all else that fails is a failure.
if ! add; then
    add --ignore-errors
    if git ls-files -mo --exclude-standard | grep -qv '/"\{0,1\}$'; then say failed; exit 0; fi
fi
say ready
git -c diff.suppressBlankEmpty=false -c core.quotePath=true -c core.compression=1 \
    diff-index --cached --ignore-submodules=none @FORMAT@ @BASE@ -- @ONLY@ && say done >&2
"#;

/// git's options for a patch that applies anywhere, whatever the guest's configuration.
const AS_PATCH: &str = "-p --binary --full-index -M -l1000 --no-ext-diff --no-textconv --no-color --no-relative \
                        --submodule=short -U3 --src-prefix=a/ --dst-prefix=b/";
const AS_NAMES: &str = "--name-only --no-renames -z";

/// Takes a comparison's stdout into `sink`, and looks for `done` at the end of its stderr.
struct Comparison<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), WorkspaceError>,
    error: Option<WorkspaceError>,
    said: Vec<u8>,
}

impl Output for Comparison<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.sink)(bytes).map_err(|error| {
            self.error = Some(error);
            io::Error::other("refused")
        })
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(4096);
        self.said.drain(..excess);
        Ok(())
    }
}

fn compare(
    guest: &Guest<'_>,
    guest_path: &str,
    base_commit: &str,
    (format, only): (&str, &[String]),
    sink: &mut dyn FnMut(&[u8]) -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([base_commit])),
        ("FORMAT", format.to_owned()),
        ("ONLY", quote(only.iter().map(String::as_str))),
    ]);
    let mut comparison = Comparison { sink, error: None, said: Vec::new() };
    let ended = guest.run(&fill(COMPARE, &values), None, Some(EXPORT_SILENCE), &mut comparison);
    if let Some(error) = comparison.error {
        return Err(error);
    }
    let mut ended = ended?;
    // The exit status alone is no proof: a connection that ends early may look like a success.
    let done = comparison.said.windows(6).any(|w| w == b":done ") && ended.exit == Exit::Status(0);
    if !ended.is_ready() || !done {
        if ended.is_ready() {
            let said = String::from_utf8_lossy(&comparison.said);
            ended.said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
        }
        return Err(failed("looking for changes", guest_path, ended));
    }
    Ok(())
}

/// What is wanted of the changes.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Since which commit of the guest's.
    pub base_commit: &'a str,
    /// Of which files and directories alone; all where there is none.
    pub only: &'a [String],
    /// How large the patch may be, bytes.
    pub max_bytes: u64,
}

/// Writes what changed in the workspace to `out`, as a patch; `path` is its name for people. When it fails, `out` holds part of one.
pub fn export(
    guest: &Guest<'_>,
    guest_path: &str,
    wanted: Wanted<'_>,
    out: &mut dyn Write,
    path: &Path,
) -> Result<Scanned, WorkspaceError> {
    let mut scanner = Scanner::new(wanted.max_bytes);
    compare(guest, guest_path, wanted.base_commit, (AS_PATCH, wanted.only), &mut |piece| {
        scanner.feed(piece).map_err(WorkspaceError::Patch)?;
        out.write_all(piece).map_err(WorkspaceError::io("write", path))
    })?;
    scanner.finish().map_err(WorkspaceError::Patch)
}

/// The paths that differ from `base_commit` in the workspace.
pub fn changed(
    guest: &Guest<'_>,
    guest_path: &str,
    base_commit: &str,
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let mut names = Vec::new();
    compare(guest, guest_path, base_commit, (AS_NAMES, &[]), &mut |piece| {
        names.extend_from_slice(piece);
        let limit = MAX_NAMES;
        if names.len() as u64 > limit {
            Err(WorkspaceError::Patch(PatchError::TooLarge(limit)))
        } else {
            Ok(())
        }
    })?;
    Ok(crate::sys::git::split_nul(&names).map(<[u8]>::to_vec).collect())
}
