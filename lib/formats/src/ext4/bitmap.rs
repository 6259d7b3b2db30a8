//! Which blocks are in use.

use super::format::{BLOCK_LEN, GROUP};

/// A bit for each block of a filesystem.
pub(super) struct Bitmap {
    bits: Vec<u8>,
}

impl Bitmap {
    /// All free.
    pub(super) fn new(blocks: u64) -> Self {
        Self { bits: vec![0; (blocks.div_ceil(GROUP) * GROUP / 8) as usize] }
    }

    /// Marks `count` blocks from `start` on as used.
    pub(super) fn set(&mut self, start: u64, count: u64) {
        let (mut at, end) = (start, start + count);
        while at < end {
            if at.is_multiple_of(8) && end - at >= 8 {
                self.bits[(at / 8) as usize] = 0xff;
                at += 8;
            } else {
                self.bits[(at / 8) as usize] |= 1 << (at % 8);
                at += 1;
            }
        }
    }

    fn is_set(&self, block: u64) -> bool {
        self.bits[(block / 8) as usize] & 1 << (block % 8) != 0
    }

    /// The next run of free blocks from `at` on and before `end`.
    pub(super) fn next_free(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let start = (at..end).find(|block| !self.is_set(*block))?;
        let after = (start..end).find(|block| self.is_set(*block)).unwrap_or(end);
        Some((start, after))
    }

    /// The bitmap of a group; what is behind the filesystem's last block counts as used.
    pub(super) fn group(&self, group: u64, blocks: u64) -> Vec<u8> {
        let mut bits = self.bits[group as usize * BLOCK_LEN..][..BLOCK_LEN].to_vec();
        for block in blocks.saturating_sub(group * GROUP).min(GROUP)..GROUP {
            bits[(block / 8) as usize] |= 1 << (block % 8);
        }
        bits
    }
}

/// A bitmap block of `count` bits; what is behind them is set.
pub(super) fn first(bits: impl Iterator<Item = bool>, count: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK_LEN];
    let padding = std::iter::repeat_n(true, BLOCK_LEN * 8 - count as usize);
    for (at, bit) in bits.chain(padding).enumerate() {
        block[at / 8] |= u8::from(bit) << (at % 8);
    }
    block
}

/// How many bits are not set.
pub(super) fn zeros(bits: &[u8]) -> u32 {
    bits.iter().map(|byte| byte.count_zeros()).sum()
}
