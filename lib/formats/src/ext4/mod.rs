//! ext4: making filesystems with mke2fs(8), and reading the few fields of a superblock by which a guest finds its disks.
//!
//! A superblock is read only of files that no guest has written.
//!
//! [`Writer`] makes a filesystem out of files as they come in an archive, without mke2fs and without privilege.

mod bitmap;
mod crc32c;
mod directory;
mod extent;
mod finish;
mod format;
mod graft;
mod inode;
mod names;
mod superblock;
mod writer;
mod xattr;

#[cfg(test)]
#[path = "tests.rs"]
mod writer_tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use banger_host::process::exec::{Exec, ExecError, find_program};

pub use finish::Shape;
pub use inode::{Attributes, Time};
pub use names::Name;
pub use writer::{Content, WriteError, Writer};
pub use xattr::{Xattr, is_storable};

/// Where the superblock begins (ext4 disk layout, Linux Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK_AT: u64 = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: u16 = 0xef53;
const UUID_AT: usize = 0x68;

/// The features, named one by one so that a filesystem does not depend on the host's /etc/mke2fs.conf: what Linux 4.x and
/// later mounts and grows online.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// A filesystem that cannot be made or recognised.
#[derive(Debug, Error)]
pub enum Ext4Error {
    /// The file cannot be read or made.
    #[error("cannot use the disk file {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path:?} is not an ext4 filesystem")]
    NotExt4 {
        /// The file.
        path: PathBuf,
    },
    /// It was not unmounted, or is damaged.
    #[error("the filesystem in {path:?} was not unmounted cleanly, or has errors: run e2fsck -f on it")]
    NotClean {
        /// The file.
        path: PathBuf,
    },
    /// mke2fs failed.
    #[error("cannot make the filesystem {path:?}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ExecError,
    },
}

/// The UUID of the ext4 in `path`, as blkid(8) prints it.
pub fn uuid(path: &Path) -> Result<String, Ext4Error> {
    let mut block = [0; 0x78];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut block, SUPERBLOCK_AT));
    match read {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Ext4Error::NotExt4 { path: path.to_owned() });
        }
        Err(source) => return Err(Ext4Error::File { path: path.to_owned(), source }),
    }
    let magic = u16::from_le_bytes([block[MAGIC_AT], block[MAGIC_AT + 1]]);
    if magic != MAGIC {
        return Err(Ext4Error::NotExt4 { path: path.to_owned() });
    }
    let hex: String = block[UUID_AT..UUID_AT + 16].iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Checks that `path` is an ext4 that was unmounted cleanly and without errors. Nothing else of it is looked at.
pub fn check_clean(path: &Path) -> Result<(), Ext4Error> {
    uuid(path)?;
    let (mut state, mut incompatible) = ([0; 2], [0; 4]);
    let read = File::open(path).and_then(|file| {
        file.read_exact_at(&mut state, SUPERBLOCK_AT + 0x3a)?;
        file.read_exact_at(&mut incompatible, SUPERBLOCK_AT + 0x60)
    });
    read.map_err(|source| Ext4Error::File { path: path.to_owned(), source })?;
    // Valid and without errors; no journal to be replayed.
    let is_clean = u16::from_le_bytes(state) & 3 == 1 && u32::from_le_bytes(incompatible) & 4 == 0;
    if is_clean { Ok(()) } else { Err(Ext4Error::NotClean { path: path.to_owned() }) }
}

/// How much the files of the ext4 in `path` take, bytes: what is not free without what the filesystem needs for itself. Where the
/// superblock does not tell the latter, at most what `path` takes of the host, which for a fresh filesystem in a file with holes is
/// little more.
pub fn content_bytes(path: &Path) -> Result<u64, Ext4Error> {
    uuid(path)?;
    let mut block = [0; 1024];
    let read = File::open(path).and_then(|file| {
        file.read_exact_at(&mut block, SUPERBLOCK_AT)?;
        Ok(file.metadata()?.blocks() * 512)
    });
    let taken = read.map_err(|source| Ext4Error::File { path: path.to_owned(), source })?;
    let field = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    let block_bytes = 1024 << field(0x18).min(6);
    let count = |low: usize, high: usize| u64::from(field(high)) << 32 | u64::from(field(low));
    let used = count(0x4, 0x150).saturating_sub(count(0xc, 0x158)).saturating_mul(block_bytes);
    // s_overhead_clusters, in blocks as long as a cluster is one.
    Ok(match u64::from(field(0x248)) {
        0 => used.min(taken),
        overhead => used.saturating_sub(overhead * block_bytes),
    })
}

/// How inode tables and journal are taken as they are, so that a large filesystem in a new file is made of few real blocks.
const EXTENDED: &str =
    "lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard,root_owner=0:0";

/// The arguments of mke2fs but for label and file. The file must be new, that is, all zeros. Blocks of 4 KiB and an inode for 16 KiB
/// whatever the size: mke2fs would give a small filesystem small blocks, but this one may grow.
pub const MKE2FS_ARGS: [&str; 14] =
    ["-q", "-F", "-t", "ext4", "-b", "4096", "-i", "16384", "-m", "0", "-O", FEATURES, "-E", EXTENDED];

/// Where mke2fs is; it stands in a directory that an ordinary user's PATH may lack.
pub fn find_mke2fs() -> Result<PathBuf, ExecError> {
    find_program("mke2fs".as_ref()).ok_or_else(|| ExecError::NotFound("mke2fs (package e2fsprogs)".into()))
}

/// Makes the new file `path`, which only this user can read.
pub fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the new file `path` an empty ext4 of `size_bytes`, nearly all of it a hole.
pub fn make_empty(path: &Path, size_bytes: u64, label: &str) -> Result<(), Ext4Error> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    created
        .and_then(|file| file.set_len(size_bytes))
        .map_err(|source| Ext4Error::File { path: path.to_owned(), source })?;
    let program = find_mke2fs().map_err(|source| Ext4Error::Make { path: path.to_owned(), source })?;
    let made = Exec::new(program).args(MKE2FS_ARGS).args(["-L", label]).arg(path).run();
    made.map(drop).map_err(|source| Ext4Error::Make { path: path.to_owned(), source })
}

/// Makes the file `path`, all zeros, an empty ext4 as large as it is, with this UUID.
pub fn format(path: &Path, label: &str, uuid: &str) -> Result<(), Ext4Error> {
    let make = |source| Ext4Error::Make { path: path.to_owned(), source };
    let program = find_mke2fs().map_err(make)?;
    Exec::new(program)
        .args(MKE2FS_ARGS)
        .args(["-L", label, "-U", uuid])
        .arg(path)
        .run()
        .map(drop)
        .map_err(make)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filesystem_is_nearly_all_hole_and_has_a_uuid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ext4");
        if find_mke2fs().is_err() {
            return;
        }
        make_empty(&path, 8 << 30, "banger-upper").unwrap();
        assert_eq!(uuid(&path).unwrap().len(), 36);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 8 << 30);
        assert!(metadata.blocks() * 512 < 8 << 20, "{} bytes", metadata.blocks() * 512);
        assert!(content_bytes(&path).unwrap() < 1 << 20, "{}", content_bytes(&path).unwrap());
    }

    #[test]
    fn other_files_are_no_ext4() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b""[..], &[0; 4096]] {
            let path = dir.path().join("x");
            std::fs::write(&path, content).unwrap();
            assert!(matches!(uuid(&path), Err(Ext4Error::NotExt4 { .. })));
        }
    }
}
