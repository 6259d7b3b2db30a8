//! The initrd: a segment per kernel, shared by its VMs, and a segment per VM. The kernel unpacks both, one after the other.
//! [`banger_protocol::guest`] has their contents.

use std::io;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::modules::{Module, ModulesError};
use banger_contract::{Coded, ErrorCode};
use banger_formats::cpio::{Cpio, CpioError};
use banger_protocol::guest::{
    CONFIG_PATH, DIGEST_PATH, FILES_PATH, GuestConfig, INIT_PATH, MAX_VM_SEGMENT_BYTES, MODULES_LIST,
};

/// Where the modules lie in the initrd.
const MODULES_DIR: &str = "banger/modules";

/// An initrd that cannot be made.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The kernel's modules.
    #[error("cannot pack the kernel's modules into an initrd")]
    Modules(#[from] ModulesError),
    /// Something that the format cannot hold.
    #[error("cannot write the initrd")]
    Archive(#[from] CpioError),
    /// The VM's files are too many.
    #[error(
        "the files for the VM need an initrd segment of {size_bytes} bytes, and {MAX_VM_SEGMENT_BYTES} are the limit"
    )]
    TooLarge {
        /// What they need, bytes.
        size_bytes: u64,
    },
}

impl Coded for InitrdError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Modules(error) => error.code(),
            Self::Archive(_) => ErrorCode::Failed,
            Self::TooLarge { .. } => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Modules(error) => error.hint(),
            Self::Archive(_) => None,
            Self::TooLarge { .. } => Some("copy fewer or smaller files into the VM at its start".into()),
        }
    }
}

impl From<InitrdError> for io::Error {
    fn from(error: InitrdError) -> Self {
        io::Error::other(error)
    }
}

/// The segment that all VMs of a kernel share: `guest` as init, and `modules`, each after those that it needs.
///
/// # Errors
/// [`InitrdError::Archive`] for an absurdly large file.
pub fn kernel_segment(guest: &[u8], modules: &[Module]) -> Result<Vec<u8>, InitrdError> {
    let mut cpio = Cpio::new();
    for directory in ["dev", "proc", "sys", "run", "banger", MODULES_DIR] {
        cpio.directory(directory, 0o755)?;
    }
    // Init's own stdin, stdout and stderr: the kernel opens it before anything is mounted.
    cpio.character_device("dev/console", 0o600, (5, 1))?;
    cpio.file(INIT_PATH, 0o755, guest)?;
    let mut list = String::new();
    for module in modules {
        let path = format!("{MODULES_DIR}/{}.ko", module.name);
        cpio.file(&path, 0o644, &module.bytes)?;
        let words = [&module.name, &path].into_iter().chain(&module.dependencies);
        list.push_str(&words.map(String::as_str).collect::<Vec<_>>().join(" "));
        list.push('\n');
    }
    cpio.file(MODULES_LIST, 0o644, list.as_bytes())?;
    Ok(cpio.finish())
}

/// One VM's own segment: what it is told about itself, the tar of files to lay over its root, and the digest of both.
///
/// # Errors
/// [`InitrdError::TooLarge`].
pub fn vm_segment(config: &GuestConfig, files_tar: &[u8]) -> Result<Vec<u8>, InitrdError> {
    let json = serde_json::to_vec(config).expect("the configuration has string keys only");
    let size_bytes = (json.len() + files_tar.len()) as u64 + 4096;
    if size_bytes > MAX_VM_SEGMENT_BYTES {
        return Err(InitrdError::TooLarge { size_bytes });
    }
    let hash = Sha256::new().chain_update(&json).chain_update(files_tar).finalize();
    let digest: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut cpio = Cpio::new();
    cpio.directory("banger", 0o700)?;
    cpio.file(CONFIG_PATH, 0o600, &json)?;
    cpio.file(FILES_PATH, 0o600, files_tar)?;
    cpio.file(DIGEST_PATH, 0o600, digest.as_bytes())?;
    Ok(cpio.finish())
}

/// The whole initrd of a VM. Both segments are multiples of 4 bytes long, as the kernel wants them.
pub fn concat(kernel_segment: &[u8], vm_segment: &[u8]) -> Vec<u8> {
    [kernel_segment, vm_segment].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestConfig {
        serde_json::from_value(serde_json::json!({
            "vm_id": "0123456789ab", "hostname": "dev1", "init": "lean", "root_uuid": "r", "upper_uuid": null,
            "work_uuid": "w", "mac": "52:54:00:00:00:01", "address": "10.0.2.15", "prefix_len": 24,
            "gateway": "10.0.2.2", "dns": ["10.0.2.3"], "entropy_seed": "00", "time_unix_s": 1
        }))
        .unwrap()
    }

    #[test]
    fn a_vm_segment_holds_what_it_was_given_and_is_bounded() {
        let segment = vm_segment(&config(), b"tar").unwrap();
        assert_eq!(segment.len() % 4, 0);
        let text = String::from_utf8_lossy(&segment);
        assert!(text.contains(CONFIG_PATH) && text.contains("\"hostname\":\"dev1\""));
        let huge = vec![0; MAX_VM_SEGMENT_BYTES as usize];
        let error = vm_segment(&config(), &huge).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadInput);
    }
}
