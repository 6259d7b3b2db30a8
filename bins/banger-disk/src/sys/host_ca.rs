//! The authorities that this host's administrator or user added to those of its distribution: found, checked, told apart.
//!
//! Where a company's proxy opens TLS, its authority stands in one of these places, and without it nothing can be downloaded. Only
//! certificates of authorities leave this file, made anew of their DER: whatever else a file holds, such as a private key, does not.
//!
//! Distributions document the places in update-ca-certificates(8) (Debian, Alpine, SUSE) and update-ca-trust(8) (Fedora, Arch).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use banger_formats::x509::Authority;
use banger_host::digest;

/// Where an administrator puts authorities, relative to the root.
const ANCHORS: [&str; 4] = [
    "usr/local/share/ca-certificates",
    "etc/pki/ca-trust/source/anchors",
    "etc/pki/trust/anchors",
    "etc/ca-certificates/trust-source/anchors",
];

/// Where distributions have everything that the host trusts in one file, relative to the root; the first that is there counts.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// What distributions themselves trust, relative to the root: directories of PEM, p11-kit's files included.
const OF_DISTRIBUTION: [&str; 4] = [
    "usr/share/ca-certificates/mozilla",
    "usr/share/ca-certificates/trust-source",
    "usr/share/pki/ca-trust-source",
    "usr/share/pki/trust",
];

/// The variables by which a user names authorities.
pub const VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"];

/// The largest file that is read, bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The most files below a directory, and how deep they may lie.
const MAX_FILES: usize = 2000;
const MAX_DEPTH: usize = 6;
/// The most authorities that are taken, and the largest of them, bytes.
const MAX_AUTHORITIES: usize = 64;
const MAX_DER_BYTES: usize = 8 << 10;
/// The largest bundle that is handed on, bytes.
const MAX_BUNDLE_BYTES: usize = 512 << 10;
/// How many lines are told of what was left out.
const MAX_LINES: usize = 20;

/// Where to look.
#[derive(Debug)]
pub struct Places {
    anchors: Vec<PathBuf>,
    bundles: Vec<PathBuf>,
    of_distribution: Vec<PathBuf>,
    /// A variable and the file that it names.
    named: Vec<(&'static str, PathBuf)>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct HostTrust {
    /// The authorities that are not the distribution's, by digest.
    pub added: Vec<Authority>,
    /// Everything that the host trusts and these, PEM; empty where nothing was added, or the host has no bundle.
    pub bundle: String,
    /// What was left out, and why: for people.
    pub left_out: Vec<String>,
}

impl Places {
    /// Those below `root`, and the files of [`VARIABLES`].
    pub fn below(root: &Path, named: Vec<(&'static str, PathBuf)>) -> Self {
        let all = |names: &[&str]| names.iter().map(|name| root.join(name)).collect();
        Self { anchors: all(&ANCHORS), bundles: all(&BUNDLES), of_distribution: all(&OF_DISTRIBUTION), named }
    }

    /// Looks there.
    pub fn find(&self) -> HostTrust {
        let mut finder = Finder { of_distribution: self.of_distribution(), ..Finder::default() };
        for directory in &self.anchors {
            let files = files_below(directory);
            // /usr/local/share/ca-certificates counts by this extension alone, and may hold readmes.
            let debian = directory.ends_with(ANCHORS[0]);
            let is_anchor = |file: &&PathBuf| !debian || file.extension().is_some_and(|e| e == "crt");
            files.iter().filter(is_anchor).for_each(|file| finder.take_file(file, None));
        }
        let bundle = self.bundles.iter().find(|file| file.is_file());
        let has_own_set = !finder.of_distribution.is_empty();
        for (variable, file) in &self.named {
            // Without a set to compare it with, the whole bundle would seem to be added.
            if has_own_set || !bundle.is_some_and(|bundle| is_same(bundle, file)) {
                finder.take_file(file, Some(variable));
            }
        }
        let whole = bundle.and_then(|file| read(file).ok()).map(|text| blocks(&text)).unwrap_or_default();
        if has_own_set {
            let added =
                whole.iter().flatten().filter(|der| !finder.of_distribution.contains(&digest::sha256(der)));
            // Whatever is wrong with one of them, the distribution's own tool has let it in and said so.
            let added: Vec<_> = added.filter_map(|der| Authority::parse(der).ok()).collect();
            added.into_iter().for_each(|authority| finder.take(authority));
        }
        finder.finish(whole.into_iter().flatten())
    }

    /// The digests of the distribution's own certificates.
    fn of_distribution(&self) -> BTreeSet<String> {
        let files = self.of_distribution.iter().flat_map(|directory| files_below(directory));
        let texts = files.filter_map(|file| read(&file).ok());
        texts.flat_map(|text| blocks(&text)).flatten().map(|der| digest::sha256(&der)).collect()
    }
}

/// The files that this host's programs may check servers by; the first that is there counts.
pub fn system_bundles() -> Vec<PathBuf> {
    BUNDLES.iter().map(|name| Path::new("/").join(name)).collect()
}

/// Collects authorities.
#[derive(Default)]
struct Finder {
    of_distribution: BTreeSet<String>,
    seen_files: BTreeSet<PathBuf>,
    found: HostTrust,
}

impl Finder {
    /// Takes the authorities of `file`, which `variable` named. Anything else in it is told.
    fn take_file(&mut self, file: &Path, variable: Option<&str>) {
        if !self.seen_files.insert(fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())) {
            return;
        }
        let by = variable.map(|name| format!(" ({name})")).unwrap_or_default();
        let text = match read(file) {
            Ok(text) => text,
            Err(error) => return self.leave_out(format!("{file:?}{by}: {error}")),
        };
        let blocks = blocks(&text);
        if blocks.is_empty() {
            self.leave_out(format!("{file:?}{by}: it holds no certificate in PEM"));
        }
        for (index, block) in blocks.into_iter().enumerate() {
            let parsed = block.ok_or("it is not whole").and_then(|der| {
                if self.of_distribution.contains(&digest::sha256(&der)) {
                    return Ok(None);
                }
                Authority::parse(&der).map(Some)
            });
            match parsed {
                Ok(authority) => authority.into_iter().for_each(|authority| self.take(authority)),
                Err(why) => self.leave_out(format!("{file:?}{by}, certificate {}: {why}", index + 1)),
            }
        }
    }

    fn take(&mut self, authority: Authority) {
        let known = self.found.added.iter().any(|other| other.sha256 == authority.sha256);
        if known {
            return;
        }
        if authority.der.len() > MAX_DER_BYTES {
            return self.leave_out(format!("{}: it is larger than {MAX_DER_BYTES} bytes", authority.subject));
        }
        if self.found.added.len() >= MAX_AUTHORITIES {
            return self.leave_out(format!("{}: {MAX_AUTHORITIES} are the most", authority.subject));
        }
        self.found.added.push(authority);
    }

    fn leave_out(&mut self, what: String) {
        if self.found.left_out.len() < MAX_LINES {
            self.found.left_out.push(format!("an authority of the host's is left out: {what}"));
        }
    }

    /// What was found, with `whole`, the DER of the host's bundle.
    fn finish(mut self, whole: impl Iterator<Item = Vec<u8>>) -> HostTrust {
        self.found.added.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        if self.found.added.is_empty() {
            return self.found;
        }
        let all: BTreeSet<Vec<u8>> = whole.collect();
        let bundle: String = all.iter().map(|der| pem(der)).collect();
        let added = &self.found.added;
        let missing: String = added.iter().filter(|a| !all.contains(&a.der)).map(|a| pem(&a.der)).collect();
        if !all.is_empty() && bundle.len() + missing.len() <= MAX_BUNDLE_BYTES {
            self.found.bundle = bundle + &missing;
        }
        self.found
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    fs::canonicalize(a).ok().is_some_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// A file's text. It may be anything, such as a FIFO, which must not hold the start of a VM up.
fn read(file: &Path) -> io::Result<String> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files below a directory, by name. What cannot be listed has none.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    list(directory, MAX_DEPTH, &mut files);
    files
}

fn list(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.take(MAX_FILES).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if depth > 0 {
                list(&path, depth - 1, files);
            }
        } else if files.len() < MAX_FILES {
            files.push(path);
        }
    }
}

/// The certificates in `text`, DER; `None` for one that is damaged.
fn blocks(text: &str) -> Vec<Option<Vec<u8>>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let decode = |rest: &str| {
        let body = &rest[..rest.find(END)?];
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        STANDARD.decode(body).ok()
    };
    text.split(BEGIN).skip(1).map(decode).collect()
}

/// A certificate in PEM (RFC 7468).
pub fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line));
    let body = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

#[cfg(test)]
#[path = "host_ca_tests.rs"]
mod tests;
