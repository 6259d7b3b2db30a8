//! A kernel that is not part of an image, as programs report it: `banger.kernel/1`, and the list of them, `banger.kernels/1`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::image::{Damaged, ImageFile};
use crate::types::KernelName;

/// The schema of a [`KernelRecord`] and of the [`KernelManifest`] that a kernel keeps.
pub const KERNEL_SCHEMA: &str = "banger.kernel/1";

/// The schema of a [`KernelList`].
pub const KERNELS_SCHEMA: &str = "banger.kernels/1";

/// What a kernel is: the content of its `manifest.json`, and all of a record but the paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelManifest {
    /// Always [`KERNEL_SCHEMA`].
    pub schema: String,
    /// The name, unique in its state directory.
    pub name: KernelName,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where it came from: the file names of packages, the path of a file, or `image NAME`.
    pub source: String,
    /// The kernel's release, as `uname -r` says it in the guest.
    pub version: String,
    /// The architecture as `uname -m` says it.
    pub arch: String,
    /// Its files by name.
    pub files: BTreeMap<String, ImageFile>,
}

/// Absolute paths of a kernel's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelPaths {
    /// The kernel as the distribution ships it (bzImage).
    pub kernel: String,
    /// The same kernel as an uncompressed ELF.
    pub kernel_elf: String,
    /// Its initrd segment, which all its VMs share: banger-guest and the modules that a VM needs.
    pub initrd: String,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelRecord {
    /// What it is.
    #[serde(flatten)]
    pub manifest: KernelManifest,
    /// Where it is.
    pub paths: KernelPaths,
    /// Files that are gone. Such a kernel cannot boot: delete it or import it again.
    pub missing: Vec<String>,
}

/// All kernels of a state directory, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelList {
    /// Always [`KERNELS_SCHEMA`].
    pub schema: String,
    /// The kernels.
    pub items: Vec<KernelRecord>,
    /// Those that cannot be read, as with a manifest that is not valid. They are not among the items.
    #[serde(default)]
    pub damaged: Vec<Damaged>,
}
