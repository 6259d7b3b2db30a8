//! `stats` and `ports`: what a running VM uses, and what listens in it. The guest's part is asked of its agent through the
//! supervisor, and is taken only where it has the shape that the contract gives it.

use std::io;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::monitor::Monitor;
use super::stop;
use crate::sys::{http, netdev};
use banger_contract::error::escape_controls;
use banger_contract::inside::{
    GuestUse, NetIo, PORTS_SCHEMA, Port, Ports, Storage, USAGE_SCHEMA, Usage, VmmUse,
};
use banger_contract::record::Vm;
use banger_contract::{Coded, ErrorCode};
use banger_host::clock::now_rfc3339;
use banger_host::fs::space::{self, Space};
use banger_host::net::unix;
use banger_host::process;
use banger_state::dir::VmDir;
use banger_state::lock::is_alive;

/// How long the agent may take. The supervisor gives up after 5 s.
const AGENT_LIMIT: Duration = Duration::from_secs(7);
/// How long the VMM may take to count its disks.
const VMM_LIMIT: Duration = Duration::from_secs(3);
/// How many filesystems and sockets of a guest's are told.
const MAX_ITEMS: usize = 256;
/// How long a process's name may be: the kernel's limit for threads of its own is 64.
const MAX_NAME: usize = 64;

/// Why nothing is known of a VM's inside.
#[derive(Debug, Error)]
pub enum InsideError {
    /// It does not run.
    #[error("VM {0} does not run")]
    Stopped(String),
    /// The supervisor's socket fails.
    #[error("the agent of VM {vm} cannot be asked")]
    Ask {
        /// The VM.
        vm: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent does not answer, or says that it cannot.
    #[error("the agent of VM {vm} does not answer: {said}")]
    Silent {
        /// The VM.
        vm: String,
        /// The supervisor's or the guest's words, escaped.
        said: String,
    },
    /// It answers something else.
    #[error("the agent of VM {0} answers nonsense")]
    Nonsense(String),
    /// The VMM's process is not to be found.
    #[error("what the VMM of VM {vm} uses cannot be read")]
    Usage {
        /// The VM.
        vm: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for InsideError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Stopped(_) => ErrorCode::VmStopped,
            Self::Ask { source, .. } if source.kind() == io::ErrorKind::TimedOut => ErrorCode::Timeout,
            _ => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Stopped(vm) => Some(format!("start it: banger vm start {vm}")),
            Self::Ask { vm, .. } | Self::Silent { vm, .. } | Self::Nonsense(vm) => {
                Some(format!("see what its console says: banger vm logs {vm}"))
            }
            Self::Usage { .. } => None,
        }
    }
}

/// Asks the agent, and takes an answer of the right shape.
fn ask<T: DeserializeOwned>(vm: &Vm, path: &str) -> Result<T, InsideError> {
    let name = vm.name.to_string();
    let until = Instant::now() + AGENT_LIMIT;
    let answer = unix::connect(&VmDir::at(&vm.paths.dir).agent_socket())
        .and_then(|stream| http::exchange(stream, "GET", path, "", until));
    let (status, body) = answer.map_err(|source| InsideError::Ask { vm: name.clone(), source })?;
    if status == 200 {
        return serde_json::from_slice(&body).map_err(|_| InsideError::Nonsense(name));
    }
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = said["error"].as_str().unwrap_or("no reason given").chars().take(200).collect::<String>();
    Err(InsideError::Silent { vm: name, said: escape_controls(&said) })
}

fn must_run(vm: &Vm) -> Result<(), InsideError> {
    if is_alive(&VmDir::at(&vm.paths.dir)) { Ok(()) } else { Err(InsideError::Stopped(vm.name.to_string())) }
}

/// What the VM uses now.
///
/// # Errors
/// [`InsideError`]. An agent or a VMM that does not answer is none: its part is `None`.
pub fn stats(monitor: &dyn Monitor, vm: &Vm, tap: Option<&str>) -> Result<Usage, InsideError> {
    must_run(vm)?;
    let dir = VmDir::at(&vm.paths.dir);
    let usage = |source| InsideError::Usage { vm: vm.name.to_string(), source };
    let pid = stop::vmm_pid(&dir).map_err(usage)?.ok_or(InsideError::Stopped(vm.name.to_string()))?;
    let of_process = process::usage(pid).map_err(usage)?;
    let vcpu_time_us = process::threads_cpu_time_us(pid, monitor.vcpu_thread_prefix()).map_err(usage)?;
    let mut guest: Option<GuestUse> = ask(vm, "/v1/stats").ok();
    if let Some(guest) = &mut guest {
        guest.disks.truncate(MAX_ITEMS);
        guest.disks.iter_mut().for_each(|disk| disk.mount = bounded(&disk.mount, 4096));
    }
    let counted = tap.and_then(netdev::counters);
    Ok(Usage {
        schema: USAGE_SCHEMA.to_owned(),
        name: vm.name.to_string(),
        at: now_rfc3339(),
        vmm: VmmUse {
            pid,
            cpu_time_us: of_process.cpu_time_us,
            vcpu_time_us,
            rss_bytes: of_process.rss_bytes,
        },
        disks: monitor.disk_io(&dir, Instant::now() + VMM_LIMIT),
        storage: storage(vm, &dir),
        // What the host receives on a tap is what the guest sent.
        net: counted.map(|c| NetIo { received_bytes: c.sent_bytes, sent_bytes: c.received_bytes }),
        guest,
    })
}

fn storage(vm: &Vm, dir: &VmDir) -> Storage {
    let space = Space::of(dir.path()).ok();
    Storage {
        root_bytes: [dir.root(), dir.upper(), dir.cow()].iter().map(|path| space::taken(path)).sum(),
        root_limit_bytes: vm.max_changes_bytes,
        work_bytes: space::taken(&dir.work()),
        size_bytes: space.map(|space| space.size_bytes),
        free_bytes: space.map(|space| space.free_bytes),
    }
}

fn bounded(text: &str, limit: usize) -> String {
    text.chars().take(limit).collect()
}

/// The guest's answer.
#[derive(Debug, Deserialize)]
struct Said {
    ports: Vec<Port>,
}

/// What listens in the VM, by port.
///
/// # Errors
/// [`InsideError`].
pub fn ports(vm: &Vm) -> Result<Ports, InsideError> {
    must_run(vm)?;
    let Said { ports: mut items } = ask(vm, "/v1/ports")?;
    items.truncate(MAX_ITEMS);
    for port in &mut items {
        port.process = port.process.as_deref().map(|name| bounded(name, MAX_NAME));
    }
    items.sort_by_key(|port| (port.port, port.address));
    Ok(Ports { schema: PORTS_SCHEMA.to_owned(), name: vm.name.to_string(), items })
}
