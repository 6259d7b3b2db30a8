//! Why a kernel cannot be imported.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::boot_set::BootSetError;
use super::kernel::KernelError;
use super::modules::ModulesError;
use banger_contract::types::{KernelName, ParseNameError};
use banger_contract::{Coded, ErrorCode};
use banger_formats::deb::DebError;

/// A kernel that cannot be imported. Nothing is left of it.
#[derive(Debug, Error)]
pub enum KernelImportError {
    /// There is a kernel of that name.
    #[error("the kernel {0} exists")]
    Exists(KernelName),
    /// The kernel of that name cannot be read or replaced.
    #[error("cannot put the kernel in its place")]
    Kernel(#[from] KernelError),
    /// Its version makes no name.
    #[error("the version {version:?} makes no name for the kernel")]
    Name {
        /// The version.
        version: String,
        /// Why.
        #[source]
        source: ParseNameError,
    },
    /// A package cannot be unpacked.
    #[error("cannot use the package {path:?}")]
    Package {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        source: DebError,
    },
    /// Packages without a kernel.
    #[error("{0} holds no kernel: there is no boot/vmlinuz-…")]
    NoKernel(String),
    /// Packages with several kernels.
    #[error("{0} holds several kernels")]
    Several(String),
    /// No modules where they should be.
    #[error("there are no modules of {release} in {base:?}")]
    NoModules {
        /// Where they were looked for.
        base: PathBuf,
        /// The kernel.
        release: String,
    },
    /// The modules are another kernel's.
    #[error("the kernel is {kernel}, and its modules are for {modules}")]
    OtherRelease {
        /// The kernel's version.
        kernel: String,
        /// The modules'.
        modules: String,
    },
    /// Nothing tells its version.
    #[error("neither the kernel {0:?} nor its modules tell its version")]
    NoRelease(PathBuf),
    /// It is built without something.
    #[error("the kernel {vmlinuz:?} lacks {options}")]
    Lacks {
        /// The kernel.
        vmlinuz: PathBuf,
        /// The options, with `CONFIG_`.
        options: String,
    },
    /// Nobody knows what is in it.
    #[error("nothing tells what is built into the kernel {0:?}")]
    NoConfig(PathBuf),
    /// The configuration is none.
    #[error("{0:?} is not a configuration of a kernel")]
    NotConfig(PathBuf),
    /// Its modules.
    #[error("the kernel's modules cannot be used")]
    Modules(#[from] ModulesError),
    /// Its files.
    #[error("cannot make the kernel's files")]
    BootSet(#[from] BootSetError),
    /// A signal came.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// A file.
    #[error("cannot read or write {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for KernelImportError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Exists(_) => ErrorCode::Conflict,
            Self::Kernel(error) => error.code(),
            Self::Name { .. } => ErrorCode::Usage,
            Self::Package { source: DebError::Write { .. }, .. } => ErrorCode::Failed,
            Self::Lacks { .. } => ErrorCode::Unsupported,
            Self::Modules(error) => error.code(),
            Self::BootSet(error) => error.code(),
            Self::Interrupted(_) => ErrorCode::Interrupted,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::File { .. } => ErrorCode::Failed,
            _ => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(name) => Some(format!(
                "give another --name, or remove it first with: banger kernel delete {name}"
            )),
            Self::Kernel(error) => error.hint(),
            Self::Name { .. } => Some("give it one with --name".into()),
            Self::NoKernel(_) => Some(
                "give a package such as linux-image-6.1.0-37-cloud-amd64, not the one that only depends on it".into(),
            ),
            Self::Several(_) => Some("import one at a time".into()),
            Self::NoModules { .. } => Some(
                "give the directory with modules.dep, or also the package with the modules (Ubuntu: linux-modules-…)"
                    .into(),
            ),
            Self::OtherRelease { .. } => Some("give a kernel and the modules of the same build".into()),
            Self::Lacks { .. } => {
                Some("take a kernel that is built with it, such as Debian's linux-image-cloud-amd64".into())
            }
            Self::NoConfig(_) => Some("give its modules with --modules, or its configuration with --kconfig".into()),
            Self::Modules(error) => error.hint(),
            Self::BootSet(error) => error.hint(),
            _ => None,
        }
    }
}
