//! Catalogs: `image pull NAME`, `kernel pull NAME`, and what `vm create` takes from one by itself. Everything is on loopback.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::disk::{DISK, names};
use crate::support::kernel::{RELEASE, deb, install};
use crate::support::web::{Asked, Reply, Server};
use crate::support::{assert_error, command, record, run};

/// The files of a catalog by path.
#[derive(Clone)]
struct Content(Vec<(&'static str, Vec<u8>)>);

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Content {
    /// An image `debian`, which is a tar, with a kernel, which is a package.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, package) = (dir.path().join("root"), dir.path().join("linux.deb"));
        fs::create_dir(&root).unwrap();
        install(&root, "lib");
        deb(&package, &root, "--xz", ".xz");
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::create_dir_all(tree.join("root")).unwrap();
        fs::write(tree.join("etc/hello"), "hello").unwrap();
        let tar = run(command("tar").arg("-C").arg(&tree).args(["-cz", "--owner=0", "--group=0", "."]), b"");
        assert!(tar.status.success());
        let (image, package) = (tar.stdout, fs::read(package).unwrap());
        let arch = std::env::consts::ARCH;
        let file = |url: &str, bytes: &[u8]| json!({ "url": url, "sha256": sha256(bytes), "size_bytes": bytes.len() });
        let mut entry = file("files/debian.tar.gz", &image);
        entry["name"] = "debian".into();
        entry["arch"] = arch.into();
        entry["kernel"] = "stock".into();
        entry["description"] = "keys that are not known do not count".into();
        let catalog = json!({ "schema": "banger.catalog/1", "images": [entry],
            "kernels": [{ "name": "stock", "arch": arch, "files": [file("/c/files/linux.deb", &package)] }] });
        Self(vec![
            ("/c/index.json", catalog.to_string().into_bytes()),
            ("/c/files/debian.tar.gz", image),
            ("/c/files/linux.deb", package),
        ])
    }

    fn answer(&self, asked: &Asked) -> Reply {
        match self.0.iter().find(|(path, _)| *path == asked.path) {
            Some((_, bytes)) if asked.from() > 0 => Reply::new(206, &bytes[asked.from()..]).header(
                "Content-Range",
                format!("bytes {}-{}/{}", asked.from(), bytes.len() - 1, bytes.len()),
            ),
            Some((_, bytes)) => Reply::new(200, bytes.clone()),
            None => Reply::new(404, ""),
        }
    }

    fn server(&self) -> Server {
        let content = self.clone();
        Server::start(move |asked| content.answer(asked))
    }
}

fn program(path: &str, state: &Path, url: &str, args: &[&str]) -> Command {
    let mut program = command(path);
    program.args(args).env("BANGER_STATE_DIR", state).env("HOME", state).env_remove("XDG_CONFIG_HOME");
    program.env("BANGER_CATALOG", url);
    program
}

fn disk(state: &Path, url: &str, args: &[&str]) -> Output {
    run(&mut program(DISK.as_str(), state, url, args), b"")
}

fn url(server: &Server) -> String {
    format!("http://{}/c/index.json", server.address)
}

fn all_of(error: &Value) -> String {
    let error = &error["error"];
    format!("{} {} {}", error["message"], error["causes"], error["hint"])
}

fn there(state: &Path) -> Vec<String> {
    ["images", "kernels"].iter().flat_map(|dir| names(&state.join(dir))).collect()
}

#[test]
fn an_image_comes_with_the_kernel_that_it_names() {
    let (content, state) = (Content::new(), tempfile::tempdir().unwrap());
    let server = content.server();
    let pulled = record(&disk(state.path(), &url(&server), &["image", "pull", "debian", "mine"]));
    assert_eq!(pulled["name"], "mine");
    assert_eq!(pulled["kernel_version"], RELEASE);
    assert_eq!(pulled["source"], format!("http://{}/c/files/debian.tar.gz", server.address));
    assert_eq!(pulled["missing"], json!([]));
    assert_eq!(there(state.path()), ["mine", "stock"]);
    assert!(!state.path().join("cache/files").exists(), "downloads are not kept");
    // The kernel is there: it is not asked for again.
    let before = server.asked().len();
    record(&disk(state.path(), &url(&server), &["image", "pull", "debian", "other"]));
    assert!(server.asked()[before..].iter().all(|asked| !asked.path.ends_with(".deb")));
    assert_error(&disk(state.path(), &url(&server), &["image", "pull", "debian", "other"]), 1, "conflict");
    assert_error(&disk(state.path(), &url(&server), &["kernel", "pull", "stock"]), 1, "conflict");
    record(&disk(state.path(), "", &["kernel", "delete", "stock"]));
    let kernel = record(&disk(state.path(), &url(&server), &["kernel", "pull", "stock"]));
    assert_eq!(kernel["version"], RELEASE);
}

#[test]
fn what_a_vm_lacks_is_taken_from_the_catalog() {
    let (content, state) = (Content::new(), tempfile::tempdir().unwrap());
    let server = content.server();
    let banger = |url: &str, args: &[&str]| {
        let mut banger = program(env!("CARGO_BIN_EXE_banger"), state.path(), url, args);
        // Nothing here can build an image.
        run(banger.env("PATH", "/nonexistent"), b"")
    };
    let none = banger(&url(&server), &["vm", "create", "dev1", "--net", "user", "--image", "none", "--json"]);
    let error = assert_error(&none, 3, "not-found");
    assert!(all_of(&error).contains("it has: debian"), "{error}");
    let output = banger(&url(&server), &["vm", "create", "dev1", "--net", "user"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(there(state.path()), ["debian", "stock"]);

    // Offline the default image is built, and another one has its alternatives named.
    let empty = tempfile::tempdir().unwrap();
    let mut create = program(
        env!("CARGO_BIN_EXE_banger"),
        empty.path(),
        "http://127.0.0.1:1/c",
        &["vm", "create", "dev1", "--net", "user", "--json"],
    );
    let output = run(create.env("PATH", "/nonexistent"), b"");
    assert_error(&output, 5, "unsupported");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot reach 127.0.0.1:1") && said.contains("building the image instead"),
        "{said}"
    );
    let error =
        assert_error(&disk(empty.path(), "http://127.0.0.1:1/c", &["image", "pull", "tools"]), 1, "failed");
    assert!(all_of(&error).contains("image build") && all_of(&error).contains("image import"), "{error}");
}

/// What is wrong with a catalog, the status and code of what comes of it, and what the message must say.
type Lie = (&'static str, fn(&Asked, Reply) -> Reply, i32, &'static str, &'static str);

fn in_index(asked: &Asked, reply: Reply, from: &str, to: &str) -> Reply {
    if !asked.path.ends_with("index.json") {
        return reply;
    }
    Reply::new(200, String::from_utf8(reply.body).unwrap().replace(from, to))
}

#[test]
fn catalogs_that_lie_are_told_and_leave_nothing() {
    let table: [Lie; 11] = [
        (
            "a flipped bit",
            |a, mut r| {
                if a.path.ends_with(".gz") {
                    r.body[20] ^= 1;
                }
                r
            },
            2,
            "bad-input",
            "its digest is another one",
        ),
        (
            "longer",
            |a, mut r| {
                if a.path.ends_with(".gz") {
                    r.body.push(0);
                    r.length = None;
                }
                r
            },
            2,
            "bad-input",
            "longer than the catalog says",
        ),
        (
            "endless",
            |a, mut r| {
                if a.path.ends_with(".gz") {
                    (r.length, r.endless) = (None, true);
                }
                r
            },
            2,
            "bad-input",
            "longer than the catalog says",
        ),
        (
            "another length",
            |a, mut r| {
                if a.path.ends_with(".gz") {
                    r.length = Some(1 << 40);
                }
                r
            },
            2,
            "bad-input",
            "another length",
        ),
        (
            "nothing",
            |a, mut r| {
                if a.path.ends_with(".gz") {
                    r.body.clear();
                }
                r
            },
            1,
            "failed",
            "does not come through",
        ),
        (
            "an endless index",
            |_, mut r| {
                (r.length, r.endless) = (None, true);
                r
            },
            2,
            "bad-input",
            "larger than a catalog can be",
        ),
        ("no index", |_, _| Reply::new(200, "<html>"), 2, "bad-input", "is not a catalog"),
        (
            "another schema",
            |a, r| in_index(a, r, "banger.catalog/1", "banger.catalog/9"),
            2,
            "bad-input",
            "catalog",
        ),
        (
            "another architecture",
            |a, r| in_index(a, r, std::env::consts::ARCH, "vax"),
            3,
            "not-found",
            "debian",
        ),
        (
            "a file of this machine",
            |a, r| in_index(a, r, "files/debian", "file:///etc/debian"),
            2,
            "bad-input",
            "no address",
        ),
        (
            "a digest of another kind",
            |a, r| in_index(a, r, "\"sha256\":\"", "\"sha256\":\"../"),
            2,
            "bad-input",
            "digest",
        ),
    ];
    for (what, lie, status, code, said) in table {
        let (content, state) = (Content::new(), tempfile::tempdir().unwrap());
        let server = Server::start(move |asked| lie(asked, content.answer(asked)));
        let mut pull = program(DISK.as_str(), state.path(), &url(&server), &["image", "pull", "debian"]);
        let error = assert_error(&run(&mut pull, b""), status, code);
        assert!(all_of(&error).contains(said), "{what}: {error}");
        assert!(names(&state.path().join("images")).is_empty(), "{what}");
    }
    let state = tempfile::tempdir().unwrap();
    for (url, status, code) in [
        ("http://192.0.2.1/c", 2, "usage"),
        ("ftp://127.0.0.1/c", 2, "usage"),
        ("file:///etc/passwd", 2, "usage"),
    ] {
        assert_error(&disk(state.path(), url, &["image", "pull", "debian"]), status, code);
    }
}
