//! What a VM's root gets that its image does not have: the host's files as they come in the tar, the VM's name and resolvers.
//! Called when the image's root is this process' root, so that its links resolve inside it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use crate::error::{Context, Error};
use crate::protocol::GuestConfig;

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
fn write_if_different(path: &str, content: &str) -> Result<(), Error> {
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
    lay_below(Path::new("/"), tar)
}

fn lay_below(root: &Path, tar: &[u8]) -> Result<(), Error> {
    let what = || "cannot read the VM's files".to_owned();
    let mut archive = Archive::new(tar);
    for entry in archive.entries().context(what)? {
        let mut entry = entry.context(what)?;
        let path = target(root, &entry.path().context(what)?)?;
        // The root itself.
        if path == root {
            continue;
        }
        lay_entry(&mut entry, &path).context(|| format!("cannot lay {}", path.display()))?;
    }
    Ok(())
}

fn lay_entry(entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<(), Error> {
    let header = entry.header();
    let (mode, kind) = (header.mode().context(|| "mode".into())? & 0o7777, header.entry_type());
    let (uid, gid) = (header.uid().context(|| "uid".into())?, header.gid().context(|| "gid".into())?);
    let owner = (u32::try_from(uid).ok(), u32::try_from(gid).ok());
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).context(|| "parent".into())?;
    }
    match kind {
        EntryType::Directory => {
            if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                remove(path).and_then(|()| fs::create_dir(path)).context(|| "directory".into())?;
            }
            chown(path, owner.0, owner.1).context(|| "owner".into())?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(|| "mode".into())
        }
        EntryType::Regular => {
            remove(path).context(|| "what is there stays".into())?;
            let mut file = create(path, 0o600).context(|| "file".into())?;
            io::copy(entry, &mut file).context(|| "content".into())?;
            std::os::unix::fs::fchown(&file, owner.0, owner.1).context(|| "owner".into())?;
            file.set_permissions(fs::Permissions::from_mode(mode)).context(|| "mode".into())
        }
        EntryType::Symlink => {
            let link = entry.link_name().context(|| "link".into())?;
            let link = link.ok_or_else(|| Error::new("the link leads nowhere"))?;
            remove(path).and_then(|()| symlink(&link, path)).context(|| "link".into())?;
            lchown(path, owner.0, owner.1).context(|| "owner".into())
        }
        other => Err(Error::new(format!("entries of type {other:?} are not laid"))),
    }
}

/// An entry's place in the root.
fn target(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let mut target = root.to_owned();
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

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

    #[test]
    fn the_tar_is_laid_with_its_modes_over_what_is_there() {
        let root = root("lay");
        fs::create_dir(root.join("etc")).unwrap();
        symlink("/nonexistent/elsewhere", root.join("etc/key")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header(EntryType::Regular, 0o600, 3), "etc/key", &b"key"[..]).unwrap();
        tar.append_data(&mut header(EntryType::Directory, 0o700, 0), "root/.ssh", &b""[..]).unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "etc/link", "key").unwrap();
        lay_below(&root, &tar.into_inner().unwrap()).unwrap();
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
            assert!(lay_below(&root, &hostile(path, EntryType::Regular)).is_err());
        }
        for kind in [EntryType::Char, EntryType::Fifo, EntryType::Link] {
            assert!(lay_below(&root, &hostile(b"dev", kind)).is_err());
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_a_locked_root_is_unlocked() {
        assert_eq!(unlocked("root:!:1:0:::::\nx:!:1::\n"), "root:*:1:0:::::\nx:!:1::\n");
        assert_eq!(unlocked("root:!$6$hash:1:\n"), "root:*:1:\n");
        assert_eq!(unlocked("root:*:1:\n"), "root:*:1:\n");
    }
}
