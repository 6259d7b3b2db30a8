//! What changed in the workspace. The guest compares its files with what was sent, and sends those that differ; the patch is made here, by a
//! git that reads no configuration, no attributes and no filters: of two trees, which hold the files that differ as they were and as they are.
//!
//! So a patch is true or says so: applied to the files that were sent it gives the guest's, or what is missing is [`Export::lost`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use super::error::WorkspaceError;
use super::guest::{Ended, Given, Guest, Output, fill, quote};
use super::index::{Index, ObjectId};
use super::incoming::{Incoming, LARGE, NewFile, Told, refused};
use super::literal::{self, Side};
use super::object::{Objects, hex};
use super::patch::{Entry, Scanned, Scanner};
use super::resync::is_unable;
use super::sealed;
use super::transfer::failed;
use crate::contract::changes::{MODE_LINK, Request, SentFile, VERB};
use crate::sys::exec::Running;
use crate::sys::git::Git;
use crate::sys::remote::Exit;

/// How long a guest may say nothing while it looks for changes.
const SILENCE: Duration = Duration::from_secs(600);
/// How long what is started to make a patch may wait for the command whose patch it is.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How much may come of objects that only the guest has, bytes.
const MAX_FETCHED: usize = 256 << 20;
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
        let (running, stdin, stdout) =
            started.map_err(|source| WorkspaceError::Git { root: dir, source })?;
        Ok(Self { running, stdin, stdout: BufReader::with_capacity(64 << 10, stdout) })
    }
}

/// What makes a patch: it is started before this process gives up what it does not need to talk to a guest.
#[derive(Debug)]
pub struct Maker {
    temp: tempfile::TempDir,
    objects: Objects,
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
        let temp = temp.map_err(|e| WorkspaceError::io("make a directory in", parent)(crate::sys::atomic::bare(e)))?;
        let git_dir = temp.path().join("git");
        sealed::make(&git_dir, alternates, sha256)?;
        let spool = temp.path().join("files");
        fs::create_dir_all(&spool).map_err(WorkspaceError::io("make", spool))?;
        let git = sealed::git(temp.path(), &git_dir);
        Ok(Self {
            objects: Objects::at(git_dir.join("objects"), sha256),
            sizes: Serving::start(&git, &["cat-file", "--batch-check"])?,
            contents: Serving::start(&git, &["cat-file", "--batch"])?,
            diff: Some(Serving::start(&git, &AS_PATCH)?),
            temp,
        })
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> WorkspaceError + use<> {
        WorkspaceError::io(action, self.temp.path().to_owned())
    }

    /// How large the objects `ids` are; without those that are not there.
    fn sizes(&mut self, ids: &BTreeSet<Vec<u8>>) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
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
    fn content(&mut self, id: &[u8]) -> Result<PathBuf, WorkspaceError> {
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

/// What is wanted of the changes.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What the guest's files are compared with; of its trees the first is the one whose patch is made.
    pub sent: &'a Request,
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
    /// What should be in it and is not.
    pub lost: Vec<(Vec<u8>, String)>,
    /// What no patch can hold.
    pub left_out: Vec<(Vec<u8>, String)>,
    /// How many new files are ignored.
    pub ignored: u64,
}

/// Has banger-guest, or `helper` in its place, compare; `bytes` is the request.
fn talk(
    guest: &Guest<'_>,
    guest_path: &str,
    bytes: &[u8],
    helper: Option<&str>,
    incoming: &mut Incoming<'_>,
) -> Result<Ended, WorkspaceError> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
    let ended = std::thread::scope(|scope| {
        // A guest that does not read on says why itself.
        scope.spawn(move || drop(File::from(writer).write_all(bytes)));
        let given = Given { input: Some(reader), patience: Some(SILENCE), ..Given::default() };
        match helper {
            None => guest.run_own(VERB, &["--", guest_path], given, incoming),
            Some(helper) => guest.run_helper(helper, VERB, &["--remove-self", "--", guest_path], given, incoming),
        }
    });
    incoming.failure().map_or(ended, Err)
}

/// Asks the guest what differs from `request` at `guest_path`.
fn ask(
    guest: &Guest<'_>,
    guest_path: &str,
    request: &Request,
    incoming: &mut Incoming<'_>,
) -> Result<(), WorkspaceError> {
    let bytes = request.encode();
    let mut ended = talk(guest, guest_path, &bytes, None, incoming)?;
    if is_unable(&ended)
        && let Some(helper) = guest.bring_helper()?
    {
        ended = talk(guest, guest_path, &bytes, Some(&helper), incoming)?;
    }
    if is_unable(&ended) {
        return Err(WorkspaceError::OldGuest);
    }
    if !ended.is_ready() {
        return Err(failed("looking for changes", guest_path, ended));
    }
    Ok(())
}

/// Has the guest's files compared with `commit` of the guest's instead of with what was sent. Here the guest's git is asked what that commit
/// holds; what the files are it is not asked. `tree` is what git had of what was `sent`.
///
/// # Errors
/// [`WorkspaceError`]; there is no such commit.
pub fn rebase(
    guest: &Guest<'_>,
    guest_path: &str,
    commit: &str,
    tree: &Index,
    sent: &mut Request,
) -> Result<(), WorkspaceError> {
    let script = "cd @PATH@ && git rev-parse -q --verify @COMMIT@ >/dev/null && say ready && git ls-tree -r -z --full-tree @COMMIT@\n";
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("COMMIT", quote([format!("{commit}^{{commit}}").as_str()])),
    ]);
    let mut listed = Fetched::default();
    let ended = guest.run(&fill(script, &values), None, Some(SILENCE), &mut listed)?;
    if !ended.is_ready() || ended.exit != Exit::Status(0) {
        return Err(failed("looking for the commit", guest_path, ended));
    }
    let root = sent.trees.first_mut().ok_or(WorkspaceError::Forgotten)?;
    let known: HashMap<&[u8], &SentFile> = root.files.iter().map(|file| (file.path.as_slice(), file)).collect();
    // MODE TYPE ID<tab>PATH.
    let file = |line: &[u8]| {
        let (head, path) = line.split_at(line.iter().position(|byte| *byte == b'\t')?);
        let [mode, b"blob", id] = head.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else { return None };
        let (path, id) = (path[1..].to_vec(), ObjectId::from_hex(id)?);
        // What git has not changed since has the bytes that were sent, whatever git makes of them.
        let same = tree.of(&path).first().is_some_and(|entry| entry.state.object == id);
        let bytes = known.get(path.as_slice()).filter(|_| same).map(|file| file.id.clone());
        let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
        Some(SentFile { path, mode, id: bytes.unwrap_or_else(|| id.as_bytes().to_vec()) })
    };
    root.files = crate::sys::git::split_nul(&listed.0).filter_map(file).collect();
    Ok(())
}

/// One difference of the tree whose patch is made.
#[derive(Debug)]
struct Change<'a> {
    path: &'a [u8],
    old: Option<&'a SentFile>,
    new: Option<&'a NewFile>,
}

/// Writes what changed in the workspace to `out`, as a patch; `path` is its name for people. When it fails, `out` holds part of one.
///
/// # Errors
/// [`WorkspaceError`].
pub fn export(
    guest: &Guest<'_>,
    guest_path: &str,
    wanted: Wanted<'_>,
    mut maker: Maker,
    out: &mut File,
    path: &Path,
) -> Result<Export, WorkspaceError> {
    let mut request = wanted.sent.clone();
    (request.max_file_bytes, request.max_bytes) = (wanted.max_bytes, wanted.max_bytes.saturating_mul(2));
    request.trees.iter_mut().skip(1).for_each(|tree| tree.names_only = true);
    let objects = maker.objects.clone();
    let mut incoming = Incoming::new(&request, &objects, maker.temp.path().join("files"));
    ask(guest, guest_path, &request, &mut incoming)?;
    let told = incoming.finish()?;
    let mut lost = named(&request, &told.lost);
    lost.extend(of_other_trees(&request, &told));
    let mut changes = changes(&request, &told, wanted.only, &mut lost);
    let sizes = known_sizes(&mut maker, guest, guest_path, &changes)?;
    changes.retain(|change| is_known(change, &sizes, &mut lost));
    let large = |change: &Change<'_>| {
        let old = change.old.is_some_and(|old| sizes.get(&old.id).is_some_and(|size| *size > LARGE));
        old || change.new.is_some_and(|new| new.large.is_some() || sizes.get(&new.id).is_some_and(|s| *s > LARGE))
    };
    let (large, small): (Vec<_>, Vec<_>) = changes.iter().partition(|change| large(change));
    let written = write_small(&mut maker, &small, out).and_then(|()| write_large(&mut maker, &large, out));
    written?;
    let error = || WorkspaceError::io("write", path);
    let scanned = scan(out, error)?;
    let scanned = if scanned.bytes > wanted.max_bytes {
        shorten(&scanned, wanted.max_bytes, out, &maker, &mut lost)?
    } else {
        scanned
    };
    out.seek(io::SeekFrom::End(0)).map_err(error())?;
    let is_wanted = |path: &[u8]| wanted.only.is_empty() || is_below(path, wanted.only);
    lost.retain(|(path, _)| is_wanted(path));
    let mut left_out = named(&request, &told.left_out);
    left_out.retain(|(path, _)| is_wanted(path));
    lost.sort();
    left_out.sort();
    Ok(Export { scanned, lost, left_out, ignored: told.ignored })
}

/// The paths that differ.
///
/// # Errors
/// [`WorkspaceError`].
pub fn changed(
    guest: &Guest<'_>,
    guest_path: &str,
    sent: &Request,
) -> Result<Vec<Vec<u8>>, WorkspaceError> {
    let mut request = sent.clone();
    (request.max_file_bytes, request.max_bytes) = (u64::MAX / 8, u64::MAX / 8);
    request.trees.iter_mut().for_each(|tree| tree.names_only = true);
    let objects = Objects::at("/nonexistent", request.sha256);
    let mut incoming = Incoming::new(&request, &objects, PathBuf::new());
    ask(guest, guest_path, &request, &mut incoming)?;
    let told = incoming.finish()?;
    let places = told.files.keys().chain(&told.gone).chain(told.lost.iter().map(|(place, _)| place));
    let paths: BTreeSet<Vec<u8>> = places.map(|(tree, path)| whole(&request, *tree, path)).collect();
    Ok(paths.into_iter().collect())
}

/// The path in the workspace of what is at `path` in a tree.
fn whole(request: &Request, tree: u16, path: &[u8]) -> Vec<u8> {
    let first = request.trees.first().map_or(&b""[..], |tree| &tree.prefix);
    let prefix = request.trees.get(usize::from(tree)).map_or(&b""[..], |tree| &tree.prefix);
    let prefix = prefix.strip_prefix(first).unwrap_or(prefix);
    match prefix.strip_prefix(b"/").unwrap_or(prefix) {
        b"" => path.to_vec(),
        prefix => [prefix, b"/", path].concat(),
    }
}

fn named(request: &Request, told: &[((u16, Vec<u8>), String)]) -> Vec<(Vec<u8>, String)> {
    told.iter().map(|((tree, path), why)| (whole(request, *tree, path), why.clone())).collect()
}

/// What changed in submodules: it is in no patch but their own.
fn of_other_trees(request: &Request, told: &Told) -> Vec<(Vec<u8>, String)> {
    let places = told.files.keys().chain(&told.gone).filter(|(tree, _)| *tree > 0);
    let of = |(tree, path): &(u16, Vec<u8>)| {
        let submodule = whole(request, *tree, b"");
        let submodule = String::from_utf8_lossy(submodule.strip_suffix(b"/").unwrap_or(&submodule)).into_owned();
        (whole(request, *tree, path), format!("it is in the submodule {submodule}, which has a patch of its own"))
    };
    places.map(of).collect()
}

fn is_below(path: &[u8], only: &[String]) -> bool {
    only.iter().map(|only| only.trim_end_matches('/').as_bytes()).any(|only| {
        matches!(only, b"" | b".") || path == only || path.strip_prefix(only).is_some_and(|rest| rest.starts_with(b"/"))
    })
}

/// The differences of the first tree that a patch can hold.
fn changes<'a>(
    request: &'a Request,
    told: &'a Told,
    only: &[String],
    lost: &mut Vec<(Vec<u8>, String)>,
) -> Vec<Change<'a>> {
    let Some(tree) = request.trees.first() else { return Vec::new() };
    let old: HashMap<&[u8], &SentFile> = tree.files.iter().map(|file| (file.path.as_slice(), file)).collect();
    let mut changes = Vec::new();
    for ((_, path), new) in told.files.iter().filter(|((tree, _), _)| *tree == 0) {
        let old = old.get(path.as_slice()).copied();
        if old.is_some_and(|old| (old.mode, &old.id) == (new.mode, &new.id)) {
            continue;
        }
        match refused(path, new.mode) {
            Some(why) => lost.push((path.clone(), why.to_owned())),
            None => changes.push(Change { path, old, new: Some(new) }),
        }
    }
    let gone = told.gone.iter().filter(|place| place.0 == 0 && !told.files.contains_key(*place));
    changes.extend(gone.map(|(_, path)| Change { path, old: old.get(path.as_slice()).copied(), new: None }));
    if !only.is_empty() {
        changes.retain(|change| is_below(change.path, only));
    }
    changes.sort_unstable_by_key(|change| change.path);
    changes
}

/// The sizes of all objects that `changes` need. What the host does not have is asked of the guest's git, and taken where it is what its
/// name says.
fn known_sizes(
    maker: &mut Maker,
    guest: &Guest<'_>,
    guest_path: &str,
    changes: &[Change<'_>],
) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
    let old = changes.iter().filter_map(|change| Some(change.old?.id.clone()));
    let new = changes.iter().filter_map(|change| change.new.filter(|new| new.large.is_none()));
    let ids: BTreeSet<Vec<u8>> = old.chain(new.map(|new| new.id.clone())).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut sizes = maker.sizes(&ids)?;
    let missing: Vec<&Vec<u8>> = ids.iter().filter(|id| !sizes.contains_key(*id)).collect();
    if !missing.is_empty() {
        sizes.extend(fetch(guest, guest_path, &missing, &maker.objects)?);
    }
    Ok(sizes)
}

/// Collects what the guest's git says.
#[derive(Default)]
struct Fetched(Vec<u8>);

impl Output for Fetched {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.len() + bytes.len() > MAX_FETCHED {
            return Err(io::Error::other("the guest's objects are too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Takes objects of the guest's repository.
fn fetch(
    guest: &Guest<'_>,
    guest_path: &str,
    ids: &[&Vec<u8>],
    objects: &Objects,
) -> Result<HashMap<Vec<u8>, u64>, WorkspaceError> {
    let names: Vec<String> = ids.iter().map(|id| hex(id)).collect();
    let script = "cd @PATH@ && say ready && printf '%s\\n' @IDS@ | git cat-file --batch 2>/dev/null\n";
    let mut sizes = HashMap::new();
    // A command line holds so many.
    for some in names.chunks(200) {
        let ids = quote(some.iter().map(String::as_str));
        let values = BTreeMap::from([("PATH", quote([guest_path])), ("IDS", ids)]);
        let mut fetched = Fetched::default();
        // Where it fails what is missing is lost by name, and the rest comes.
        if guest.run(&fill(script, &values), None, Some(SILENCE), &mut fetched).is_err() {
            break;
        }
        let mut rest = fetched.0.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            let [_, "blob", size] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let Some(bytes) = size.parse().ok().and_then(|size: usize| rest.get(..size)) else { break };
            let id = objects.write("blob", bytes)?;
            sizes.insert(id, bytes.len() as u64);
            rest = rest.get(bytes.len() + 1..).unwrap_or_default();
        }
    }
    Ok(sizes)
}

/// Whether all is there that the change needs.
fn is_known(
    change: &Change<'_>,
    sizes: &HashMap<Vec<u8>, u64>,
    lost: &mut Vec<(Vec<u8>, String)>,
) -> bool {
    let old = change.old.is_none_or(|old| sizes.contains_key(&old.id));
    let new = change.new.is_none_or(|new| new.large.is_some() || sizes.contains_key(&new.id));
    if !(old && new) {
        let why = "neither the host nor the guest has what was sent of it any more";
        lost.push((change.path.to_vec(), why.to_owned()));
    }
    old && new
}

/// Has git write what changed in files of a usual size.
fn write_small(maker: &mut Maker, changes: &[&Change<'_>], out: &mut File) -> Result<(), WorkspaceError> {
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
    let Some(Serving { running, mut stdin, mut stdout }) = maker.diff.take() else { return Ok(()) };
    let asked = writeln!(stdin, "{} {}", hex(&trees.0), hex(&trees.1));
    // It ends with its input.
    drop(stdin);
    let attempt = || -> io::Result<()> {
        asked?;
        // It names the trees first.
        stdout.read_until(b'\n', &mut Vec::new())?;
        let mut out = BufWriter::with_capacity(64 << 10, out);
        io::copy(&mut stdout, &mut out)?;
        out.flush()
    };
    let copied = attempt();
    // Where git failed its own words count.
    running.wait().map_err(|source| WorkspaceError::Git { root: dir, source })?;
    copied.map_err(error)
}

/// `path` behind `a/` or `b/`, as git writes it in a patch (quote.c, with core.quotePath).
fn side(prefix: &str, path: &[u8]) -> Vec<u8> {
    let quoted = quote_path(path);
    match quoted.strip_prefix(b"\"") {
        Some(inner) => [b"\"", prefix.as_bytes(), inner].concat(),
        None => [prefix.as_bytes(), &quoted].concat(),
    }
}

fn quote_path(path: &[u8]) -> Vec<u8> {
    if !path.iter().any(|byte| matches!(byte, ..0x20 | 0x7f.. | b'"' | b'\\')) {
        return path.to_vec();
    }
    let mut out = b"\"".to_vec();
    for byte in path {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            7..=13 => out.extend([b'\\', b"abtnvfr"[usize::from(byte - 7)]]),
            b' '..=b'~' => out.push(*byte),
            other => out.extend(format!("\\{other:03o}").bytes()),
        }
    }
    out.push(b'"');
    out
}

/// Writes what changed where a file is large, or was.
fn write_large(maker: &mut Maker, changes: &[&Change<'_>], out: &mut File) -> Result<(), WorkspaceError> {
    // A large file that only has another name has not changed.
    let mut sources: Vec<&Change<'_>> = changes.iter().copied().filter(|change| change.new.is_none()).collect();
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
        let is_moved = source.is_some() || change.old.zip(change.new).is_some_and(|(old, new)| old.id == new.id);
        let old_type = change.old.map(|old| old.mode == MODE_LINK);
        let changes_type = change.new.is_some_and(|new| old_type.is_some_and(|link| link != (new.mode == MODE_LINK)));
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
    out.write_all(&[b"diff --git ", &side("a/", from)[..], b" ", &side("b/", change.path), b"\n"].concat())?;
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
        out.write_all(&[&quote_path(from)[..], b"\nrename to ", &quote_path(change.path), b"\n"].concat())?;
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

/// Reads the patch in `out`, as everybody who is to take it would.
fn scan<E: FnOnce(io::Error) -> WorkspaceError>(
    out: &mut File,
    error: impl Fn() -> E,
) -> Result<Scanned, WorkspaceError> {
    out.rewind().map_err(error())?;
    let mut scanner = Scanner::new(u64::MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match out.read(&mut buffer).map_err(error())? {
            0 => return scanner.finish().map_err(WorkspaceError::Patch),
            count => scanner.feed(&buffer[..count]).map_err(WorkspaceError::Patch)?,
        }
    }
}

/// Takes the largest changes out of the patch in `out` until the rest is no larger than `limit`, and calls them lost.
fn shorten(
    scanned: &Scanned,
    limit: u64,
    out: &mut File,
    maker: &Maker,
    lost: &mut Vec<(Vec<u8>, String)>,
) -> Result<Scanned, WorkspaceError> {
    let error = || maker.io("shorten a patch in");
    let mut by_size: Vec<&Entry> = scanned.entries.iter().collect();
    by_size.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.bytes));
    let (mut dropped, mut left) = (BTreeSet::new(), scanned.bytes);
    for entry in by_size {
        if left <= limit {
            break;
        }
        let paths: Vec<&Vec<u8>> = entry.paths().collect();
        // What else there is about the same file is of no use without it.
        let of_it = |other: &&Entry| other.paths().any(|path| paths.contains(&path));
        let all = scanned.entries.iter().filter(of_it).filter(|other| !dropped.contains(&other.path));
        left -= all.map(|other| other.bytes).sum::<u64>();
        let why = format!("its part of the patch has {} bytes, and the whole may have {limit}", entry.bytes);
        lost.extend(paths.iter().map(|path| ((*path).clone(), why.clone())));
        dropped.extend(paths.into_iter().cloned());
    }
    let kept = maker.temp.path().join("kept");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&kept).map_err(error())?;
    let mut attempt = || -> io::Result<()> {
        let mut at = 0;
        for entry in &scanned.entries {
            if !entry.paths().any(|path| dropped.contains(path)) {
                out.seek(io::SeekFrom::Start(at))?;
                io::copy(&mut (&mut *out).take(entry.bytes), &mut file)?;
            }
            at += entry.bytes;
        }
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
    fn paths_are_quoted_as_git_does_it() {
        assert_eq!(side("a/", b"d/x y"), b"a/d/x y");
        assert_eq!(side("b/", "ä\n\"\\\x07".as_bytes()), b"\"b/\\303\\244\\n\\\"\\\\\\a\"");
        assert!(is_below(b"src/a", &["src/".into()]) && !is_below(b"srca", &["src".into()]));
    }
}
