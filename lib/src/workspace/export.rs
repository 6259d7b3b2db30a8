//! What changed in the workspace: as a patch, or as names.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::WorkspaceError;
use super::guest::{Guest, Output, fill, quote};
use super::patch::{PatchError, Scanned, Scanner};
use super::transfer::failed;
use crate::contract::error::escape_controls;
use crate::sys::remote::Exit;

/// How long `git` in the guest may say nothing while it looks for changes.
const EXPORT_SILENCE: Duration = Duration::from_secs(600);
/// How much the state of submodules may take, bytes.
const MAX_STATE: u64 = 1 << 20;
/// How much git may say on stderr, bytes: a warning for each of very many files.
const MAX_SAID: u64 = 64 << 20;
/// How much a list of names may take, bytes.
const MAX_NAMES: u64 = 64 << 20;

/// Compares the workspace with the base. Each process costs an emulated guest tens of milliseconds, so two are the rule: one that
/// looks for files that git does not know, and, where there are none, one that compares the working tree.
///
/// Else a copy of the guest's own index takes everything that `git add -A` finds (a new one would lose files that were added with -f),
/// and new objects go beside that copy, so that the guest's repository stays as it is; hence install(1), which makes the
/// directory and copies, and a directory outside of the workspace, whose removal nobody needs to wait for; what lives for a second
/// is neither compressed nor flushed. So it is in a merge, in a sparse checkout, with submodules, whose state goes before the patch,
/// and where names alone are wanted, among which diff-index counts files that were only written again. (git-diff(1) does not, but
/// writes the index for that.)
const COMPARE: &str = r#"
g=.git
if ! cd @PATH@; then say missing; exit 0; fi
if [ -f .git ] && IFS= read -r g <.git; then g=${g#gitdir: }; fi
if [ ! -f "$g/HEAD" ]; then say missing; exit 0; fi
if [ -f "$g/banger-sync/go" ]; then say cut; exit 0; fi
export GIT_OPTIONAL_LOCKS=0 GIT_LITERAL_PATHSPECS=1
own() {
    git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.splitIndex=false -c core.safecrlf=false "$@"
}
if @PATCH@ && [ ! -d "$g/modules" ] && [ ! -f "$g/info/sparse-checkout" ] && [ ! -f "$g/MERGE_HEAD" ] &&
    new=$(own ls-files -o -u --exclude-standard 2>&1) && [ -z "$new" ]; then
    say ready
    say patch
    own -c diff.suppressBlankEmpty=false -c core.quotePath=true -c core.compression=1 \
        diff-index --ignore-submodules=dirty @FORMAT@ @BASE@ -- @ONLY@ && say done >&2
    exit
fi
t=/var/tmp/banger-export.@TAG@
for old in "$t".*; do if [ -d "$old" ]; then rm -rf "$old"; fi; done
t=$t.$$
trap 'rm -rf "$t" </dev/null >/dev/null 2>&1 &' EXIT
trap 'exit 1' HUP INT PIPE TERM
umask 077
if [ -f "$g/index" ]; then install -D -p -m 600 "$g/index" "$t/o/index"; else mkdir -p "$t/o"; fi || { say failed; exit 0; }
case $g in *:*) a="\"$g/objects\"";; *) a=$g/objects;; esac
export GIT_INDEX_FILE="$t/o/index" GIT_OBJECT_DIRECTORY="$t/o" GIT_ALTERNATE_OBJECT_DIRECTORIES="$a"
# Files may be made outside of what a sparse checkout takes in; those that it leaves out are not deleted.
s=
if [ -f "$g/info/sparse-checkout" ]; then s=--sparse; fi
add() {
    own -c core.looseCompression=0 -c core.fsync=none -c advice.addEmbeddedRepo=false add -A $s "$@"
}
# A repository without a commit cannot be added, and holds nothing that a patch could; all else that fails is a failure.
if ! add; then
    add --ignore-errors
    if git ls-files -mo --exclude-standard | grep -qv '/"\{0,1\}$'; then say failed; exit 0; fi
fi
say ready
if [ -d "$g/modules" ]; then
    git -c core.fsmonitor=false status --porcelain=v2 -z --no-renames --untracked-files=no --ignore-submodules=none
fi
say patch
git -c diff.suppressBlankEmpty=false -c core.quotePath=true -c core.compression=1 \
    diff-index --cached --ignore-submodules=none @FORMAT@ @BASE@ -- @ONLY@ && say done >&2
"#;

/// git's options for a patch that applies anywhere, whatever the guest's configuration.
const AS_PATCH: &str = "-p --binary --full-index -M -l1000 --no-ext-diff --no-textconv --no-color --no-relative \
                        --submodule=short -U3 --src-prefix=a/ --dst-prefix=b/";
const AS_NAMES: &str = "--name-only --no-renames -z";

/// Takes a comparison's stdout: the state of submodules, `patch`, and what goes into `sink`. Looks for `done` at the end of stderr.
struct Comparison<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), WorkspaceError>,
    error: Option<WorkspaceError>,
    said: Vec<u8>,
    state: Vec<u8>,
    begun: bool,
    said_bytes: u64,
}

impl Comparison<'_> {
    /// Takes what comes before the patch; gives what is of the patch already.
    fn before(&mut self, bytes: &[u8]) -> Result<Vec<u8>, WorkspaceError> {
        self.state.extend_from_slice(bytes);
        let word = b":patch ";
        let mark = self.state.windows(word.len()).position(|w| w == word);
        let mark = mark.and_then(|at| Some((at, at + self.state[at..].iter().position(|b| *b == b'\n')?)));
        if let Some((at, end)) = mark {
            self.begun = true;
            let rest = self.state.split_off(end + 1);
            let start = self.state[..at].iter().rposition(|b| *b == 0x1e).unwrap_or(0);
            self.state.truncate(start);
            return Ok(rest);
        }
        if self.state.len() as u64 > MAX_STATE {
            return Err(WorkspaceError::Patch(PatchError::TooLarge(MAX_STATE)));
        }
        Ok(Vec::new())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), WorkspaceError> {
        if self.begun {
            return (self.sink)(bytes);
        }
        let rest = self.before(bytes)?;
        if rest.is_empty() { Ok(()) } else { (self.sink)(&rest) }
    }

    /// Submodules in which something is changed that they have not committed.
    fn dirty(&self) -> Vec<Vec<u8>> {
        let lines = crate::sys::git::split_nul(&self.state);
        // 1 XY SCMU mH mI mW hH hI path (git-status(1)): C for another commit, M for changes, U for untracked files.
        let parts = lines.filter_map(|line| {
            let fields: Vec<&[u8]> = line.splitn(9, |b| *b == b' ').collect();
            let [b"1", _, [b'S', _, changed, untracked], _, _, _, _, _, path] = fields[..] else {
                return None;
            };
            (*changed == b'M' || *untracked == b'U').then(|| path.to_vec())
        });
        parts.collect()
    }
}

impl Output for Comparison<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes).map_err(|error| {
            self.error = Some(error);
            io::Error::other("refused")
        })
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(4096);
        self.said.drain(..excess);
        self.said_bytes += bytes.len() as u64;
        if self.said_bytes > MAX_SAID {
            return Err(io::Error::other("git in the guest prints errors without end"));
        }
        Ok(())
    }
}

fn compare(
    guest: &Guest<'_>,
    guest_path: &str,
    base_commit: &str,
    (format, only): (&str, &[String]),
    sink: &mut dyn FnMut(&[u8]) -> Result<(), WorkspaceError>,
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    // Two workspaces of one guest must not remove each other's directories.
    let tag: String = Sha256::digest(guest_path).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("TAG", tag),
        ("BASE", quote([base_commit])),
        ("PATCH", (format == AS_PATCH).to_string()),
        ("FORMAT", format.to_owned()),
        ("ONLY", quote(only.iter().map(String::as_str))),
    ]);
    let mut comparison =
        Comparison { sink, error: None, said: Vec::new(), state: Vec::new(), begun: false, said_bytes: 0 };
    let ended = guest.run(&fill(COMPARE, &values), None, Some(EXPORT_SILENCE), &mut comparison);
    if let Some(error) = comparison.error {
        return Err(error);
    }
    let mut ended = ended?;
    // The exit status alone is no proof: a connection that ends early may look like a success.
    let done = comparison.said.windows(6).any(|w| w == b":done ") && ended.exit == Exit::Status(0);
    if !ended.is_ready() || !done || !comparison.begun {
        if ended.is_ready() {
            let said = String::from_utf8_lossy(&comparison.said);
            ended.said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
        }
        return Err(failed("looking for changes", guest_path, ended));
    }
    Ok(comparison.dirty())
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

/// What came out.
#[derive(Debug)]
pub struct Export {
    /// The patch.
    pub scanned: Scanned,
    /// Submodules with changes that they have not committed: these are not in the patch.
    pub dirty: Vec<Vec<u8>>,
}

/// Writes what changed in the workspace to `out`, as a patch; `path` is its name for people. When it fails, `out` holds part of one.
pub fn export(
    guest: &Guest<'_>,
    guest_path: &str,
    wanted: Wanted<'_>,
    out: &mut dyn Write,
    path: &Path,
) -> Result<Export, WorkspaceError> {
    let mut scanner = Scanner::new(wanted.max_bytes);
    let dirty = compare(guest, guest_path, wanted.base_commit, (AS_PATCH, wanted.only), &mut |piece| {
        scanner.feed(piece).map_err(WorkspaceError::Patch)?;
        out.write_all(piece).map_err(WorkspaceError::io("write", path))
    })?;
    Ok(Export { scanned: scanner.finish().map_err(WorkspaceError::Patch)?, dirty })
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
