//! An image's shared initrd segment holds the banger-guest of the day the image was made. Another program lays its own over it: the
//! kernel unpacks segments one after the other, and a later file replaces an earlier one of its name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use banger_formats::cpio::Cpio;
use banger_protocol::guest::INIT_PATH;

/// A header of the format "newc": a magic and 13 fields of 8 hexadecimal digits.
const HEADER_BYTES: usize = 110;

/// How many entries are looked through: banger-guest is among the first.
const MAX_ENTRIES: usize = 32;

/// A segment with `guest`, unless `shared` holds just that.
pub(super) fn segment(shared: &File, guest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if let Some((at, size)) = find(shared)?
        && size == guest.len() as u64
    {
        let mut held = vec![0; guest.len()];
        shared.read_exact_at(&mut held, at)?;
        if held == guest {
            return Ok(None);
        }
    }
    let mut cpio = Cpio::new();
    cpio.file(INIT_PATH, 0o755, guest)?;
    Ok(Some(cpio.finish()))
}

/// Where banger-guest's content lies in `shared`, and how long it is. `None` where it is not found; a segment that is not a cpio is
/// the kernel's to refuse.
fn find(shared: &File) -> io::Result<Option<(u64, u64)>> {
    let mut at = 0_u64;
    for _ in 0..MAX_ENTRIES {
        let mut header = [0; HEADER_BYTES];
        if !read_at(shared, &mut header, at)? || !header.starts_with(b"070701") {
            return Ok(None);
        }
        let field = |index: usize| {
            let digits = &header[6 + 8 * index..][..8];
            std::str::from_utf8(digits).ok().and_then(|d| u64::from_str_radix(d, 16).ok())
        };
        let (Some(size), Some(name_size @ 1..=4096)) = (field(6), field(11)) else { return Ok(None) };
        let mut name = vec![0; name_size as usize];
        let data = (at + HEADER_BYTES as u64 + name_size).next_multiple_of(4);
        if !read_at(shared, &mut name, at + HEADER_BYTES as u64)? {
            return Ok(None);
        }
        if name.strip_suffix(b"\0") == Some(INIT_PATH.as_bytes()) {
            return Ok(Some((data, size)));
        }
        at = (data + size).next_multiple_of(4);
    }
    Ok(None)
}

/// Fills `buffer`; `Ok(false)` where the file ends before.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_another_guest_is_laid_over() {
        let mut cpio = Cpio::new();
        cpio.directory("dev", 0o755).unwrap().file("init", 0o755, b"old guest").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&cpio.finish()).unwrap();
        assert_eq!(segment(&file, b"old guest").unwrap(), None);
        for other in [&b"new guest"[..], b"longer than it"] {
            let over = segment(&file, other).unwrap().unwrap();
            assert!(over.starts_with(b"070701") && over.len().is_multiple_of(4));
        }
    }

    #[test]
    fn hostile_segments_are_not_followed() {
        for content in [&b""[..], b"070701", &[b'f'; 4096], &[0; 4096]] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            assert_eq!(find(&file).unwrap(), None);
        }
    }
}
