//! `banger vm create`.

use std::process::ExitCode;

use banger_contract::Document;
use banger_state::db::Store;

use crate::context::{self, Context, Result};
use crate::options::spec::NamedSpec;
use crate::plan::{self, Wanted};
use crate::{images, sweep};

pub fn create(context: &Context, args: &NamedSpec) -> Result<ExitCode> {
    if context.explain {
        return Ok(context::print(&format!("banger vm plan {}\n", args.name)));
    }
    let mut store = Store::open(&context.state)?;
    sweep::sweep(context, &mut store)?;
    let wanted = Wanted::lasting(context, &args.name, &args.spec);
    plan::check(context, &mut store, &wanted)?;
    images::ensure(context, &wanted.config.image)?;
    let vm = plan::plan(context, &mut store, &wanted)?;
    if context.json {
        return Ok(context::emit(&Document::new(&vm).to_value()));
    }
    Ok(context::print(&format!("{}\n", vm.name)))
}
