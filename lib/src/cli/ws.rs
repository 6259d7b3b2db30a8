//! `banger-ws`: its verbs.

mod args;
mod inspect;
mod work;

use std::process::ExitCode;

pub use args::Args;
use args::Verb;

use super::plumbing::{self, NothingToRun};
use super::report::RecordTo;

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
        Verb::Prepare(args) => work::prepare(&args),
        Verb::Exec(args) => work::exec(&args),
        Verb::Export(args) => work::export(&args),
        Verb::Run(args) => work::run(&args),
        Verb::Status(input) => work::status(&input),
        Verb::Check(input) => work::check(&input),
        Verb::Gc(args) => inspect::gc(&args),
        Verb::Version => {
            plumbing::value_verb(TOOL, "version", || Ok(plumbing::value(&plumbing::version(TOOL))))
        }
    }
}
