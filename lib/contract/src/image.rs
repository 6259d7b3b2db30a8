//! An image as programs report it: `banger.image/1`, and the list of them, `banger.images/1`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::Fault;
use super::record::Init;
use crate::types::{Environment, ImageName};

/// The schema of an [`ImageRecord`] and of the [`Manifest`] that an image keeps.
pub const IMAGE_SCHEMA: &str = "banger.image/1";

/// The schema of an [`ImageList`].
pub const IMAGES_SCHEMA: &str = "banger.images/1";

/// What is known of one file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its length, holes included.
    pub size_bytes: u64,
    /// Lower-case hexadecimal SHA-256. `None` for the seeds, which are all but holes.
    pub sha256: Option<String>,
}

/// How an OCI image wants to be run. Commands in its VMs get the variables; the rest is for people, since a VM has an init and a
/// workspace of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The variables that commands get, but for those that a login sets, such as HOME.
    pub env: Environment,
    /// As whom it would run: commands in VMs run as root.
    pub user: Option<String>,
    /// Where it would run: commands in VMs run in their workspace.
    pub working_dir: Option<String>,
    /// What it would run.
    pub entrypoint: Vec<String>,
    /// The arguments of that, or the command where it has none.
    pub cmd: Vec<String>,
}

/// What an image is: the content of its `manifest.json`, and all of a record but the paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Always [`IMAGE_SCHEMA`].
    pub schema: String,
    /// The name, unique in its state directory.
    pub name: ImageName,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where it came from: the archive's address, or what was imported.
    pub source: String,
    /// The digest of the OCI image that it was made from, such as `sha256:…`; `None` where it was made from something else.
    #[serde(default)]
    pub digest: Option<String>,
    /// Labels: those of the OCI image, and those that were asked for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How the OCI image wants to be run; `None` where it was made from something else.
    #[serde(default)]
    pub run: Option<RunConfig>,
    /// The distribution, such as `debian`; `unknown` where the image does not tell.
    pub distribution: String,
    /// The release, such as `bookworm`; `unknown` where the image does not tell.
    pub suite: String,
    /// The packages that were asked for beside the distribution's essential ones.
    pub packages: Vec<String>,
    /// The kernel's release, as `uname -r` says it in the guest.
    pub kernel_version: String,
    /// The architecture as `uname -m` says it.
    pub arch: String,
    /// Which init runs unless a VM asks for another.
    pub init: Init,
    /// Size of a VM's root filesystem unless it asks for another, bytes.
    pub default_rootfs_size_bytes: u64,
    /// Size of a VM's work disk unless it asks for another, bytes.
    pub default_work_size_bytes: u64,
    /// The files of the boot set by name.
    pub files: BTreeMap<String, ImageFile>,
    /// For people: what of the image will not work, and what to do about it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Absolute paths of an image's boot set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePaths {
    /// The root filesystem, an ext4.
    pub rootfs: String,
    /// The kernel as the distribution ships it (bzImage).
    pub kernel: String,
    /// The same kernel as an uncompressed ELF.
    pub kernel_elf: String,
    /// The kernel's shared initrd segment.
    pub initrd: String,
    /// The ext4 made from the image's /root.
    pub work_seed: String,
    /// An empty ext4.
    pub upper_seed: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRecord {
    /// What it is.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Where it is.
    pub paths: ImagePaths,
    /// Where the root filesystem of a registered image really is; `None`: the image owns it.
    #[serde(default)]
    pub registered: Option<String>,
    /// Files of the boot set that are gone. Such an image cannot boot: delete it or build it again.
    pub missing: Vec<String>,
}

/// An image or kernel that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Damaged {
    /// Its name.
    pub name: String,
    /// Why.
    pub error: Fault,
}

/// All images of a state directory, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageList {
    /// Always [`IMAGES_SCHEMA`].
    pub schema: String,
    /// The images.
    pub items: Vec<ImageRecord>,
    /// Those that cannot be read, as with a manifest that is not valid. They are not among the items.
    #[serde(default)]
    pub damaged: Vec<Damaged>,
}
