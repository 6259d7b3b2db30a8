//! What is in a file of the checkout, as long as it is the one that was looked at.

use std::fs::File;
use std::io::Read;

use rustix::fs::{OFlags, Stat};

use crate::checkout::{Checkout, Entry};
use crate::error::WorkspaceError;

/// Fails where the file of `entry` is no longer the one that was looked at.
pub fn unchanged(checkout: &Checkout, entry: &Entry) -> Result<(), WorkspaceError> {
    let now = checkout.look(&entry.path)?;
    if now.is_some_and(|now| is_same(&entry.stat, &now.stat)) {
        return Ok(());
    }
    Err(WorkspaceError::Moving(checkout.root.join(&entry.path)))
}

/// Whether `now` is the file that `then` was: nobody wrote to it or replaced it in between.
pub fn is_same(then: &Stat, now: &Stat) -> bool {
    (then.st_ino, then.st_mode, then.st_size, then.st_mtime, then.st_mtime_nsec)
        == (now.st_ino, now.st_mode, now.st_size, now.st_mtime, now.st_mtime_nsec)
}

/// The bytes of a file that is small or oddly named.
pub fn content(checkout: &Checkout, entry: &Entry) -> Result<Vec<u8>, WorkspaceError> {
    let full = checkout.root.join(&entry.path);
    let opened =
        checkout.open_beneath(&entry.path, OFlags::RDONLY).map_err(WorkspaceError::io("read", &full))?;
    let file = File::from(opened.ok_or_else(|| WorkspaceError::Moving(full.clone()))?);
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes).map_err(WorkspaceError::io("read", &full))?;
    Ok(bytes)
}

/// Where a symbolic link points to.
pub fn target(checkout: &Checkout, entry: &Entry) -> Result<Vec<u8>, WorkspaceError> {
    let full = checkout.root.join(&entry.path);
    let moving = || WorkspaceError::Moving(full.clone());
    let opened =
        checkout.open_beneath(&entry.path, OFlags::PATH).map_err(WorkspaceError::io("read", &full))?;
    let target = rustix::fs::readlinkat(opened.ok_or_else(moving)?, c"", Vec::new());
    let target = target.map_err(|_| moving())?.into_bytes();
    if target.len() as i64 != entry.stat.st_size {
        return Err(moving());
    }
    Ok(target)
}
