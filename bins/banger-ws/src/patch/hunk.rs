//! The lines that carry content: hunks of text and blocks of binary, as git's `xdiff/xutils.c` and `emit_binary_diff_body` in
//! `diff.c` write them.

use flate2::{Decompress, FlushDecompress, Status};

/// The most bytes that a line of binary stands for.
const MAX_LINE_DATA: usize = 52;
/// The digits of git's base 85 that are no letters and no numbers, in their order.
const BASE85_SIGNS: &[u8; 23] = b"!#$%&()*+-;<=>?@^_`{|}~";

/// What stands after the last line of a file that does not end in a newline.
pub(super) const NO_NEWLINE: &[u8] = b"\\ No newline at end of file";

/// The lines on either side that `@@ -a,b +c,d @@` announces.
pub fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let text = line.strip_prefix(b"@@ -")?;
    let end = text.windows(3).position(|w| w == b" @@")?;
    let heading = &text[end + 3..];
    let (old, new) = std::str::from_utf8(&text[..end]).ok()?.split_once(" +")?;
    let counts = (range(old)?, range(new)?);
    (counts != (0, 0) && (heading.is_empty() || heading.starts_with(b" "))).then_some(counts)
}

/// The count of `start,count`, of which git leaves a count of 1 out.
fn range(text: &str) -> Option<u64> {
    let (start, count) = match text.split_once(',') {
        Some((_, "1")) => return None,
        Some((start, count)) => (number(start)?, number(count)?),
        None => (number(text)?, 1),
    };
    (start > 0 || count == 0).then_some(count)
}

/// A decimal number without leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// The lines left on either side of a hunk after `line`.
pub fn in_hunk(line: &[u8], old: u64, new: u64) -> Option<(u64, u64)> {
    match line.first()? {
        b' ' => Some((old.checked_sub(1)?, new.checked_sub(1)?)),
        b'-' => Some((old.checked_sub(1)?, new)),
        b'+' => Some((old, new.checked_sub(1)?)),
        b'\\' => Some((old, new)),
        _ => None,
    }
}

/// How far the hunks of one file have come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hunks {
    /// How the last line began; 0 where none came since the hunk began or since [`NO_NEWLINE`].
    last: u8,
    /// Whether the current hunk changes something.
    changes: bool,
    /// Whether a side has come to an end without a newline.
    ended: bool,
}

impl Hunks {
    /// Begins a hunk; gives whether there may be one more.
    pub(super) fn begin(&mut self) -> bool {
        (self.last, self.changes) = (0, false);
        !self.ended
    }

    /// Takes a line; gives what is left of the hunk, of which `old` and `new` lines were left.
    pub(super) fn take(&mut self, line: &[u8], old: u64, new: u64) -> Option<(u64, u64)> {
        let first = *line.first()?;
        if first == b'\\' {
            return self.end_side(line, old, new).then_some((old, new));
        }
        let left = in_hunk(line, old, new)?;
        self.last = first;
        self.changes |= first != b' ';
        (left != (0, 0) || self.changes).then_some(left)
    }

    /// Takes [`NO_NEWLINE`]; gives whether it may stand here, after the last line of a side.
    pub(super) fn end_side(&mut self, line: &[u8], old: u64, new: u64) -> bool {
        let last = match std::mem::take(&mut self.last) {
            b'-' => old == 0,
            b' ' | b'+' => (old, new) == (0, 0),
            _ => false,
        };
        self.ended = true;
        last && line == NO_NEWLINE
    }
}

/// A block of binary, as far as it was read. What it holds is unpacked, and forgotten: where it cannot be, `git apply` leaves this file and
/// all that follow out, without saying so in its exit status.
#[derive(Debug)]
pub(super) struct Block {
    /// How many bytes it unpacks to.
    pub(super) size: u64,
    inflate: Decompress,
    is_whole: bool,
    /// Whether a line came that is shorter than can be: the last one.
    is_last: bool,
}

impl Block {
    /// Begins with `literal N` or `delta N`.
    pub(super) fn begin(line: &[u8]) -> Option<Self> {
        let size = line.strip_prefix(b"literal ").or_else(|| line.strip_prefix(b"delta "))?;
        let size = number(std::str::from_utf8(size).ok()?)?;
        Some(Self { size, inflate: Decompress::new(true), is_whole: false, is_last: false })
    }

    /// Takes a line of data: how many bytes it stands for, and five digits for each four of them.
    pub(super) fn take(&mut self, line: &[u8]) -> Option<()> {
        let (length, digits) = line.split_first()?;
        let count = match length {
            b'A'..=b'Z' => usize::from(length - b'A') + 1,
            b'a'..=b'z' => usize::from(length - b'a') + 27,
            _ => return None,
        };
        if self.is_last || digits.len() != count.div_ceil(4) * 5 {
            return None;
        }
        self.is_last = count < MAX_LINE_DATA;
        let bytes: Option<Vec<[u8; 4]>> = digits.chunks_exact(5).map(base85).collect();
        let bytes = bytes?;
        let (data, filler) = bytes.as_flattened().split_at(count);
        if filler.iter().any(|byte| *byte != 0) { None } else { self.unpack(data) }
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Option<()> {
        let mut out = [0; 32 << 10];
        while !packed.is_empty() {
            if self.is_whole {
                return None;
            }
            let (took, gave) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(packed, &mut out, FlushDecompress::None).ok()?;
            packed = &packed[usize::try_from(self.inflate.total_in() - took).ok()?..];
            self.is_whole = status == Status::StreamEnd;
            let stands = (self.inflate.total_in(), self.inflate.total_out()) == (took, gave);
            if self.inflate.total_out() > self.size || stands && !self.is_whole {
                return None;
            }
        }
        Some(())
    }

    /// Whether the empty line that ends it may follow.
    pub(super) fn may_end(&mut self) -> bool {
        // What the last bytes stand for may not have come out yet.
        let mut out = [0; 32 << 10];
        while !self.is_whole {
            let gave = self.inflate.total_out();
            match self.inflate.decompress(&[], &mut out, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) => self.is_whole = true,
                Ok(_) if self.inflate.total_out() > gave && self.inflate.total_out() <= self.size => {}
                _ => return false,
            }
        }
        self.inflate.total_out() == self.size
    }
}

/// The four bytes that five digits of git's base 85 (`base85.c`) stand for.
fn base85(digits: &[u8]) -> Option<[u8; 4]> {
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'Z' => digit - b'A' + 10,
            b'a'..=b'z' => digit - b'a' + 36,
            _ => u8::try_from(BASE85_SIGNS.iter().position(|sign| sign == digit)?).ok()? + 62,
        };
        value.checked_mul(85)?.checked_add(u32::from(digit))
    })?;
    Some(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_of_hunks_are_as_git_writes_them() {
        for (line, counts) in
            [("@@ -1 +1 @@", (1, 1)), ("@@ -0,0 +1,2 @@", (0, 2)), ("@@ -12,3 +11,0 @@ fn @@ x", (3, 0))]
        {
            assert_eq!(hunk(line.as_bytes()), Some(counts), "{line}");
        }
        for line in [
            "@@ -1,1 +1 @@",
            "@@ -01 +1 @@",
            "@@ -1 +1 @@x",
            "@@ -1 +1 @@\r",
            "@@ -1 +1",
            "@@ -0,0 +0,0 @@",
            "@@ -0 +1 @@",
            "@@ -1,-1 +1 @@",
            "@@ -99999999999999999999 +1 @@",
        ] {
            assert_eq!(hunk(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_end_of_a_file_without_a_newline_is_said_at_its_end() {
        let read = |lines: &[&str], (mut old, mut new): (u64, u64)| {
            let mut hunks = Hunks::default();
            hunks.begin()
                && lines.iter().all(|line| match hunks.take(line.as_bytes(), old, new) {
                    Some(left) => {
                        (old, new) = left;
                        true
                    }
                    None => false,
                })
        };
        let end = "\\ No newline at end of file";
        assert!(read(&["-a", end, "+b", end], (1, 1)) && read(&["-a", "+b", " c", end], (2, 2)));
        assert!(!read(&["-a", end, end, "+b"], (1, 1)), "twice");
        assert!(!read(&["-a", end, "-b", "+c"], (2, 1)), "the old side goes on");
        assert!(!read(&[end, "-a"], (1, 0)), "before anything");
        assert!(!read(&["-a", "\\ No newline"], (1, 0)), "other words");
        assert!(!read(&[" a"], (1, 1)), "nothing changes");
    }

    #[test]
    fn blocks_of_binary_are_as_git_writes_them() {
        let read = |lines: &[&str]| {
            let mut block = Block::begin(lines[0].as_bytes())?;
            lines[1..].iter().try_for_each(|line| block.take(line.as_bytes()))?;
            block.may_end().then_some(block.size)
        };
        assert_eq!(read(&["literal 0", "HcmV?d00001"]), Some(0));
        assert_eq!(read(&["literal 2", "JcmZQz1ONa700IC2"]), Some(2));
        for lines in [
            &["literal"][..],
            &["literal 02", "JcmZQz1ONa700IC2"],
            &["literal x", "JcmZQz1ONa700IC2"],
            &["literal 1", "JcmZQz1ONa700IC2"],
            &["literal 3", "JcmZQz1ONa700IC2"],
            &["literal 2"],
            &["literal 2", "JcmZQz1ONa700IC"],
            &["literal 2", "IcmZQz1ONa700IC2"],
            &["literal 2", "JcmZQz1ONa700IC\""],
            &["literal 2", "J~~~~~1ONa700IC2"],
            &["literal 2", "JcmZQz1ONa700IC3"],
            &["literal 2", "JcmZQz1ONa700IC2", "JcmZQz1ONa700IC2"],
            &["literal 2", "0cmZQz"],
        ] {
            assert_eq!(read(lines), None, "{lines:?}");
        }
    }
}
