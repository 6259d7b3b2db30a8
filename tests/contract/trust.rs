//! The host's authorities, from where the user named them into the record and the initrd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::disk::{Bench, vm_dir};
use crate::support::web::{Reply, Server};
use crate::support::{assert_error, command, record, run};

/// An authority, and what its record says.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\nMIICMDCCAdegAwIBAgIURt+Xd4fw5dTqf6lYDgINj46q2sAwCgYIKoZIzj0EAwIw\nbTELMAkGA1UEBhMCREUxIzAhBgNVBAoMGiAgw5xuw69jb2RlICAgV29ya3MgIEdt\nYkggMSAwDAYDVQQLDAVUcnVzdDAQBgoJkiaJk/IsZAEBDAI3NzEXMBUGA1UEAwwO\nUm9vdCBDQSAoVGVzdCkwIBcNMjYxMjAxMDUwNzIwWhgPMjEyNjExMDcwNTA3MjBa\nMG0xCzAJBgNVBAYTAkRFMSMwIQYDVQQKDBogIMOcbsOvY29kZSAgIFdvcmtzICBH\nbWJIIDEgMAwGA1UECwwFVHJ1c3QwEAYKCZImiZPyLGQBAQwCNzcxFzAVBgNVBAMM\nDlJvb3QgQ0EgKFRlc3QpMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhNbgGS+A\nsemBBrQjzP/QI0YBDEPGsvGbr+mj3pcYNKa5ECKUt3Z4B9EC++9u+DX3QzlnIUjd\nd+GtbY2sBChW26NTMFEwHQYDVR0OBBYEFFJzsSNUntjwCnPbog1hL4HAzIs/MB8G\nA1UdIwQYMBaAFFJzsSNUntjwCnPbog1hL4HAzIs/MA8GA1UdEwEB/wQFMAMBAf8w\nCgYIKoZIzj0EAwIDRwAwRAIgfR/JhDqQpWqb1uWTzgL1dqwu6xMkVtTaR1RMQAYa\nogQCIA2vS7qk8xDxMCQNHS8KfE2cYzfHkN2s1FluMaIsV37S\n-----END CERTIFICATE-----\n";
const DIGEST: &str = "846f51f9de592540d5d6d25a6a18a3f3a6ce27f806d1f504f4f95c86ca47ac7d";
/// A server's certificate.
const SERVER: &str = "-----BEGIN CERTIFICATE-----\nMIIBgDCCASagAwIBAgIUYW6UhuQ7D7lu3m/U5KZTz+WNa1MwCgYIKoZIzj0EAwIw\nFjEUMBIGA1UEAwwLc2VydmVyLnRlc3QwIBcNMjYxMjAxMDUwNzIwWhgPMjEyNjEx\nMDcwNTA3MjBaMBYxFDASBgNVBAMMC3NlcnZlci50ZXN0MFkwEwYHKoZIzj0CAQYI\nKoZIzj0DAQcDQgAEGxkf32rzepFBoR0zTaHZf9Ro5+v0pE3UbtLm3cw+Uj0C/qJ0\n0GUdNefqDYJgSW+9S/dwzcjiZ5yl1/h07w02LqNQME4wHQYDVR0OBBYEFJn7OWRT\nh5QuCu6Xnon+LCLsBgIXMB8GA1UdIwQYMBaAFJn7OWRTh5QuCu6Xnon+LCLsBgIX\nMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSAAwRQIhALjiOlc/JAvjfMTRsueR\n9fFeRASXcGlQ72/TiKMdAVurAiBvjQUaFs8ihFE4GsI/8ksVfmDP6iE4+Z7zLP5U\nvvLR5g==\n-----END CERTIFICATE-----\n";

/// Attaches with a file named as a user names one, and no other.
fn attach(bench: &Bench, document: &Value, named: Option<&Path>, args: &[&str]) -> Output {
    let mut disk = bench.disk_command();
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"] {
        disk.env_remove(variable);
    }
    disk.arg("attach").args(args).envs(named.map(|path| ("CURL_CA_BUNDLE", path)));
    run(&mut disk, document.to_string().as_bytes())
}

fn is_listed(attached: &Value) -> bool {
    let listed = attached["disk"]["host_ca"].as_array().expect("a list");
    let ours: Vec<_> = listed.iter().filter(|ca| ca["sha256"] == DIGEST).collect();
    ours.iter().for_each(|ca| assert!(ca["subject"].as_str().unwrap().contains("CN=Root CA (Test)"), "{ca}"));
    !ours.is_empty()
}

fn initrd_has(attached: &Value, text: &str) -> bool {
    let initrd = fs::read(vm_dir(attached).join("initrd")).unwrap();
    initrd.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn an_authority_that_the_user_named_travels_and_follows_the_host() {
    let bench = Bench::new();
    let (file, key) = (bench.state().join("ca.pem"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
    fs::write(&file, [key, SERVER, AUTHORITY].concat()).unwrap();
    let planned = bench.planned("dev1");
    let output = attach(&bench, &planned, Some(&file), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("ca.pem\" (CURL_CA_BUNDLE), certificate 1: it is not that of an authority"),
        "{said}"
    );
    let attached = record(&output);
    assert!(is_listed(&attached), "{attached}");
    assert!(initrd_has(&attached, DIGEST) && !initrd_has(&attached, "c2VjcmV0"), "and no private key");
    // Nothing but subject and digest is told.
    let keys: Vec<_> = attached["disk"]["host_ca"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["subject", "sha256"]);

    let again = record(&attach(&bench, &attached, Some(&file), &[]));
    assert_eq!(again["result"]["changed"], false);
    let error = assert_error(&attach(&bench, &attached, None, &[]), 1, "conflict");
    assert!(error["error"]["message"].as_str().unwrap().contains("authorities of the host"), "{error}");
    let fresh = record(&attach(&bench, &planned, None, &[]));
    assert!(!is_listed(&fresh) && !initrd_has(&fresh, DIGEST), "{fresh}");
    let none = record(&attach(&bench, &planned, Some(&file), &["--host-ca", "none"]));
    assert_eq!(none["disk"]["host_ca"], json!([]));
}

#[test]
fn the_configuration_reaches_the_stage() {
    let bench = Bench::new();
    bench.planned("dev1");
    let config = bench.state().join("config.toml");
    let explained = |text: &str| {
        fs::write(&config, text).unwrap();
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        banger.args(["vm", "start", "dev1", "--explain"]).env("BANGER_STATE_DIR", bench.state());
        let output = run(banger.env("BANGER_CONFIG", &config), b"");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert!(!explained("").1.contains("host-ca"));
    let (status, text) = explained("[trust]\nhost_ca = \"none\"\n");
    assert!(status == Some(0) && text.contains("banger-disk attach --host-ca=none"), "{text}");
    let (status, text) = explained("[trust]\nhost_ca = \"all\"\n");
    assert!(status == Some(2) && text.contains(":2: trust.host_ca is \"all\""), "{text}");
}

#[test]
fn a_proxys_password_reaches_the_guest_and_nobody_else() {
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    let with = |value: &str| {
        let mut disk = bench.disk_command();
        run(
            disk.args(["attach", "--host-ca=none"]).env("BANGER_VM_PROXY", value),
            planned.to_string().as_bytes(),
        )
    };
    let output = with("http://me:s3cret@proxy.test:3128");
    let attached = record(&output);
    assert_eq!(attached["disk"]["proxy"], "http://proxy.test:3128");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("s3cret"));
    assert!(initrd_has(&attached, r#""HTTPS_PROXY":"http://me:s3cret@proxy.test:3128""#));
    assert!(initrd_has(&attached, r#""no_proxy":"localhost,127.0.0.1,::1,10.0.2.2,.vm""#));
    for name in ["initrd", "attached.json", "handles.json"] {
        let path = vm_dir(&attached).join(name);
        let holds = fs::read(&path).unwrap().windows(6).any(|window| window == b"s3cret");
        assert!(!holds || path.metadata().unwrap().permissions().mode() & 0o077 == 0, "{path:?}");
    }
    let error = assert_error(&with("http://me:s3cret@proxy.test:port"), 2, "usage");
    assert!(!error.to_string().contains("s3cret"), "{error}");

    let config = bench.state().join("config.toml");
    fs::write(&config, "[vm]\nproxy = \"http://me:s3cret@proxy.test:3128\"\n").unwrap();
    for args in
        [&["vm", "start", "dev1", "--explain"][..], &["config", "show"], &["config", "show", "--json"]]
    {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        let output =
            run(banger.args(args).env("BANGER_STATE_DIR", bench.state()).env("BANGER_CONFIG", &config), b"");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && !text.contains("s3cret"), "{text}");
        assert!(args[0] == "vm" || text.contains("http://proxy.test:3128"), "{text}");
    }
    fs::write(&config, "[vm]\nproxy = \"http://me:s3cret@proxy.test:port\"\n").unwrap();
    let mut banger = command(env!("CARGO_BIN_EXE_banger"));
    let output = run(banger.args(["config", "check"]).env("BANGER_CONFIG", &config), b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && text.contains(":2: vm.proxy is") && !text.contains("s3cret"),
        "{text}"
    );
}

/// Every variable about a proxy.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

#[test]
fn downloads_go_through_the_proxy_that_the_environment_names() {
    let bench = Bench::new();
    let proxy = Server::start(|_| Reply::new(502, "no"));
    let address = format!("http://{}", proxy.address);
    let pull = |variables: &[(&str, &str)]| {
        let mut disk = bench.disk_command();
        for name in PROXIES {
            disk.env_remove(name);
        }
        disk.args(["image", "pull", "registry.invalid/team/made", "made", "--kernel-from", "debian"]);
        let output = run(disk.envs(variables.iter().copied()), b"");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (count, name) in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().enumerate() {
        let said = pull(&[(name, &address)]);
        let asked = proxy.asked();
        assert_eq!(asked.len(), count + 1, "{name}: {said}");
        assert_eq!((&*asked[count].method, &*asked[count].path), ("CONNECT", "registry.invalid:443"));
    }
    for name in ["no_proxy", "NO_PROXY"] {
        pull(&[("HTTPS_PROXY", &address), (name, "other.test,registry.invalid")]);
        assert_eq!(proxy.asked().len(), 4, "{name}");
    }
}

#[test]
fn the_configuration_says_whom_downloads_and_builds_trust() {
    let bench = Bench::new();
    let config = bench.state().join("config.toml");
    fs::write(&config, "[trust]\nhost_ca = \"none\"\n").unwrap();
    let explained = |args: &[&str]| {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        banger.args(args).env("BANGER_STATE_DIR", bench.state()).env("BANGER_CONFIG", &config);
        String::from_utf8_lossy(&run(&mut banger, b"").stdout).into_owned()
    };
    for args in [&["--explain", "image", "build"][..], &["--explain", "image", "pull", "a.test/b"]] {
        assert!(explained(args).contains("--host-ca=none"), "{args:?}");
        let said = explained(&[args, &["--host-ca", "auto"]].concat());
        assert!(said.contains("--host-ca=auto") && !said.contains("none"), "{said}");
    }
    assert!(explained(&["--explain", "kernel", "pull", "k"]).contains("--host-ca=none"));
}
