//! A catalog: images and kernels by short names, as somebody publishes them at an address. `banger.catalog/1`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{ImageName, KernelName};

/// The schema of a [`Catalog`].
pub const CATALOG_SCHEMA: &str = "banger.catalog/1";

/// A file of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogFile {
    /// Its address; one without a scheme counts from the catalog's.
    pub url: String,
    /// Lower-case hexadecimal SHA-256.
    pub sha256: String,
    /// Its length.
    pub size_bytes: u64,
}

/// An image: one file of a kind that `image import` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogImage {
    /// Its short name.
    pub name: ImageName,
    /// The architecture as `uname -m` says it.
    pub arch: String,
    /// The kernel of this catalog that it boots with; `None`: the newest that is there.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// An OCI image layout or docker's archive (a tar), a tar of a root filesystem, or an ext4.
    #[serde(flatten)]
    pub file: CatalogFile,
}

/// A kernel: the Debian packages that it comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogKernel {
    /// Its short name.
    pub name: KernelName,
    /// The architecture as `uname -m` says it.
    pub arch: String,
    /// The packages.
    pub files: Vec<CatalogFile>,
}

/// A catalog. Keys that are not known do not count, so that one can say more to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Catalog {
    /// Always [`CATALOG_SCHEMA`].
    pub schema: String,
    /// The images.
    #[serde(default)]
    pub images: Vec<CatalogImage>,
    /// The kernels.
    #[serde(default)]
    pub kernels: Vec<CatalogKernel>,
}
