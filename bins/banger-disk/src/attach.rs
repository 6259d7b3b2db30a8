//! `attach`: gives a VM its disks and its initrd.
//!
//! What is attached is noted in `attached.json` beside them, without entropy and time, so that a second attach can tell whether it
//! has anything to do. The files with the guest's changes outlive `detach`: they go with the VM.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk_error::DiskError;
use super::guest_files::{self, GitIdentity};
use super::volumes::{self, Choice, Made, Mapper};
use super::{guest_override, initrd};
use crate::sys::host_ca::{Authority, HostTrust};
use banger_contract::file_sync::FileSync;
use banger_contract::record::{Disk, DiskBackend, Net, TrustedCa, Vm};
use banger_contract::types::Proxy;
use banger_host::clock::Timeline;
use banger_host::fs::{atomic, reflink};
use banger_host::random;
use banger_protocol::guest::GuestConfig;
use banger_state::dir::{StateDir, VmDir};
use banger_state::lock::{VmLock, is_alive};

/// The note of what is attached, in the VM's directory.
pub(super) const NOTE: &str = "attached.json";

/// The largest disk that ext4 has without further features, bytes.
const MAX_SIZE_BYTES: u64 = 16 << 40;

/// What an attach needs beside the record.
pub struct Attach<'a> {
    /// The state directory.
    pub state: &'a StateDir,
    /// banger-guest.
    pub guest: &'a [u8],
    /// Who commits in the guest.
    pub identity: &'a GitIdentity,
    /// Which files of the user's travel; paths on the host are absolute.
    pub file_sync: &'a [FileSync],
    /// What the guest is to trust as the host does.
    pub trust: &'a HostTrust,
    /// The proxy that commands in the guest are told.
    pub proxy: Option<&'a Proxy>,
    /// Who makes device-mapper roots.
    pub mapper: &'a dyn Mapper,
    /// Whether the record says that the disks are attached.
    pub attached: bool,
}

/// What is attached: everything that went into it but entropy and time.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    disk: Disk,
    config: GuestConfig,
    files_sha256: String,
}

/// What an attach did.
pub struct Attached {
    /// The section.
    pub disk: Disk,
    /// Whether anything changed.
    pub changed: bool,
    /// Files that were to travel and do not, and why: for people.
    pub left_out: Vec<String>,
}

/// Attaches the disks of `vm`. Disks that it has already grow to the sizes of the record, unless it runs.
pub fn attach(
    vm: &Vm,
    net: &Net,
    request: &Attach,
    _: &VmLock,
    timeline: &mut Timeline,
) -> Result<Attached, DiskError> {
    let dir = VmDir::at(&vm.paths.dir);
    check_record(vm)?;
    if !dir.path().is_dir() {
        return Err(DiskError::VmFile { vm: vm.id.clone(), path: dir.path().to_owned() });
    }
    let alive = is_alive(&dir);
    let before = load_note(&dir);
    if alive && before.is_none() {
        return Err(DiskError::Alive(vm.id.clone()));
    }
    let mut made = Made::default();
    let grown = if alive { false } else { volumes::grow_kept(vm, &dir)? };
    let choice = timeline.step("root", || volumes::root(vm, &dir, request.mapper, &mut made))?;
    timeline.step("work", || volumes::work(vm, &dir, &mut made))?;
    if alive && !made.is_empty() {
        return Err(DiskError::Alive(vm.id.clone()));
    }
    let config = guest_files::config(vm, net, choice.backend, request)?;
    let (tar, left_out) = timeline.step("files", || guest_files::tar(vm, &dir, request))?;
    let reason = before.as_ref().filter(|_| made.is_empty()).map(|note| note.disk.backend_reason.clone());
    let note = Note { disk: section(vm, &dir, choice, reason, request), config, files_sha256: sha256(&tar) };
    if let Some(before) = before.filter(|_| made.is_empty() && dir.initrd().is_file()) {
        if before == note && (alive || !is_used(&dir)) {
            return Ok(Attached { disk: note.disk, changed: grown, left_out });
        }
        if before != note && (alive || request.attached) {
            return Err(DiskError::Differs { vm: vm.id.clone(), what: difference(&before, &note) });
        }
    }
    timeline.step("initrd", || write_initrd(vm, &dir, request.guest, &note.config, &tar, &mut made))?;
    let json = serde_json::to_vec(&note).expect("a note has string keys only");
    atomic::write(&dir.path().join(NOTE), &json, 0o600)?;
    made.keep();
    Ok(Attached { disk: note.disk, changed: true, left_out })
}

/// Everything in the record that this stage relies on: absolute paths of files that are there, sizes that a disk can have.
fn check_record(vm: &Vm) -> Result<(), DiskError> {
    let paths = &vm.paths;
    let files = [
        ("vm.paths.rootfs", &paths.rootfs),
        ("vm.paths.kernel", &paths.kernel),
        ("vm.paths.kernel_elf", &paths.kernel_elf),
        ("vm.paths.initrd", &paths.initrd),
        ("vm.paths.work_seed", &paths.work_seed),
        ("vm.paths.upper_seed", &paths.upper_seed),
    ];
    for (field, path) in files {
        if !Path::new(path).is_absolute() {
            return Err(DiskError::Relative { field, path: path.chars().take(200).collect() });
        }
        if !Path::new(path).is_file() {
            let of_kernel = [&paths.kernel, &paths.kernel_elf, &paths.initrd].contains(&path);
            let (id, path) = (vm.id.clone(), PathBuf::from(path));
            return Err(match vm.kernel.clone().filter(|_| of_kernel) {
                Some(kernel) => DiskError::KernelFile { vm: id, kernel, path },
                None => DiskError::ImageFile { vm: id, image: vm.image.clone(), path },
            });
        }
    }
    let sizes = [("vm.rootfs_size_bytes", vm.rootfs_size_bytes), ("vm.work_size_bytes", vm.work_size_bytes)];
    for (field, size_bytes) in sizes {
        if size_bytes > MAX_SIZE_BYTES {
            return Err(DiskError::Size { field, size_bytes });
        }
    }
    Ok(())
}

fn section(vm: &Vm, dir: &VmDir, choice: Choice, reason: Option<String>, request: &Attach) -> Disk {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let overlay = choice.backend == DiskBackend::Overlay;
    Disk {
        backend: choice.backend,
        backend_reason: reason.unwrap_or(choice.reason),
        root_device: match choice.device {
            Some(device) => text(device),
            None if overlay => vm.paths.rootfs.clone(),
            None => text(dir.root()),
        },
        root_read_only: overlay,
        upper_device: overlay.then(|| text(dir.upper())),
        work_device: text(dir.work()),
        kernel: vm.paths.kernel.clone(),
        kernel_elf: vm.paths.kernel_elf.clone(),
        initrd: text(dir.initrd()),
        host_ca: request.trust.added.iter().map(trusted).collect(),
        proxy: request.proxy.map(Proxy::to_string),
    }
}

fn trusted(authority: &Authority) -> TrustedCa {
    TrustedCa { subject: authority.subject.clone(), sha256: authority.sha256.clone() }
}

fn load_note(dir: &VmDir) -> Option<Note> {
    fs::read(dir.path().join(NOTE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

/// Whether a VM was started since the initrd was made, so that its entropy is spent.
fn is_used(dir: &VmDir) -> bool {
    let time = |path: PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    time(dir.run_lock()).is_some_and(|started| Some(started) >= time(dir.initrd()))
}

/// What differs, for people.
fn difference(before: &Note, now: &Note) -> &'static str {
    if before.disk.host_ca != now.disk.host_ca {
        "authorities of the host"
    } else if before.disk.proxy != now.disk.proxy {
        "proxy"
    } else if before.disk != now.disk {
        "image or backend"
    } else if before.config != now.config {
        "guest configuration (network, proxy, host name or init)"
    } else {
        "key, git identity or files of the user"
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The shared segment, this banger-guest where that has another one, and the VM's own segment.
fn write_initrd(
    vm: &Vm,
    dir: &VmDir,
    guest: &[u8],
    config: &GuestConfig,
    tar: &[u8],
    made: &mut Made,
) -> Result<(), DiskError> {
    let entropy: [u8; 64] = random::bytes();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let config = GuestConfig {
        entropy_seed: entropy.iter().map(|byte| format!("{byte:02x}")).collect(),
        time_unix_s: since_epoch.as_secs(),
        ..config.clone()
    };
    let own = initrd::vm_segment(&config, tar)?;
    let shared_path = Path::new(&vm.paths.initrd);
    let shared = volumes::open(shared_path)?;
    let newer = guest_override::segment(&shared, guest)
        .map_err(|source| DiskError::Read { path: shared_path.to_owned(), source })?;
    made.file(&dir.initrd(), |file| {
        let length = shared.metadata()?.len();
        reflink::copy_range(&shared, 0, file, 0, length)?;
        append(file, length, &[newer.as_deref().unwrap_or_default(), &own])
    })
}

/// Appends `segments`, each at a multiple of four bytes, as the kernel wants them.
fn append(mut file: &File, length: u64, segments: &[&[u8]]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut at = length.next_multiple_of(4);
    for segment in segments {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(segment)?;
        at = (at + segment.len() as u64).next_multiple_of(4);
    }
    Ok(())
}
