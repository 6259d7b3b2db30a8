//! The one tar stream that carries a checkout: working tree first, the git directory after it, its `HEAD` last, so that a stream
//! cut short anywhere leaves no `HEAD` and cannot be taken for a whole one.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, Stat};
use tar::{Builder, EntryType, Header};

use super::checkout::{Checkout, Entry};
use super::error::WorkspaceError;
use super::staging::Selection;

/// Writes the stream to `out`: the files of `selection`, then `git_files` (a file here, its name in `.git`).
pub fn write(
    out: impl Write,
    checkout: &Checkout,
    selection: &Selection,
    git_files: &[(PathBuf, PathBuf)],
) -> Result<(), WorkspaceError> {
    let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, out));
    for path in &selection.submodules {
        directory(&mut tar, path)?;
    }
    for entry in &selection.entries {
        if entry.is_symlink() { link(&mut tar, checkout, entry)? } else { file(&mut tar, checkout, entry)? }
    }
    directory(&mut tar, Path::new(".git/refs/heads"))?;
    let (head, others): (Vec<_>, Vec<_>) = git_files.iter().partition(|(_, name)| name == Path::new("HEAD"));
    for (from, name) in others.into_iter().chain(head) {
        git_file(&mut tar, from, name)?;
    }
    let sent = tar.into_inner().and_then(|mut out| out.flush());
    sent.map_err(WorkspaceError::io("send", ".git/HEAD"))
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

fn directory(tar: &mut Builder<impl Write>, path: &Path) -> Result<(), WorkspaceError> {
    let mut header = header(EntryType::Directory, 0o755, 0, 0);
    tar.append_data(&mut header, path, io::empty()).map_err(WorkspaceError::io("send", path))
}

fn git_file(tar: &mut Builder<impl Write>, from: &Path, name: &Path) -> Result<(), WorkspaceError> {
    let error = WorkspaceError::io("send", from);
    let mut send = || {
        let file = File::open(from)?;
        let status = rustix::fs::fstat(&file)?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let mode = if name.starts_with("objects") { 0o444 } else { 0o644 };
        let mut header = header(EntryType::Regular, mode, status.st_mtime, size);
        tar.append_data(&mut header, Path::new(".git").join(name), file.take(size))
    };
    send().map_err(error)
}

/// Whether `now` is the file that `then` was: nobody wrote to it or replaced it in between.
fn is_same(then: &Stat, now: &Stat) -> bool {
    (then.st_ino, then.st_mode, then.st_size, then.st_mtime, then.st_mtime_nsec)
        == (now.st_ino, now.st_mode, now.st_size, now.st_mtime, now.st_mtime_nsec)
}

fn file(tar: &mut Builder<impl Write>, checkout: &Checkout, entry: &Entry) -> Result<(), WorkspaceError> {
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
    tar.append_data(&mut header, &entry.path, &mut counted).map_err(WorkspaceError::io("send", &full))?;
    if counted.count != size || !same(&file) {
        return Err(moving());
    }
    Ok(())
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

fn link(tar: &mut Builder<impl Write>, checkout: &Checkout, entry: &Entry) -> Result<(), WorkspaceError> {
    let full = checkout.root.join(&entry.path);
    let moving = || WorkspaceError::Moving(full.clone());
    let opened =
        checkout.open_beneath(&entry.path, OFlags::PATH).map_err(WorkspaceError::io("read", &full))?;
    let target = rustix::fs::readlinkat(opened.ok_or_else(moving)?, c"", Vec::new());
    let target = target.map_err(|_| moving())?.into_bytes();
    if target.len() as i64 != entry.stat.st_size {
        return Err(moving());
    }
    let mut send = || {
        let mut header = header(EntryType::Symlink, 0o777, entry.stat.st_mtime, 0);
        // The library's own way rewrites a target such as "./a//b"; the literal one is limited to the header's 100 bytes.
        if header.set_link_name_literal(std::ffi::OsStr::from_bytes(&target).as_bytes()).is_err() {
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
            tar.append(&long, target.as_slice().chain(&b"\0"[..]))?;
        }
        tar.append_data(&mut header, &entry.path, io::empty())
    };
    send().map_err(WorkspaceError::io("send", &full))
}
