//! Making an image out of what others built: an OCI layout, an archive of `docker save`, a tar of a root filesystem, an ext4.
//!
//! Such an image carries neither a kernel nor an init as a rule, and needs none: the kernel, its modules and banger-guest come from an
//! image that is there. What a killed import leaves is what a killed build leaves: see [`super::build`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::{self, BuildError, Progress};
use super::flatten::{FlattenError, Flattener, Limits, Meaning};
use super::image::{self, Image, ImageError};
use super::kernel::{self, Kernel, KernelError};
use super::oci::{self, OciError, OciImage, Part, Select, Store};
use super::sniff::{self, Found};
use super::spool::{Spool, SpoolFull};
use super::{arch, boot_set, delete, rootfs};
use crate::sys::memory;
use crate::sys::pump::{Pump, Stopped};
use banger_contract::image::{IMAGE_SCHEMA, ImageFile, Manifest, RunConfig};
use banger_contract::kernel::KernelManifest;
use banger_contract::record::Init;
use banger_contract::types::{ImageName, KernelName, VmName};
use banger_formats::decompress::{self, Compression};
use banger_formats::ext4::{self, Shape, Writer};
use banger_formats::tar::{Archive, TarError};
use banger_host::digest::Digesting;
use banger_host::fs::reflink;
use banger_host::{clock, random};
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

pub use super::import_error::ImportError;

/// Room in the root filesystem for a VM that writes it without growing it, bytes.
const SPARE_BYTES: u64 = 16 << 20;

/// What an image is made of.
pub enum Source {
    /// An OCI image layout: a directory.
    Layout(PathBuf),
    /// A file, whose kind is found out unless it is told.
    File(PathBuf, Option<Format>),
    /// An ext4 that stays where it is: the image has a symbolic link to it.
    Registered(PathBuf),
    /// What comes through a pipe: an archive, whose kind is found out unless it is told.
    Stream(Box<dyn Read + Send>, Option<Format>),
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout or what `docker save` writes, as a tar.
    Archive,
    /// A tar of a root filesystem.
    Tar,
    /// An ext4.
    Ext4,
}

/// Whose kernel an image gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelFrom {
    /// An image's.
    Image(ImageName),
    /// One that is not part of an image.
    Kernel(KernelName),
}

impl KernelFrom {
    /// What was named: at most one of the two.
    pub fn choice(image: Option<ImageName>, kernel: Option<KernelName>) -> Option<Self> {
        image.map(Self::Image).or_else(|| kernel.map(Self::Kernel))
    }
}

/// A kernel that is there.
struct Boot {
    version: String,
    created_at: String,
    /// For people.
    of: String,
    dir: PathBuf,
}

impl From<Image> for Boot {
    fn from(image: Image) -> Self {
        let of = format!(" of the image {}", image.name());
        let Manifest { kernel_version: version, created_at, .. } = image.manifest;
        Self { version, created_at, of, dir: image.dir }
    }
}

impl From<Kernel> for Boot {
    fn from(kernel: Kernel) -> Self {
        let KernelManifest { version, created_at, .. } = kernel.manifest;
        Self { version, created_at, of: String::new(), dir: kernel.dir }
    }
}

/// What is to be made.
#[derive(Debug)]
pub struct ImportRequest {
    /// The image's name.
    pub name: ImageName,
    /// Where it comes from, for its manifest.
    pub origin: String,
    /// Which image of several.
    pub select: Select,
    /// The kernel it gets; `None`: the newest that is there, an image's or one of its own.
    pub kernel_from: Option<KernelFrom>,
    /// Labels, beside those of the OCI image.
    pub labels: BTreeMap<String, String>,
    /// Default size of a VM's root and work disk, bytes.
    pub size_bytes: u64,
    /// How much an archive may make of itself.
    pub limits: Limits,
}

/// What of an image's manifest its source tells.
#[derive(Debug, Default)]
struct Facts {
    digest: Option<String>,
    labels: BTreeMap<String, String>,
    run: Option<RunConfig>,
    distribution: String,
    suite: String,
    notes: Vec<String>,
}

/// Makes an image out of `source`. One of that name that is whole is a conflict; one that lacks files is replaced, unless VMs
/// (`in_use_by`) have their changes above its root. `interrupted` gives the signal that asks this process to stop, once one came.
///
/// # Errors
/// [`ImportError`]; nothing is left then.
pub fn import(
    state: &StateDir,
    lock: &ImagesLock,
    source: Source,
    request: &ImportRequest,
    in_use_by: &[VmName],
    interrupted: &dyn Fn() -> Option<i32>,
    progress: Progress,
) -> Result<Image, ImportError> {
    memory::map_large_blocks();
    build::check_size(request.size_bytes)?;
    build::clean_leftovers(state, lock)?;
    match image::load(state, &request.name) {
        Ok(None) | Err(ImageError::MissingFile { .. } | ImageError::Manifest { .. }) => {}
        Ok(Some(_)) => return Err(BuildError::Exists(request.name.clone()).into()),
        Err(error) => return Err(error.into()),
    }
    delete::refuse_in_use(&request.name, in_use_by).map_err(BuildError::InUse)?;
    let kernel = kernel_of(state, &request.name, request.kernel_from.as_ref())?;
    let tmp = build::unfinished(state)?;
    let work = Work { dir: tmp.path(), request, interrupted };
    let facts = work.root(source, progress)?;
    progress("kernel", &format!("taking the kernel {}{}", kernel.version, kernel.of));
    work.boot_set(&kernel)?;
    progress("manifest", "computing digests");
    let manifest = Manifest {
        schema: IMAGE_SCHEMA.to_owned(),
        name: request.name.clone(),
        created_at: clock::now_rfc3339(),
        source: request.origin.clone(),
        digest: facts.digest,
        labels: facts.labels.into_iter().chain(request.labels.clone()).collect(),
        run: facts.run,
        distribution: facts.distribution,
        suite: facts.suite,
        packages: Vec::new(),
        kernel_version: kernel.version.clone(),
        arch: arch::NAME.to_owned(),
        init: Init::Lean,
        default_rootfs_size_bytes: request.size_bytes,
        default_work_size_bytes: request.size_bytes,
        files: seal(tmp.path())?,
        notes: facts.notes,
    };
    let image = build::install(state, tmp, manifest)?;
    progress("done", &format!("the image {} is ready", request.name));
    Ok(image)
}

/// Makes the files fit to be kept. One that lies elsewhere is only read.
fn seal(dir: &Path) -> Result<BTreeMap<String, ImageFile>, ImportError> {
    let is_own = |name: &&str| !dir.join(name).is_symlink();
    let own: Vec<&str> = image::BOOT_SET.into_iter().filter(is_own).collect();
    let mut files = boot_set::seal(dir, &own, build::is_seed).map_err(BuildError::from)?;
    for name in image::BOOT_SET.into_iter().filter(|name| !is_own(name)) {
        let path = dir.join(name);
        let read = File::open(&path).and_then(|file| Digesting::new(file).finish());
        let (sha256, size_bytes) = read.map_err(|source| ImportError::Source { path, source })?;
        files.insert(name.to_owned(), ImageFile { size_bytes, sha256: Some(sha256) });
    }
    Ok(files)
}

/// Whether an image `name` would get a kernel, before anything is downloaded for it.
///
/// # Errors
/// [`ImportError`] where it would not.
pub fn check_kernel(
    state: &StateDir,
    name: &ImageName,
    from: Option<&KernelFrom>,
) -> Result<(), ImportError> {
    kernel_of(state, name, from).map(drop)
}

/// The kernel that the image `new` gets.
fn kernel_of(state: &StateDir, new: &ImageName, from: Option<&KernelFrom>) -> Result<Boot, ImportError> {
    match from {
        Some(KernelFrom::Image(name)) => {
            return image::load(state, name)?
                .map(Boot::from)
                .ok_or_else(|| ImageError::Unknown(name.clone()).into());
        }
        Some(KernelFrom::Kernel(name)) => {
            let kernel = kernel::load(state, name)?.ok_or_else(|| KernelError::Unknown(name.clone()))?;
            return Ok(kernel.into());
        }
        None => {}
    }
    let images = image::list(state)?.into_iter().filter_map(|(_, image)| image.ok());
    let images = images.filter(|image| image.missing().is_empty() && image.name() != new);
    let kernels = kernel::list(state)?.into_iter().filter_map(|(_, kernel)| kernel.ok());
    let kernels = kernels.filter(|kernel| kernel.missing().is_empty());
    let all = images.map(Boot::from).chain(kernels.map(Boot::from));
    all.max_by(|a, b| a.created_at.cmp(&b.created_at)).ok_or(ImportError::NoKernel)
}

/// An import under way, in its directory.
struct Work<'a> {
    dir: &'a Path,
    request: &'a ImportRequest,
    interrupted: &'a dyn Fn() -> Option<i32>,
}

impl Work<'_> {
    /// The root filesystem and the work seed.
    fn root(&self, source: Source, progress: Progress) -> Result<Facts, ImportError> {
        match source {
            Source::Layout(dir) => self.oci(&Store::Directory(dir), progress),
            Source::Stream(input, format) => self.stream(input, Path::new("stdin"), format, progress),
            Source::Registered(path) => self.registered(&path),
            Source::File(path, format) => self.file(&path, format, progress),
        }
    }

    /// A file, whose kind is found out without a `format`.
    fn file(&self, path: &Path, format: Option<Format>, progress: Progress) -> Result<Facts, ImportError> {
        let read = |source| ImportError::Source { path: path.to_owned(), source };
        let mut file = oci::open_file(path).map_err(read)?;
        if format == Some(Format::Ext4) || format.is_none() && ext4::uuid(path).is_ok() {
            return self.ext4(path, &file, progress);
        }
        if compression(&mut file).map_err(read)? != Compression::None {
            return self.stream(Box::new(file), path, format, progress);
        }
        let is_root = match format {
            Some(format) => format == Format::Tar,
            None => {
                let whole = Part::whole(Arc::new(file.try_clone().map_err(read)?)).map_err(read)?;
                let found =
                    sniff::archive(&mut Archive::new(whole), |archive| archive.seek_over(Part::pass_over));
                is_root(found.map_err(|source| archive_error(path, source))?, path)?
            }
        };
        match is_root {
            true => self.stream(Box::new(file), path, Some(Format::Tar), progress),
            false => self.oci(&Store::archive(file, path)?, progress),
        }
    }

    /// An image of a layout or of docker's archive.
    fn oci(&self, store: &Store, progress: Progress) -> Result<Facts, ImportError> {
        let image = store.image(&self.request.select)?;
        let mut flattener = self.flattener()?;
        for (at, layer) in image.layers.iter().enumerate() {
            progress("layers", &format!("unpacking layer {} of {}", at + 1, image.layers.len()));
            let packed = Digesting::new(store.open(&layer.path)?);
            let (reader, rest) = (packed.clone(), packed);
            let open = || decompress::open(Box::new(reader));
            let pump = Pump::start(open, || rest.finish(), self.interrupted);
            let pump = pump.map_err(|source| ImportError::Thread { source })?;
            let mut unpacked = Digesting::new(pump);
            let flattened = flattener.layer(&mut unpacked, Meaning::Layer);
            let (diff_id, pump) = unpacked.into_parts().expect("it has no clones");
            let found = pump.finish().unwrap_or_else(|| Err(io::Error::other("the reading thread panicked")));
            match (&layer.digest, found) {
                _ if matches!(flattened, Err(FlattenError::Interrupted(_))) => {}
                // That a layer is not the one that was asked for says more than what came of reading it.
                (Some(expected), Ok((digest, _))) => {
                    oci::check_digest(&format!("layer {}", at + 1), &digest, expected)?
                }
                (_, Err(source)) if flattened.is_ok() => {
                    return Err(ImportError::Layer { layer: at + 1, source });
                }
                _ => {}
            }
            flattened?;
            if let Some(expected) = &layer.diff_id {
                oci::check_digest(&format!("the content of layer {}", at + 1), &diff_id, expected)?;
            }
        }
        let mut facts = self.finish(flattener, progress)?;
        let OciImage { digest, labels, run, notes, .. } = image;
        facts.notes.extend(notes);
        Ok(Facts { digest: Some(digest), labels, run: Some(run), ..facts })
    }

    /// What is read once, from its beginning to its end: a tar of a root filesystem, or of images. `place` is for people; without a
    /// `format` the stream tells.
    fn stream(
        &self,
        input: Box<dyn Read + Send>,
        place: &Path,
        format: Option<Format>,
        progress: Progress,
    ) -> Result<Facts, ImportError> {
        let pump = Pump::start(|| decompress::open(input), || (), self.interrupted);
        let mut pump = pump.map_err(|source| ImportError::Thread { source })?;
        if format == Some(Format::Tar) {
            return self.root_filesystem(&mut pump, progress);
        }
        let wrong = |source| stream_error(place, source);
        let limit = self.request.limits.unpacked_bytes;
        let mut spool = Spool::new(&mut pump, self.dir, limit).map_err(wrong)?;
        progress("archive", "reading the archive");
        if format.is_none() {
            let found = sniff::archive(&mut Archive::new(&mut spool), |_| ());
            if is_root(found.map_err(|source| archive_error(place, source))?, place)? {
                return self.root_filesystem(&mut spool.again().map_err(wrong)?, progress);
            }
        }
        self.oci(&Store::archive(spool.whole().map_err(wrong)?, place)?, progress)
    }

    /// A tar of a root filesystem.
    fn root_filesystem(&self, tar: &mut dyn Read, progress: Progress) -> Result<Facts, ImportError> {
        progress("layers", "unpacking the root filesystem");
        let mut flattener = self.flattener()?;
        flattener.layer(tar, Meaning::Files)?;
        self.finish(flattener, progress)
    }

    fn flattener(&self) -> Result<Flattener, ImportError> {
        Ok(Flattener::new(&self.dir.join(image::ROOTFS), self.dir, self.request.limits)?)
    }

    /// Makes what was flattened an image's root: with all that a VM needs, and without what tells one machine from another.
    fn finish(&self, mut flattener: Flattener, progress: Progress) -> Result<Facts, ImportError> {
        progress("filesystem", "writing directories and inodes");
        let disk = |source| ImportError::Flatten(FlattenError::Disk(source));
        let home = rootfs::home(flattener.fs()).map_err(disk)?;
        if let Some(home) = home {
            flattener.count_again("root", home)?;
        }
        let (mut fs, lost_xattrs) = flattener.into_fs();
        let mut notes = rootfs::prepare(&mut fs).map_err(disk)?;
        let (distribution, suite) = rootfs::release(&fs).map_err(disk)?;
        if !lost_xattrs.is_empty() {
            let names = lost_xattrs.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "ext4 has no place for these extended attributes, which are left out: {names}"
            ));
        }
        let mut seed = self.seed(image::WORK_SEED)?;
        if let Some(home) = home.or(rootfs::home(&fs).map_err(disk)?) {
            seed.graft(&fs, home).map_err(disk)?;
        }
        self.finish_seed(seed, "banger-work")?;
        let shape = Shape {
            label: "banger-root",
            min_bytes: 0,
            spare_bytes: SPARE_BYTES,
            made_at: clock::unix_seconds(),
        };
        fs.finish(&shape).map_err(disk)?;
        Ok(Facts { distribution, suite, notes, ..Facts::default() })
    }

    /// A filesystem that is an ext4 already.
    fn ext4(&self, path: &Path, file: &File, progress: Progress) -> Result<Facts, ImportError> {
        progress("filesystem", "copying the filesystem");
        ext4::check_clean(path)?;
        let copied = path.to_owned();
        let copy = || -> io::Result<()> {
            let target = ext4::create_file(&self.dir.join(image::ROOTFS))?;
            if !reflink::reflink(file, &target)? {
                reflink::copy_sparse(file, &target)?;
            }
            Ok(())
        };
        copy().map_err(|source| ImportError::Source { path: copied, source })?;
        let seed = self.seed(image::WORK_SEED)?;
        self.finish_seed(seed, "banger-work")?;
        let notes = vec![
            "the filesystem is taken as it is: its /root is not seen in a VM, whose own work disk is mounted there, \
             and what tells one machine from another (/etc/machine-id, SSH host keys) stays in it"
                .to_owned(),
        ];
        Ok(Facts { distribution: "unknown".into(), suite: "unknown".into(), notes, ..Facts::default() })
    }

    /// A filesystem that stays where it is.
    fn registered(&self, path: &Path) -> Result<Facts, ImportError> {
        let wrong = |source| ImportError::Source { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(wrong)?;
        oci::open_file(&real).map_err(wrong)?;
        ext4::check_clean(&real)?;
        symlink(&real, self.dir.join(image::ROOTFS)).map_err(wrong)?;
        self.finish_seed(self.seed(image::WORK_SEED)?, "banger-work")?;
        let notes = vec![format!(
            "the filesystem stays at {real:?} and must not be changed: VMs of this image build on it; its /root is not seen in a VM"
        )];
        Ok(Facts { distribution: "unknown".into(), suite: "unknown".into(), notes, ..Facts::default() })
    }

    fn seed(&self, name: &str) -> Result<Writer, ImportError> {
        let path = self.dir.join(name);
        let make = || -> io::Result<(File, File)> {
            Ok((ext4::create_file(&path)?, tempfile::tempfile_in(self.dir)?))
        };
        let (file, inodes) = make().map_err(|source| BuildError::File { path: path.clone(), source })?;
        let limit = self.request.limits.image_bytes + self.request.size_bytes;
        Writer::new(file, inodes, random::uuid(), limit)
            .map_err(|e| ImportError::Flatten(FlattenError::Disk(e)))
    }

    fn finish_seed(&self, seed: Writer, label: &str) -> Result<(), ImportError> {
        let min_bytes = self.request.size_bytes;
        let shape = Shape { label, min_bytes, spare_bytes: SPARE_BYTES, made_at: clock::unix_seconds() };
        seed.finish(&shape).map_err(|source| ImportError::Flatten(FlattenError::Disk(source)))
    }

    /// The files beside root and work seed.
    fn boot_set(&self, kernel: &Boot) -> Result<(), ImportError> {
        for name in boot_set::KERNEL_FILES {
            let (path, target) = (kernel.dir.join(name), self.dir.join(name));
            // Nobody writes these files, so that two images can have one; each owns it by its own name.
            let placed = fs::hard_link(&path, &target).or_else(|_| fs::copy(&path, &target).map(drop));
            placed.map_err(|source| BuildError::File { path: target, source })?;
        }
        let upper = self.seed(image::UPPER_SEED)?;
        self.finish_seed(upper, "banger-upper")
    }
}

/// Whether what was found in the archive at `path` is a root filesystem; else it is images.
fn is_root(found: Found, path: &Path) -> Result<bool, ImportError> {
    match found {
        Found::RootFilesystem => Ok(true),
        Found::Images => Ok(false),
        Found::Unknown(names) => Err(ImportError::Unrecognized { path: path.to_owned(), names }),
    }
}

/// Why the archive at `path` cannot be read.
fn archive_error(path: &Path, error: TarError) -> ImportError {
    match error {
        TarError::Read { source, .. }
            if Stopped::of(&source).is_some() || SpoolFull::of(&source).is_some() =>
        {
            stream_error(path, source)
        }
        source => OciError::Archive { path: path.to_owned(), source }.into(),
    }
}

/// Why the stream `path` cannot be read, or not be kept.
fn stream_error(path: &Path, source: io::Error) -> ImportError {
    match (Stopped::of(&source), SpoolFull::of(&source)) {
        (Some(signal), _) => FlattenError::Interrupted(signal).into(),
        (None, Some(SpoolFull { limit_bytes })) => FlattenError::Unpacked { limit_bytes }.into(),
        (None, None) => ImportError::Source { path: path.to_owned(), source },
    }
}

/// The compression of `file`, which then stands at its beginning again.
fn compression(file: &mut File) -> io::Result<Compression> {
    let mut start = Vec::new();
    file.by_ref().take(decompress::MAGIC_LEN as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(decompress::of(&start))
}
