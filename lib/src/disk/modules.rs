//! Which modules of a distribution's kernel go into the initrd: what a VM needs to reach its disks, network and agent
//! channel, with everything these depend on.
//!
//! The files read here (depmod(8) writes them) come out of an image, so their paths are confined to the directory and their
//! sizes are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use thiserror::Error;

use crate::contract::{Coded, ErrorCode};

/// The modules that a VM needs, each with its kernel option and whether a VM cannot do without.
const WANTED: [(&str, &str, bool); 9] = [
    ("virtio_pci", "VIRTIO_PCI", true),
    ("virtio_mmio", "VIRTIO_MMIO", true),
    ("virtio_blk", "VIRTIO_BLK", true),
    ("virtio_net", "VIRTIO_NET", true),
    ("virtio_console", "VIRTIO_CONSOLE", true),
    ("vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS", true),
    ("overlay", "OVERLAY_FS", true),
    ("ext4", "EXT4_FS", true),
    ("virtio_rng", "HW_RANDOM_VIRTIO", false),
];

/// The largest module, and the largest file of depmod's, bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A kernel whose modules cannot be packed.
#[derive(Debug, Error)]
pub enum ModulesError {
    /// A file cannot be read.
    #[error("cannot read {path:?} of the kernel's modules")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path that leaves the directory of the modules.
    #[error("modules.dep names {0:?}, which is not below the directory of the kernel's modules")]
    Path(String),
    /// The kernel lacks something.
    #[error("the kernel below {root:?} has no {module}, neither as a module nor built in")]
    Missing {
        /// The directory of its modules.
        root: PathBuf,
        /// The module.
        module: &'static str,
        /// The option of the kernel's configuration.
        option: &'static str,
    },
}

impl Coded for ModulesError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Read { .. } => ErrorCode::Failed,
            Self::Path(_) => ErrorCode::BadInput,
            Self::Missing { .. } => ErrorCode::Unsupported,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { option, .. } => Some(format!("the kernel must be built with CONFIG_{option}")),
            _ => None,
        }
    }
}

/// A module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The modules that are to be loaded before it. All of them stand before it in the list.
    pub dependencies: Vec<String>,
    /// The object file.
    pub bytes: Vec<u8>,
}

/// The modules to pack, in an order in which they can be loaded. What is built into the kernel is not among them.
///
/// `root` is the directory that holds `modules.dep`.
///
/// # Errors
/// Any [`ModulesError`].
pub fn wanted(root: &Path) -> Result<Vec<Module>, ModulesError> {
    let index = Index::read(root)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, option, required) in WANTED {
        if index.paths.contains_key(module) {
            index.visit(module, &mut seen, &mut order);
        } else if required && !index.built_in.contains(module) {
            return Err(ModulesError::Missing { root: root.to_owned(), module, option });
        }
    }
    order.into_iter().map(|name| index.load(&name)).collect()
}

/// What depmod wrote about a kernel's modules.
struct Index<'a> {
    root: &'a Path,
    /// Name → path below `root`.
    paths: BTreeMap<String, String>,
    /// Name → names that must be there before it.
    dependencies: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

impl<'a> Index<'a> {
    fn read(root: &'a Path) -> Result<Self, ModulesError> {
        let mut index =
            Self { root, paths: BTreeMap::new(), dependencies: BTreeMap::new(), built_in: BTreeSet::new() };
        for line in text(root, "modules.dep")?.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let name = module_name(path);
            let needs = needs.split_whitespace().map(module_name).collect();
            index.paths.insert(name.clone(), path.trim().to_owned());
            index.dependencies.insert(name, needs);
        }
        index.built_in.extend(optional_text(root, "modules.builtin")?.lines().map(module_name));
        index.add_soft_dependencies(&optional_text(root, "modules.softdep")?)?;
        Ok(index)
    }

    /// `softdep ext4 pre: crc32c`: what a module asks modprobe for while it runs. An initramfs has no modprobe.
    fn add_soft_dependencies(&mut self, softdep: &str) -> Result<(), ModulesError> {
        let aliases = aliases(&optional_text(self.root, "modules.alias")?);
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|w| *w != "pre:").skip(1).take_while(|w| *w != "post:");
            let resolved = before.flat_map(|soft| {
                let name = module_name(soft);
                aliases.get(&name).cloned().unwrap_or_else(|| vec![name])
            });
            let known: Vec<String> = resolved.filter(|name| self.paths.contains_key(name)).collect();
            self.dependencies.entry(module_name(module)).or_default().extend(known);
        }
        Ok(())
    }

    /// Appends `name` after everything that it needs. A cycle ends where it began.
    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for need in self.dependencies.get(name).into_iter().flatten() {
            self.visit(need, seen, order);
        }
        if self.paths.contains_key(name) {
            order.push(name.to_owned());
        }
    }

    fn load(&self, name: &str) -> Result<Module, ModulesError> {
        let path = &self.paths[name];
        let is_packed = |need: &&String| self.paths.contains_key(*need) && *need != name;
        let dependencies = self.dependencies.get(name).into_iter().flatten().filter(is_packed).cloned();
        let bytes = decompressed(self.root, path)?;
        Ok(Module { name: name.to_owned(), dependencies: dependencies.collect(), bytes })
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` → `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// `alias crc32c crc32c_generic`: names only, no patterns.
fn aliases(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
            && !alias.contains([':', '*', '?', '['])
        {
            aliases.entry(module_name(alias)).or_default().push(module_name(module));
        }
    }
    aliases
}

/// Opens a file below `root` without following any link there.
fn open(root: &Path, path: &str) -> Result<File, ModulesError> {
    let error = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => ModulesError::Path(path.to_owned()),
        errno => ModulesError::Read { path: root.join(path), source: errno.into() },
    };
    let directory = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(error)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(directory, path, flags, Mode::empty(), resolve).map(File::from).map_err(error)
}

fn text(root: &Path, name: &str) -> Result<String, ModulesError> {
    let bytes = bounded(&root.join(name), open(root, name)?)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn optional_text(root: &Path, name: &str) -> Result<String, ModulesError> {
    match text(root, name) {
        Err(error) if error.code() == ErrorCode::NotFound => Ok(String::new()),
        other => other,
    }
}

fn decompressed(root: &Path, path: &str) -> Result<Vec<u8>, ModulesError> {
    let file = open(root, path)?;
    let shown = root.join(path);
    match path.rsplit('.').next() {
        Some("xz") => bounded(&shown, liblzma::read::XzDecoder::new(file)),
        Some("gz") => bounded(&shown, flate2::read::GzDecoder::new(file)),
        Some("zst") => {
            let read = |source| ModulesError::Read { path: shown.clone(), source };
            bounded(&shown, zstd::stream::read::Decoder::new(file).map_err(read)?)
        }
        _ => bounded(&shown, file),
    }
}

/// All of `source`, at most [`MAX_FILE_BYTES`].
fn bounded(path: &Path, source: impl Read) -> Result<Vec<u8>, ModulesError> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    let checked = read.and_then(|n| match n as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes"))),
        false => Ok(bytes),
    });
    checked.map_err(|source| ModulesError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const BUILT_IN: &str = "kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/char/virtio_console.ko\n\
        kernel/fs/overlayfs/overlay.ko\nkernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko\n";

    fn kernel(dep: &str, built_in: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("k")).unwrap();
        fs::write(root.path().join("modules.dep"), dep).unwrap();
        fs::write(root.path().join("modules.builtin"), built_in).unwrap();
        for line in dep.lines() {
            let path = root.path().join(line.split(':').next().unwrap());
            if path.starts_with(root.path().join("k")) {
                fs::write(path, "object").unwrap();
            }
        }
        root
    }

    const DEP: &str = "k/virtio_pci.ko: k/virtio.ko k/ring.ko\nk/virtio.ko: k/ring.ko\nk/ring.ko:\n\
        k/virtio_blk.ko: k/virtio.ko k/ring.ko\nk/virtio-net.ko:\nk/ext4.ko:\nk/crc32c_generic.ko:\n";

    #[test]
    fn dependencies_come_first_and_what_is_built_in_is_no_error() {
        let root = kernel(DEP, BUILT_IN);
        fs::write(root.path().join("modules.softdep"), "# comment\nsoftdep ext4 pre: crc32c post: x\n")
            .unwrap();
        fs::write(root.path().join("modules.alias"), "alias crc32c crc32c_generic\nalias pci:v* x\n")
            .unwrap();
        let modules = wanted(root.path()).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        let expected = ["ring", "virtio", "virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4"];
        assert_eq!(names, expected);
        assert_eq!(modules[6].dependencies, ["crc32c_generic"]);
    }

    #[test]
    fn a_missing_module_is_named_with_its_option() {
        let root = kernel(&DEP.replace("k/ext4.ko:\n", ""), BUILT_IN);
        let error = wanted(root.path()).unwrap_err();
        assert!(error.to_string().contains("ext4"), "{error}");
        assert!(error.hint().unwrap().contains("CONFIG_EXT4_FS"));
        assert_eq!(error.code(), ErrorCode::Unsupported);
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let dep = "k/virtio_pci.ko.gz:\nk/virtio_blk.ko.xz:\nk/virtio_net.ko.zst:\nk/ext4.ko:\n";
        let root = kernel(dep, BUILT_IN);
        let path = |name: &str| root.path().join("k").join(name);
        let mut gz = flate2::write::GzEncoder::new(
            fs::File::create(path("virtio_pci.ko.gz")).unwrap(),
            Default::default(),
        );
        gz.write_all(b"object").unwrap();
        gz.finish().unwrap();
        let mut xz = liblzma::write::XzEncoder::new(fs::File::create(path("virtio_blk.ko.xz")).unwrap(), 1);
        xz.write_all(b"object").unwrap();
        xz.finish().unwrap();
        fs::write(path("virtio_net.ko.zst"), zstd::stream::encode_all(&b"object"[..], 1).unwrap()).unwrap();
        assert!(wanted(root.path()).unwrap().iter().all(|module| module.bytes == b"object"));
    }

    #[test]
    fn paths_and_links_out_of_the_directory_are_refused() {
        for path in ["../outside/virtio_pci.ko", "/etc/virtio_pci.ko"] {
            let root = kernel(&DEP.replace("k/virtio_pci.ko", path), BUILT_IN);
            let error = wanted(root.path()).unwrap_err();
            assert!(matches!(error, ModulesError::Path(_)), "{path}: {error:?}");
        }
        let root = kernel(DEP, BUILT_IN);
        let file = root.path().join("k/virtio_pci.ko");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        assert!(matches!(wanted(root.path()).unwrap_err(), ModulesError::Path(_)));
    }
}
