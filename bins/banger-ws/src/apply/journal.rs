//! The plan on disk, from before its first step until after its last, and the way back.
//!
//! A step says by what is where whether it was taken, so undoing is the same after an error and after a kill. A file that somebody
//! changed since is left alone, and the originals are kept and named.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::stage::{Found, Identity};
use super::swap::{Ground, Step, kept, staged};
use super::{ApplyError, WorkDir};
use crate::checkout::Checkout;
use banger_host::clock::now_rfc3339;

/// The journal's name.
pub(super) const NAME: &str = "journal";
const FIRST: &[u8] = b"banger-apply 1";
/// The last piece: a journal without it was never finished, and no step was taken.
const LAST: &[u8] = b"end";

/// Writes the plan.
pub(super) fn write(work: &WorkDir, steps: &[Step]) -> Result<(), ApplyError> {
    let mut pieces: Vec<Vec<u8>> = vec![FIRST.to_vec()];
    let identity = |i: &Identity| format!("{} {} {} {}", i.inode, i.size, i.mtime, i.mtime_ns).into_bytes();
    for step in steps {
        let (kind, path, rest) = match step {
            Step::Remove { path, old } => ("remove", path, vec![identity(old)]),
            Step::RemoveDir { path, mode } => ("rmdir", path, vec![mode.to_string().into_bytes()]),
            Step::MakeDir { path } => ("mkdir", path, Vec::new()),
            Step::Put { path, old: None, new } => ("create", path, vec![identity(new)]),
            Step::Put { path, old: Some(old), new } => ("replace", path, vec![identity(old), identity(new)]),
        };
        pieces.extend([kind.as_bytes().to_vec(), path.as_os_str().as_bytes().to_vec()]);
        pieces.extend(rest);
    }
    pieces.push(LAST.to_vec());
    let path = work.join(NAME);
    fs::write(&path, pieces.join(&0)).map_err(ApplyError::io("write", &path))
}

/// Ends what the journal stands for: from here on the apply is done, or undone.
pub(super) fn forget(work: &WorkDir) -> Result<(), ApplyError> {
    let path = work.join(NAME);
    fs::remove_file(&path).map_err(ApplyError::io("remove", path))
}

/// The plan in `bytes`; `None` where it was never finished.
fn parse(bytes: &[u8]) -> Option<Vec<Step>> {
    let mut pieces = bytes.split(|b| *b == 0);
    let mut steps = Vec::new();
    if pieces.next()? != FIRST {
        return None;
    }
    let identity = |piece: Option<&[u8]>| {
        let mut numbers = std::str::from_utf8(piece?).ok()?.split(' ');
        let identity = Identity {
            inode: numbers.next()?.parse().ok()?,
            size: numbers.next()?.parse().ok()?,
            mtime: numbers.next()?.parse().ok()?,
            mtime_ns: numbers.next()?.parse().ok()?,
        };
        Some(identity)
    };
    loop {
        let kind = pieces.next()?;
        if kind == LAST {
            return pieces.next().is_none().then_some(steps);
        }
        let path = PathBuf::from(OsString::from_vec(pieces.next()?.to_vec()));
        let step = match kind {
            b"remove" => Step::Remove { path, old: identity(pieces.next())? },
            b"rmdir" => {
                let mode = std::str::from_utf8(pieces.next()?).ok()?.parse().ok()?;
                Step::RemoveDir { path, mode }
            }
            b"mkdir" => Step::MakeDir { path },
            b"create" => Step::Put { path, old: None, new: identity(pieces.next())? },
            b"replace" => {
                let old = identity(pieces.next())?;
                Step::Put { path, old: Some(old), new: identity(pieces.next())? }
            }
            _ => return None,
        };
        steps.push(step);
    }
}

/// Undoes what an apply that was killed had done.
pub(super) fn undo_earlier(checkout: &Checkout, work: &WorkDir) -> Result<(), ApplyError> {
    let path = work.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ApplyError::io("read", path)(error)),
    };
    match parse(&bytes) {
        Some(steps) => undo(&Ground::new(checkout, work)?, &steps),
        None => forget(work),
    }
}

/// Undoes `steps`, as many as were taken, and forgets them.
pub(super) fn undo(ground: &Ground<'_>, steps: &[Step]) -> Result<(), ApplyError> {
    let mut left = Vec::new();
    for (number, step) in steps.iter().enumerate().rev() {
        if !undo_step(ground, number, step)? {
            let (Step::Remove { path, .. }
            | Step::Put { path, .. }
            | Step::MakeDir { path }
            | Step::RemoveDir { path, .. }) = step;
            left.push(path.to_string_lossy().into_owned());
        }
    }
    forget(ground.work)?;
    if left.is_empty() {
        return Ok(());
    }
    let kept = format!("banger-apply.{}", now_rfc3339());
    let originals = ground.work.path.with_file_name(kept);
    fs::rename(&ground.work.path, &originals).map_err(ApplyError::io("rename", &ground.work.path))?;
    left.reverse();
    Err(ApplyError::Left { paths: left, originals })
}

/// Undoes one step if it was taken. `Ok(false)`: somebody changed the file since, and it is left as it is.
fn undo_step(ground: &Ground<'_>, number: usize, step: &Step) -> Result<bool, ApplyError> {
    let has =
        |found: Found, wanted: &Identity| matches!(found, Found::File(now) if now.inode == wanted.inode);
    match step {
        Step::Remove { path, old } => {
            let kept = kept(number);
            if !has(ground.aside(&kept)?, old) {
                return Ok(true);
            }
            put_back(ground, &kept, path)
        }
        Step::RemoveDir { path, mode } => match ground.make_dir(path, *mode) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(ApplyError::io("make", path)(error))
            }
            _ => Ok(ground.found(path)? == Found::Directory),
        },
        Step::MakeDir { path } => {
            // One that is not empty was not made by us, or somebody uses it by now.
            drop(ground.remove_dir(path));
            Ok(true)
        }
        Step::Put { path, old: None, new } => {
            let aside = staged(path);
            match ground.found(path)? {
                Found::File(now) if now == *new && ground.aside(&aside)? == Found::Nothing => {
                    ground.take(path, &aside).map_err(ApplyError::io("remove", path)).map(|()| true)
                }
                // Not taken; or taken, and removed by somebody.
                Found::Nothing => Ok(true),
                _ => Ok(has(ground.aside(&aside)?, new)),
            }
        }
        Step::Put { path, old: Some(old), new } => {
            let (kept, aside) = (kept(number), staged(path));
            let now = ground.found(path)?;
            if has(ground.aside(&kept)?, old) {
                if now == Found::File(*new) {
                    ground.take(path, &aside).map_err(ApplyError::io("remove", path))?;
                }
                return put_back(ground, &kept, path);
            }
            if !has(ground.aside(&aside)?, old) || has(now, old) {
                return Ok(true);
            }
            match now {
                Found::File(now) if now == *new => {
                    ground.exchange(&aside, path).map_err(ApplyError::io("put back", path))
                }
                _ => put_back(ground, &aside, path),
            }
        }
    }
}

/// Puts an original back where nothing is.
fn put_back(ground: &Ground<'_>, aside: &Path, path: &Path) -> Result<bool, ApplyError> {
    match ground.give(aside, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(ApplyError::io("put back", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written_or_not_at_all() {
        let identity = |inode| Identity { inode, size: 2, mtime: -3, mtime_ns: 4 };
        let odd = PathBuf::from(OsString::from_vec(b"a\n\xff b".to_vec()));
        let steps = vec![
            Step::Remove { path: odd.clone(), old: identity(1) },
            Step::RemoveDir { path: "d".into(), mode: 0o755 },
            Step::MakeDir { path: "e/f".into() },
            Step::Put { path: odd, old: None, new: identity(u64::MAX) },
            Step::Put { path: "end".into(), old: Some(identity(5)), new: identity(6) },
        ];
        let temp = tempfile::tempdir().unwrap();
        let lock = fs::File::open(temp.path()).unwrap();
        let work = WorkDir { path: temp.path().join("w"), _lock: lock };
        fs::create_dir(&work.path).unwrap();
        write(&work, &steps).unwrap();
        let bytes = fs::read(work.join(NAME)).unwrap();
        assert_eq!(parse(&bytes), Some(steps));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), None, "{cut}");
        }
    }
}
