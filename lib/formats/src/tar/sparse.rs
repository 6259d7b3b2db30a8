//! Sparse files: which parts of a file the archive holds (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use super::header::number;
use super::{Archive, BLOCK, TarError, pax};

/// What is said of a map that is not valid.
pub(super) const INVALID: &str = "is a sparse file whose map is not valid";

/// More pieces than a real file has.
const MAX_REGIONS: usize = 400_000;

/// A sparse file: its size, and where there is data.
pub(super) struct Map {
    pub(super) size: u64,
    pub(super) regions: Vec<(u64, u64)>,
}

impl Map {
    /// Whether the regions follow each other inside the file and have all of its `stored` bytes.
    pub(super) fn is_valid(&self, stored: u64) -> bool {
        let (mut at, mut total) = (0u64, 0u64);
        for (offset, length) in &self.regions {
            let Some(end) = offset.checked_add(*length) else { return false };
            if *offset < at || end > self.size {
                return false;
            }
            at = end;
            // No overflow: they do not overlap.
            total += length;
        }
        total == stored && self.regions.len() <= MAX_REGIONS
    }
}

/// The last one has often no bytes and only tells the size.
pub(super) fn without_empty(regions: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    regions.into_iter().filter(|(_, length)| *length > 0).collect()
}

/// Adds the pairs of numbers in `fields`.
pub(super) fn add(regions: &mut Vec<(u64, u64)>, fields: &[u8]) -> Option<()> {
    for pair in fields.chunks_exact(24) {
        let offset = u64::try_from(number(&pair[..12])?).ok()?;
        let length = u64::try_from(number(&pair[12..])?).ok()?;
        if length > 0 {
            regions.push((offset, length));
        }
    }
    (regions.len() <= MAX_REGIONS).then_some(())
}

/// Adds what stands in a block of an old sparse file's map; tells whether another one follows.
pub(super) fn extend(regions: &mut Vec<(u64, u64)>, block: &[u8; BLOCK as usize]) -> Option<bool> {
    add(regions, &block[..504])?;
    Some(block[504] != 0)
}

/// Reads the map that the data of a sparse file of the format 1.0 begins with: numbers, one to a line, padded to whole blocks.
/// `None` where it is not of its shape.
pub(super) fn read_map<R: Read>(archive: &mut Archive<R>) -> Result<Vec<(u64, u64)>, Option<TarError>> {
    let mut numbers = Numbers { archive, block: Vec::new(), at: 0 };
    let count = numbers.next()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_REGIONS).ok_or(None)?;
    let mut regions = Vec::new();
    for _ in 0..count {
        regions.push((numbers.next()?, numbers.next()?));
    }
    Ok(without_empty(regions))
}

struct Numbers<'a, R> {
    archive: &'a mut Archive<R>,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Numbers<'_, R> {
    fn next(&mut self) -> Result<u64, Option<TarError>> {
        let mut digits = Vec::new();
        loop {
            if self.at == self.block.len() {
                self.block.resize(BLOCK as usize, 0);
                self.at = 0;
                if self.archive.left < BLOCK {
                    return Err(None);
                }
                let read = self.archive.read_exact(&mut self.block);
                read.map_err(|source| Some(self.archive.broken(source)))?;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return pax::number(&digits).ok_or(None);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(None);
            }
        }
    }
}
