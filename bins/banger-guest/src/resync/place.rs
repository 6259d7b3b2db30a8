//! Everything to its place. What the mark stands for is on the disk before the mark: a virtual machine may lose its power.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::unistd::{fsync, syncfs};

use super::below::Below;
use super::{git, path, place};
use crate::changes;
use crate::clock::now_us;
use crate::error::{Context, Error};
use crate::sys;
use banger_protocol::resync::{GIVEN_INDEX, INDEX, MARK, PLACE, Plan, TREE};

/// How many files are written to the disk one by one: from there on all that the disk is behind with takes less time.
const MANY: usize = 64;
/// Before the mark has its name.
const MARK_TO_BE: &str = "go.new";
/// The file that says that what gives way is gone: then what is there is new.
const ROOM_MADE: &str = "room";

/// Sets the mark.
pub fn mark(plan: &Plan) -> Result<(), Error> {
    let what = || "cannot bring what was received to the disk".to_owned();
    let mut paths: Vec<PathBuf> = received(plan).context(what)?.into_iter().map(|(from, _)| from).collect();
    paths.push(place(INDEX));
    let directory = File::open(PLACE).context(what)?;
    if paths.len() > MANY {
        syncfs(&directory).context(what)?;
    } else {
        // On an ext4 one commit of the journal is enough, which the mark's own is: it holds whatever was done to the other files
        // before, and is written when the disk has the bytes that it was told to keep until then (kernel, ext4/journal.rst).
        let at_once = fstatfs(&directory).context(what)?.filesystem_type() == EXT4_SUPER_MAGIC;
        let bring = |path: &PathBuf| match File::open(path) {
            Ok(file) if at_once => sys::write_out(&file),
            Ok(file) => Ok(fsync(file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        // Links go to the disk with the directories that they are in.
        let is_file = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        paths.iter().filter(is_file).try_for_each(bring).context(what)?;
    }
    let mark = place(MARK_TO_BE);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&mark).context(what)?;
    file.write_all(&plan.encode()).context(what)?;
    fsync(&file).context(what)?;
    fs::rename(mark, place(MARK)).context(what)
}

/// All files and links that are to go to the workspace: where they wait, and where they go.
fn received(plan: &Plan) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let received = plan.received.iter().enumerate();
    let mut files: Vec<_> =
        received.map(|(number, path)| (place(&number.to_string()), path.clone())).collect();
    let mut made = Vec::new();
    if place(TREE).exists() {
        Below::open(PLACE)?.files(TREE.as_bytes(), &mut made)?;
    }
    files
        .extend(made.iter().map(|file| (Path::new(PLACE).join(path(file)), file[TREE.len() + 1..].to_vec())));
    files.sort_by_key(|(_, path)| order(path));
    Ok(files)
}

/// Puts everything in its place, or what of it is not there yet, and takes the mark away.
pub fn finish(work: &Below, workspace: &OsStr) -> Result<(), Error> {
    let plan = fs::read(place(MARK)).context(|| format!("cannot read {PLACE}/{MARK}"))?;
    let plan = Plan::decode(&plan)
        .ok_or_else(|| Error::new(format!("{PLACE}/{MARK} is of another version of this program")))?;
    if !place(ROOM_MADE).exists() {
        make_room(work, &plan)?;
        File::create(place(ROOM_MADE)).context(|| format!("cannot write {PLACE}/{ROOM_MADE}"))?;
    }
    let what = |path: &[u8]| format!("cannot write {}", String::from_utf8_lossy(path));
    for (from, to) in received(&plan).context(|| format!("cannot read {PLACE}"))? {
        work.put(&from, &to).context(|| what(&to))?;
    }
    match &plan.staged {
        Some(_) if plan.whole_index => {
            for (from, to) in [(INDEX, "index"), (GIVEN_INDEX, GIVEN_INDEX)] {
                let to = format!(".git/{to}");
                work.put(&place(from), to.as_bytes()).context(|| what(to.as_bytes()))?;
            }
        }
        Some(staged) => git::stage(staged)?,
        None => {}
    }
    git::update_refs(&plan.refs)?;
    if let Some(commit) = &plan.shallow {
        add_shallow(commit).context(|| what(b".git/shallow"))?;
    }
    plan.settings.iter().try_for_each(|(name, value)| git::set(name, value))?;
    changes::renote(workspace, &plan.placed, &plan.gone);
    fs::remove_file(place(MARK)).context(|| format!("cannot remove {PLACE}/{MARK}"))?;
    super::clear()
}

/// Removes the locks of a git that was about the same before this boot: a machine that lost its power has left them, and nobody has
/// them any more.
pub fn drop_stale_locks() -> Result<(), Error> {
    let what = || format!("cannot read {PLACE}/{MARK}");
    let plan = fs::read(place(MARK)).context(what)?;
    let refs = Plan::decode(&plan).map(|plan| plan.refs).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = now.saturating_sub(Duration::from_micros(now_us()));
    let own = ["index", "HEAD", "config", "packed-refs"].map(PathBuf::from);
    for name in own.into_iter().chain(refs.iter().map(|(name, _)| path(name))) {
        let lock = Path::new(".git").join(path(&[name.as_os_str().as_bytes(), b".lock"].concat()));
        let before =
            |metadata: fs::Metadata| u64::try_from(metadata.mtime()).is_ok_and(|s| s < boot.as_secs());
        if lock.symlink_metadata().is_ok_and(before) {
            fs::remove_file(&lock).context(|| format!("cannot remove {}", lock.display()))?;
        }
    }
    Ok(())
}

/// Removes what is no more, and what gives way.
fn make_room(work: &Below, plan: &Plan) -> Result<(), Error> {
    let what = |path: &[u8]| format!("cannot remove {}", String::from_utf8_lossy(path));
    for path in &plan.displaced {
        work.remove_all(path).context(|| what(path))?;
    }
    for path in &plan.gone {
        work.unlink(path).context(|| what(path))?;
    }
    let parent = |path: &[u8]| path.iter().rposition(|byte| *byte == b'/');
    let parents: BTreeSet<&[u8]> = plan.gone.iter().filter_map(|path| Some(&path[..parent(path)?])).collect();
    // The deepest first. Where one is not empty, all is well.
    for mut path in parents.into_iter().rev() {
        while work.remove_empty(path)
            && let Some(end) = parent(path)
        {
            path = &path[..end];
        }
    }
    Ok(())
}

/// In which order files take their places: what names others comes after them.
fn order(path: &[u8]) -> u8 {
    let Some(path) = path.strip_prefix(b".git/") else { return 0 };
    match (path.starts_with(b"objects/"), path.ends_with(b".idx")) {
        (true, false) => 1,
        (true, true) => 2,
        _ => 3,
    }
}

/// Adds a commit to those whose parents are not there.
fn add_shallow(commit: &str) -> io::Result<()> {
    let (file, new) = (Path::new(".git/shallow"), place("shallow"));
    let there = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let commits: BTreeSet<&str> = there.lines().chain([commit]).collect();
    let text: String = commits.into_iter().flat_map(|commit| [commit, "\n"]).collect();
    fs::write(&new, text)?;
    fs::rename(new, file)
}
