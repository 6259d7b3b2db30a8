//! The kernel's own filesystems, and the move from the initramfs to the image's root.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::error::{Context, Error};
use banger_protocol::guest::{HELPER_PATH, INIT_PATH};

/// Where the image's root is put together.
pub const NEW_ROOT: &str = "/newroot";

/// Mounts, with the place made first.
pub fn mount_at(
    kind: &str,
    source: &str,
    target: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Error> {
    let what = || format!("cannot mount {kind} ({source}) on {target}");
    fs::create_dir_all(target).context(what)?;
    mount(Some(source), target, Some(kind), flags, options).context(what)
}

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// What this program needs to see anything at all.
pub fn kernel_filesystems() -> Result<(), Error> {
    mount_at("proc", "proc", "/proc", PLAIN, None)?;
    mount_at("sysfs", "sysfs", "/sys", PLAIN, None)?;
    mount_at("devtmpfs", "devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755"))?;
    mount_at("tmpfs", "tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
}

/// Leaves this program where commands find it. /run is a tmpfs by then, and stays one under either init.
pub fn leave_helper() -> Result<(), Error> {
    let what = || format!("cannot write {HELPER_PATH}");
    let path = Path::new(HELPER_PATH);
    let directory = path.parent().expect("it is below /run");
    // The layers of an overlay root may be mounted below it already.
    DirBuilder::new().recursive(true).create(directory).context(what)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).context(what)?;
    fs::copy(format!("/{INIT_PATH}"), path).context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).context(what)
}

/// Makes the new root the root of this process and of all that follow, as switch_root(8) does: an initramfs cannot be pivoted
/// away from. What was unpacked there is removed, since it would stay in memory.
pub fn switch_root() -> Result<(), Error> {
    let moved = MsFlags::MS_MOVE;
    for name in ["proc", "sys", "dev", "run"] {
        let target = format!("{NEW_ROOT}/{name}");
        let what = || format!("cannot move /{name} into the image's root");
        // In the image it may be a link to anywhere, and links are resolved against the initramfs here.
        let is_directory = fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir());
        if !is_directory {
            fs::create_dir(&target).context(what)?;
        }
        mount(Some(format!("/{name}").as_str()), target.as_str(), None::<&str>, moved, None::<&str>)
            .context(what)?;
    }
    drop(fs::remove_dir_all("/banger"));
    let what = || "cannot change to the image's root".to_owned();
    std::env::set_current_dir(NEW_ROOT).context(what)?;
    mount(Some("."), "/", None::<&str>, moved, None::<&str>).context(what)?;
    nix::unistd::chroot(".").context(what)?;
    std::env::set_current_dir("/").context(what)
}

/// What systemd would mount, for the lean init. Any of it may be lacking in an odd kernel, and most programs run without.
pub fn userland_filesystems() {
    let root_only = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let shared = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let results = [
        mount_at("devpts", "devpts", "/dev/pts", root_only, Some("gid=5,mode=0620,ptmxmode=0666")),
        mount_at("tmpfs", "tmpfs", "/dev/shm", shared, Some("mode=1777")),
        mount_at("cgroup2", "cgroup2", "/sys/fs/cgroup", PLAIN, Some("nsdelegate")),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        crate::halt::say(&error.to_string());
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("fd/0", "stdin"),
        ("fd/1", "stdout"),
        ("fd/2", "stderr"),
        ("/proc/kcore", "core"),
    ];
    for (target, name) in links {
        drop(symlink(target, Path::new("/dev").join(name)));
    }
    for (directory, mode) in [("/run/lock", 0o1777), ("/run/sshd", 0o755), ("/tmp", 0o1777)] {
        if fs::create_dir(directory).is_ok() {
            drop(fs::set_permissions(directory, fs::Permissions::from_mode(mode)));
        }
    }
}
