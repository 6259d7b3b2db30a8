//! Which modules of a distribution's kernel go into the initrd: what a VM needs to reach its disks, network and agent
//! channel, with everything these depend on.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::module_index::Index;
use banger_contract::{Coded, ErrorCode};

/// The modules that a VM needs, each with its kernel option and whether a VM cannot do without.
pub(super) const WANTED: [(&str, &str, bool); 9] = [
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
    #[error("{0:?} is not below the directory of the kernel's modules, or there is a link on its way")]
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
            Self::Missing { option, .. } => Some(format!(
                "the kernel must be built with CONFIG_{option}, and where that is a module it must be among those given"
            )),
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
    let index = Index::read(root, &WANTED.map(|(module, _, _)| module))?;
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
    fn without_depmod_the_modules_speak_for_themselves() {
        let root = kernel("", BUILT_IN);
        fs::remove_file(root.path().join("modules.dep")).unwrap();
        let crypto = root.path().join("kernel/crypto");
        let deep = root.path().join("kernel/drivers/virtio");
        fs::create_dir_all(&crypto).unwrap();
        fs::create_dir_all(&deep).unwrap();
        let put = |path: &Path, entries: &[&str]| {
            fs::write(path, banger_test_support::kernel::module(entries)).unwrap()
        };
        put(&deep.join("virtio_pci.ko"), &["depends=virtio,virtio-ring"]);
        put(&deep.join("virtio.ko"), &["depends=virtio-ring"]);
        put(&deep.join("virtio-ring.ko"), &["depends="]);
        put(&deep.join("virtio_blk.ko"), &["depends=virtio"]);
        put(&deep.join("virtio_net.ko"), &["depends=virtio_net"]);
        put(&deep.join("unrelated.ko"), &["depends=gone"]);
        put(&root.path().join("kernel/ext4.ko"), &["softdep=pre: crypto-crc32c overlay"]);
        put(&crypto.join("crc32c_generic.ko"), &["alias=crypto-crc32c", "alias=cpu:type:x86*"]);
        std::os::unix::fs::symlink("/", root.path().join("build")).unwrap();
        let modules = wanted(root.path()).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        let first = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "virtio_net"];
        assert_eq!(names[..5], first);
        assert_eq!(names[5..], ["crc32c_generic", "ext4"]);
        assert_eq!(modules[6].dependencies, ["crc32c_generic"], "overlay is built in");
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
