//! An ext4 filesystem that is written file by file into a new disk file, without mounting it and without privilege.
//!
//! # Layout
//!
//! What a filesystem will hold is known only in the end, so nothing that depends on it comes first: behind the superblock and a
//! fixed room for group descriptors (which growing needs anyway: `resize_inode`) come the files' blocks one after the other as they
//! are written, then directories, the journal, bitmaps and inode tables; `flex_bg` allows those to be anywhere. Inodes wait in a
//! second file until then, so memory holds names only ([`Names`]). Blocks of files that were removed again are given back to
//! the disk file as holes.
//!
//! hcsshim's compactext4 and Apple's containerization write filesystems in the same order; they leave out the journal, checksums and
//! the room to grow. Directories have no hash tree: the kernel reads them as they are, and adds one to directories that it makes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use thiserror::Error;

use super::crc32c;
use super::extent::{self, Extent, Extents, MAX_EXTENTS};
use super::format::{
    Allocator, BLOCK, BLOCK_LEN, DIRECTORY, FIRST, FMT, INODE, REGULAR, ROOT, SYMLINK, inode_seed,
};
use super::inode::{Attributes, Inode, Time, device_map};
use super::names::{Name, Names};
use super::xattr::{self, XattrError};

/// How much of a file is looked at and written at once, bytes.
const WINDOW: usize = 32 * BLOCK_LEN;

/// The longest symbolic link, bytes: what the kernel reads of one.
const MAX_TARGET: usize = 4095;

/// A filesystem that cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The disk file.
    #[error("cannot write the filesystem's file")]
    Disk(#[source] io::Error),
    /// The content of a file.
    #[error("its content cannot be read")]
    Content(#[source] io::Error),
    /// There are no blocks left.
    #[error("the filesystem would be larger than {limit_bytes} bytes")]
    Full {
        /// How large it may become.
        limit_bytes: u64,
    },
    /// More than ext4 can hold in a file.
    #[error("a file of {0} bytes is larger than ext4 can hold")]
    TooLarge(u64),
    /// Data and holes take turns too often.
    #[error("its data is in more than {MAX_EXTENTS} pieces")]
    Pieces,
    /// The extended attributes are too many.
    #[error("its extended attributes do not fit into a block of {BLOCK} bytes")]
    Xattrs,
    /// An extended attribute is not of its shape.
    #[error("it has an extended attribute that is not valid")]
    XattrInvalid,
    /// A symbolic link without a target, or with one that is too long.
    #[error("the target of a symbolic link has between 1 and {MAX_TARGET} bytes")]
    Target,
    /// Too many names.
    #[error("{path:?} has {links} names, and ext4 allows 65000")]
    Links {
        /// One of them.
        path: String,
        /// How many.
        links: u32,
    },
}

impl From<XattrError> for WriteError {
    fn from(error: XattrError) -> Self {
        match error {
            XattrError::TooLarge => Self::Xattrs,
            XattrError::Invalid => Self::XattrInvalid,
        }
    }
}

/// What a file holds.
pub enum Content<'a> {
    /// A file: its size, where in it there is data, as offset and length in order, and all that data in a row.
    Regular(u64, &'a [(u64, u64)], &'a mut dyn Read),
    /// A directory, or what has no content: a FIFO or a socket.
    None,
    /// A symbolic link.
    Symlink(&'a [u8]),
    /// A device: major and minor number.
    Device(u32, u32),
}

/// The filesystem that is being written.
pub struct Writer {
    pub(super) file: File,
    /// The inodes, at their number's place.
    pub(super) inodes: File,
    pub(super) names: Names,
    pub(super) blocks: Allocator,
    pub(super) uuid: [u8; 16],
    pub(super) seed: u32,
    pub(super) limit_bytes: u64,
    window: Vec<u8>,
}

/// Says so when a disk cannot be written.
pub(super) type Result<T, E = WriteError> = std::result::Result<T, E>;

impl Writer {
    /// Begins a filesystem in the new files `file` and `inodes`; the second is of no use when it is finished. `limit_bytes` is how
    /// large it may become.
    ///
    /// # Errors
    /// [`WriteError::Disk`].
    pub fn new(file: File, inodes: File, uuid: [u8; 16], limit_bytes: u64) -> Result<Self> {
        let mut names = Names::new(FIRST - 1);
        names.set_mode(ROOT, DIRECTORY);
        let seed = crc32c::update(!0, &uuid);
        let blocks = Allocator::new(limit_bytes / BLOCK);
        let window = Vec::with_capacity(WINDOW);
        let mut writer = Self { file, inodes, names, blocks, uuid, seed, limit_bytes, window };
        let root = Attributes { mode: DIRECTORY | 0o755, ..Attributes::default() };
        writer.set_attributes(ROOT, &root)?;
        Ok(writer)
    }

    /// The root directory's inode.
    pub fn root(&self) -> u32 {
        ROOT
    }

    /// A new file without a name; its inode. `attributes` has a mode that fits `content`.
    ///
    /// # Errors
    /// [`WriteError`]; the filesystem is then to be given up.
    pub fn create(&mut self, attributes: &Attributes, content: Content) -> Result<u32> {
        let number = self.names.add_node(attributes.mode);
        let mut inode = self.inode(attributes)?;
        match content {
            Content::Regular(size, regions, data) => {
                self.write_content(number, &mut inode, size, regions, data)?;
            }
            Content::None => {}
            Content::Symlink(target) => self.write_target(number, &mut inode, target)?,
            Content::Device(major, minor) => inode.map_mut()[..8].copy_from_slice(&device_map(major, minor)),
        }
        self.put_inode(number, &inode)?;
        Ok(number)
    }

    /// Replaces what is known of the directory `number`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn set_attributes(&mut self, number: u32, attributes: &Attributes) -> Result<()> {
        let inode = self.inode(attributes)?;
        self.names.set_mode(number, attributes.mode);
        self.put_inode(number, &inode)
    }

    fn inode(&mut self, attributes: &Attributes) -> Result<Inode> {
        let mut inode = Inode::new(attributes);
        if let Some(mut block) = xattr::place(&attributes.xattrs, &mut inode.0)? {
            let at = self.take_one()?;
            xattr::seal(&mut block, self.seed, at);
            self.write_block(at, &block)?;
            inode.set_xattr_block(at);
        }
        Ok(inode)
    }

    fn write_target(&mut self, number: u32, inode: &mut Inode, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() > MAX_TARGET {
            return Err(WriteError::Target);
        }
        if target.len() < 60 {
            inode.map_mut()[..target.len()].copy_from_slice(target);
            inode.set_size(target.len() as u64);
            return Ok(());
        }
        let mut data = target;
        let size = target.len() as u64;
        self.write_content(number, inode, size, &[(0, size)], &mut data)
    }

    /// Writes a file's data, window by window; windows that are all zeros become holes.
    fn write_content(
        &mut self,
        number: u32,
        inode: &mut Inode,
        size: u64,
        regions: &[(u64, u64)],
        data: &mut dyn Read,
    ) -> Result<()> {
        if size.div_ceil(BLOCK) > u64::from(u32::MAX) {
            return Err(WriteError::TooLarge(size));
        }
        let mut extents = Extents::default();
        let mut window = std::mem::take(&mut self.window);
        let mut window_at = 0;
        for &(offset, length) in regions {
            let (mut at, mut left) = (offset, length);
            while left > 0 {
                let begin = at / WINDOW as u64 * WINDOW as u64;
                if begin != window_at {
                    self.flush(&mut window, window_at, &mut extents)?;
                    window_at = begin;
                }
                let start = (at - begin) as usize;
                let count = left.min((WINDOW - start) as u64) as usize;
                window.resize(window.len().max(start + count), 0);
                data.read_exact(&mut window[start..start + count]).map_err(WriteError::Content)?;
                (at, left) = (at + count as u64, left - count as u64);
            }
        }
        self.flush(&mut window, window_at, &mut extents)?;
        self.window = window;
        inode.set_size(size);
        self.set_extents(number, inode, &extents)
    }

    /// Writes what of the window is not zeros, and empties it.
    fn flush(&mut self, window: &mut Vec<u8>, window_at: u64, extents: &mut Extents) -> Result<()> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        window.resize(window.len().next_multiple_of(BLOCK_LEN), 0);
        let is_data = |block: &[u8]| block != ZEROS;
        let first = window.chunks(BLOCK_LEN).position(is_data);
        let last = window.chunks(BLOCK_LEN).rposition(is_data);
        if let (Some(first), Some(last)) = (first, last) {
            let data = &window[first * BLOCK_LEN..(last + 1) * BLOCK_LEN];
            let logical = (window_at / BLOCK) as u32 + first as u32;
            self.append(logical, data, extents)?;
        }
        window.clear();
        Ok(())
    }

    /// Writes whole blocks to the next places on disk.
    pub(super) fn append(&mut self, mut logical: u32, mut data: &[u8], extents: &mut Extents) -> Result<()> {
        while !data.is_empty() {
            let (start, count) = self.take(data.len() as u64 / BLOCK)?;
            let (now, later) = data.split_at(count as usize * BLOCK_LEN);
            self.file.write_all_at(now, start * BLOCK).map_err(WriteError::Disk)?;
            extents.push(logical, start, count);
            if extents.len() > MAX_EXTENTS {
                return Err(WriteError::Pieces);
            }
            (logical, data) = (logical + count as u32, later);
        }
        Ok(())
    }

    pub(super) fn set_extents(&mut self, number: u32, inode: &mut Inode, extents: &Extents) -> Result<()> {
        let mut tree_blocks = 0;
        let seed = inode_seed(self.seed, number);
        let root = extents.root(seed, |block| {
            let at = self.take_one()?;
            tree_blocks += 1;
            self.write_block(at, block).map(|()| at)
        })?;
        inode.set_extents(&root);
        inode.add_blocks(extents.blocks() + tree_blocks);
        Ok(())
    }

    pub(super) fn take(&mut self, wanted: u64) -> Result<(u64, u64)> {
        self.blocks.take(wanted).ok_or(WriteError::Full { limit_bytes: self.limit_bytes })
    }

    pub(super) fn take_one(&mut self) -> Result<u64> {
        self.take(1).map(|(at, _)| at)
    }

    pub(super) fn write_block(&self, at: u64, block: &[u8]) -> Result<()> {
        self.file.write_all_at(block, at * BLOCK).map_err(WriteError::Disk)
    }

    pub(super) fn read_block(&self, at: u64) -> Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_LEN];
        self.file.read_exact_at(&mut block, at * BLOCK).map_err(WriteError::Disk)?;
        Ok(block)
    }

    pub(super) fn put_inode(&self, number: u32, inode: &Inode) -> Result<()> {
        let at = u64::from(number - 1) * INODE as u64;
        self.inodes.write_all_at(&inode.0, at).map_err(WriteError::Disk)
    }

    pub(super) fn get_inode(&self, number: u32) -> Result<Inode> {
        let mut inode = Inode::FREE;
        let at = u64::from(number - 1) * INODE as u64;
        self.inodes.read_exact_at(&mut inode.0, at).map_err(WriteError::Disk)?;
        Ok(inode)
    }

    /// Calls `visit` for each of the inode's extents, and `visit_block` for each block of their tree.
    pub(super) fn walk(
        &self,
        inode: &Inode,
        mut visit_block: impl FnMut(u64),
        mut visit: impl FnMut(Extent),
    ) -> Result<()> {
        if !inode.has_extents() {
            return Ok(());
        }
        extent::walk(inode.map(), &mut |at| self.read_block(at), &mut visit_block, &mut visit)
    }

    /// What a name in a directory stands for.
    pub fn find(&self, directory: u32, name: &[u8]) -> Option<(Name, u32)> {
        self.names.find(directory, name)
    }

    /// Gives the inode `number` a name of at most 255 bytes that stands for nothing yet. The caller may keep a number with each name.
    pub fn link(&mut self, directory: u32, name: &[u8], number: u32, mark: u16) -> Name {
        self.names.insert(directory, name, number, mark)
    }

    /// Removes a name, and what is below it.
    pub fn unlink(&mut self, name: Name, number: u32) {
        self.names.remove(name);
        let mut directories = vec![number];
        while let Some(number) = directories.pop() {
            if self.names.is_directory(number) {
                directories.extend(self.names.clear(number).into_iter().map(|(_, below)| below));
            }
        }
    }

    /// The type and permissions of the inode `number`.
    pub fn mode(&self, number: u32) -> u16 {
        self.names.mode(number)
    }

    /// Whether the inode `number` is a directory.
    pub fn is_directory(&self, number: u32) -> bool {
        self.names.is_directory(number)
    }

    /// Whether the inode `number` is a symbolic link.
    pub fn is_symlink(&self, number: u32) -> bool {
        self.names.mode(number) & FMT == SYMLINK
    }

    /// Whether the inode `number` is a file with content.
    pub fn is_file(&self, number: u32) -> bool {
        self.names.mode(number) & FMT == REGULAR
    }

    /// The directory that the directory `number` is in; the root is in itself.
    pub fn parent(&self, number: u32) -> u32 {
        self.names.parent(number)
    }

    /// The name of the directory `number`; the root has none.
    pub fn name_of(&self, number: u32) -> Option<Name> {
        self.names.name_of(number)
    }

    /// The names in a directory, in no order.
    pub fn list(&self, directory: u32) -> Vec<(Name, u32)> {
        self.names.list(directory).collect()
    }

    /// A name's bytes.
    pub fn text(&self, name: Name) -> &[u8] {
        self.names.text(name)
    }

    /// What the caller keeps of a name.
    pub fn mark(&self, name: Name) -> u16 {
        self.names.mark(name)
    }

    /// Sets what the caller keeps of a name.
    pub fn set_mark(&mut self, name: Name, mark: u16) {
        self.names.set_mark(name, mark);
    }

    /// What the caller keeps of an inode.
    pub fn node_mark(&self, number: u32) -> u16 {
        self.names.node_mark(number)
    }

    /// Sets what the caller keeps of an inode.
    pub fn set_node_mark(&mut self, number: u32, mark: u16) {
        self.names.set_node_mark(number, mark);
    }

    /// How many names there are or were: each takes memory.
    pub fn name_count(&self) -> usize {
        self.names.count()
    }

    /// Bytes of memory that names take for their text.
    pub fn name_bytes(&self) -> usize {
        self.names.text_bytes()
    }

    /// The beginning of a file or the target of a link, at most `limit` bytes.
    ///
    /// # Errors
    /// [`WriteError::Disk`].
    pub fn read(&self, number: u32, limit: usize) -> Result<Vec<u8>> {
        let inode = self.get_inode(number)?;
        let size = usize::try_from(inode.size()).unwrap_or(usize::MAX).min(limit);
        if !inode.has_extents() {
            return Ok(inode.map()[..size.min(60)].to_vec());
        }
        let mut bytes = vec![0; size];
        let mut extents = Vec::new();
        self.walk(&inode, |_| {}, |extent| extents.push(extent))?;
        for extent in extents {
            let start = extent.logical as usize * BLOCK_LEN;
            if start < size {
                let end = size.min(start + extent.blocks as usize * BLOCK_LEN);
                let read = self.file.read_exact_at(&mut bytes[start..end], extent.physical * BLOCK);
                read.map_err(WriteError::Disk)?;
            }
        }
        Ok(bytes)
    }

    /// A directory `name` in `directory`, made with `mode` where there is nothing of that name.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn ensure_directory(&mut self, directory: u32, name: &[u8], mode: u16, mtime: Time) -> Result<u32> {
        if let Some((_, number)) = self.find(directory, name) {
            return Ok(number);
        }
        let attributes = Attributes { mode: DIRECTORY | mode, mtime, ..Attributes::default() };
        let number = self.create(&attributes, Content::None)?;
        self.link(directory, name, number, 0);
        Ok(number)
    }
}
