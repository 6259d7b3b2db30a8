//! `banger-ws`: its verbs.

mod apply;
mod args;
mod changes;
pub mod command;
mod exec;
mod export;
mod fetch;
mod inspect;
mod job;
mod origin;
mod patch_dir;
mod prepare;
pub mod report;
mod reset;
pub mod summary;

use std::process::ExitCode;

use args::Verb;
pub use args::{Args, FetchFormat, FetchSpec, ModeChoice};

use crate::cli::report::RecordTo;
use banger_cli::plumbing::{self, NothingToRun};

pub(crate) const TOOL: &str = "banger-ws";

/// Runs the program.
pub fn main() -> ExitCode {
    let args: Args = match plumbing::try_parse() {
        Ok(args) => args,
        Err(NothingToRun::Printed(exit)) => return exit,
        Err(NothingToRun::Wrong(error)) => {
            let verb = std::env::args().nth(1).filter(|v| !v.starts_with('-')).unwrap_or_default();
            let own = matches!(verb.as_str(), "run" | "exec");
            return RecordTo::Stdout.fail(error.into(), TOOL, &verb, own, false);
        }
    };
    match args.verb {
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Prepare(args) => prepare::prepare(&args),
        Verb::Exec(args) => exec::exec(&args),
        Verb::Export(args) => export::export(&args),
        Verb::Run(args) => exec::run(&args),
        Verb::Reset(args) => reset::reset(&args),
        Verb::Apply(args) => apply::apply(&args),
        Verb::Fetch(args) => fetch::fetch(&args),
        Verb::Receive(args) => fetch::receive(&args),
        Verb::Status(input) => export::status(&input),
        Verb::Check(input) => export::check(&input),
        Verb::Gc(args) => inspect::gc(&args),
        Verb::Version => {
            plumbing::value_verb(TOOL, "version", || Ok(plumbing::value(&plumbing::version(TOOL))))
        }
    }
}
