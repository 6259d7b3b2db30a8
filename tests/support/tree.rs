//! Trees of files: one with every kind of file, and what stat, readlink and getxattr say of any.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use banger_host::digest::sha256;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, chownat, lgetxattr, llistxattr,
    lsetxattr, mknodat, utimensat,
};
use rustix::process::{Gid, Uid};

use super::{command, run};

/// What is known of each file, by its path.
pub type Scan = BTreeMap<Vec<u8>, String>;

/// Everything below `root`.
pub fn scan(root: &Path) -> Scan {
    let mut scan = Scan::new();
    // Hard links: who has the inode, by the first of its paths.
    let mut inodes: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            // In an order that is always the same.
            ahead.sort_by(|a, b| b.cmp(a));
        }
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {:#x}", meta.rdev())
        } else if meta.is_file() {
            format!("{} bytes {}", meta.len(), sha256(&fs::read(&path).unwrap()))
        } else {
            String::new()
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        scan.insert(
            name.clone(),
            format!(
                "mode={:o} owner={}:{} time={} nanos={} links={links} same={} xattrs={} content={content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                String::from_utf8_lossy(first).replace(' ', "_"),
                xattrs(&path),
            ),
        );
    }
    scan
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<String> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            format!("{}:{}", String::from_utf8_lossy(name), banger_host::digest::hex(&value[..length]))
        })
        .collect();
    found.sort();
    found.join(",")
}

/// Takes away what a format cannot keep.
pub fn forget(scan: &mut Scan, fields: &[&str]) {
    for text in scan.values_mut() {
        let words =
            text.split(' ').filter(|word| !fields.iter().any(|field| word.starts_with(&format!("{field}="))));
        *text = words.collect::<Vec<_>>().join(" ");
    }
}

/// Makes the directory `root` with every kind of file in it. Needs root.
pub fn make_every_kind(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let at = |name: &str| root.join(name);
    let file = |path: &Path, content: &[u8], mode: u32| {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir_all(at("dir/sub/empty")).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    file(&at("dir/file"), &content, 0o644);
    file(&at("empty"), b"", 0o000);
    file(&at("setuid"), b"x", 0o6755);
    for name in ["dir/link", "dir/sub/link"] {
        fs::hard_link(at("dir/file"), at(name)).unwrap();
    }
    symlink("dir/file", at("symlink")).unwrap();
    symlink("t".repeat(59), at("symlink59")).unwrap();
    symlink("t".repeat(60), at("symlink60")).unwrap();
    symlink("../".repeat(1000) + "nowhere", at("symlink3000")).unwrap();
    fs::hard_link(at("symlink"), at("symlink again")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not \xff\xfe utf-8")), "bytes").unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    let mut deep = at("deep");
    for i in 0..12 {
        deep.push(format!("{i}-{}", "d".repeat(200)));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "reached").unwrap();
    let node = |name: &str, kind, major, minor| {
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), rustix::fs::makedev(major, minor)).unwrap();
    };
    node("null", FileType::CharacterDevice, 1, 3);
    node("disk", FileType::BlockDevice, 259, 70_000);
    node("fifo", FileType::Fifo, 0, 0);
    sparse(&at("sparse"), 24 << 20, &[0, 5 << 20, (17 << 20) + 4096, (24 << 20) - 4096]);
    sparse(&at("hole"), 5_000_000, &[]);
    sparse(&at("pieces"), 4 << 20, &(0..30).map(|i| i * 131_072).collect::<Vec<_>>());
    let owner = |path: &Path, uid, gid| {
        chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
    };
    owner(&at("dir/sub"), 1000, 1001);
    owner(&at("empty"), 70_000, 4_000_000_000);
    owner(&at("symlink60"), 7, 8);
    attributes(root);
    let times = [
        ("dir/file", 1, 400_000_001),
        ("setuid", -86_400, 0),
        ("null", 5_000_000_000, 1),
        ("symlink", 3, 4),
        ("dir", 77, 0),
    ];
    for (name, seconds, nanos) in times {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn attributes(root: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        lsetxattr(root.join(name), key, value, XattrFlags::empty())
            .unwrap_or_else(|e| panic!("{name} {key}: {e}"));
    };
    // cap_net_raw=ep, as setcap(8) writes it.
    set("setuid", "security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set("dir/file", "user.small", b"value");
    set("dir/file", "user.empty", b"");
    set("dir/file", "user.binary", &[0, 255, b'\n', b'=']);
    set("dir", "user.large", &[b'v'; 2000]);
    set("dir", "trusted.note", b"kept");
}

fn sparse(path: &Path, size: u64, places: &[u64]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for place in places {
        file.write_all_at(format!("data at {place}").as_bytes(), *place).unwrap();
    }
}

/// Whether filesystems can be mounted through a loop device.
pub fn can_mount_loop() -> bool {
    let script = "truncate -s 2M $0/x && /usr/sbin/mke2fs -q $0/x && mount -o loop,ro $0/x /mnt";
    let dir = tempfile::tempdir().unwrap();
    run(command("unshare").args(["--mount", "sh", "-ec", script]).arg(dir.path()), b"").status.success()
}

/// Looks at the filesystem in `image`, mounted read-only, in a mount namespace that nobody else sees.
pub fn mounted<T: Send>(image: &Path, look: impl FnOnce(&Path) -> T + Send) -> T {
    let place: PathBuf = image.with_file_name("mounted");
    fs::create_dir_all(&place).unwrap();
    let look = || {
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        for args in [
            &["--make-rprivate", "/"][..],
            &["-o", "loop,ro", image.to_str().unwrap(), place.to_str().unwrap()],
        ] {
            let output = run(command("mount").args(args), b"");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let result = look(&place);
        assert!(run(command("umount").arg(&place), b"").status.success());
        result
    };
    let result = std::thread::scope(|scope| scope.spawn(look).join());
    fs::remove_dir(&place).unwrap();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
