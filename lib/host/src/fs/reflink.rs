//! Copies that cost next to nothing: FICLONE where the filesystem shares blocks, else only what is not a hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Makes the empty file `to` share all blocks of `from` (ioctl_ficlone(2)). `Ok(false)`: this filesystem cannot.
pub fn reflink(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies `from` into the empty file `to`, holes left as holes; gives the bytes that were not.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<u64> {
    let length = from.metadata()?.len();
    let (mut copied, mut at) = (0, 0);
    while let Some((start, end)) = next_data(from, at, length)? {
        copy_range(from, start, to, start, end - start)?;
        copied += end - start;
        at = end;
    }
    ftruncate(to, length)?;
    Ok(copied)
}

/// The next range of `file` at or after `at` that is not a hole (lseek(2), SEEK_DATA).
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        // Only holes are left.
        Err(Errno::NXIO) => return Ok(None),
        // This filesystem does not know its holes: everything is data.
        Err(Errno::INVAL) => return Ok(Some((at, length))),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(length))))
}

/// Copies `length` bytes inside the kernel where it can (copy_file_range(2)), which shares blocks where the filesystem does.
pub fn copy_range(from: &File, from_at: u64, to: &File, to_at: u64, length: u64) -> io::Result<()> {
    let (mut source, mut target, mut left) = (from_at, to_at, length);
    while left > 0 {
        let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), chunk) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
            Ok(n) => left -= n as u64,
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_through_memory(from, source, to, target, left);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Copies between files of two filesystems that copy_file_range cannot join.
fn copy_through_memory(from: &File, from_at: u64, to: &File, to_at: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < length {
        let chunk = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let n = from.read_at(&mut buffer[..chunk], from_at + done)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        to.write_all_at(&buffer[..n], to_at + done)?;
        done += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes_and_data_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create_new(&from).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 512 << 20).unwrap();
        let (from, copy) = (File::open(&from).unwrap(), File::create_new(&to).unwrap());
        assert!(copy_sparse(&from, &copy).unwrap() < 1 << 20);
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        let mut bytes = [0; 6];
        File::open(&to).unwrap().read_exact_at(&mut bytes, 512 << 20).unwrap();
        assert_eq!(&bytes, b"middle");
    }
}
