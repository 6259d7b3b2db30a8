//! Lines from a peer that may send anything: each at most [`MAX_LINE_BYTES`], longer ones dropped.

use banger_protocol::guest::MAX_LINE_BYTES;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// The beginning of a line that is longer than any may be; its rest is dropped.
    TooLong,
}

/// The unfinished line.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    dropping: bool,
}

impl Lines {
    /// The lines that `bytes` finish.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            if !self.dropping {
                self.pending.extend_from_slice(text);
            }
            if self.pending.len() >= MAX_LINE_BYTES {
                self.pending = Vec::new();
                self.dropping = true;
                lines.push(Line::TooLong);
            }
            if ended && !std::mem::take(&mut self.dropping) {
                lines.push(Line::Whole(std::mem::take(&mut self.pending)));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_pieces_and_without_end() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"a"), []);
        assert_eq!(
            lines.feed(b"b\n\nc\nd"),
            [Line::Whole(b"ab".into()), Line::Whole(b"".into()), Line::Whole(b"c".into())]
        );
        let long = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines.feed(&long), [Line::TooLong]);
        for _ in 0..100 {
            assert_eq!(lines.feed(&long), []);
        }
        assert!(lines.pending.is_empty());
        assert_eq!(lines.feed(b"end\nnext\n"), [Line::Whole(b"next".into())]);
    }
}
