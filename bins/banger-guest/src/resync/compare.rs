//! Whether the guest still has what it was given: what it has changed is not overwritten.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{FileStat, SFlag};
use sha2::{Digest, Sha256};

use super::below::{Below, kind};
use super::git;
use crate::changes::{Cache, Id, mode_of};
use crate::error::{Context, Error};
use banger_protocol::changes::{MODE_FILE, MODE_LINK, MODE_PROGRAM};
use banger_protocol::resync::{GIVEN_INDEX, Known, PLACE, Plan, Staged, TREE};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// What of the guest's own is in the way.
    pub displaced: Vec<Vec<u8>>,
    /// The paths for which its index has something of its own, where they differ there.
    pub staged_otherwise: HashSet<Vec<u8>>,
    /// Whether the host's index can take the place of the guest's, with its flags, and with what it knows of the files.
    pub takes_whole_index: bool,
    /// Whether HEAD is not where it was: where the guest has gone from there is its own.
    pub is_head_elsewhere: bool,
    /// The commit that it is at then.
    pub own_head: Option<String>,
}

/// What has come.
struct New<'a> {
    below: Below,
    names: HashMap<&'a [u8], usize>,
}

impl<'a> New<'a> {
    fn of(plan: &'a Plan) -> Result<Self, Error> {
        let below = Below::open(PLACE).context(|| format!("cannot open {PLACE}"))?;
        let names = plan.received.iter().enumerate().map(|(number, path)| (path.as_slice(), number));
        Ok(Self { below, names: names.collect() })
    }

    /// Where what is to be at `path` waits, if anything is to be there.
    fn name(&self, path: &[u8]) -> Vec<u8> {
        match self.names.get(path) {
            Some(number) => number.to_string().into_bytes(),
            None => [TREE.as_bytes(), b"/", path].concat(),
        }
    }
}

/// Compares the workspace with what it was given, as far as that differs from what is to be.
pub fn compare(work: &Below, plan: &Plan, cache: &Cache) -> Result<Found, Error> {
    let mut found = Found { displaced: files(work, &New::of(plan)?, plan, cache)?, ..Found::default() };
    if let Some(staged) = &plan.staged {
        let same_file = || {
            let id = |path: &str| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
            id(".git/index").is_some() && id(".git/index") == id(&format!(".git/{GIVEN_INDEX}"))
        };
        if same_file() {
            found.takes_whole_index = true;
        } else {
            (found.takes_whole_index, found.staged_otherwise) = index(staged)?;
        }
    }
    if let Some((line, commit)) = &plan.head {
        let head = fs::read(".git/HEAD").context(|| "cannot read .git/HEAD".into())?;
        let now = git::commit_of("HEAD")?;
        let first = head.split(|byte| *byte == b'\n').next();
        found.is_head_elsewhere = first != Some(line) || now != *commit;
        found.own_head = Some(now).filter(|now| found.is_head_elsewhere && !now.is_empty());
    }
    Ok(found)
}

/// What of the guest's own is in the way, and is not as it is to be already.
fn files(work: &Below, new: &New<'_>, plan: &Plan, cache: &Cache) -> Result<Vec<Vec<u8>>, Error> {
    let what = || "cannot compare the workspace with what comes".to_owned();
    let mut differing = Vec::new();
    for known in &plan.known {
        let is_given = match work.look(&known.path).context(what)? {
            Some(now) => is_as_given(work, cache, plan.sha256, known, &now).context(what)?,
            None => false,
        };
        if !is_given && !is_as_wanted(work, new, &known.path).context(what)? {
            differing.push(known.path.clone());
        }
    }
    for path in &plan.fresh {
        if work.look(path).context(what)?.is_some() && !is_as_wanted(work, new, path).context(what)? {
            differing.push(path.clone());
        }
    }
    for path in &plan.directories {
        if work.look(path).context(what)?.is_some_and(|now| kind(&now) != SFlag::S_IFDIR) {
            differing.push(path.clone());
        }
    }
    let gone: HashSet<&[u8]> = plan.gone.iter().map(Vec::as_slice).collect();
    for path in &plan.replaced {
        let mut below = Vec::new();
        if work.look(path).context(what)?.is_some_and(|now| kind(&now) == SFlag::S_IFDIR) {
            work.files(path, &mut below).context(what)?;
        }
        differing.extend(below.into_iter().filter(|path| !gone.contains(path.as_slice())));
    }
    Ok(differing)
}

/// Whether a file is the one that was given: by its bytes, which are read unless it is certain that nobody has touched them.
fn is_as_given(work: &Below, cache: &Cache, sha256: bool, known: &Known, now: &FileStat) -> io::Result<bool> {
    let size = now.st_size.unsigned_abs();
    let mut id = Id::of_blob(sha256, size);
    match (kind(now), known.mode) {
        (SFlag::S_IFLNK, MODE_LINK) => id.update(&work.target(&known.path)?),
        (SFlag::S_IFREG, MODE_FILE | MODE_PROGRAM) if mode_of(now) == known.mode => {
            if cache.is_same(&known.path, now, &known.id) {
                return Ok(true);
            }
            let mut file = BufReader::with_capacity(128 << 10, work.read(&known.path)?);
            loop {
                let piece = file.fill_buf()?;
                let length = piece.len();
                if length == 0 {
                    break;
                }
                id.update(piece);
                file.consume(length);
            }
        }
        _ => return Ok(false),
    }
    Ok(id.finish() == known.id)
}

/// Whether the workspace has at `path` what it is to have.
fn is_as_wanted(work: &Below, new: &New<'_>, path: &[u8]) -> io::Result<bool> {
    let (name, new) = (new.name(path), &new.below);
    let (now, wanted) = match (work.look(path)?, new.look(&name)?) {
        (Some(now), Some(wanted)) => (now, wanted),
        (now, wanted) => return Ok(now.is_none() && wanted.is_none()),
    };
    match (kind(&now), kind(&wanted)) {
        (SFlag::S_IFLNK, SFlag::S_IFLNK) => Ok(work.target(path)? == new.target(&name)?),
        (SFlag::S_IFREG, SFlag::S_IFREG)
            if now.st_size == wanted.st_size && mode_of(&now) == mode_of(&wanted) =>
        {
            is_equal(work.read(path)?, new.read(&name)?)
        }
        _ => Ok(false),
    }
}

fn is_equal(one: fs::File, other: fs::File) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] || (length == 0 && left.len() != right.len()) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Whether the index is as it was given, and, where it is not, the paths that differ and for which it has something of the guest's own.
fn index(staged: &Staged) -> Result<(bool, HashSet<Vec<u8>>), Error> {
    let now = git::run(["ls-files", "-s", "-z"], None)?;
    let digest: String = Sha256::digest(&now).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest == staged.digest {
        return Ok((true, HashSet::new()));
    }
    let (now, before, after) = (by_path(&now), by_path(&staged.before), by_path(&staged.after));
    let paths: HashSet<&[u8]> =
        staged.paths.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
    let is_own = |path: &[u8]| {
        let have = now.get(path);
        have != before.get(path) && have != after.get(path)
    };
    // As git takes a path: with what is above it, and below it.
    let mut own: HashSet<Vec<u8>> =
        paths.iter().filter(|path| is_own(path)).map(|path| path.to_vec()).collect();
    for path in now.keys().filter(|path| !paths.contains(*path)) {
        own.extend(parents(path).filter(|above| paths.contains(above)).map(<[u8]>::to_vec));
    }
    for path in &paths {
        if parents(path).any(|above| now.contains_key(above) && !paths.contains(above)) {
            own.insert(path.to_vec());
        }
    }
    Ok((false, own))
}

/// The paths of the directories that `path` is in.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// The lines of `git ls-files -s -z` for each path.
fn by_path(lines: &[u8]) -> HashMap<&[u8], Vec<&[u8]>> {
    let mut found: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    for line in lines.split(|byte| *byte == 0) {
        if let Some(tab) = line.iter().position(|byte| *byte == b'\t') {
            found.entry(&line[tab + 1..]).or_default().push(&line[..tab]);
        }
    }
    found
}
