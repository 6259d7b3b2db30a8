//! The superblock, and the journal's.

use super::crc32c;
use super::format::{BLOCK_LEN, DESC, FIRST, GROUP, INODE, JOURNAL, put16, put32};
use super::inode::Inode;

/// Where it begins on the disk, bytes.
pub(super) const AT: u64 = 1024;

/// In a group descriptor: the inode table is zeros where it is not in use.
pub(super) const INODES_ZEROED: u16 = 4;

/// has_journal, ext_attr, resize_inode, dir_index.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// filetype, extent, 64bit, flex_bg.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// What of a superblock is not the same in all filesystems of this writer.
pub(super) struct Superblock<'a> {
    pub(super) blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) inodes: u32,
    pub(super) group_inodes: u32,
    pub(super) free_inodes: u32,
    pub(super) reserved_descriptors: u16,
    pub(super) uuid: [u8; 16],
    pub(super) label: &'a str,
    pub(super) made_at: u32,
    pub(super) journal: &'a Inode,
}

impl Superblock<'_> {
    /// As it stands at the beginning of `group`.
    pub(super) fn bytes(&self, group: u16) -> [u8; 1024] {
        let mut bytes = [0; 1024];
        let b = &mut bytes;
        put32(b, 0x00, self.inodes);
        put32(b, 0x04, self.blocks as u32);
        put32(b, 0x150, (self.blocks >> 32) as u32);
        put32(b, 0x0c, self.free_blocks as u32);
        put32(b, 0x158, (self.free_blocks >> 32) as u32);
        put32(b, 0x10, self.free_inodes);
        // Blocks of 4 KiB, clusters of one block.
        put32(b, 0x18, 2);
        put32(b, 0x1c, 2);
        put32(b, 0x20, GROUP as u32);
        put32(b, 0x24, GROUP as u32);
        put32(b, 0x28, self.group_inodes);
        put32(b, 0x30, self.made_at);
        put16(b, 0x36, u16::MAX);
        put16(b, 0x38, super::MAGIC);
        // Clean; go on after errors; no checks by time; dynamic revision.
        put16(b, 0x3a, 1);
        put16(b, 0x3c, 1);
        put32(b, 0x40, self.made_at);
        put32(b, 0x4c, 1);
        put32(b, 0x54, FIRST);
        put16(b, 0x58, INODE as u16);
        put16(b, 0x5a, group);
        put32(b, 0x5c, COMPATIBLE);
        put32(b, 0x60, INCOMPATIBLE);
        put32(b, 0x64, READ_ONLY_COMPATIBLE);
        b[0x68..0x78].copy_from_slice(&self.uuid);
        let label = &self.label.as_bytes()[..self.label.len().min(16)];
        b[0x78..0x78 + label.len()].copy_from_slice(label);
        put16(b, 0xce, self.reserved_descriptors);
        put32(b, 0xe0, JOURNAL);
        // Hash trees that the kernel adds: half MD4, of unsigned characters, seeded with the UUID.
        b[0xec..0xfc].copy_from_slice(&self.uuid);
        b[0xfc] = 1;
        put32(b, 0x160, 2);
        // A copy of the journal's inode.
        b[0xfd] = 1;
        b[0x10c..0x10c + 60].copy_from_slice(self.journal.map());
        put32(b, 0x10c + 60, (self.journal.size() >> 32) as u32);
        put32(b, 0x10c + 64, self.journal.size() as u32);
        put16(b, 0xfe, DESC as u16);
        // Mounted with user_xattr and acl.
        put32(b, 0x100, 0x4 | 0x8);
        put32(b, 0x108, self.made_at);
        put16(b, 0x15c, 32);
        put16(b, 0x15e, 32);
        // 16 groups to a flex_bg; checksums are CRC-32C.
        b[0x174] = 4;
        b[0x175] = 1;
        let checksum = crc32c::update(!0, &b[..0x3fc]);
        put32(b, 0x3fc, checksum);
        bytes
    }
}

/// The first block of an empty journal (journal_superblock_s; big-endian).
pub(super) fn journal(blocks: u32, uuid: &[u8; 16]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LEN];
    let fields =
        [(0, 0xc03b_3998), (4, 4), (12, BLOCK_LEN as u32), (16, blocks), (20, 1), (24, 1), (0x40, 1)];
    for (at, value) in fields {
        block[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
    }
    block[0x30..0x40].copy_from_slice(uuid);
    block
}
