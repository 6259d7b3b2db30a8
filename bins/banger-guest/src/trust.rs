//! The host's authorities in the guest: in what its programs trust, whatever its distribution, and out of it again when the host no
//! longer has them.
//!
//! What this file added is noted in [`ADDED`], certificate by certificate, so that what an image trusts by itself stays. The
//! distribution's own tools are not run, which would take seconds and may not be there; they find the same certificates in their place for
//! local ones, so that a bundle they make anew has them, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error};
use banger_protocol::guest::{BUNDLE_VARIABLES, EXTRA_VARIABLE, GuestCa, HOST_BUNDLE_PATH};

/// A file for each certificate that was added to what the image trusts, relative to the root, and so below.
const ADDED: &str = "etc/banger/host-ca";
/// All of the host's in one file, for programs that add a file to a list of their own.
const ALL: &str = "etc/banger/host-ca.pem";
/// What the names of files in others' directories begin with.
pub const PREFIX: &str = "banger-";

/// The bundles of distributions; the first that is there is told to programs.
const BUNDLES: [&str; 8] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
    "etc/ssl/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "var/lib/ca-certificates/ca-bundle.pem",
];
/// Where OpenSSL finds authorities by the hash of their subject, in distributions that have it so.
const HASHED: [&str; 2] = ["etc/ssl/certs", "etc/pki/ca-trust/extracted/pem/directory-hash"];
/// Where update-ca-certificates(8) of Debian and Alpine finds local certificates.
const LOCAL: &str = "usr/local/share/ca-certificates";
/// The same for update-ca-trust(8) of Fedora and Arch, and for SUSE: there where the distribution is.
const ANCHORS: [&str; 3] =
    ["etc/pki/ca-trust/source/anchors", "etc/pki/trust/anchors", "etc/ca-certificates/trust-source/anchors"];

/// The largest bundle that is changed, bytes.
const MAX_BUNDLE_BYTES: u64 = 16 << 20;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Makes the system below `root` trust `authorities`, and none any more that it was made to trust before. Gives the variables that lead
/// programs there which would not look by themselves.
pub fn install(root: &Path, authorities: &[GuestCa]) -> Result<BTreeMap<&'static str, String>, Error> {
    let host_bundle = root.join(HOST_BUNDLE_PATH);
    let of_host = fs::read_to_string(&host_bundle).unwrap_or_default();
    drop(fs::remove_file(&host_bundle));
    let before = read_added(root);
    if authorities.is_empty() && before.is_empty() && !root.join(ALL).exists() {
        return Ok(BTreeMap::new());
    }
    if !authorities.is_empty() && bundles(root).is_empty() {
        write(&root.join(BUNDLES[0]), &of_host)?;
    }
    let mut missing = BTreeSet::new();
    for bundle in bundles(root) {
        missing.extend(amend(&bundle, &before, authorities)?);
    }
    let added: Vec<_> = authorities.iter().filter(|authority| missing.contains(&authority.sha256)).collect();
    keep_only(&root.join(ADDED), &added, |authority| format!("{}.pem", authority.sha256))?;
    let anchors = anchors(root);
    for directory in ANCHORS.iter().chain([&LOCAL]).map(|name| root.join(name)) {
        let wanted = if anchors.contains(&directory) { &added[..] } else { &[] };
        keep_only(&directory, wanted, |authority| format!("{PREFIX}{:.16}.crt", authority.sha256))?;
    }
    for directory in HASHED.iter().filter_map(|name| fs::canonicalize(root.join(name)).ok()) {
        link(&directory, &added).context(|| format!("cannot link in {}", directory.display()))?;
    }
    if authorities.is_empty() {
        remove(&root.join(ALL))?;
        return Ok(BTreeMap::new());
    }
    let all: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    write(&root.join(ALL), all)?;
    let bundle = BUNDLES.iter().find(|name| root.join(name).is_file());
    let variables = BUNDLE_VARIABLES.iter().filter_map(|name| Some((*name, format!("/{}", bundle?))));
    Ok(variables.chain([(EXTRA_VARIABLE, format!("/{ALL}"))]).collect())
}

/// What was added before: the certificates in their bare form.
fn read_added(root: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(root.join(ADDED)).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| bare(&text)).collect()
}

/// A certificate without what PEM leaves to taste: line breaks, and the text around it.
pub fn bare(text: &str) -> Option<String> {
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    Some(body.chars().filter(|c| !c.is_ascii_whitespace()).collect())
}

/// The files that bundles are, each once: most names are links to one of them.
fn bundles(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in BUNDLES.iter().filter_map(|name| fs::canonicalize(root.join(name)).ok()) {
        if file.is_file() && !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// The directories in which the distribution's tools look for local certificates.
fn anchors(root: &Path) -> Vec<PathBuf> {
    let own: Vec<_> = ANCHORS.iter().map(|name| root.join(name)).filter(|path| path.is_dir()).collect();
    // A package that comes later looks here, so that the directory is made where it is not there yet.
    if own.is_empty() { vec![root.join(LOCAL)] } else { own }
}

/// Takes `before` out of a bundle and puts in what of `authorities` it lacks then; gives the digests of those.
fn amend(bundle: &Path, before: &BTreeSet<String>, authorities: &[GuestCa]) -> Result<Vec<String>, Error> {
    let what = || format!("cannot change {}", bundle.display());
    if fs::metadata(bundle).context(what)?.len() > MAX_BUNDLE_BYTES {
        return Err(Error::new(format!("{} is too large to be changed", bundle.display())));
    }
    let old = String::from_utf8_lossy(&fs::read(bundle).context(what)?).into_owned();
    let (mut new, present) = without(&old, before);
    let mut missing = Vec::new();
    for authority in authorities {
        if bare(&authority.pem).is_some_and(|bare| !present.contains(&bare)) {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            new.push_str(&authority.pem);
            missing.push(authority.sha256.clone());
        }
    }
    if new != old {
        write(bundle, &new)?;
    }
    Ok(missing)
}

/// `text` without the certificates `unwanted`, and those that it has then.
fn without(text: &str, unwanted: &BTreeSet<String>) -> (String, BTreeSet<String>) {
    let (mut kept, mut present) = (String::with_capacity(text.len()), BTreeSet::new());
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let Some(length) = rest[start..].find(END).map(|at| at + END.len()) else { break };
        let (before, certificate) = (&rest[..start], &rest[start..start + length]);
        rest = &rest[start + length..];
        kept.push_str(before);
        match bare(certificate) {
            Some(bare) if unwanted.contains(&bare) => rest = rest.strip_prefix('\n').unwrap_or(rest),
            bare => {
                kept.push_str(certificate);
                present.extend(bare);
            }
        }
    }
    kept.push_str(rest);
    (kept, present)
}

/// Has in `directory`, of the files that are ours there, those of `wanted` and no others.
fn keep_only(directory: &Path, wanted: &[&GuestCa], name: impl Fn(&GuestCa) -> String) -> Result<(), Error> {
    let names: BTreeMap<String, &str> = wanted.iter().map(|a| (name(a), a.pem.as_str())).collect();
    let is_own = directory.ends_with(ADDED);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (is_own || name.starts_with(PREFIX)) && !names.contains_key(&name) {
            remove(&entry.path())?;
        }
    }
    names.iter().try_for_each(|(name, pem)| write(&directory.join(name), pem))
}

/// Has links in a directory of OpenSSL's, where that is one, for `added` and for none else of ours.
fn link(directory: &Path, added: &[&GuestCa]) -> io::Result<()> {
    let (mut is_hashed, mut taken) = (false, BTreeSet::new());
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = fs::read_link(entry.path()).is_ok_and(|target| {
            // The second is what update-ca-certificates(8) made of our certificates.
            let file = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            target.parent().is_some_and(|parent| parent.ends_with(ADDED)) || file.starts_with(PREFIX)
        });
        is_hashed |= is_hash(&name);
        if ours {
            fs::remove_file(entry.path())?;
        } else {
            taken.insert(name);
        }
    }
    for authority in if is_hashed { added } else { &[] } {
        let names = (0..10).map(|number| format!("{}.{number}", authority.subject_hash));
        let Some(free) = names.into_iter().find(|name| !taken.contains(name)) else { continue };
        symlink(format!("/{ADDED}/{}.pem", authority.sha256), directory.join(&free))?;
        taken.insert(free);
    }
    Ok(())
}

/// Whether a name is a subject's hash and a number.
fn is_hash(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Replaces a file at once, unless it says this already; its directory is made where it is not there.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Error> {
    let content = content.as_ref();
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let mode = fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
        let new = directory.join(".banger-new");
        fs::write(&new, content)?;
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    };
    write().context(|| format!("cannot write {}", path.display()))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory that is empty and goes when it is dropped.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("banger-guest-trust-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
        fn put(&self, name: &str, text: &str) {
            write(&self.0.join(name), text).unwrap();
        }
        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
        fn names(&self, directory: &str) -> Vec<String> {
            let entries = fs::read_dir(self.0.join(directory)).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
        fn install(&self, authorities: &[GuestCa]) -> BTreeMap<&'static str, String> {
            install(&self.0, authorities).unwrap()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn pem(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    fn authority(letter: &str) -> GuestCa {
        GuestCa { pem: pem(letter), sha256: letter.repeat(64), subject_hash: "0123abcd".into() }
    }

    const DEBIAN: &str = "etc/ssl/certs/ca-certificates.crt";

    #[test]
    fn a_bundle_gets_what_it_lacks_and_loses_it_again() {
        let root = Root::new("debian");
        // The image itself trusts c; its last line has no end.
        let image = format!("# of the image\n{}{}", pem("public"), pem("c").trim_end());
        root.put(DEBIAN, &image);
        symlink("../../etc/banger/none", root.0.join("etc/ssl/certs/0123abcd.0")).unwrap();
        for _ in 0..2 {
            let variables = root.install(&[authority("a"), authority("b"), authority("c")]);
            assert_eq!(variables["SSL_CERT_FILE"], format!("/{DEBIAN}"));
            assert_eq!(variables["NODE_EXTRA_CA_CERTS"], "/etc/banger/host-ca.pem");
            assert_eq!(root.text(DEBIAN), format!("{image}\n{}{}", pem("a"), pem("b")));
            assert_eq!(root.text(ALL), [pem("a"), pem("b"), pem("c")].concat());
            let local = [format!("banger-{}.crt", "a".repeat(16)), format!("banger-{}.crt", "b".repeat(16))];
            assert_eq!(root.names(LOCAL), local);
            let hashed = ["0123abcd.0", "0123abcd.1", "0123abcd.2", "ca-certificates.crt"];
            assert_eq!(root.names("etc/ssl/certs"), hashed);
        }
        root.install(&[authority("b")]);
        assert_eq!(root.text(DEBIAN), format!("{image}\n{}", pem("b")));
        assert_eq!((root.names(ADDED).len(), root.names(LOCAL).len()), (1, 1));
        assert_eq!(root.install(&[]), BTreeMap::new());
        assert_eq!(root.text(DEBIAN).trim_end(), image);
        assert_eq!(root.names("etc/ssl/certs"), ["0123abcd.0", "ca-certificates.crt"]);
        assert_eq!((root.names(ADDED).len(), root.names(LOCAL).len(), root.text(ALL)), (0, 0, String::new()));
    }

    #[test]
    fn what_the_distributions_tool_made_of_it_goes_as_well() {
        let root = Root::new("tool");
        root.put(DEBIAN, &pem("public"));
        root.install(&[authority("a")]);
        // update-ca-certificates(8) ran in the guest.
        root.put(DEBIAN, &[pem("a"), pem("public"), pem("new")].concat());
        let local = format!("/{LOCAL}/banger-{}.crt", "a".repeat(16));
        symlink(local, root.0.join("etc/ssl/certs/banger-aaaa.pem")).unwrap();
        symlink("banger-aaaa.pem", root.0.join("etc/ssl/certs/0123abcd.0")).unwrap();
        root.install(&[authority("a")]);
        assert_eq!(root.text(DEBIAN), [pem("public"), pem("new"), pem("a")].concat());
        assert_eq!(root.names("etc/ssl/certs"), ["0123abcd.0", "ca-certificates.crt"]);
        root.install(&[]);
        assert_eq!(root.text(DEBIAN), [pem("public"), pem("new")].concat());
        assert_eq!(root.names("etc/ssl/certs"), ["ca-certificates.crt"]);
    }

    #[test]
    fn an_image_without_a_bundle_gets_the_hosts() {
        let root = Root::new("bare");
        root.put(HOST_BUNDLE_PATH, &[pem("public"), pem("a")].concat());
        root.install(&[authority("a")]);
        assert_eq!(root.text(DEBIAN), [pem("public"), pem("a")].concat());
        assert!(!root.0.join(HOST_BUNDLE_PATH).exists(), "it would stay in memory");
    }

    #[test]
    fn every_distribution_has_its_own_places() {
        let root = Root::new("fedora");
        let bundle = "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
        root.put(bundle, &pem("public"));
        fs::set_permissions(root.0.join(bundle), Permissions::from_mode(0o444)).unwrap();
        fs::create_dir_all(root.0.join("etc/pki/tls/certs")).unwrap();
        fs::create_dir_all(root.0.join(ANCHORS[0])).unwrap();
        let link = root.0.join("etc/pki/tls/certs/ca-bundle.crt");
        symlink("../../ca-trust/extracted/pem/tls-ca-bundle.pem", &link).unwrap();
        let variables = root.install(&[authority("a")]);
        assert_eq!(variables["PIP_CERT"], "/etc/pki/tls/certs/ca-bundle.crt");
        assert_eq!(root.text(bundle), pem("public") + &pem("a"));
        assert_eq!(fs::metadata(root.0.join(bundle)).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(fs::symlink_metadata(link).unwrap().is_symlink(), "links stay links");
        assert_eq!((root.names(ANCHORS[0]).len(), root.names(LOCAL).len()), (1, 0));
    }

    #[test]
    fn a_host_without_authorities_touches_nothing() {
        let root = Root::new("nothing");
        assert_eq!(root.install(&[]), BTreeMap::new());
        assert_eq!(root.names(""), Vec::<String>::new());
    }
}
