//! The one tar stream that carries a checkout: working trees first, the git directories after them, the checkout's own `HEAD` last,
//! so that a stream cut short anywhere leaves no `HEAD` and cannot be taken for a whole one.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use banger_protocol::changes::{self, MODE_LINK, MODE_PROGRAM, SentFile};
use banger_protocol::resync::GIVEN_INDEX;
use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

use crate::checkout::{Checkout, Entry};
use crate::content::{is_same, target, unchanged};
use crate::error::WorkspaceError;
use crate::pack::Source;
use crate::repository::Repository;
use crate::shipment::{self, Shipment};

/// The file that ends a stream without git: what it is in never holds a file of a checkout's.
pub const END: &str = ".git/end";

/// Writes the stream to `out`. The packs are waited for once the working tree is through.
pub fn write(out: impl Write, shipment: &Shipment) -> Result<(), WorkspaceError> {
    let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, out));
    for part in &shipment.survey.parts {
        for path in part.selection.links.keys() {
            directory(&mut tar, &part.prefix.join(path), 0)?;
        }
        for entry in &part.selection.entries {
            let place = part.prefix.join(&entry.path);
            if entry.object.is_some() {
                unchanged(&part.checkout, entry)?;
                let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
                parent.map_or(Ok(()), |parent| directory(&mut tar, parent, entry.stat.st_mtime))?;
            } else if entry.is_symlink() {
                link(&mut tar, &part.checkout, entry, &place)?;
            } else {
                file(&mut tar, &part.checkout, entry, &place)?;
            }
        }
    }
    for (place, text) in shipment.git_files() {
        bytes(&mut tar, &place, &text)?;
    }
    for (place, text) in shipment::files(shipment) {
        bytes(&mut tar, &place, &text)?;
    }
    bytes(&mut tar, Path::new(changes::SENT), &shipment.sent.encode())?;
    for repository in shipment.repositories.iter().rev() {
        git_directory(&mut tar, repository)?;
    }
    if shipment.repositories.is_empty() {
        bytes(&mut tar, Path::new(END), b"")?;
    }
    let sent = tar.into_inner().and_then(|mut out| out.flush());
    sent.map_err(WorkspaceError::io("send", ".git/HEAD"))
}

/// Sends one git directory, its `HEAD` last.
fn git_directory(tar: &mut Builder<impl Write>, repository: &Repository) -> Result<(), WorkspaceError> {
    let place = |name: &Path| repository.git_dir.join(name);
    directory(tar, &place(Path::new("refs/heads")), 0)?;
    let index = place(Path::new("index"));
    git_file(tar, &repository.index, &index)?;
    hard_link(tar, &index, &place(Path::new(GIVEN_INDEX)))?;
    let packing = &repository.packing;
    for (name, source) in packing.whole()? {
        pack_file(tar, source, &place(&name))?;
    }
    packing.wait()?;
    for (name, source) in packing.made()? {
        pack_file(tar, source, &place(&name))?;
    }
    let (head, others): (Vec<_>, Vec<_>) =
        repository.files.iter().partition(|(name, _)| name == Path::new("HEAD"));
    others.into_iter().chain(head).try_for_each(|(name, text)| bytes(tar, &place(name), text))
}

fn header(kind: EntryType, mode: u32, mtime: i64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_size(size);
    header
}

pub(super) fn directory(
    tar: &mut Builder<impl Write>,
    path: &Path,
    mtime: i64,
) -> Result<(), WorkspaceError> {
    let mut header = header(EntryType::Directory, 0o755, mtime, 0);
    tar.append_data(&mut header, path, io::empty()).map_err(WorkspaceError::io("send", path))
}

pub(super) fn bytes(tar: &mut Builder<impl Write>, place: &Path, text: &[u8]) -> Result<(), WorkspaceError> {
    let mut header = header(EntryType::Regular, 0o644, 0, text.len() as u64);
    tar.append_data(&mut header, place, text).map_err(WorkspaceError::io("send", place))
}

/// Another name for the file at `first`, which has been sent.
fn hard_link(tar: &mut Builder<impl Write>, first: &Path, place: &Path) -> Result<(), WorkspaceError> {
    let mut header = header(EntryType::Link, 0o644, 0, 0);
    tar.append_link(&mut header, place, first).map_err(WorkspaceError::io("send", place))
}

fn pack_file(tar: &mut Builder<impl Write>, from: Source, place: &Path) -> Result<(), WorkspaceError> {
    match from {
        Source::File(file) => opened(tar, &file, place).map_err(WorkspaceError::io("send", place)),
        Source::Path(path) => git_file(tar, &path, place),
        Source::Empty => bytes(tar, place, b""),
    }
}

pub(super) fn git_file(
    tar: &mut Builder<impl Write>,
    from: &Path,
    place: &Path,
) -> Result<(), WorkspaceError> {
    let sent = File::open(from).and_then(|file| opened(tar, &file, place));
    sent.map_err(WorkspaceError::io("send", from))
}

/// Sends a file of ours, or a pack, which nobody writes to.
pub fn opened(tar: &mut Builder<impl Write>, file: &File, place: &Path) -> io::Result<()> {
    let status = rustix::fs::fstat(file)?;
    let size = u64::try_from(status.st_size).unwrap_or(0);
    let mode = if place.extension().is_some() { 0o444 } else { 0o644 };
    let mut header = header(EntryType::Regular, mode, status.st_mtime, size);
    tar.append_data(&mut header, place, file.take(size))
}

pub(super) fn file(
    tar: &mut Builder<impl Write>,
    checkout: &Checkout,
    entry: &Entry,
    place: &Path,
) -> Result<(), WorkspaceError> {
    let full = checkout.root.join(&entry.path);
    let moving = || WorkspaceError::Moving(full.clone());
    let opened =
        checkout.open_beneath(&entry.path, OFlags::RDONLY).map_err(WorkspaceError::io("read", &full))?;
    let file = File::from(opened.ok_or_else(moving)?);
    let same = |file: &File| rustix::fs::fstat(file).is_ok_and(|now| is_same(&entry.stat, &now));
    if !same(&file) {
        return Err(moving());
    }
    let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
    let mut header = header(EntryType::Regular, entry.stat.st_mode & 0o777, entry.stat.st_mtime, size);
    let mut counted = Counted { inner: (&file).take(size), count: 0 };
    tar.append_data(&mut header, place, &mut counted).map_err(WorkspaceError::io("send", &full))?;
    if counted.count != size || !same(&file) {
        return Err(moving());
    }
    Ok(())
}

/// A file as it was sent, whose bytes are in a file of ours at `from`.
pub(super) fn kept(
    tar: &mut Builder<impl Write>,
    sent: &SentFile,
    from: &Path,
    place: &Path,
) -> Result<(), WorkspaceError> {
    let mtime = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let error = || WorkspaceError::io("send", from);
    if sent.mode == MODE_LINK {
        return link_to(tar, &std::fs::read(from).map_err(error())?, mtime, place).map_err(error());
    }
    let file = File::open(from).map_err(error())?;
    let size = file.metadata().map_err(error())?.len();
    let mode = if sent.mode == MODE_PROGRAM { 0o755 } else { 0o644 };
    tar.append_data(&mut header(EntryType::Regular, mode, mtime, size), place, file).map_err(error())
}

/// Counts what is read, since tar itself does not notice a file that became shorter.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

pub(super) fn link(
    tar: &mut Builder<impl Write>,
    checkout: &Checkout,
    entry: &Entry,
    place: &Path,
) -> Result<(), WorkspaceError> {
    let target = target(checkout, entry)?;
    link_to(tar, &target, entry.stat.st_mtime, place)
        .map_err(WorkspaceError::io("send", checkout.root.join(&entry.path)))
}

/// A symbolic link that leads to `target`.
fn link_to(tar: &mut Builder<impl Write>, target: &[u8], mtime: i64, place: &Path) -> io::Result<()> {
    let mut header = header(EntryType::Symlink, 0o777, mtime, 0);
    // The library's own way rewrites a target such as "./a//b"; the literal one is limited to the header's 100 bytes.
    if header.set_link_name_literal(target).is_err() {
        let mut long = Header::new_gnu();
        let name = b"././@LongLink";
        long.as_gnu_mut().expect("it was made so").name[..name.len()].copy_from_slice(name);
        long.set_mode(0o644);
        long.set_uid(0);
        long.set_gid(0);
        long.set_mtime(0);
        long.set_size(target.len() as u64 + 1);
        long.set_entry_type(EntryType::GNULongLink);
        long.set_cksum();
        tar.append(&long, target.chain(&b"\0"[..]))?;
    }
    tar.append_data(&mut header, place, io::empty())
}
