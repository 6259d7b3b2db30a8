//! `banger-disk image import` without privilege: what hostile archives come to, and what is told of sound ones.

mod archives;
mod limits;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::archive::{Header, Tar, layout, layout_to_run, packed};
use crate::support::disk::{DISK, names};
use crate::support::{assert_error, command, record, run, state_with_fake_image};

struct World {
    state: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { state: state_with_fake_image() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Imports a simple image as `new`, whose configuration says to `run` it so.
    fn import_to_run(&self, run: &Value) -> Output {
        let (dir, tar) = (self.path("layout"), simple().end());
        drop(fs::remove_dir_all(&dir));
        layout_to_run(&dir, &[(tar.clone(), tar)], run);
        self.import(&[dir.to_str().unwrap(), "new"], b"")
    }

    fn import(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut import = command(DISK.as_str());
        import.args(["image", "import"]).args(args).env("BANGER_STATE_DIR", self.state.path());
        run(&mut import, stdin)
    }

    /// Imports a tar of a root filesystem from stdin, also one that has nothing of a root filesystem.
    fn tar(&self, bytes: &[u8], more: &[&str]) -> Output {
        self.import(&[&["-", "new", "--format", "tar"], more].concat(), bytes)
    }

    /// Asserts that nothing came of an import.
    #[track_caller]
    fn assert_nothing_left(&self, what: &str) {
        assert_eq!(names(&self.path("images")), ["debian"], "{what}");
    }
}

/// Everything that an error record says.
fn whole(error: &Value) -> String {
    let causes = error["error"]["causes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let message = error["error"]["message"].as_str().into_iter();
    message.chain(causes).collect::<Vec<_>>().join(": ")
}

fn long(text: &str, count: usize) -> Vec<u8> {
    text.repeat(count).into_bytes()
}

/// Archives that are wrong, and what is to be said of them.
fn hostile() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let t = Tar::default;
    let header = Header::new;
    let sparse = |map: &[(&str, &str)], real: &str, data: &[u8]| {
        let mut h = header(b"sparse", b'S', data.len() as u64);
        for (at, (offset, length)) in map.iter().enumerate() {
            h.set(386 + 24 * at, offset.as_bytes()).set(398 + 24 * at, length.as_bytes());
        }
        h.set(483, real.as_bytes());
        t().put(h, data).end()
    };
    let global = b"25 SCHILY.xattr.user.x=1\n".repeat(200);
    let extended = b"25 SCHILY.xattr.user.x=1\n".repeat(36_000);
    let raw = |field: usize, value: &[u8]| {
        let mut h = header(b"odd", b'3', 0);
        h.set(field, value);
        t().put(h, b"").end()
    };
    vec![
        (t().file("../up", b"x").end(), "../up", "\"..\""),
        (t().file("a/../../up", b"x").end(), "a/../../up", "\"..\""),
        (t().symlink("a", "b").symlink("b", "a").file("a/x", b"").end(), "a/x", "too many symbolic links"),
        (t().hard_link("shadow", "../../etc/shadow").end(), "shadow", "\"..\""),
        (t().hard_link("shadow", "/etc/shadow").end(), "shadow", "no such file"),
        (t().symlink("o", "..").hard_link("l", "o/etc/shadow").end(), "entry \"l\"", "no such file"),
        (t().hard_link("l", "nothing").end(), "entry \"l\"", "no such file"),
        (t().directory("d").hard_link("l", "d").end(), "entry \"l\"", "directory"),
        (t().file("f", b"").file("f/x", b"").end(), "f/x", "not a directory"),
        (t().symlink(".", "x").end(), "entry \".\"", "root"),
        (t().put(header(b"", b'0', 0), b"").end(), "entry \"\"", "no path"),
        (t().pax(&[("path", &long("n", 256))]).file("x", b"").end(), "nnnn", "255"),
        (t().pax(&[("path", &long("a/", 40_000))]).directory("x").end(), "a/a/", "64 KiB"),
        (t().pax(&[("path", b"nu\0l")]).file("x", b"").end(), "nu", "NUL"),
        (t().pax(&[("path", b"../\x1b[2J\n")]).file("x", b"").end(), "[2J", "\"..\""),
        (t().pax(&[("uid", b"4294967296")]).file("owned", b"").end(), "owned", "4294967296"),
        (t().pax(&[("size", b"-1")]).file("sized", b"").end(), "sized", "not a number"),
        (t().pax(&[("mtime", b"noon")]).file("timed", b"").end(), "timed", "not a number"),
        (t().put(header(b"claim", b'0', 10 << 30), b"1").end(), "claim", "cut off"),
        (
            t().put(header(b"after", b'0', 0), b"").put(header(b"L", b'L', 2 << 20), b"").end(),
            "after",
            "1 MiB",
        ),
        (t().put(header(b"x", b'x', 5), b"junk\n").file("y", b"").end(), "damaged", "PAX"),
        (t().pax(&[("path", b"nothing")]).end(), "damaged", "no entry"),
        (t().put(header(b"g", b'g', 5000), &global).file("y", b"").end(), "damaged", "too many PAX records"),
        (
            (0..3)
                .fold(t().file("after", b""), |tar, _| tar.put(header(b"x", b'x', 900_000), &extended))
                .end(),
            "after",
            "too many PAX records",
        ),
        (t().put(header(b"strange", b'M', 0), b"").end(), "strange", "unknown type"),
        (t().symlink("empty", "").end(), "empty", "between 1 and 4095"),
        (t().pax(&[("linkpath", &long("t", 5000))]).symlink("long", "t").end(), "long", "between 1 and 4095"),
        (t().pax(&[("SCHILY.xattr.user.x", &[1; 5000])]).file("attributes", b"").end(), "attributes", "4096"),
        (
            t().pax(&[("SCHILY.xattr.system.posix_acl_access", b"no")]).file("acl", b"").end(),
            "acl",
            "not valid",
        ),
        (raw(329, b"7777777"), "odd", "number"),
        (raw(329, b"xxxxxxx"), "odd", "device"),
        (raw(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "damaged", "size"),
        (
            sparse(
                &[("00000010000", "00000000004"), ("00000000000", "00000000004")],
                "00000100000",
                b"12345678",
            ),
            "sparse",
            "map",
        ),
        (sparse(&[("00000077777", "00000000004")], "00000000010", b"1234"), "sparse", "map"),
        (sparse(&[("77777777777", "00000000004")], "00000000010", b"123"), "sparse", "map"),
        (t().file("whole", b"x").bytes, "whole", "cut off"),
        (t().file("a", b"x").end()[..700].to_vec(), "a", "cut off"),
        (b"this is not an archive at all".repeat(100), "damaged", "checksum"),
        (Vec::new(), "", "cut off"),
        (packed("gzip", &t().file("a", b"x").end())[..60].to_vec(), "", "cannot be"),
        (lying(), "", "cannot be"),
    ]
}

/// A gzip whose content is not what its checksum says.
fn lying() -> Vec<u8> {
    let mut gzip = packed("gzip", &Tar::default().file("a", b"x").end());
    let at = gzip.len() - 6;
    gzip[at] ^= 1;
    gzip
}

#[test]
fn hostile_archives_are_told_by_their_entry_and_leave_nothing() {
    let world = World::new();
    for (bytes, entry, why) in hostile() {
        let output = world.tar(&bytes, &[]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(2), "{entry} {why}: {shown}");
        let text = whole(&assert_error(&output, 2, "bad-input"));
        assert!(text.contains(entry) && text.contains(why), "{entry} {why}: {text}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{1b}'), "{text}");
        world.assert_nothing_left(why);
    }
}

#[test]
fn limits_hold() {
    let world = World::new();
    let many = (0..20).fold(Tar::default(), |tar, i| tar.file(&format!("file{i}"), b"")).end();
    let zeros = packed("gzip", &Tar::default().file("zeros", &vec![0; 4 << 20]).end());
    let noise: Vec<u8> = (0..4u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let noise = Tar::default().file("noise", &noise).end();
    let table: [(&[u8], &str, &str, &str); 3] = [
        (&many, "--max-entries=10", "file10", "10 entries"),
        (&zeros, "--max-unpacked=1048576", "", "1048576"),
        (&noise, "--max-size=3145728", "noise", "3145728"),
    ];
    for (bytes, limit, entry, why) in table {
        let error = assert_error(&world.tar(bytes, &[limit]), 2, "bad-input");
        let text = whole(&error);
        assert!(text.contains(entry) && text.contains(why), "{limit}: {text}");
        let option = limit.split('=').next().unwrap();
        assert!(error["error"]["hint"].as_str().unwrap().contains(option), "{error}");
        world.assert_nothing_left(limit);
    }
    assert!(world.tar(&many, &["--max-entries=20"]).status.success());
}

fn simple() -> Tar {
    Tar::default()
        .directory("usr")
        .file("usr/file", b"content")
        .file("etc/os-release", b"ID=tiny\nVERSION_ID=\"3.1\"\n")
}

#[test]
fn an_image_tells_what_it_is_and_what_will_not_work() {
    let world = World::new();
    let dir = world.path("layout");
    let tar = simple().end();
    let digest = layout(&dir, &[(packed("gzip", &tar), tar)]);
    let output =
        world.import(&[dir.to_str().unwrap(), "new", "--label", "more=1", "--label", "from=me"], b"");
    let image = record(&output);
    assert!(output.status.success(), "{image}");
    assert_eq!(image["digest"], json!(digest));
    assert_eq!(image["labels"], json!({ "from": "me", "more": "1" }));
    assert_eq!((&image["distribution"], &image["suite"]), (&json!("tiny"), &json!("3.1")));
    assert_eq!(image["kernel_version"], "6.1.0-test");
    assert_eq!(image["missing"], json!([]));
    let notes = image["notes"].to_string();
    assert!(notes.contains("sshd") && notes.contains("vm diff") && notes.contains("/bin/sh"), "{notes}");
    let again = world.import(&[dir.to_str().unwrap(), "new"], b"");
    assert_error(&again, 1, "conflict");
    assert_eq!(names(&world.path("images")), ["debian", "new"]);
}

#[test]
fn an_image_tells_how_it_wants_to_be_run() {
    let world = World::new();
    let long = "x".repeat(60 << 10);
    let wanted = json!({ "Env": ["PATH=/opt/bin:/bin", "npm.x=1", "HOME=/home/app", format!("LONG={long}"), "A=a b"], "User": "app",
        "WorkingDir": "/srv", "Entrypoint": ["/entry"], "Cmd": null, "ExposedPorts": { "80/tcp": {} } });
    let image = record(&world.import_to_run(&wanted));
    let expected = json!({ "env": { "A": "a b", "PATH": "/opt/bin:/bin" }, "user": "app", "working_dir": "/srv",
        "entrypoint": ["/entry"], "cmd": [] });
    assert_eq!(image["run"], expected);
    let notes = image["notes"].to_string();
    assert!(notes.contains("npm.x") && notes.contains("LONG") && !notes.contains("HOME"), "{notes}");
    assert!(notes.len() < 4096, "what is left out is named, not repeated: {}", notes.len());
    // The VM's record has them, for those who run commands in its guest.
    let mut plan = command(env!("CARGO_BIN_EXE_banger"));
    plan.args(["vm", "plan", "dev1", "--net", "user", "--image", "new"])
        .env("BANGER_STATE_DIR", world.state.path());
    let planned = record(&run(&mut plan, b""));
    assert_eq!(planned["vm"]["env"], expected["env"], "{planned}");
}

#[test]
fn an_archive_of_images_comes_through_a_pipe_as_well() {
    let world = World::new();
    let (dir, tar) = (world.path("layout"), simple().end());
    let digest = layout(&dir, &[(packed("gzip", &tar), tar.clone())]);
    let archive = run(command("tar").arg("-C").arg(&dir).args(["-c", "."]), b"").stdout;
    for (name, bytes) in [("plain", archive.clone()), ("zipped", packed("gzip", &archive))] {
        let image = record(&world.import(&["-", name], &bytes));
        assert_eq!((&image["digest"], &image["distribution"]), (&json!(digest), &json!("tiny")), "{image}");
    }
    // What it is may be told, and counts.
    let image = record(&world.import(&["-", "files", "--format", "tar"], &archive));
    assert_eq!((&image["digest"], &image["distribution"]), (&Value::Null, &json!("unknown")), "{image}");
    assert_error(&world.import(&["-", "new", "--format", "docker"], &tar), 2, "bad-input");
    assert_error(&world.import(&["-", "new", "--format", "ext4"], b""), 2, "usage");
    assert_error(&world.import(&["-", "new"], &archive[..archive.len() / 2]), 2, "bad-input");
    let error = assert_error(&world.import(&["-", "new", "--max-unpacked=4096"], &archive), 2, "bad-input");
    assert!(whole(&error).contains("4096"), "{error}");
    assert_eq!(names(&world.path("images")), ["debian", "files", "plain", "zipped"]);
}

#[test]
fn an_image_that_says_too_much_of_itself_is_refused() {
    let world = World::new();
    // Each fits what is read of a configuration, and no manifest.
    let long = "x".repeat(1 << 20);
    for run in
        [json!({ "Labels": { "long": long } }), json!({ "Entrypoint": [long] }), json!({ "User": long })]
    {
        let error = assert_error(&world.import_to_run(&run), 2, "bad-input");
        assert!(whole(&error).contains("the image new is described by more than"), "{error}");
        world.assert_nothing_left("too much");
    }
    for run in [json!({ "Env": "A=1" }), json!({ "Cmd": [1] }), json!({ "User": 1 })] {
        assert_error(&world.import_to_run(&run), 2, "bad-input");
        world.assert_nothing_left("no configuration");
    }
}

#[test]
fn layouts_that_are_not_sound_are_refused() {
    let world = World::new();
    let dir = world.path("layout");
    let blobs = dir.join("blobs/sha256");
    let tar = simple().end();
    let good = |dir: &Path| layout(dir, &[(tar.clone(), tar.clone())]);
    let import = |more: &[&str]| world.import(&[&[dir.to_str().unwrap(), "new"], more].concat(), b"");
    let check = |what: &str, status: i32, code: &str, said: &str, more: &[&str], damage: &dyn Fn(&str)| {
        drop(fs::remove_dir_all(&dir));
        let digest = good(&dir);
        damage(digest.strip_prefix("sha256:").unwrap());
        let text = whole(&assert_error(&import(more), status, code));
        assert!(text.contains(said), "{what}: {text}");
        world.assert_nothing_left(what);
    };
    let layer = banger_host::digest::sha256(&tar);
    let other = simple().file("more", b"").end();
    let index = |text: String| fs::write(dir.join("index.json"), text).unwrap();
    check("a changed layer", 2, "bad-input", "layer 1 has the digest", &[], &|_| {
        fs::write(blobs.join(&layer), &other).unwrap()
    });
    check("a cut layer", 2, "bad-input", "layer 1 has the digest", &[], &|_| {
        fs::write(blobs.join(&layer), &tar[..700]).unwrap()
    });
    check("another content", 2, "bad-input", "the content of layer 1", &[], &|_| {
        drop(layout(&dir, &[(tar.clone(), other.clone())]));
    });
    check("no layer", 3, "not-found", &layer, &[], &|_| fs::remove_file(blobs.join(&layer)).unwrap());
    check("a pipe for a layer", 1, "failed", &layer, &[], &|_| {
        fs::remove_file(blobs.join(&layer)).unwrap();
        nix::unistd::mkfifo(&blobs.join(&layer), nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    check("a changed manifest", 2, "bad-input", "digest", &[], &|digest| {
        fs::write(blobs.join(digest), "{}").unwrap()
    });
    check("no index", 2, "bad-input", "expected index.json", &[], &|_| {
        fs::remove_file(dir.join("index.json")).unwrap()
    });
    check("a broken index", 2, "bad-input", "index.json", &[], &|_| index("{".into()));
    check("a huge index", 2, "bad-input", "larger", &[], &|_| index(" ".repeat(5 << 20)));
    for digest in ["sha256:../../../../etc/passwd", "sha512:00", "md5", "sha256:ABCD"] {
        check(digest, 2, "bad-input", "not a digest", &[], &|_| {
            index(json!({ "manifests": [{ "digest": digest, "size": 1 }] }).to_string());
        });
    }
    check(
        "nothing for the platform",
        3,
        "not-found",
        "linux/riscv64",
        &["--platform", "linux/riscv64"],
        &|_| {},
    );
    check("nothing of the name", 3, "not-found", "test", &["--ref", "other"], &|_| {});
    check("no kernel", 3, "not-found", "no image other", &["--kernel-from", "other"], &|_| {});
}

/// A small clean ext4 of e2fsprogs' making.
fn ext4(path: &Path) {
    fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
    let made = run(command(crate::support::disk::mke2fs()).args(["-q", "-F", "-t", "ext4"]).arg(path), b"");
    assert!(made.status.success());
}

#[test]
fn a_registered_image_leaves_its_file_alone_until_it_is_promoted() {
    let world = World::new();
    let (file, image) = (world.path("own.ext4"), world.path("images/own"));
    ext4(&file);
    let (bytes, mode) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().permissions());
    let disk = |args: &[&str]| {
        run(command(DISK.as_str()).arg("image").args(args).env("BANGER_STATE_DIR", world.state.path()), b"")
    };
    let registered = record(&disk(&["register", file.to_str().unwrap(), "own"]));
    assert_eq!(registered["registered"], json!(file.canonicalize().unwrap()), "{registered}");
    assert_eq!(registered["missing"], json!([]));
    assert_eq!(fs::metadata(&file).unwrap().permissions(), mode, "it is not banger's");

    fs::write(&file, [&bytes[..], b"more"].concat()).unwrap();
    let error = assert_error(&disk(&["promote", "own"]), 1, "conflict");
    assert!(whole(&error).contains("own.ext4"), "{error}");
    assert!(image.join("rootfs.ext4").is_symlink(), "it is what it was");
    fs::write(&file, &bytes).unwrap();
    let promoted = record(&disk(&["promote", "own"]));
    assert_eq!(promoted["registered"], Value::Null, "{promoted}");
    fs::remove_file(&file).unwrap();
    assert!(fs::read(image.join("rootfs.ext4")).unwrap() == bytes);
    assert_eq!(record(&disk(&["promote", "own"]))["registered"], Value::Null, "once is enough");
    assert_eq!(record(&disk(&["show", "own"]))["missing"], json!([]));

    for (what, name) in [("nothing", "no.ext4"), ("a directory", "images")] {
        let output = disk(&["register", world.path(name).to_str().unwrap(), "other"]);
        assert!(!output.status.success(), "{what}");
        assert_eq!(names(&world.path("images")), ["debian", "own"], "{what}");
    }
    fs::write(&file, "no filesystem").unwrap();
    assert_error(&disk(&["register", file.to_str().unwrap(), "other"]), 2, "bad-input");
    assert_error(&disk(&["promote", "other"]), 3, "not-found");
}

#[test]
fn prune_spares_what_is_in_use() {
    let world = World::new();
    let tar = simple().end();
    for name in ["whole", "broken", "used"] {
        assert!(world.import(&["-", name], &tar).status.success());
    }
    for name in ["broken", "used"] {
        fs::remove_file(world.path(&format!("images/{name}/vmlinuz"))).unwrap();
    }
    let plan = |image: &str| {
        let mut plan = command(env!("CARGO_BIN_EXE_banger"));
        plan.args(["vm", "plan", "dev1", "--net", "user", "--image", image])
            .env("BANGER_STATE_DIR", world.state.path());
        run(&mut plan, b"")
    };
    let kernel = world.path("images/used/vmlinuz");
    fs::write(&kernel, "").unwrap();
    assert!(plan("used").status.success());
    fs::remove_file(&kernel).unwrap();
    let prune = |more: &[&str]| {
        let mut prune = command(DISK.as_str());
        prune.args(["image", "prune"]).args(more).env("BANGER_STATE_DIR", world.state.path());
        record(&run(&mut prune, b""))
    };
    let pruned = prune(&[]);
    assert_eq!((&pruned["removed"], &pruned["in_use"]), (&json!(["broken"]), &json!(["used"])), "{pruned}");
    let pruned = prune(&["--all"]);
    assert_eq!(pruned["removed"], json!(["debian", "whole"]), "{pruned}");
    assert_eq!(names(&world.path("images")), ["used"]);
}
