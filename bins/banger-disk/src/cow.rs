//! What device-mapper reads of a snapshot's file of changes, checked before the kernel reads it.
//!
//! The format is the kernel's (drivers/md/dm-snap-persistent.c): a header of one chunk; then an area of one chunk that lists exceptions,
//! the chunks that it lists, the next area, and so on. The kernel believes it: it makes room for three chunks of whatever size the header
//! says, and keeps each listed exception in memory that cannot be swapped, up to the first area that is not full. The file is its
//! owner's, who may have written anything into it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::dm::{CHUNK_SECTORS, SECTOR};

/// "SnAp", little-endian.
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;
const CHUNK: u64 = CHUNK_SECTORS * SECTOR;
/// The size of an exception: the chunk that it stands for and the chunk that it is in, two 64-bit numbers.
const EXCEPTION: usize = 16;
/// How many chunks from one area to the next.
const STRIDE: u64 = CHUNK / EXCEPTION as u64 + 1;

/// Why a file of changes is none that the kernel may be given.
#[derive(Debug)]
pub enum CowFault {
    /// It cannot be read.
    Io(io::Error),
    /// It is not what banger and the kernel write.
    Content(&'static str),
}

impl From<io::Error> for CowFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Checks the first `cow_bytes` of `cow`, the changes of a root of `root_bytes`.
///
/// # Errors
/// [`CowFault`].
pub fn check(cow: &File, cow_bytes: u64, root_bytes: u64) -> Result<(), CowFault> {
    let mut header = [0; 16];
    cow.read_exact_at(&mut header, 0)?;
    let [magic, valid, version, chunk_sectors] = words(&header);
    if magic == 0 {
        // New: the kernel writes the header, and reads nothing else.
        return Ok(());
    }
    if magic != MAGIC {
        return Err(CowFault::Content("it has something else than a snapshot's header"));
    }
    if version != VERSION || valid > 1 {
        return Err(CowFault::Content("its header is of another version"));
    }
    if u64::from(chunk_sectors) != CHUNK_SECTORS {
        return Err(CowFault::Content("its header has another chunk size than banger's"));
    }
    // The kernel gives up what is not valid, and reads no exceptions.
    if valid == 0 { Ok(()) } else { check_exceptions(cow, cow_bytes / CHUNK, root_bytes.div_ceil(CHUNK)) }
}

/// Goes through the areas as the kernel does: up to the first entry that is none.
fn check_exceptions(cow: &File, cow_chunks: u64, root_chunks: u64) -> Result<(), CowFault> {
    let mut area = vec![0; CHUNK as usize];
    for at in (1..cow_chunks).step_by(STRIDE as usize) {
        cow.read_exact_at(&mut area, at * CHUNK)?;
        for exception in area.chunks_exact(EXCEPTION) {
            let (old, new) = exception.split_at(EXCEPTION / 2);
            let [old, new] = [old, new].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")));
            if new == 0 {
                return Ok(());
            }
            // Neither the header nor an area.
            if old >= root_chunks || new >= cow_chunks || new % STRIDE == 1 {
                return Err(CowFault::Content("it lists a change that lies outside"));
            }
        }
    }
    Err(CowFault::Content("it lists more changes than it has room for"))
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let word = |n: usize| u32::from_le_bytes(bytes[4 * n..][..4].try_into().expect("4 bytes"));
    [word(0), word(1), word(2), word(3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COW: u64 = 2 << 20;
    const ROOT: u64 = 1 << 20;

    fn header(magic: u32, valid: u32, version: u32, chunk_sectors: u32) -> Vec<u8> {
        [magic, valid, version, chunk_sectors].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// What is said of a file with this header and these exceptions, which begin in the first area.
    fn said(header: &[u8], exceptions: &[(u64, u64)]) -> &'static str {
        let file = tempfile::tempfile().unwrap();
        file.set_len(COW).unwrap();
        file.write_all_at(header, 0).unwrap();
        for (n, (old, new)) in exceptions.iter().enumerate() {
            let (area, within) = (n as u64 / (STRIDE - 1), n as u64 % (STRIDE - 1));
            let at = (1 + area * STRIDE) * CHUNK + within * EXCEPTION as u64;
            let bytes: Vec<u8> = [old, new].iter().flat_map(|half| half.to_le_bytes()).collect();
            file.write_all_at(&bytes, at).unwrap();
        }
        match check(&file, COW, ROOT) {
            Ok(()) => "",
            Err(CowFault::Content(why)) => why,
            Err(CowFault::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn what_the_kernel_writes_passes() {
        assert_eq!(said(&[], &[]), "", "a new one");
        let good = header(MAGIC, 1, 1, 8);
        assert_eq!(said(&good, &[]), "");
        assert_eq!(said(&good, &[(0, 2), (255, 3), (7, 256), (8, 259)]), "");
        let full: Vec<_> = (2..258).map(|new| (new % 256, new)).chain([(9, 259)]).collect();
        assert_eq!(said(&good, &full), "", "into the second area");
        assert_eq!(said(&header(MAGIC, 0, 1, 8), &[(u64::MAX, 1)]), "", "one that overflowed is not read");
    }

    #[test]
    fn whatever_else_there_is_does_not() {
        assert!(said(&header(1, 1, 1, 8), &[]).contains("something else"));
        assert!(said(&header(MAGIC, 1, 2, 8), &[]).contains("version"));
        assert!(said(&header(MAGIC, 2, 1, 8), &[]).contains("version"));
        for chunk in [0, 1, 4, 16, 1 << 30, u32::MAX] {
            assert!(said(&header(MAGIC, 1, 1, chunk), &[]).contains("chunk size"), "{chunk}");
        }
        let good = header(MAGIC, 1, 1, 8);
        for outside in [(256, 2), (u64::MAX, 2), (0, 1), (0, 258), (0, 512), (0, u64::MAX)] {
            assert!(said(&good, &[(0, 2), outside]).contains("outside"), "{outside:?}");
        }
        // Two areas are all that 512 chunks have room for.
        let endless: Vec<_> = (0..600).map(|n| (n % 256, 2 + n % 200)).collect();
        assert!(said(&good, &endless).contains("more changes"));
    }
}
