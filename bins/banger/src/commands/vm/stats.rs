//! `banger vm stats`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use banger_contract::inside::{DiskIo, USAGES_SCHEMA, Usage};
use banger_state::db::Store;
use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use crate::context::{self, Context, Result};
use crate::{inside, lifecycle, table};

/// How long `--watch` waits between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Names or ids [default: all VMs that run]
    #[arg(value_name = "VM")]
    pub vms: Vec<String>,
    /// Look again every two seconds, until interrupted
    #[arg(long, short)]
    pub watch: bool,
}

/// `banger vm stats`.
pub fn stats(context: &Context, args: &StatsArgs) -> Result<ExitCode> {
    if context.explain
        && let [name, ..] = args.vms.as_slice()
    {
        return inside::explained(context, &lifecycle::find(context, name)?.1, "stats");
    }
    let mut before: Vec<Usage> = Vec::new();
    loop {
        let now = look(context, &args.vms)?;
        let drawn = draw(context, args, &before, &now);
        if drawn != ExitCode::SUCCESS || !args.watch {
            return Ok(drawn);
        }
        before = now;
        if context.interrupts()?.pause(INTERVAL).is_some() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The named VMs, or all that run.
fn look(context: &Context, names: &[String]) -> Result<Vec<Usage>> {
    if !names.is_empty() {
        return names
            .iter()
            .map(|name| inside::ask(context, &lifecycle::find(context, name)?.1, "stats"))
            .collect();
    }
    let rows = Store::open_existing(&context.state)?.map_or(Ok(Vec::new()), |store| store.vms())?;
    let looked =
        rows.iter().filter(|row| lifecycle::runs(&row.vm)).map(|row| inside::ask(context, row, "stats"));
    // One that ended meanwhile is not worth a failure.
    Ok(looked.filter_map(Result::ok).collect())
}

/// Prints one look.
fn draw(context: &Context, args: &StatsArgs, before: &[Usage], now: &[Usage]) -> ExitCode {
    let mut text = String::new();
    if context.json {
        text = format!("{}\n", json!({ "schema": USAGES_SCHEMA, "items": now }));
    } else {
        if args.watch && io::stdout().is_terminal() {
            // The cursor goes home and the rest is cleared (ECMA-48: CUP, ED).
            text.push_str("\x1b[H\x1b[J");
        }
        let rows = now.iter().map(|stats| row(stats, before.iter().find(|b| b.name == stats.name)));
        text.push_str(&table::table(
            &[
                "NAME",
                "CPU",
                "MEMORY",
                "GUEST MEMORY",
                "LOAD",
                "DISK R/W",
                "NET IN/OUT",
                "DISK USE",
                "ON HOST/FREE",
            ],
            rows,
        ));
    }
    context::print(&text)
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec_short().to_string()
}

pub fn row(stats: &Usage, before: Option<&Usage>) -> Vec<String> {
    let dash = || "-".to_owned();
    let guest = stats.guest.as_ref();
    let memory = guest.and_then(|g| Some((g.memory.total_bytes?, g.memory.available_bytes?)));
    let sum = |pick: fn(&DiskIo) -> u64| stats.disks.iter().flatten().map(pick).fold(0, u64::saturating_add);
    let used = guest.map(|g| {
        let parts = g.disks.iter().map(|disk| {
            format!(
                "{} {}/{}",
                disk.mount,
                size(disk.size_bytes.saturating_sub(disk.free_bytes)),
                size(disk.size_bytes)
            )
        });
        parts.collect::<Vec<_>>().join(", ")
    });
    vec![
        stats.name.clone(),
        processor(stats, before),
        size(stats.vmm.rss_bytes),
        memory.map_or_else(dash, |(total, free)| {
            format!("{}/{}", size(total.saturating_sub(free)), size(total))
        }),
        guest.map_or_else(dash, |g| format!("{:.2}", g.load[0])),
        stats.disks.as_ref().map_or_else(dash, |_| {
            format!("{}/{}", size(sum(|d| d.read_bytes)), size(sum(|d| d.written_bytes)))
        }),
        stats
            .net
            .as_ref()
            .map_or_else(dash, |n| format!("{}/{}", size(n.received_bytes), size(n.sent_bytes))),
        used.unwrap_or_else(dash),
        format!(
            "{}/{}",
            size(stats.storage.root_bytes.saturating_add(stats.storage.work_bytes)),
            stats.storage.free_bytes.map_or_else(dash, size)
        ),
    ]
}

/// Processor time: since the look before as a share of one processor, else the whole of it.
fn processor(stats: &Usage, before: Option<&Usage>) -> String {
    let micros = |text: &str| text.parse::<jiff::Timestamp>().map(|t| t.as_microsecond()).ok();
    let share = before.and_then(|before| {
        let passed = micros(&stats.at)?.checked_sub(micros(&before.at)?).filter(|us| *us > 0)?;
        let used = stats.vmm.cpu_time_us.saturating_sub(before.vmm.cpu_time_us);
        Some(used as f64 * 100.0 / passed as f64)
    });
    share.map_or_else(
        || format!("{:.1}s", stats.vmm.cpu_time_us as f64 / 1e6),
        |percent| format!("{percent:.0}%"),
    )
}
