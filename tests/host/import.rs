//! `banger-disk image import` on real parts: what the kernel sees in the filesystems that come of it, held against the source and
//! against what umoci makes of the same layers.

mod crash;
mod layers;

use std::path::{Path, PathBuf};
use std::process::Output;

use banger_host::digest::sha256;
use serde_json::json;

use crate::support::disk::{DISK, names};
use crate::support::tree::{self, Scan};
use crate::support::{self, archive, command, record, run, state_with_fake_image};

/// Runs `command`, which must succeed.
#[track_caller]
fn must(command: &mut std::process::Command) -> Output {
    let output = run(command, b"");
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    output
}

struct World {
    temp: tempfile::TempDir,
}

impl World {
    /// `None`: it cannot be here.
    fn new() -> Option<Self> {
        let able = support::is_root() && support::has("umoci") && tree::can_mount_loop();
        let why = "reading filesystems back needs root, umoci, loop devices and mount namespaces";
        support::require("host", able, why).then(|| Self { temp: state_with_fake_image() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut disk = command(DISK.as_str());
        disk.args(args).env("BANGER_STATE_DIR", self.temp.path());
        disk
    }

    /// Imports `source`; gives its root filesystem, which is clean.
    fn import(&self, source: &Path, name: &str) -> PathBuf {
        let image = record(&must(&mut self.command(&["image", "import", source.to_str().unwrap(), name])));
        for file in ["rootfs", "work_seed", "upper_seed"] {
            let path = image["paths"][file].as_str().unwrap();
            must(command("/usr/sbin/e2fsck").args(["-fn", path]));
        }
        PathBuf::from(image["paths"]["rootfs"].as_str().unwrap())
    }

    /// What umoci unpacks of a layout.
    fn umoci(&self, layout: &Path, tag: &str) -> Scan {
        let bundle = self.path("bundle");
        let image = format!("{}:{tag}", layout.display());
        must(command("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        let scan = tree::scan(&bundle.join("rootfs"));
        std::fs::remove_dir_all(&bundle).unwrap();
        scan
    }
}

/// What an import adds and changes by itself is not compared: the places where something is mounted, and the root's own time.
fn without_additions(mut scan: Scan) -> Scan {
    for path in ["", "dev", "proc", "sys", "run", "tmp", "root", "etc", "lost+found"] {
        scan.remove(path.as_bytes());
    }
    scan
}

#[track_caller]
fn assert_same(found: Scan, expected: Scan, what: &str) {
    let (found, expected) = (without_additions(found), without_additions(expected));
    let shown = |path: &[u8], file: Option<&String>| format!("{:?}: {file:?}", String::from_utf8_lossy(path));
    for (path, file) in &expected {
        assert_eq!(shown(path, found.get(path)), shown(path, Some(file)), "{what}");
    }
    for (path, file) in &found {
        assert_eq!(shown(path, Some(file)), shown(path, expected.get(path)), "{what}");
    }
}

#[test]
fn every_kind_of_file_comes_through_a_tar() {
    let Some(world) = World::new() else { return };
    let source = world.path("source");
    tree::make_every_kind(&source);
    // By this it is known for a root filesystem.
    std::fs::create_dir(source.join("usr")).unwrap();
    let expected = tree::scan(&source);
    for (name, options) in [
        ("posix", &["--format=posix"][..]),
        ("sparse", &["--format=posix", "--sparse"]),
        ("gnu", &["--format=gnu", "--sparse"]),
    ] {
        let file = world.path("rootfs.tar");
        let mut tar = command("tar");
        let xattrs: &[&str] = if name == "gnu" { &[] } else { &["--xattrs", "--xattrs-include=*"] };
        tar.arg("--numeric-owner").args(xattrs).args(options);
        must(tar.arg("-C").arg(&source).arg("-cf").arg(&file).arg("."));
        let rootfs = world.import(&file, name);
        let mut expected = expected.clone();
        if name == "gnu" {
            // This format has whole seconds, and no attributes.
            tree::forget(&mut expected, &["nanos", "xattrs"]);
        }
        let mut found = tree::mounted(&rootfs, tree::scan);
        if name == "gnu" {
            tree::forget(&mut found, &["nanos", "xattrs"]);
        }
        assert_same(found, expected, name);
    }
}

#[test]
fn every_kind_of_file_comes_through_an_oci_image() {
    let Some(world) = World::new() else { return };
    let (source, layout, bundle) = (world.path("source"), world.path("layout"), world.path("bundle"));
    tree::make_every_kind(&source);
    // Go's tar rounds times to whole seconds, and drops attributes without a value.
    let whole = "find . -depth -print0 | while IFS= read -r -d '' f; do touch -h -d \"@$(stat -c %Y -- \"$f\")\" -- \"$f\"; done";
    must(command("bash").args(["-c", whole]).current_dir(&source));
    let image = format!("{}:tree", layout.display());
    must(command("umoci").arg("init").arg("--layout").arg(&layout));
    must(command("umoci").args(["new", "--image", &image]));
    must(command("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    must(command("cp").arg("-a").arg(source.join(".")).arg(bundle.join("rootfs")));
    must(command("umoci").args(["repack", "--image", &image]).arg(&bundle));
    std::fs::remove_dir_all(&bundle).unwrap();
    let found = tree::mounted(&world.import(&layout, "tree"), tree::scan);
    assert_same(found.clone(), world.umoci(&layout, "tree"), "against umoci");
    let (mut found, mut expected) = (found, tree::scan(&source));
    tree::forget(&mut found, &["nanos"]);
    tree::forget(&mut expected, &["nanos"]);
    for text in expected.values_mut() {
        *text = text.replace("user.empty:,", "");
    }
    assert_same(found, expected, "against the source");
}

#[test]
fn the_same_image_comes_as_directory_and_as_archives() {
    let Some(world) = World::new() else { return };
    if !support::require("host", support::has("skopeo"), "archives of docker are made by skopeo") {
        return;
    }
    let layout = world.path("layout");
    let lower = archive::Tar::default().directory("d").file("d/a", b"lower").file("d/b", b"b").end();
    let upper = archive::Tar::default().file("d/a", b"upper").file("d/.wh.b", b"").end();
    archive::layout(
        &layout,
        &[(archive::packed("gzip", &lower), lower.clone()), (archive::packed("zstd", &upper), upper.clone())],
    );
    let expected = tree::mounted(&world.import(&layout, "directory"), tree::scan);
    assert_eq!(expected.keys().filter(|path| path.starts_with(b"d")).count(), 3, "d, d/a, and dev");
    let tar = world.path("layout.tar");
    must(command("tar").arg("-C").arg(&layout).arg("-cf").arg(&tar).arg("."));
    must(command("gzip").arg("-k").arg(&tar));
    let docker = world.path("docker.tar");
    let oci = world.path("plain");
    // skopeo packs layers for docker uncompressed, and needs them as gzip or plain to do so.
    archive::layout(&oci, &[(lower.clone(), lower), (upper.clone(), upper)]);
    let (from, to) =
        (format!("oci:{}:test", oci.display()), format!("docker-archive:{}:test:1", docker.display()));
    must(command("skopeo").args(["--insecure-policy", "copy", &from, &to]));
    for (name, file) in [("tar", tar.clone()), ("gzip", world.path("layout.tar.gz")), ("docker", docker)] {
        assert_same(tree::mounted(&world.import(&file, name), tree::scan), expected.clone(), name);
    }
}

/// Archives for `docker load` as their makers write them, and layers that only look odd: what comes of them is what skopeo and umoci
/// make of the same.
#[test]
fn archives_of_all_makers_become_what_skopeo_and_umoci_make_of_them() {
    let Some(world) = World::new() else { return };
    if !support::require("host", support::has("skopeo"), "archives of docker are judged by skopeo") {
        return;
    }
    let lower = archive::Tar::default()
        .directory("/nix")
        .file("/nix/store/a/run", b"absolute")
        .file("./dotted//file", b"dotted")
        .directory("d")
        .file("d/lower", b"1");
    let upper = archive::Tar::default()
        .hard_link("/linked", "/nix/store/a/run")
        .symlink("up", "../../../nix/store")
        .file("up/through", b"a link above the root")
        .file("twice", b"first")
        .file("twice", b"second")
        .file("d/.wh.lower", b"");
    let layers = [lower.end(), upper.end()];
    let digests: Vec<String> = layers.iter().map(|tar| format!("sha256:{}", sha256(tar))).collect();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({ "os": "linux", "architecture": arch, "config": {}, "rootfs": { "type": "layers", "diff_ids": digests } });
    let config = config.to_string();
    let hex = sha256(config.as_bytes());
    let packed: Vec<Vec<u8>> = layers.iter().map(|tar| archive::packed("gzip", tar)).collect();
    let made = |config_name: &str,
                names: [String; 2],
                files: &[(String, &[u8])],
                links: &[(&str, String)],
                order: &str| {
        let manifest = json!([{ "Config": config_name, "RepoTags": ["t:1"], "Layers": names }]).to_string();
        let add = |tar: archive::Tar, part| match part {
            'c' => tar.file(config_name, config.as_bytes()),
            'm' => tar.file("manifest.json", manifest.as_bytes()),
            'l' => links.iter().fold(tar, |tar, (name, to)| tar.symlink(name, to)),
            _ => files.iter().fold(tar, |tar, (name, bytes)| tar.file(name, bytes)),
        };
        order.chars().fold(archive::Tar::default(), add).end()
    };
    let named = |end: &str, bytes: &[Vec<u8>]| [0, 1].map(|at: usize| format!("{}{end}", sha256(&bytes[at])));
    let zipped: Vec<(String, &[u8])> =
        named(".tar.gz", &packed).into_iter().zip(packed.iter().map(Vec::as_slice)).collect();
    let plain: Vec<(String, &[u8])> =
        named(".tar", &layers).into_iter().zip(layers.iter().map(Vec::as_slice)).collect();
    let linked = ["aa/layer.tar", "bb/layer.tar"];
    let links: Vec<(&str, String)> =
        linked.into_iter().zip(plain.iter().map(|(name, _)| format!("../{name}"))).collect();
    let archives = [
        ("crane", made(&format!("sha256:{hex}"), named(".tar.gz", &packed), &zipped, &[], "cfm")),
        ("jib", made("config.json", named(".tar.gz", &packed), &zipped, &[], "fcm")),
        ("podman", made(&format!("{hex}.json"), linked.map(str::to_owned), &plain, &links, "lfcm")),
        ("manifest-first", made(&format!("{hex}.json"), named(".tar", &layers), &plain, &[], "mfc")),
    ];
    for (maker, bytes) in archives {
        let (file, oci) = (world.path("archive.tar"), world.path("converted"));
        std::fs::write(&file, bytes).unwrap();
        let (from, to) =
            (format!("docker-archive:{}", file.display()), format!("oci:{}:test", oci.display()));
        must(command("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]));
        let mut expected = world.umoci(&oci, "test");
        let mut found = tree::mounted(&world.import(&file, maker), tree::scan);
        // Directories that only stand in paths have no times of their own.
        for scan in [&mut found, &mut expected] {
            tree::forget(scan, &["time", "nanos"]);
        }
        assert_same(found, expected, maker);
        must(command("rm").arg("-r").arg(&oci));
    }
}

#[test]
fn home_becomes_the_work_seed_and_nothing_tells_machines_apart() {
    let Some(world) = World::new() else { return };
    let source = world.path("source");
    tree::make_every_kind(&source.join("root"));
    std::fs::create_dir_all(source.join("etc/ssh")).unwrap();
    std::fs::write(source.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::write(source.join("etc/ssh/ssh_host_rsa_key"), "secret").unwrap();
    std::fs::write(source.join("etc/ssh/sshd_config"), "").unwrap();
    let tar = world.path("rootfs.tar");
    must(
        command("tar")
            .args(["--xattrs", "--xattrs-include=*", "--format=posix", "-C"])
            .arg(&source)
            .arg("-cf")
            .arg(&tar)
            .arg("."),
    );
    let rootfs = world.import(&tar, "home");
    let seed = tree::mounted(&rootfs.with_file_name("work-seed.ext4"), tree::scan);
    assert_same(seed, tree::scan(&source.join("root")), "the work seed");
    let (id, keys) = tree::mounted(&rootfs, |root| {
        (std::fs::read(root.join("etc/machine-id")).unwrap(), names(&root.join("etc/ssh")))
    });
    assert_eq!((id, keys), (Vec::new(), vec!["sshd_config".to_owned()]));
}
