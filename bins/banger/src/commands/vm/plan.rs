//! `banger vm plan`: defines a VM and prints its record.

use std::process::ExitCode;

use banger_contract::Document;
use banger_state::db::Store;

use crate::context::{self, Context, Result};
use crate::options::spec::NamedSpec;
use crate::plan::{self, Wanted};

/// `banger vm plan`: defines a VM and prints its record.
pub fn plan(context: &Context, args: &NamedSpec) -> Result<ExitCode> {
    if context.explain {
        return Ok(context::print(
            "banger vm plan is the beginning of a pipeline: it runs no other program\n",
        ));
    }
    let mut store = Store::open(&context.state)?;
    let vm = plan::plan(context, &mut store, &Wanted::lasting(context, &args.name, &args.spec))?;
    Ok(context::emit(&Document::new(&vm).to_value()))
}
