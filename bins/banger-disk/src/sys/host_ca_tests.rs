use std::fs;
use std::path::Path;

use super::*;

/// Made by openssl(1), which also said the hashes below: a name in UTF-8 with blanks too many and two values in one set.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIICMDCCAdegAwIBAgIURt+Xd4fw5dTqf6lYDgINj46q2sAwCgYIKoZIzj0EAwIw
bTELMAkGA1UEBhMCREUxIzAhBgNVBAoMGiAgw5xuw69jb2RlICAgV29ya3MgIEdt
YkggMSAwDAYDVQQLDAVUcnVzdDAQBgoJkiaJk/IsZAEBDAI3NzEXMBUGA1UEAwwO
Um9vdCBDQSAoVGVzdCkwIBcNMjYxMjAxMDUwNzIwWhgPMjEyNjExMDcwNTA3MjBa
MG0xCzAJBgNVBAYTAkRFMSMwIQYDVQQKDBogIMOcbsOvY29kZSAgIFdvcmtzICBH
bWJIIDEgMAwGA1UECwwFVHJ1c3QwEAYKCZImiZPyLGQBAQwCNzcxFzAVBgNVBAMM
DlJvb3QgQ0EgKFRlc3QpMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhNbgGS+A
semBBrQjzP/QI0YBDEPGsvGbr+mj3pcYNKa5ECKUt3Z4B9EC++9u+DX3QzlnIUjd
d+GtbY2sBChW26NTMFEwHQYDVR0OBBYEFFJzsSNUntjwCnPbog1hL4HAzIs/MB8G
A1UdIwQYMBaAFFJzsSNUntjwCnPbog1hL4HAzIs/MA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDRwAwRAIgfR/JhDqQpWqb1uWTzgL1dqwu6xMkVtTaR1RMQAYa
ogQCIA2vS7qk8xDxMCQNHS8KfE2cYzfHkN2s1FluMaIsV37S
-----END CERTIFICATE-----\n";
/// Of version 1, and so without extensions.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBQTCB5wIUYz1Oxt5gn/id6zkuIKP7LWZEt5owCgYIKoZIzj0EAwIwIjEMMAoG
A1UECgwDT2xkMRIwEAYDVQQDDAlWZXJzaW9uIDEwIBcNMjYxMjAxMDUwNzIwWhgP
MjEyNjExMDcwNTA3MjBaMCIxDDAKBgNVBAoMA09sZDESMBAGA1UEAwwJVmVyc2lv
biAxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPSAJ4w1ruM5Y4goBlDMrzqT1
V4Kwqn03XIGw7paL3nswF6lFAFU13WLVVy0vGz2eltOA8t2DwFABtX1ZDHWztjAK
BggqhkjOPQQDAgNJADBGAiEAvXyoXV3Pwc1x4g0e8H6/pA67J7BrusfAXxB81EJj
bMACIQDpNa0Vezo8A/EXGZL6iektL25CYd9jDvF5WC1eUsMqNg==
-----END CERTIFICATE-----\n";
/// Signs itself and says that it is no authority.
const SERVER: &str = "-----BEGIN CERTIFICATE-----
MIIBgDCCASagAwIBAgIUYW6UhuQ7D7lu3m/U5KZTz+WNa1MwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLc2VydmVyLnRlc3QwIBcNMjYxMjAxMDUwNzIwWhgPMjEyNjEx
MDcwNTA3MjBaMBYxFDASBgNVBAMMC3NlcnZlci50ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEGxkf32rzepFBoR0zTaHZf9Ro5+v0pE3UbtLm3cw+Uj0C/qJ0
0GUdNefqDYJgSW+9S/dwzcjiZ5yl1/h07w02LqNQME4wHQYDVR0OBBYEFJn7OWRT
h5QuCu6Xnon+LCLsBgIXMB8GA1UdIwQYMBaAFJn7OWRTh5QuCu6Xnon+LCLsBgIX
MAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSAAwRQIhALjiOlc/JAvjfMTRsueR
9fFeRASXcGlQ72/TiKMdAVurAiBvjQUaFs8ihFE4GsI/8ksVfmDP6iE4+Z7zLP5U
vvLR5g==
-----END CERTIFICATE-----\n";
/// One more authority.
const OTHER: &str = "-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUS3a0kAGiJyzZSrXZrcvnW92Ld9wwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIT3RoZXIgQ0EwIBcNMjYxMjAxMDUwNzIwWhgPMjEyNjExMDcw
NTA3MjBaMBMxETAPBgNVBAMMCE90aGVyIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEtNrjvHVNNq85639bqelg0Yye5ZfYbN/rRCsaKfLIvn6xl4cjrgi3f9Iw
JAaU9nk6PkCGRcU+HcHWDDVnbCLaX6NTMFEwHQYDVR0OBBYEFDWdfQL04hF7057B
Y+T7GINnmL0UMB8GA1UdIwQYMBaAFDWdfQL04hF7057BY+T7GINnmL0UMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgVu2kPBjcKDCz8HdaDXBr+cx9
MBSh+uHVasyXW/Q/svQCIQDj1sJWpMRZkOJxRtRQ5m0oFbWSK65ozF8qGo0zTc51
BA==
-----END CERTIFICATE-----\n";

fn der(text: &str) -> Vec<u8> {
    blocks(text).remove(0).unwrap()
}

fn digest(text: &str) -> String {
    banger_host::digest::sha256(&der(text))
}

/// A root directory with files in it.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn find(root: &Path, named: &[(&'static str, &str)]) -> HostTrust {
    let named = named.iter().map(|(variable, file)| (*variable, root.join(file))).collect();
    Places::below(root, named).find()
}

fn digests(found: &HostTrust) -> Vec<&str> {
    found.added.iter().map(|authority| authority.sha256.as_str()).collect()
}

#[test]
fn authorities_are_told_from_servers_and_have_openssls_names() {
    let authority = Authority::parse(&der(AUTHORITY)).unwrap();
    assert_eq!(authority.subject_hash, "ff9617c5");
    assert!(authority.subject.contains("Ünïcode") && authority.subject.contains("CN=Root CA (Test)"));
    assert_eq!(Authority::parse(&der(VERSION_1)).unwrap().subject_hash, "c698c0a5");
    assert_eq!(Authority::parse(&der(SERVER)), Err("it is not that of an authority"));
    assert_eq!(Authority::parse(b"\x30\x03\x02\x01\x01"), Err("it is not an X.509 certificate"));
    assert_eq!(pem(&der(AUTHORITY)), AUTHORITY);
}

#[test]
fn what_the_administrator_added_is_told_from_the_distributions_own() {
    let whole = [AUTHORITY, OTHER, VERSION_1].concat();
    let root = root(&[
        ("usr/share/ca-certificates/mozilla/Other.crt", OTHER),
        ("usr/local/share/ca-certificates/company/root.crt", AUTHORITY),
        ("usr/local/share/ca-certificates/copy.crt", AUTHORITY),
        ("usr/local/share/ca-certificates/README.txt", "not a certificate"),
        ("etc/ssl/certs/ca-certificates.crt", &whole),
    ]);
    let found = find(root.path(), &[]);
    let mut expected = [digest(AUTHORITY), digest(VERSION_1)];
    expected.sort();
    assert_eq!(digests(&found), expected, "the one of the distribution is not among them");
    assert_eq!(found.left_out, Vec::<String>::new());
    assert_eq!(blocks(&found.bundle).len(), 3, "a guest without a bundle gets all that the host trusts");
}

#[test]
fn without_the_distributions_set_only_what_was_put_somewhere_counts() {
    let root = root(&[
        ("etc/pki/ca-trust/source/anchors/root.pem", AUTHORITY),
        ("etc/pki/tls/certs/ca-bundle.crt", &[AUTHORITY, OTHER].concat()),
        ("named.pem", VERSION_1),
    ]);
    let variables = [("SSL_CERT_FILE", "etc/pki/tls/certs/ca-bundle.crt"), ("CURL_CA_BUNDLE", "named.pem")];
    let mut expected = [digest(AUTHORITY), digest(VERSION_1)];
    expected.sort();
    assert_eq!(digests(&find(root.path(), &variables)), expected);
}

#[test]
fn nothing_but_authorities_leaves_a_file_and_what_is_wrong_is_named() {
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let damaged = "-----BEGIN CERTIFICATE-----\nMII!\n-----END CERTIFICATE-----\n";
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB";
    let root = root(&[
        ("usr/local/share/ca-certificates/mixed.crt", &[key, AUTHORITY, damaged, SERVER, cut].concat()),
        ("usr/local/share/ca-certificates/key.crt", key),
        ("etc/ssl/certs/ca-certificates.crt", &[key, OTHER].concat()),
    ]);
    let fifo = root.path().join("usr/local/share/ca-certificates/fifo.crt");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = find(root.path(), &[("NODE_EXTRA_CA_CERTS", "missing.pem")]);
    assert_eq!(digests(&found), [digest(AUTHORITY)]);
    assert!(!found.bundle.contains("PRIVATE") && blocks(&found.bundle).len() == 2);
    let said = found.left_out.join("\n");
    for told in [
        "mixed.crt\", certificate 2: it is not whole",
        "mixed.crt\", certificate 3: it is not that of an authority",
        "mixed.crt\", certificate 4: it is not whole",
        "key.crt\": it holds no certificate in PEM",
        "fifo.crt\": it is not a regular file",
        "missing.pem\" (NODE_EXTRA_CA_CERTS): No such file",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert_eq!(found.left_out.len(), 6, "{said}");
}

#[test]
fn a_host_that_added_nothing_hands_nothing_on() {
    let root = root(&[
        ("usr/share/ca-certificates/mozilla/Other.crt", OTHER),
        ("etc/ssl/certs/ca-certificates.crt", OTHER),
    ]);
    let found = find(root.path(), &[("SSL_CERT_FILE", "etc/ssl/certs/ca-certificates.crt")]);
    assert!(found.added.is_empty() && found.bundle.is_empty() && found.left_out.is_empty(), "{found:?}");
    let nothing = find(Path::new("/nonexistent"), &[]);
    assert!(nothing.added.is_empty() && nothing.left_out.is_empty());
}

#[test]
fn more_than_the_most_are_told_and_left_out() {
    // Another signature is another certificate; nobody checks what an authority says of itself.
    let many: String = (0..MAX_AUTHORITIES as u8 + 3)
        .map(|number| {
            let mut der = der(AUTHORITY);
            *der.last_mut().unwrap() = number;
            pem(&der)
        })
        .collect();
    let root = root(&[("usr/local/share/ca-certificates/many.crt", &many)]);
    let found = find(root.path(), &[]);
    assert_eq!((found.added.len(), found.left_out.len()), (MAX_AUTHORITIES, 3), "{:?}", found.left_out);
    assert!(found.left_out[0].contains("64 are the most"), "{:?}", found.left_out);
}
