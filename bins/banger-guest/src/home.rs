//! The work disk of an image that brings no content for it: filled from the root's own /root, once.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink,
};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use crate::error::{Context, Error};

/// Where the root is seen without what is mounted in it.
const UNCOVERED: &str = "/uncovered";

/// Fills the work disk, which is mounted on `root`/root, if nothing is in it. Every start lays files there, so that a disk which has
/// nothing has never been used.
pub fn fill(root: &str) -> Result<(), Error> {
    let home = format!("{root}/root");
    let what = || format!("cannot fill the work disk from the image's /root ({home})");
    if !is_empty(Path::new(&home)).context(what)? {
        return Ok(());
    }
    fs::create_dir_all(UNCOVERED).context(what)?;
    mount(Some(root), UNCOVERED, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(what)?;
    let copied = copy_directory(&Path::new(UNCOVERED).join("root"), Path::new(&home));
    umount2(UNCOVERED, MntFlags::MNT_DETACH).context(what)?;
    copied.context(what)
}

fn is_empty(home: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(home)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies what is in `from` into `to`, which is there, and its owner and permissions.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if entry.file_name() != "lost+found" {
                fs::DirBuilder::new().mode(0o700).create(&target)?;
                copy_directory(&source, &target)?;
            }
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            let metadata = fs::symlink_metadata(&source)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if !kind.is_fifo() && !kind.is_socket() && kind.is_file() {
            copy_file(&source, &target)?;
        }
    }
    // Last: writing into it changes its time.
    take_over(&fs::metadata(from)?, &File::open(to)?)
}

fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(target)?;
    io::copy(&mut from, &mut to)?;
    take_over(&from.metadata()?, &to)
}

/// Owner, permissions and time.
fn take_over(of: &fs::Metadata, file: &File) -> io::Result<()> {
    fchown(file, Some(of.uid()), Some(of.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(of.mode() & 0o7777))?;
    let time = TimeSpec::new(of.mtime(), of.mtime_nsec());
    Ok(futimens(file.as_fd(), &time, &time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_copied_with_its_modes_links_and_times() {
        let dir = std::env::temp_dir().join(format!("banger-guest-fill-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir_all(to.join("lost+found")).unwrap();
        fs::write(from.join("a/b/file"), "content").unwrap();
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        symlink("a/b", from.join("link")).unwrap();
        assert!(is_empty(&to).unwrap() && !is_empty(&from).unwrap());
        copy_directory(&from, &to).unwrap();
        assert!(!is_empty(&to).unwrap());
        assert_eq!(fs::read(to.join("link/file")).unwrap(), b"content");
        for name in ["a", "a/b/file", "link"] {
            let of = |base: &Path| fs::symlink_metadata(base.join(name)).unwrap();
            assert_eq!(of(&from).mode(), of(&to).mode(), "{name}");
        }
        let time = |base: &Path| fs::metadata(base.join("a/b")).unwrap().modified().unwrap();
        assert_eq!(time(&from), time(&to));
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(to.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
