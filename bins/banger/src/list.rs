//! Looking at VMs: `ps`, `show`.

use std::process::ExitCode;

use banger_contract::Document;
use banger_contract::record::{VMS_SCHEMA, Vmm, VmmExit, VmmState};
use banger_host::net::listen;
use banger_netd as net;
use banger_state::db::{Store, VmRow};
use banger_state::dir::VmDir;
use banger_vmm as vmm;
use serde_json::{Value, json};

use crate::args::Show;
use crate::context::{self, Context, Result};
use crate::{lifecycle, space, table};

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
        None => vmm::rebuild::rebuild(&VmDir::at(&row.vm.paths.dir), crate::vmm::monitor),
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
    space::warn(context, &rows);
    Ok(context::print(&table::table(
        &["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "ADDRESS", "PORTS", "TTL", "WORKSPACE"],
        lines?,
    )))
}

fn line(row: &VmRow) -> Result<Vec<String>> {
    let document = current(row)?;
    let running = lifecycle::runs(&row.vm);
    let vmm = document.vmm()?;
    let expires_at = vmm.as_ref().filter(|_| running).and_then(|vmm| vmm.expires_at.clone());
    let state = match vmm.and_then(|vmm| vmm.exit) {
        _ if running => "running".to_owned(),
        Some(exit) => format!("exited ({})", exit.reason),
        None => "stopped".to_owned(),
    };
    let net = document.net()?.filter(|_| running);
    let address = net.map_or_else(|| "-".to_owned(), |net| format!("{}:{}", net.ssh_host, net.ssh_port));
    let workspace = document.workspace()?.map_or_else(|| "-".to_owned(), |workspace| workspace.host_path);
    let vm = &row.vm;
    let left = expires_at.and_then(|at| time_left(&at));
    let memory = format!("{}M", vm.memory_mib);
    let ports: Vec<String> = vm.publish.iter().map(ToString::to_string).collect();
    let ports = if ports.is_empty() { "-".to_owned() } else { ports.join(" ") };
    Ok(vec![
        vm.name.to_string(),
        state,
        vm.image.to_string(),
        vm.vcpus.to_string(),
        memory,
        address,
        ports,
        left.unwrap_or_else(|| "-".to_owned()),
        workspace,
    ])
}

/// How long a VM has that its supervisor stops at `until`.
fn time_left(until: &str) -> Option<String> {
    let until = until.parse::<jiff::Timestamp>().ok()?.as_second();
    let left = until.saturating_sub(jiff::Timestamp::now().as_second()).max(0);
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    Some(match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds:02}s"),
        _ => format!("{hours}h{minutes:02}m"),
    })
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
