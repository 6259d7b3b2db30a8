//! Prepare, exec and export: what our scripts do in the guest, and what becomes of their answers.
//!
//! Each remote command costs an emulated guest a tenth of a second and more, so unpacking and the user's command are one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::checkout::Checkout;
use super::error::WorkspaceError;
use super::guest::{Ended, Guest, Output, fill, quote};
use super::patch::{PatchError, Scanner};
use super::staging::{PREPARED_REF, Selection};
use super::stream;
use crate::contract::error::escape_controls;
use crate::sys::clock::{Timeline, boottime_us};
use crate::sys::ssh::Exit;

/// How long `git` in the guest may say nothing while it looks for changes.
const EXPORT_SILENCE: Duration = Duration::from_secs(600);

/// Unpacks the stream on stdin unless what it holds is there already.
const UNPACK: &str = r#"
p=@PATH@
umask 022
same=
if [ -e "$p" ] || [ -L "$p" ]; then
    if [ "$(git --git-dir="$p/.git" rev-parse -q --verify @REF@ 2>/dev/null)" = @BASE@ ]; then same=kept
    elif ! rmdir -- "$p" 2>/dev/null; then say occupied; exit 0
    fi
fi
if [ -z "$same" ]; then
    if mkdir -p -- "$p" && TAR_OPTIONS=--warning=no-timestamp tar -xpf - -C "$p" && [ -f "$p/.git/HEAD" ]; then :; else
        rm -rf -- "$p"; say failed; exit 0
    fi
fi
"#;

/// Runs the command in the workspace.
const COMMAND: &str = r#"
if [ ! -e @PATH@/.git ] || ! cd @PATH@; then say missing; exit 0; fi
say "${same:-ready}"
exec @COMMAND@ </dev/null
"#;

/// Compares the workspace with the base. A copy of the guest's own index beside it takes everything that `git add -A` finds (a new
/// one would lose files that were added with -f), and new objects go to a directory of their own, so that the
/// guest's repository stays as it is.
const COMPARE: &str = r#"
if ! cd @PATH@ || [ ! -f .git/HEAD ]; then say missing; exit 0; fi
for old in .git/banger-export.*; do if [ -d "$old" ]; then rm -rf "$old"; fi; done
t=$PWD/.git/banger-export.$$
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT PIPE TERM
umask 077
mkdir -p "$t/objects/info" && echo ../../objects >"$t/objects/info/alternates" || { say failed; exit 0; }
if [ -f .git/index ]; then cp -p .git/index "$t/index" || { say failed; exit 0; }; fi
export GIT_INDEX_FILE="$t/index" GIT_OBJECT_DIRECTORY="$t/objects" GIT_OPTIONAL_LOCKS=0
git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.splitIndex=false -c core.safecrlf=false \
    -c advice.addEmbeddedRepo=false add -A || { say failed; exit 0; }
say ready
git -c diff.suppressBlankEmpty=false -c core.quotePath=true diff-index --cached @FORMAT@ @BASE@ -- && say done >&2
"#;

/// git's options for a patch that applies anywhere, whatever the guest's configuration.
const AS_PATCH: &str = "-p --binary --full-index --no-renames --no-ext-diff --no-textconv --no-color --no-relative \
                        --submodule=short -U3 --src-prefix=a/ --dst-prefix=b/";
const AS_NAMES: &str = "--name-only --no-renames -z";

/// Everything that is sent.
#[derive(Debug)]
pub struct Shipment<'a> {
    /// The checkout.
    pub checkout: &'a Checkout,
    /// Its files.
    pub selection: &'a Selection,
    /// The guest's git directory: files here and their names in it.
    pub git_files: &'a [(PathBuf, PathBuf)],
    /// The prepared commit.
    pub base_commit: &'a str,
}

/// How a shipment went.
#[derive(Debug)]
pub struct Sent {
    /// Whether it was unpacked; it may have been there.
    pub changed: bool,
    /// How the command ended.
    pub exit: Exit,
}

/// Checks a path in the guest.
pub fn check_guest_path(path: &str) -> Result<(), WorkspaceError> {
    let parts_fine = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    let fine =
        path.starts_with('/') && path.len() <= 1024 && parts_fine && !path.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(WorkspaceError::GuestPath(path.to_owned())) }
}

/// Checks a commit id, in full or cut.
pub fn check_commit(id: &str) -> Result<(), WorkspaceError> {
    let fine = (4..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
    if fine { Ok(()) } else { Err(WorkspaceError::BaseCommit(id.to_owned())) }
}

/// Drops what is said.
struct Nobody;

impl Output for Nobody {
    fn stdout(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn failed(step: &'static str, guest_path: &str, ended: Ended) -> WorkspaceError {
    let guest_path = guest_path.to_owned();
    match ended.verdict.as_str() {
        "occupied" => WorkspaceError::Occupied { guest_path },
        "missing" => WorkspaceError::NotPrepared { guest_path },
        _ if ended.said.is_empty() => {
            WorkspaceError::Guest { step, said: format!("it ended with {}", ended.exit) }
        }
        _ => WorkspaceError::Guest { step, said: ended.said },
    }
}

/// Sends the shipment to `guest_path` unless it is there, then runs `command` there; gives how the command ended.
pub fn send_and_run(
    guest: &Guest<'_>,
    shipment: &Shipment<'_>,
    guest_path: &str,
    command: Option<&[String]>,
    output: &mut dyn Output,
    timeline: &mut Timeline,
) -> Result<Sent, WorkspaceError> {
    let mut values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([shipment.base_commit])),
        ("REF", quote([PREPARED_REF])),
    ]);
    let script = match command {
        Some(words) => {
            values.insert("COMMAND", quote(words.iter().map(String::as_str)));
            [UNPACK, COMMAND].concat()
        }
        None => [UNPACK, "say \"${same:-ready}\"\n"].concat(),
    };
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
    let start_us = boottime_us();
    let (sent, ended) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            stream::write(
                std::fs::File::from(writer),
                shipment.checkout,
                shipment.selection,
                shipment.git_files,
            )
        });
        let ended = guest.run(&fill(&script, &values), Some(reader), None, output);
        (sender.join().expect("the sender does not panic"), ended)
    });
    // A file that moved makes a short stream, which the guest complains about: the cause counts, not the complaint. A guest that
    // stops reading makes the sender fail, which is only a consequence.
    match sent {
        Err(error @ WorkspaceError::Moving(_)) => return Err(error),
        Err(WorkspaceError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let ended = ended?;
    timeline.note("unpack", start_us, ended.verdict_us.saturating_sub(start_us));
    if !ended.is_ready() {
        return Err(failed("unpacking the checkout", guest_path, ended));
    }
    if command.is_some() {
        timeline.note("command", ended.verdict_us, boottime_us() - ended.verdict_us);
    }
    Ok(Sent { changed: ended.verdict != "kept", exit: ended.exit })
}

/// Runs `command` in the workspace at `guest_path`.
pub fn run(
    guest: &Guest<'_>,
    guest_path: &str,
    command: &[String],
    output: &mut dyn Output,
    timeline: &mut Timeline,
) -> Result<Exit, WorkspaceError> {
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("COMMAND", quote(command.iter().map(String::as_str))),
    ]);
    let script = ["same=\n", COMMAND].concat();
    let ended = guest.run(&fill(&script, &values), None, None, output)?;
    if !ended.is_ready() {
        return Err(failed("running the command", guest_path, ended));
    }
    timeline.note("command", ended.verdict_us, boottime_us() - ended.verdict_us);
    Ok(ended.exit)
}

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
    format: &str,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([base_commit])),
        ("FORMAT", format.to_owned()),
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

/// A patch as it was written.
#[derive(Debug)]
pub struct Patch {
    /// Its size.
    pub bytes: u64,
    /// The paths that it touches.
    pub files: Vec<Vec<u8>>,
}

/// Writes what changed in the workspace since `base_commit` to `out`, as a patch. When it fails, `out` holds part of one.
pub fn export(
    guest: &Guest<'_>,
    guest_path: &str,
    base_commit: &str,
    out: &mut dyn Write,
    path: &std::path::Path,
) -> Result<Patch, WorkspaceError> {
    let mut scanner = Scanner::default();
    let mut bytes = 0;
    compare(guest, guest_path, base_commit, AS_PATCH, &mut |piece| {
        scanner.feed(piece).map_err(WorkspaceError::Patch)?;
        bytes += piece.len() as u64;
        out.write_all(piece).map_err(WorkspaceError::io("write", path))
    })?;
    let files = scanner.finish().map_err(WorkspaceError::Patch)?;
    Ok(Patch { bytes, files: files.into_iter().collect() })
}

/// The paths that differ from `base_commit` in the workspace.
pub fn changed(
    guest: &Guest<'_>,
    guest_path: &str,
    base_commit: &str,
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let mut names = Vec::new();
    compare(guest, guest_path, base_commit, AS_NAMES, &mut |piece| {
        names.extend_from_slice(piece);
        if names.len() > 64 << 20 { Err(WorkspaceError::Patch(PatchError::TooLarge)) } else { Ok(()) }
    })?;
    Ok(crate::sys::git::split_nul(&names).map(<[u8]>::to_vec).collect())
}

/// Whether the workspace at `guest_path` is the one of `base_commit`.
pub fn verify(guest: &Guest<'_>, guest_path: &str, base_commit: &str) -> Result<(), WorkspaceError> {
    let script = "[ \"$(git --git-dir=@PATH@/.git rev-parse -q --verify @REF@)\" = @BASE@ ] && say ready || say missing\n";
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([base_commit])),
        ("REF", quote([PREPARED_REF])),
    ]);
    // The prefix of an option does not end where a quoted word begins, so "--git-dir='…'/.git" is one word.
    let ended = guest.run(&fill(script, &values), None, None, &mut Nobody)?;
    if ended.is_ready() { Ok(()) } else { Err(failed("looking for the workspace", guest_path, ended)) }
}
