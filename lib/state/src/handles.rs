//! What is currently true of a VM: the sections that its stages wrote, in `handles.json`.
//!
//! Every unprivileged stage saves what it saw and did. The file is a cache: names follow from the VM's id and life from its
//! lock, so a missing or corrupt file is the same as an empty one, and what it would have said is found in the kernel.

use serde::{Deserialize, Serialize};

use super::dir::VmDir;
use banger_contract::record::{Disk, Net, Vmm, Workspace};
use banger_contract::{Document, RecordError};
use banger_host::fs::atomic::{self, WriteFileError};

/// The sections of a record that describe the present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handles {
    /// The network as attached.
    pub net: Option<Net>,
    /// The disks as attached.
    pub disk: Option<Disk>,
    /// The VMM as started.
    pub vmm: Option<Vmm>,
    /// The workspace as prepared.
    #[serde(default)]
    pub workspace: Option<Workspace>,
}

impl Handles {
    /// The sections of `document`.
    pub fn of(document: &Document) -> Result<Self, RecordError> {
        Ok(Self {
            net: document.net()?,
            disk: document.disk()?,
            vmm: document.vmm()?,
            workspace: document.workspace()?,
        })
    }

    /// What the VM's directory says; empty where the file is missing, unreadable or corrupt.
    pub fn load(dir: &VmDir) -> Self {
        std::fs::read(dir.handles()).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
    }

    /// Writes what is left after something was taken away. Where there is no room even for that, as when a VM has filled the disk
    /// that its files are on, the file goes: without it the kernel is asked.
    pub fn save_less(&self, dir: &VmDir) -> Result<(), WriteFileError> {
        match self.save(dir) {
            Err(error) if error.is_full() && std::fs::remove_file(dir.handles()).is_ok() => Ok(()),
            result => result,
        }
    }

    /// Writes the file, whole or not at all, mode 0600.
    pub fn save(&self, dir: &VmDir) -> Result<(), WriteFileError> {
        let bytes = serde_json::to_vec(self).expect("handles have string keys only");
        atomic::write(&dir.handles(), &bytes, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_file_is_an_empty_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path());
        assert_eq!(Handles::load(&dir), Handles::default());
        Handles::default().save(&dir).unwrap();
        assert_eq!(Handles::load(&dir), Handles::default());
        std::fs::write(dir.handles(), b"{\"net\":").unwrap();
        assert_eq!(Handles::load(&dir), Handles::default());
    }
}
