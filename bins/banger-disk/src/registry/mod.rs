//! Pulling an image out of a registry, into an OCI image layout in a directory of the cache.
//!
//! What comes is checked while it comes, by the digests that lead from the reference, if it pins one, over index and manifest to every
//! file. What an attempt leaves is used by the next one: a file has its final name only when it is whole.

mod blobs;
mod credentials;
mod error;
mod manifest;
mod reference;
mod session;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

pub use credentials::CredentialsError;
pub use error::PullError;
pub use reference::{ParseReferenceError, Reference};

use crate::oci::Platform;
use crate::sys::web::{Web, WebOptions};
use banger_host::fs::atomic;
use manifest::{Descriptor, Document, MAX_JSON_BYTES, Manifest};
use session::Session;

/// How large an image may be unless more is allowed, bytes, as it comes over the network.
pub const DEFAULT_MAX_BYTES: u64 = 16 << 30;

/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);

/// What is to be pulled, and how.
#[derive(Debug)]
pub struct Pull<'a> {
    /// The image.
    pub reference: &'a Reference,
    /// What it is to run on.
    pub platform: &'a Platform,
    /// The directory of the layout; made where it is not there.
    pub layout: &'a Path,
    /// How the web is asked.
    pub web: &'a WebOptions,
    /// docker's `config.json`, with the user's credentials.
    pub docker_config: Option<&'a Path>,
    /// How large the image may be, bytes.
    pub max_bytes: u64,
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image, pinned: what the same reference with this digest will always be.
    pub pinned: Reference,
    /// The digest of the manifest for the platform, under which the layout has it.
    pub digest: String,
    /// How many layers it has.
    pub layers: usize,
    /// How large its files are, bytes.
    pub size_bytes: u64,
}

/// Pulls an image into a layout. `progress` is told step and message.
pub fn pull(request: &Pull, progress: &mut dyn FnMut(&str, &str)) -> Result<Pulled, PullError> {
    make_directory(&request.layout.join("blobs/sha256"))?;
    let web = Web::new(request.web);
    let session = Session::new(request.reference, &web, request.docker_config);
    progress("manifest", &format!("asking for {}", request.reference));
    let selector = request.reference.selector();
    let (mut media_type, mut bytes, mut document) = manifest(&session, selector)?;
    let pinned = request.reference.pinned(&digest(&bytes));
    if let Document::Index(list) = &document {
        let chosen = manifest::choose(&session, list, request.platform)?.digest.clone();
        (media_type, bytes, document) = manifest(&session, &chosen)?;
    }
    let image = match document {
        Document::Image(image) => image,
        Document::Index(_) => return Err(session.answer("the index", "leads to another index")),
    };
    let size_bytes = fetch(&session, request, &image, progress)?;
    let digest = digest(&bytes);
    write(&blobs::path(request.layout, &digest), &bytes)?;
    let names = json!({ "org.opencontainers.image.ref.name": request.reference.to_string() });
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        { "mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": names } ] });
    write(&request.layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    write(&request.layout.join("index.json"), index.to_string().as_bytes())?;
    Ok(Pulled { pinned, digest, layers: image.layers.len(), size_bytes })
}

/// The index or manifest that `selector`, a tag or a digest, stands for, with its media type.
fn manifest(session: &Session, selector: &str) -> Result<(String, Vec<u8>, Document), PullError> {
    let what = format!("the manifest {selector}");
    let answer = session.get("manifests", selector, manifest::ACCEPT, 0)?;
    let content_type = answer.header("content-type").unwrap_or_default().to_owned();
    let told = answer.header("docker-content-digest").map(str::to_owned);
    let bytes = answer.bytes(MAX_JSON_BYTES).map_err(|source| session.broken(&what, source))?;
    let bytes =
        bytes.ok_or_else(|| session.answer(&what, &format!("is larger than {MAX_JSON_BYTES} bytes")))?;
    let found = digest(&bytes);
    let expected = [Some(selector), told.as_deref()].into_iter().flatten();
    for expected in expected.filter(|text| text.starts_with("sha256:")) {
        if expected != found {
            return Err(
                session.answer(&what, &format!("has the digest {found}, which is not {expected:.80}"))
            );
        }
    }
    let (media_type, document) =
        manifest::read(&bytes, &content_type).map_err(|problem| session.answer(&what, &problem))?;
    Ok((media_type, bytes, document))
}

/// Fetches the files that a manifest names; gives their size.
fn fetch(
    session: &Session,
    request: &Pull,
    image: &Manifest,
    progress: &mut dyn FnMut(&str, &str),
) -> Result<u64, PullError> {
    let mut files: Vec<&Descriptor> = Vec::new();
    for file in std::iter::once(&image.config).chain(&image.layers) {
        match files.iter().find(|known| known.digest == file.digest) {
            Some(known) if known.size != file.size => {
                return Err(session.answer("the manifest", &format!("gives {} two sizes", file.digest)));
            }
            Some(_) => {}
            None => files.push(file),
        }
    }
    let size_bytes = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size)).unwrap_or(u64::MAX);
    if size_bytes > request.max_bytes {
        let limit_bytes = request.max_bytes;
        return Err(PullError::TooLarge { reference: session.shown(), size_bytes, limit_bytes });
    }
    let mut told = None::<Instant>;
    blobs::fetch_all(session, request.layout, &files, &mut |bytes| {
        if bytes >= size_bytes || told.is_none_or(|at| at.elapsed() > TOLD) {
            told = Some(Instant::now());
            progress("download", &format!("{:.1} of {:.1} MB", mb(bytes), mb(size_bytes)));
        }
    })?;
    Ok(size_bytes)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn make_directory(path: &Path) -> Result<(), PullError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PullError::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PullError> {
    let written = atomic::write(path, bytes, 0o600);
    written.map_err(|error| PullError::File { path: path.to_owned(), source: std::io::Error::other(error) })
}

/// Removes a layout, with all that unfinished pulls left in it; whether there was any.
pub fn remove(layout: &Path) -> Result<bool, PullError> {
    match fs::remove_dir_all(layout) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PullError::File { path: layout.to_owned(), source }),
    }
}
