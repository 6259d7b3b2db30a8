//! What a program that runs as root on behalf of somebody else may not have from them: the environment, and with it the places where
//! other programs are looked for. sudo(8) cleans it only as far as its configuration says so.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::privilege::NOBODY;

/// Where programs are looked for, and nowhere else. NixOS has none of these: its package names its own directories when it is built.
const PROGRAMS: &str = match option_env!("BANGER_ROOT_PATH") {
    Some(path) => path,
    None => "/usr/sbin:/usr/bin:/sbin:/bin",
};

impl Untrusted {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        format!("as root: chown root {0:?} && chmod go-w {0:?}", self.path)
    }
}

static SEALED: AtomicBool = AtomicBool::new(false);

/// A program that others than root could have put there.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{path:?} can be changed by others than root")]
pub struct Untrusted {
    /// The file or directory.
    pub path: PathBuf,
}

/// Forgets the environment but for the variables `kept`, and has programs come from root's directories alone from now on. Call it
/// before threads are started.
///
/// # Errors
/// There is no memory.
pub fn seal(kept: &[&str]) -> io::Result<()> {
    let text = |text: &str| CString::new(text).expect("a name or a path has no NUL");
    // SAFETY: no other thread reads or changes the environment yet, and values are copied before they are cleared.
    let values = kept.iter().map(|name| text(name)).filter_map(|name| unsafe {
        let value = libc::getenv(name.as_ptr());
        let value = (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())?;
        Some((name, value))
    });
    let mut values: Vec<(CString, CString)> = values.collect();
    values.push((text("PATH"), text(PROGRAMS)));
    // SAFETY: as above.
    let done = unsafe {
        libc::clearenv() == 0
            && values.iter().all(|(name, value)| libc::setenv(name.as_ptr(), value.as_ptr(), 1) == 0)
    };
    SEALED.store(true, Ordering::Relaxed);
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process has been sealed.
pub fn is_sealed() -> bool {
    SEALED.load(Ordering::Relaxed)
}

/// The file of the program `name`, without any symbolic link; `None` where it is not installed.
///
/// # Errors
/// Others than root could change what would be run.
pub fn program(name: &OsStr) -> Result<Option<PathBuf>, Untrusted> {
    program_in(PROGRAMS, name)
}

fn program_in(directories: &str, name: &OsStr) -> Result<Option<PathBuf>, Untrusted> {
    let Ok(found) = which::which_in(name, Some(directories), "/") else { return Ok(None) };
    let gone = |_| Untrusted { path: found.clone() };
    // Who can write to the directory chooses what a link there leads to.
    let directory = found.parent().unwrap_or(Path::new("/")).canonicalize().map_err(gone)?;
    let file = found.canonicalize().map_err(gone)?;
    [&directory, &file].into_iter().try_for_each(|path| require_roots(path))?;
    Ok(Some(file))
}

/// # Errors
/// Others than root can change the file or directory `path`, or put another in its place. Above it no link is followed.
pub fn require_roots(path: &Path) -> Result<(), Untrusted> {
    for part in path.ancestors() {
        if !fs::symlink_metadata(part).is_ok_and(|metadata| is_roots(&metadata)) {
            return Err(Untrusted { path: part.to_owned() });
        }
    }
    Ok(())
}

fn is_roots(metadata: &Metadata) -> bool {
    let (mode, uid) = (metadata.mode(), metadata.uid());
    // What is root's in a directory with the sticky bit, such as /nix/store, nobody else renames or removes.
    let sticky = metadata.is_dir() && mode & libc::S_ISVTX != 0;
    (uid == 0 || uid == NOBODY && !is_mapped(uid)) && (mode & 0o022 == 0 || sticky)
}

/// Whether the user exists in this user namespace. One that does not stands for all who are outside of it, the real root among them; and
/// the root of such a namespace is nobody else than who made it.
fn is_mapped(uid: u32) -> bool {
    let covers = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return true;
        };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    };
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| map.lines().any(covers))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_roots_or_none() {
        assert_eq!(program(OsStr::new("no-such-program-here")), Ok(None));
        let sh = program(OsStr::new("sh")).unwrap().expect("there is a shell");
        assert_eq!(sh.canonicalize().unwrap(), sh);
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Below /tmp, which has the sticky bit.
        let dir = tempfile::tempdir().unwrap();
        let (dir, list) = (dir.path(), dir.path().to_str().unwrap());
        let find = |name: &str| program_in(list, OsStr::new(name));
        for (name, mode) in [("good", 0o755), ("group", 0o775), ("all", 0o757)] {
            put(&dir.join(name), mode);
        }
        assert_eq!(find("good"), Ok(Some(dir.join("good").canonicalize().unwrap())));
        let refused = |name: &str| Err(Untrusted { path: dir.canonicalize().unwrap().join(name) });
        assert_eq!((find("group"), find("all")), (refused("group"), refused("all")));
        put(&dir.join("theirs"), 0o755);
        std::os::unix::fs::chown(dir.join("theirs"), Some(1000), None).unwrap();
        assert_eq!(find("theirs"), refused("theirs"));
        symlink("theirs", dir.join("link")).unwrap();
        assert_eq!(find("link"), refused("theirs"));
        // A directory of somebody's, reached by whatever way.
        let open = dir.join("open");
        fs::create_dir(&open).unwrap();
        put(&open.join("nft"), 0o755);
        symlink("open/nft", dir.join("way")).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find("way"), refused("open"));
        assert_eq!(program_in(open.to_str().unwrap(), OsStr::new("nft")), refused("open"));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(find("way"), Ok(Some(open.join("nft").canonicalize().unwrap())));
    }
}
