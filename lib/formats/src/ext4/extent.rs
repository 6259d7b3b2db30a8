//! Where a file's blocks are: extents, in the inode where four are enough, else in a tree of blocks.

use super::crc32c;
use super::format::{BLOCK_LEN, get16, get32, put16, put32};

/// The most blocks of one extent (ext4_extent.ee_len).
const MAX_BLOCKS: u32 = 32768;
/// Extents in the inode.
const IN_INODE: usize = 4;
/// Entries of a block of the tree: a header of 12 bytes, and a checksum in the last four.
const IN_BLOCK: usize = (BLOCK_LEN - 16) / 12;
const MAGIC: u16 = 0xf30a;

/// The most extents of one file: 6 MiB of memory, and more than any real file has.
pub(super) const MAX_EXTENTS: usize = 400_000;

/// Blocks of a file that follow each other on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first one's number in the file.
    pub(super) logical: u32,
    /// How many.
    pub(super) blocks: u32,
    /// The first one's number on disk.
    pub(super) physical: u64,
}

/// The extents of one file, by their place in the file.
#[derive(Debug, Default)]
pub(super) struct Extents {
    list: Vec<Extent>,
    blocks: u64,
}

impl Extents {
    /// Adds blocks behind all others.
    pub(super) fn push(&mut self, mut logical: u32, mut physical: u64, mut blocks: u64) {
        self.blocks += blocks;
        while blocks > 0 {
            let room = match self.list.last_mut() {
                Some(last)
                    if last.logical + last.blocks == logical
                        && last.physical + u64::from(last.blocks) == physical =>
                {
                    let more = (MAX_BLOCKS - last.blocks).min(blocks.min(u64::from(MAX_BLOCKS)) as u32);
                    last.blocks += more;
                    more
                }
                _ => 0,
            };
            let taken = if room > 0 {
                room
            } else {
                let new = blocks.min(u64::from(MAX_BLOCKS)) as u32;
                self.list.push(Extent { logical, blocks: new, physical });
                new
            };
            (logical, physical, blocks) =
                (logical + taken, physical + u64::from(taken), blocks - u64::from(taken));
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many blocks they have.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The tree's root, as it stands in the inode. Its other blocks, if any, go through `add`, which gives each a place. `seed` is
    /// the inode's checksum seed.
    pub(super) fn root<E>(
        &self,
        seed: u32,
        mut add: impl FnMut(&[u8]) -> Result<u64, E>,
    ) -> Result<[u8; 60], E> {
        let leaf = |extent: &Extent| {
            let mut entry = [0; 12];
            put32(&mut entry, 0, extent.logical);
            put16(&mut entry, 4, extent.blocks as u16);
            put16(&mut entry, 6, (extent.physical >> 32) as u16);
            put32(&mut entry, 8, extent.physical as u32);
            entry
        };
        let mut level: Vec<[u8; 12]> = self.list.iter().map(leaf).collect();
        let mut depth = 0;
        while level.len() > IN_INODE {
            let mut above = Vec::with_capacity(level.len().div_ceil(IN_BLOCK));
            for entries in level.chunks(IN_BLOCK) {
                let mut block = vec![0; BLOCK_LEN];
                fill(&mut block, entries, IN_BLOCK, depth);
                let checksum = crc32c::update(seed, &block[..12 + 12 * IN_BLOCK]);
                put32(&mut block, 12 + 12 * IN_BLOCK, checksum);
                let at = add(&block)?;
                let mut index = [0; 12];
                index[..4].copy_from_slice(&entries[0][..4]);
                put32(&mut index, 4, at as u32);
                put16(&mut index, 8, (at >> 32) as u16);
                above.push(index);
            }
            (level, depth) = (above, depth + 1);
        }
        let mut root = [0; 60];
        fill(&mut root, &level, IN_INODE, depth);
        Ok(root)
    }
}

fn fill(node: &mut [u8], entries: &[[u8; 12]], max: usize, depth: u16) {
    put16(node, 0, MAGIC);
    put16(node, 2, entries.len() as u16);
    put16(node, 4, max as u16);
    put16(node, 6, depth);
    for (place, entry) in node[12..].chunks_exact_mut(12).zip(entries) {
        place.copy_from_slice(entry);
    }
}

/// Calls `visit` for each extent below the node `node`, and `visit_block` for each block of the tree itself, which `read` gives.
pub(super) fn walk<E>(
    node: &[u8],
    read: &mut impl FnMut(u64) -> Result<Vec<u8>, E>,
    visit_block: &mut impl FnMut(u64),
    visit: &mut impl FnMut(Extent),
) -> Result<(), E> {
    let (count, depth) = (usize::from(get16(node, 2)), get16(node, 6));
    for entry in node[12..].chunks_exact(12).take(count) {
        if depth == 0 {
            let physical = u64::from(get16(entry, 6)) << 32 | u64::from(get32(entry, 8));
            let blocks = u32::from(get16(entry, 4));
            visit(Extent { logical: get32(entry, 0), blocks, physical });
        } else {
            let at = u64::from(get16(entry, 8)) << 32 | u64::from(get32(entry, 4));
            visit_block(at);
            walk(&read(at)?, read, visit_block, visit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn neighbours_become_one_extent_and_long_ones_are_split() {
        let mut extents = Extents::default();
        extents.push(0, 100, 10);
        extents.push(10, 110, 40_000);
        extents.push(50_010, 40_110, 1);
        let expected = [(0, 32768, 100), (32768, 7242, 32868), (50_010, 1, 40_110)];
        let found: Vec<_> = extents.list.iter().map(|e| (e.logical, e.blocks, e.physical)).collect();
        assert_eq!(found, expected);
        assert_eq!(extents.blocks(), 40_011);
    }

    #[test]
    fn a_tree_of_any_depth_is_walked_back() {
        for count in [0, 4, 5, 340, 341, 4 * 340 * 2] {
            let mut extents = Extents::default();
            for i in 0..count {
                extents.push(2 * i, u64::from(3 * i) + (1 << 33), 1);
            }
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            let Ok(root) = extents.root(1, |block| {
                blocks.push(block.to_vec());
                Ok::<_, Infallible>(blocks.len() as u64 - 1)
            });
            let (mut found, mut seen) = (Vec::new(), 0);
            let mut read = |at: u64| Ok::<_, Infallible>(blocks[at as usize].clone());
            let Ok(()) = walk(&root, &mut read, &mut |_| seen += 1, &mut |extent| found.push(extent));
            assert_eq!(found, extents.list);
            assert_eq!(seen, blocks.len());
        }
    }
}
