//! A real image by others' tools: made with umoci of Debian's packages, pushed with skopeo to Debian's docker-registry, pulled by its
//! digest, booted.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::home::{Home, prepared, said};
use crate::support::{self, record, run};

/// A registry with its data in a directory; it ends with the test.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.join("registry.yml");
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{address}\" }}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut registry = support::command("docker-registry");
        let child =
            registry.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { child, address };
        let since = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(since.elapsed() < Duration::from_secs(30), "the registry does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a program that must succeed.
fn tool(program: &str, args: &[&str]) {
    let output = run(support::command(program).args(args), b"");
    assert!(output.status.success(), "{program} {args:?}: {}", said(&output));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path is text")
}

/// The files of the prepared image, which mmdebstrap made of Debian's packages, without those that no command needs.
fn debian(root: &Path) {
    fs::create_dir(root).unwrap();
    let rootfs = prepared().join("images/debian/rootfs.ext4");
    let debugfs = which::which("debugfs").unwrap_or_else(|_| PathBuf::from("/usr/sbin/debugfs"));
    tool(text(&debugfs), &["-R", &format!("rdump / {}", root.display()), text(&rootfs)]);
    for unused in ["usr/lib/modules", "usr/share/perl", "usr/share/i18n", "usr/share/zoneinfo", "lost+found"]
    {
        drop(fs::remove_dir_all(root.join(unused)));
    }
}

#[test]
fn an_image_of_debian_packages_is_pulled_by_digest_and_boots() {
    let tools = ["umoci", "skopeo", "docker-registry"];
    let there = tools.iter().all(|tool| support::has(tool));
    let reason = "a registry and tools for images (umoci, skopeo, docker-registry) are not installed";
    if !support::require("vm", there, reason) {
        return;
    }
    let Some(home) = Home::new() else { return };
    let (root, layout) = (home.path("root"), home.path("layout"));
    debian(&root);
    fs::write(root.join("etc/pulled"), "from a registry\n").unwrap();
    let (tagged, digest_file) = (format!("{}:made", text(&layout)), home.path("digest"));
    tool("umoci", &["init", "--layout", text(&layout)]);
    tool("umoci", &["new", "--image", &tagged]);
    tool("umoci", &["insert", "--image", &tagged, text(&root), "/"]);
    fs::remove_dir_all(&root).unwrap();
    let registry = Registry::start(home.dir.path());
    let image = format!("{}/team/made", registry.address);
    let target = format!("docker://{image}:v1");
    tool(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "--digestfile",
            text(&digest_file),
            &format!("oci:{tagged}"),
            &target,
        ],
    );
    let digest = fs::read_to_string(&digest_file).unwrap().trim().to_owned();
    let pinned = format!("{image}@{digest}");
    let pulled = record(&home.run(&["image", "pull", &pinned, "pulled", "--json"]));
    assert_eq!(pulled["source"], pinned.as_str(), "{pulled}");
    assert_eq!(pulled["digest"], digest.as_str(), "{pulled}");
    assert!(!home.state().join("cache/oci").exists(), "the download is not kept beside the image");
    // It is there: nothing is downloaded for a second one of its name.
    support::assert_error(
        &home.run(&["image", "pull", &format!("{image}:v1"), "pulled", "--json"]),
        1,
        "conflict",
    );
    drop(registry);
    let repo = home.repo("repo");
    let command = "cat /etc/pulled; git log --oneline | wc -l; exit 7";
    let args = ["vm", "run", "--rm", "--image", "pulled", text(&repo), "--", "sh", "-c", command];
    let output = home.run(&args);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from a registry\n1\n");
    home.assert_clean();
}
