//! Archives of cpio's "newc" format, as the kernel unpacks them into its initramfs (Documentation/driver-api/early-userspace/
//! buffer-format.rst). The same input gives the same bytes: no times, no inode numbers of the host, everything root's.

use std::io;

use thiserror::Error;

/// An entry that the format cannot hold.
#[derive(Debug, Error)]
pub enum CpioError {
    /// The name is empty, absolute, holds `..` or a NUL byte.
    #[error("{0:?} is not a name for an entry of an initrd")]
    Name(String),
    /// The format has 32 bits for a size.
    #[error("{name} has {size} bytes, more than an initrd can hold in one file")]
    Size {
        /// The entry.
        name: String,
        /// Its size, bytes.
        size: usize,
    },
}

impl From<CpioError> for io::Error {
    fn from(error: CpioError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory. Parents come before their children.
    ///
    /// # Errors
    /// Any [`CpioError`], here and below.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<&mut Self, CpioError> {
        self.entry(name, DIRECTORY | mode, (0, 0), &[])
    }

    /// A regular file.
    ///
    /// # Errors
    /// As [`Cpio::directory`].
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<&mut Self, CpioError> {
        self.entry(name, REGULAR | mode, (0, 0), content)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Cpio::directory`].
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<&mut Self, CpioError> {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device.
    ///
    /// # Errors
    /// As [`Cpio::directory`].
    pub fn character_device(
        &mut self,
        name: &str,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<&mut Self, CpioError> {
        self.entry(name, CHARACTER | mode, (major, minor), &[])
    }

    /// The whole archive, a multiple of 4 bytes long, so that another may follow it.
    pub fn finish(mut self) -> Vec<u8> {
        self.append("TRAILER!!!", 0, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> Result<&mut Self, CpioError> {
        let clean = |part: &str| !matches!(part, "" | "." | "..");
        if name.contains('\0') || !name.split('/').all(clean) {
            return Err(CpioError::Name(name.to_owned()));
        }
        if u32::try_from(content.len()).is_err() {
            return Err(CpioError::Size { name: name.to_owned(), size: content.len() });
        }
        self.entries += 1;
        self.append(name, self.entries, mode, device, content);
        Ok(self)
    }

    fn append(&mut self, name: &str, inode: u32, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let aligned = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(aligned, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::process::exec::Exec;

    fn sample() -> Vec<u8> {
        let mut cpio = Cpio::new();
        cpio.directory("dev", 0o755).unwrap();
        cpio.character_device("dev/console", 0o600, (5, 1)).unwrap();
        cpio.file("init", 0o755, b"seven b").unwrap().symlink("link", "init").unwrap();
        cpio.finish()
    }

    #[test]
    fn the_archive_is_aligned_and_always_the_same() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 4, 0);
        assert!(sample().starts_with(b"070701"));
    }

    #[test]
    fn cpio_itself_reads_it() {
        let listing = match Exec::new("cpio").args(["-itv", "--numeric-uid-gid"]).stdin(sample()).run() {
            Ok(listing) => String::from_utf8(listing).unwrap(),
            // The kernel is the reader that counts; tier vm has it.
            Err(error) => return assert!(error.to_string().contains("not installed"), "{error}"),
        };
        let lines: Vec<&str> = listing.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x"), "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"), "{listing}");
        assert!(lines[2].starts_with("-rwxr-xr-x"), "{listing}");
        assert!(lines[3].ends_with("link -> init"), "{listing}");
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for name in ["", "/init", "a/../b", "a//b", "a\0b", "./a"] {
            assert!(Cpio::new().file(name, 0o644, b"").is_err(), "{name:?}");
        }
    }
}
