//! Filesystems as they are written, and what e2fsck and debugfs make of them.

use std::fs::File;
use std::path::Path;

use super::{Attributes, Content, Shape, Time, Writer};
use banger_host::process::exec::{Exec, find_program};

const SHAPE: Shape = Shape { label: "test", min_bytes: 0, spare_bytes: 1 << 20, made_at: 1_700_000_000 };

fn writer(dir: &Path) -> Writer {
    let new =
        |name: &str| File::options().read(true).write(true).create_new(true).open(dir.join(name)).unwrap();
    Writer::new(new("fs"), new("inodes"), [7; 16], 64 << 30).unwrap()
}

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 70_000,
        gid: 80_000,
        mtime: Time { seconds: 1 << 33, nanos: 1 },
        xattrs: Vec::new(),
    }
}

/// e2fsck finds nothing. It tells on stdout what it found, and only stderr is in an error.
fn check(dir: &Path) {
    let e2fsck = find_program("e2fsck".as_ref()).expect("e2fsprogs is installed");
    let shell = Exec::new("sh").args(["-c", "exec \"$0\" -fn \"$1\" >&2"]).arg(e2fsck).arg(dir.join("fs"));
    shell.run().unwrap();
}

#[test]
fn every_kind_of_file_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let mut fs = writer(dir.path());
    let root = fs.root();
    let mut put = |name: &[u8], attributes: &Attributes, content: Content| {
        let inode = fs.create(attributes, content).unwrap();
        fs.link(root, name, inode, 0);
        inode
    };
    let text = vec![b'x'; 300_000];
    let file =
        put(b"file", &attributes(0o104_755), Content::Regular(300_000, &[(0, 300_000)], &mut &text[..]));
    put(b"short", &attributes(0o120_777), Content::Symlink(b"file"));
    put(b"long", &attributes(0o120_777), Content::Symlink(&[b'a'; 4000]));
    put(b"fifo", &attributes(0o010_600), Content::None);
    put(b"socket", &attributes(0o140_600), Content::None);
    put(b"device", &attributes(0o060_600), Content::Device(300, 70_000));
    put(b"old device", &attributes(0o020_600), Content::Device(1, 3));
    let holes: Vec<(u64, u64)> = (0..2000).map(|i| (i * (1 << 20), 512)).collect();
    let data = vec![b'y'; 2000 * 512];
    put(b"sparse", &attributes(0o100_600), Content::Regular(1 << 40, &holes, &mut &data[..]));
    let mut with = attributes(0o100_600);
    with.xattrs = vec![(b"user.a".to_vec(), b"b".to_vec()), (b"security.capability".to_vec(), vec![1; 20])];
    put(b"xattrs", &with, Content::Regular(0, &[], &mut &b""[..]));
    with.xattrs.push((b"user.big".to_vec(), vec![2; 3000]));
    with.xattrs.push((b"system.posix_acl_access".to_vec(), acl()));
    put(b"xattr block", &with, Content::Regular(1, &[(0, 1)], &mut &b"1"[..]));
    fs.link(root, b"\xff\xfe not utf-8", file, 0);
    fs.link(root, &[b'n'; 255], file, 0);
    let sub = fs.ensure_directory(root, b"sub", 0o755, Time::default()).unwrap();
    for i in 0..3000 {
        let inode = fs.create(&attributes(0o100_644), Content::Regular(0, &[], &mut &b""[..])).unwrap();
        fs.link(sub, format!("file number {i}").as_bytes(), inode, 0);
    }
    let gone = fs.ensure_directory(root, b"gone", 0o755, Time::default()).unwrap();
    let inode = fs.create(&with, Content::Regular(300_000, &[(0, 300_000)], &mut &text[..])).unwrap();
    fs.link(gone, b"file", inode, 0);
    let (name, number) = fs.find(root, b"gone").unwrap();
    fs.unlink(name, number);
    fs.finish(&SHAPE).unwrap();
    check(dir.path());
}

fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
    let entry = |(tag, perm, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [&2u32.to_le_bytes()[..], &entries.map(entry).concat()].concat()
}

#[test]
fn filesystems_of_any_size_are_clean() {
    for min_bytes in [0, 129 << 20, (256 << 20) + 4096, 8 << 30, 70 << 30] {
        let dir = tempfile::tempdir().unwrap();
        writer_limited(dir.path()).finish(&Shape { min_bytes, ..SHAPE }).unwrap();
        check(dir.path());
        let size = std::fs::metadata(dir.path().join("fs")).unwrap();
        assert!(size.len() >= min_bytes && size.len() < min_bytes + (200 << 20));
    }
}

fn writer_limited(dir: &Path) -> Writer {
    let mut writer = writer(dir);
    writer.limit_bytes = 1 << 40;
    writer.blocks = super::format::Allocator::new((1 << 40) / 4096);
    writer
}

#[test]
fn many_empty_files_get_their_inodes() {
    let dir = tempfile::tempdir().unwrap();
    let mut fs = writer(dir.path());
    let sub = fs.ensure_directory(fs.root(), b"sub", 0o755, Time::default()).unwrap();
    for i in 0..70_000u32 {
        let inode = fs.create(&attributes(0o100_644), Content::Regular(0, &[], &mut &b""[..])).unwrap();
        fs.link(sub, &i.to_le_bytes().map(|b| b | 0x80), inode, 0);
        fs.link(sub, format!("{i}").as_bytes(), inode, 0);
    }
    fs.finish(&SHAPE).unwrap();
    check(dir.path());
}
