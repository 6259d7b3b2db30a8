//! Files of the host's that a build is given: the keys of an archive, a program.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::build_error::BuildError;
use crate::sys::host_ca::{self, Authority};
use banger_host::fs::reflink;

/// In an unfinished image: the mise that a recipe gets.
const MISE: &str = "mise";
/// In an unfinished image: the authorities that what runs in the system trusts.
const HOST_CA: &str = "host-ca";
/// In the directory where mmdebstrap works: the archive's keys.
const KEYRING: &str = "keyring";

/// The largest file of keys, bytes.
const MAX_KEYRING_BYTES: u64 = 4 << 20;
/// The largest program, bytes.
const MAX_PROGRAM_BYTES: u64 = 1 << 30;

/// How an ELF begins.
const ELF: &[u8; 4] = b"\x7fELF";

/// A mise of the host's.
#[derive(Debug)]
pub struct Mise {
    /// The program.
    pub path: PathBuf,
    /// Whether somebody named it; else another one will do where this does not run in the image.
    pub needed: bool,
}

/// Puts an archive's keys where apt can read them, whoever may read `keyring` itself; gives the path. apt knows armoured keys by the
/// file's name only.
pub(super) fn copy_keyring(keyring: &Path, scratch: &Path) -> Result<PathBuf, BuildError> {
    let unusable = |source| BuildError::Given { what: "an archive's keys", path: keyring.to_owned(), source };
    let mut keys = Vec::new();
    let file = open_file(keyring, MAX_KEYRING_BYTES).map_err(unusable)?;
    file.take(MAX_KEYRING_BYTES).read_to_end(&mut keys).map_err(unusable)?;
    let extension = if keys.starts_with(b"-----BEGIN PGP") { "asc" } else { "gpg" };
    let path = scratch.join(KEYRING).with_extension(extension);
    let written = fs::write(&path, keys).and_then(|()| open_to_all(&path));
    written.map_err(|source| BuildError::File { path: path.clone(), source })?;
    Ok(path)
}

/// Puts a mise into `tmp`, an unfinished image, where the hook finds it. One that nobody named and that is not a program, such as a wrapper
/// of a package manager's, is left out.
pub(super) fn copy_mise(mise: &Mise, tmp: &Path) -> Result<(), BuildError> {
    let unusable = |source| BuildError::Given { what: "mise", path: mise.path.clone(), source };
    let program = match open_program(&mise.path) {
        Err(_) if !mise.needed => return Ok(()),
        opened => opened.map_err(unusable)?,
    };
    let path = tmp.join(MISE);
    let copy = || -> io::Result<()> {
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if !reflink::reflink(&program, &target)? {
            reflink::copy_sparse(&program, &target)?;
        }
        open_to_all(&path)
    };
    copy().map_err(|source| BuildError::File { path: path.clone(), source })
}

/// Puts the host's authorities into `tmp`, where the hook finds them: a file for each, as update-ca-certificates(8) wants them.
pub(super) fn copy_authorities(authorities: &[Authority], tmp: &Path) -> Result<(), BuildError> {
    if authorities.is_empty() {
        return Ok(());
    }
    let directory = tmp.join(HOST_CA);
    let copy = || -> io::Result<()> {
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        authorities.iter().try_for_each(|authority| {
            let path = directory.join(format!("banger-{:.16}.crt", authority.sha256));
            fs::write(&path, host_ca::pem(&authority.der)).and_then(|()| open_to_all(&path))
        })
    };
    copy().map_err(|source| BuildError::File { path: directory.clone(), source })
}

/// Removes what [`copy_mise`] and [`copy_authorities`] made.
pub(super) fn remove(tmp: &Path) -> Result<(), BuildError> {
    let remove = |path: PathBuf, removed: io::Result<()>| match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BuildError::File { path, source }),
        _ => Ok(()),
    };
    let (mise, authorities) = (tmp.join(MISE), tmp.join(HOST_CA));
    let removed = fs::remove_file(&mise);
    remove(mise, removed)?;
    let removed = fs::remove_dir_all(&authorities);
    remove(authorities, removed)
}

/// A plain file of at most `limit` bytes; a FIFO is no reason to wait.
fn open_file(path: &Path, limit: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > limit {
        let text = format!("it is not a file of at most {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

fn open_program(path: &Path) -> io::Result<File> {
    let mut file = open_file(path, MAX_PROGRAM_BYTES)?;
    let mut magic = [0; ELF.len()];
    let read = file.read_exact(&mut magic);
    if read.is_err() || magic != *ELF {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a program for Linux (ELF)"));
    }
    file.rewind()?;
    Ok(file)
}

/// The users of mmdebstrap's namespace are others.
fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o644))
}
