//! Compressed streams, told apart by how they begin. Whatever a stream asks for, its decoder's memory is bounded.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use thiserror::Error;

/// What a decoder may keep of what it unpacked, MiB: with the names of as many files as are allowed that stays below 64 MiB. `zstd -19`
/// and `xz` keep 8 MiB, `xz -7` 16; streams of `zstd --ultra` or `--long` and of `xz -9` may ask for more and are refused.
const WINDOW_MIB: u64 = 16;
/// The same as zstd says it.
const ZSTD_WINDOW_LOG: u32 = 24;
/// The same as xz says it, with the decoder around it.
const XZ_MEMORY: u64 = (WINDOW_MIB + 1) << 20;
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, as many members as there are.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
}

/// Why a stream cannot be unpacked, where it is not that it cannot be read: what an [`io::Error`] of [`open`]'s reader carries.
#[derive(Debug, Error)]
pub enum StreamError {
    /// It is not what the program writes, or not all of it.
    #[error("the {0} stream is damaged or cut off")]
    Damaged(&'static str, #[source] io::Error),
    /// It wants more memory than there is for it.
    #[error("the {0} stream cannot be unpacked without keeping more than {WINDOW_MIB} MiB of it in memory")]
    Memory(&'static str),
}

impl StreamError {
    /// The reason of `error`, where it is such a one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged(..) => None,
            Self::Memory(program) => Some(format!(
                "compress it again, with {program} at its usual level; or unpack it first, as in: {program} -dc FILE | \
                 banger image import - NAME"
            )),
        }
    }
}

/// How many bytes [`of`] looks at.
pub const MAGIC_LEN: usize = 6;

/// The compression of a stream that begins with `start`.
pub fn of(start: &[u8]) -> Compression {
    let is_skippable = |s: &[u8]| s.len() >= 4 && s[0] & 0xf0 == 0x50 && s[1..4] == [0x2a, 0x4d, 0x18];
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ if is_skippable(start) => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

/// What `input` holds, uncompressed.
///
/// # Errors
/// `input` cannot be read, or a decoder cannot be made.
pub fn open(mut input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::with_capacity(MAGIC_LEN);
    input.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut start)?;
    let compression = of(&start);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(input));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(Explained { decoder: MultiGzDecoder::new(whole), program: "gzip" }),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(Explained { decoder, program: "zstd" })
        }
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(whole, stream);
            Box::new(Explained { decoder, program: "xz" })
        }
    })
}

/// A decoder whose errors say what is wrong.
struct Explained<R> {
    decoder: R,
    program: &'static str,
}

impl<R: Read> Read for Explained<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            // What the input itself says is left alone.
            if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            let is_memory = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => matches!(error, liblzma::stream::Error::MemLimit),
                // zstd tells its errors by their text only (ZSTD_error_frameParameter_windowTooLarge).
                None => error.to_string() == "Frame requires too much memory for decoding",
            };
            let reason = match is_memory {
                true => StreamError::Memory(self.program),
                false => StreamError::Damaged(self.program, error),
            };
            io::Error::new(kind, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        open(Box::new(io::Cursor::new(bytes)))?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_is_found_out() {
        let xz = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(b"content").unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::stream::encode_all(&b"content"[..], 1).unwrap();
        for packed in [b"content".to_vec(), gzip(b"content"), zstd, xz] {
            assert_eq!(unpacked(packed).unwrap(), b"content");
        }
        assert_eq!(unpacked([gzip(b"con"), gzip(b"tent")].concat()).unwrap(), b"content");
        assert_eq!(unpacked(Vec::new()).unwrap(), b"");
    }

    #[test]
    fn damaged_streams_are_errors() {
        let whole = gzip(&[7; 10_000]);
        let mut lying = whole.clone();
        let at = lying.len() - 1;
        lying[at] ^= 1;
        for bad in [whole[..whole.len() - 9].to_vec(), lying, [&whole[..], b"garbage"].concat()] {
            unpacked(bad).unwrap_err();
        }
    }

    #[test]
    fn streams_that_want_too_much_memory_are_refused_and_others_are_not() {
        let zstd = |log| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&[1; 1 << 20]).unwrap();
            encoder.finish().unwrap()
        };
        let xz = |level| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), level);
            encoder.write_all(&[1; 1 << 20]).unwrap();
            encoder.finish().unwrap()
        };
        for good in [zstd(24), xz(7)] {
            assert_eq!(unpacked(good).unwrap().len(), 1 << 20);
        }
        for (bad, program) in [(zstd(25), "zstd"), (xz(8), "xz"), (xz(9), "xz")] {
            let error = unpacked(bad).unwrap_err();
            let reason = StreamError::of(&error).unwrap();
            assert!(matches!(reason, StreamError::Memory(of) if *of == program), "{program}: {reason:?}");
            assert!(reason.hint().unwrap().contains(&format!("{program} -dc")));
        }
    }
}
