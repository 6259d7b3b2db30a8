//! Packs of the host's that travel as they are. Copying a large pack means hashing all of it, which takes longer than sending it;
//! but a pack may go only where everything in it is to travel, since it may hold other branches' objects, too.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::checkout::Checkout;
use super::error::WorkspaceError;
use banger_host::git::Git;
use banger_host::process::exec::ExecError;

/// From which size on a pack is worth it, bytes.
const MIN_SIZE: u64 = 16 << 20;
/// How many objects are looked through: each takes memory here.
const MAX_OBJECTS: usize = 100_000;
/// How long the list of all that travels may be, bytes.
const MAX_LIST: usize = 12 << 20;
/// How a pack index of version 2 begins, and where its list of objects does (gitformat-pack(5)).
const MAGIC: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];
const NAMES_AT: u64 = 8 + 256 * 4;

/// The id of an object.
type Id = [u8; 20];

/// A pack as it lies on the host, opened.
#[derive(Debug)]
pub struct Whole {
    /// `pack-….pack` and `.idx`, by their names.
    pub files: [(PathBuf, File); 2],
}

/// What travels as it is, and what is left to be packed.
#[derive(Debug)]
pub struct Plan {
    /// The packs.
    pub packs: Vec<Whole>,
    /// The other objects, as pack-objects reads them.
    pub rest: Vec<u8>,
}

/// Looks for packs of the checkout's whose objects all travel with `revisions`, a line each; `None` where there are none, or where that cannot
/// be told quickly.
pub fn plan(checkout: &Checkout, git: &Git, revisions: &str) -> Result<Option<Plan>, WorkspaceError> {
    let candidates = candidates(&checkout.objects.join("pack"));
    if candidates.is_empty() || checkout.object_format != "sha1" {
        return Ok(None);
    }
    // A ref that HEAD does not contain has most likely brought objects of its own.
    let others = git
        .exec(["rev-list", "-1", "--all", "--stdin"])
        .stdin(revisions.lines().map(|line| format!("^{line}\n")).collect::<String>())
        .run()
        .map_err(checkout.git_error())?;
    if !others.is_empty() {
        return Ok(None);
    }
    let args = ["rev-list", "--objects", "--indexed-objects", "--stdin"];
    let listed = match git.exec(args).stdin(revisions).stdout_limit(MAX_LIST).run() {
        Err(ExecError::TooMuch { .. }) => return Ok(None),
        listed => listed.map_err(checkout.git_error())?,
    };
    let lines = || listed.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let wanted: HashSet<Id> = lines().filter_map(id).collect();
    let mut covered = HashSet::new();
    let mut packs = Vec::new();
    for path in candidates {
        // A pack that cannot be read, or that is gone by now, is none.
        if let Ok(Some((pack, objects))) = open(&path, &wanted) {
            covered.extend(objects);
            packs.push(pack);
        }
    }
    if packs.is_empty() {
        return Ok(None);
    }
    let rest = lines().filter(|line| id(line).is_none_or(|id| !covered.contains(&id)));
    let rest = rest.flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
    Ok(Some(Plan { packs, rest }))
}

/// The large packs without too many objects, by their indexes.
fn candidates(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let large = |path: &PathBuf| {
        let pack = path.with_extension("pack");
        // Of each object an index has its id, a checksum and a place, 28 bytes.
        let few = |path| fs::metadata(path).is_ok_and(|m| m.len() / 28 <= MAX_OBJECTS as u64);
        let large = |pack| fs::metadata(pack).is_ok_and(|m| m.len() >= MIN_SIZE);
        path.extension().is_some_and(|e| e == "idx") && few(path) && large(&pack)
    };
    entries.filter(large).collect()
}

/// The id that a line of `git rev-list --objects` begins with.
fn id(line: &[u8]) -> Option<Id> {
    let mut id = [0; 20];
    let (hex, _) = line.get(..40)?.as_chunks::<2>();
    for (byte, pair) in id.iter_mut().zip(hex) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

/// Opens the pack with the index at `path` if all its objects are `wanted`; gives them as well.
fn open(path: &Path, wanted: &HashSet<Id>) -> std::io::Result<Option<(Whole, Vec<Id>)>> {
    let pack = File::open(path.with_extension("pack"))?;
    let mut file = BufReader::new(File::open(path)?);
    let (mut magic, mut count) = ([0; 8], [0; 4]);
    file.read_exact(&mut magic)?;
    file.seek(SeekFrom::Start(NAMES_AT - 4))?;
    file.read_exact(&mut count)?;
    let count = u32::from_be_bytes(count) as usize;
    if magic != MAGIC || count > wanted.len() {
        return Ok(None);
    }
    let mut objects = Vec::with_capacity(count);
    for _ in 0..count {
        let mut id = [0; 20];
        file.read_exact(&mut id)?;
        if !wanted.contains(&id) {
            return Ok(None);
        }
        objects.push(id);
    }
    let mut index = file.into_inner();
    index.rewind()?;
    let name = |extension: &str| {
        Path::new("objects/pack").join(path.with_extension(extension).file_name().unwrap_or_default())
    };
    Ok(Some((Whole { files: [(name("pack"), pack), (name("idx"), index)] }, objects)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_lines() {
        assert_eq!(id(b"00010203040506070809fffefdfcfbfaf9f8f7f6 a name").unwrap()[10], 0xff);
        assert!(id(b"0001").is_none() && id(&[b'x'; 40]).is_none());
    }
}
