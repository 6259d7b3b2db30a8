//! Reading tar archives that others made: ustar, GNU and PAX, sparse files of all kinds, extended attributes.
//!
//! The `tar` crate reads long names and PAX records into memory however long they are, and knows the older of the sparse formats
//! only; here whatever an archive can make larger is bounded, and every error names the entry.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

use thiserror::Error;

use header::Header;
use pax::Records;

use super::decompress::StreamError;
use super::ext4::{Time, Xattr};

/// Bytes of a record.
const BLOCK: u64 = 512;
/// The longest extension: a long name, or PAX records. Linux has paths of 4096 bytes and attributes of 64 KiB.
const MAX_EXTENSION: u64 = 1 << 20;
/// PAX records that hold for all entries that follow, bytes: every entry has a copy of them.
const MAX_GLOBAL: u64 = 4096;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Regular,
    /// Another name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, as it stands there.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Its permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// When it was changed.
    pub mtime: Time,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// How large it is, holes included, bytes.
    pub size: u64,
    /// Where in it there is data: offset and length, in order.
    pub regions: Vec<(u64, u64)>,
    /// Its extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// An archive that cannot be read.
#[derive(Debug, Error)]
pub enum TarError {
    /// What it comes from cannot be read.
    #[error("the archive cannot be read{}", behind(.after))]
    Read {
        /// The last entry that was seen.
        after: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is cut off.
    #[error("the archive is cut off{}", behind(.after))]
    Truncated {
        /// The last entry that was seen.
        after: String,
    },
    /// There is no header where one should be.
    #[error("this is not a tar archive, or it is damaged{}: {what}", behind(.after))]
    Header {
        /// The last entry that was seen.
        after: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry is not of its shape.
    #[error("the entry {entry:?} {what}")]
    Entry {
        /// Its path.
        entry: String,
        /// What is wrong with it.
        what: String,
    },
}

impl TarError {
    /// Whether this host is to blame, not the archive.
    pub fn is_host_failure(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.raw_os_error().is_some())
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Truncated { .. } => Some("it is not whole: get it again".into()),
            Self::Read { source, .. } => StreamError::of(source).and_then(StreamError::hint),
            Self::Header { .. } | Self::Entry { .. } => None,
        }
    }
}

fn behind(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(" after the entry {entry:?}") }
}

/// Reads the entries of an archive one after the other.
pub struct Archive<R> {
    input: R,
    global: Records,
    /// What of the current entry's data was not read yet, and the padding behind it.
    left: u64,
    padding: u64,
    /// The last entry's path, for messages.
    last: String,
    /// Whether the end marker was seen.
    ended: bool,
}

/// What comes before an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

impl<R: Read> Archive<R> {
    /// Reads an archive from `input`.
    pub fn new(input: R) -> Self {
        let global = Records::default();
        Self { input, global, left: 0, padding: 0, last: String::new(), ended: false }
    }

    /// Whether the archive's end marker was there: without it, it may have been cut off between two entries.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What the archive comes from.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// What the archive comes from, which stands at the current entry's data.
    pub fn input(&self) -> &R {
        &self.input
    }

    /// Passes over the current entry's data by `seek`, instead of reading it.
    pub fn seek_over(&mut self, seek: impl FnOnce(&mut R, u64)) {
        seek(&mut self.input, self.left + self.padding);
        (self.left, self.padding) = (0, 0);
    }

    /// The last entry's path.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// The next entry; `None` at the end. What was not read of the one before is passed over.
    ///
    /// # Errors
    /// [`TarError`]; nothing can be read any more then.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extensions = Extensions { records: self.global.clone(), ..Extensions::default() };
        let mut is_extended = false;
        loop {
            let Some(header) = self.header()? else {
                return if is_extended {
                    Err(self.wrong("an extension belongs to no entry"))
                } else {
                    Ok(None)
                };
            };
            let size = header.size().ok_or_else(|| self.wrong("a size is not a number"))?;
            match header.kind() {
                b'L' => extensions.path = Some(header::until_nul(&self.extension(size)?).to_vec()),
                b'K' => extensions.link = Some(header::until_nul(&self.extension(size)?).to_vec()),
                b'x' => {
                    let bytes = self.extension(size)?;
                    self.add(&mut extensions.records, &bytes, MAX_GLOBAL + MAX_EXTENSION)?;
                }
                b'g' => {
                    let bytes = self.extension(size)?;
                    let mut global = std::mem::take(&mut self.global);
                    self.add(&mut global, &bytes, MAX_GLOBAL)?;
                    extensions.records = global.clone();
                    self.global = global;
                    continue;
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            }
            is_extended = true;
        }
    }

    /// Adds PAX records to those that are there.
    fn add(&self, records: &mut Records, bytes: &[u8], max_bytes: u64) -> Result<(), TarError> {
        records.add(bytes).map_err(|()| self.wrong("PAX records are not of their shape"))?;
        if records.are_too_many(max_bytes) {
            return Err(self.wrong("there are too many PAX records, or they are too long"));
        }
        Ok(())
    }

    /// The next header; `None`: the end.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated { after: self.last.clone() }),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { after: self.last.clone(), source }),
            }
        }
        if block == [0; BLOCK as usize] {
            self.ended = true;
            return Ok(None);
        }
        let header = Header::parse(block).ok_or_else(|| self.wrong("a checksum is wrong"))?;
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions { path, link, records } = extensions;
        let path = records.sparse_name().or(records.get(b"path")).map(<[u8]>::to_vec).or(path);
        let path = path.unwrap_or_else(|| header.path());
        self.last = shown(&path);
        let link = records.get(b"linkpath").map(<[u8]>::to_vec).or(link).unwrap_or_else(|| header.link());
        let wrong = |what: &str| TarError::Entry { entry: shown(&path), what: what.to_owned() };
        let kind = header.entry_kind(&path).map_err(|what| wrong(&what))?;
        let number = |key: &[u8], own: Option<i128>, what| -> Result<u64, TarError> {
            let value = match records.get(key) {
                Some(text) => pax::number(text),
                None => own.and_then(|own| u64::try_from(own).ok()),
            };
            value.ok_or_else(|| wrong(what))
        };
        let size = number(b"size", Some(size.into()), "has a size that is not a number")?;
        let uid = number(b"uid", header.uid(), "has an owner that is not a number")?;
        let gid = number(b"gid", header.gid(), "has a group that is not a number")?;
        let mtime = match records.get(b"mtime") {
            Some(text) => pax::time(text),
            None => header.mtime(),
        };
        let mtime = mtime.ok_or_else(|| wrong("has a time that is not a number"))?;
        // Links have no data of their own, whatever the header says (as POSIX has it; old archives give the file's size).
        let stored = if matches!(kind, Kind::Regular) { size } else { 0 };
        if kind == Kind::HardLink && size > 0 && records.get(b"size").is_some() {
            return Err(wrong("is a hard link with data"));
        }
        (self.left, self.padding) = (stored, padding(stored));
        let mut entry = Entry {
            mode: header.mode().ok_or_else(|| wrong("has a mode that is not a number"))?,
            device: header.device().ok_or_else(|| wrong("has a device that is not a number"))?,
            xattrs: records.xattrs(),
            regions: vec![(0, stored)],
            size: stored,
            path,
            kind,
            link,
            uid,
            gid,
            mtime,
        };
        if kind == Kind::Regular {
            self.sparse(header, &records, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads a sparse file's map; leaves other files alone.
    fn sparse(&mut self, header: &Header, records: &Records, entry: &mut Entry) -> Result<(), TarError> {
        let name = self.last.clone();
        let wrong = |what: &str| TarError::Entry { entry: name.clone(), what: what.to_owned() };
        let map = if header.kind() == b'S' {
            let mut map = header.sparse_map().ok_or_else(|| wrong(sparse::INVALID))?;
            let mut more = header.sparse_continues();
            while more {
                let mut block = [0; BLOCK as usize];
                self.fill(&mut block)?;
                more = sparse::extend(&mut map.regions, &block).ok_or_else(|| wrong(sparse::INVALID))?;
            }
            Some(map)
        } else if records.get(b"GNU.sparse.major") == Some(b"1") {
            let size = records.get(b"GNU.sparse.realsize").and_then(pax::number);
            let size = size.ok_or_else(|| wrong(sparse::INVALID))?;
            let regions = sparse::read_map(self).map_err(|error| match error {
                Some(error) => error,
                None => wrong(sparse::INVALID),
            })?;
            Some(sparse::Map { size, regions })
        } else {
            records.sparse_map().map_err(|()| wrong(sparse::INVALID))?
        };
        let Some(map) = map else { return Ok(()) };
        if !map.is_valid(self.left) {
            return Err(wrong(sparse::INVALID));
        }
        (entry.size, entry.regions) = (map.size, map.regions);
        Ok(())
    }

    /// The data of an extension, which is short.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(self.wrong("a long name or PAX records are longer than 1 MiB"));
        }
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes)?;
        self.skip(padding(size))?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TarError> {
        self.input.read_exact(bytes).map_err(|source| self.broken(source))
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        match io::copy(&mut self.input.by_ref().take(count), &mut io::sink()) {
            Ok(done) if done == count => Ok(()),
            Ok(_) => Err(TarError::Truncated { after: self.last.clone() }),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn broken(&self, source: io::Error) -> TarError {
        let after = self.last.clone();
        match source.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated { after },
            _ => TarError::Read { after, source },
        }
    }

    fn wrong(&self, what: &'static str) -> TarError {
        TarError::Header { after: self.last.clone(), what }
    }
}

/// The current entry's data.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// A member's path as a name that can be compared: relative to the archive, without what says nothing.
pub fn member_name(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// A path for messages: not too long, and what is not UTF-8 replaced.
pub fn shown(path: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(&path[..path.len().min(LONGEST)]).into_owned();
    if path.len() > LONGEST { format!("{text}…") } else { text }
}
