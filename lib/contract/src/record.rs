//! The sections of the record, each filled in by one program. [`super::Document`] is the whole of it.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::policy::{Egress, Protocol, Publish};
pub use super::trust::TrustedCa;
use crate::types::{Environment, ImageName, KernelName, LinkName, MacAddr, StateId, VmId, VmName};

/// The schema of a VM's record.
pub const VM_SCHEMA: &str = "banger.vm/1";

/// The schema of a list of VMs.
pub const VMS_SCHEMA: &str = "banger.vms/1";

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

/// Absolute paths of a VM's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The VM's own directory, `…/vms/<id>`, mode 0700.
    pub dir: String,
    /// The image's root filesystem, an ext4 that is never written.
    pub rootfs: String,
    /// The kernel as its distribution ships it (bzImage), for QEMU.
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
    /// The kernel it boots; `None`: the image's own.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// The variables that commands in the guest get: those of the image.
    #[serde(default)]
    pub env: Environment,
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
    /// What the guest may reach outside, where `nat` lets it out at all.
    #[serde(default)]
    pub egress: Egress,
    /// Whether the guest and the other VMs of its state directory of which this holds reach each other.
    #[serde(default)]
    pub peer: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Whether `banger-netd` may ask other firewalls of the host, such as Docker's, to let the VMs through.
    #[serde(default)]
    pub open_firewall: bool,
    /// How much may go through each of its disks, bytes a second; `None`: any.
    #[serde(default)]
    pub disk_rate_bytes_s: Option<u64>,
    /// How much it may receive and how much it may send, bytes a second each; `None`: any.
    #[serde(default)]
    pub net_rate_bytes_s: Option<u64>,
    /// The largest packet on the guest's network, bytes, 1280 to 9000; `None`: 1500.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The wanted copy-on-write backend.
    pub disk_backend: DiskBackend,
    /// The most that changes to the root may take of the host, bytes, with the backends `dm` and `overlay`; `None`: as much as the root
    /// is large.
    #[serde(default)]
    pub max_changes_bytes: Option<u64>,
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
    /// What the guest may reach outside, where `nat` is on.
    #[serde(default)]
    pub egress: Egress,
    /// Whether the guest and other such VMs reach each other.
    #[serde(default)]
    pub peer: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The largest packet, bytes; `None`: 1500.
    #[serde(default)]
    pub mtu: Option<u16>,
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
    /// The authorities of the host that the guest trusts besides those of its image.
    #[serde(default)]
    pub host_ca: Vec<TrustedCa>,
    /// The proxy that commands in the guest are told, without name and password; `None`: none.
    #[serde(default)]
    pub proxy: Option<String>,
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
    /// RFC 3339, UTC: when its supervisor stops the VM; `None`: never.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// The limit that holds for each of its disks, bytes a second; `None`: none.
    #[serde(default)]
    pub disk_rate_bytes_s: Option<u64>,
    /// The limit that holds for its network, bytes a second each way; `None`: none.
    #[serde(default)]
    pub net_rate_bytes_s: Option<u64>,
    /// How it ended.
    pub exit: Option<VmmExit>,
    /// Whether the guest takes commands over its agent's channel; else they go over SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_exec: Option<bool>,
    /// Whether the guest's agent answers. Written by `status` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_reachable: Option<bool>,
}

/// What of the checkout travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// Tracked files as they stand, and the history reachable from HEAD; submodules likewise.
    Full,
    /// Tracked files as they stand, and one commit of history.
    Shallow,
    /// Tracked files as they stand, and no git.
    Files,
}

impl WorkspaceMode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Shallow => "shallow",
            Self::Files => "files",
        }
    }
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
    /// The commit that holds the tree as it was sent: `refs/banger/prepared` in the guest, unless the mode is `files`.
    pub base_commit: String,
    /// What travelled.
    pub mode: WorkspaceMode,
    /// Whether untracked files travelled, too.
    #[serde(default)]
    pub include_untracked: bool,
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

/// What a patch does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeStatus {
    /// Makes it.
    Added,
    /// Removes it.
    Deleted,
    /// Changes its content or mode.
    Modified,
    /// Moves it, and perhaps changes it.
    Renamed,
}

/// One file of a patch. A file whose type changes is removed and added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileChange {
    /// Its path; after a rename the new one. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Its path before a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is done to it.
    pub status: ChangeStatus,
    /// Its mode afterwards, such as `100755`, where the patch tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Lines added; absent for binary content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additions: Option<u64>,
    /// Lines removed; absent for binary content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletions: Option<u64>,
    /// What it takes of the patch, bytes.
    pub patch_bytes: u64,
}

/// The patch of one repository of a checkout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryPatch {
    /// Where the repository is in the checkout; `.` is the checkout itself. Bytes that are not UTF-8 are replaced.
    pub repository: String,
    /// Where the patch was written.
    pub file: String,
    /// The patch's size.
    pub bytes: u64,
    /// The SHA-256 of the patch, hexadecimal.
    pub sha256: String,
}

/// A path that a person should know of, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flagged {
    /// Its path. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why, in a few words.
    pub reason: String,
}

/// What came of applying a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    /// The checkout has it now.
    Applied,
    /// It would apply; nothing was changed, as asked.
    Applies,
    /// The checkout had it before.
    Already,
    /// The patch is empty.
    Nothing,
}

/// Written by the last program: whether it changed anything. `banger-ws run`, `exec`, `export`, `apply` and `fetch` add what they learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Whether anything changed.
    pub changed: bool,
    /// What the guest has kept of its own though a copy brought another: `HEAD`, `index`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<String>>,
    /// The guest command's exit status, as the shell would report it (128+n for a signal).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The signal that ended the guest command, without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether the guest command was ended because its time was up; `exit_code` is 124 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<bool>,
    /// Where the patch was written; `-` for stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_file: Option<String>,
    /// The patch's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_bytes: Option<u64>,
    /// The SHA-256 of the patch, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_sha256: Option<String>,
    /// The directory with a patch for each repository of the checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_dir: Option<String>,
    /// The patches in it; of a repository in which nothing changed there is none. `files`, `changes`, `flagged` and the counts are of all of
    /// them, by paths from the root of the checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<Vec<RepositoryPatch>>,
    /// The ref in the guest that the patch is made against; absent where a commit was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ref: Option<String>,
    /// The commit in the guest that the patch is made against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_commit: Option<String>,
    /// Paths that the patch touches, the old ones of renames too; of very many the first. Bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// What the patch does to each of its files; of very many the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<FileChange>>,
    /// How many files the patch changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_count: Option<u64>,
    /// Lines that the patch adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additions: Option<u64>,
    /// Lines that the patch removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletions: Option<u64>,
    /// Files to look at before the patch is applied; of very many the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flagged: Option<Vec<Flagged>>,
    /// What changed and should be in the patch and is not, and why; of very much the first. Where it is there, what was asked for has
    /// not been done: the exit status is 125.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Vec<Flagged>>,
    /// How much is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_count: Option<u64>,
    /// What no patch can hold, and what it is: empty directories, sockets, FIFOs, devices, the git directories of repositories in the
    /// checkout; of very much the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Vec<Flagged>>,
    /// How much is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out_count: Option<u64>,
    /// How many new files are ignored, and so not in the patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored_count: Option<u64>,
    /// What came of applying the patch to a checkout of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// The branch of the host's repository that has the guest's commits, without `refs/heads/`; absent where there are none, and where they
    /// became mails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that the guest's HEAD is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How many commits of the guest's own the branch has gained, or the mails are of; merges count, and are no mails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<u64>,
}

impl Outcome {
    /// Whether something that should be in the patch is not.
    pub fn is_lossy(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.is_empty())
    }
}
