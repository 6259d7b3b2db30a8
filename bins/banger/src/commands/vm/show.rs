//! `banger vm show`.

use std::process::ExitCode;

use clap::Args;

use crate::context::{self, Context, Result};
use crate::{lifecycle, observed, table};

#[derive(Debug, Args)]
pub struct Show {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Print the VM's record, for a pipeline (the same as --json)
    #[arg(long)]
    pub record: bool,
}

pub fn show(context: &Context, args: &Show) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let value = observed::current(&row)?.to_value();
    Ok(if args.record || context.json {
        context::emit(&value)
    } else {
        context::print(&table::pretty(&value))
    })
}
