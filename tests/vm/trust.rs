//! What the host trusts, its guests trust: a server whose certificate is of an authority that nobody else knows.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::home::{Home, processes_with, said};
use crate::support::web::{self, Reply};
use crate::support::{self, record, run};

/// Where a guest with user networking finds its host's loopback.
const GATEWAY: &str = "10.0.2.2";

/// Makes an authority, `ca.pem`, and a certificate of its for the server, which serves a repository of git's and a file.
const PREPARE: &str = r#"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/O=Test/CN=authority" -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout key.pem -out request
echo "subjectAltName=IP:$2,IP:127.0.0.1" >extensions
openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out certificate.pem
mkdir -p www/repo.git/info
echo served >www/file
echo "{}" >www/index.json
echo "0123456789012345678901234567890123456789	refs/heads/served" >"www/repo.git/info/refs?service=git-upload-pack"
echo "ref: refs/heads/served" >www/repo.git/HEAD
"#;

/// A server that ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let prepared = run(support::command("sh").args(["-euc", PREPARE, "sh"]).arg(dir).arg(GATEWAY), b"");
        assert!(prepared.status.success(), "{}", said(&prepared));
        let port = support::free_port();
        let mut server = support::command("openssl");
        server.args(["s_server", "-quiet", "-WWW", "-accept", &format!("127.0.0.1:{port}")]);
        server.args(["-cert", "../certificate.pem", "-key", "../key.pem"]).current_dir(dir.join("www"));
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, url: format!("https://{GATEWAY}:{port}") };
        support::eventually("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `banger` where the user named `authority`, and no other.
fn banger(home: &Home, authority: Option<&str>, args: &[&str]) -> Output {
    let mut banger = home.banger(args);
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"] {
        banger.env_remove(variable);
    }
    run(banger.envs(authority.map(|name| ("NODE_EXTRA_CA_CERTS", home.path(name)))), b"")
}

/// Starts the VM anew and gives the record's list of authorities.
fn restart(home: &Home, authority: Option<&str>, options: &[&str]) -> Value {
    let stopped = home.run(&["vm", "stop", "dev1"]);
    assert!(stopped.status.success(), "{}", said(&stopped));
    let args = [options, &["vm", "start", "dev1", "--json"]].concat();
    record(&banger(home, authority, &args))["disk"]["host_ca"].clone()
}

/// What a shell in the guest prints of `script`.
fn shell(home: &Home, script: &str) -> String {
    let output = home.run(&["vm", "exec", "dev1", "--", "sh", "-c", script]);
    assert!(output.status.success(), "{script}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that may trust the server: with the variables, without them, by a directory of OpenSSL's, by git's library.
fn attempts(server: &Server) -> String {
    let Server { url, .. } = server;
    let address = url.trim_start_matches("https://");
    format!(
        r#"
        try() {{ name=$1; shift; "$@" >/tmp/said 2>&1 </dev/null && echo "$name yes" || echo "$name no"; }}
        try curl curl -sS --max-time 20 {url}/file
        try plain env -i /usr/bin/curl -sS --max-time 20 {url}/file
        try directory env -i /usr/bin/openssl s_client -connect {address} -CApath /etc/ssl/certs -no-CAfile -verify_return_error
        try git env GIT_TERMINAL_PROMPT=0 git ls-remote {url}/repo.git
        "#
    )
}

const TRUSTED: &str = "curl yes\nplain yes\ndirectory yes\ngit yes\n";
const UNTRUSTED: &str = "curl no\nplain no\ndirectory no\ngit no\n";

/// The authority's digest, as openssl(1) has it.
fn digest(home: &Home) -> String {
    let mut openssl = support::command("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(home.path("ca.pem"));
    let line = String::from_utf8_lossy(&run(&mut openssl, b"").stdout).into_owned();
    line.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
}

fn is_listed(listed: &Value, digest: &str) -> bool {
    listed
        .as_array()
        .unwrap()
        .iter()
        .any(|ca| ca["sha256"] == digest && ca["subject"] == "CN=authority,O=Test")
}

#[test]
fn a_guest_trusts_the_hosts_authorities_as_long_as_the_host_does() {
    if !support::require("vm", support::has("openssl"), "openssl is not installed") {
        return;
    }
    let Some(home) = Home::new() else { return };
    let server = Server::start(home.dir.path());
    let (attempts, digest) = (attempts(&server), digest(&home));
    let repo = home.repo("repo");
    let ran = banger(
        &home,
        None,
        &["vm", "run", "--name", "dev1", "--net", "user", repo.to_str().unwrap(), "--", "true"],
    );
    assert!(ran.status.success(), "{}", said(&ran));
    let listed = restart(&home, Some("ca.pem"), &[]);
    assert!(is_listed(&listed, &digest), "{listed}");
    assert_eq!(shell(&home, &attempts), TRUSTED);
    // Who comes by another way has the variables, too.
    let over_ssh = home.run(&["vm", "ssh", "dev1", "--", "printenv SSL_CERT_FILE NODE_EXTRA_CA_CERTS"]);
    let variables = "/etc/ssl/certs/ca-certificates.crt\n/etc/banger/host-ca.pem\n";
    assert_eq!(String::from_utf8_lossy(&over_ssh.stdout), variables, "{}", said(&over_ssh));
    assert_eq!(shell(&home, "su -l -c 'printenv SSL_CERT_FILE NODE_EXTRA_CA_CERTS'"), variables);
    let files = "stat -c %a /etc/banger /etc/banger/host-ca.pem; test ! -e /run/banger/host-bundle.pem";
    assert_eq!(shell(&home, files), "755\n644\n");
    // What the guest's owner sets stays, and the distribution's own tool makes a bundle that is as good: of few certificates here, since
    // it takes a second for each two in an emulated machine.
    shell(
        &home,
        "echo PIP_CERT=/of/the/user >/etc/environment; sed -i '/ISRG/!s/^mozilla/!&/' /etc/ca-certificates.conf",
    );
    shell(&home, "update-ca-certificates 2>&1");
    let bundle =
        "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; sha256sum /etc/ssl/certs/ca-certificates.crt";
    let first = shell(&home, bundle);
    assert_eq!(shell(&home, "printenv PIP_CERT"), "/of/the/user\n");
    let over_ssh = home.run(&["vm", "ssh", "dev1", "--", "printenv PIP_CERT"]);
    assert_eq!(String::from_utf8_lossy(&over_ssh.stdout), "");
    assert_eq!(shell(&home, &attempts), TRUSTED);

    // The same again makes the same of it; what the host has no longer, and what is not wanted, is taken out.
    restart(&home, Some("ca.pem"), &[]);
    assert_eq!((shell(&home, bundle), shell(&home, &attempts)), (first, TRUSTED.to_owned()));
    let listed = restart(&home, None, &[]);
    assert!(!is_listed(&listed, &digest), "{listed}");
    assert_eq!(shell(&home, &attempts), UNTRUSTED);
    fs::write(home.path("none.toml"), "[trust]\nhost_ca = \"none\"\n").unwrap();
    let none = home.path("none.toml");
    let listed = restart(&home, Some("ca.pem"), &["--config", none.to_str().unwrap()]);
    assert_eq!(listed, Value::Array(Vec::new()));
    assert_eq!(shell(&home, &attempts), UNTRUSTED);
    let left = "ls /etc/banger/host-ca /usr/local/share/ca-certificates; printenv SSL_CERT_FILE; find /etc/profile.d -name '*trust*'";
    assert_eq!(
        shell(&home, &format!("{left}; ls -d /etc/banger/host-ca.pem || :")),
        "/etc/banger/host-ca:\n\n/usr/local/share/ca-certificates:\n"
    );
    home.run(&["vm", "delete", "--force", "dev1"]);
    home.assert_clean();
}

#[test]
fn bangers_own_downloads_trust_the_hosts_authorities() {
    if !support::require("vm", support::has("openssl"), "openssl is not installed") {
        return;
    }
    let Some(home) = Home::new() else { return };
    let server = Server::start(home.dir.path());
    let index = format!("{}/index.json", server.url.replace(GATEWAY, "127.0.0.1"));
    let asked = |authority: Option<&str>, options: &[&str]| {
        let output =
            banger(&home, authority, &[&["kernel", "pull", "some", "--catalog", &index], options].concat());
        assert!(!output.status.success());
        said(&output)
    };
    // What comes then is not a catalog.
    let trusted = asked(Some("ca.pem"), &[]);
    assert!(trusted.contains("index.json") && !trusted.contains("cannot trust"), "{trusted}");
    for (authority, options) in [(None, &[][..]), (Some("ca.pem"), &["--host-ca", "none"])] {
        let untrusted = asked(authority, options);
        assert!(untrusted.contains("cannot trust the certificate of 127.0.0.1"), "{untrusted}");
    }
}

#[test]
fn commands_ask_through_the_configured_proxy_as_long_as_it_is_configured() {
    let Some(home) = Home::new() else { return };
    let server = web::Server::start(|asked| Reply::new(200, format!("asked for {}\n", asked.path)));
    let port = server.address.rsplit(':').next().unwrap();
    let config = home.path("proxy.toml");
    fs::write(&config, format!("[vm]\nproxy = \"http://me:s3cret@{GATEWAY}:{port}\"\n")).unwrap();
    let (repo, config) = (home.repo("repo"), config.to_str().unwrap());
    let script = format!("curl -sS http://nowhere.invalid/x; curl -sS http://{GATEWAY}:{port}/directly");
    let args = ["--config", config, "vm", "run", "--name", "dev1", "--net", "user", repo.to_str().unwrap()];
    let ran = home.run(&[&args[..], &["--", "sh", "-c", &script]].concat());
    let answers = "asked for http://nowhere.invalid/x\nasked for /directly\n";
    assert_eq!(String::from_utf8_lossy(&ran.stdout), answers, "{}", said(&ran));
    let names: Vec<_> =
        server.asked().iter().map(|asked| asked.header("proxy-authorization").is_some()).collect();
    assert_eq!(names, [true, false], "the proxy alone is told who asks");
    let over_ssh = home.run(&["vm", "ssh", "dev1", "--", "printenv HTTPS_PROXY"]);
    assert_eq!(
        over_ssh.stdout,
        format!("http://me:s3cret@{GATEWAY}:{port}\n").as_bytes(),
        "{}",
        said(&over_ssh)
    );
    assert_eq!(processes_with("s3cret"), Vec::<String>::new());
    restart(&home, None, &[]);
    assert_eq!(shell(&home, "printenv http_proxy; grep -rl s3cret /etc /run/banger/environment; :"), "");
    home.run(&["vm", "delete", "--force", "dev1"]);
    home.assert_clean();
}
