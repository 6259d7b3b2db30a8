//! The 512 bytes before every entry.

use super::sparse::{self, Map};
use super::{BLOCK, Kind};
use crate::ext4::Time;

/// A header whose checksum is right.
pub(super) struct Header {
    bytes: [u8; BLOCK as usize],
}

impl Header {
    pub(super) fn parse(bytes: [u8; BLOCK as usize]) -> Option<Self> {
        let header = Self { bytes };
        let expected = header.number(148, 8)?;
        let is_checksum = |at: usize| (148..156).contains(&at);
        let sum = |value: fn(u8) -> i128| -> i128 {
            let bytes = bytes.iter().enumerate();
            bytes.map(|(at, byte)| value(if is_checksum(at) { b' ' } else { *byte })).sum()
        };
        // Old programs summed signed characters.
        (sum(i128::from) == expected || sum(|byte| i128::from(byte as i8)) == expected).then_some(header)
    }

    fn number(&self, at: usize, length: usize) -> Option<i128> {
        number(&self.bytes[at..at + length])
    }

    /// The type's letter.
    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    /// The type, or what is wrong with it.
    pub(super) fn entry_kind(&self, path: &[u8]) -> Result<Kind, String> {
        match self.kind() {
            // Before ustar a directory was a file with a slash behind its name.
            0 | b'0' if path.ends_with(b"/") => Ok(Kind::Directory),
            0 | b'0' | b'7' | b'S' => Ok(Kind::Regular),
            b'1' => Ok(Kind::HardLink),
            b'2' => Ok(Kind::Symlink),
            b'3' => Ok(Kind::Character),
            b'4' => Ok(Kind::Block),
            b'5' => Ok(Kind::Directory),
            b'6' => Ok(Kind::Fifo),
            other => Err(format!("is of the unknown type {:?}", char::from(other))),
        }
    }

    /// The path: name, and in POSIX's form a prefix. GNU has other things there.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.bytes[..100]);
        let prefix = until_nul(&self.bytes[345..500]);
        let is_posix = &self.bytes[257..263] == b"ustar\0";
        if is_posix && !prefix.is_empty() { [prefix, name].join(&b'/') } else { name.to_vec() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.bytes[157..257]).to_vec()
    }

    /// Bytes of data behind the header.
    pub(super) fn size(&self) -> Option<u64> {
        self.number(124, 12).and_then(|size| u64::try_from(size).ok())
    }

    pub(super) fn mode(&self) -> Option<u16> {
        self.number(100, 8).map(|mode| (mode & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Option<i128> {
        self.number(108, 8)
    }

    pub(super) fn gid(&self) -> Option<i128> {
        self.number(116, 8)
    }

    pub(super) fn mtime(&self) -> Option<Time> {
        let seconds = self.number(136, 12).and_then(|time| i64::try_from(time).ok())?;
        Some(Time { seconds, nanos: 0 })
    }

    /// Major and minor number; zeros in the oldest form, which has none.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        if &self.bytes[257..262] != b"ustar" {
            return Some((0, 0));
        }
        let part = |at| self.number(at, 8).and_then(|value| u32::try_from(value).ok());
        Some((part(329)?, part(337)?))
    }

    /// The beginning of an old sparse file's map.
    pub(super) fn sparse_map(&self) -> Option<Map> {
        let size = u64::try_from(self.number(483, 12)?).ok()?;
        let mut regions = Vec::new();
        sparse::add(&mut regions, &self.bytes[386..482])?;
        Some(Map { size, regions })
    }

    /// Whether more of that map follows.
    pub(super) fn sparse_continues(&self) -> bool {
        self.bytes[482] != 0
    }
}

/// What is before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// A number in octal digits, with blanks or NULs around; or with the first bit set, in two's complement.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        // The first bit is the mark; the second is the sign.
        let first = i128::from(field[0] & 0x7f) - if field[0] & 0x40 != 0 { 0x80 } else { 0 };
        return Some(field[1..].iter().fold(first, |value, byte| value << 8 | i128::from(*byte)));
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() {
        return Some(0);
    }
    // from_str_radix takes a sign as well.
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| i128::from_str_radix(text, 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_in_both_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"    644 "), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"-644\0"), None);
        assert_eq!(number(b"12x\0"), None);
        assert_eq!(number(b"\x80\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"), Some(1 << 32));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff"), Some(-1));
        assert!(
            number(&[0xff; 12]).is_some()
                && number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_some()
        );
    }
}
