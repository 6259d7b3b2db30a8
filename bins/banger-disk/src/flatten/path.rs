//! Paths of archives.

use super::EntryError;

/// The names of a path, one after the other.
pub(super) type Parts = Vec<Vec<u8>>;

/// The longest path: far more than the kernel takes at once.
const MAX_PATH: usize = 64 << 10;

/// The names in `path`, without those that say nothing.
pub(super) fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

/// The names of an entry's path; none: it is the root. An absolute path begins at the image's root as any other does (Nix's layers have
/// `/nix/store/…`).
pub(super) fn parts(path: &[u8]) -> Result<Parts, EntryError> {
    if path.len() > MAX_PATH {
        return Err(EntryError::LongPath);
    }
    if path.is_empty() {
        return Err(EntryError::Empty);
    }
    if path.contains(&0) {
        return Err(EntryError::Nul);
    }
    let parts: Parts = split(path).collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(EntryError::DotDot);
    }
    Ok(parts)
}
