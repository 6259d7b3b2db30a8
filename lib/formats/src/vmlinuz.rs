//! The ELF kernel inside a distribution's vmlinuz.
//!
//! An x86 bzImage carries it compressed: the setup header's `payload_offset` and `payload_length` (Linux
//! Documentation/arch/x86/boot.rst) say where, and the payload begins with the compressor's magic.

use std::io::{self, Read};

use thiserror::Error;

/// The largest kernel that is unpacked, bytes.
const MAX_KERNEL_BYTES: u64 = 256 << 20;

/// One block of the legacy lz4 frame holds at most this much, unpacked.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// What every Linux has in it, before its release.
const BANNER: &[u8] = b"Linux version ";

/// A vmlinuz with no ELF kernel to be had from it.
#[derive(Debug, Error)]
pub enum VmlinuzError {
    /// It is no bzImage of boot protocol 2.08 or later.
    #[error("it is neither an ELF nor a bzImage of boot protocol 2.08 or later")]
    NotBzImage,
    /// It is some other program.
    #[error("it is an ELF, and no Linux kernel")]
    NotLinux,
    /// Its header points outside of it.
    #[error("its payload lies outside of the file")]
    Truncated,
    /// Its compressor is not known.
    #[error("its payload is compressed with an unknown program (it begins with {0:02x?})")]
    Compressor([u8; 4]),
    /// It cannot be unpacked.
    #[error("its payload ({0}) cannot be unpacked")]
    Unpack(&'static str, #[source] io::Error),
    /// It unpacks to something huge.
    #[error("its payload unpacks to more than {MAX_KERNEL_BYTES} bytes")]
    TooLarge,
    /// It unpacks to something else.
    #[error("its payload ({0}) does not unpack to an ELF kernel")]
    NotElf(&'static str),
}

/// The uncompressed ELF kernel in `vmlinuz`.
pub fn elf(vmlinuz: &[u8]) -> Result<Vec<u8>, VmlinuzError> {
    if is_elf(vmlinuz) {
        return find(vmlinuz, BANNER).map(|_| vmlinuz.to_vec()).ok_or(VmlinuzError::NotLinux);
    }
    let payload = payload(vmlinuz)?;
    let (name, kernel) = unpack(payload)?;
    if !is_elf(&kernel) {
        return Err(VmlinuzError::NotElf(name));
    }
    Ok(kernel)
}

/// The release that `uname -r` says, as the bzImage's header or the ELF kernel's own banner has it.
pub fn release(kernel: &[u8]) -> Option<String> {
    let text = if is_elf(kernel) {
        kernel.get(find(kernel, BANNER)? + BANNER.len()..)?
    } else {
        // "kernel_version": a pointer to a string, less 0x200 (Documentation/arch/x86/boot.rst).
        payload(kernel).ok()?;
        let pointer = kernel.get(0x20e..0x210).map(|b| u16::from_le_bytes([b[0], b[1]]))?;
        kernel.get(usize::from(pointer).checked_add(0x200).filter(|_| pointer != 0)?..)?
    };
    let end = text.iter().take(200).position(|byte| !byte.is_ascii_graphic())?;
    String::from_utf8(text[..end].to_vec()).ok().filter(|release| !release.is_empty())
}

/// Where `needle` begins in `bytes`.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == first)?;
        if bytes[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The compressed kernel by the setup header.
fn payload(image: &[u8]) -> Result<&[u8], VmlinuzError> {
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let version = image.get(0x206..0x208).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if image.get(0x202..0x206) != Some(b"HdrS") || version < Some(0x208) {
        return Err(VmlinuzError::NotBzImage);
    }
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let fields = number(0x248).zip(number(0x24c));
    let (offset, length) = fields.ok_or(VmlinuzError::Truncated)?;
    let start = (sectors + 1) * 512 + offset;
    image.get(start..start + length).filter(|p| p.len() > 8).ok_or(VmlinuzError::Truncated)
}

/// Unpacks `payload`. All compressors but gzip, whose stream ends with it, have their output's size appended: four bytes that
/// are not part of the stream.
fn unpack(payload: &[u8]) -> Result<(&'static str, Vec<u8>), VmlinuzError> {
    let stream = &payload[..payload.len() - 4];
    let unpacked = match payload {
        [0x1f, 0x8b, ..] => ("gzip", read_bounded("gzip", flate2::read::GzDecoder::new(payload))),
        [0xfd, b'7', b'z', b'X', ..] => ("xz", read_bounded("xz", liblzma::read::XzDecoder::new(stream))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::new(stream).map_err(|e| VmlinuzError::Unpack("zstd", e))?;
            ("zstd", read_bounded("zstd", decoder))
        }
        [b'B', b'Z', b'h', ..] => ("bzip2", read_bounded("bzip2", bzip2::read::BzDecoder::new(stream))),
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => ("lz4", unpack_lz4(&blocks[..blocks.len() - 4])),
        [a, b, c, d, ..] => return Err(VmlinuzError::Compressor([*a, *b, *c, *d])),
        _ => return Err(VmlinuzError::Truncated),
    };
    Ok((unpacked.0, unpacked.1?))
}

fn read_bounded(name: &'static str, stream: impl Read) -> Result<Vec<u8>, VmlinuzError> {
    let mut kernel = Vec::new();
    let read = stream.take(MAX_KERNEL_BYTES + 1).read_to_end(&mut kernel);
    read.map_err(|e| VmlinuzError::Unpack(name, e))?;
    if kernel.len() as u64 > MAX_KERNEL_BYTES {
        return Err(VmlinuzError::TooLarge);
    }
    Ok(kernel)
}

/// The legacy lz4 frame, which is what `lz4 -l` and so the kernel's build writes: blocks with their length before each.
fn unpack_lz4(mut blocks: &[u8]) -> Result<Vec<u8>, VmlinuzError> {
    let bad = |why: &str| VmlinuzError::Unpack("lz4", io::Error::new(io::ErrorKind::InvalidData, why));
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let packed = rest.get(..length).ok_or_else(|| bad("a block is cut short"))?;
        let n = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| bad(&e.to_string()))?;
        kernel.extend_from_slice(&block[..n]);
        if kernel.len() as u64 > MAX_KERNEL_BYTES {
            return Err(VmlinuzError::TooLarge);
        }
        blocks = &rest[length..];
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A bzImage around `payload`.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = [b"\x7fELF", BANNER].concat();
        kernel.extend((0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()));
        kernel
    }

    fn sized(mut stream: Vec<u8>) -> Vec<u8> {
        stream.extend_from_slice(&(kernel().len() as u32).to_le_bytes());
        stream
    }

    #[test]
    fn every_compressor_gives_the_kernel_back() {
        let kernel = kernel();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&kernel).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&kernel).unwrap();
        let zstd = zstd::encode_all(&kernel[..], 1).unwrap();
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        for part in kernel.chunks(300_000) {
            let packed = lz4_literals(part);
            lz4.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            lz4.extend(packed);
        }
        let streams = [
            gzip.finish().unwrap(),
            sized(xz.finish().unwrap()),
            sized(bzip2.finish().unwrap()),
            sized(zstd),
            sized(lz4),
        ];
        for stream in streams {
            assert!(elf(&image(&stream)).unwrap() == kernel, "{:02x?}", &stream[..4]);
            // Cut anywhere it is an error, never a panic.
            for cut in [5, 9, 100, stream.len() / 2] {
                assert!(elf(&image(&stream[..cut])).is_err());
            }
        }
        assert!(elf(&kernel).unwrap() == kernel);
    }

    /// An lz4 block of literals only, which every decoder must take.
    fn lz4_literals(bytes: &[u8]) -> Vec<u8> {
        let mut block = vec![0xf0];
        let mut left = bytes.len() - 15;
        while left >= 255 {
            block.push(255);
            left -= 255;
        }
        block.push(left as u8);
        block.extend_from_slice(bytes);
        block
    }

    #[test]
    fn the_release_is_in_the_header_or_the_banner() {
        let mut named = image(b"0123456789 6.1.0-1-cloud-amd64 (debian-kernel@x) #1");
        named[0x20e..0x210].copy_from_slice(&(1024_u16 + 11 - 0x200).to_le_bytes());
        assert_eq!(release(&named).as_deref(), Some("6.1.0-1-cloud-amd64"));
        assert_eq!(
            release(b"\x7fELF Linux Linux version 6.12.8-virt (x) #1").as_deref(),
            Some("6.12.8-virt")
        );
        for none in [&b""[..], b"\x7fELF", b"\x7fELF Linux version ", &image(b"0123456789")] {
            assert_eq!(release(none), None);
        }
    }

    #[test]
    fn hostile_images_are_refused() {
        assert!(matches!(elf(b""), Err(VmlinuzError::NotBzImage)));
        assert!(matches!(elf(b"\x7fELF and no kernel"), Err(VmlinuzError::NotLinux)));
        assert!(matches!(elf(&[0; 2048]), Err(VmlinuzError::NotBzImage)));
        let mut outside = image(b"0123456789");
        outside[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(elf(&outside), Err(VmlinuzError::Truncated)));
        assert!(matches!(elf(&image(b"unknown compressor")), Err(VmlinuzError::Compressor(_))));
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        lz4.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(elf(&image(&sized(lz4))).is_err());
    }
}
