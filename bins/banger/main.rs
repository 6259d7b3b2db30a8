//! `banger`: the program for people. It runs the other programs as processes and draws what they say. See man/banger.1.

mod args;
mod context;
mod doctor;
mod exec;
mod gc;
mod image;
mod lifecycle;
mod list;
mod plan;
mod run;
mod setup;
mod stage;
mod table;
mod timings;
mod vmm;

use std::process::ExitCode;

use banger_lib::cli::plumbing;

use args::{Banger, Command, VmCommand};
use context::Context;

fn main() -> ExitCode {
    let banger = match plumbing::parse::<Banger>("banger") {
        Ok(banger) => banger,
        Err(exit) => return own_failure_status(exit),
    };
    let verb = banger.command.verb();
    match Context::new(&banger).and_then(|context| dispatch(&context, banger.command)) {
        Ok(exit) => exit,
        Err(failure) => context::report(failure, verb, banger.json),
    }
}

/// `vm run` and `vm exec` keep every status but 125 for the guest's command, wrong arguments included.
fn own_failure_status(exit: ExitCode) -> ExitCode {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let of_guest =
        words.next().as_deref() == Some("vm") && matches!(words.next().as_deref(), Some("run" | "exec"));
    if of_guest && exit != ExitCode::SUCCESS { ExitCode::from(context::OWN_FAILURE) } else { exit }
}

fn dispatch(context: &Context, command: Command) -> context::Result<ExitCode> {
    match command {
        Command::Vm(vm) => match vm.command {
            VmCommand::Run(args) => run::run(context, args),
            VmCommand::Plan(args) => plan::plan_verb(context, &args),
            VmCommand::Create(args) => lifecycle::create(context, &args),
            VmCommand::Start(args) => lifecycle::start(context, &args),
            VmCommand::Stop(args) => lifecycle::stop(context, &args),
            VmCommand::Delete(args) => lifecycle::delete(context, &args),
            VmCommand::Show(args) => list::show(context, &args),
            VmCommand::List => list::list(context),
            VmCommand::Logs(args) => list::logs(context, &args),
            VmCommand::Exec(args) => exec::exec(context, &args),
            VmCommand::Ssh(args) => exec::ssh(context, &args),
        },
        Command::Ps => list::list(context),
        Command::Image(image) => image::dispatch(context, image.command),
        Command::Gc => gc::gc(context),
        Command::Doctor(args) => doctor::doctor(context, &args),
        Command::Completion(args) => Ok(args::completion(&args)),
    }
}
