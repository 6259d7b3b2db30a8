//! Keeping everybody else from a file for a moment (F_SETLEASE, fcntl(2)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A file that nobody else has open. Whoever opens it waits until this is dropped, or for /proc/sys/fs/lease-break-time.
#[derive(Debug)]
pub struct Lease<'f>(&'f File);

impl<'f> Lease<'f> {
    /// Takes a lease on a file that is open for reading and writing. Mappings count as open.
    ///
    /// # Errors
    /// EAGAIN where somebody else has it open; EINVAL where its filesystem has no leases; EACCES without privilege on others' files.
    pub fn take(file: &'f File) -> io::Result<Self> {
        // Whoever waits is told of by a signal that would end this process.
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        set(file, libc::F_WRLCK)?;
        Ok(Self(file))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Closing is not enough: a loop device may have the same open file.
        drop(set(self.0, libc::F_UNLCK));
    }
}

fn set(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn nobody_else_has_it_open_and_nobody_opens_it() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let path = temp.path().to_owned();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let error = Lease::take(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "the other has it open");
        drop(temp.into_temp_path().keep().unwrap());
        let other = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
        let lease = Lease::take(&file).unwrap();
        let kind = other(libc::O_NONBLOCK).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        drop(lease);
        other(0).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
