//! The host's authorities in Java's own stores, where an image has any.
//!
//! A store of the format JKS is a list and a digest over it, made with the password that every distribution leaves as it is
//! (sun.security.provider.JavaKeyStore, `engineLoad`). Those of the JDK's own builds since 18 are PKCS#12, which is not changed here.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::error::{Context, Error};
use crate::trust::{self, PREFIX};
use banger_protocol::guest::GuestCa;

/// The stores of distributions, relative to the root.
const STORES: [&str; 3] = [
    "etc/ssl/certs/java/cacerts",
    "etc/pki/ca-trust/extracted/java/cacerts",
    "var/lib/ca-certificates/java-cacerts",
];
/// Where JDKs are, a directory each, and where these have theirs.
const HOMES: [&str; 4] = ["usr/lib/jvm", "usr/java", "opt/java", "opt"];
const IN_HOME: [&str; 2] = ["lib/security/cacerts", "jre/lib/security/cacerts"];

/// The largest store that is changed, bytes.
const MAX_BYTES: u64 = 16 << 20;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;
const DIGEST_BYTES: usize = 20;
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";

/// Has the stores below `root` trust `authorities`, and none any more that they were made to trust before. What stands in the way of one
/// of them is told through `say`.
pub fn install(root: &Path, authorities: &[GuestCa], say: &dyn Fn(&str)) {
    for store in stores(root) {
        if let Err(error) = amend_file(&store, authorities) {
            say(&error.to_string());
        }
    }
}

/// Every store once: most JDKs of distributions have a link to the one store.
fn stores(root: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = STORES.iter().map(|name| root.join(name)).collect();
    for home in HOMES.iter().flat_map(|name| fs::read_dir(root.join(name)).into_iter().flatten().flatten()) {
        paths.extend(IN_HOME.iter().map(|name| home.path().join(name)));
    }
    let mut stores: Vec<_> = paths.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    stores.sort();
    stores.dedup();
    stores
}

fn amend_file(path: &Path, authorities: &[GuestCa]) -> Result<(), Error> {
    let what = || format!("cannot read {}", path.display());
    if fs::metadata(path).context(what)?.len() > MAX_BYTES {
        return Err(Error::new(format!("{} is too large to be changed", path.display())));
    }
    let old = fs::read(path).context(what)?;
    match amend(&old, authorities) {
        Some(new) if new != old => trust::write(path, &new),
        // Nobody need hear of a store that nothing is to be put into.
        None if !authorities.is_empty() => Err(Error::new(format!(
            "{} is not a JKS with the usual password: Java does not trust the host's authorities",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The store without what is ours, and with what of `authorities` it lacks. `None`: it is no store that can be changed.
fn amend(old: &[u8], authorities: &[GuestCa]) -> Option<Vec<u8>> {
    let content = &old[..old.len().checked_sub(DIGEST_BYTES)?];
    if digest(content)[..] != old[content.len()..] {
        return None;
    }
    let mut reader = Reader(content);
    if (reader.u32()?, reader.u32()?) != (MAGIC, VERSION) {
        return None;
    }
    let count = reader.u32()?;
    let (mut kept, mut number, mut present) = (Vec::new(), 0_u32, Vec::new());
    for _ in 0..count {
        let start = reader.0;
        let entry = reader.entry()?;
        if !is_ours(entry.alias) {
            kept.extend(&start[..start.len() - reader.0.len()]);
            number += 1;
            present.extend(entry.certificate);
        }
    }
    if !reader.0.is_empty() {
        return None;
    }
    for authority in authorities {
        let der = STANDARD.decode(trust::bare(&authority.pem)?).ok()?;
        if !present.contains(&&der[..]) {
            kept.extend(trusted(&format!("{PREFIX}{:.16}", authority.sha256), &der)?);
            number += 1;
        }
    }
    let mut new = [MAGIC, VERSION, number].map(u32::to_be_bytes).concat();
    new.extend(kept);
    new.extend(digest(&new));
    Some(new)
}

/// Whether an entry is ours, or what Debian's tool made of our certificate.
fn is_ours(alias: &[u8]) -> bool {
    let alias = String::from_utf8_lossy(alias);
    alias.strip_prefix("debian:").unwrap_or(&alias).starts_with(PREFIX)
}

/// An entry of a certificate that is trusted, of no date: the same makes the same store.
fn trusted(alias: &str, der: &[u8]) -> Option<Vec<u8>> {
    let text =
        |text: &str| Some([&u16::try_from(text.len()).ok()?.to_be_bytes()[..], text.as_bytes()].concat());
    let length = u32::try_from(der.len()).ok()?;
    Some(
        [&TRUSTED.to_be_bytes()[..], &text(alias)?, &[0; 8], &text("X.509")?, &length.to_be_bytes(), der]
            .concat(),
    )
}

fn digest(content: &[u8]) -> [u8; DIGEST_BYTES] {
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    Sha1::new().chain_update(password).chain_update(SALT).chain_update(content).finalize().into()
}

/// What is left of a store.
struct Reader<'a>(&'a [u8]);

/// One entry of a store.
struct Entry<'a> {
    alias: &'a [u8],
    /// Where it is no more than a certificate.
    certificate: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(length.into())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let kind = self.u32()?;
        let alias = self.text()?;
        self.take(8)?;
        if kind == TRUSTED {
            self.text()?;
            return Some(Entry { alias, certificate: Some(self.bytes()?) });
        }
        // A private key, and its chain.
        self.bytes()?;
        for _ in 0..self.u32()? {
            self.text()?;
            self.bytes()?;
        }
        Some(Entry { alias, certificate: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(letter: &str) -> GuestCa {
        let pem =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(letter));
        GuestCa { pem, sha256: letter.repeat(64), subject_hash: String::new() }
    }

    fn store(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut store = [MAGIC, VERSION, entries.len() as u32].map(u32::to_be_bytes).concat();
        store.extend(entries.concat());
        store.extend(digest(&store));
        store
    }

    /// A store with one authority, as keytool(1) made it.
    const OF_KEYTOOL: &str = "\
        /u3+7QAAAAIAAAABAAAAAgAGcHVibGljAAABojAve88ABVguNTA5AAABgTCCAX0wggEjoAMCAQICFEt2tJABoics2Uq12a3L51vd\
        i3fcMAoGCCqGSM49BAMCMBMxETAPBgNVBAMMCE90aGVyIENBMCAXDTI2MTIwMTA1MDcyMFoYDzIxMjYxMTA3MDUwNzIwWjATMREw\
        DwYDVQQDDAhPdGhlciBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLTa47x1TTavOet/W6npYNGMnuWX2Gzf60QrGinyyL5+\
        sZeHI64It3/SMCQGlPZ5Oj5AhkXFPh3B1gw1Z2wi2l+jUzBRMB0GA1UdDgQWBBQ1nX0C9OIRe9OewWPk+xiDZ5i9FDAfBgNVHSME\
        GDAWgBQ1nX0C9OIRe9OewWPk+xiDZ5i9FDAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIFbtpDwY3Cgws/B3Wg1w\
        a/nMfTAUofrh1WrMl1v0P7L0AiEA49bCVqTEWZDicUbUUOZtKBW1kiuuaMxfKhqNM03OdQSBNuhV7v+AHmksOa6LtrH9Z6uVLA==";

    #[test]
    fn a_store_gets_what_it_lacks_and_loses_it_again() {
        let image = store(&[trusted("debian:public.pem", b"public").unwrap(), trusted("own", b"c").unwrap()]);
        let with = amend(&image, &[authority("a"), authority("c")]).unwrap();
        let alias = format!("banger-{}", "a".repeat(16));
        let expected = [
            trusted("debian:public.pem", b"public").unwrap(),
            trusted("own", b"c").unwrap(),
            trusted(&alias, b"a").unwrap(),
        ];
        assert_eq!(with, store(&expected));
        assert_eq!(amend(&with, &[authority("a"), authority("c")]).unwrap(), with);
        assert_eq!(amend(&with, &[]).unwrap(), image);
        let by_debian = store(&[trusted(&format!("debian:{alias}.pem"), b"a").unwrap()]);
        assert_eq!(amend(&by_debian, &[]).unwrap(), store(&[]));
    }

    #[test]
    fn what_keytool_made_is_understood_and_comes_back() {
        let image = STANDARD.decode(OF_KEYTOOL).unwrap();
        let with = amend(&image, &[authority("a")]).unwrap();
        assert_eq!(with.len(), image.len() + trusted(&"x".repeat(23), b"a").unwrap().len());
        assert_eq!(amend(&with, &[]).unwrap(), image);
    }

    #[test]
    fn keys_stay_and_what_is_no_whole_store_is_not_touched() {
        let chain = [&5_u16.to_be_bytes()[..], b"X.509", &1_u32.to_be_bytes(), b"c"].concat();
        let key =
            [&1_u32.to_be_bytes()[..], &[0, 1], b"k", &[0; 8], &[0, 0, 0, 2], b"pk", &[0, 0, 0, 1], &chain]
                .concat();
        let image = store(&[key]);
        assert_eq!(amend(&amend(&image, &[authority("a")]).unwrap(), &[]).unwrap(), image);
        let mut wrong = image.clone();
        wrong[20] ^= 1;
        for bad in [&wrong[..], &image[1..], &image[..image.len() - 1], b"\x30\x82", b""] {
            assert_eq!(amend(bad, &[authority("a")]), None);
        }
        // More entries than there are.
        let mut long = [MAGIC, VERSION, u32::MAX].map(u32::to_be_bytes).concat();
        long.extend(digest(&long));
        assert_eq!(amend(&long, &[authority("a")]), None);
    }
}
