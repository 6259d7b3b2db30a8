//! Importing a kernel: out of Debian packages, of a vmlinuz with its modules, or of an image.
//!
//! Everything is made in `kernels/.tmp-…`, under [`ImagesLock`], and renamed into place at the end. What a killed import left there
//! goes with the next one, and with `gc`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::boot_set::{self, BootSetError, KERNEL_FILES, Unpacked};
use super::image::Image;
use super::kernel::{self, Kernel, KernelError, TMP_PREFIX};
use super::{arch, kernel_options, modules};
use banger_contract::kernel::{KERNEL_SCHEMA, KernelManifest};
use banger_contract::types::{KernelName, VmName};
use banger_formats::kconfig::{self, Kconfig};
use banger_formats::{deb, modinfo};
use banger_host::clock;
use banger_host::fs::reflink;
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

pub use super::kernel_import_error::KernelImportError;

/// In an unfinished kernel: what came out of packages.
const UNPACKED: &str = "unpacked";

/// Where a kernel comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// Debian packages, which together hold the kernel and its modules.
    Packages(&'a [PathBuf]),
    /// Files.
    Files {
        /// The kernel.
        vmlinuz: &'a Path,
        /// The directory of its modules, or a root directory with lib/modules; `None`: everything is built in.
        modules: Option<&'a Path>,
        /// Its configuration, where that does not stand beside it.
        config: Option<&'a Path>,
    },
    /// An image's own kernel.
    Image(&'a Image),
}

/// What is to be imported, and how.
pub struct Import<'a> {
    /// Its name; `None`: after its version.
    pub name: Option<KernelName>,
    /// Where it comes from.
    pub source: Source<'a>,
    /// banger-guest.
    pub guest: &'a [u8],
    /// The VMs that boot from the kernel of a given name.
    pub users_of: &'a dyn Fn(&KernelName) -> Vec<VmName>,
    /// The signal that asks this process to stop, once one came.
    pub interrupted: &'a dyn Fn() -> Option<i32>,
}

/// Imports a kernel. One of that name that is whole is a conflict; one that lacks files is replaced, unless VMs boot from it.
pub fn import(
    state: &StateDir,
    lock: &ImagesLock,
    request: &Import,
    progress: super::build::Progress,
) -> Result<Kernel, KernelImportError> {
    kernel::clean_leftovers(state, lock)?;
    let kernels = state.kernels();
    let tmp = tempfile::Builder::new().prefix(TMP_PREFIX).tempdir_in(&kernels);
    let tmp = tmp.map_err(|source| KernelImportError::File { path: kernels, source })?;
    if let Some(name) = &request.name {
        check_free(state, request, name)?;
    }
    let (source, version) = match &request.source {
        Source::Image(image) => {
            progress("copy", &format!("copying the kernel of the image {}", image.name()));
            (format!("image {}", image.name()), copy_from(image, tmp.path())?)
        }
        Source::Packages(_) | Source::Files { .. } => make(request, tmp.path(), progress)?,
    };
    let name = match &request.name {
        Some(name) => name.clone(),
        None => name_of(&version)?,
    };
    check_free(state, request, &name)?;
    progress("manifest", "computing digests");
    let manifest = KernelManifest {
        schema: KERNEL_SCHEMA.to_owned(),
        name: name.clone(),
        created_at: clock::now_rfc3339(),
        source,
        version,
        arch: arch::NAME.to_owned(),
        files: boot_set::seal(tmp.path(), &KERNEL_FILES, |_| false)?,
    };
    if let Some(signal) = (request.interrupted)() {
        return Err(KernelImportError::Interrupted(signal));
    }
    let kernel = install(state, tmp, manifest)?;
    progress("done", &format!("the kernel {name} is ready"));
    Ok(kernel)
}

/// An error where there is such a kernel already.
fn check_free(state: &StateDir, request: &Import, name: &KernelName) -> Result<(), KernelImportError> {
    match kernel::load(state, name) {
        Ok(Some(_)) => Err(KernelImportError::Exists(name.clone())),
        Ok(None) | Err(KernelError::MissingFile { .. } | KernelError::Manifest { .. }) => {
            Ok(kernel::refuse_in_use(name, &(request.users_of)(name))?)
        }
        Err(error) => Err(error.into()),
    }
}

/// `6.12.0-1.fc41.x86_64` → `6.12.0-1.fc41.x86-64`.
fn name_of(version: &str) -> Result<KernelName, KernelImportError> {
    let text = version.to_lowercase().replace(['_', '+', '~'], "-");
    text.parse().map_err(|source| KernelImportError::Name { version: version.to_owned(), source })
}

/// Copies the files of an image's kernel; gives its version.
fn copy_from(image: &Image, tmp: &Path) -> Result<String, KernelImportError> {
    for name in KERNEL_FILES {
        let (from, path) = (image.dir.join(name), tmp.join(name));
        let copied = File::open(&from).and_then(|from| {
            let to = File::create_new(&path)?;
            reflink::copy_range(&from, 0, &to, 0, from.metadata()?.len())
        });
        copied.map_err(|source| KernelImportError::File { path: from, source })?;
    }
    Ok(image.manifest.kernel_version.clone())
}

/// What was found of a kernel.
struct Found {
    vmlinuz: PathBuf,
    /// Where modules are to be looked for.
    modules: Option<PathBuf>,
    config: Option<PathBuf>,
    /// For people.
    source: String,
}

impl Found {
    /// What a message calls it: the file or the packages that were given.
    fn name(&self) -> PathBuf {
        PathBuf::from(&self.source)
    }
}

/// Makes the kernel's files in `tmp`; gives where it came from, and its version.
fn make(
    request: &Import,
    tmp: &Path,
    progress: super::build::Progress,
) -> Result<(String, String), KernelImportError> {
    let found = match &request.source {
        Source::Packages(packages) => unpack(packages, request, tmp, progress)?,
        Source::Files { vmlinuz, modules, config } => Found {
            vmlinuz: (*vmlinuz).to_owned(),
            modules: modules.map(Path::to_owned),
            config: config.map(Path::to_owned),
            source: vmlinuz.to_string_lossy().into_owned(),
        },
        Source::Image(_) => unreachable!("an image's kernel is copied"),
    };
    let vmlinuz = tmp.join(boot_set::KERNEL);
    let copied = fs::copy(&found.vmlinuz, &vmlinuz);
    copied.map_err(|source| KernelImportError::File { path: found.vmlinuz.clone(), source })?;
    progress("kernel", "unpacking the kernel and choosing its modules");
    // The copy is nobody's but ours: errors name what was given.
    let kernel = boot_set::unpack(&vmlinuz).map_err(|error| match error {
        BootSetError::Kernel { source, .. } => BootSetError::Kernel { path: found.name(), source },
        other => other,
    })?;
    let root = match &found.modules {
        Some(base) => Some(modules_root(base, kernel.release.as_deref())?),
        None => None,
    };
    check_options(&found, &kernel, root.as_deref())?;
    let modules = match &root {
        Some(root) => modules::wanted(root)?,
        None => Vec::new(),
    };
    let built_for = modules.iter().find_map(|module| modinfo::parse(&module.bytes)?.release);
    let version = match (kernel.release, built_for) {
        (Some(kernel), Some(modules)) if kernel != modules => {
            return Err(KernelImportError::OtherRelease { kernel, modules });
        }
        (Some(version), _) | (None, Some(version)) => version,
        (None, None) => return Err(KernelImportError::NoRelease(found.name())),
    };
    boot_set::write_unpacked(tmp, &kernel.elf, &modules, request.guest)?;
    let unpacked = tmp.join(UNPACKED);
    match fs::remove_dir_all(&unpacked) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelImportError::File { path: unpacked, source: error })
        }
        _ => Ok((found.source, version)),
    }
}

/// Unpacks what is needed of packages.
fn unpack(
    packages: &[PathBuf],
    request: &Import,
    tmp: &Path,
    progress: super::build::Progress,
) -> Result<Found, KernelImportError> {
    let into = tmp.join(UNPACKED);
    let wanted = |name: &str| {
        let modules = ["lib/modules/", "usr/lib/modules/"].iter().any(|dir| name.starts_with(dir));
        modules || name.starts_with("boot/vmlinuz-") || name.starts_with("boot/config-")
    };
    let mut names = Vec::new();
    for package in packages {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress("unpack", &format!("unpacking {name}"));
        let file = File::open(package);
        let file = file.map_err(|source| KernelImportError::File { path: package.clone(), source })?;
        deb::unpack(file, &into, &wanted, request.interrupted).map_err(|source| match source {
            deb::DebError::Interrupted(signal) => KernelImportError::Interrupted(signal),
            source => KernelImportError::Package { path: package.clone(), source },
        })?;
        names.push(name);
    }
    let in_boot = |prefix: &str| files_in(&into.join("boot"), prefix);
    let mut kernels = in_boot("vmlinuz-");
    let source = names.join(", ");
    match (kernels.pop(), kernels.len()) {
        (None, _) => Err(KernelImportError::NoKernel(source)),
        (Some(_), 1..) => Err(KernelImportError::Several(source)),
        (Some(vmlinuz), 0) => {
            Ok(Found { vmlinuz, modules: Some(into.clone()), config: in_boot("config-").pop(), source })
        }
    }
}

/// The files in `dir` whose names begin with `prefix`.
fn files_in(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The directory of one kernel's modules: `base` itself, or below it the one of that release, or the only one.
fn modules_root(base: &Path, release: Option<&str>) -> Result<PathBuf, KernelImportError> {
    let is_root = |dir: &Path| dir.join("modules.dep").is_file() || dir.join("kernel").is_dir();
    if is_root(base) {
        return Ok(base.to_owned());
    }
    for parent in [base.join("usr/lib/modules"), base.join("lib/modules"), base.to_owned()] {
        if let Some(dir) = release.map(|release| parent.join(release)).filter(|dir| is_root(dir)) {
            return Ok(dir);
        }
        let roots: Vec<PathBuf> = files_in(&parent, "").into_iter().filter(|dir| is_root(dir)).collect();
        if let [only] = roots.as_slice() {
            return Ok(only.clone());
        }
    }
    let release = release.unwrap_or("the kernel").to_owned();
    Err(KernelImportError::NoModules { base: base.to_owned(), release })
}

/// Looks into the kernel's configuration for all that a VM needs. Without one the modules decide, and what depmod says is built in.
fn check_options(found: &Found, kernel: &Unpacked, root: Option<&Path>) -> Result<(), KernelImportError> {
    let release = kernel.release.clone().unwrap_or_default();
    let beside = [
        found.vmlinuz.with_file_name(format!("config-{release}")),
        root.unwrap_or(Path::new("/nonexistent")).join("config"),
    ];
    let path = found.config.clone().or_else(|| beside.into_iter().find(|path| path.is_file()));
    let config = match path {
        Some(path) => {
            let bytes = boot_set::read_bounded(&path, kconfig::MAX_BYTES)?;
            let config = Kconfig::parse(&String::from_utf8_lossy(&bytes));
            if config.is_empty() {
                return Err(KernelImportError::NotConfig(path));
            }
            Some(config)
        }
        None => Kconfig::embedded(&kernel.elf),
    };
    match config {
        Some(config) => {
            let missing = kernel_options::missing(&config, root.is_some());
            if missing.is_empty() {
                return Ok(());
            }
            Err(KernelImportError::Lacks { vmlinuz: found.name(), options: missing.join(", ") })
        }
        None if root.is_some() => Ok(()),
        None => Err(KernelImportError::NoConfig(found.name())),
    }
}

/// Puts the finished kernel in its place, in one step.
fn install(state: &StateDir, tmp: TempDir, manifest: KernelManifest) -> Result<Kernel, KernelImportError> {
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys only");
    boot_set::write(&tmp.path().join(kernel::MANIFEST), &json)?;
    let target = state.kernel(&manifest.name);
    let error = |source| KernelImportError::File { path: target.clone(), source };
    if target.exists() {
        // It lacks files (`check_free` looked); nobody can use it.
        fs::remove_dir_all(&target).map_err(error)?;
    }
    fs::rename(tmp.path(), &target).map_err(error)?;
    // Renamed: there is nothing left to remove at the old place.
    let _ = tmp.keep();
    File::open(state.kernels()).and_then(|dir| dir.sync_all()).map_err(error)?;
    Ok(Kernel::at(target, manifest))
}
