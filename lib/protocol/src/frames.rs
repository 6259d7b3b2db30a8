//! How host and guest run commands over one stream of bytes: a virtio-serial port ([`super::guest::EXEC_PORTS`]) or a vsock
//! connection ([`super::guest::VSOCK_EXEC_PORT`]).
//!
//! # Greeting
//!
//! A port has no connections: when the host's end opens, bytes of an earlier conversation may still be under way in both directions, cut
//! anywhere. So the host begins with [`GREETING`] and a nonce, which the guest looks for in whatever it gets and sends back; the host drops
//! everything before that. Where the guest expects a frame a greeting may stand in its place (its first byte is no [`Kind`]): there is a new
//! host, and what ran for the old one is ended. A guest that opens its end says [`Kind::Anew`]; in the middle of a conversation that
//! means that what ran is lost.
//!
//! # Frames
//!
//! One byte of [`Kind`], four of the payload's length (little-endian), the payload. The host starts one command at a time; its input and
//! output follow, until [`Kind::Ended`] or, where the host is done with it before, [`Kind::Leave`] and [`Kind::Left`].
//!
//! The guest always reads, since nothing that the host may send blocks it: of the input the host sends no more than [`WINDOW`] bytes
//! that were not [`Kind::Taken`]. The host always reads as well. So neither waits for the other, whatever the command does, and neither
//! holds more than the window and a few frames.

/// What a conversation begins with, before the nonce.
pub const GREETING: [u8; 8] = *b"\xb5banger\n";
/// The nonce's length, bytes.
pub const NONCE_BYTES: usize = 16;
/// A frame's header, bytes.
pub const HEADER_BYTES: usize = 5;
/// The most that a frame of input or output carries, bytes. With its header it is as much as a virtio-serial port takes in one write.
pub const MAX_DATA: usize = (32 << 10) - HEADER_BYTES;
/// The longest command line: the kernel's limit for one argument.
pub const MAX_COMMAND: usize = 128 << 10;
/// How much input may be under way to a command that does not read it, bytes.
pub const WINDOW: usize = 512 << 10;
/// The longest reason of a refusal, bytes.
pub const MAX_REASON: usize = 1 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Host: a command line for root's login shell.
    Start,
    /// Host: input of the command.
    Input,
    /// Host: the input's end.
    InputEnd,
    /// Host: the command is to be left alone; its streams are closed.
    Leave,
    /// Guest: the command's stdout.
    Stdout,
    /// Guest: its stderr.
    Stderr,
    /// Guest: so much input was passed on, or dropped since nobody will read it (four bytes, little-endian).
    Taken,
    /// Guest: the command has ended and closed its output. Two bytes: 0 and its status, or 1 and the signal that ended it.
    Ended,
    /// Guest: the command was left alone. The next one may be started.
    Left,
    /// Guest: there is no command; why, in UTF-8.
    Refused,
    /// Guest: its end was opened anew, and no command of before is connected with it.
    Anew,
    /// Host: as [`Kind::Start`], but what runs is banger-guest itself, and no shell before it, whose start takes an emulated guest
    /// longer than the rest. Its arguments, each with a NUL behind it.
    Own,
}

const KINDS: [Kind; 12] = [
    Kind::Start,
    Kind::Input,
    Kind::InputEnd,
    Kind::Leave,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Taken,
    Kind::Ended,
    Kind::Left,
    Kind::Refused,
    Kind::Anew,
    Kind::Own,
];

impl Kind {
    /// The byte for it: from 1 on.
    fn byte(self) -> u8 {
        KINDS.iter().position(|kind| *kind == self).map_or(0, |at| at as u8 + 1)
    }

    fn of(byte: u8) -> Option<Self> {
        KINDS.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// The shortest and the longest payload.
    fn lengths(self) -> (usize, usize) {
        match self {
            Self::Start | Self::Own => (1, MAX_COMMAND),
            Self::Input | Self::Stdout | Self::Stderr => (1, MAX_DATA),
            Self::InputEnd | Self::Leave | Self::Left | Self::Anew => (0, 0),
            Self::Taken => (4, 4),
            Self::Ended => (2, 2),
            Self::Refused => (0, MAX_REASON),
        }
    }
}

/// A frame at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its length with the header, bytes.
    pub length: usize,
}

/// What came is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The header of a frame of `kind` with a payload of `length` bytes, which must be one that the kind may have.
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [kind.byte(), a, b, c, d]
}

/// A whole frame.
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [header(kind, payload.len()).as_slice(), payload].concat()
}

/// The frame that `bytes` begin with. `None` where it is not all there yet; what cannot become a frame is told as soon as its header is
/// there.
pub fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let Some(kind) = bytes.first().map(|byte| Kind::of(*byte).ok_or(Malformed)).transpose()? else {
        return Ok(None);
    };
    let Some(length) = bytes.get(1..HEADER_BYTES) else { return Ok(None) };
    let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (least, most) = kind.lengths();
    if !(least..=most).contains(&length) {
        return Err(Malformed);
    }
    let end = HEADER_BYTES + length;
    Ok(bytes.get(HEADER_BYTES..end).map(|payload| Frame { kind, payload, length: end }))
}

/// What begins a conversation.
pub fn greeting(nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
    [GREETING.as_slice(), &nonce].concat()
}

/// Looks for a greeting. Either its nonce and how many bytes end with it; or how many bytes can be dropped, since no greeting begins in
/// them.
pub fn find_greeting(bytes: &[u8]) -> Result<([u8; NONCE_BYTES], usize), usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == GREETING[0]) {
        let at = from + at;
        let rest = &bytes[at..];
        if let Some(rest) = rest.strip_prefix(GREETING.as_slice()) {
            let nonce = rest.get(..NONCE_BYTES).and_then(|nonce| nonce.try_into().ok());
            return nonce.map(|nonce| (nonce, at + GREETING.len() + NONCE_BYTES)).ok_or(at);
        }
        if GREETING.starts_with(rest) {
            return Err(at);
        }
        from = at + 1;
    }
    Err(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let whole = frame(Kind::Stdout, b"hello");
        for end in 0..whole.len() {
            assert_eq!(split(&whole[..end]), Ok(None), "{end}");
        }
        let more = [whole.as_slice(), b"rest"].concat();
        let frame = Frame { kind: Kind::Stdout, payload: b"hello", length: whole.len() };
        assert_eq!(split(&more), Ok(Some(frame)));
    }

    #[test]
    fn what_can_be_no_frame_is_told_at_once() {
        assert_eq!(split(&[0]), Err(Malformed));
        assert_eq!(split(&[KINDS.len() as u8 + 1]), Err(Malformed));
        assert_eq!(split(&GREETING), Err(Malformed));
        for (kind, length) in [
            (Kind::Stdout, MAX_DATA + 1),
            (Kind::Stdout, u32::MAX as usize),
            (Kind::Stderr, 0),
            (Kind::Taken, 3),
            (Kind::Ended, 1),
            (Kind::Left, 1),
            (Kind::Start, MAX_COMMAND + 1),
        ] {
            assert_eq!(split(&header(kind, length)), Err(Malformed), "{kind:?} {length}");
        }
        for kind in KINDS {
            assert_eq!(Kind::of(kind.byte()), Some(kind));
        }
    }

    #[test]
    fn a_greeting_is_found_in_the_middle_of_anything() {
        let nonce = [7; NONCE_BYTES];
        let stream = [b"\xb5bang\xb5\xb5b".as_slice(), &greeting(nonce), b"next"].concat();
        let mut held: Vec<u8> = Vec::new();
        for byte in &stream {
            held.push(*byte);
            match find_greeting(&held) {
                Ok((found, end)) => {
                    assert_eq!((found, end), (nonce, held.len()));
                    return;
                }
                Err(useless) => drop(held.drain(..useless)),
            }
        }
        panic!("the greeting was not found");
    }
}
