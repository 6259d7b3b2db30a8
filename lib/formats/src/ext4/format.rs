//! The disk format's numbers (Linux Documentation/filesystems/ext4), as this writer uses them: blocks of 4 KiB, inodes of 256 bytes,
//! 64-byte group descriptors, metadata_csum.

use super::crc32c;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// The same for buffers.
pub(super) const BLOCK_LEN: usize = 4096;
/// Blocks of a group: one bitmap block has a bit for each.
pub(super) const GROUP: u64 = 8 * BLOCK;
/// Bytes of an inode.
pub(super) const INODE: usize = 256;
/// Bytes of a group descriptor.
pub(super) const DESC: usize = 64;
/// Blocks behind every superblock for group descriptors, most of them reserved for growth: enough for 2 TiB.
pub(super) const DESC_BLOCKS: u64 = 256;
/// What a group with a copy of the superblock begins with, blocks.
pub(super) const BASE: u64 = 1 + DESC_BLOCKS;

/// Inode numbers of the filesystem itself.
pub(super) const ROOT: u32 = 2;
pub(super) const RESIZE: u32 = 7;
pub(super) const JOURNAL: u32 = 8;
/// The first inode for files.
pub(super) const FIRST: u32 = 11;

/// File types in a mode.
pub(super) const FMT: u16 = 0o170_000;
pub(super) const REGULAR: u16 = 0o100_000;
pub(super) const DIRECTORY: u16 = 0o040_000;
pub(super) const SYMLINK: u16 = 0o120_000;

/// Writes `value` at `at`, little-endian.
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}
/// Writes `value` at `at`, little-endian.
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
/// The value at `at`, little-endian.
pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
/// The value at `at`, little-endian.
pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Whether `group` begins with a copy of superblock and descriptors (sparse_super): 0, 1 and the powers of 3, 5 and 7.
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(power_of)
}

/// The groups besides the first that begin with a copy of the superblock, of `groups`.
pub(super) fn backups(groups: u64) -> impl Iterator<Item = u64> {
    (1..groups).filter(|group| has_superblock(*group))
}

/// What the checksums of an inode and of the blocks that are its own begin with.
pub(super) fn inode_seed(seed: u32, inode: u32) -> u32 {
    let generation = [0; 4];
    crc32c::update(crc32c::update(seed, &inode.to_le_bytes()), &generation)
}

/// Where the next blocks come from: one after the other, but for what groups begin with.
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    next: u64,
    limit: u64,
}

impl Allocator {
    /// Gives blocks below `limit`.
    pub(super) fn new(limit: u64) -> Self {
        Self { next: BASE, limit }
    }

    /// Gives blocks from `next` on and below `limit`.
    pub(super) fn starting_at(next: u64, limit: u64) -> Self {
        Self { next, limit }
    }

    /// The first block that was not given away.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Up to `wanted` blocks in a row: where they begin, and how many. `None`: they are all gone.
    pub(super) fn take(&mut self, wanted: u64) -> Option<(u64, u64)> {
        let group = self.next / GROUP;
        if self.next.is_multiple_of(GROUP) && has_superblock(group) {
            self.next += BASE;
        }
        let next_group = self.next / GROUP + 1;
        let end = if has_superblock(next_group) { next_group * GROUP } else { u64::MAX };
        // Without a superblock at the next group's start the run goes on into it; one group more is enough for any caller.
        let end = end.min((next_group + 1) * GROUP).min(self.limit);
        let count = wanted.min(end.saturating_sub(self.next));
        let start = self.next;
        self.next += count;
        (count > 0).then_some((start, count))
    }

    /// `wanted` blocks in a row, at most a quarter of a group.
    pub(super) fn take_row(&mut self, wanted: u64) -> Option<u64> {
        loop {
            let before = self.clone();
            match self.take(wanted)? {
                (start, count) if count == wanted => return Some(start),
                // The row would run into a superblock: it begins behind it.
                (_, _) if self.next < self.limit => continue,
                _ => {
                    *self = before;
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_stand_where_sparse_super_has_them() {
        let groups: Vec<u64> = backups(130).collect();
        assert_eq!(groups, [1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn blocks_never_lie_where_a_superblock_will() {
        let mut allocator = Allocator::new(30 * GROUP);
        let mut total = 0;
        while let Some((start, count)) = allocator.take(10_000) {
            for block in [start, start + count - 1] {
                let (group, within) = (block / GROUP, block % GROUP);
                assert!(!has_superblock(group) || within >= BASE, "block {block}");
            }
            total += count;
        }
        assert_eq!(total, 30 * GROUP - 8 * BASE);
    }
}
