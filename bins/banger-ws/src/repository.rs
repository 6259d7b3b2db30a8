//! One repository's git directory for the guest.

use std::path::PathBuf;

use crate::pack::Packing;

/// One repository's git directory for the guest.
#[derive(Debug)]
pub struct Repository {
    /// The place of the git directory in the workspace.
    pub git_dir: PathBuf,
    /// The commit that holds the tree as it was seen.
    pub prepared: String,
    /// Its small files.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Its index, on the host.
    pub index: PathBuf,
    /// Its objects.
    pub packing: Packing,
}
