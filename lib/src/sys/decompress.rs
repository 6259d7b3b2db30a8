//! Compressed streams, told apart by how they begin. Whatever a stream asks for, its decoder's memory is bounded.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// zstd's window: `zstd -19` uses 8 MiB. A stream of `--ultra` or `--long` may ask for more and is refused.
const ZSTD_WINDOW_LOG: u32 = 25;
/// What `xz -9` needs; all of it only for archives that large.
const XZ_MEMORY: u64 = 72 << 20;
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
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
        }
    })
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
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&vec![1; 1 << 20]).unwrap();
        unpacked(encoder.finish().unwrap()).unwrap_err();
    }
}
