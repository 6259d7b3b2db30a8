//! What an archive holds that somebody wants to be an image, which may be known only at its end: makers write the layers of an image
//! before its manifest or behind it, under names of their choice.

use std::collections::BTreeSet;
use std::io::Read;

use super::oci;
use banger_formats::tar::{self, Archive, Entry, Kind, TarError, shown};

/// What a root filesystem has at its top (the Filesystem Hierarchy Standard, and `nix`), and no archive of images.
const TOP: [&str; 22] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix", "opt",
    "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
];

/// How many names [`Found::Unknown`] has.
const MAX_NAMED: usize = 5;

/// What an archive holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A root filesystem. The archive was read up to the entry that shows it.
    RootFilesystem,
    /// Images: an OCI layout, or what `docker load` takes. The archive was read to its end.
    Images,
    /// Neither; the names at its top, some of them. The archive was read to its end.
    Unknown(Vec<String>),
}

/// Reads `archive` until it is known what it holds. `pass_over` is given the chance to skip an entry's data without reading it.
///
/// # Errors
/// [`TarError`].
pub(super) fn archive<R: Read>(
    archive: &mut Archive<R>,
    pass_over: impl Fn(&mut Archive<R>),
) -> Result<Found, TarError> {
    let mut has_images = false;
    let mut names = BTreeSet::new();
    while let Some(entry) = archive.next_entry()? {
        pass_over(archive);
        let name = tar::member_name(&entry.path);
        if is_of_a_root(&entry, &name) {
            return Ok(Found::RootFilesystem);
        }
        has_images |= [oci::INDEX, oci::DOCKER_MANIFEST].contains(&name.as_str());
        let top = name.split('/').next().unwrap_or_default();
        if !top.is_empty() && names.len() < MAX_NAMED {
            names.insert(shown(top.as_bytes()));
        }
    }
    match has_images {
        true => Ok(Found::Images),
        false if archive.ended() => Ok(Found::Unknown(names.into_iter().collect())),
        false => Err(TarError::Truncated { after: archive.last().to_owned() }),
    }
}

/// Whether an entry is at the top of a root filesystem, or below what is there.
fn is_of_a_root(entry: &Entry, name: &str) -> bool {
    let (top, is_below) = name.split_once('/').map_or((name, false), |(top, _)| (top, true));
    // A link, since /bin often leads to /usr/bin.
    TOP.contains(&top) && (is_below || matches!(entry.kind, Kind::Directory | Kind::Symlink))
}
