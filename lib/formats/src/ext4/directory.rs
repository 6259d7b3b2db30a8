//! A directory's blocks.

use super::crc32c;
use super::format::{BLOCK_LEN, DIRECTORY, FMT, put16, put32};

/// Where the entries end: behind them is a checksum that looks like an entry.
const TAIL: usize = BLOCK_LEN - 12;

/// Puts entries into blocks, one block at a time.
pub(super) struct Blocks {
    block: Vec<u8>,
    seed: u32,
    /// Where the last entry begins, and where the next one will.
    last: usize,
    at: usize,
}

impl Blocks {
    /// The blocks of the directory `own` in `parent`. `seed` is the checksum seed of its inode.
    pub(super) fn new(seed: u32, own: u32, parent: u32) -> Self {
        let mut blocks = Self { block: vec![0; BLOCK_LEN], seed, last: 0, at: 0 };
        for (name, number) in [(&b"."[..], own), (b"..", parent)] {
            let full = blocks.add(name, number, DIRECTORY);
            debug_assert!(full.is_none(), "the first two fit");
        }
        blocks
    }

    /// Adds an entry, a name for the inode `number`; gives the block before where that is full.
    pub(super) fn add(&mut self, name: &[u8], number: u32, mode: u16) -> Option<Vec<u8>> {
        let length = (8 + name.len()).next_multiple_of(4);
        let full = (self.at + length > TAIL).then(|| self.finish());
        let entry = &mut self.block[self.at..];
        put32(entry, 0, number);
        put16(entry, 4, length as u16);
        entry[6] = name.len() as u8;
        entry[7] = file_type(mode);
        entry[8..8 + name.len()].copy_from_slice(name);
        (self.last, self.at) = (self.at, self.at + length);
        full
    }

    /// The last block.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut block = std::mem::replace(&mut self.block, vec![0; BLOCK_LEN]);
        // The last entry reaches to the tail.
        put16(&mut block, self.last + 4, (TAIL - self.last) as u16);
        let checksum = crc32c::update(self.seed, &block[..TAIL]);
        put16(&mut block, TAIL + 4, 12);
        block[TAIL + 7] = 0xde;
        put32(&mut block, TAIL + 8, checksum);
        (self.last, self.at) = (0, 0);
        block
    }
}

/// The type as entries have it.
fn file_type(mode: u16) -> u8 {
    match mode & FMT {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}
