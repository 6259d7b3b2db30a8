//! What a VM's root gets that its image does not have: the host's files as they come in the tar, the VM's name and resolvers.
//! Called when the image's root is this process' root, so that its links resolve inside it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};

use crate::error::{Context, Error};
use crate::halt;
use banger_protocol::guest::{AUTHORIZED_KEYS_PATH, DEFAULTS_PATH, ENVIRONMENT_PATH, GuestConfig};

/// Where the work disk is mounted, and the user's files go, relative to the root.
const HOME: &str = "root";

/// What login shells read last.
const PROFILE: &str = "/etc/profile.d/zz-banger-image.sh";
/// What they read of the variables that hold where nobody else says anything.
const DEFAULTS_PROFILE: &str = "/etc/profile.d/zz-banger-trust.sh";

/// Writes the VM's own files.
pub fn write_identity(config: &GuestConfig) -> Result<(), Error> {
    let name = &config.hostname;
    nix::unistd::sethostname(name).context(|| format!("cannot set the host name {name:?}"))?;
    write_if_different("/etc/hostname", &format!("{name}\n"))?;
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n");
    write_if_different("/etc/hosts", &hosts)?;
    let resolvers: String = config.dns.iter().map(|dns| format!("nameserver {dns}\n")).collect();
    write_if_different("/etc/resolv.conf", &resolvers)
}

/// Leaves the variables that commands get for whatever starts one, and for login shells: /etc/profile sets PATH anew for these, as
/// Debian's does, and reads the files of a directory then.
pub fn write_environment(env: &BTreeMap<String, String>) -> Result<(), Error> {
    let variables: String = env.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
    leave(ENVIRONMENT_PATH, &variables)?;
    leave(PROFILE, &exports(env))
}

/// Leaves the variables that commands get where nobody else sets them, in the same two ways.
pub fn write_defaults(defaults: &BTreeMap<&str, String>) -> Result<(), Error> {
    let variables: String = defaults.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
    leave(DEFAULTS_PATH, &variables)?;
    // The values are paths of this program's own.
    let exports = defaults.iter().map(|(name, value)| format!("export {name}=\"${{{name}-{value}}}\"\n"));
    leave(DEFAULTS_PROFILE, &exports.collect::<String>())
}

/// Writes a file for programs of a directory that is there; without content there is none, and what an earlier start left goes.
pub fn leave(path: &str, content: &str) -> Result<(), Error> {
    if content.is_empty() {
        return remove(Path::new(path)).context(|| format!("cannot remove {path}"));
    }
    if !Path::new(path).parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    write_if_different(path, content)
}

/// A shell script that sets the variables.
fn exports(env: &BTreeMap<String, String>) -> String {
    let quoted = |value: &str| value.replace('\'', r"'\''");
    env.iter().map(|(name, value)| format!("export {name}='{}'\n", quoted(value))).collect()
}

/// Gives the VM a machine-id where systemd, which makes its own, does not run.
pub fn write_machine_id() -> Result<(), Error> {
    let path = "/etc/machine-id";
    let present = fs::read_to_string(path).unwrap_or_default();
    if present.trim().len() == 32 {
        return Ok(());
    }
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.context(|| "cannot read random bytes".to_owned())?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_if_different(path, &format!("{id}\n"))
}

/// Root's password where the lean init runs sshd without PAM: locked with `!` sshd would refuse root's key as well; `*` is as
/// much of a password, none.
pub fn unlock_root_for_keys() -> Result<(), Error> {
    let path = "/etc/shadow";
    let Ok(shadow) = fs::read_to_string(path) else { return Ok(()) };
    let changed = unlocked(&shadow);
    if changed == shadow {
        return Ok(());
    }
    // Written in place: it keeps its owner and mode.
    fs::write(path, changed).context(|| format!("cannot write {path}"))
}

fn unlocked(shadow: &str) -> String {
    let unlock = |line: &str| match line.strip_prefix("root:!") {
        Some(rest) => format!("root:*{}\n", rest.find(':').map_or("", |colon| &rest[colon..])),
        None => format!("{line}\n"),
    };
    shadow.lines().map(unlock).collect()
}

/// Replaces a file, and a link in its place, unless it says this already: an overlay copies what is written.
pub fn write_if_different(path: &str, content: &str) -> Result<(), Error> {
    let what = || format!("cannot write {path}");
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file && fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    remove(Path::new(path)).context(what)?;
    let mut file = create(Path::new(path), 0o644).context(what)?;
    file.write_all(content.as_bytes()).context(what)
}

/// Lays the tar over the root: directories, files and links, with their modes and owners. Nothing else may be in it.
pub fn lay(tar: &[u8]) -> Result<(), Error> {
    lay_below(Path::new("/"), tar, &|error| halt::say(&error.to_string()))
}

/// The user's files go below the work disk, which the guest has written: what stands in their way there is said, and the VM boots.
fn lay_below(root: &Path, tar: &[u8], left_out: &dyn Fn(&Error)) -> Result<(), Error> {
    let what = || "cannot read the VM's files".to_owned();
    let mut archive = Archive::new(tar);
    for entry in archive.entries().context(what)? {
        let mut entry = entry.context(what)?;
        let path = target(&entry.path().context(what)?)?;
        // The root itself.
        if path.as_os_str().is_empty() {
            continue;
        }
        let laid = lay_entry(&mut entry, root, &path).context(|| format!("cannot lay /{}", path.display()));
        match laid {
            Err(error) if path.starts_with(HOME) && path != Path::new(AUTHORIZED_KEYS_PATH) => {
                left_out(&error)
            }
            result => result?,
        }
    }
    Ok(())
}

/// Whatever has the entry's name is replaced at once or not at all; a directory stays, and what is in it.
fn lay_entry(entry: &mut Entry<'_, impl Read>, root: &Path, path: &Path) -> Result<(), Error> {
    let header = entry.header();
    let (mode, kind) = (header.mode().context(|| "mode".into())? & 0o7777, header.entry_type());
    let (uid, gid) = (header.uid().context(|| "uid".into())?, header.gid().context(|| "gid".into())?);
    let (uid, gid) = (u32::try_from(uid).ok(), u32::try_from(gid).ok());
    let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
    let parent = open_parent(root, parent)?;
    match kind {
        EntryType::Directory => {
            let directory = File::from(open_directory(&parent, name, 0o755, true)?);
            std::os::unix::fs::fchown(&directory, uid, gid).context(|| "owner".into())?;
            directory.set_permissions(fs::Permissions::from_mode(mode)).context(|| "mode".into())
        }
        EntryType::Regular => replace(&parent, name, |new| {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(&parent, new, flags, Mode::from_bits_truncate(0o600))?);
            io::copy(entry, &mut file)?;
            std::os::unix::fs::fchown(&file, uid, gid)?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        }),
        EntryType::Symlink => {
            let link = entry.link_name().context(|| "link".into())?;
            let link = link.ok_or_else(|| Error::new("the link leads nowhere"))?;
            replace(&parent, name, |new| {
                symlinkat(link.as_ref(), &parent, new)?;
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                Ok(fchownat(&parent, new, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
            })
        }
        other => Err(Error::new(format!("entries of type {other:?} are not laid"))),
    }
}

/// Makes something beside `name` and gives it the name.
fn replace(parent: &OwnedFd, name: &OsStr, make: impl FnOnce(&OsStr) -> io::Result<()>) -> Result<(), Error> {
    let mut new = OsString::from(".banger-");
    // A name may be as long as the filesystem allows; this one is cut to fit.
    new.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
    unlink(parent, &new).context(|| "what an earlier boot left stays".into())?;
    let made = make(&new).and_then(|()| Ok(renameat(parent, new.as_os_str(), parent, name)?));
    if made.is_err() {
        // The first error is the one to tell.
        drop(unlink(parent, &new));
    }
    made.context(|| "what is there stays".into())
}

/// Opens the directory `path` below `root`, made where it is not there. Below the work disk no symbolic link is followed: the guest
/// may have put it there for the host's files to end up elsewhere. The image's own directories may be links.
fn open_parent(root: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let Ok(below) = path.strip_prefix(HOME) else {
        let path = root.join(path);
        DirBuilder::new().recursive(true).mode(0o755).create(&path).context(|| "parent".into())?;
        return open(&path, flags, Mode::empty()).context(|| "parent".into());
    };
    let base = open(root, flags, Mode::empty()).context(|| "root".into())?;
    let home = open_directory(&base, OsStr::new(HOME), 0o700, false)?;
    below.iter().try_fold(home, |directory, name| open_directory(&directory, name, 0o700, false))
}

/// Opens a directory that is none through a link, made where it is not there; with `clear` what else has its name is removed.
fn open_directory(parent: &OwnedFd, name: &OsStr, mode: u32, clear: bool) -> Result<OwnedFd, Error> {
    let what = || format!("{name:?} is not a directory");
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => return Ok(directory),
        Err(Errno::ENOENT) => {}
        Err(Errno::ENOTDIR | Errno::ELOOP) if clear => unlink(parent, name).context(what)?,
        Err(errno) => return Err(errno).context(what),
    }
    mkdirat(parent, name, Mode::from_bits_truncate(mode)).context(what)?;
    openat(parent, name, flags, Mode::empty()).context(what)
}

fn unlink(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// An entry's place, relative to the root.
fn target(path: &Path) -> Result<PathBuf, Error> {
    let mut target = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            _ => return Err(Error::new(format!("the VM's files hold the path {path:?}"))),
        }
    }
    Ok(target)
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Removes a file or a link. A directory stays, and whoever needs its place fails.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(u64::from(nix::unistd::getuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getgid().as_raw()));
        header
    }

    /// A tar whose one entry has any path at all: the crate's own writer refuses the bad ones.
    fn hostile(path: &[u8], kind: EntryType) -> Vec<u8> {
        let mut header = header(kind, 0o644, 0);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.set_cksum();
        [header.as_bytes().as_slice(), &[0; 1024]].concat()
    }

    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("banger-guest-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        root
    }

    fn lay_strictly(root: &Path, tar: &[u8]) -> Result<(), Error> {
        lay_below(root, tar, &|error| panic!("{error}"))
    }

    #[test]
    fn files_of_the_user_follow_no_link_of_the_guests_and_stop_no_boot() {
        let root = root("home");
        fs::create_dir_all(root.join("root/there/directory")).unwrap();
        fs::create_dir(root.join("elsewhere")).unwrap();
        symlink("../elsewhere", root.join("root/link")).unwrap();
        symlink("../elsewhere/new", root.join("root/dangling")).unwrap();
        fs::write(root.join("root/there/kept"), "kept").unwrap();
        fs::write(root.join("root/file"), "old").unwrap();
        fs::write(root.join("root/.banger-file"), "of an earlier boot").unwrap();
        let old = File::open(root.join("root/file")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = |path: &str, mode: u32| {
            tar.append_data(&mut header(EntryType::Regular, mode, 3), path, &b"new"[..]).unwrap();
        };
        file("root/link/secret", 0o600);
        file("root/dangling", 0o640);
        file("root/there/directory", 0o600);
        file("root/file/below", 0o600);
        file("root/file", 0o644);
        file("root/made/for/it", 0o600);
        let long = format!("root/{}", "x".repeat(255));
        file(&long, 0o600);
        tar.append_data(&mut header(EntryType::Directory, 0o750, 0), "root/there/", &b""[..]).unwrap();
        let said = RefCell::new(Vec::new());
        let tar = tar.into_inner().unwrap();
        lay_below(&root, &tar, &|error| said.borrow_mut().push(error.to_string())).unwrap();

        assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
        let said = said.into_inner();
        let about = |path: &str| said.iter().any(|line| line.contains(&format!("cannot lay /{path}: ")));
        assert!(
            about("root/link/secret") && about("root/there/directory") && about("root/file/below"),
            "{said:?}"
        );
        assert_eq!(said.len(), 3, "{said:?}");
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode();
        assert_eq!(mode("root/dangling"), 0o100_640, "the link was replaced, not followed");
        assert_eq!((mode("root/there"), mode("root/made")), (0o040_750, 0o040_700));
        assert_eq!(fs::read(root.join("root/there/kept")).unwrap(), b"kept");
        assert_eq!(fs::read(root.join(&long)).unwrap(), b"new");
        assert_eq!(fs::read(root.join("root/file")).unwrap(), b"new");
        // Replaced at once: who had the old file open still has the old file.
        assert_eq!(io::read_to_string(old).unwrap(), "old");
        assert!(!root.join("root/.banger-file").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_tar_is_laid_with_its_modes_over_what_is_there() {
        let root = root("lay");
        fs::create_dir(root.join("etc")).unwrap();
        symlink("/nonexistent/elsewhere", root.join("etc/key")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header(EntryType::Regular, 0o600, 3), "etc/key", &b"key"[..]).unwrap();
        tar.append_data(&mut header(EntryType::Directory, 0o700, 0), "root/.ssh", &b""[..]).unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "etc/link", "key").unwrap();
        lay_strictly(&root, &tar.into_inner().unwrap()).unwrap();
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode();
        assert_eq!(mode("etc/key"), 0o100_600);
        assert_eq!(mode("root/.ssh"), 0o040_700);
        assert_eq!(fs::read(root.join("etc/link")).unwrap(), b"key");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_leaves_the_root_or_is_no_file_is_refused() {
        let root = root("hostile");
        for path in [&b"etc/../../x"[..], b"../x", b"/etc/x"] {
            assert!(lay_strictly(&root, &hostile(path, EntryType::Regular)).is_err());
        }
        for kind in [EntryType::Char, EntryType::Fifo, EntryType::Link] {
            assert!(lay_strictly(&root, &hostile(b"dev", kind)).is_err());
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn variables_are_quoted_for_a_shell() {
        let env =
            BTreeMap::from([("A".to_owned(), "it's $HOME\n`x`".to_owned()), ("B".into(), String::new())]);
        assert_eq!(exports(&env), "export A='it'\\''s $HOME\n`x`'\nexport B=''\n");
    }

    #[test]
    fn only_a_locked_root_is_unlocked() {
        assert_eq!(unlocked("root:!:1:0:::::\nx:!:1::\n"), "root:*:1:0:::::\nx:!:1::\n");
        assert_eq!(unlocked("root:!$6$hash:1:\n"), "root:*:1:\n");
        assert_eq!(unlocked("root:*:1:\n"), "root:*:1:\n");
    }
}
