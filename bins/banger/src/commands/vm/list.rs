//! `banger ps`, which is `banger vm list` as well.

use std::process::ExitCode;

use banger_contract::record::VMS_SCHEMA;
use banger_state::db::{Store, VmRow};
use serde_json::{Value, json};

use crate::context::{self, Context, Result};
use crate::{lifecycle, observed, space, table};

pub fn list(context: &Context) -> Result<ExitCode> {
    let rows = Store::open_existing(&context.state)?.map_or(Ok(Vec::new()), |store| store.vms())?;
    if context.json {
        let items: Result<Vec<Value>> =
            rows.iter().map(|row| Ok(observed::current(row)?.to_value())).collect();
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
    let document = observed::current(row)?;
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
