//! A patch of the guest's for a terminal: coloured as git does it, and nothing in it but text. A patch that contains an escape
//! sequence, in a file's content or name, must not get through to the terminal of whoever looks at it.

use std::io::{self, Write};

use banger_contract::error::escape_controls;
use banger_ws::patch::{hunk, in_hunk};

/// git's default colours (color.diff.<slot> in git-config(1)).
const META: &str = "\x1b[1m";
const FRAGMENT: &str = "\x1b[36m";
const OLD: &str = "\x1b[31m";
const NEW: &str = "\x1b[32m";
const RESET: &str = "\x1b[m";
/// How much of a line decides its colour, bytes; the longest piece of a line that is held.
const PIECE: usize = 64 << 10;

/// Takes a patch in pieces and writes it line by line.
pub struct Painter<W: Write> {
    out: W,
    colours: bool,
    held: Vec<u8>,
    /// Whether a part of the current line was written already.
    inside: bool,
    /// The colour of the current line.
    colour: &'static str,
    /// Lines left on either side of the hunk.
    left: (u64, u64),
}

impl<W: Write> Painter<W> {
    pub fn new(out: W, colours: bool) -> Self {
        Self { out, colours, held: Vec::new(), inside: false, colour: "", left: (0, 0) }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> io::Result<()> {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.held.extend_from_slice(end);
                    self.write(true)?;
                    self.out.write_all(b"\n")?;
                }
                None => {
                    self.held.extend_from_slice(part);
                    if self.held.len() >= PIECE {
                        self.write(false)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what is held.
    pub fn finish(mut self) -> io::Result<()> {
        if !self.held.is_empty() || self.inside {
            self.write(true)?;
        }
        self.out.flush()
    }

    /// Writes the held part of a line; a character that is cut in two at its end waits for its rest.
    fn write(&mut self, ends: bool) -> io::Result<()> {
        if !self.inside {
            self.colour = self.judge();
        }
        let cut = if ends { self.held.len() } else { whole(&self.held) };
        let rest = self.held.split_off(cut);
        let text = String::from_utf8_lossy(&self.held);
        let shown: Vec<String> = text.split('\t').map(escape_controls).collect();
        let shown = shown.join("\t");
        if !self.colours || self.colour.is_empty() {
            self.out.write_all(shown.as_bytes())?;
        } else {
            write!(self.out, "{}{shown}{RESET}", self.colour)?;
        }
        self.held = rest;
        self.inside = !ends;
        Ok(())
    }

    /// The colour of the line whose beginning is held; counts the lines of hunks, since a removed `-- x` is no header.
    fn judge(&mut self) -> &'static str {
        let line = &self.held;
        if self.left != (0, 0) && !line.starts_with(b"\\") {
            self.left = in_hunk(line, self.left.0, self.left.1).unwrap_or((0, 0));
            return match line.first() {
                Some(b'+') => NEW,
                Some(b'-') => OLD,
                _ => "",
            };
        }
        if let Some(counts) = hunk(line) {
            self.left = counts;
            return FRAGMENT;
        }
        let header = [
            &b"diff --git "[..],
            b"index ",
            b"--- ",
            b"+++ ",
            b"old mode ",
            b"new mode ",
            b"new file mode ",
            b"deleted file mode ",
            b"similarity index ",
            b"rename ",
            b"GIT binary patch",
        ];
        if header.iter().any(|word| line.starts_with(word)) { META } else { "" }
    }
}

/// How much of `bytes` ends with a whole character, as far as UTF-8 goes.
fn whole(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // Something invalid stands before the end: the tail alone decides.
        Err(_) => {
            let tail = bytes.len().saturating_sub(3);
            let start = (tail..bytes.len()).rev().find(|at| bytes[*at] >= 0xc0);
            start
                .filter(|at| std::str::from_utf8(&bytes[*at..]).is_err_and(|e| e.error_len().is_none()))
                .unwrap_or(bytes.len())
        }
        Ok(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(patch: &[u8], piece: usize, colours: bool) -> String {
        let mut out = Vec::new();
        let mut painter = Painter::new(&mut out, colours);
        for part in patch.chunks(piece) {
            painter.feed(part).unwrap();
        }
        painter.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    const PATCH: &[u8] = b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@ f\n--- y\n+\x1b]0;pwned\x07\x1b[2J\tz\n \xc3\xa4\x9b\r\n";

    #[test]
    fn lines_get_gits_colours_and_nothing_of_the_guests() {
        let shown = painted(PATCH, 1000, true);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "\x1b[1mdiff --git a/x b/x\x1b[m");
        assert_eq!(lines[4], "\x1b[36m@@ -1,2 +1,2 @@ f\x1b[m");
        assert_eq!(lines[5], "\x1b[31m--- y\x1b[m", "a removed line, not a header");
        assert_eq!(lines[6], "\x1b[32m+\\u{1b}]0;pwned\\u{7}\\u{1b}[2J\tz\x1b[m");
        assert_eq!(lines[7], " ä\u{fffd}\\r");
        for piece in [1, 2, 3, 7] {
            assert_eq!(painted(PATCH, piece, true), shown, "{piece}");
        }
        let plain = painted(PATCH, 1000, false);
        assert!(!plain.contains('\x1b') && plain.lines().count() == 8, "{plain}");
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces_and_cuts_no_character() {
        let long = [b"+".to_vec(), "ä€".repeat(60_000).into_bytes()].concat();
        let patch = [&b"@@ -0,0 +1 @@\n"[..], &long, b"\n"].concat();
        for piece in [1000, 65_537] {
            let shown = painted(&patch, piece, false);
            assert_eq!(shown.as_bytes(), patch, "{piece}");
        }
    }
}
