//! The files of an image layout or of an archive for `docker load`, by their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{OciError, blob_path, check_digest, parse};
use banger_formats::tar::{self, Kind, TarError, shown};
use banger_host::digest::sha256;

/// The largest index, manifest or configuration (registries take manifests of 4 MiB).
const MAX_JSON_BYTES: u64 = 4 << 20;
/// Members of an archive that is no root filesystem.
const MAX_MEMBERS: usize = 10_000;
/// The longest name of a member that is kept, bytes: what a manifest names is shorter by far.
const MAX_MEMBER_NAME: usize = 1024;
/// How many links a name may lead through (as the kernel's MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Files by name: a directory, or a tar that is not compressed.
#[derive(Debug, Clone)]
pub enum Store {
    /// A directory.
    Directory(PathBuf),
    /// A tar.
    Archive(ArchiveFile),
}

/// An uncompressed tar whose members are found by name, in whatever order they are stored.
#[derive(Debug, Clone)]
pub struct ArchiveFile {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

/// What a name in an archive stands for.
#[derive(Debug, Clone)]
enum Member {
    /// Data: where it begins, and how long it is.
    Data(u64, u64),
    /// A file with holes, which is not stored as it is.
    Sparse,
    /// Another name, which may come later in the archive. Docker's older archives have links where images share layers.
    Link(String),
}

/// A part of a file.
pub(crate) struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Part {
    /// The whole of `file`.
    pub(crate) fn whole(file: Arc<File>) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self { file, at: 0, left })
    }

    /// Passes over `count` bytes, which are not read.
    pub(crate) fn pass_over(&mut self, count: u64) {
        self.at += count;
        self.left = self.left.saturating_sub(count);
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        (self.at, self.left) = (self.at + count as u64, self.left - count as u64);
        Ok(count)
    }
}

impl Store {
    /// The members of the uncompressed tar `file`, which is at `path`.
    ///
    /// # Errors
    /// [`OciError::Archive`].
    pub fn archive(file: File, path: &Path) -> Result<Self, OciError> {
        let file = Arc::new(file);
        let wrong = |source| OciError::Archive { path: path.to_owned(), source };
        let whole = Part::whole(file.clone());
        let whole = whole.map_err(|source| OciError::Read { what: format!("{path:?}"), source })?;
        let length = whole.left;
        let mut members = BTreeMap::new();
        let mut archive = tar::Archive::new(whole);
        while let Some(entry) = archive.next_entry().map_err(wrong)? {
            let member = Member::of(&entry, archive.input().at);
            if let Some(Member::Data(at, size)) = member
                && at.checked_add(size).is_none_or(|end| end > length)
            {
                return Err(wrong(TarError::Truncated { after: shown(&entry.path) }));
            }
            archive.seek_over(Part::pass_over);
            let Some(member) = member.filter(|_| entry.path.len() <= MAX_MEMBER_NAME) else { continue };
            members.insert(tar::member_name(&entry.path), member);
            if members.len() > MAX_MEMBERS {
                let problem = format!("has more than {MAX_MEMBERS} members and is not an image");
                return Err(OciError::Invalid { what: format!("{path:?}"), problem });
            }
        }
        Ok(Self::Archive(ArchiveFile { file, members }))
    }

    /// Whether there is a file `name`.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).is_file(),
            Self::Archive(archive) => archive.find(name).is_some(),
        }
    }

    /// Opens the file `name`.
    ///
    /// # Errors
    /// [`OciError::Read`], [`OciError::Invalid`].
    pub fn open(&self, name: &str) -> Result<Box<dyn Read + Send>, OciError> {
        let what = || shown(name.as_bytes());
        let opened = match self {
            Self::Directory(dir) => open_file(&dir.join(name)).map(|file| Box::new(file) as Box<_>),
            Self::Archive(archive) => match archive.find(name) {
                Some(Member::Data(at, left)) => {
                    Ok(Box::new(Part { file: archive.file.clone(), at: *at, left: *left }) as Box<_>)
                }
                Some(_) => {
                    let problem =
                        "is stored in the archive as a sparse file; make the archive again without --sparse";
                    return Err(OciError::Invalid { what: what(), problem: problem.to_owned() });
                }
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        opened.map_err(|source| OciError::Read { what: what(), source })
    }

    /// The content of the small file `name`.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| OciError::Read { what: shown(name.as_bytes()), source })?;
        if bytes.len() as u64 > MAX_JSON_BYTES {
            let problem = format!("is larger than {MAX_JSON_BYTES} bytes");
            return Err(OciError::Invalid { what: shown(name.as_bytes()), problem });
        }
        Ok(bytes)
    }

    /// What the JSON file `name` says.
    pub(super) fn json<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, OciError> {
        parse(name, &self.bytes(name)?)
    }

    /// A JSON file by its digest, which is checked.
    pub(super) fn blob<T: for<'a> Deserialize<'a>>(&self, digest: &str) -> Result<T, OciError> {
        let path = blob_path(digest)?;
        let bytes = self.bytes(&path)?;
        check_digest(&path, &sha256(&bytes), digest)?;
        parse(&path, &bytes)
    }
}

impl ArchiveFile {
    /// What `name` stands for when its links are followed; never a link.
    fn find(&self, name: &str) -> Option<&Member> {
        let mut member = self.members.get(&tar::member_name(name.as_bytes()))?;
        for _ in 0..MAX_LINKS {
            let Member::Link(target) = member else { return Some(member) };
            member = self.members.get(target)?;
        }
        None
    }
}

impl Member {
    /// What an entry is whose data begins at `at`. `None`: nothing that an image could need.
    fn of(entry: &tar::Entry, at: u64) -> Option<Self> {
        match entry.kind {
            Kind::Regular if entry.regions == [(0, entry.size)] => Some(Self::Data(at, entry.size)),
            Kind::Regular => Some(Self::Sparse),
            Kind::HardLink => Some(Self::Link(tar::member_name(&entry.link))),
            Kind::Symlink => Some(Self::Link(symlink_target(&entry.path, &entry.link))),
            Kind::Character | Kind::Block | Kind::Directory | Kind::Fifo => None,
        }
    }
}

/// The name of the member that a symbolic link leads to. The archive is the root of absolute ones.
fn symlink_target(path: &[u8], link: &[u8]) -> String {
    let (path, link) = (tar::member_name(path), String::from_utf8_lossy(link));
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        parts.clear();
    }
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Opens a file for reading, which must be one: a pipe would block.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_links_lead_from_where_they_are() {
        let target = |path: &str, link: &str| symlink_target(path.as_bytes(), link.as_bytes());
        assert_eq!(target("aa/layer.tar", "../bb.tar"), "bb.tar");
        assert_eq!(target("./aa/layer.tar", "./x//y"), "aa/x/y");
        assert_eq!(target("layer.tar", "../../bb.tar"), "bb.tar");
        assert_eq!(target("aa/layer.tar", "/bb/layer.tar"), "bb/layer.tar");
    }
}
