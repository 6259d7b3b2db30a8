//! Archives as the makers of images write them: layers, configuration and manifest in any order, under names of their choice, and links
//! before what they lead to. Each is what its manifest says, from a file and through a pipe.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use banger_host::digest::sha256;
use serde_json::{Value, json};

use super::{World, whole};
use crate::support::archive::{Tar, layout, packed};
use crate::support::disk::DISK;
use crate::support::{assert_error, command, record, run};

const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Two layers: together they are the distribution "tiny" with the file `/two`.
fn layers() -> Vec<Vec<u8>> {
    let lower =
        Tar::default().directory("usr").file("usr/file", b"content").file("etc/os-release", b"ID=lower\n");
    let upper = Tar::default().file("two", b"2").file("etc/os-release", b"ID=tiny\nVERSION_ID=\"3.1\"\n");
    vec![lower.end(), upper.end()]
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|tar| format!("sha256:{}", sha256(tar))).collect();
    json!({ "os": "linux", "architecture": ARCH, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
        .into_bytes()
}

/// An archive for `docker load`.
struct Docker {
    config: (String, Vec<u8>),
    /// What the manifest calls the layers.
    names: Vec<String>,
    /// The files that are the layers.
    files: Vec<(String, Vec<u8>)>,
    /// Links: name, where it leads, whether it is a symbolic one.
    links: Vec<(String, String, bool)>,
}

impl Docker {
    /// Layers under the names that `name` gives them, each through `pack`.
    fn new(
        config_name: &dyn Fn(&[u8]) -> String,
        name: &dyn Fn(usize, &[u8]) -> String,
        packer: Option<&str>,
    ) -> Self {
        let layers = layers();
        let pack = |tar: &Vec<u8>| packer.map_or_else(|| tar.clone(), |packer| packed(packer, tar));
        let named = |(at, tar): (usize, &Vec<u8>)| (name(at, &pack(tar)), pack(tar));
        let files: Vec<(String, Vec<u8>)> = layers.iter().enumerate().map(named).collect();
        let (config, names) = (config(&layers), files.iter().map(|(name, _)| name.clone()).collect());
        Self { config: (config_name(&config), config), names, files, links: Vec::new() }
    }

    /// Layers in files called by their digest, which links of the kind `is_symbolic` name.
    fn linked(is_symbolic: bool, to: &dyn Fn(&str) -> String) -> Self {
        let mut docker =
            Self::new(&|c| format!("{}.json", sha256(c)), &|_, tar| format!("{}.tar", sha256(tar)), None);
        docker.names = vec!["aa/layer.tar".into(), "bb/layer.tar".into()];
        let targets = docker.files.iter().map(|(name, _)| to(name));
        docker.links =
            docker.names.iter().cloned().zip(targets).map(|(name, to)| (name, to, is_symbolic)).collect();
        docker
    }

    /// The archive with its parts in this order: `c`onfiguration, `m`anifest, `f`iles, `l`inks.
    fn archive(&self, order: &str) -> Vec<u8> {
        let manifest =
            json!([{ "Config": self.config.0, "RepoTags": ["t:1"], "Layers": self.names }]).to_string();
        let all = order.chars().fold(Tar::default(), |tar, part| match part {
            'c' => tar.file(&self.config.0, &self.config.1),
            'm' => tar.file("manifest.json", manifest.as_bytes()),
            'f' => self.files.iter().fold(tar, |tar, (name, bytes)| tar.file(name, bytes)),
            'l' => self.links.iter().fold(tar, |tar, (name, to, is_symbolic)| match is_symbolic {
                true => tar.symlink(name, to),
                false => tar.hard_link(name, to),
            }),
            other => panic!("no part {other}"),
        });
        all.end()
    }
}

impl World {
    /// Imports `archive` from a file, compressed, and through a pipe; gives what was recorded of the first.
    #[track_caller]
    fn import_each_way(&self, what: &str, archive: &[u8]) -> Value {
        let file = self.path("archive");
        fs::write(&file, archive).unwrap();
        let zipped = self.path("archive.gz");
        fs::write(&zipped, packed("gzip", archive)).unwrap();
        let ways = [
            self.import(&[file.to_str().unwrap(), "new"], b""),
            self.import_again(&[zipped.to_str().unwrap(), "new"], b""),
            self.import_again(&["-", "new"], archive),
        ];
        let records: Vec<Value> = ways
            .iter()
            .map(|output| {
                assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
                record(output)
            })
            .collect();
        for image in &records {
            let told = (&image["distribution"], &image["suite"], &image["digest"]);
            assert_eq!(told, (&json!("tiny"), &json!("3.1"), &records[0]["digest"]), "{what}");
        }
        for path in ["/two", "/usr/file"] {
            assert!(self.has(path), "{what}: {path}");
        }
        assert!(!self.has("/manifest.json"), "{what}");
        self.delete();
        records.into_iter().next().unwrap()
    }

    fn import_again(&self, args: &[&str], stdin: &[u8]) -> std::process::Output {
        self.delete();
        self.import(args, stdin)
    }

    fn delete(&self) {
        let mut delete = command(DISK.as_str());
        delete.args(["image", "delete", "new"]).env("BANGER_STATE_DIR", self.state.path());
        run(&mut delete, b"");
    }

    /// Whether the image has a file, as debugfs sees it.
    fn has(&self, path: &str) -> bool {
        !self.debugfs(&format!("stat {path}")).contains("File not found")
    }

    /// What debugfs says to a request about the image's root.
    fn debugfs(&self, request: &str) -> String {
        let debugfs = crate::support::disk::mke2fs().with_file_name("debugfs");
        let output =
            run(command(debugfs).args(["-R", request]).arg(self.path("images/new/rootfs.ext4")), b"");
        assert!(output.status.success());
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

#[test]
fn an_archive_for_docker_is_what_its_manifest_says_wherever_that_stands() {
    let world = World::new();
    let digest = |c: &[u8]| format!("sha256:{}", sha256(c));
    let hex_json = |c: &[u8]| format!("{}.json", sha256(c));
    let makers: [(&str, Docker, &[&str]); 6] = [
        // google/go-containerregistry: crane, ko, kaniko, apko.
        (
            "crane",
            Docker::new(&digest, &|_, tar| format!("{}.tar.gz", sha256(tar)), Some("gzip")),
            &["cfm", "mcf", "fcm"],
        ),
        (
            "jib",
            Docker::new(&|_| "config.json".into(), &|_, tar| format!("{}.tar.gz", sha256(tar)), Some("gzip")),
            &["fcm"],
        ),
        ("podman", Docker::new(&hex_json, &|_, tar| format!("{}.tar", sha256(tar)), None), &["fcm", "mcf"]),
        ("legacy", Docker::new(&hex_json, &|at, _| format!("{at}a/layer.tar"), None), &["fcm", "cfm", "mfc"]),
        (
            "bazel",
            Docker::new(
                &|c| format!("blobs/sha256/{}", sha256(c)),
                &|_, tar| format!("blobs/sha256/{}", sha256(tar)),
                Some("zstd"),
            ),
            &["mfc", "fcm"],
        ),
        (
            "plain",
            Docker::new(&|_| "./config".into(), &|at, _| format!("./layers//{at}"), Some("xz")),
            &["fcm"],
        ),
    ];
    for (maker, docker, orders) in makers {
        for order in orders {
            let image = world.import_each_way(&format!("{maker} {order}"), &docker.archive(order));
            assert_eq!(image["digest"], json!(digest(&docker.config.1)), "{maker} {order}");
        }
    }
}

#[test]
fn layers_may_be_links_to_what_comes_later() {
    let world = World::new();
    let makers = [
        ("symbolic", Docker::linked(true, &|name| format!("../{name}"))),
        ("symbolic, by other ways", Docker::linked(true, &|name| format!("./..//../{name}"))),
        ("symbolic, absolute", Docker::linked(true, &|name| format!("/{name}"))),
        ("hard", Docker::linked(false, &|name| name.to_owned())),
        ("hard, dotted", Docker::linked(false, &|name| format!("./{name}"))),
    ];
    for (what, docker) in makers {
        for order in ["lfcm", "mclf", "flcm"] {
            world.import_each_way(&format!("{what} {order}"), &docker.archive(order));
        }
    }
    let mut chain = Docker::linked(true, &|name| format!("../{name}"));
    chain.links.extend([
        ("cc/layer.tar".into(), "../aa/layer.tar".into(), true),
        ("dd".into(), "cc/layer.tar".into(), false),
    ]);
    chain.names[0] = "dd".into();
    chain.links.reverse();
    world.import_each_way("a chain", &chain.archive("lfcm"));
    // Two that lead to each other lead nowhere.
    chain.links =
        vec![("aa/layer.tar".into(), "../dd".into(), true), ("dd".into(), "aa/layer.tar".into(), true)];
    assert_error(&world.import(&["-", "new"], &chain.archive("lfcm")), 3, "not-found");
    world.assert_nothing_left("a circle");
}

/// The files of a layout as an archive, in the order that `order` gives their names.
fn archived(dir: &Path, order: &dyn Fn(&str) -> usize, prefix: &str) -> Vec<u8> {
    let mut files: Vec<String> = vec!["oci-layout".into(), "index.json".into()];
    files.extend(
        crate::support::disk::names(&dir.join("blobs/sha256"))
            .into_iter()
            .map(|hex| format!("blobs/sha256/{hex}")),
    );
    files.sort_by_key(|name| order(name));
    files
        .iter()
        .fold(Tar::default(), |tar, name| {
            tar.file(&format!("{prefix}{name}"), &fs::read(dir.join(name)).unwrap())
        })
        .end()
}

#[test]
fn a_layout_comes_in_any_order() {
    let world = World::new();
    let dir = world.path("layout");
    let layers: Vec<_> = layers()
        .iter()
        .zip(["gzip", "zstd"])
        .map(|(tar, packer)| (packed(packer, tar), tar.clone()))
        .collect();
    let digest = layout(&dir, &layers);
    let place = |name: &str| ["index.json", "oci-layout"].iter().position(|fixed| *fixed == name);
    for (what, order) in [("last", 9_usize), ("first", 0)] {
        for prefix in ["", "./", "/"] {
            let archive = archived(&dir, &|name| place(name).map_or(5, |at| at + order), prefix);
            let image = world.import_each_way(&format!("{what} {prefix:?}"), &archive);
            assert_eq!(image["digest"], json!(digest), "{what} {prefix:?}");
        }
    }
}

/// Writes `document` into a layout; gives its descriptor.
fn blob(dir: &Path, kind: &str, document: &Value) -> Value {
    let bytes = document.to_string();
    let digest = sha256(bytes.as_bytes());
    fs::write(dir.join("blobs/sha256").join(&digest), &bytes).unwrap();
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
}

/// The document in a layout that `descriptor` describes.
fn read(dir: &Path, descriptor: &Value) -> Value {
    let hex = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    serde_json::from_slice(&fs::read(dir.join("blobs/sha256").join(hex)).unwrap()).unwrap()
}

#[test]
fn an_index_may_name_what_is_elsewhere_and_what_is_no_image() {
    let world = World::new();
    let dir = world.path("layout");
    let layers: Vec<_> = layers().into_iter().map(|tar| (tar.clone(), tar)).collect();
    let digest = layout(&dir, &layers);
    let top: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
    let with = |mut descriptor: Value, platform: &str| {
        let (os, architecture) = platform.split_once('/').unwrap();
        descriptor["platform"] = json!({ "os": os, "architecture": architecture });
        descriptor
    };
    let image = with(top["manifests"][0].clone(), &format!("linux/{ARCH}"));
    // Docker saves the index of all platforms with the files of one; BuildKit adds what says how an image was made.
    let absent = with(json!({ "digest": format!("sha256:{}", "0".repeat(64)), "size": 1 }), "linux/s390x");
    let attestation =
        with(json!({ "digest": format!("sha256:{}", "1".repeat(64)), "size": 1 }), "unknown/unknown");
    let mut config = blob(&dir, "config.v1+json", &json!({}));
    config["mediaType"] = json!("application/vnd.dev.cosign.artifact.sig.v1+json");
    let signature =
        blob(&dir, "manifest.v1+json", &json!({ "schemaVersion": 2, "config": config, "layers": [] }));
    // One that says of itself that it is for another platform, and a second one for this: whoever reads an index takes the first.
    let again = |platform: &str, variant: &str| {
        let mut again = read(&dir, &image);
        again["annotations"] = json!({ "variant": variant });
        with(blob(&dir, "manifest.v1+json", &again), platform)
    };
    let (other, second) = (again("linux/mips", ""), again(&format!("linux/{ARCH}"), "2"));
    let manifests = json!([absent, signature, attestation, other, image, second]);
    let inner = blob(&dir, "index.v1+json", &json!({ "schemaVersion": 2, "manifests": manifests }));
    let outer = blob(&dir, "index.v1+json", &json!({ "schemaVersion": 2, "manifests": [inner] }));
    fs::write(dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [outer] }).to_string())
        .unwrap();
    let archive = archived(&dir, &|name| name.len(), "");
    assert_eq!(world.import_each_way("an index in an index", &archive)["digest"], json!(digest));
    let other = world.import(&["-", "new", "--platform", "linux/s390x"], &archive);
    let text = whole(&assert_error(&other, 3, "not-found"));
    assert!(text.contains("s390x") && text.contains("cosign") && text.contains(ARCH), "{text}");
}

#[test]
fn what_is_neither_says_what_was_expected() {
    let world = World::new();
    let sources =
        Tar::default().directory("project").file("project/etc/x", b"").file("project/README", b"").end();
    for archive in [sources.clone(), packed("gzip", &sources)] {
        let file = world.path("sources.tar");
        fs::write(&file, &archive).unwrap();
        for output in
            [world.import(&["-", "new"], &archive), world.import(&[file.to_str().unwrap(), "new"], b"")]
        {
            let error = assert_error(&output, 2, "bad-input");
            let text = whole(&error);
            for word in ["project", "index.json", "manifest.json", "bin, etc and usr"] {
                assert!(text.contains(word), "{text}");
            }
            assert!(error["error"]["hint"].as_str().unwrap().contains("--format tar"), "{error}");
            world.assert_nothing_left("neither");
        }
    }
    assert!(world.import(&["-", "new", "--format", "tar"], &sources).status.success(), "the hint's way");
    assert!(world.has("/project/README"));
    world.delete();

    // A directory is a layout or nothing; the hint's tar is taken.
    let dir = world.path("root");
    fs::create_dir_all(dir.join("usr")).unwrap();
    fs::write(dir.join("usr/file"), "content").unwrap();
    let error = assert_error(&world.import(&[dir.to_str().unwrap(), "new"], b""), 2, "bad-input");
    assert!(whole(&error).contains("expected index.json"), "{error}");
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("tar -C DIRECTORY -c . | banger image import - NAME"), "{hint}");
    let tar = run(command("tar").arg("-C").arg(&dir).args(["-c", "."]), b"").stdout;
    assert!(world.import(&["-", "new"], &tar).status.success());
    assert!(world.has("/usr/file"));
}

#[test]
fn a_root_filesystem_may_have_files_that_are_called_as_those_of_images() {
    let world = World::new();
    let tar = Tar::default()
        .file("manifest.json", b"{\"name\":\"app\"}")
        .directory("blobs")
        .file("index.json", b"[]");
    let tar = tar.file("oci-layout", b"").directory("usr").file("usr/file", b"").end();
    let file = world.path("root.tar");
    fs::write(&file, &tar).unwrap();
    for source in [file.to_str().unwrap(), "-"] {
        let image = record(&world.import_again(&[source, "new"], &tar));
        assert_eq!(image["digest"], Value::Null, "{image}");
        assert!(
            ["/manifest.json", "/index.json", "/usr/file"].iter().all(|path| world.has(path)),
            "{source}"
        );
    }
}

#[test]
fn paths_of_layers_are_resolved_as_in_a_container() {
    let world = World::new();
    let lower = Tar::default()
        .directory("/")
        .file("/nix/store/a/bin/sh", b"sh")
        .file("/old", b"lower")
        .directory("dir")
        .file("dir/below", b"")
        .end();
    let upper = Tar::default()
        .hard_link("/bin/sh", "/nix/store/a/bin/sh")
        .file("/.wh.old", b"")
        // Nothing is above the root.
        .symlink("up", "../../nix")
        .file("up/new", b"through the link")
        // What comes later counts.
        .file("twice", b"first")
        .file("twice", b"second")
        .symlink("dir", "nix")
        .end();
    let dir = world.path("layout");
    layout(&dir, &[(lower.clone(), lower), (upper.clone(), upper)]);
    let output = world.import(&[dir.to_str().unwrap(), "new"], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: BTreeMap<&str, &str> = [
        ("/bin/sh", "sh"),
        ("/nix/store/a/bin/sh", "sh"),
        ("/nix/new", "through the link"),
        ("/twice", "second"),
    ]
    .into();
    for (path, content) in expected {
        let found = world.debugfs(&format!("cat {path}"));
        assert!(found.starts_with(content), "{path}: {found}");
    }
    assert!(!world.has("/old") && !world.has("/dir/below"));
    assert!(world.debugfs("stat /dir").contains("Type: symlink"));
}
