//! The user's own files that travel to the guest, packed into the tar that banger-guest lays over its root.
//!
//! A file that is named is followed through symbolic links; below a directory links stay links. What is neither file, directory
//! nor link is left out and told. All of it is bounded, since it goes through the guest's memory.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::disk_error::DiskError;
use banger_contract::file_sync::FileSync;
use banger_protocol::guest::MAX_VM_SEGMENT_BYTES;

/// The most that all files may be, bytes: the VM's segment of the initrd holds a little more.
const MAX_BYTES: u64 = MAX_VM_SEGMENT_BYTES - (1 << 20);
/// The most files, directories and links.
const MAX_ENTRIES: usize = 20_000;
/// A tar's block, which is what each entry costs at least.
const BLOCK: u64 = 512;

/// What was packed.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// What was left out, and why: for people.
    pub(super) left_out: Vec<String>,
    entries: usize,
    bytes: u64,
}

/// Appends everything that `wanted` names to `tar`.
pub(super) fn pack(tar: &mut Builder<Vec<u8>>, wanted: &[FileSync]) -> Result<Packed, DiskError> {
    let mut packed = Packed::default();
    for (index, sync) in wanted.iter().enumerate() {
        Packer { tar: &mut *tar, packed: &mut packed, index }.sync(sync)?;
    }
    Ok(packed)
}

/// Packs one entry of the list.
struct Packer<'a> {
    tar: &'a mut Builder<Vec<u8>>,
    packed: &'a mut Packed,
    index: usize,
}

impl Packer<'_> {
    fn sync(&mut self, sync: &FileSync) -> Result<(), DiskError> {
        let wrong = |(field, found, allowed): (&'static str, &str, &'static str)| DiskError::SyncField {
            index: self.index,
            field,
            found: found.chars().take(200).collect(),
            allowed,
        };
        sync.check().map_err(wrong)?;
        let host = sync.host_path(None).ok_or_else(|| wrong(("host", &sync.host, "an absolute path")))?;
        let guest = sync.guest_path().expect("it was checked");
        match fs::metadata(&host) {
            Ok(metadata) => self.node(&host, &guest, &metadata, sync.mode_bits()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.leave_out(&host, "it is not there; the guest keeps what it has");
                Ok(())
            }
            Err(source) => Err(self.failed(&host, source)),
        }
    }

    fn node(
        &mut self,
        host: &Path,
        guest: &Path,
        metadata: &Metadata,
        mode: Option<u32>,
    ) -> Result<(), DiskError> {
        let mode = mode.unwrap_or(metadata.permissions().mode() & 0o777);
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(host, guest, mode)
        } else if kind.is_file() {
            self.file(host, guest, mode, metadata.len())
        } else if kind.is_symlink() {
            let target = fs::read_link(host).map_err(|source| self.failed(host, source))?;
            self.count(host, BLOCK)?;
            let mut header = header(EntryType::Symlink, 0o777, 0);
            self.tar.append_link(&mut header, guest, target).map_err(|source| self.failed(host, source))
        } else {
            self.leave_out(host, "it is neither a file, a directory nor a link");
            Ok(())
        }
    }

    fn directory(&mut self, host: &Path, guest: &Path, mode: u32) -> Result<(), DiskError> {
        self.count(host, BLOCK)?;
        let mut header = header(EntryType::Directory, mode, 0);
        // With a slash behind it, or readers of old take it for a file.
        let mut name = guest.as_os_str().to_owned();
        name.push("/");
        let appended = self.tar.append_data(&mut header, name, io::empty());
        appended.map_err(|source| self.failed(host, source))?;
        let mut names = Vec::<OsString>::new();
        for entry in fs::read_dir(host).map_err(|source| self.failed(host, source))? {
            names.push(entry.map_err(|source| self.failed(host, source))?.file_name());
            if names.len() > MAX_ENTRIES {
                return Err(self.too_much(host));
            }
        }
        names.sort();
        for name in names {
            let (host, guest) = (host.join(&name), guest.join(&name));
            match fs::symlink_metadata(&host) {
                Ok(metadata) => self.node(&host, &guest, &metadata, None)?,
                // Gone since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.failed(&host, source)),
            }
        }
        Ok(())
    }

    fn file(&mut self, host: &Path, guest: &Path, mode: u32, length: u64) -> Result<(), DiskError> {
        self.count(host, length.saturating_add(BLOCK))?;
        // It may have become a FIFO since, which would never open.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(host);
        let content = opened.and_then(|file| read(&file, length));
        let content = content.map_err(|source| self.failed(host, source))?;
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        self.tar
            .append_data(&mut header, guest, content.as_slice())
            .map_err(|source| self.failed(host, source))
    }

    fn count(&mut self, host: &Path, bytes: u64) -> Result<(), DiskError> {
        self.packed.entries += 1;
        self.packed.bytes = self.packed.bytes.saturating_add(bytes.next_multiple_of(BLOCK));
        let fits = self.packed.entries <= MAX_ENTRIES && self.packed.bytes <= MAX_BYTES;
        if fits { Ok(()) } else { Err(self.too_much(host)) }
    }

    fn leave_out(&mut self, host: &Path, why: &str) {
        // Of a directory full of sockets a few lines tell enough.
        const MOST: usize = 20;
        if self.packed.left_out.len() < MOST {
            self.packed.left_out.push(format!("file_sync[{}]: {host:?} is left out: {why}", self.index));
        }
    }

    fn failed(&self, host: &Path, source: io::Error) -> DiskError {
        DiskError::Sync { index: self.index, path: host.to_owned(), source }
    }

    fn too_much(&self, host: &Path) -> DiskError {
        let (max_mib, max_entries) = (MAX_BYTES >> 20, MAX_ENTRIES);
        DiskError::SyncSize { index: self.index, path: PathBuf::from(host), max_mib, max_entries }
    }
}

/// A regular file's content, no longer than it was when it was counted.
fn read(file: &File, length: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file any more"));
    }
    let mut content = Vec::new();
    file.take(length).read_to_end(&mut content)?;
    Ok(content)
}

/// Root's, and of no time: the same files make the same tar.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
