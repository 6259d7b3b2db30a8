//! Whose the files are that an apply writes. git makes each of them anew, as its caller's and with the permissions of the umask; a file
//! that only changed stays whose it was and as closed as it was, and root leaves nothing of its own in somebody's checkout.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Uid};

/// Gives the file `new` what `old`, which it replaces, has: owner, group and permissions, but for the execute bits where the patch
/// changed these.
pub(super) fn keep(new: &Path, old: &Metadata) -> io::Result<()> {
    let made = fs::symlink_metadata(new)?;
    give(new, &made, old)?;
    if made.is_symlink() || old.is_symlink() {
        return Ok(());
    }
    let (now, before) = (made.mode(), old.mode() & 0o7777);
    let is_executable = |mode: u32| mode & 0o100 != 0;
    let mode = match (is_executable(before), is_executable(now)) {
        (false, true) => before | (before & 0o444) >> 2,
        (true, false) => before & !0o111,
        _ => before,
    };
    if made.mode() & 0o7777 == mode { Ok(()) } else { fs::set_permissions(new, Permissions::from_mode(mode)) }
}

/// Gives root's new file `new` to the owner of the directory that it comes into.
pub(crate) fn follow(new: &Path, directory: &Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        give(new, &fs::symlink_metadata(new)?, directory)
    } else {
        Ok(())
    }
}

/// Gives root's new directory `name` of `parent` to the owner of that.
pub(super) fn follow_parent(parent: impl AsFd, name: &std::ffi::OsStr) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let of = rustix::fs::fstat(&parent)?;
    let (uid, gid) = (Uid::from_raw(of.st_uid), Gid::from_raw(of.st_gid));
    let given = rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    where_possible(given.map_err(io::Error::from))
}

/// Changes owner and group where they differ.
fn give(path: &Path, made: &Metadata, to: &Metadata) -> io::Result<()> {
    let differs = |of: fn(&Metadata) -> u32| (of(made) != of(to)).then(|| of(to));
    let (uid, gid) = (differs(Metadata::uid), differs(Metadata::gid));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    where_possible(lchown(path, uid, gid))
}

/// An ordinary user may give nothing away, and some file systems know no owners: then the file is its maker's.
fn where_possible(given: io::Result<()>) -> io::Result<()> {
    match given {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}
