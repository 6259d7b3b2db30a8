//! The record: one document that flows through a pipeline, each program filling in its own section.
//!
//! [`Document`] keeps the whole of it, keys unknown to this program included; a section is parsed, strictly, only by the
//! program that reads it.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::error::{Coded, ErrorCode};
use crate::types::{ImageName, LinkName, MacAddr, StateId, VmId, VmName};

/// The schema of a VM's record.
pub const VM_SCHEMA: &str = "banger.vm/1";

/// The sections, in the order in which they are written.
pub const SECTIONS: [&str; 6] = ["vm", "net", "disk", "vmm", "workspace", "result"];

/// The largest record that a program reads, in bytes.
pub const MAX_RECORD_BYTES: u64 = 4 << 20;

/// Which init runs in the guest once banger-guest has mounted everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// banger-guest itself: starts sshd, reaps, shuts down.
    Lean,
    /// The image's `/sbin/init`; banger-guest's agent runs beside it.
    Systemd,
}

/// How the guest reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetMode {
    /// A tap on the state directory's bridge. Needs CAP_NET_ADMIN.
    Tap,
    /// The VMM's own user-mode network. Needs nothing; QEMU only.
    User,
}

/// How the root filesystem is kept apart from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBackend {
    /// The best that the host can do.
    Auto,
    /// A device-mapper snapshot over one shared loop device.
    Dm,
    /// A reflinked copy of the image (FICLONE).
    Reflink,
    /// The image read-only, an empty ext4 per VM above it, joined by overlayfs in the guest.
    Overlay,
    /// A full sparse copy.
    Copy,
}

/// Which virtual machine monitor runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmmKind {
    /// Firecracker where it and KVM work, else QEMU.
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A guest port that is reachable from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address that listens; `None`: all.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Absolute paths of a VM's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The VM's own directory, `…/vms/<id>`, mode 0700.
    pub dir: String,
    /// The image's root filesystem, an ext4 that is never written.
    pub rootfs: String,
    /// The image's kernel as its distribution ships it (bzImage), for QEMU.
    pub kernel: String,
    /// The same kernel as an uncompressed ELF, for Firecracker.
    pub kernel_elf: String,
    /// The kernel's shared initrd segment: banger-guest and modules.
    pub initrd: String,
    /// The ext4 made from the image's /root; each VM's work disk is a copy.
    pub work_seed: String,
    /// An empty ext4; each VM's upper disk (backend `overlay`) is a copy.
    pub upper_seed: String,
}

/// What the VM is. Written by `banger vm plan`, never changed by a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// 12 hexadecimal digits, unique and never used again.
    pub id: VmId,
    /// The name, unique in its state directory.
    pub name: VmName,
    /// The state directory's identifier: the owner tag of host objects.
    pub state_id: StateId,
    /// The user who owns the VM and its tap.
    pub owner_uid: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// The image it boots.
    pub image: ImageName,
    /// Which init runs.
    pub init: Init,
    /// The guest's host name.
    pub hostname: VmName,
    /// Virtual CPUs, 1–32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the root filesystem as the guest sees it, bytes.
    pub rootfs_size_bytes: u64,
    /// Size of the work disk, bytes.
    pub work_size_bytes: u64,
    /// Seconds after which the VM is stopped; `None`: never.
    pub ttl_s: Option<u64>,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix_len: u8,
    /// The subnet's gateway: the bridge's address.
    pub gateway: Ipv4Addr,
    /// The guest's Ethernet address.
    pub mac: MacAddr,
    /// The guest's vsock context identifier, 3 or more.
    pub cid: u32,
    /// Tap or user networking.
    pub net_mode: NetMode,
    /// Whether the guest reaches the outside through masquerading.
    pub nat: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The wanted copy-on-write backend.
    pub disk_backend: DiskBackend,
    /// The wanted VMM.
    pub vmm_kind: VmmKind,
    /// The VM's inputs.
    pub paths: Paths,
}

/// What `banger-netd attach` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Tap or user networking.
    pub mode: NetMode,
    /// The bridge; `None` in user mode.
    pub bridge: Option<LinkName>,
    /// The tap; `None` in user mode.
    pub tap: Option<LinkName>,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// The resolvers that the guest is to use; never a loopback address.
    pub dns: Vec<Ipv4Addr>,
    /// Whether masquerading is on.
    pub nat: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Where the host reaches the guest's sshd.
    pub ssh_host: Ipv4Addr,
    /// On which port.
    pub ssh_port: u16,
}

/// What `banger-disk attach` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The backend in use, never `auto`.
    pub backend: DiskBackend,
    /// Why that one, for people.
    pub backend_reason: String,
    /// What the VMM opens as the root: a file or a device.
    pub root_device: String,
    /// Whether the VMM opens the root read-only (backend `overlay`).
    pub root_read_only: bool,
    /// The ext4 above the root; backend `overlay` only.
    pub upper_device: Option<String>,
    /// The ext4 that is mounted on /root.
    pub work_device: String,
    /// The kernel (bzImage).
    pub kernel: String,
    /// The kernel (ELF).
    pub kernel_elf: String,
    /// The whole initrd of this VM: the shared segment and the VM's own.
    pub initrd: String,
}

/// How the VMM executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualization.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

/// Whether the VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmmState {
    /// Somebody holds the lock `run.lock`.
    Running,
    /// Nobody does.
    Exited,
}

/// How a VM ended, as its supervisor saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmmExit {
    /// RFC 3339, UTC.
    pub at: String,
    /// The VMM's exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `shutdown`, `stopped`, `killed`, `ttl`, `panic`, `crashed`, or `lost` when no supervisor saw it.
    pub reason: String,
    /// For people: one line, escaped.
    pub message: String,
}

/// What `banger-fc start` or `banger-qemu start` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vmm {
    /// Firecracker or QEMU, never `auto`.
    pub kind: VmmKind,
    /// KVM or software.
    pub accel: Accel,
    /// The VMM's own version.
    pub version: String,
    /// The supervisor's process. Valid only while `run.lock` is held.
    pub supervisor_pid: i32,
    /// The VMM's process. Valid only while `run.lock` is held.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC: when the guest said "ready".
    pub ready_at: Option<String>,
    /// Firecracker's API socket or QEMU's QMP socket.
    pub api_socket: String,
    /// The supervisor's client-facing socket: HTTP/1.1.
    pub agent_socket: String,
    /// The guest's console, size-capped.
    pub console_log: String,
    /// What the VMM itself says.
    pub vmm_log: String,
    /// Running or exited.
    pub state: VmmState,
    /// How it ended.
    pub exit: Option<VmmExit>,
}

/// What of the checkout travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// Tracked files as they stand, and the history reachable from HEAD.
    Full,
}

/// What `banger-ws prepare` copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// The checkout's root on the host. Bytes that are not UTF-8 are replaced.
    pub host_path: String,
    /// Its root in the guest.
    pub guest_path: String,
    /// The commit that HEAD stood at; `None` on an unborn branch.
    pub head_commit: Option<String>,
    /// The commit in the guest that holds the tree as it was sent: `refs/banger/prepared`.
    pub base_commit: String,
    /// What travelled.
    pub mode: WorkspaceMode,
    /// RFC 3339, UTC.
    pub prepared_at: String,
    /// Files in the working tree that was sent.
    pub file_count: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

/// What a stage cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// The program; `banger-guest` for steps inside the guest.
    pub tool: String,
    /// Its verb.
    pub verb: String,
    /// The step.
    pub step: String,
    /// Microseconds on the host's CLOCK_BOOTTIME.
    pub start_us: u64,
    /// Microseconds.
    pub duration_us: u64,
}

/// Written by the last program: whether it changed anything. `banger-ws run`, `exec` and `export` add what they learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Whether anything changed.
    pub changed: bool,
    /// The guest command's exit status, as the shell would report it (128+n for a signal).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The signal that ended the guest command, without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Where the patch was written; `-` for stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_file: Option<String>,
    /// The patch's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_bytes: Option<u64>,
    /// Paths that the patch touches. Bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
}

/// Why a record cannot be used.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Nothing at all came.
    #[error("no record came on stdin")]
    Empty,
    /// More than [`MAX_RECORD_BYTES`] came.
    #[error("the record is larger than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
    /// It is no JSON object.
    #[error("the record is not one JSON object")]
    Json(#[source] serde_json::Error),
    /// The schema is another one.
    #[error("the record's schema is {0:?}; this program speaks {VM_SCHEMA:?}")]
    Schema(String),
    /// A section that the program reads is missing or null.
    #[error("the record has no section {0:?}")]
    Missing(&'static str),
    /// A section is not of its shape.
    #[error("the record's section {section:?} is not valid")]
    Section {
        /// Which one.
        section: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Coded for RecordError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::NoInput,
            Self::Schema(_) => ErrorCode::UnsupportedSchema,
            _ => ErrorCode::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => Some("begin a pipeline with: banger vm plan NAME".into()),
            Self::Missing("vm") => Some("a record comes from: banger vm plan NAME".into()),
            Self::Missing("net") => Some("run banger-netd attach before this stage".into()),
            Self::Missing("disk") => Some("run banger-disk attach before this stage".into()),
            Self::Missing("vmm") => Some("run banger-qemu start or banger-fc start before this stage".into()),
            Self::Missing("workspace") => Some("run banger-ws prepare before this stage".into()),
            _ => None,
        }
    }
}

/// A record with everything that it holds, known or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(Map<String, Value>);

impl Document {
    /// A new record: the VM, and every other section `null`.
    pub fn new(vm: &Vm) -> Self {
        let mut map = Map::new();
        map.insert("schema".into(), VM_SCHEMA.into());
        for section in SECTIONS {
            map.insert(section.into(), Value::Null);
        }
        map.insert("timings".into(), Value::Array(Vec::new()));
        let mut document = Self(map);
        document.set("vm", Some(vm));
        document
    }

    /// Reads a record of this program's schema. An error record is not one: see [`super::ErrorRecord`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge);
        }
        if bytes.trim_ascii().is_empty() {
            return Err(RecordError::Empty);
        }
        let mut map: Map<String, Value> = serde_json::from_slice(bytes).map_err(RecordError::Json)?;
        match map.get("schema") {
            Some(Value::String(schema)) if schema == VM_SCHEMA => {}
            other => {
                let shown = other.map_or_else(|| "missing".to_owned(), |v| v.to_string());
                return Err(RecordError::Schema(shown.chars().take(60).collect()));
            }
        }
        for section in SECTIONS {
            map.entry(section).or_insert(Value::Null);
        }
        map.entry("timings").or_insert_with(|| Value::Array(Vec::new()));
        Ok(Self(map))
    }

    fn section<T: DeserializeOwned>(&self, section: &'static str) -> Result<Option<T>, RecordError> {
        match self.0.get(section) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|source| RecordError::Section { section, source })
            }
        }
    }

    fn required<T: DeserializeOwned>(&self, section: &'static str) -> Result<T, RecordError> {
        self.section(section)?.ok_or(RecordError::Missing(section))
    }

    /// Replaces a section; `None` writes `null`.
    fn set<T: Serialize>(&mut self, section: &'static str, value: Option<&T>) {
        let value = serde_json::to_value(value).expect("sections have string keys only");
        self.0.insert(section.into(), value);
    }

    /// The VM. Every verb that takes a record needs it.
    pub fn vm(&self) -> Result<Vm, RecordError> {
        self.required("vm")
    }
    /// The network, if attached.
    pub fn net(&self) -> Result<Option<Net>, RecordError> {
        self.section("net")
    }
    /// The network, which a stage before this one must have attached.
    pub fn required_net(&self) -> Result<Net, RecordError> {
        self.required("net")
    }
    /// The disks, if attached.
    pub fn disk(&self) -> Result<Option<Disk>, RecordError> {
        self.section("disk")
    }
    /// The disks, which a stage before this one must have attached.
    pub fn required_disk(&self) -> Result<Disk, RecordError> {
        self.required("disk")
    }
    /// The VMM, if started.
    pub fn vmm(&self) -> Result<Option<Vmm>, RecordError> {
        self.section("vmm")
    }
    /// The VMM, which a stage before this one must have started.
    pub fn required_vmm(&self) -> Result<Vmm, RecordError> {
        self.required("vmm")
    }
    /// The workspace, if prepared.
    pub fn workspace(&self) -> Result<Option<Workspace>, RecordError> {
        self.section("workspace")
    }
    /// The workspace, which a stage before this one must have prepared.
    pub fn required_workspace(&self) -> Result<Workspace, RecordError> {
        self.required("workspace")
    }
    /// The outcome of the last program.
    pub fn outcome(&self) -> Result<Option<Outcome>, RecordError> {
        self.section("result")
    }

    /// Writes the VM.
    pub fn set_vm(&mut self, vm: &Vm) {
        self.set("vm", Some(vm));
    }
    /// Writes or clears the network.
    pub fn set_net(&mut self, net: Option<&Net>) {
        self.set("net", net);
    }
    /// Writes or clears the disks.
    pub fn set_disk(&mut self, disk: Option<&Disk>) {
        self.set("disk", disk);
    }
    /// Writes or clears the VMM.
    pub fn set_vmm(&mut self, vmm: Option<&Vmm>) {
        self.set("vmm", vmm);
    }
    /// Writes or clears the workspace.
    pub fn set_workspace(&mut self, workspace: Option<&Workspace>) {
        self.set("workspace", workspace);
    }
    /// Writes the outcome.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        self.set("result", Some(outcome));
    }

    /// The timings so far. Entries of another shape are an error.
    pub fn timings(&self) -> Result<Vec<Timing>, RecordError> {
        Ok(self.section("timings")?.unwrap_or_default())
    }

    /// Appends timings. Where `timings` is no list it becomes one.
    pub fn push_timings(&mut self, timings: impl IntoIterator<Item = Timing>) {
        let slot = self.0.entry("timings").or_insert(Value::Null);
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let list = slot.as_array_mut().expect("it was just made a list");
        list.extend(timings.into_iter().map(|t| serde_json::to_value(t).expect("a timing is an object")));
    }

    /// Takes `section` of `other`, which ran side by side with this one, and the timings that it added beyond `base`.
    pub fn merge(&mut self, section: &'static str, other: &Self, base_timings: usize) {
        if let Some(value) = other.0.get(section) {
            self.0.insert(section.into(), value.clone());
        }
        let added = other.timings().unwrap_or_default().into_iter().skip(base_timings);
        self.push_timings(added);
    }

    /// The whole record as a JSON value.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_pass_through_and_absent_sections_become_null() {
        let document = Document::parse(br#"{"schema":"banger.vm/1","x-mine":{"a":[1]},"vm":{}}"#).unwrap();
        let value = document.to_value();
        assert_eq!(value["x-mine"]["a"][0], 1);
        assert!(value["net"].is_null() && value.get("net").is_some());
        assert!(matches!(document.vm(), Err(RecordError::Section { section: "vm", .. })));
        assert!(matches!(document.required_net(), Err(RecordError::Missing("net"))));
    }

    #[test]
    fn sections_are_strict() {
        let text = br#"{"schema":"banger.vm/1","result":{"changed":true,"surprise":1}}"#;
        let error = Document::parse(text).unwrap().outcome().unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadInput);
    }

    #[test]
    fn wrong_documents_are_refused_with_their_code() {
        let code = |bytes: &[u8]| Document::parse(bytes).unwrap_err().code();
        assert_eq!(code(b" \n"), ErrorCode::NoInput);
        assert_eq!(code(b"{\"schema\":\"banger.vm/1\""), ErrorCode::BadInput);
        assert_eq!(code(b"[]"), ErrorCode::BadInput);
        assert_eq!(code(b"{} {}"), ErrorCode::BadInput);
        assert_eq!(code(b"{\"schema\":\"banger.vm/2\"}"), ErrorCode::UnsupportedSchema);
        assert_eq!(code(b"{}"), ErrorCode::UnsupportedSchema);
        assert_eq!(code(&vec![b' '; MAX_RECORD_BYTES as usize + 1]), ErrorCode::BadInput);
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(code(&deep), ErrorCode::BadInput);
    }
}
