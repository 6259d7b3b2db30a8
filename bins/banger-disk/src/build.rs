//! Making an image: mmdebstrap, and out of its root filesystem the boot set.
//!
//! # How files keep their owners
//!
//! A root filesystem has files of many users, and an ordinary user can neither make such files nor see in a tar, once unpacked,
//! whose they were. So `mke2fs -d` runs where they are, inside mmdebstrap's own namespace, as its last hook (`build.sh`): as root
//! the owners are simply right, and in a user namespace mke2fs sees them as the guest will. It also saves packing a tar and
//! unpacking it again. The hook comes to the files it writes by a descriptor of their directory, since the
//! namespace's users may not pass through the state directory.
//!
//! # A killed build
//!
//! Everything is made in `images/.tmp-…`, under [`ImagesLock`], and renamed into place at the end. [`clean_leftovers`] removes what
//! a killed build left there; every build and `gc` begin with it. The lock lasts until mmdebstrap, too, has ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_contract::error::escape_controls;
use banger_contract::image::{IMAGE_SCHEMA, Manifest};
use banger_contract::record::Init;
use banger_contract::types::{ImageName, Size, VmName};
use banger_formats::ext4;
use banger_host::clock;
use banger_protocol::guest::{BUNDLE_VARIABLES, EXTRA_VARIABLE};
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;
use tempfile::TempDir;

use crate::build_error::MAX_SCRIPT_BYTES;
pub use crate::build_error::{BuildError, DeleteError};
use crate::distribution::{self, Archive, Distribution, NoKeyring};
pub use crate::given::Mise;
use crate::image::{self, Image, ImageError, TMP_PREFIX};
use crate::recipe::{self, Recipe};
use crate::sys::host_ca::Authority;
use crate::sys::memory;
use crate::sys::mmdebstrap::{self, Bootstrap};
use crate::{arch, boot_set, delete, given, modules, seed};

/// Size of root and work disk unless another is asked for, bytes.
pub const DEFAULT_SIZE_BYTES: u64 = 8 << 30;

/// The smallest and largest size that makes sense, bytes.
const SIZES: std::ops::RangeInclusive<u64> = 256 << 20..=16 << 40;

/// In an unfinished image: a file with the path of the directory where mmdebstrap works for an ordinary user.
const SCRATCH: &str = "scratch";

/// In an unfinished image: the kernel's modules, a tar.
const MODULES: &str = "modules.tar";

/// In an unfinished image: the kernel's version.
const VERSION: &str = "version";

/// In an unfinished image: lines for its notes.
const NOTES: &str = "notes";

/// How much memory the root filesystem may take while it is made, bytes: four times the default image, and twice what the recipes make
/// of it.
const MEMORY_BYTES: u64 = 2 << 30;

/// The script that takes a root filesystem apart.
const HOOK: &str = include_str!("build.sh");

/// What is to be made.
#[derive(Debug)]
pub struct BuildRequest {
    /// The image's name.
    pub name: ImageName,
    /// The distribution.
    pub distribution: &'static Distribution,
    /// The release.
    pub suite: String,
    /// The archive; `None`: the host's, else the distribution's.
    pub mirror: Option<String>,
    /// The keys that sign the archive; `None`: the distribution's.
    pub keyring: Option<PathBuf>,
    /// A ready set of packages and what else belongs to it.
    pub recipe: Option<&'static Recipe>,
    /// The mise for a recipe that wants one.
    pub mise: Option<Mise>,
    /// Packages beyond those that every image has.
    pub packages: Vec<String>,
    /// A script to run as root in the finished system.
    pub script: Option<String>,
    /// Variables about a proxy that apt needs besides those of the environment.
    pub proxies: Vec<(&'static str, OsString)>,
    /// The host's authorities that what runs in the system is to trust. Nothing of them stays in the image.
    pub host_ca: Vec<Authority>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Default size of a VM's root and work disk, bytes.
    pub size_bytes: u64,
}

/// Who builds, and with what of the host.
pub struct Builder<'a> {
    /// banger-guest.
    pub guest: &'a [u8],
    /// The effective user.
    pub uid: u32,
    /// Its name.
    pub user: &'a str,
    /// A directory for temporary files that everybody can pass through, such as /var/tmp.
    pub temp_dir: &'a Path,
    /// The host's apt configuration: /etc/apt.
    pub etc_apt: &'a Path,
    /// Where the host has the keys of archives: /usr/share/keyrings.
    pub keyrings: &'a Path,
    /// The signal that asks this process to stop, once one came.
    pub interrupted: &'a dyn Fn() -> Option<i32>,
}

/// Tells what is going on: the step and, within it, what it does.
pub type Progress<'a> = &'a mut dyn FnMut(&str, &str);

impl BuildRequest {
    /// The packages beyond the essential ones.
    fn all_packages(&self) -> Vec<String> {
        let of_recipe = self.recipe.map_or(&[][..], |recipe| recipe.packages);
        self.distribution.packages(of_recipe.iter().copied().chain(self.packages.iter().map(String::as_str)))
    }

    /// How much memory the root filesystem may take while it is made, bytes; `None`: it is made on the disk. It has to fit, so that is
    /// done for what is known beforehand alone, and where it leaves as much memory again.
    fn memory(&self, available_bytes: u64) -> Option<u64> {
        let known = self.packages.is_empty() && self.script.is_none();
        (known && available_bytes >= 2 * MEMORY_BYTES).then_some(MEMORY_BYTES)
    }

    /// Checks everything that goes to other programs.
    fn check(&self) -> Result<(), BuildError> {
        let word = |text: &str, also: &str| {
            let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c);
            text.len() <= 200
                && text.starts_with(|c: char| ok(c) && c.is_alphanumeric())
                && text.chars().all(ok)
        };
        if !word(&self.suite, ".-") {
            return Err(BuildError::Argument { what: "suite", value: self.suite.clone() });
        }
        if let Some(bad) = self.packages.iter().find(|package| !word(package, "+.-")) {
            return Err(BuildError::Argument { what: "package", value: bad.clone() });
        }
        if let Some(mirror) = &self.mirror {
            let scheme = ["http://", "https://", "file:///"].iter().any(|s| mirror.starts_with(s));
            if !scheme
                || mirror.len() > 2000
                || mirror.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                return Err(BuildError::Argument { what: "mirror", value: mirror.clone() });
            }
        }
        if let Some(script) = &self.script
            && (!script.starts_with("#!") || script.contains('\0') || script.len() as u64 > MAX_SCRIPT_BYTES)
        {
            return Err(BuildError::Script);
        }
        check_size(self.size_bytes)
    }
}

/// Checks the default size of a VM's disks, bytes.
pub(super) fn check_size(size_bytes: u64) -> Result<(), BuildError> {
    if !SIZES.contains(&size_bytes) || !size_bytes.is_multiple_of(4096) {
        return Err(BuildError::Argument { what: "size", value: Size::from_bytes(size_bytes).to_string() });
    }
    Ok(())
}

/// Makes the image. One of that name that is whole is a conflict; one that lacks files is replaced, unless VMs (`in_use_by`) have
/// their changes above its root.
pub fn build(
    state: &StateDir,
    lock: &ImagesLock,
    request: &BuildRequest,
    builder: &Builder,
    in_use_by: &[VmName],
    progress: Progress,
) -> Result<Image, BuildError> {
    request.check()?;
    clean_leftovers(state, lock)?;
    match image::load(state, &request.name) {
        Ok(None) | Err(ImageError::MissingFile { .. } | ImageError::Manifest { .. }) => {}
        Ok(Some(_)) => return Err(BuildError::Exists(request.name.clone())),
        Err(error) => return Err(error.into()),
    }
    delete::refuse_in_use(&request.name, in_use_by)?;
    let tmp = unfinished(state)?;
    let distribution = request.distribution;
    let archive = distribution.archive(&request.suite, request.mirror.as_deref(), builder.etc_apt);
    let keyring = keyring(request, &archive, builder)?;
    let Bootstrapped { kernel_version, notes } =
        bootstrap(tmp.path(), lock, request, (&archive, keyring), builder, progress)?;
    progress("kernel", &format!("unpacking the kernel {kernel_version} and its modules"));
    kernel(tmp.path(), &kernel_version, builder.guest)?;
    progress("seeds", "making the empty filesystem");
    ext4::make_empty(&tmp.path().join(image::UPPER_SEED), request.size_bytes, "banger-upper")?;
    progress("manifest", "computing digests");
    let manifest = Manifest {
        schema: IMAGE_SCHEMA.to_owned(),
        name: request.name.clone(),
        created_at: clock::now_rfc3339(),
        source: archive.uri,
        digest: None,
        labels: request.labels.clone(),
        run: None,
        distribution: distribution.name.to_owned(),
        suite: request.suite.clone(),
        packages: request.all_packages(),
        kernel_version,
        arch: arch::NAME.to_owned(),
        init: Init::Lean,
        default_rootfs_size_bytes: request.size_bytes,
        default_work_size_bytes: request.size_bytes,
        files: boot_set::seal(tmp.path(), &image::BOOT_SET, is_seed)?,
        notes,
    };
    let image = install(state, tmp, manifest)?;
    progress("done", &format!("the image {} is ready", request.name));
    Ok(image)
}

/// The directory of an unfinished image; it goes with what is in it, unless [`install`] takes it.
pub(super) fn unfinished(state: &StateDir) -> Result<TempDir, BuildError> {
    let images = state.images();
    let tmp = tempfile::Builder::new().prefix(TMP_PREFIX).tempdir_in(&images);
    tmp.map_err(|source| BuildError::File { path: images, source })
}

/// What mmdebstrap and the hook tell of the root filesystem.
struct Bootstrapped {
    kernel_version: String,
    notes: Vec<String>,
}

/// Runs mmdebstrap with the hook.
fn bootstrap(
    tmp: &Path,
    lock: &ImagesLock,
    request: &BuildRequest,
    (archive, keyring): (&Archive, Option<PathBuf>),
    builder: &Builder,
    progress: Progress,
) -> Result<Bootstrapped, BuildError> {
    let root = builder.uid == 0;
    if !root {
        mmdebstrap::check_user_namespace(builder.user, builder.uid)?;
    }
    let scratch = Scratch::new(tmp, root, builder.temp_dir)?;
    let keyring = keyring.map(|keyring| given::copy_keyring(&keyring, scratch.path())).transpose()?;
    let wants_mise = request.recipe.is_some_and(|recipe| recipe.wants_mise);
    let mise = request.mise.as_ref().filter(|_| wants_mise);
    mise.map(|mise| given::copy_mise(mise, tmp)).transpose()?;
    given::copy_authorities(&request.host_ca, tmp)?;
    // Nothing is told before all that was named has been seen.
    let title = request.distribution.title;
    progress("bootstrap", &format!("installing {title} {} from {}", request.suite, archive.uri));
    let work = scratch.work()?;
    let mke2fs = ext4::find_mke2fs().map_err(mmdebstrap::BootstrapError::Program)?;
    let output = outputs(tmp)?;
    let bootstrap = Bootstrap {
        suite: &request.suite,
        sources: &archive.lines,
        keyring: keyring.as_deref(),
        packages: &request.all_packages(),
        dpkg_options: &distribution::DPKG_OPTIONS,
        hook: HOOK,
        variables: &[
            ("BANGER_MKE2FS", mke2fs.to_string_lossy().into_owned()),
            ("BANGER_MKE2FS_ARGS", ext4::MKE2FS_ARGS.join(" ")),
            ("BANGER_WORK_SIZE", request.size_bytes.to_string()),
            ("BANGER_RECIPE", request.recipe.map_or("", |recipe| recipe.name).to_owned()),
            ("BANGER_RECIPE_SCRIPT", request.recipe.map_or("", |recipe| recipe.script).to_owned()),
            ("BANGER_MISE_INSIDE", recipe::MISE_INSIDE.to_owned()),
            (recipe::MISE_NEEDED, u8::from(mise.is_some_and(|mise| mise.needed)).to_string()),
            ("BANGER_BUNDLE_VARIABLES", [&BUNDLE_VARIABLES[..], &[EXTRA_VARIABLE]].concat().join(" ")),
            ("BANGER_SCRIPT", request.script.clone().unwrap_or_default()),
        ],
        proxies: &request.proxies,
        output: &output,
        lock: lock.as_fd(),
        scratch: &work,
        memory: request.memory(memory::available_bytes()),
        root,
    };
    bootstrap.run(&mut |line| progress("bootstrap", line), builder.interrupted)?;
    scratch.remove(tmp)?;
    set_mode(tmp, 0o700)?;
    given::remove(tmp)?;
    let notes = take(tmp, NOTES, 4000)?;
    let version = take(tmp, VERSION, 200)?;
    let ok = |c: char| c.is_ascii_alphanumeric() || "+.-_~".contains(c);
    if version.is_empty() || version.starts_with('.') || !version.chars().all(ok) {
        return Err(BuildError::KernelVersion(version));
    }
    Ok(Bootstrapped { kernel_version: version, notes: notes.lines().map(escape_controls).collect() })
}

/// The text of a file of the unfinished image, which is removed.
fn take(tmp: &Path, name: &str, limit: u64) -> Result<String, BuildError> {
    let path = tmp.join(name);
    let text = boot_set::read_bounded(&path, limit)?;
    fs::remove_file(&path).map_err(|source| BuildError::File { path, source })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The keys that the archive is to be signed with; `None`: those that the host's apt trusts.
fn keyring(
    request: &BuildRequest,
    archive: &Archive,
    builder: &Builder,
) -> Result<Option<PathBuf>, BuildError> {
    if let Some(keyring) = &request.keyring {
        return Ok(Some(keyring.clone()));
    }
    let distribution = request.distribution;
    let found = distribution.keyring(archive, builder.keyrings);
    found.map_err(|NoKeyring(path)| BuildError::NoKeyring { distribution, path })
}

/// Where mmdebstrap works.
enum Scratch {
    /// As root: in the unfinished image, whose removal removes it.
    Inside(PathBuf),
    /// In a user namespace: elsewhere, in a directory that a file in the unfinished image names.
    Outside(TempDir),
}

impl Scratch {
    fn new(tmp: &Path, root: bool, temp_dir: &Path) -> Result<Self, BuildError> {
        let path = tmp.join(SCRATCH);
        let error = |source| BuildError::File { path: path.clone(), source };
        if root {
            DirBuilder::new().mode(0o755).create(&path).map_err(error)?;
            return Ok(Self::Inside(path));
        }
        let mode = Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("banger-image-").permissions(mode).tempdir_in(temp_dir);
        let dir = dir.map_err(|source| BuildError::File { path: temp_dir.to_owned(), source })?;
        fs::write(&path, dir.path().as_os_str().as_encoded_bytes()).map_err(error)?;
        Ok(Self::Outside(dir))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Inside(path) => path,
            Self::Outside(dir) => dir.path(),
        }
    }

    /// Makes a directory in it for mmdebstrap alone.
    fn work(&self) -> Result<PathBuf, BuildError> {
        let path = self.path().join("work");
        let made = DirBuilder::new().mode(0o755).create(&path);
        made.map(|()| path.clone()).map_err(|source| BuildError::File { path, source })
    }

    /// Removes it from `tmp` and from elsewhere.
    fn remove(self, tmp: &Path) -> Result<(), BuildError> {
        let path = self.path().to_owned();
        let removed = match self {
            Self::Inside(path) => fs::remove_dir_all(path),
            Self::Outside(dir) => dir.close().and_then(|()| fs::remove_file(tmp.join(SCRATCH))),
        };
        removed.map_err(|source| BuildError::Leftover { path, source })
    }
}

/// The ELF kernel and the shared initrd segment, out of what the hook left.
pub fn kernel(tmp: &Path, version: &str, guest: &[u8]) -> Result<(), BuildError> {
    let kernel = boot_set::unpack(&tmp.join(image::KERNEL))?;
    let (archive, root) = (tmp.join(MODULES), tmp.join("modules"));
    let error = |source| BuildError::File { path: archive.clone(), source };
    let file = File::open(&archive).map_err(error)?;
    tar::Archive::new(file).unpack(&root).map_err(error)?;
    let modules = modules::wanted(&root.join(version))?;
    boot_set::write_unpacked(tmp, &kernel.elf, &modules, guest)?;
    fs::remove_dir_all(&root).and_then(|()| fs::remove_file(&archive)).map_err(error)
}

/// Puts the finished image in its place, in one step.
pub(super) fn install(state: &StateDir, tmp: TempDir, manifest: Manifest) -> Result<Image, BuildError> {
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys only");
    if json.len() as u64 > image::MAX_MANIFEST_BYTES {
        return Err(BuildError::Manifest(manifest.name));
    }
    boot_set::write(&tmp.path().join(image::MANIFEST), &json)?;
    seed::note(tmp.path()).map_err(|source| BuildError::File { path: tmp.path().to_owned(), source })?;
    let target = state.image(&manifest.name);
    let error = |source| BuildError::File { path: target.clone(), source };
    if target.exists() {
        // It lacks files (`build` looked); nobody can use it.
        fs::remove_dir_all(&target).map_err(error)?;
    }
    fs::rename(tmp.path(), &target).map_err(error)?;
    // Renamed: there is nothing left to remove at the old place.
    let _ = tmp.keep();
    File::open(state.images()).and_then(|dir| dir.sync_all()).map_err(error)?;
    Ok(Image::at(target, manifest))
}

/// Removes what killed builds left; gives the paths.
pub fn clean_leftovers(state: &StateDir, _: &ImagesLock) -> Result<Vec<PathBuf>, BuildError> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(state.images()).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(TMP_PREFIX.as_bytes()) {
            continue;
        }
        if let Ok(scratch) = fs::read_to_string(path.join(SCRATCH)) {
            let scratch = PathBuf::from(scratch);
            mmdebstrap::remove_scratch(&scratch)
                .map_err(|source| BuildError::Leftover { path: scratch, source })?;
        }
        fs::remove_dir_all(&path).map_err(|source| BuildError::Leftover { path: path.clone(), source })?;
        removed.push(path);
    }
    Ok(removed)
}

/// Whether a file is an empty filesystem, or nearly so.
pub(super) fn is_seed(name: &str) -> bool {
    matches!(name, image::WORK_SEED | image::UPPER_SEED)
}

/// Makes the files that the hook fills, and opens their directory. Whoever the hook runs as may pass through it and write them:
/// the directory of all images keeps everybody else out.
fn outputs(tmp: &Path) -> Result<File, BuildError> {
    for name in [image::ROOTFS, image::WORK_SEED, image::KERNEL, MODULES, VERSION, NOTES] {
        let path = tmp.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made = made.and_then(|file| file.set_permissions(Permissions::from_mode(0o666)));
        made.map_err(|source| BuildError::File { path, source })?;
    }
    set_mode(tmp, 0o711)?;
    File::open(tmp).map_err(|source| BuildError::File { path: tmp.to_owned(), source })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), BuildError> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|source| BuildError::File { path: path.to_owned(), source })
}
