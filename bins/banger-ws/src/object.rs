//! git's objects, made here: ids, blobs and trees, in a directory that git reads (gitformat-loose(5)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::WorkspaceError;
use banger_host::digest::hex;

/// The mode of a directory in a tree.
const MODE_DIRECTORY: u32 = 0o40_000;

/// The id of an object, in the making.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// Of a repository of the usual kind.
    Sha1(Sha1),
    /// Of a repository of the object format sha256.
    Sha256(Sha256),
}

impl Hasher {
    /// Of an object of `size` bytes; `kind` is `blob` or `tree`.
    pub fn new(sha256: bool, kind: &str, size: u64) -> Self {
        let mut hasher = Self::bare(sha256);
        hasher.update(format!("{kind} {size}\0").as_bytes());
        hasher
    }

    /// Of nothing but the bytes.
    pub fn bare(sha256: bool) -> Self {
        if sha256 { Self::Sha256(Sha256::new()) } else { Self::Sha1(Sha1::new()) }
    }

    /// Takes more of it.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The id.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// A directory of objects.
#[derive(Debug, Clone)]
pub struct Objects {
    dir: PathBuf,
    sha256: bool,
}

impl Objects {
    /// The directory `dir`, which is there.
    pub fn at(dir: impl Into<PathBuf>, sha256: bool) -> Self {
        Self { dir: dir.into(), sha256 }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether ids are SHA-256.
    pub fn is_sha256(&self) -> bool {
        self.sha256
    }

    /// Writes an object and gives its id.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self, kind: &str, bytes: &[u8]) -> Result<Vec<u8>, WorkspaceError> {
        let mut hasher = Hasher::new(self.sha256, kind, bytes.len() as u64);
        hasher.update(bytes);
        let id = hasher.finish();
        let name = hex(&id);
        let path = self.dir.join(&name[..2]).join(&name[2..]);
        if path.exists() {
            return Ok(id);
        }
        let written = || -> io::Result<()> {
            fs::create_dir_all(self.dir.join(&name[..2]))?;
            // It is read once, and soon.
            let mut out = ZlibEncoder::new(File::create(&path)?, Compression::none());
            out.write_all(format!("{kind} {}\0", bytes.len()).as_bytes())?;
            out.write_all(bytes)?;
            out.finish().map(drop)
        };
        written().map_err(WorkspaceError::io("write", &path))?;
        Ok(id)
    }

    /// Writes the trees that hold `files`, modes and ids by their paths, and gives the id of the outermost.
    ///
    /// # Errors
    /// Those of the files.
    pub fn write_tree(&self, files: &BTreeMap<&[u8], (u32, &[u8])>) -> Result<Vec<u8>, WorkspaceError> {
        let files: Vec<_> = files.iter().map(|(path, (mode, id))| (*path, *mode, *id)).collect();
        self.tree_of(&files)
    }

    fn tree_of<'f>(&self, files: &[(&'f [u8], u32, &'f [u8])]) -> Result<Vec<u8>, WorkspaceError> {
        // By name, where a directory's ends in a slash: so git sorts them.
        let mut entries: BTreeMap<Vec<u8>, (u32, Vec<u8>)> = BTreeMap::new();
        let name = |path: &[u8]| path.iter().position(|byte| *byte == b'/').map(|end| path[..end].to_vec());
        for same in files.chunk_by(|one, other| name(one.0).is_some() && name(one.0) == name(other.0)) {
            match name(same[0].0) {
                None => drop(entries.insert(same[0].0.to_vec(), (same[0].1, same[0].2.to_vec()))),
                Some(name) => {
                    let below =
                        |(path, mode, id): &(&'f [u8], u32, &'f [u8])| (&path[name.len() + 1..], *mode, *id);
                    let inner: Vec<_> = same.iter().map(below).collect();
                    let id = self.tree_of(&inner)?;
                    entries.insert([&name[..], b"/"].concat(), (MODE_DIRECTORY, id));
                }
            }
        }
        let mut text = Vec::new();
        for (name, (mode, id)) in &entries {
            text.extend_from_slice(format!("{mode:o} ").as_bytes());
            text.extend_from_slice(name.strip_suffix(b"/").unwrap_or(name));
            text.push(0);
            text.extend_from_slice(id);
        }
        self.write("tree", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::git::Git;

    #[test]
    fn git_reads_what_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let git = Git::at(temp.path());
        git.run(["init", "-q"]).unwrap();
        let objects = Objects::at(temp.path().join(".git/objects"), false);
        let id = objects.write("blob", b"hi\n").unwrap();
        assert_eq!(hex(&id), "45b983be36b73c0788dc9cbcb76cbb80fc7bb057");
        let paths: [&[u8]; 6] = [b"a", b"a-b/x", b"a.c", b"d/e/f", b"d/g", b"d.x"];
        let files = paths.iter().map(|path| (*path, (0o100_644, id.as_slice()))).collect();
        let tree = objects.write_tree(&files).unwrap();
        let listed = git.run(["ls-tree", "-r", "--name-only", &hex(&tree)]).unwrap();
        assert_eq!(listed, b"a\na-b/x\na.c\nd.x\nd/e/f\nd/g\n");
        git.run(["fsck", "--strict", &hex(&tree)]).unwrap();
    }
}
