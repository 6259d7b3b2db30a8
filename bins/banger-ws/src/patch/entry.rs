//! What a patch does, file by file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

/// What a patch does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Makes it.
    Added,
    /// Removes it.
    Deleted,
    /// Changes its content or mode.
    Modified,
    /// Moves it, and perhaps changes it.
    Renamed,
}

/// One file of a patch. A change of a file's type is two: a removal and an addition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path; after a rename the new one.
    pub path: Vec<u8>,
    /// The path before a rename.
    pub from: Option<Vec<u8>>,
    /// What is done to it.
    pub status: Status,
    /// Its mode before, where the patch tells.
    pub old_mode: Option<u32>,
    /// Its mode afterwards, where the patch tells.
    pub new_mode: Option<u32>,
    /// Lines added.
    pub additions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// Whether its content is given as binary.
    pub binary: bool,
    /// What it takes of the patch, bytes.
    pub bytes: u64,
    /// The added lines of a symbolic link: its target; of a submodule: its commit.
    pub target: Vec<u8>,
}

impl Entry {
    /// One of which nothing is known yet but its path.
    pub(crate) fn at(path: Vec<u8>) -> Self {
        Self {
            path,
            from: None,
            status: Status::Modified,
            old_mode: None,
            new_mode: None,
            additions: 0,
            deletions: 0,
            binary: false,
            bytes: 0,
            target: Vec::new(),
        }
    }

    /// The paths that it touches.
    pub fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.from.iter().chain([&self.path])
    }
    /// Whether a symbolic link is at the path afterwards, as far as the patch tells.
    pub fn is_symlink(&self) -> bool {
        self.new_mode == Some(0o120_000)
    }
    /// Whether it is about a submodule's commit.
    pub fn is_submodule(&self) -> bool {
        [self.old_mode, self.new_mode].contains(&Some(0o160_000))
    }
}

/// A patch that was read to its end and may be handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// What it does, in its order.
    pub entries: Vec<Entry>,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl Scanned {
    /// Copies those files' parts of the patch `from` to `to` whose numbers are `wanted`.
    ///
    /// # Errors
    /// Those of the files.
    pub fn copy(
        &self,
        from: &mut File,
        to: &mut impl Write,
        wanted: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let mut at = 0;
        for (number, entry) in self.entries.iter().enumerate() {
            if wanted(number) {
                from.seek(io::SeekFrom::Start(at))?;
                io::copy(&mut Read::by_ref(from).take(entry.bytes), to)?;
            }
            at += entry.bytes;
        }
        Ok(())
    }
}
