//! `banger-disk image pull` and registries: one that behaves, and many that do not. Everything is on loopback.

mod secrets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::disk::DISK;
use crate::support::web::{Asked, Reply, Server};
use crate::support::{SOON, assert_error, command, record, run};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of two layers, and what a registry has of it.
#[derive(Clone)]
struct Content {
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

impl Content {
    fn new() -> Self {
        let config =
            json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } });
        let layer =
            |seed: u32| -> Vec<u8> { (0..200_000_u32).flat_map(|n| (n * seed).to_le_bytes()).collect() };
        let blobs = vec![config.to_string().into_bytes(), layer(3), layer(7)];
        let file = |blob: &Vec<u8>, kind: &str| json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() });
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "config": file(&blobs[0], "application/vnd.oci.image.config.v1+json"),
            "layers": [file(&blobs[1], layer), file(&blobs[2], layer), file(&blobs[1], layer)] });
        let manifest = manifest.to_string().into_bytes();
        let platform = json!({ "os": "linux", "architecture": "amd64" });
        let other = json!({ "os": "linux", "architecture": "s390x" });
        let unknown = json!({ "os": "unknown", "architecture": "unknown" });
        let (zero, size) = (digest(b"other"), manifest.len());
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
            { "mediaType": MANIFEST, "digest": zero, "size": 5, "platform": other },
            { "mediaType": MANIFEST, "digest": digest(&manifest), "size": size, "platform": platform },
            { "mediaType": MANIFEST, "digest": zero, "size": 5, "platform": unknown } ] });
        Self { blobs, manifest, index: index.to_string().into_bytes() }
    }

    /// What an honest registry answers.
    fn answer(&self, asked: &Asked) -> Reply {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        if asked.path.starts_with("/v2/team/image/manifests/") {
            let (body, kind) = match name {
                "v1" => (&self.manifest, MANIFEST),
                "latest" => (&self.index, INDEX),
                name if name == digest(&self.manifest) => (&self.manifest, MANIFEST),
                name if name == digest(&self.index) => (&self.index, INDEX),
                _ => return Reply::new(404, "{}"),
            };
            return Reply::new(200, body.clone()).header("Content-Type", kind);
        }
        match self.blobs.iter().find(|blob| digest(blob) == name) {
            Some(blob) if asked.from() > 0 => {
                let range = format!("bytes {}-{}/{}", asked.from(), blob.len() - 1, blob.len());
                Reply::new(206, &blob[asked.from()..]).header("Content-Range", range)
            }
            Some(blob) => Reply::new(200, blob.clone()),
            None => Reply::new(404, "{}"),
        }
    }
}

/// A directory to pull into, and a home without credentials.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn config(&self, text: &str) {
        fs::create_dir_all(self.dir.path().join(".docker")).unwrap();
        fs::write(self.dir.path().join(".docker/config.json"), text).unwrap();
    }

    fn command(&self, reference: &str, more: &[&str]) -> Command {
        let mut disk = command(DISK.as_str());
        disk.args(["image", "pull", reference, "--layout"]).arg(self.layout()).args(more);
        disk.env("HOME", self.dir.path()).env("BANGER_STATE_DIR", self.dir.path().join("state"));
        // Nobody but this machine is to be asked, whatever the environment says.
        disk.env_remove("DOCKER_CONFIG")
            .env("http_proxy", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1");
        disk
    }

    fn pull(&self, server: &Server, tag: &str) -> Output {
        run(&mut self.command(&format!("{}/team/image{tag}", server.address), &[]), b"")
    }

    fn assert_whole(&self, content: &Content) {
        for bytes in content.blobs.iter().chain([&content.manifest]) {
            let path = self.layout().join("blobs").join(digest(bytes).replace(':', "/"));
            assert!(fs::read(&path).is_ok_and(|read| read == *bytes), "{path:?}");
        }
        let parts = fs::read_dir(self.layout().join("blobs/sha256")).unwrap().flatten();
        let parts: Vec<_> =
            parts.map(|e| e.file_name()).filter(|n| n.to_string_lossy().contains("part")).collect();
        assert!(parts.is_empty(), "{parts:?}");
    }
}

fn all_of(error: &Value) -> String {
    let error = &error["error"];
    format!("{} {} {}", error["message"], error["causes"], error["hint"])
}

#[test]
fn an_image_comes_by_tag_and_by_digest_and_is_pinned() {
    let content = Content::new();
    let server = Server::start({
        let content = content.clone();
        move |asked| content.answer(asked)
    });
    let (by_index, by_manifest) = (digest(&content.index), digest(&content.manifest));
    let table = [
        (":v1".to_owned(), &by_manifest),
        (String::new(), &by_index),
        (format!("@{by_index}"), &by_index),
        (format!(":v1@{by_manifest}"), &by_manifest),
    ];
    for (tag, pinned) in table {
        let place = Place::new();
        let pulled = record(&place.pull(&server, &tag));
        assert_eq!(pulled["schema"], "banger.layout/1");
        assert_eq!(pulled["digest"], json!(by_manifest), "{tag}");
        assert!(pulled["reference"].as_str().unwrap().ends_with(&format!("@{pinned}")), "{pulled}");
        place.assert_whole(&content);
        let index: Value =
            serde_json::from_slice(&fs::read(place.layout().join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], json!(by_manifest));
        // What is there is not asked for again.
        let before = server.asked().len();
        record(&place.pull(&server, &tag));
        assert!(server.asked()[before..].iter().all(|asked| asked.path.contains("/manifests/")), "{tag}");
    }
    let place = Place::new();
    let output = run(
        &mut place.command(&format!("{}/team/image", server.address), &["--platform", "linux/arm64"]),
        b"",
    );
    let error = assert_error(&output, 3, "not-found");
    assert!(all_of(&error).contains("linux/amd64") && !all_of(&error).contains("unknown"), "{error}");
    assert_error(&place.pull(&server, ":none"), 3, "not-found");
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let content = Content::new();
    let cuts = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let (content, cuts) = (content.clone(), cuts.clone());
        move |asked| {
            let mut reply = content.answer(asked);
            // Each time some more, and then the connection breaks.
            if asked.path.contains("/blobs/") && reply.body.len() > 250_000 {
                reply.body.truncate(200_000);
                cuts.fetch_add(1, Ordering::Relaxed);
            }
            reply
        }
    });
    let place = Place::new();
    assert!(place.pull(&server, ":v1").status.success());
    place.assert_whole(&content);
    assert!(cuts.load(Ordering::Relaxed) >= 4);
    let ranges: Vec<usize> = server.asked().iter().map(Asked::from).filter(|from| *from > 0).collect();
    assert!(ranges.contains(&200_000) && ranges.contains(&400_000), "{ranges:?}");

    // What an earlier attempt left, the beginning of something else, and more than there is.
    for (left, asks) in
        [(content.blobs[1][..1000].to_vec(), 1000), (vec![9; 1000], 1000), (vec![9; 900_000], 0)]
    {
        let place = Place::new();
        let blobs = place.layout().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let part = format!("{}.part", digest(&content.blobs[1]).trim_start_matches("sha256:"));
        fs::write(blobs.join(part), left).unwrap();
        let honest = Server::start({
            let content = content.clone();
            move |asked| content.answer(asked)
        });
        let output = place.pull(&honest, ":v1");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place.assert_whole(&content);
        let from: usize = honest.asked().iter().map(Asked::from).max().unwrap();
        assert_eq!(from, asks);
    }
}

/// How a registry misbehaves, the status and code of what comes of it, and what the message must say.
type Lie = (&'static str, fn(&Content, &Asked, Reply) -> Reply, i32, &'static str, &'static str);

fn of_blob(asked: &Asked, content: &Content) -> bool {
    asked.path.ends_with(&digest(&content.blobs[2]))
}

#[test]
fn registries_that_lie_are_told_and_leave_nothing_whole() {
    let table: [Lie; 18] = [
        (
            "a flipped bit",
            |c, a, mut r| {
                if of_blob(a, c) {
                    r.body[5] ^= 1;
                }
                r
            },
            2,
            "bad-input",
            "another content than its digest",
        ),
        (
            "longer than it said",
            |c, a, mut r| {
                if of_blob(a, c) {
                    r.body.push(0);
                    r.length = None;
                }
                r
            },
            2,
            "bad-input",
            "longer than its manifest says",
        ),
        (
            "another length",
            |c, a, mut r| {
                if of_blob(a, c) {
                    r.length = Some(5);
                }
                r
            },
            2,
            "bad-input",
            "has 5 bytes where its manifest says 800000",
        ),
        (
            "10 GB claimed",
            |c, a, mut r| {
                if of_blob(a, c) {
                    r.length = Some(10_000_000_000);
                }
                r
            },
            2,
            "bad-input",
            "has 10000000000 bytes",
        ),
        (
            "endless",
            |c, a, mut r| {
                if of_blob(a, c) {
                    (r.length, r.endless) = (None, true);
                }
                r
            },
            2,
            "bad-input",
            "longer than its manifest says",
        ),
        (
            "nothing at all",
            |c, a, mut r| {
                if of_blob(a, c) {
                    r.body.clear();
                }
                r
            },
            1,
            "failed",
            "does not come through",
        ),
        (
            "another manifest",
            |_, a, mut r| {
                if a.path.contains("/manifests/sha256") {
                    r.body.push(b'\n');
                    r.length = None;
                }
                r
            },
            2,
            "bad-input",
            "has the digest",
        ),
        (
            "another digest in the header",
            |_, a, r| match a.path.contains("/manifests/") {
                true => r.header("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64))),
                false => r,
            },
            2,
            "bad-input",
            "has the digest",
        ),
        (
            "an endless manifest",
            |_, a, mut r| {
                if a.path.contains("/manifests/") {
                    (r.length, r.endless) = (None, true);
                }
                r
            },
            2,
            "bad-input",
            "is larger than",
        ),
        (
            "a manifest of 1 GB",
            |_, a, mut r| {
                if a.path.contains("/manifests/") {
                    r.length = Some(1 << 30);
                }
                r
            },
            2,
            "bad-input",
            "is larger than",
        ),
        (
            "no manifest",
            |_, a, r| match a.path.contains("/manifests/") {
                true => Reply::new(200, "<html>").header("Content-Type", "text/html"),
                false => r,
            },
            2,
            "bad-input",
            "is not JSON",
        ),
        (
            "schema 1",
            |_, a, r| match a.path.contains("/manifests/") {
                true => Reply::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)
                    .header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
                false => r,
            },
            2,
            "bad-input",
            "v1+prettyjws",
        ),
        (
            "redirects without end",
            |_, a, _| Reply::new(302, "").header("Location", format!("{}x", a.path)),
            2,
            "bad-input",
            "redirects more than 5 times",
        ),
        (
            "a redirect to a file",
            |_, _, _| Reply::new(302, "").header("Location", "file:///etc/passwd"),
            2,
            "bad-input",
            "file:///etc/passwd",
        ),
        (
            "a redirect out of this machine",
            |_, _, _| Reply::new(302, "").header("Location", "http://192.0.2.1/x"),
            2,
            "usage",
            "is not encrypted",
        ),
        (
            "a login without end",
            |_, _, _| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
            5,
            "denied",
            "docker login",
        ),
        ("a long wait", |_, _, _| Reply::new(429, "").header("Retry-After", "86400"), 4, "busy", "86400 s"),
        ("an odd status", |_, _, _| Reply::new(418, ""), 1, "failed", "418"),
    ];
    for (what, lie, status, code, said) in table {
        let (content, place, since) = (Content::new(), Place::new(), Instant::now());
        let server = Server::start({
            let content = content.clone();
            move |asked| lie(&content, asked, content.answer(asked))
        });
        let output = place.pull(&server, "");
        let error = assert_error(&output, status, code);
        assert!(all_of(&error).contains(said), "{what}: {error}");
        assert!(since.elapsed() < SOON, "{what} took {:?}", since.elapsed());
        let lied = place.layout().join("blobs").join(digest(&content.blobs[2]).replace(':', "/"));
        assert!(!lied.exists() && !place.layout().join("index.json").exists(), "{what}");
        // A registry that comes to its senses is believed.
        let honest = Server::start(move |asked| content.answer(asked));
        let again = place.pull(&honest, "");
        assert!(again.status.success(), "{what}: {}", String::from_utf8_lossy(&again.stderr));
    }
}

#[test]
fn a_registry_in_trouble_is_asked_again() {
    for (status, header) in [(429, Some("0")), (503, Some("1")), (500, None)] {
        let (content, place) = (Content::new(), Place::new());
        let asked_before = AtomicUsize::new(0);
        let server = Server::start(move |asked| match asked_before.fetch_add(1, Ordering::Relaxed) {
            0 | 2 => match header {
                Some(seconds) => Reply::new(status, "").header("Retry-After", seconds),
                None => Reply::new(status, ""),
            },
            _ => content.answer(asked),
        });
        let output = place.pull(&server, ":v1");
        assert!(output.status.success(), "{status}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let server = Server::start(|_| Reply::new(503, "").header("Retry-After", "0"));
    let error = assert_error(&Place::new().pull(&server, ":v1"), 1, "failed");
    assert!(all_of(&error).contains("503") && server.asked().len() == 4, "{error} {}", server.asked().len());
}

/// A registry that wants `authorization` of everybody, and else answers with `challenge`.
fn guarded(content: &Content, authorization: &str, challenge: &str) -> Server {
    let (content, authorization, challenge) =
        (content.clone(), authorization.to_owned(), challenge.to_owned());
    Server::start(move |asked| match asked.header("authorization") {
        Some(given) if given == authorization => content.answer(asked),
        _ => Reply::new(401, "{}").header("WWW-Authenticate", challenge.clone()),
    })
}

#[test]
fn without_a_registry_the_alternatives_are_named() {
    let place = Place::new();
    // Nobody answers there, and nobody has that name (RFC 6761).
    for registry in ["127.0.0.1:1", "registry.invalid"] {
        let error =
            assert_error(&run(&mut place.command(&format!("{registry}/team/image"), &[]), b""), 1, "failed");
        let said = all_of(&error);
        assert!(said.contains("image import") && said.contains("image build"), "{error}");
        assert!(said.contains(&format!("cannot reach {registry}")), "{error}");
    }
    let error = assert_error(&run(&mut place.command("alpine", &[]), b""), 2, "usage");
    assert!(all_of(&error).contains("--catalog") || all_of(&error).contains("no catalog"), "{error}");
    for bad in ["Team/image", "r.example/a:", "http://r.example/a"] {
        assert_error(&run(&mut place.command(bad, &[]), b""), 2, "usage");
    }
    let config = "{not json, and a secret";
    let server = guarded(&Content::new(), "Basic x", "Basic realm=\"x\"");
    place.config(config);
    let error = assert_error(&place.pull(&server, ":v1"), 1, "failed");
    assert!(all_of(&error).contains("config.json") && !all_of(&error).contains("secret"), "{error}");
    assert_eq!(names_of(&place.layout().join("blobs/sha256")), 0);
}

fn names_of(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn an_image_larger_than_allowed_is_not_begun() {
    let content = Content::new();
    let server = Server::start(move |asked| content.answer(asked));
    let place = Place::new();
    let mut pull =
        place.command(&format!("{}/team/image:v1", server.address), &["--max-download", "1000000"]);
    let error = assert_error(&run(&mut pull, b""), 2, "bad-input");
    assert!(all_of(&error).contains("--max-download"), "{error}");
    assert!(server.asked().iter().all(|asked| !asked.path.contains("/blobs/")));
}
