//! The patch as it is made: of two trees by git, and of large files by us.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use super::error::WorkspaceError;
use super::incoming::NewFile;
use super::literal::{self, Side};
use super::object::Objects;
use super::patch::{printed, side};
use super::plain_git;
use banger_host::digest::hex;
use banger_host::git::Git;
use banger_host::process::exec::Running;
use banger_protocol::changes::{MODE_LINK, SentFile};

/// How long what is started to make a patch may wait for the command whose patch it is.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How `git` is to write a patch that applies anywhere.
const AS_PATCH: [&str; 17] = [
    "diff-tree",
    "--stdin",
    "-r",
    "-p",
    "--binary",
    "--full-index",
    "-M",
    "-l1000",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--submodule=short",
    "-U3",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--ignore-submodules=none",
];

/// A program that answers what it is asked.
#[derive(Debug)]
struct Serving {
    running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Serving {
    fn start(git: &Git, args: &[&str]) -> Result<Self, WorkspaceError> {
        let dir = git.dir().to_owned();
        let started = git.exec(args).deadline(PATIENCE).start_serving();
        let (running, stdin, stdout) = started.map_err(|source| WorkspaceError::Git { root: dir, source })?;
        Ok(Self { running, stdin, stdout: BufReader::with_capacity(64 << 10, stdout) })
    }
}

/// What makes a patch: it is started before this process gives up what it does not need to talk to a guest.
#[derive(Debug)]
pub struct Maker {
    pub(super) temp: tempfile::TempDir,
    pub(super) objects: Objects,
    sizes: Serving,
    contents: Serving,
    diff: Option<Serving>,
}

impl Maker {
    /// Starts it, with a directory of its own in `parent` and the objects in `alternates`.
    ///
    /// # Errors
    /// Those of the directory, and of git.
    pub fn start(parent: &Path, alternates: &[PathBuf], sha256: bool) -> Result<Self, WorkspaceError> {
        let temp = tempfile::Builder::new().prefix("ws-").tempdir_in(parent);
        let temp = temp.map_err(|e| {
            WorkspaceError::io("make a directory in", parent)(banger_host::fs::atomic::bare(e))
        })?;
        let git_dir = temp.path().join("git");
        plain_git::make(&git_dir, alternates, sha256)?;
        let spool = temp.path().join("files");
        fs::create_dir_all(&spool).map_err(WorkspaceError::io("make", spool))?;
        let git = plain_git::git(temp.path(), &git_dir);
        Ok(Self {
            objects: Objects::at(git_dir.join("objects"), sha256),
            sizes: Serving::start(&git, &["cat-file", "--batch-check"])?,
            contents: Serving::start(&git, &["cat-file", "--batch"])?,
            diff: Some(Serving::start(&git, &AS_PATCH)?),
            temp,
        })
    }

    pub(super) fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> WorkspaceError + use<> {
        WorkspaceError::io(action, self.temp.path().to_owned())
    }

    /// How large the objects `ids` are; without those that are not there.
    pub(super) fn sizes(&mut self, ids: &BTreeSet<Vec<u8>>) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
        let error = self.io("ask git about objects in");
        let asked: Vec<u8> = ids.iter().flat_map(|id| (hex(id) + "\n").into_bytes()).collect();
        let (stdin, stdout) = (&mut self.sizes.stdin, &mut self.sizes.stdout);
        let answers = std::thread::scope(|scope| {
            // All of it may be more than a pipe holds, and so may the answers be.
            let writer = scope.spawn(move || stdin.write_all(&asked).and_then(|()| stdin.flush()));
            let mut answers = HashMap::new();
            for id in ids {
                let mut line = String::new();
                if stdout.read_line(&mut line)? == 0 {
                    return Err(io::Error::other("git has ended"));
                }
                // ID TYPE SIZE, or ID missing.
                if let [_, "blob", size] = line.split_whitespace().collect::<Vec<_>>()[..] {
                    answers.insert(id.clone(), size.parse().map_err(io::Error::other)?);
                }
            }
            writer.join().expect("writing does not panic").map(|()| answers)
        });
        answers.map_err(error)
    }

    /// Writes the bytes of the object `id` to a file of ours.
    pub(super) fn content(&mut self, id: &[u8]) -> Result<PathBuf, WorkspaceError> {
        let path = self.temp.path().join("files").join(hex(id));
        let serving = &mut self.contents;
        let mut attempt = || -> io::Result<()> {
            serving.stdin.write_all((hex(id) + "\n").as_bytes())?;
            serving.stdin.flush()?;
            let mut line = String::new();
            serving.stdout.read_line(&mut line)?;
            let size = line.split_whitespace().nth(2).and_then(|size| size.parse::<u64>().ok());
            let size = size.ok_or_else(|| io::Error::other("git does not have an object any more"))?;
            let copied = io::copy(&mut (&mut serving.stdout).take(size), &mut File::create(&path)?)?;
            let mut newline = [0];
            serving.stdout.read_exact(&mut newline)?;
            if copied == size { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
        };
        attempt().map_err(WorkspaceError::io("read an object of git's to", &path))?;
        Ok(path)
    }
}

/// One difference of the tree whose patch is made.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) path: &'a [u8],
    pub(super) old: Option<&'a SentFile>,
    pub(super) new: Option<&'a NewFile>,
}

/// Has git write what changed in files of a usual size; `all` are those of any size.
///
/// git-apply learns that a link goes from its mode, which a rename without another change does not have, and refuses what is below it then.
/// So a link in whose place something new is goes in a comparison of its own, where git finds it removed.
pub(super) fn write_small(
    maker: &mut Maker,
    changes: &[&Change<'_>],
    all: &[Change<'_>],
    out: &mut File,
) -> Result<(), WorkspaceError> {
    let new: BTreeSet<&[u8]> = all.iter().filter(|change| change.new.is_some()).map(|c| c.path).collect();
    let makes_room = |change: &&&Change<'_>| {
        let is_gone_link = change.new.is_none() && change.old.is_some_and(|old| old.mode == MODE_LINK);
        let inside = [change.path, b"/"].concat();
        is_gone_link && new.range(&inside[..]..).next().is_some_and(|path| path.starts_with(&inside))
    };
    let (links, others): (Vec<&Change<'_>>, Vec<_>) = changes.iter().partition(makes_room);
    write_compared(maker, &links, out)?;
    write_compared(maker, &others, out)
}

/// Has git compare the trees of `changes`.
fn write_compared(maker: &mut Maker, changes: &[&Change<'_>], out: &mut File) -> Result<(), WorkspaceError> {
    if changes.is_empty() {
        return Ok(());
    }
    let old: BTreeMap<&[u8], (u32, &[u8])> =
        changes.iter().filter_map(|c| Some((c.path, (c.old?.mode, c.old?.id.as_slice())))).collect();
    let new: BTreeMap<&[u8], (u32, &[u8])> =
        changes.iter().filter_map(|c| Some((c.path, (c.new?.mode, c.new?.id.as_slice())))).collect();
    let trees = (maker.objects.write_tree(&old)?, maker.objects.write_tree(&new)?);
    let error = maker.io("have git make a patch in");
    let dir = maker.temp.path().to_owned();
    let Some(mut diff) = maker.diff.take() else { return Err(error(io::Error::other("git has ended"))) };
    match diff_trees(&mut diff, (&hex(&trees.0), &hex(&trees.1)), out) {
        Ok(()) => maker.diff = Some(diff),
        Err(failure) => {
            drop(diff.stdin);
            // Where git failed its own words count.
            diff.running.wait().map_err(|source| WorkspaceError::Git { root: dir, source })?;
            return Err(error(failure));
        }
    }
    Ok(())
}

/// A line that git says again as it is, since it names no object; in no patch does a line read so.
const END_OF_PATCH: &str = "end of patch\n";

/// Has `diff` write what differs between two trees, by their names, to `out`.
fn diff_trees(diff: &mut Serving, trees: (&str, &str), out: &mut File) -> io::Result<()> {
    write!(diff.stdin, "{} {}\n{END_OF_PATCH}", trees.0, trees.1)?;
    diff.stdin.flush()?;
    let mut out = BufWriter::with_capacity(64 << 10, out);
    let mut line = Vec::new();
    // It names the trees first.
    let mut is_first = true;
    loop {
        line.clear();
        if diff.stdout.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == END_OF_PATCH.as_bytes() {
            return out.flush();
        }
        if !std::mem::take(&mut is_first) {
            out.write_all(&line)?;
        }
    }
}

/// Writes what changed where a file is large, or was.
pub(super) fn write_large(
    maker: &mut Maker,
    changes: &[&Change<'_>],
    out: &mut File,
) -> Result<(), WorkspaceError> {
    // A large file that only has another name has not changed.
    let mut sources: Vec<&Change<'_>> =
        changes.iter().copied().filter(|change| change.new.is_none()).collect();
    let mut written: Vec<(&Change<'_>, Option<&Change<'_>>)> = Vec::new();
    for change in changes.iter().copied().filter(|change| change.new.is_some()) {
        let is_source = |gone: &&Change<'_>| {
            let same = gone.old.zip(change.new).is_some_and(|(old, new)| {
                old.id == new.id && (old.mode == MODE_LINK) == (new.mode == MODE_LINK)
            });
            same && change.old.is_none()
        };
        let source = sources.iter().position(is_source).map(|at| sources.remove(at));
        written.push((change, source));
    }
    written.extend(sources.into_iter().map(|gone| (gone, None)));
    let error = maker.io("write a patch in");
    let mut parts = Vec::new();
    for (change, source) in written {
        let is_moved =
            source.is_some() || change.old.zip(change.new).is_some_and(|(old, new)| old.id == new.id);
        let old_type = change.old.map(|old| old.mode == MODE_LINK);
        let changes_type =
            change.new.is_some_and(|new| old_type.is_some_and(|link| link != (new.mode == MODE_LINK)));
        let mut file = |id: &[u8], large: Option<&PathBuf>| match large {
            Some(path) => Ok(path.clone()),
            None => maker.content(id),
        };
        let old = match change.old.filter(|_| !is_moved) {
            Some(old) => Some(file(&old.id, None)?),
            None => None,
        };
        let new = match change.new.filter(|_| !is_moved) {
            Some(new) => Some(file(&new.id, new.large.as_ref())?),
            None => None,
        };
        if changes_type {
            // git writes a change of the type as two: what was goes, and what is comes.
            parts.push((Change { new: None, ..*change }, None, old, None));
            parts.push((Change { old: None, ..*change }, None, None, new));
        } else {
            parts.push((Change { ..*change }, source, old, new));
        }
    }
    let attempt = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, out);
        let no_id = "0".repeat(if maker.objects.is_sha256() { 64 } else { 40 });
        for (change, source, old, new) in &parts {
            write_header(&mut out, change, *source, &no_id)?;
            if old.is_some() || new.is_some() {
                literal::write(&mut out, Side { file: old.as_deref() }, Side { file: new.as_deref() })?;
            }
        }
        out.flush()
    };
    attempt().map_err(error)
}

/// Writes the header of a change of a large file (diff.c, fill_metainfo); `source` is what it is a new name of.
fn write_header(
    out: &mut dyn Write,
    change: &Change<'_>,
    source: Option<&Change<'_>>,
    no_id: &str,
) -> io::Result<()> {
    let from = source.map_or(change.path, |source| source.path);
    let old = change.old.or_else(|| source?.old);
    out.write_all(
        &[b"diff --git ", &side(b"a/", from)[..], b" ", &side(b"b/", change.path), b"\n"].concat(),
    )?;
    match (old, change.new) {
        (Some(old), Some(new)) if old.mode != new.mode => {
            writeln!(out, "old mode {:06o}\nnew mode {:06o}", old.mode, new.mode)?;
        }
        (None, Some(new)) => writeln!(out, "new file mode {:06o}", new.mode)?,
        (Some(old), None) => writeln!(out, "deleted file mode {:06o}", old.mode)?,
        _ => {}
    }
    if source.is_some() {
        out.write_all(b"similarity index 100%\nrename from ")?;
        out.write_all(
            &[&printed(from, true)[..], b"\nrename to ", &printed(change.path, true), b"\n"].concat(),
        )?;
        return Ok(());
    }
    let (old_id, new_id) = (old.map(|old| hex(&old.id)), change.new.map(|new| hex(&new.id)));
    if old_id == new_id {
        return Ok(());
    }
    let mode = match (old, change.new) {
        (Some(old), Some(new)) if old.mode == new.mode => format!(" {:06o}", old.mode),
        _ => String::new(),
    };
    let none = || no_id.to_owned();
    writeln!(out, "index {}..{}{mode}", old_id.unwrap_or_else(none), new_id.unwrap_or_else(none))
}
