//! `banger vm ports`.

use std::process::ExitCode;

use banger_contract::inside::Ports;
use banger_contract::record::Protocol;
use serde_json::json;

use crate::context::{self, Context, Result};
use crate::options::OneVm;
use crate::{inside, lifecycle, table};

/// `banger vm ports`.
pub fn ports(context: &Context, args: &OneVm) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return inside::explained(context, &row, "ports");
    }
    let ports: Ports = inside::ask(context, &row, "ports")?;
    if context.json {
        return Ok(context::emit(&json!(ports)));
    }
    let rows = ports.items.into_iter().map(|port| {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            port.port.to_string(),
            protocol.to_owned(),
            port.address.to_string(),
            number(port.pid),
            port.process.unwrap_or_else(|| "-".into()),
        ]
    });
    Ok(context::print(&table::table(&["PORT", "PROTOCOL", "ADDRESS", "PID", "PROCESS"], rows)))
}
