//! What comes, laid down beside the workspace.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, Entry, EntryType};

use crate::error::{Context, Error};
use crate::sys;
use banger_protocol::resync::{INDEX, PLACE, PLAN, Plan, TREE};

/// How long a plan may be, bytes.
const MAX_PLAN: u64 = 1 << 30;
const CHUNK: usize = 128 << 10;

/// Receives all of it and gives the plan.
pub fn receive(stream: impl Read) -> Result<Plan, Error> {
    let what = || "what the host sent is not whole".to_owned();
    fs::create_dir(PLACE).context(|| format!("cannot make {PLACE}"))?;
    let mut archive = Archive::new(BufReader::with_capacity(CHUNK, stream));
    let (mut plan, mut received) = (None, Vec::new());
    for entry in archive.entries().context(what)? {
        let mut entry = entry.context(what)?;
        let path = entry.path().context(what)?.into_owned();
        if path == Path::new(PLAN) {
            let mut bytes = Vec::new();
            (&mut entry).take(MAX_PLAN).read_to_end(&mut bytes).context(what)?;
            plan = Some(
                Plan::decode(&bytes).ok_or_else(|| Error::new("the host's plan is of another version"))?,
            );
        } else {
            lay(&mut entry, &path, &mut received).context(|| format!("cannot receive {}", path.display()))?;
        }
    }
    let plan = plan.ok_or_else(|| Error::new(what()))?;
    Ok(Plan { received, ..plan })
}

/// Where an entry goes.
fn target(path: &Path) -> io::Result<PathBuf> {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let named = || io::Error::new(io::ErrorKind::InvalidInput, "it would not be below the others");
    inside.then(|| Path::new(PLACE).join(path)).ok_or_else(named)
}

fn lay(entry: &mut Entry<'_, impl Read>, path: &Path, received: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut place = target(path)?;
    let header = entry.header();
    let (kind, mode) = (header.entry_type(), header.mode()? & 0o777);
    let time = TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(i64::MAX), 0);
    if kind == EntryType::Directory {
        return fs::create_dir_all(place);
    }
    if let Ok(path) = path.strip_prefix(TREE) {
        place = super::place(&received.len().to_string());
        received.push(path.as_os_str().as_bytes().to_vec());
    }
    match kind {
        EntryType::Regular => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
            copy(entry, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            futimens(&file, &time, &time)?;
            // On its way to the disk while the next ones come.
            sys::start_writing(&file);
            if path == Path::new(INDEX) {
                fs::hard_link(&place, place.with_file_name(banger_protocol::resync::GIVEN_INDEX))?;
            }
            Ok(())
        }
        EntryType::Symlink => {
            let named = || io::Error::new(io::ErrorKind::InvalidInput, "the link leads nowhere");
            symlink(entry.link_name()?.ok_or_else(named)?, &place)?;
            Ok(utimensat(AT_FDCWD, &place, &time, &time, UtimensatFlags::NoFollowSymlink)?)
        }
        other => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is of type {other:?}"))),
    }
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
