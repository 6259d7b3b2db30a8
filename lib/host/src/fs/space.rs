//! How much room a filesystem has, statvfs(3), and how much a file takes of it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A filesystem's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it, bytes.
    pub size_bytes: u64,
    /// What this user may still take, bytes.
    pub free_bytes: u64,
}

impl Space {
    /// Of the filesystem that `path` is on.
    ///
    /// # Errors
    /// There is no such path, or it cannot be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { size_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }

    /// Whether it will be full soon: a tenth is left, or 1 GiB where that is less.
    pub fn is_low(&self) -> bool {
        self.free_bytes < (self.size_bytes / 10).min(1 << 30)
    }

    /// Whether it is as good as full.
    pub fn is_full(&self) -> bool {
        self.free_bytes < 1 << 20
    }
}

/// What the file takes of its filesystem, holes not counted, bytes; 0 where there is none.
pub fn taken(path: &Path) -> u64 {
    // st_blocks counts 512 bytes whatever the filesystem's block is (stat(3type)).
    std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_takes_nothing_and_low_is_relative() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        assert!(taken(file.path()) < 1 << 20);
        assert_eq!(taken(Path::new("/nonexistent/file")), 0);
        let space = Space::of(file.path()).unwrap();
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes);
        let low = |size_bytes, free_bytes| Space { size_bytes, free_bytes }.is_low();
        assert!(low(1 << 40, 1 << 29) && !low(1 << 40, 2 << 30));
        assert!(low(100 << 20, 9 << 20) && !low(100 << 20, 11 << 20));
    }
}
