//! Flattening: the layers of an image, each a tar archive, become one ext4. As entries are read they are written, so memory holds
//! names, and no layer is unpacked anywhere (OCI image specification, "Image Layer Filesystem Changeset").
//!
//! Paths and links are resolved as in a container: `/` is the image's root, and nothing is above it. Nothing of an archive is ever a path
//! of the host. Of two entries with one path the later one counts, as when tar extracts them.

mod error;
mod path;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

pub use error::{EntryError, FlattenError};
use path::{Parts, parts};

use crate::sys::pump::Stopped;
use banger_formats::ext4::{self, Attributes, Content, Name, Time, WriteError, Writer};
use banger_formats::tar::{Archive, Entry, Kind, TarError, shown};
use banger_host::random;

/// How much an archive may make of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all layers together, and files and directories. Each takes about 50 bytes of memory and its name, which is 24
    /// bytes long on average at most.
    pub entries: u64,
    /// What all layers are uncompressed, bytes.
    pub unpacked_bytes: u64,
    /// The filesystem, bytes.
    pub image_bytes: u64,
    /// Layers.
    pub layers: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 500_000, unpacked_bytes: 64 << 30, image_bytes: 64 << 30, layers: 500 }
    }
}

/// Bytes of names for each entry that is allowed.
const NAME_BYTES: u64 = 24;
/// The longest name, bytes.
const MAX_NAME: usize = 255;
/// How many symbolic links a path may lead through (as the kernel's MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// How the names of whiteouts begin; [`OPAQUE`] hides all that lower layers have in a directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Files of aufs itself, which stand for nothing.
const AUFS: &[u8] = b".wh..wh.";

/// The filesystem that layers are flattened into.
pub struct Flattener {
    fs: Writer,
    limits: Limits,
    entries: u64,
    unpacked_bytes: u64,
    /// The current one, counted from 1. Names keep the layer that they were last in.
    layer: u16,
    /// Extended attributes that ext4 has no place for.
    lost_xattrs: BTreeSet<String>,
}

/// What a layer's entries mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Names that begin with `.wh.` remove what is below.
    Layer,
    /// Every entry is a file. The archive's end marker must be there, since no digest tells whether it is whole.
    Files,
}

impl Flattener {
    /// Begins with the new filesystem `path`. Beside it, in `dir`, a file without a name keeps what memory would be too small for.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn new(path: &Path, dir: &Path, limits: Limits) -> Result<Self, FlattenError> {
        let disk = |source| FlattenError::Disk(WriteError::Disk(source));
        let file = ext4::create_file(path).map_err(disk)?;
        let inodes = tempfile::tempfile_in(dir).map_err(disk)?;
        let fs = Writer::new(file, inodes, random::uuid(), limits.image_bytes).map_err(FlattenError::Disk)?;
        Ok(Self { fs, limits, entries: 0, unpacked_bytes: 0, layer: 0, lost_xattrs: BTreeSet::new() })
    }

    /// The filesystem as it is by now.
    pub fn fs(&mut self) -> &mut Writer {
        &mut self.fs
    }

    /// Ends with the filesystem as it is, and the names of extended attributes that did not get into it.
    pub fn into_fs(self) -> (Writer, BTreeSet<String>) {
        (self.fs, self.lost_xattrs)
    }

    /// Lays the next layer, an uncompressed tar, above what is there, and reads `input` to its end.
    ///
    /// # Errors
    /// [`FlattenError`]; the filesystem is then to be given up.
    pub fn layer(&mut self, input: &mut dyn Read, meaning: Meaning) -> Result<(), FlattenError> {
        if self.layer >= self.limits.layers {
            return Err(FlattenError::Layers(self.limits.layers));
        }
        self.layer += 1;
        let layer = self.layer;
        let allowed = self.limits.unpacked_bytes - self.unpacked_bytes;
        // One byte more than is allowed, to tell the limit from the end.
        let mut archive = Archive::new(input.take(allowed.saturating_add(1)));
        let result = self.entries(&mut archive, meaning);
        let (ended, last) = (archive.ended(), archive.last().to_owned());
        let mut rest = archive.into_inner();
        let result = result.and_then(|()| {
            let drained = std::io::copy(&mut rest, &mut std::io::sink());
            drained.map(drop).map_err(|source| tar_error(TarError::Read { after: last.clone(), source }))
        });
        if rest.limit() == 0 {
            return Err(FlattenError::Unpacked { limit_bytes: self.limits.unpacked_bytes });
        }
        self.unpacked_bytes += allowed + 1 - rest.limit();
        result.map_err(|error| error.in_layer(layer))?;
        if meaning == Meaning::Files && !ended {
            let truncated = TarError::Truncated { after: last };
            return Err(FlattenError::Archive { layer, source: truncated });
        }
        Ok(())
    }

    fn entries<R: Read>(&mut self, archive: &mut Archive<R>, meaning: Meaning) -> Result<(), LayerError> {
        while let Some(entry) = archive.next_entry().map_err(tar_error)? {
            self.entries += 1;
            if self.is_too_much(self.entries) {
                return Err(LayerError::Entry(shown(&entry.path), self.too_many()));
            }
            self.apply(&entry, archive, meaning).map_err(|error| match error {
                EntryError::Write(WriteError::Content(source)) => match Stopped::of(&source) {
                    Some(signal) => LayerError::Interrupted(signal),
                    None => {
                        LayerError::Entry(shown(&entry.path), EntryError::Write(WriteError::Content(source)))
                    }
                },
                error => LayerError::Entry(shown(&entry.path), error),
            })?;
        }
        Ok(())
    }

    /// Whether memory would hold more than it may. An entry may have made directories that it is in, more of them than there are entries.
    fn is_too_much(&self, entries: u64) -> bool {
        let (names, name_bytes) = (self.fs.name_count() as u64, self.fs.name_bytes() as u64);
        entries.max(names) > self.limits.entries || name_bytes > self.limits.entries * NAME_BYTES
    }

    fn too_many(&self) -> EntryError {
        EntryError::TooMany { limit: self.limits.entries }
    }

    /// Counts once more what is below `directory`, which `entry` is the path of: it will be copied, and the copies' names take memory too.
    ///
    /// # Errors
    /// [`FlattenError::Entry`]: it is too much.
    pub fn count_again(&mut self, entry: &str, directory: u32) -> Result<(), FlattenError> {
        let mut directories = vec![directory];
        let mut more = 0;
        while let Some(directory) = directories.pop() {
            let below = self.fs.list(directory);
            more += below.len() as u64;
            let inodes = below.into_iter().map(|(_, inode)| inode);
            directories.extend(inodes.filter(|inode| self.fs.is_directory(*inode)));
        }
        if self.is_too_much(self.fs.name_count() as u64 + more) {
            return Err(LayerError::Entry(entry.to_owned(), self.too_many()).in_layer(self.layer));
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, data: &mut dyn Read, meaning: Meaning) -> Result<(), EntryError> {
        let mut above = parts(&entry.path)?;
        let Some(name) = above.pop() else {
            // The root itself.
            return match entry.kind {
                Kind::Directory => self.attributes(entry).and_then(|attributes| {
                    self.fs.set_attributes(self.fs.root(), &attributes).map_err(EntryError::Write)
                }),
                _ => Err(EntryError::Root),
            };
        };
        if meaning == Meaning::Layer && name.starts_with(WHITEOUT) {
            return self.whiteout(&above, &name);
        }
        if name.len() > MAX_NAME {
            return Err(EntryError::LongName);
        }
        let directory = self.resolve(above, Some(entry.mtime))?.ok_or(EntryError::Missing)?;
        self.touch(directory);
        let existing = self.fs.find(directory, &name);
        let is_directory = entry.kind == Kind::Directory;
        if let Some((existing, inode)) = existing
            && is_directory
            && self.fs.is_directory(inode)
        {
            self.fs.set_mark(existing, self.layer);
            let attributes = self.attributes(entry)?;
            return self.fs.set_attributes(inode, &attributes).map_err(EntryError::Write);
        }
        let inode = self.make(entry, data)?;
        if let Some((existing, old)) = existing {
            self.fs.unlink(existing, old);
        }
        self.fs.link(directory, &name, inode, self.layer);
        Ok(())
    }

    /// The inode of an entry that is not a directory yet.
    fn make(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<u32, EntryError> {
        if entry.kind == Kind::HardLink {
            return self.link_target(&entry.link);
        }
        let attributes = self.attributes(entry)?;
        let content = match entry.kind {
            Kind::Regular => Content::Regular(entry.size, &entry.regions, data),
            Kind::Symlink if entry.link.contains(&0) => return Err(EntryError::Nul),
            Kind::Symlink => Content::Symlink(&entry.link),
            Kind::Character | Kind::Block => {
                // What the kernel's device numbers have room for.
                let (major, minor) = entry.device;
                if major >= 1 << 12 || minor >= 1 << 20 {
                    return Err(EntryError::Device);
                }
                Content::Device(major, minor)
            }
            Kind::Directory | Kind::Fifo | Kind::HardLink => Content::None,
        };
        self.fs.create(&attributes, content).map_err(EntryError::Write)
    }

    /// The inode that a hard link is another name of.
    fn link_target(&mut self, link: &[u8]) -> Result<u32, EntryError> {
        let bad = |error: EntryError| EntryError::Link { target: shown(link), source: Box::new(error) };
        let mut above = parts(link).map_err(bad)?;
        let name = above.pop().ok_or_else(|| bad(EntryError::Directory))?;
        let directory = self.resolve(above, None).map_err(bad)?.ok_or_else(|| bad(EntryError::Missing))?;
        let (_, inode) = self.fs.find(directory, &name).ok_or_else(|| bad(EntryError::Missing))?;
        if self.fs.is_directory(inode) { Err(bad(EntryError::Directory)) } else { Ok(inode) }
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, EntryError> {
        let kind = match entry.kind {
            Kind::Regular | Kind::HardLink => 0o100_000,
            // Linux gives all of them these permissions, and so do those who unpack layers.
            Kind::Symlink => 0o120_777,
            Kind::Character => 0o020_000,
            Kind::Block => 0o060_000,
            Kind::Directory => 0o040_000,
            Kind::Fifo => 0o010_000,
        };
        // All ones mean "nobody in particular" to chown(2).
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(EntryError::Owner(id));
        let mut xattrs = entry.xattrs.clone();
        xattrs.retain(|(name, _)| {
            let fits = ext4::is_storable(name);
            if !fits && self.lost_xattrs.len() < 10 {
                self.lost_xattrs.insert(shown(name));
            }
            fits
        });
        let (uid, gid) = (id(entry.uid)?, id(entry.gid)?);
        Ok(Attributes { mode: kind | entry.mode, uid, gid, mtime: entry.mtime, xattrs })
    }

    /// The directory at the end of a path. `None`: there is none, and it is not to be made, for which `make` has the time.
    fn resolve(&mut self, above: Parts, make: Option<Time>) -> Result<Option<u32>, EntryError> {
        let root = self.fs.root();
        let (mut at, mut links) = (root, 0);
        let mut ahead: Parts = above.into_iter().rev().collect();
        while let Some(part) = ahead.pop() {
            if part == b".." {
                // Only a link's target has these: `parts` refuses them in a path. The root's parent is itself.
                at = self.fs.parent(at);
                continue;
            }
            match self.fs.find(at, &part) {
                Some((_, inode)) if self.fs.is_directory(inode) => at = inode,
                Some((_, inode)) if self.fs.is_symlink(inode) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(EntryError::Loop);
                    }
                    let target = self.fs.read(inode, 4096).map_err(EntryError::Write)?;
                    if target.starts_with(b"/") {
                        at = root;
                    }
                    ahead.extend(path::split(&target).rev());
                    if ahead.len() > 8192 {
                        return Err(EntryError::Loop);
                    }
                }
                Some(_) => return Err(EntryError::NotDirectory(shown(&part))),
                None if part.len() > MAX_NAME => return Err(EntryError::LongName),
                None => {
                    let Some(mtime) = make else { return Ok(None) };
                    at = self.fs.ensure_directory(at, &part, 0o755, mtime).map_err(EntryError::Write)?;
                }
            }
        }
        Ok(Some(at))
    }

    /// Notes that the current layer has something in a directory: it and those that it is in are the layer's own.
    fn touch(&mut self, directory: u32) {
        let mut at = directory;
        while let Some(name) = self.fs.name_of(at).filter(|name| self.fs.mark(*name) != self.layer) {
            self.fs.set_mark(name, self.layer);
            at = self.fs.parent(at);
        }
    }

    fn whiteout(&mut self, above: &Parts, name: &[u8]) -> Result<(), EntryError> {
        let directory = match self.resolve(above.clone(), None) {
            Ok(Some(directory)) => directory,
            // Nothing is hidden where nothing is.
            Ok(None) | Err(EntryError::NotDirectory(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if name == OPAQUE {
            self.hide_below(directory);
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::Whiteout);
        }
        if let Some((name, inode)) = self.fs.find(directory, hidden) {
            self.hide(name, inode);
        }
        Ok(())
    }

    /// Removes what lower layers have under a name; what the current one has stays, wherever it stands in the archive.
    fn hide(&mut self, name: Name, inode: u32) {
        if self.fs.mark(name) != self.layer {
            self.fs.unlink(name, inode);
        } else if self.fs.is_directory(inode) {
            self.hide_below(inode);
        }
    }

    fn hide_below(&mut self, directory: u32) {
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            // Once is enough: what comes into it later is the layer's own.
            if self.fs.node_mark(directory) == self.layer {
                continue;
            }
            self.fs.set_node_mark(directory, self.layer);
            for (name, inode) in self.fs.list(directory) {
                if self.fs.mark(name) != self.layer {
                    self.fs.unlink(name, inode);
                } else if self.fs.is_directory(inode) {
                    directories.push(inode);
                }
            }
        }
    }
}

/// What is wrong inside a layer, before it is told which one.
enum LayerError {
    Archive(TarError),
    Entry(String, EntryError),
    Interrupted(i32),
}

impl LayerError {
    fn in_layer(self, layer: u16) -> FlattenError {
        match self {
            Self::Archive(source) => FlattenError::Archive { layer, source },
            Self::Entry(_, EntryError::Write(WriteError::Disk(source))) => {
                FlattenError::Disk(WriteError::Disk(source))
            }
            Self::Entry(entry, source) => FlattenError::Entry { layer, entry, source },
            Self::Interrupted(signal) => FlattenError::Interrupted(signal),
        }
    }
}

fn tar_error(error: TarError) -> LayerError {
    if let TarError::Read { source, .. } = &error
        && let Some(signal) = Stopped::of(source)
    {
        return LayerError::Interrupted(signal);
    }
    LayerError::Archive(error)
}
