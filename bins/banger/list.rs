//! Looking at VMs: `ps`, `show`, `logs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use banger_lib::contract::error::escape_controls;
use banger_lib::contract::record::{VMS_SCHEMA, Vmm, VmmExit, VmmState};
use banger_lib::contract::{Coded, Document, ErrorCode};
use banger_lib::state::db::{Store, VmRow};
use banger_lib::state::dir::VmDir;
use banger_lib::sys::listen;
use banger_lib::{net, vmm};
use serde_json::{Value, json};
use thiserror::Error;

use crate::args::{Logs, Show};
use crate::context::{self, Context, Result};
use crate::{lifecycle, table};

/// A log that cannot be shown.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("VM {0} has no log yet")]
    None(String),
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coded for LogError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None(_) => ErrorCode::NotFound,
            Self::Read { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::None(_)).then(|| "it has one once it was started".into())
    }
}

/// The record brought up to date: only a held run lock makes a VM a running one, and only its tap a network an attached one
/// (banger-netd is privileged and does not write the file that says so).
pub fn current(row: &VmRow) -> Result<Document> {
    let mut document = lifecycle::document(row);
    let attached = match document.net()? {
        Some(net) => match net.tap {
            Some(tap) => nix::net::if_::if_nametoindex(tap.as_str()).is_ok(),
            None => document.disk()?.is_some(),
        },
        None => false,
    };
    if !attached {
        document.set_net(None);
    }
    if let Some(vmm) = document.vmm()? {
        document.set_vmm(Some(&observed(row, vmm)));
    }
    if lifecycle::runs(&row.vm) && (document.vmm()?.is_none() || document.net()?.is_none()) {
        rebuild(row, &mut document)?;
    }
    Ok(document)
}

/// Finds in the kernel what the lost or corrupt handles.json of a running VM said of its VMM and its network.
fn rebuild(row: &VmRow, document: &mut Document) -> Result<()> {
    let vmm = match document.vmm()? {
        Some(vmm) => Some(vmm),
        None => vmm::rebuild::rebuild(&VmDir::at(&row.vm.paths.dir)),
    };
    if document.net()?.is_none() {
        let ports = vmm.as_ref().map(|vmm| listen::loopback_ports(vmm.pid)).unwrap_or_default();
        document.set_net(net::rebuild::rebuild(&row.vm, &ports).as_ref());
    }
    document.set_vmm(vmm.as_ref());
    Ok(())
}

/// How the VM ended; `None` while it runs and where it was never started.
pub fn ended(row: &VmRow) -> Option<VmmExit> {
    current(row).ok()?.vmm().ok()??.exit
}

fn observed(row: &VmRow, vmm: Vmm) -> Vmm {
    if lifecycle::runs(&row.vm) {
        return Vmm { state: VmmState::Running, exit: None, ..vmm };
    }
    let recorded = std::fs::read(VmDir::at(&row.vm.paths.dir).exit()).ok();
    let exit = recorded.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_else(|| VmmExit {
        at: vmm.started_at.clone(),
        status: None,
        signal: None,
        reason: "lost".into(),
        message: "the VM ended and nobody saw how: its supervisor was killed or the host went down".into(),
    });
    Vmm { state: VmmState::Exited, exit: Some(exit), ..vmm }
}

pub fn list(context: &Context) -> Result<ExitCode> {
    let rows = Store::open_existing(&context.state)?.map_or(Ok(Vec::new()), |store| store.vms())?;
    if context.json {
        let items: Result<Vec<Value>> = rows.iter().map(|row| Ok(current(row)?.to_value())).collect();
        return Ok(context::emit(&json!({ "schema": VMS_SCHEMA, "items": items? })));
    }
    let lines: Result<Vec<Vec<String>>> = rows.iter().map(line).collect();
    Ok(context::print(&table::table(
        &["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "ADDRESS", "WORKSPACE"],
        lines?,
    )))
}

fn line(row: &VmRow) -> Result<Vec<String>> {
    let document = current(row)?;
    let running = lifecycle::runs(&row.vm);
    let vmm = document.vmm()?;
    let state = match vmm.and_then(|vmm| vmm.exit) {
        _ if running => "running".to_owned(),
        Some(exit) => format!("exited ({})", exit.reason),
        None => "stopped".to_owned(),
    };
    let net = document.net()?.filter(|_| running);
    let address = net.map_or_else(|| "-".to_owned(), |net| format!("{}:{}", net.ssh_host, net.ssh_port));
    let workspace = document.workspace()?.map_or_else(|| "-".to_owned(), |workspace| workspace.host_path);
    let vm = &row.vm;
    let memory = format!("{}M", vm.memory_mib);
    Ok(vec![
        vm.name.to_string(),
        state,
        vm.image.to_string(),
        vm.vcpus.to_string(),
        memory,
        address,
        workspace,
    ])
}

pub fn show(context: &Context, args: &Show) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let value = current(&row)?.to_value();
    Ok(if args.record || context.json {
        context::emit(&value)
    } else {
        context::print(&table::pretty(&value))
    })
}

/// Prints a log, every line escaped: the guest writes the console.
pub fn logs(context: &Context, args: &Logs) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let dir = VmDir::at(&row.vm.paths.dir);
    let path = if args.vmm { dir.vmm_log() } else { dir.console_log() };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LogError::None(row.vm.name.to_string()).into());
        }
        Err(source) => return Err(LogError::Read { path, source }.into()),
    };
    let mut stdout = io::stdout().lock();
    if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        let whose = if args.vmm { "its VMM" } else { "its guest, whose kernel is told to be quiet," };
        context.say(format!("{} has an empty log: {whose} has printed nothing", row.vm.name));
    }
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|source| LogError::Read { path: path.clone(), source })?;
        let text = String::from_utf8_lossy(&line);
        if writeln!(stdout, "{}", escape_controls(text.trim_end_matches('\r'))).is_err() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
