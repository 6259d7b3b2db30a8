//! Debian as an image's distribution: which packages, from which archive.

use std::path::Path;

use crate::disk::arch;
use crate::sys::apt::{self, AptSource};

/// The suite unless another is asked for.
pub const DEFAULT_SUITE: &str = "bookworm";

/// What mmdebstrap uses without sources of the host's.
const DEFAULT_ARCHIVE: &str = "http://deb.debian.org/debian";

/// What an image holds beyond Debian's essential packages: what banger needs in a guest, and what a checkout needs at least.
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

/// The packages of an image that also asks for `more`.
pub fn packages(more: &[String]) -> Vec<String> {
    let mut packages: Vec<String> = vec![arch::DEBIAN_KERNEL.to_owned()];
    packages.extend(PACKAGES.map(str::to_owned));
    for package in more {
        if !packages.contains(package) {
            packages.push(package.clone());
        }
    }
    packages
}

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The main archive's address.
    pub uri: String,
    /// Lines for sources.list(5); none: mmdebstrap's default, which has updates and security as well.
    pub lines: Vec<String>,
}

/// The archive for `suite`: `mirror`, else the one of the host's own apt configuration (in `etc_apt`) where it has this suite with
/// its updates and security, else Debian's.
pub fn archive(suite: &str, mirror: Option<&str>, etc_apt: &Path) -> Archive {
    if let Some(mirror) = mirror {
        return Archive { uri: mirror.to_owned(), lines: vec![format!("deb {mirror} {suite} main")] };
    }
    let sources = apt::sources(etc_apt);
    let of = |suite: &str| -> Option<&AptSource> {
        sources.iter().find(|source| source.main && source.suite == suite && is_plain(&source.uri))
    };
    let Some(main) = of(suite) else {
        return Archive { uri: DEFAULT_ARCHIVE.to_owned(), lines: Vec::new() };
    };
    let also = [format!("{suite}-updates"), format!("{suite}-security")];
    let found = std::iter::once(main).chain(also.iter().filter_map(|suite| of(suite)));
    let lines = found.map(|source| format!("deb {} {} main", source.uri, source.suite)).collect();
    Archive { uri: main.uri.clone(), lines }
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
        let archive_of = |suite, mirror| archive(suite, mirror, dir.path());
        let host = archive_of("bookworm", None);
        assert_eq!(host.uri, "http://m/debian");
        assert_eq!(host.lines.len(), 3);
        assert_eq!(archive_of("trixie", None).lines, Vec::<String>::new());
        assert_eq!(archive_of("trixie", Some("http://o/")).lines, ["deb http://o/ trixie main"]);
    }

    #[test]
    fn packages_come_once() {
        let all = packages(&["git".into(), "gcc".into()]);
        assert_eq!(all.iter().filter(|p| *p == "git").count(), 1);
        assert_eq!(all.last().unwrap(), "gcc");
    }
}
