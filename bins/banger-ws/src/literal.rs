//! The part of a patch that holds a large file: git would take all of it, and all of what it was, into its memory at once. This is the form
//! that git gives to what is not text (`git diff --binary`), written as the bytes go by; `git apply` reads it as any other.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// How many bytes a line of a block holds (diff.c, emit_binary_diff_body).
const LINE: usize = 52;
/// git's alphabet for 85 (base85.c).
const ALPHABET: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// What is compared at once, bytes; what one instruction of a delta copies or inserts at most (gitformat-pack(5)).
const BLOCK: usize = 4096;
const MAX_COPY: u64 = 0xff_ffff;
const MAX_INSERT: u64 = 127;
/// Up to where a delta can copy from.
const MAX_OFFSET: u64 = u32::MAX as u64;

/// Writes blocks of 85s in lines.
struct Lines<W: Write> {
    out: W,
    held: Vec<u8>,
}

impl<W: Write> Lines<W> {
    fn line(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u8;
        let mut text = vec![if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 }];
        for group in bytes.chunks(4) {
            let mut word = [0; 4];
            word[..group.len()].copy_from_slice(group);
            let (mut number, mut digits) = (u32::from_be_bytes(word), [0; 5]);
            for digit in digits.iter_mut().rev() {
                *digit = ALPHABET[(number % 85) as usize];
                number /= 85;
            }
            text.extend_from_slice(&digits);
        }
        text.push(b'\n');
        self.out.write_all(&text)
    }

    fn end(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.held);
        if !rest.is_empty() {
            self.line(&rest)?;
        }
        self.out.write_all(b"\n")
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let whole = held.len() - held.len() % LINE;
        held[..whole].chunks(LINE).try_for_each(|line| self.line(line))?;
        self.held = held[whole..].to_vec();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn block(out: &mut dyn Write, kind: &str, size: u64, from: &mut dyn Read) -> io::Result<()> {
    writeln!(out, "{kind} {size}")?;
    let mut deflated = ZlibEncoder::new(Lines { out, held: Vec::new() }, Compression::new(1));
    let copied = io::copy(from, &mut deflated)?;
    if copied != size {
        return Err(io::Error::other("a file is not as long as it was"));
    }
    deflated.finish()?.end()
}

/// One instruction of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// From the old file.
    Copy { offset: u64, length: u64 },
    /// From the new one.
    Insert { offset: u64, length: u64 },
}

/// Adds a step, joined to the one before where it goes on from there.
fn push(steps: &mut Vec<Step>, step: Step) {
    match (steps.last_mut(), step) {
        (Some(Step::Copy { offset, length }), Step::Copy { offset: next, length: more })
        | (Some(Step::Insert { offset, length }), Step::Insert { offset: next, length: more })
            if *offset + *length == next =>
        {
            *length += more;
        }
        _ => steps.push(step),
    }
}

fn read_at(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

/// What makes `new` of `old`: bytes that stand where they stood, and, counted from the end, those behind a change of the length.
fn steps(old: &mut File, old_size: u64, new: &mut File, new_size: u64) -> io::Result<Vec<Step>> {
    let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut equal = |at_old: u64, at_new: u64, length: usize| -> io::Result<bool> {
        read_at(old, at_old, &mut one[..length])?;
        read_at(new, at_new, &mut other[..length])?;
        Ok(one[..length] == other[..length])
    };
    let mut tail = 0;
    if old_size != new_size {
        let most = old_size.min(new_size);
        while tail + BLOCK as u64 <= most
            && equal(old_size - tail - BLOCK as u64, new_size - tail - BLOCK as u64, BLOCK)?
        {
            tail += BLOCK as u64;
        }
    }
    let mut steps = Vec::new();
    let (old_end, new_end) = (old_size - tail, new_size - tail);
    let mut at = 0;
    while at < new_end {
        let length = (new_end - at).min(BLOCK as u64);
        if at + length <= old_end && equal(at, at, length as usize)? {
            push(&mut steps, Step::Copy { offset: at, length });
        } else {
            push(&mut steps, Step::Insert { offset: at, length });
        }
        at += length;
    }
    if tail > 0 {
        push(&mut steps, Step::Copy { offset: old_end, length: tail });
    }
    Ok(steps)
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn copy_instruction(offset: u64, length: u64) -> Vec<u8> {
    let mut out = vec![0x80];
    for (bit, byte) in offset.to_le_bytes()[..4].iter().chain(&length.to_le_bytes()[..3]).enumerate() {
        if *byte != 0 {
            out[0] |= 1 << bit;
            out.push(*byte);
        }
    }
    out
}

/// What stands in a delta: bytes of its own, and then perhaps a part of the new file, by its place and length.
struct Piece {
    bytes: Vec<u8>,
    part: Option<(u64, u64)>,
}

/// The pieces of a delta, one after the other: of a large file there are many.
struct Pieces<'a> {
    header: Option<Vec<u8>>,
    steps: std::slice::Iter<'a, Step>,
    current: Option<Step>,
}

impl<'a> Pieces<'a> {
    fn new(sizes: (u64, u64), steps: &'a [Step]) -> Self {
        let header = Some([varint(sizes.0), varint(sizes.1)].concat());
        Self { header, steps: steps.iter(), current: None }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if let Some(bytes) = self.header.take() {
            return Some(Piece { bytes, part: None });
        }
        let step = self.current.take().or_else(|| self.steps.next().copied())?;
        let (piece, rest) = match step {
            Step::Copy { offset, length } => {
                let now = length.min(MAX_COPY);
                let piece = Piece { bytes: copy_instruction(offset, now), part: None };
                (piece, Step::Copy { offset: offset + now, length: length - now })
            }
            Step::Insert { offset, length } => {
                let now = length.min(MAX_INSERT);
                let piece = Piece { bytes: vec![now as u8], part: Some((offset, now)) };
                (piece, Step::Insert { offset: offset + now, length: length - now })
            }
        };
        let (Step::Copy { length, .. } | Step::Insert { length, .. }) = rest;
        self.current = (length > 0).then_some(rest);
        Some(piece)
    }
}

/// Reads a delta as a stream.
struct DeltaReader<'a> {
    pieces: Pieces<'a>,
    new: &'a mut File,
    held: Vec<u8>,
    taken: usize,
}

impl Read for DeltaReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.held.len() {
            let Some(Piece { mut bytes, part }) = self.pieces.next() else { return Ok(0) };
            if let Some((offset, length)) = part {
                let start = bytes.len();
                bytes.resize(start + length as usize, 0);
                read_at(self.new, offset, &mut bytes[start..])?;
            }
            (self.held, self.taken) = (bytes, 0);
        }
        let rest = &self.held[self.taken..];
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// One side of a change: a file with the bytes, or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The file.
    pub file: Option<&'a Path>,
}

impl Side<'_> {
    fn open(&self) -> io::Result<(Box<dyn Read>, u64)> {
        match self.file {
            None => Ok((Box::new(io::empty()), 0)),
            Some(path) => {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                Ok((Box::new(BufReader::with_capacity(128 << 10, file)), size))
            }
        }
    }
}

/// The block that makes `to` of `from`.
fn half(out: &mut dyn Write, from: Side<'_>, to: Side<'_>) -> io::Result<()> {
    if let (Some(old), Some(new)) = (from.file, to.file) {
        let (mut old, mut new) = (File::open(old)?, File::open(new)?);
        let sizes = (old.metadata()?.len(), new.metadata()?.len());
        let steps = steps(&mut old, sizes.0, &mut new, sizes.1)?;
        let inserted: u64 =
            steps.iter().map(|s| if let Step::Insert { length, .. } = s { *length } else { 0 }).sum();
        // A delta of little more than copies is worth it; one that inserts most is only longer.
        if sizes.0 <= MAX_OFFSET && inserted < sizes.1 / 2 {
            let length = |piece: Piece| piece.bytes.len() as u64 + piece.part.map_or(0, |(_, length)| length);
            let size = Pieces::new(sizes, &steps).map(length).sum();
            let pieces = Pieces::new(sizes, &steps);
            let mut reader = DeltaReader { pieces, new: &mut new, held: Vec::new(), taken: 0 };
            return block(out, "delta", size, &mut reader);
        }
    }
    let (mut bytes, size) = to.open()?;
    block(out, "literal", size, &mut bytes)
}

/// Writes what stands behind the header of a change: `GIT binary patch`, and both ways.
///
/// # Errors
/// Those of the files, and of `out`.
pub fn write(out: &mut dyn Write, old: Side<'_>, new: Side<'_>) -> io::Result<()> {
    out.write_all(b"GIT binary patch\n")?;
    half(out, old, new)?;
    half(out, new, old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Hasher;
    use banger_host::digest::hex;
    use banger_host::git::Git;

    fn id(bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(false, "blob", bytes.len() as u64);
        hasher.update(bytes);
        hex(&hasher.finish())
    }

    #[test]
    fn git_applies_what_is_written_there_and_back() {
        let noise: Vec<u8> =
            (0_u32..60_000).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let mut edited = noise.clone();
        edited[70_000] ^= 1;
        edited[200_001] ^= 1;
        let longer = [&noise[..90_000], b"inserted", &noise[90_000..]].concat();
        let other: Vec<u8> = noise.iter().map(|byte| byte ^ 0x55).collect();
        for (old, new) in
            [(&noise, &edited), (&noise, &longer), (&longer, &noise), (&noise, &other), (&edited, &vec![7])]
        {
            let temp = tempfile::tempdir().unwrap();
            let path = |name: &str| temp.path().join(name);
            std::fs::write(path("old"), old).unwrap();
            std::fs::write(path("new"), new).unwrap();
            let mut patch = Vec::new();
            writeln!(patch, "diff --git a/f b/f\nindex {}..{} 100644", id(old), id(new)).unwrap();
            write(&mut patch, Side { file: Some(&path("old")) }, Side { file: Some(&path("new")) }).unwrap();
            std::fs::write(path("p"), &patch).unwrap();
            std::fs::write(path("f"), old).unwrap();
            let git = Git::at(temp.path());
            git.run(["apply", "p"]).unwrap();
            assert!(std::fs::read(path("f")).unwrap() == *new);
            git.run(["apply", "-R", "p"]).unwrap();
            assert!(std::fs::read(path("f")).unwrap() == *old);
        }
    }
}
