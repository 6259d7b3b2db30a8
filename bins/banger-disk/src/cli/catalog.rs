//! Images and kernels from a catalog: `banger-disk image pull NAME` and `kernel pull NAME`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::import::MakeSpec;
use super::kernel::booted;
use super::pull::web_options;
use super::trust::TrustSpec;
use crate::build::BuildError;
use crate::catalog::{CatalogError, Source};
use crate::cli::{SignalsError, StateArgs, to_value, users_of};
use crate::import::{self, KernelFrom};
use crate::kernel::{self, Kernel};
use crate::kernel_import::{self, Import};
use crate::oci::{Platform, Select};
use crate::sys::url::{ParseUrlError, Url};
use crate::sys::web::Web;
use crate::{delete, image, registry};
use banger_cli::Failure;
use banger_cli::progress::ProgressArgs;
use banger_contract::catalog::CatalogKernel;
use banger_contract::types::{ImageName, KernelName, VmName};
use banger_host::process::signal::Interrupts;
use banger_state::dir::StateDir;
use banger_state::lock::{CacheLock, ImagesLock};

/// Which catalog.
#[derive(Debug, Clone, Args)]
pub struct CatalogSpec {
    /// The catalog of images and kernels by short names, a JSON index [default: none]
    #[arg(long, value_name = "URL", env = "BANGER_CATALOG", hide_env_values = true, value_parser = parse_url)]
    pub catalog: Option<Url>,
    /// Take it without encryption from a server that has none; localhost needs no such leave
    #[arg(long)]
    pub insecure: bool,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustSpec,
}

#[derive(Debug, Args)]
pub(super) struct KernelPullArgs {
    /// The kernel's short name
    name: KernelName,
    #[command(flatten)]
    catalog: CatalogSpec,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

fn parse_url(text: &str) -> Result<Url, ParseUrlError> {
    text.parse()
}

impl CatalogSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            self.catalog.iter().map(|url| format!("--catalog={url}").into()).collect();
        if self.insecure {
            words.push("--insecure".into());
        }
        words.extend(self.trust.words());
        words
    }

    fn url(&self, name: &str) -> Result<Url, CatalogError> {
        self.catalog.clone().ok_or_else(|| CatalogError::None(name.to_owned()))
    }
}

/// Tells what is going on.
type Tell<'a> = &'a mut dyn FnMut(&str, &str);

/// Makes the image `name` (called `own` where that is given) of the catalog's, with the kernel that it names there.
pub(super) fn image(
    catalog: &CatalogSpec,
    name: &ImageName,
    own: Option<&ImageName>,
    make: &MakeSpec,
    place: (&StateArgs, &[u8]),
    tell: Tell,
) -> Result<Value, Failure> {
    let (state, guest) = (place.0.made()?, place.1);
    let own = own.unwrap_or(name).clone();
    let url = catalog.url(name.as_str())?;
    if let Ok(Some(_)) = image::load(&state, &own) {
        return Err(BuildError::Exists(own).into());
    }
    delete::refuse_in_use(&own, &users_of(&state, &own)?)?;
    let _cache = CacheLock::acquire(&state, "banger-disk image pull")?;
    let web = Web::new(&web_options(catalog));
    tell("catalog", &format!("asking {} for {name}", url.authority()));
    let source = Source::open(&web, url)?;
    let entry = source.image(name.as_str())?;
    let mut from = make.kernel_from();
    if let (None, Some(kernel)) = (&from, &entry.kernel) {
        if kernel::load(&state, kernel)?.is_none() {
            kernel_of(&source, source.kernel(kernel.as_str())?, &state, guest, tell)?;
        }
        from = Some(KernelFrom::Kernel(kernel.clone()));
    }
    import::check_kernel(&state, &own, from.as_ref())?;
    let file = source.fetch(&entry.file, &state.downloads(), "", tell)?;
    let lock = ImagesLock::acquire(&state, "banger-disk image pull")?;
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let origin = source.address(&entry.file)?.to_string();
    let select = Select { reference: None, platform: Platform::host() };
    let mut request = make.request(own.clone(), origin, select);
    request.kernel_from = from;
    let users = users_of(&state, &own)?;
    let interrupted = || interrupts.pending();
    let image = import::import(
        &state,
        &lock,
        import::Source::File(file, None),
        &request,
        &users,
        &interrupted,
        tell,
    )?;
    registry::remove(&state.downloads())?;
    Ok(to_value(&image.record()))
}

/// Imports a kernel of the catalog's.
fn kernel_of(
    source: &Source,
    entry: &CatalogKernel,
    state: &StateDir,
    guest: &[u8],
    tell: Tell,
) -> Result<Kernel, Failure> {
    let mut packages: Vec<PathBuf> = Vec::new();
    for file in &entry.files {
        packages.push(source.fetch(file, &state.downloads(), ".deb", tell)?);
    }
    let lock = ImagesLock::acquire(state, "banger-disk kernel pull")?;
    let booted = booted(state)?;
    let users_of = |name: &KernelName| -> Vec<VmName> {
        booted.iter().filter(|(_, kernel)| kernel == name).map(|(vm, _)| vm.clone()).collect()
    };
    let request = Import {
        name: Some(entry.name.clone()),
        source: kernel_import::Source::Packages(&packages),
        guest,
        users_of: &users_of,
        // A signal ends it as it stands: the next import cleans, and so does gc.
        interrupted: &|| None,
    };
    let kernel = kernel_import::import(state, &lock, &request, tell)?;
    for package in packages {
        // A package that stays is gc's.
        drop(std::fs::remove_file(package));
    }
    Ok(kernel)
}

pub(super) fn kernel_pull(args: &KernelPullArgs, guest: &[u8]) -> Result<Value, Failure> {
    let mut progress = args.progress.open()?;
    let mut tell = |step: &str, message: &str| progress.tell(step, message);
    let state = args.state.made()?;
    let url = args.catalog.url(args.name.as_str())?;
    if let Ok(Some(_)) = kernel::load(&state, &args.name) {
        return Err(kernel_import::KernelImportError::Exists(args.name.clone()).into());
    }
    let _cache = CacheLock::acquire(&state, "banger-disk kernel pull")?;
    let web = Web::new(&web_options(&args.catalog));
    tell("catalog", &format!("asking {} for {}", url.authority(), args.name));
    let source = Source::open(&web, url)?;
    let kernel = kernel_of(&source, source.kernel(args.name.as_str())?, &state, guest, &mut tell)?;
    registry::remove(&state.downloads())?;
    Ok(to_value(&kernel.record()))
}
