//! The distributions that images are built of: which packages, from which archive, signed by whom.

use std::path::{Path, PathBuf};

use crate::arch;
use banger_formats::apt::{self, AptSource};

/// One distribution, as data.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    /// How commands and manifests name it.
    pub name: &'static str,
    /// How people do.
    pub title: &'static str,
    /// The release unless another is asked for.
    pub default_suite: &'static str,
    /// The components of its archive that are used.
    components: &'static str,
    /// Its archive. Signatures are what is trusted, so plain HTTP does; Ubuntu's has nothing else.
    archive: &'static str,
    /// Where its security updates are; `None`: mmdebstrap knows, which releases have such and which have not.
    security: Option<&'static str>,
    /// The package of its newest kernel for virtual machines.
    kernel: &'static str,
    /// The keys that sign its archive: a file of /usr/share/keyrings.
    keyring: &'static str,
    /// The host's package that has that file.
    pub keyring_package: &'static str,
    /// Whether an image can only be built where that file is, unless the host's own apt has the release.
    needs_keyring: bool,
}

/// Debian, which the host's mmdebstrap knows all about.
pub static DEBIAN: Distribution = Distribution {
    name: "debian",
    title: "Debian",
    default_suite: "bookworm",
    components: "main",
    archive: "http://deb.debian.org/debian",
    security: None,
    kernel: arch::DEBIAN_KERNEL,
    keyring: "debian-archive-keyring.gpg",
    keyring_package: "debian-archive-keyring",
    needs_keyring: false,
};

/// Ubuntu.
pub static UBUNTU: Distribution = Distribution {
    name: "ubuntu",
    title: "Ubuntu",
    default_suite: "noble",
    components: "main universe",
    archive: arch::UBUNTU_ARCHIVE,
    security: Some(arch::UBUNTU_SECURITY),
    kernel: "linux-image-virtual",
    keyring: "ubuntu-archive-keyring.gpg",
    keyring_package: "ubuntu-archive-keyring",
    needs_keyring: true,
};

/// All of them, the default first.
pub static DISTRIBUTIONS: [&Distribution; 2] = [&DEBIAN, &UBUNTU];

/// What an image holds beyond the essential packages: what banger needs in a guest, and what a checkout needs at least.
const PACKAGES: [&str; 7] =
    ["openssh-server", "git", "ca-certificates", "curl", "iproute2", "procps", "make"];

/// What dpkg leaves out, now and when the guest installs more. Licences stay.
pub const DPKG_OPTIONS: [&str; 6] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
];

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The main archive's address.
    pub uri: String,
    /// Lines for sources.list(5); none: mmdebstrap's default, which has updates and security as well.
    pub lines: Vec<String>,
    /// Whether the host's own apt uses it, and so trusts its keys.
    pub of_host: bool,
}

/// The keys of an archive are not on the host.
#[derive(Debug, PartialEq, Eq)]
pub struct NoKeyring(pub PathBuf);

impl Distribution {
    /// The one that is called `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        DISTRIBUTIONS.into_iter().find(|distribution| distribution.name == name)
    }

    /// The packages of an image that also asks for `more`.
    pub fn packages<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut packages: Vec<String> = vec![self.kernel.to_owned()];
        packages.extend(PACKAGES.map(str::to_owned));
        for package in more {
            if !packages.iter().any(|known| known == package) {
                packages.push(package.to_owned());
            }
        }
        packages
    }

    /// The archive for `suite`: `mirror`, else the one of the host's own apt configuration (in `etc_apt`) where it has this suite with
    /// its updates and security, else the distribution's.
    pub fn archive(&self, suite: &str, mirror: Option<&str>, etc_apt: &Path) -> Archive {
        let line = |uri: &str, suite: &str| format!("deb {uri} {suite} {}", self.components);
        if let Some(mirror) = mirror {
            return Archive { uri: mirror.to_owned(), lines: vec![line(mirror, suite)], of_host: false };
        }
        let [updates, security] = ["updates", "security"].map(|pocket| format!("{suite}-{pocket}"));
        let sources = apt::sources(etc_apt);
        let of = |suite: &str| -> Option<&AptSource> {
            sources.iter().find(|source| source.main && source.suite == suite && is_plain(&source.uri))
        };
        if let Some(main) = of(suite) {
            let found = [Some(main), of(&updates), of(&security)];
            let lines = found.into_iter().flatten().map(|source| line(&source.uri, &source.suite)).collect();
            return Archive { uri: main.uri.clone(), lines, of_host: true };
        }
        let lines = self
            .security
            .map(|at| vec![line(self.archive, suite), line(self.archive, &updates), line(at, &security)]);
        Archive { uri: self.archive.to_owned(), lines: lines.unwrap_or_default(), of_host: false }
    }

    /// The keys that `archive` is to be signed with, in `keyrings` (/usr/share/keyrings); `None`: those that the host's apt trusts.
    ///
    /// # Errors
    /// They are not there, and the host's apt will not have them either.
    pub fn keyring(&self, archive: &Archive, keyrings: &Path) -> Result<Option<PathBuf>, NoKeyring> {
        let path = keyrings.join(self.keyring);
        if path.is_file() {
            return Ok(Some(path));
        }
        if self.needs_keyring && !archive.of_host { Err(NoKeyring(path)) } else { Ok(None) }
    }
}

/// Whether apt reaches it without anything of this host: no credentials, no mirror lists, no local files.
fn is_plain(uri: &str) -> bool {
    (uri.starts_with("http://") || uri.starts_with("https://")) && !uri.contains(['@', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_archive_serves_its_own_suite_only() {
        let dir = tempfile::tempdir().unwrap();
        let list = "deb file:/srv/debian bookworm main\ndeb http://m/debian bookworm main\n\
                    deb http://m/debian bookworm-updates main\ndeb http://s/x bookworm-security main\n";
        std::fs::write(dir.path().join("sources.list"), list).unwrap();
        let archive_of = |suite, mirror| DEBIAN.archive(suite, mirror, dir.path());
        let host = archive_of("bookworm", None);
        assert_eq!((host.uri.as_str(), host.of_host), ("http://m/debian", true));
        assert_eq!(host.lines.len(), 3);
        assert_eq!(archive_of("trixie", None).lines, Vec::<String>::new());
        assert_eq!(archive_of("trixie", Some("http://o/")).lines, ["deb http://o/ trixie main"]);
    }

    #[test]
    fn ubuntu_comes_with_universe_updates_and_security() {
        let none = Path::new("/nonexistent");
        let archive = UBUNTU.archive("noble", None, none);
        let ends =
            ["/ noble main universe", "/ noble-updates main universe", "/ noble-security main universe"];
        assert_eq!(archive.lines.len(), 3);
        for (line, end) in archive.lines.iter().zip(ends) {
            assert!(line.starts_with("deb http://") && line.ends_with(&end[1..]), "{line}");
        }
        let keyrings = tempfile::tempdir().unwrap();
        let path = keyrings.path().join("ubuntu-archive-keyring.gpg");
        assert_eq!(UBUNTU.keyring(&archive, keyrings.path()), Err(NoKeyring(path.clone())));
        let of_host = Archive { of_host: true, ..archive.clone() };
        assert_eq!(UBUNTU.keyring(&of_host, keyrings.path()), Ok(None));
        assert_eq!(DEBIAN.keyring(&archive, keyrings.path()), Ok(None));
        std::fs::write(&path, "keys").unwrap();
        assert_eq!(UBUNTU.keyring(&archive, keyrings.path()), Ok(Some(path)));
    }

    #[test]
    fn packages_come_once() {
        let all = DEBIAN.packages(["git", "gcc"]);
        assert_eq!(all.iter().filter(|p| *p == "git").count(), 1);
        assert_eq!(all.last().unwrap(), "gcc");
    }
}
