//! The end of writing: directories, journal, inode tables, bitmaps, descriptors and superblock.

use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::directory::Blocks;
use super::extent::Extents;
use super::format::{
    Allocator, BASE, BLOCK, BLOCK_LEN, DESC, DESC_BLOCKS, DIRECTORY, FIRST, FMT, GROUP, INODE, JOURNAL,
    REGULAR, RESIZE, ROOT, backups, has_superblock, inode_seed, put16, put32,
};
use super::inode::{Attributes, Inode, Time};
use super::superblock::{self, Superblock};
use super::writer::{Result, WriteError, Writer};
use super::{bitmap, bitmap::Bitmap, crc32c};

/// Blocks of the journal, a hole but for the first: as mke2fs(8) has them for a filesystem of this size.
const JOURNAL_BLOCKS: u64 = 4096;
const LARGE_JOURNAL_BLOCKS: u64 = 16384;
/// From which size on it is the large one, bytes.
const LARGE: u64 = 1 << 30;
/// Inodes of a block.
const INODES_PER_BLOCK: u32 = (BLOCK_LEN / INODE) as u32;
/// As many bytes for each inode as mke2fs(8) takes by default.
const BYTES_PER_INODE: u64 = 16384;
/// Inodes that a group has at least: groups that are added later have as many.
const MIN_GROUP_INODES: u32 = 8192;
/// The most that a group can have.
const MAX_GROUP_INODES: u32 = GROUP as u32;
/// More names than that a file cannot have; a directory counts one then.
const MAX_LINKS: u32 = 65_000;
/// How many inodes are in memory at once.
const INODES_AT_ONCE: u32 = 4096;

/// What the finished filesystem is to be.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Its label, at most 16 bytes.
    pub label: &'a str,
    /// How large it is at least, bytes.
    pub min_bytes: u64,
    /// How much of it is free at least, bytes.
    pub spare_bytes: u64,
    /// The time that it is made at, seconds since 1970.
    pub made_at: u32,
}

/// Where the parts of the finished filesystem are.
struct Geometry {
    blocks: u64,
    groups: u64,
    group_inodes: u32,
    /// Of each group.
    block_bitmaps: Vec<u64>,
    inode_bitmaps: Vec<u64>,
    tables: Vec<u64>,
}

/// What of the inodes belongs to one group.
#[derive(Debug, Clone, Copy, Default)]
struct GroupInodes {
    used: u32,
    directories: u32,
    /// The last one in use, counted from 1 within the group.
    last: u32,
}

impl Writer {
    /// Writes everything that is still to come, and flushes the file.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(mut self, shape: &Shape) -> Result<()> {
        self.ensure_directory(ROOT, b"lost+found", 0o700, Time::default())?;
        let mut links = self.names.links();
        // The root has no name; it is in itself.
        links[ROOT as usize] += 2;
        self.write_directories(&links)?;
        let large = shape.min_bytes.max(self.blocks.next() * BLOCK) >= LARGE;
        let journal = self.write_journal(if large { LARGE_JOURNAL_BLOCKS } else { JOURNAL_BLOCKS })?;
        let resize_map = self.take_one()?;
        let geometry = self.geometry(shape)?;
        self.write_resize(resize_map, &geometry)?;
        for number in [RESIZE, JOURNAL] {
            links[number as usize] = 1;
        }
        let mut used = Bitmap::new(geometry.blocks);
        used.set(resize_map, 1);
        geometry.mark(&mut used);
        let groups = self.write_inodes(&links, &geometry, &mut used)?;
        self.punch(&used)?;
        self.file.set_len(geometry.blocks * BLOCK).map_err(WriteError::Disk)?;
        self.write_groups(shape, &geometry, &used, &links, &groups, &journal)?;
        self.file.sync_all().map_err(WriteError::Disk)
    }

    fn write_directories(&mut self, links: &[u32]) -> Result<()> {
        for number in std::iter::once(ROOT).chain(FIRST..self.names.next_inode()) {
            if self.names.is_directory(number) && links[number as usize] > 0 {
                self.write_directory(number)?;
            }
        }
        Ok(())
    }

    fn write_directory(&mut self, number: u32) -> Result<()> {
        let mut extents = Extents::default();
        let mut blocks = Blocks::new(inode_seed(self.seed, number), number, self.names.parent(number));
        let mut size = 0;
        let put = |writer: &mut Self, block: &[u8], size: &mut u64, extents: &mut Extents| {
            let logical = (*size / BLOCK) as u32;
            *size += BLOCK;
            writer.append(logical, block, extents)
        };
        for (name, inode) in self.list(number) {
            let full = blocks.add(self.names.text(name), inode, self.names.mode(inode));
            if let Some(full) = full {
                put(self, &full, &mut size, &mut extents)?;
            }
        }
        put(self, &blocks.finish(), &mut size, &mut extents)?;
        let mut inode = self.get_inode(number)?;
        inode.set_size(size);
        self.set_extents(number, &mut inode, &extents)?;
        self.put_inode(number, &inode)
    }

    /// The journal, empty; gives its inode.
    fn write_journal(&mut self, blocks: u64) -> Result<Inode> {
        let mut extents = Extents::default();
        let mut logical = 0;
        while u64::from(logical) < blocks {
            let (start, count) = self
                .blocks
                .take(blocks - u64::from(logical))
                .ok_or(WriteError::Full { limit_bytes: self.limit_bytes })?;
            if logical == 0 {
                self.write_block(start, &superblock::journal(blocks as u32, &self.uuid))?;
            }
            extents.push(logical, start, count);
            logical += count as u32;
        }
        let mut inode = Inode::new(&Attributes { mode: REGULAR | 0o600, ..Attributes::default() });
        inode.set_size(blocks * BLOCK);
        self.set_extents(JOURNAL, &mut inode, &extents)?;
        self.put_inode(JOURNAL, &inode)?;
        Ok(inode)
    }

    /// Decides how large the filesystem is, and where bitmaps and inode tables are.
    fn geometry(&mut self, shape: &Shape) -> Result<Geometry> {
        let names = u64::from(self.names.next_inode());
        let wanted = (names + names / 4 + 1024).max(shape.min_bytes / BYTES_PER_INODE);
        let spare = shape.spare_bytes.div_ceil(BLOCK);
        let mut blocks = (shape.min_bytes / BLOCK).max(self.blocks.next() + spare);
        loop {
            blocks = blocks.next_multiple_of(256);
            let groups = blocks.div_ceil(GROUP);
            // The last group has room for what it begins with, and for some files.
            let last = (groups - 1) * GROUP + BASE + 1024;
            let inodes = u32::try_from(wanted.div_ceil(groups)).unwrap_or(u32::MAX);
            let inodes = inodes.clamp(MIN_GROUP_INODES, u32::MAX - 15).next_multiple_of(INODES_PER_BLOCK);
            if blocks < last {
                blocks = last;
                continue;
            }
            if inodes > MAX_GROUP_INODES {
                blocks = groups * GROUP + GROUP;
                continue;
            }
            let mut allocator = Allocator::starting_at(self.blocks.next(), self.limit_bytes / BLOCK);
            let full = || WriteError::Full { limit_bytes: self.limit_bytes };
            let rows = |allocator: &mut Allocator, length: u32| -> Result<Vec<u64>> {
                (0..groups).map(|_| allocator.take_row(length.into()).ok_or_else(full)).collect()
            };
            let block_bitmaps = rows(&mut allocator, 1)?;
            let inode_bitmaps = rows(&mut allocator, 1)?;
            let tables = rows(&mut allocator, inodes / INODES_PER_BLOCK)?;
            if allocator.next() + spare > blocks {
                blocks = allocator.next() + spare;
                continue;
            }
            self.blocks = allocator;
            return Ok(Geometry {
                blocks,
                groups,
                group_inodes: inodes,
                block_bitmaps,
                inode_bitmaps,
                tables,
            });
        }
    }

    /// The inode that owns the room for more descriptors (ext2fs_create_resize_inode): its double indirect block lists that room behind
    /// the first superblock, and each of those blocks lists its copies behind the others.
    fn write_resize(&mut self, map: u64, geometry: &Geometry) -> Result<()> {
        let mut reserved = vec![0; BLOCK_LEN];
        let mut copies = 0;
        for index in geometry.descriptor_blocks()..DESC_BLOCKS {
            put32(&mut reserved, index as usize * 4, 1 + index as u32);
            let mut list = vec![0; BLOCK_LEN];
            copies = 0;
            for group in backups(geometry.groups) {
                put32(&mut list, copies * 4, (group * GROUP + 1 + index) as u32);
                copies += 1;
            }
            self.write_block(1 + index, &list)?;
        }
        self.write_block(map, &reserved)?;
        let mut inode = Inode::new(&Attributes { mode: REGULAR | 0o600, ..Attributes::default() });
        let addresses = BLOCK / 4;
        inode.set_size((addresses * addresses + addresses + 12) * BLOCK);
        put32(inode.map_mut(), 13 * 4, map as u32);
        inode.add_blocks(1 + (DESC_BLOCKS - geometry.descriptor_blocks()) * (1 + copies as u64));
        self.put_inode(RESIZE, &inode)
    }

    /// Writes the inode tables, and notes which blocks are in use.
    fn write_inodes(
        &self,
        links: &[u32],
        geometry: &Geometry,
        used: &mut Bitmap,
    ) -> Result<Vec<GroupInodes>> {
        let mut groups = vec![GroupInodes::default(); geometry.groups as usize];
        groups[0].used = FIRST - 1;
        groups[0].last = FIRST - 1;
        let mut first = 1;
        while (first as usize) < links.len() {
            let group = (first - 1) / geometry.group_inodes;
            let end = ((group + 1) * geometry.group_inodes + 1).min(first + INODES_AT_ONCE);
            let end = end.min(links.len() as u32);
            let mut table = Vec::with_capacity((end - first) as usize * INODE);
            for number in first..end {
                let inode = self.final_inode(number, links[number as usize], used)?;
                table.extend_from_slice(&inode.0);
                if links[number as usize] > 0 {
                    let of = &mut groups[group as usize];
                    of.used += u32::from(number >= FIRST);
                    of.directories += u32::from(inode.mode() & FMT == DIRECTORY);
                    of.last = of.last.max((number - 1) % geometry.group_inodes + 1);
                }
            }
            let within = u64::from((first - 1) % geometry.group_inodes) * INODE as u64;
            let at = geometry.tables[group as usize] * BLOCK + within;
            self.file.write_all_at(&table, at).map_err(WriteError::Disk)?;
            first = end;
        }
        Ok(groups)
    }

    fn final_inode(&self, number: u32, links: u32, used: &mut Bitmap) -> Result<Inode> {
        if links == 0 {
            return Ok(Inode::FREE);
        }
        let mut inode = self.get_inode(number)?;
        let is_directory = inode.mode() & FMT == DIRECTORY;
        if links > MAX_LINKS && !is_directory {
            let path = String::from_utf8_lossy(&self.names.path(number)).into_owned();
            return Err(WriteError::Links { path, links });
        }
        inode.set_links(if links >= MAX_LINKS && is_directory { 1 } else { links as u16 });
        inode.seal(self.seed, number);
        let (mut blocks, mut data) = (Vec::new(), Vec::new());
        self.walk(&inode, |block| blocks.push(block), |extent| data.push(extent))?;
        blocks.extend(inode.xattr_block());
        blocks.into_iter().for_each(|block| used.set(block, 1));
        data.into_iter().for_each(|extent| used.set(extent.physical, extent.blocks.into()));
        Ok(inode)
    }

    /// Gives back what removed files had.
    fn punch(&self, used: &Bitmap) -> Result<()> {
        let mut at = BASE;
        while let Some((start, end)) = used.next_free(at, self.blocks.next()) {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&self.file, hole, start * BLOCK, (end - start) * BLOCK) {
                // Then they stay as they are: free blocks may hold anything.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(WriteError::Disk(errno.into())),
            }
            at = end;
        }
        Ok(())
    }

    /// Bitmaps, descriptors and superblocks.
    fn write_groups(
        &self,
        shape: &Shape,
        geometry: &Geometry,
        used: &Bitmap,
        links: &[u32],
        groups: &[GroupInodes],
        journal: &Inode,
    ) -> Result<()> {
        let mut descriptors = vec![0; (geometry.descriptor_blocks() * BLOCK) as usize];
        let (mut free_blocks, mut free_inodes) = (0, 0);
        for group in 0..geometry.groups {
            let inodes = groups[group as usize];
            let blocks = used.group(group, geometry.blocks);
            self.write_block(geometry.block_bitmaps[group as usize], &blocks)?;
            let begin = group as u32 * geometry.group_inodes;
            let in_use = |number: u32| number < FIRST || links.get(number as usize).is_some_and(|n| *n > 0);
            let bits = (begin + 1..=begin + geometry.group_inodes).map(in_use);
            let inode_bits = bitmap::first(bits, geometry.group_inodes);
            self.write_block(geometry.inode_bitmaps[group as usize], &inode_bits)?;
            let free = bitmap::zeros(&blocks);
            free_blocks += u64::from(free);
            free_inodes += geometry.group_inodes - inodes.used;
            let descriptor = &mut descriptors[group as usize * DESC..][..DESC];
            let mut both = |low: usize, high: usize, value: u32| {
                put16(descriptor, low, value as u16);
                put16(descriptor, high, (value >> 16) as u16);
            };
            both(0x0c, 0x2c, free);
            both(0x0e, 0x2e, geometry.group_inodes - inodes.used);
            both(0x10, 0x30, inodes.directories);
            both(0x1c, 0x32, geometry.group_inodes - inodes.last);
            both(0x18, 0x38, crc32c::update(self.seed, &blocks));
            let inode_bytes = geometry.group_inodes as usize / 8;
            both(0x1a, 0x3a, crc32c::update(self.seed, &inode_bits[..inode_bytes]));
            let places = [&geometry.block_bitmaps, &geometry.inode_bitmaps, &geometry.tables];
            for (place, at) in places.into_iter().zip([0, 4, 8]) {
                put32(descriptor, at, place[group as usize] as u32);
                put32(descriptor, at + 0x20, (place[group as usize] >> 32) as u32);
            }
            // The inode tables are all zeros where they are not in use: the file is new.
            put16(descriptor, 0x12, superblock::INODES_ZEROED);
            let checksum = crc32c::update(self.seed, &(group as u32).to_le_bytes());
            let checksum = crc32c::update(checksum, descriptor);
            put16(descriptor, 0x1e, checksum as u16);
        }
        let superblock = Superblock {
            blocks: geometry.blocks,
            free_blocks,
            inodes: geometry.groups as u32 * geometry.group_inodes,
            group_inodes: geometry.group_inodes,
            free_inodes,
            reserved_descriptors: (DESC_BLOCKS - geometry.descriptor_blocks()) as u16,
            uuid: self.uuid,
            label: shape.label,
            made_at: shape.made_at,
            journal,
        };
        for group in std::iter::once(0).chain(backups(geometry.groups)) {
            let at = group * GROUP * BLOCK;
            // The first kilobyte of a disk is not ext4's.
            let offset = if group == 0 { superblock::AT } else { 0 };
            let bytes = superblock.bytes(group as u16);
            self.file.write_all_at(&bytes, at + offset).map_err(WriteError::Disk)?;
            self.file.write_all_at(&descriptors, at + BLOCK).map_err(WriteError::Disk)?;
        }
        Ok(())
    }
}

impl Geometry {
    /// Blocks of group descriptors.
    fn descriptor_blocks(&self) -> u64 {
        (self.groups * DESC as u64).div_ceil(BLOCK)
    }

    /// Notes what the filesystem itself uses.
    fn mark(&self, used: &mut Bitmap) {
        for group in (0..self.groups).filter(|group| has_superblock(*group)) {
            used.set(group * GROUP, BASE);
        }
        for bitmap in self.block_bitmaps.iter().chain(&self.inode_bitmaps) {
            used.set(*bitmap, 1);
        }
        for table in &self.tables {
            used.set(*table, u64::from(self.group_inodes / INODES_PER_BLOCK));
        }
    }
}
