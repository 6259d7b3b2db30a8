//! The marks with which banger-guest ends a command's streams (see [`banger_protocol::guest`], "Commands"): taken out of them, all
//! else passed on byte for byte.

use std::io;

use crate::sys::remote::Exit;
use banger_protocol::guest::mark_start;

/// The longest word of a mark, its newline included, bytes.
const MAX_WORD: usize = 64;

/// One stream up to its mark.
#[derive(Debug)]
pub(super) struct Marked {
    start: Vec<u8>,
    /// The end of what came, where it may be the beginning of a mark.
    held: Vec<u8>,
    word: Option<String>,
}

/// What a piece of a stream turned out to be.
enum Found {
    /// No mark begins in it.
    Nothing,
    /// A mark begins at this offset, or may.
    Perhaps(usize),
    /// A mark begins at this offset and says this.
    Mark(usize, String),
}

impl Marked {
    pub(super) fn new(nonce: &str) -> Self {
        Self { start: mark_start(nonce).into_bytes(), held: Vec::new(), word: None }
    }

    /// What the mark said, once it came. What the stream holds behind it is nobody's.
    pub(super) fn word(&self) -> Option<&str> {
        self.word.as_deref()
    }

    /// Takes the next piece and passes on what is the command's.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        pass: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.word.is_some() {
            return Ok(());
        }
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.held).as_slice(), bytes].concat();
            &joined
        };
        let end = match self.find(bytes) {
            Found::Nothing => bytes.len(),
            Found::Perhaps(at) => {
                self.held.extend_from_slice(&bytes[at..]);
                at
            }
            Found::Mark(at, word) => {
                self.word = Some(word);
                at
            }
        };
        if end > 0 { pass(&bytes[..end]) } else { Ok(()) }
    }

    /// What was held back, once no more can come.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn find(&self, bytes: &[u8]) -> Found {
        let mut from = 0;
        while let Some(at) = bytes[from..].iter().position(|byte| *byte == self.start[0]) {
            let at = from + at;
            let rest = &bytes[at..];
            if let Some(word) = rest.strip_prefix(self.start.as_slice()) {
                match word.iter().take(MAX_WORD).position(|byte| *byte == b'\n') {
                    Some(end) => return Found::Mark(at, String::from_utf8_lossy(&word[..end]).into_owned()),
                    None if word.len() < MAX_WORD => return Found::Perhaps(at),
                    None => {}
                }
            } else if self.start.starts_with(rest) {
                return Found::Perhaps(at);
            }
            from = at + 1;
        }
        Found::Nothing
    }
}

/// How the command ended, by the word on stderr, and whether it was over its time. `None` where the word is none of banger-guest's.
pub(super) fn ending(word: &str) -> Option<(Exit, bool)> {
    let mut words = word.split(' ');
    let exit = match (words.next()?, words.next()?.parse::<u8>().ok()?) {
        ("exit", status) => Exit::Status(status),
        ("signal", number) => Exit::by_signal(number)?,
        _ => return None,
    };
    match (words.next(), words.next()) {
        (None, None) => Some((exit, false)),
        (Some("timeout"), None) => Some((exit, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"\x1e\x1ebanger\0\x1ebanger:other:end\n\x1ebanger:ab\xff\x1ebanger:ab:exit 7\nlater";

    #[test]
    fn a_mark_is_found_however_the_stream_is_cut() {
        let expected = &STREAM[..STREAM.len() - b"\x1ebanger:ab:exit 7\nlater".len()];
        for first in 0..STREAM.len() {
            for second in first..STREAM.len() {
                let mut marked = Marked::new("ab");
                let mut passed = Vec::new();
                for piece in [&STREAM[..first], &STREAM[first..second], &STREAM[second..]] {
                    let mut pass = |bytes: &[u8]| {
                        passed.extend_from_slice(bytes);
                        Ok(())
                    };
                    marked.take(piece, &mut pass).unwrap();
                }
                assert_eq!(
                    (passed.as_slice(), marked.word()),
                    (expected, Some("exit 7")),
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn what_only_begins_like_a_mark_is_the_commands() {
        let endless = [b"\x1ebanger:ab:".as_slice(), &[b'x'; 2 * MAX_WORD]].concat();
        for stream in [b"\x1e".as_slice(), b"a\x1ebanger:ab:exit 7", b"\x1ebanger:ab", &endless] {
            let (mut marked, mut passed) = (Marked::new("ab"), Vec::new());
            for byte in stream {
                let mut pass = |bytes: &[u8]| {
                    passed.extend_from_slice(bytes);
                    Ok(())
                };
                marked.take(&[*byte], &mut pass).unwrap();
            }
            passed.extend(marked.rest());
            assert_eq!((passed.as_slice(), marked.word()), (stream, None));
        }
    }

    #[test]
    fn endings_are_read_strictly() {
        assert_eq!(ending("exit 0"), Some((Exit::Status(0), false)));
        assert_eq!(ending("signal 7"), Some((Exit::Signal("BUS".into()), false)));
        assert_eq!(ending("signal 15 timeout"), Some((Exit::Signal("TERM".into()), true)));
        for bad in [
            "",
            "end",
            "exit",
            "exit 256",
            "exit -1",
            "signal 0",
            "signal 99",
            "exit 1 x",
            "exit 1 timeout x",
            "exit  1",
        ] {
            assert_eq!(ending(bad), None, "{bad:?}");
        }
    }
}
