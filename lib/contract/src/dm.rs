//! What `banger-disk dm` is asked and answers. It is not a record: the verb needs privilege, and gets no more than it uses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::Vm;
use crate::types::{StateId, VmId};

/// The schema of [`DmRequest`] and [`DmReply`].
pub const DM_SCHEMA: &str = "banger.dm/1";

/// What is asked of `dm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DmRequest {
    /// Always [`DM_SCHEMA`].
    pub schema: String,
    /// The VM.
    pub vm_id: VmId,
    /// The state directory's.
    pub state_id: StateId,
    /// Whose the files are, and the node is to be.
    pub owner_uid: u32,
    /// The image, absolute and without symbolic links: of `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// The file of changes, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cow: Option<PathBuf>,
    /// How large the root is to be, bytes; at least as large as the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

impl DmRequest {
    /// The request for the root of `vm`, without the files.
    pub fn of(vm: &Vm) -> Self {
        Self {
            schema: DM_SCHEMA.to_owned(),
            vm_id: vm.id.clone(),
            state_id: vm.state_id.clone(),
            owner_uid: vm.owner_uid,
            base: None,
            cow: None,
            size_bytes: None,
        }
    }
}

/// What `dm` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmReply {
    /// Always [`DM_SCHEMA`].
    pub schema: String,
    /// The node; `null` where there is none.
    pub device: Option<PathBuf>,
    /// Whether this call changed anything.
    pub changed: bool,
    /// How much of the file of changes is taken, and how large it is, bytes; `null` where there is none, or it is broken.
    pub used_bytes: Option<u64>,
    /// See `used_bytes`.
    pub size_bytes: Option<u64>,
    /// Whether the file of changes was full, after which the kernel gives up the snapshot.
    pub broken: bool,
}
