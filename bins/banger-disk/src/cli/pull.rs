//! `banger-disk image pull`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use thiserror::Error;

use super::catalog::{self, CatalogSpec};
use super::import::{MakeSpec, parse_bytes, parse_platform};
use crate::build::BuildError;
use crate::cli::{SignalsError, StateArgs, to_value, users_of};
use crate::import::{self, Source};
use crate::oci::{Platform, Select};
use crate::registry::{self, Pull, PullError, Pulled, Reference};
use crate::sys::web::WebOptions;
use crate::{delete, image};
use banger_cli::Failure;
use banger_cli::progress::ProgressArgs;
use banger_contract::types::{ImageName, ParseNameError};
use banger_contract::{Coded, ErrorCode};
use banger_host::process::signal::Interrupts;
use banger_state::lock::{CacheLock, ImagesLock};

/// What `image pull` takes; `banger image pull` takes the same.
#[derive(Debug, Clone, Args)]
pub struct PullSpec {
    /// The image: REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST], or a short name of the catalog's
    #[arg(value_name = "REF", value_parser = parse_wanted)]
    pub wanted: Wanted,
    /// What to call the image [default: the short name, or after its repository and tag]
    #[arg(value_name = "NAME", conflicts_with = "layout")]
    pub name: Option<ImageName>,
    /// Which platform of several [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH", value_parser = parse_platform)]
    pub platform: Option<Platform>,
    /// Only download it, into DIR, as an OCI image layout
    #[arg(long, value_name = "DIR")]
    pub layout: Option<PathBuf>,
    /// Refuse to download more than this [default: 16G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_download: Option<u64>,
    /// Where short names are looked up.
    #[command(flatten)]
    pub catalog: CatalogSpec,
    /// How it is made.
    #[command(flatten)]
    pub make: MakeSpec,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    #[command(flatten)]
    spec: PullSpec,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// A reference of which no name can be made.
#[derive(Debug, Error)]
#[error("{reference} makes no name for an image")]
struct NameError {
    reference: String,
    #[source]
    source: ParseNameError,
}

impl Coded for NameError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("give it one behind the reference".into())
    }
}

/// What is pulled, and from where.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// An image in a registry.
    Registry(Reference),
    /// A short name of the catalog's.
    Catalog(ImageName),
}

fn parse_wanted(text: &str) -> Result<Wanted, String> {
    // Whatever names a registry has a '/' behind it.
    if text.contains('/') {
        return text
            .parse()
            .map(Wanted::Registry)
            .map_err(|error: registry::ParseReferenceError| error.to_string());
    }
    text.parse().map(Wanted::Catalog).map_err(|error: ParseNameError| error.to_string())
}

impl PullSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = self.make.words();
        if let Some(platform) = &self.platform {
            words.push(format!("--platform={platform}").into());
        }
        if let Some(layout) = &self.layout {
            words.extend(["--layout".into(), layout.clone().into_os_string()]);
        }
        words.extend(self.max_download.map(|limit| format!("--max-download={limit}").into()));
        words.extend(self.catalog.words());
        words.push(match &self.wanted {
            Wanted::Registry(reference) => reference.to_string().into(),
            Wanted::Catalog(name) => name.to_string().into(),
        });
        words.extend(self.name.as_ref().map(|name| name.to_string().into()));
        words
    }

    fn name(&self, reference: &Reference) -> Result<ImageName, NameError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let text = reference.suggested_name();
        text.parse().map_err(|source| NameError { reference: reference.to_string(), source })
    }

    fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}

/// How the web is asked by the user's environment, and what the host trusts.
pub(super) fn web_options(spec: &CatalogSpec) -> WebOptions {
    WebOptions {
        insecure: spec.insecure,
        ca_file: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
        also: spec.trust.find("banger-disk").added.into_iter().map(|authority| authority.der).collect(),
    }
}

/// Where docker, podman and others keep the user's credentials.
fn docker_config() -> Option<PathBuf> {
    let named = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    named.or_else(home).filter(|dir| dir.is_absolute()).map(|dir| dir.join("config.json"))
}

pub(super) fn pull(args: &PullArgs, guest: &[u8]) -> Result<Value, Failure> {
    let spec = &args.spec;
    let mut progress = args.progress.open()?;
    let mut tell = |step: &str, message: &str| progress.tell(step, message);
    let reference = match &spec.wanted {
        Wanted::Registry(reference) => reference,
        Wanted::Catalog(name) => {
            let place = (&args.state, guest);
            return catalog::image(&spec.catalog, name, spec.name.as_ref(), &spec.make, place, &mut tell);
        }
    };
    if let Some(layout) = &spec.layout {
        let layout =
            std::path::absolute(layout).map_err(|source| PullError::File { path: layout.clone(), source })?;
        let pulled = download(spec, reference, &layout, &mut tell)?;
        return Ok(json!({
            "schema": "banger.layout/1", "layout": layout, "reference": pulled.pinned.to_string(),
            "digest": pulled.digest, "layers": pulled.layers, "size_bytes": pulled.size_bytes,
        }));
    }
    let name = spec.name(reference)?;
    let state = args.state.made()?;
    // Before a long download: whether what comes after it can be done.
    if let Ok(Some(_)) = image::load(&state, &name) {
        return Err(BuildError::Exists(name).into());
    }
    import::check_kernel(&state, &name, spec.make.kernel_from().as_ref())?;
    delete::refuse_in_use(&name, &users_of(&state, &name)?)?;
    let _cache = CacheLock::acquire(&state, "banger-disk image pull")?;
    let layout = state.layouts();
    // A signal ends the download as it stands: the next one goes on there.
    let pulled = download(spec, reference, &layout, &mut tell)?;
    let lock = ImagesLock::acquire(&state, "banger-disk image pull")?;
    // From here on one removes what was made.
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let select = Select { reference: Some(pulled.digest.clone()), platform: spec.platform() };
    let request = spec.make.request(name.clone(), pulled.pinned.to_string(), select);
    let users = users_of(&state, &name)?;
    let interrupted = || interrupts.pending();
    let source = Source::Layout(layout.clone());
    let image = import::import(&state, &lock, source, &request, &users, &interrupted, &mut tell)?;
    registry::remove(&layout)?;
    Ok(to_value(&image.record()))
}

fn download(
    spec: &PullSpec,
    reference: &Reference,
    layout: &Path,
    tell: &mut dyn FnMut(&str, &str),
) -> Result<Pulled, registry::PullError> {
    let (web, config) = (web_options(&spec.catalog), docker_config());
    let request = Pull {
        reference,
        platform: &spec.platform(),
        layout,
        web: &web,
        docker_config: config.as_deref(),
        max_bytes: spec.max_download.unwrap_or(registry::DEFAULT_MAX_BYTES),
    };
    registry::pull(&request, tell)
}
