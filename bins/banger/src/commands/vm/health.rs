//! `banger vm health`: whether the VM runs and its agent answers.

use std::process::ExitCode;

use banger_contract::Document;
use serde_json::Value;

use crate::context::{self, Context, Result};
use crate::inside::{self, InsideError};
use crate::lifecycle;
use crate::options::OneVm;

/// `banger vm health`: whether the VM runs and its agent answers.
pub fn health(context: &Context, args: &OneVm) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return inside::explained(context, &row, "status");
    }
    let value: Value = inside::ask(context, &row, "status")?;
    let document = Document::parse(value.to_string().as_bytes())?;
    let reachable = document.vmm()?.and_then(|vmm| vmm.agent_reachable);
    if reachable != Some(true) {
        return Err(InsideError::Sick(row.vm.name.to_string()).into());
    }
    if context.json {
        return Ok(context::emit(&value));
    }
    Ok(context::print(&format!("{} is well\n", row.vm.name)))
}
