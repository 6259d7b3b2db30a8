//! What an OCI image layout or an archive of `docker save` holds: which image of it, and where its layers are.
//!
//! Both are files under fixed names, in a directory or in a tar; [`Store`] is either. Digests are checked as the files are read.

mod error;
mod listed;
mod platform;
mod run;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use banger_contract::image::RunConfig;
use banger_formats::tar::shown;
use banger_host::digest::sha256;

pub use error::OciError;
pub use listed::Listed;
pub use platform::Platform;
pub use store::Store;
pub(super) use store::{Part, open_file};

/// An index in an index in an index.
const MAX_DEPTH: u32 = 3;

/// Where an image layout begins, and an archive for `docker load`.
pub(super) const INDEX: &str = "index.json";
pub(super) const DOCKER_MANIFEST: &str = "manifest.json";

/// Media types of an image's configuration; an artifact, such as a signature, has another.
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// Its name (the annotation `org.opencontainers.image.ref.name`, or a tag) or its digest; `None`: the only one.
    pub reference: Option<String>,
    /// What it is to run on.
    pub platform: Platform,
}

/// A reference to a file by its digest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// The annotations that name an image.
#[derive(Debug, Clone, Deserialize)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    containerd: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    oci: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Listed<Descriptor>,
}

/// An index or a manifest, by what it has.
#[derive(Deserialize)]
struct Document {
    manifests: Option<Listed<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Listed<Descriptor>>,
}

/// What of an image's configuration is of use here. Nothing is flattened: serde keeps what it does not know for that.
#[derive(Debug, Default, Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: RootFs,
    config: Option<run::Wanted>,
}

impl Config {
    fn platform(&self) -> Option<Platform> {
        let (os, architecture) = (self.os.clone()?, self.architecture.clone()?);
        Some(Platform { os, architecture, variant: self.variant.clone() })
    }
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    diff_ids: Option<Listed<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Listed<String>>,
    // An image without layers may say null.
    layers: Option<Listed<String>>,
}

/// A layer by its file.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its path in the store.
    pub path: String,
    /// The digest of that file, where it is known; `sha256:…`.
    pub digest: Option<String>,
    /// The digest of what is in it, uncompressed.
    pub diff_id: Option<String>,
}

/// An image: its layers from the lowest to the highest, and what is known of it.
#[derive(Debug, Clone)]
pub struct OciImage {
    /// Its layers.
    pub layers: Vec<Layer>,
    /// The manifest's digest, for docker's archives the configuration's; `sha256:…`.
    pub digest: String,
    /// What it is for.
    pub platform: Option<Platform>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it wants to be run.
    pub run: RunConfig,
    /// For people: what of that is left out.
    pub notes: Vec<String>,
}

impl Store {
    /// The image that `select` says.
    ///
    /// # Errors
    /// [`OciError`].
    pub fn image(&self, select: &Select) -> Result<OciImage, OciError> {
        match (self.has(INDEX), self.has(DOCKER_MANIFEST)) {
            (false, false) => Err(OciError::NoImage),
            // Archives of Docker 25 and newer are both, and then the layout says more.
            (true, false) => self.oci(select),
            (true, true) if self.has("oci-layout") => self.oci(select),
            (_, true) => self.docker(select),
        }
    }

    fn oci(&self, select: &Select) -> Result<OciImage, OciError> {
        let index: Index = self.json(INDEX)?;
        let mut search = Search::new(&select.platform);
        // By its digest an image is found also where no index names it.
        if let Some(digest) =
            select.reference.as_ref().filter(|r| blob_path(r).is_ok_and(|path| self.has(&path)))
        {
            let media_type = String::new();
            let this =
                Descriptor { media_type, digest: digest.clone(), size: 0, platform: None, annotations: None };
            self.expand(&[this], &mut search, 0)?;
        } else {
            let named = |descriptor: &&Descriptor| match &select.reference {
                Some(reference) => descriptor.names().any(|name| name == reference),
                None => true,
            };
            let wanted: Vec<Descriptor> = index.manifests.iter().filter(named).cloned().collect();
            if let (true, Some(reference)) = (wanted.is_empty(), &select.reference) {
                return Err(no_match(reference, index.manifests.iter().map(Descriptor::shown)));
            }
            self.expand(&wanted, &mut search, 0)?;
        }
        let Search { fitting, others, chosen, .. } = search;
        match chosen {
            Some(image) if fitting.len() == 1 => image.image(),
            Some(_) => Err(OciError::Several { found: list(fitting.into_iter()) }),
            None => Err(no_match(&format!("for {}", select.platform), others.into_iter())),
        }
    }

    /// Looks through the manifests that `descriptors` lead to, each once. An index is one image for several platforms: of those that fit in
    /// it the first counts, as others choose. At the top there are different images.
    fn expand(&self, descriptors: &[Descriptor], search: &mut Search, depth: u32) -> Result<(), OciError> {
        let fitting = search.fitting.len();
        for descriptor in descriptors {
            if depth > 0 && search.fitting.len() > fitting {
                break;
            }
            if !search.seen.insert(descriptor.digest.clone()) {
                continue;
            }
            let invalid = |problem: &str| OciError::Invalid {
                what: format!("the manifest {}", shown(descriptor.digest.as_bytes())),
                problem: problem.to_owned(),
            };
            // Docker writes the index of all platforms and the files of one.
            if (depth > 0 || search.is_elsewhere(descriptor)) && !self.has(&blob_path(&descriptor.digest)?) {
                search.others.push(format!("{}, whose files are missing", descriptor.shown_with_platform()));
                continue;
            }
            let Document { manifests, config, layers } = self.blob(&descriptor.digest)?;
            if let Some(manifests) = manifests {
                if depth == MAX_DEPTH {
                    return Err(invalid("is nested too deep"));
                }
                self.expand(&manifests, search, depth + 1)?;
                continue;
            }
            let (Some(config), Some(layers)) = (config, layers) else {
                return Err(invalid("is neither an index nor the manifest of an image"));
            };
            // What BuildKit adds about an image is not an image.
            if descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown") {
                continue;
            }
            if !config.media_type.is_empty() && !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                let what =
                    format!("{} (no image: {})", descriptor.shown(), shown(config.media_type.as_bytes()));
                search.others.push(what);
                continue;
            }
            let config: Config = self.blob(&config.digest)?;
            let platform = descriptor.platform.clone().or_else(|| config.platform());
            search.add(Found { descriptor: descriptor.clone(), layers, config, platform });
        }
        Ok(())
    }

    fn docker(&self, select: &Select) -> Result<OciImage, OciError> {
        let images: Vec<DockerImage> = self.json(DOCKER_MANIFEST)?;
        let names = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default().0;
        let mut found: Vec<&DockerImage> = images.iter().collect();
        if let Some(reference) = &select.reference {
            found.retain(|image| names(image).contains(reference));
            if found.is_empty() {
                return Err(no_match(reference, images.iter().flat_map(names)));
            }
        }
        let [image] = found.as_slice() else {
            return Err(OciError::Several { found: list(images.iter().flat_map(names)) });
        };
        let bytes = self.bytes(&image.config)?;
        let config: Config = parse(&image.config, &bytes)?;
        let platform = config.platform();
        if let Some(platform) = platform.as_ref().filter(|platform| !select.platform.accepts(platform)) {
            return Err(no_match(&format!("for {}", select.platform), std::iter::once(platform.to_string())));
        }
        let layers =
            image.layers.iter().flat_map(|all| all.iter()).map(|path| (path.clone(), None)).collect();
        of(layers, config, platform, format!("sha256:{}", sha256(&bytes)), DOCKER_MANIFEST)
    }
}

/// A search for the image that fits: what there is by name, and of the rest no more than the image itself.
struct Search<'a> {
    platform: &'a Platform,
    /// Digests of what was looked at.
    seen: BTreeSet<String>,
    /// What fits.
    fitting: Vec<String>,
    /// What does not.
    others: Vec<String>,
    /// The first that fits.
    chosen: Option<Found>,
}

impl<'a> Search<'a> {
    fn new(platform: &'a Platform) -> Self {
        Self { platform, seen: BTreeSet::new(), fitting: Vec::new(), others: Vec::new(), chosen: None }
    }

    /// Whether a descriptor says that it is for another platform.
    fn is_elsewhere(&self, descriptor: &Descriptor) -> bool {
        descriptor.platform.as_ref().is_some_and(|platform| !self.platform.accepts(platform))
    }

    fn add(&mut self, found: Found) {
        if found.platform.as_ref().is_none_or(|platform| self.platform.accepts(platform)) {
            self.fitting.push(found.shown());
            self.chosen.get_or_insert(found);
        } else {
            self.others.push(found.shown());
        }
    }
}

/// An image among others.
struct Found {
    descriptor: Descriptor,
    layers: Listed<Descriptor>,
    config: Config,
    platform: Option<Platform>,
}

impl Found {
    fn shown(&self) -> String {
        let platform = self.platform.clone();
        Descriptor { platform, ..self.descriptor.clone() }.shown_with_platform()
    }

    fn image(self) -> Result<OciImage, OciError> {
        let path = |layer: &Descriptor| Ok((blob_path(&layer.digest)?, Some(layer.digest.clone())));
        let layers = self.layers.iter().map(path).collect::<Result<_, OciError>>()?;
        let digest = self.descriptor.digest;
        of(layers, self.config, self.platform, digest.clone(), &digest)
    }
}

impl Descriptor {
    /// What it may be asked for by.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.annotations.iter().flat_map(|all| all.containerd.iter().chain(&all.oci))
    }

    fn shown(&self) -> String {
        shown(self.names().next().unwrap_or(&self.digest).as_bytes())
    }

    fn shown_with_platform(&self) -> String {
        let platform = self.platform.as_ref().map(|platform| format!(" ({platform})"));
        self.shown() + &platform.unwrap_or_default()
    }
}

fn of(
    layers: Vec<(String, Option<String>)>,
    config: Config,
    platform: Option<Platform>,
    digest: String,
    what: &str,
) -> Result<OciImage, OciError> {
    let diff_ids = config.rootfs.diff_ids.unwrap_or_default().0;
    if diff_ids.len() != layers.len() {
        let problem = format!("has {} layers, and its configuration {}", layers.len(), diff_ids.len());
        return Err(OciError::Invalid { what: shown(what.as_bytes()), problem });
    }
    let layers = layers
        .into_iter()
        .zip(diff_ids)
        .map(|((path, digest), diff_id)| Layer { path, digest, diff_id: Some(diff_id) })
        .collect();
    let mut own = config.config.unwrap_or_default();
    let labels = own.labels.take().unwrap_or_default();
    let (run, notes) = own.checked();
    Ok(OciImage { layers, digest, platform, labels, run, notes })
}

/// An error where a file with the digest `found` was asked for by another one.
///
/// # Errors
/// [`OciError::Digest`].
pub fn check_digest(what: &str, found: &str, expected: &str) -> Result<(), OciError> {
    if expected.strip_prefix("sha256:") == Some(found) {
        return Ok(());
    }
    let (what, expected) = (shown(what.as_bytes()), shown(expected.as_bytes()));
    Err(OciError::Digest { what, found: found.to_owned(), expected })
}

/// Where the file with this digest is in a layout.
pub fn blob_path(digest: &str) -> Result<String, OciError> {
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)));
    let problem = || "is not a digest that can be checked: sha256: and 64 hexadecimal digits".to_owned();
    let hex = hex.ok_or_else(|| OciError::Invalid { what: shown(digest.as_bytes()), problem: problem() })?;
    Ok(format!("blobs/sha256/{hex}"))
}

fn parse<T: for<'a> Deserialize<'a>>(what: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Json { what: shown(what.as_bytes()), source })
}

fn no_match(wanted: &str, found: impl Iterator<Item = String>) -> OciError {
    OciError::NoMatch { wanted: shown(wanted.as_bytes()), found: list(found) }
}

/// A few of them, for people.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.take(11).collect();
    let more = if items.len() > 10 { ", …" } else { "" };
    if items.is_empty() { "none".into() } else { items[..items.len().min(10)].join(", ") + more }
}
