//! `update`: makes a running VM what its record says: limits, larger disks, and how long it has.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use thiserror::Error;

use super::agent::RESIZE_LIMIT;
use super::monitor::{Change, Monitor};
use super::talk::TtlRequest;
use crate::sys::http;
use banger_contract::error::escape_controls;
use banger_contract::record::{Disk, Vm, Vmm};
use banger_contract::{Coded, ErrorCode};
use banger_host::net::unix;
use banger_protocol::guest::RESIZE_PATH;
use banger_state::dir::VmDir;
use banger_state::lock::{VmLock, is_alive};

/// How long the VMM may take.
const VMM_LIMIT: Duration = Duration::from_secs(10);
/// How long the supervisor may take to answer for itself.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(7);
/// How long the guest's kernel may take to see that a disk is larger, and how often it is asked.
const SIZE_LIMIT: Duration = Duration::from_secs(10);
const SIZE_INTERVAL: Duration = Duration::from_millis(20);
/// Size of a block of the disks' filesystems, of which they have whole ones, bytes.
const EXT4_BLOCK_BYTES: u64 = 4096;

/// Why a running VM cannot be changed.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// It does not run.
    #[error("VM {0} does not run")]
    Stopped(String),
    /// The VMM says no.
    #[error("the VMM of VM {vm} does not make the change")]
    Vmm {
        /// The VM.
        vm: String,
        /// Why.
        #[source]
        source: super::error::BoxedCause,
    },
    /// A disk's file cannot be looked at.
    #[error("cannot look at the disk {path:?} of VM {vm}")]
    Disk {
        /// The VM.
        vm: String,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest does not grow its filesystems.
    #[error("the disks of VM {vm} are larger now, and its guest does not grow its filesystems: {said}")]
    Guest {
        /// The VM.
        vm: String,
        /// The supervisor's or the guest's words, escaped.
        said: String,
    },
    /// The supervisor does not answer.
    #[error("the supervisor of VM {vm} does not take the change")]
    Supervisor {
        /// The VM.
        vm: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for UpdateError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Stopped(_) => ErrorCode::VmStopped,
            Self::Vmm { source, .. } => source.0.code(),
            Self::Supervisor { source, .. } if source.kind() == io::ErrorKind::TimedOut => ErrorCode::Timeout,
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Stopped(vm) => Some(format!("start it: banger vm start {vm}")),
            Self::Vmm { source, .. } => source.0.hint(),
            Self::Guest { vm, .. } => Some(format!(
                "they grow when the VM starts the next time: banger vm stop {vm}; banger vm start {vm}"
            )),
            _ => None,
        }
    }
}

/// Makes the VM what `vm` says; gives its section as it is now, and whether anything changed. `ttl` is how long it has from now on,
/// where that is to change.
///
/// # Errors
/// [`UpdateError`].
pub fn update(
    monitor: &dyn Monitor,
    vm: &Vm,
    disk: &Disk,
    vmm: Vmm,
    ttl: Option<TtlRequest>,
    _lock: &VmLock,
) -> Result<(Vmm, bool), UpdateError> {
    let (dir, name) = (VmDir::at(&vm.paths.dir), vm.name.to_string());
    if !is_alive(&dir) {
        return Err(UpdateError::Stopped(name));
    }
    let mut now = vmm.clone();
    (now.disk_rate_bytes_s, now.net_rate_bytes_s) = (vm.disk_rate_bytes_s, vm.net_rate_bytes_s);
    let sizes = sizes(vm, disk)?;
    let change = |changes: &[Change<'_>]| {
        let failed = |source| UpdateError::Vmm { vm: name.clone(), source: super::error::BoxedCause(source) };
        monitor.change(&dir, changes, Instant::now() + VMM_LIMIT).map_err(failed)
    };
    // What cannot be taken back comes first: with a larger disk nothing is wrong where the rest fails.
    change(&sizes)?;
    let grew = grow(&dir, &name, &sizes)?;
    let limited = change(&limits(disk, &vmm, &now));
    let timed = limited.and_then(|()| ttl.map(|ttl| set_ttl(&dir, &name, &ttl)).transpose());
    match timed {
        Ok(Some(expires_at)) => now.expires_at = expires_at,
        Ok(None) => {}
        Err(error) => {
            // A VMM that does not take back either has told why already.
            let _ = change(&limits(disk, &now, &vmm));
            return Err(error);
        }
    }
    let changed = grew || now != vmm;
    Ok((now, changed))
}

/// The disks that the guest has, by the VMM's names for them.
fn drives(disk: &Disk) -> Vec<(&'static str, &str)> {
    let upper = disk.upper_device.as_deref().map(|path| ("upper", path));
    [("root", disk.root_device.as_str())]
        .into_iter()
        .chain(upper)
        .chain([("work", disk.work_device.as_str())])
        .collect()
}

/// What makes the limits `from` those that are `to`.
fn limits(disk: &Disk, from: &Vmm, to: &Vmm) -> Vec<Change<'static>> {
    let mut changes = Vec::new();
    if from.disk_rate_bytes_s != to.disk_rate_bytes_s {
        let rate = to.disk_rate_bytes_s;
        changes.extend(drives(disk).into_iter().map(|(drive, _)| Change::DiskRate { drive, rate }));
    }
    if from.net_rate_bytes_s != to.net_rate_bytes_s {
        changes.push(Change::NetRate(to.net_rate_bytes_s));
    }
    changes
}

/// The writable disks as large as their files are. A device is as large as it was when the VM was started.
fn sizes<'a>(vm: &Vm, disk: &'a Disk) -> Result<Vec<Change<'a>>, UpdateError> {
    let mut changes = Vec::new();
    for (drive, path) in drives(disk) {
        if drive == "root" && disk.root_read_only {
            continue;
        }
        let looked = Path::new(path).metadata();
        let failed = |source| UpdateError::Disk { vm: vm.name.to_string(), path: path.to_owned(), source };
        let metadata = looked.map_err(failed)?;
        if !metadata.file_type().is_block_device() {
            changes.push(Change::Grown { drive, path, size_bytes: metadata.len() });
        }
    }
    Ok(changes)
}

/// The guest's answer to [`RESIZE_PATH`].
#[derive(Debug, Deserialize)]
struct Grown {
    disks: Vec<GrownDisk>,
}

#[derive(Debug, Deserialize)]
struct GrownDisk {
    mount: String,
    from_bytes: u64,
    to_bytes: u64,
}

impl Grown {
    /// The first disk that its guest's kernel has at a smaller size than its file.
    fn lagging(&self, sizes: &[Change<'_>]) -> Option<&str> {
        let size = |wanted: &str| {
            sizes.iter().find_map(|change| match change {
                Change::Grown { drive, size_bytes, .. } if mount_of(drive) == wanted => Some(*size_bytes),
                _ => None,
            })
        };
        let lags = |disk: &&GrownDisk| {
            size(&disk.mount).is_some_and(|size| disk.to_bytes < size / EXT4_BLOCK_BYTES * EXT4_BLOCK_BYTES)
        };
        self.disks.iter().find(lags).map(|disk| disk.mount.as_str())
    }
}

/// Where the guest has the writable filesystem of a drive.
fn mount_of(drive: &str) -> &'static str {
    if drive == "work" { "/root" } else { "/" }
}

/// Has the guest grow its filesystems to their disks' `sizes`; whether one of them did. The VMM has told the guest of the sizes, whose
/// kernel takes them over when it comes to it.
fn grow(dir: &VmDir, vm: &str, sizes: &[Change<'_>]) -> Result<bool, UpdateError> {
    let until = Instant::now() + SIZE_LIMIT;
    let mut grew = false;
    loop {
        let grown = resize(dir, vm)?;
        grew |= grown.disks.iter().any(|disk| disk.to_bytes > disk.from_bytes);
        match grown.lagging(sizes) {
            None => return Ok(grew),
            Some(_) if Instant::now() < until => thread::sleep(SIZE_INTERVAL),
            Some(mount) => {
                let said =
                    format!("its kernel has not seen the new size of the disk of {}", escape_controls(mount));
                return Err(UpdateError::Guest { vm: vm.to_owned(), said });
            }
        }
    }
}

/// Has the guest grow its filesystems to what its kernel knows of its disks.
fn resize(dir: &VmDir, vm: &str) -> Result<Grown, UpdateError> {
    let guest = |said: &str| UpdateError::Guest { vm: vm.to_owned(), said: escape_controls(said) };
    let until = Instant::now() + RESIZE_LIMIT + SUPERVISOR_LIMIT;
    let answer = unix::connect(&dir.agent_socket())
        .and_then(|stream| http::exchange(stream, "POST", RESIZE_PATH, "", until));
    let (status, body) = answer.map_err(|error| guest(&error.to_string()))?;
    if status != 200 {
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let said: String = said["error"].as_str().unwrap_or("no reason given").chars().take(200).collect();
        return Err(guest(&said));
    }
    serde_json::from_slice(&body).map_err(|_| guest("its answer makes no sense"))
}

/// The supervisor's answer to `POST /v1/ttl`.
#[derive(Debug, Deserialize)]
struct Expires {
    expires_at: Option<String>,
}

fn set_ttl(dir: &VmDir, vm: &str, ttl: &TtlRequest) -> Result<Option<String>, UpdateError> {
    let failed = |source| UpdateError::Supervisor { vm: vm.to_owned(), source };
    let body = serde_json::to_string(ttl).expect("a number is JSON");
    let until = Instant::now() + SUPERVISOR_LIMIT;
    let (status, body) = unix::connect(&dir.agent_socket())
        .and_then(|stream| http::exchange(stream, "POST", "/v1/ttl", &body, until))
        .map_err(failed)?;
    let nonsense = || failed(io::ErrorKind::InvalidData.into());
    let answer: Option<Expires> = serde_json::from_slice(&body).ok().filter(|_| status == 200);
    Ok(answer.ok_or_else(nonsense)?.expires_at)
}
