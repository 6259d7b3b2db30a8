//! A real image by others' tools: made with umoci of Debian's packages, pushed with skopeo to Debian's docker-registry, which asks for
//! a password and has a certificate of the test's own authority, pulled by its digest, booted.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use crate::home::{Home, prepared, said};
use crate::support::{self, record, run};

/// Where the registry is: localhost is asked without encryption. From a range for documentation (RFC 5737).
const ADDRESS: &str = "198.51.100.1";

/// Who may ask the registry, and the same for it: a bcrypt hash, as htpasswd(1) makes it.
const LOGIN: &str = "bob:secret";
const HTPASSWD: &str = "bob:$2b$04$f25CzsGDDtmRIE9lqKapr.JF.RXElzEv6MNIfkwqZZnputff5JUrm\n";

/// Makes an authority, `ca.pem`, and a certificate of its for the registry.
const CERTIFY: &str = r#"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=registry -keyout key.pem -out request
echo "subjectAltName=IP:$2" >extensions
openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out certificate.pem
"#;

/// A registry with its data in a directory; it ends with the test.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        tool("ip", &["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
        tool("sh", &["-euc", CERTIFY, "sh", text(dir), ADDRESS]);
        let port = support::free_port();
        let address = format!("{ADDRESS}:{port}");
        let (config, password) = (dir.join("registry.yml"), dir.join("htpasswd"));
        fs::write(&password, HTPASSWD).unwrap();
        let shown = dir.display();
        let content = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {shown}/registry }} }}\n\
             http: {{ addr: \"{address}\", tls: {{ certificate: {shown}/certificate.pem, key: {shown}/key.pem }} }}\n\
             auth: {{ htpasswd: {{ realm: test, path: {shown}/htpasswd }} }}\n"
        );
        fs::write(&config, content).unwrap();
        let mut registry = support::command("docker-registry");
        let child =
            registry.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { child, address };
        support::eventually("the registry listens", || TcpStream::connect(&registry.address).is_ok());
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let mut ip = support::command("ip");
        run(ip.args(["address", "del", &format!("{ADDRESS}/32"), "dev", "lo"]), b"");
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

/// `vm exec --tty` and `vm ssh`, by script(1) on a terminal.
fn on_a_terminal(home: &Home, words: &str, input: &str) -> Output {
    let line = format!("{} {words}", text(Path::new(crate::home::BANGER)));
    let mut script = support::command("script");
    script.args(["-qec", &line, "/dev/null"]).env("BANGER_STATE_DIR", home.state());
    run(&mut script, input.as_bytes())
}

#[test]
fn an_image_of_debian_packages_is_pulled_by_digest_and_boots() {
    let tools = ["umoci", "skopeo", "docker-registry", "openssl", "script"];
    let there = tools.iter().all(|tool| support::has(tool));
    let reason =
        "a registry and tools for images (umoci, skopeo, docker-registry, openssl, script) are not installed";
    if !support::require("vm", there, reason) {
        return;
    }
    let Some(home) = Home::new() else { return };
    let (root, layout) = (home.path("root"), home.path("layout"));
    debian(&root);
    fs::create_dir(root.join("opt/tool")).unwrap();
    fs::write(root.join("opt/tool/pulled"), "#!/bin/sh\necho from a registry\n").unwrap();
    fs::set_permissions(root.join("opt/tool/pulled"), fs::Permissions::from_mode(0o755)).unwrap();
    let (tagged, digest_file) = (format!("{}:made", text(&layout)), home.path("digest"));
    tool("umoci", &["init", "--layout", text(&layout)]);
    tool("umoci", &["new", "--image", &tagged]);
    tool("umoci", &["insert", "--image", &tagged, text(&root), "/"]);
    let variables = ["PATH=/opt/tool:/usr/bin:/bin", ODD];
    let env = variables.iter().flat_map(|variable| ["--config.env", *variable]);
    let run_as = ["--config.user", "nobody", "--config.entrypoint", "/opt/tool/pulled"];
    tool("umoci", &["config", "--image", &tagged].into_iter().chain(env).chain(run_as).collect::<Vec<_>>());
    fs::remove_dir_all(&root).unwrap();
    let registry = Registry::start(home.dir.path());
    let image = format!("{}/team/made", registry.address);
    let (source, target) = (format!("oci:{tagged}"), format!("docker://{image}:v1"));
    let to = ["--dest-tls-verify=false", "--dest-creds", LOGIN, "--dest-compress-format", "zstd"];
    let copy = ["--insecure-policy", "copy", "--digestfile", text(&digest_file), &source, &target];
    tool("skopeo", &[&copy[..], &to].concat());
    let digest = fs::read_to_string(&digest_file).unwrap().trim().to_owned();
    let pinned = format!("{image}@{digest}");
    let login = base64(LOGIN);
    let auths = serde_json::json!({ "auths": { (registry.address.clone()): { "auth": login } } });
    fs::write(home.path("config.json"), auths.to_string()).unwrap();
    let pull = |reference: &str, ca: Option<&str>| {
        let mut pull = home.banger(&["image", "pull", reference, "pulled", "--json"]);
        pull.env("DOCKER_CONFIG", home.dir.path()).env_remove("SSL_CERT_FILE");
        run(pull.envs(ca.map(|name| ("SSL_CERT_FILE", home.path(name)))), b"")
    };
    let error = support::assert_error(&pull(&pinned, None), 1, "failed");
    assert!(error["error"]["hint"].as_str().unwrap().contains("SSL_CERT_FILE"), "{error}");
    let pulled = record(&pull(&pinned, Some("ca.pem")));
    assert_eq!(pulled["source"], pinned.as_str(), "{pulled}");
    assert_eq!(pulled["digest"], digest.as_str(), "{pulled}");
    assert_eq!(
        (&pulled["run"]["user"], &pulled["run"]["entrypoint"][0]),
        (&"nobody".into(), &"/opt/tool/pulled".into())
    );
    assert!(!home.state().join("cache/oci").exists(), "the download is not kept beside the image");
    // It is there: nothing is downloaded for a second one of its name.
    support::assert_error(&pull(&format!("{image}:v1"), None), 1, "conflict");
    drop(registry);

    // Whoever runs a command in it, and however, has the image's variables; it runs as root, and not what the image would run.
    let repo = home.repo("repo");
    let command = r#"pulled; git log --oneline | wc -l; id -un; printf '%s\n' "$ODD"; exit 7"#;
    let output = home.run(&[
        "vm",
        "run",
        "--name",
        "dev1",
        "--image",
        "pulled",
        text(&repo),
        "--",
        "sh",
        "-c",
        command,
    ]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let odd = ODD.split_once('=').unwrap().1;
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("from a registry\n1\nroot\n{odd}\n"));
    let lines = |output: &Output| String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let terminal = on_a_terminal(&home, "vm exec --tty dev1 -- sh -c 'pulled; printenv ODD'", "");
    assert!(lines(&terminal).contains(&format!("from a registry\n{odd}\n")), "{}", said(&terminal));
    let over_ssh = home.run(&["vm", "ssh", "dev1", "--", "pulled; printenv ODD"]);
    assert_eq!(lines(&over_ssh), format!("from a registry\n{odd}\n"), "{}", said(&over_ssh));
    let shell = on_a_terminal(&home, "vm ssh dev1", "pulled; printenv ODD; exit\n");
    assert!(lines(&shell).contains(&format!("from a registry\n{odd}\n")), "{}", said(&shell));
    let over = home.run(&["vm", "exec", "--env", "ODD=another", "dev1", "--", "printenv", "ODD"]);
    assert_eq!(lines(&over), "another\n");
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}

/// A variable that is hard to quote.
const ODD: &str = r#"ODD=it's a "value" \ $HOME `id` #"#;

/// As ~/.docker/config.json has a login.
fn base64(text: &str) -> String {
    let output = run(&mut support::command("base64"), text.as_bytes());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
