//! `banger`: the program for people. It runs the other programs as processes and draws what they say. See man/banger.1.

#![allow(clippy::disallowed_methods, reason = "here the caller's world is read")]

mod apply;
mod args;
mod config;
mod context;
mod diff;
mod dns;
mod doctor;
mod exec;
mod fetch;
mod gc;
mod image;
mod inside;
mod kernel;
mod lifecycle;
mod list;
mod logs;
mod net;
mod paint;
mod plan;
mod progress;
mod prune;
mod reset;
mod review;
mod run;
mod set;
mod setup;
mod space;
mod ssh;
mod stage;
mod subnet;
#[allow(unsafe_code, reason = "interfaces of the kernel")]
mod sys;
mod table;
mod timings;
mod vmm;
mod workspace;

use std::process::ExitCode;

use banger_cli::plumbing::{self, NothingToRun, UsageError};

use args::{Banger, Command, VmCommand};
use context::Context;

/// Runs the program.
pub fn main() -> ExitCode {
    let banger = match plumbing::try_parse::<Banger>() {
        Ok(banger) => banger,
        Err(NothingToRun::Printed(exit)) => return exit,
        Err(NothingToRun::Wrong(error)) => {
            let (verb, json) = asked_for();
            return context::report(behind_dashes(error, verb).into(), verb, json);
        }
    };
    let verb = banger.command.verb();
    let done = match &banger.command {
        // These two work whatever the configuration says.
        Command::Config(args) => config::dispatch(&banger, args),
        Command::Completion(args) => Ok(args::completion(args)),
        _ => Context::new(&banger).and_then(|context| dispatch(&context, banger.command)),
    };
    match done {
        Ok(exit) => exit,
        Err(failure) => context::report(failure, verb, banger.json),
    }
}

/// The commonest mistake of all, explained: the guest's command without the two dashes before it.
fn behind_dashes(error: UsageError, verb: &str) -> UsageError {
    let UsageError(text) = &error;
    let stray_word = text.starts_with("unexpected argument '") && !text.starts_with("unexpected argument '-");
    let about_command = stray_word || text.contains("<COMMAND>");
    match verb {
        "vm run" if about_command => {
            UsageError(format!("{text}; the command goes behind --, as in: banger vm run . -- make"))
        }
        "vm exec" if about_command => {
            UsageError(format!("{text}; the command goes behind --, as in: banger vm exec VM -- make"))
        }
        _ => error,
    }
}

/// What arguments that are wrong were about: enough to choose the exit status and whether a record is wanted.
fn asked_for() -> (&'static str, bool) {
    let words: Vec<String> = std::env::args().skip(1).take_while(|word| word != "--").collect();
    let mut verbs = words.iter().filter(|word| !word.starts_with('-')).map(String::as_str);
    let verb = match (verbs.next(), verbs.next()) {
        (Some("vm"), Some("run")) => "vm run",
        (Some("vm"), Some("exec")) => "vm exec",
        (Some("vm"), Some("plan")) => "vm plan",
        _ => "",
    };
    (verb, words.iter().any(|word| word == "--json"))
}

fn dispatch(context: &Context, command: Command) -> context::Result<ExitCode> {
    match command {
        Command::Vm(vm) => match vm.command {
            VmCommand::Run(args) => run::run(context, *args),
            VmCommand::Plan(args) => plan::plan_verb(context, &args),
            VmCommand::Create(args) => lifecycle::create(context, &args),
            VmCommand::Start(args) => lifecycle::start(context, &args),
            VmCommand::Stop(args) => lifecycle::stop(context, &args),
            VmCommand::Delete(args) => lifecycle::delete(context, &args),
            VmCommand::Show(args) => list::show(context, &args),
            VmCommand::List => list::list(context),
            VmCommand::Set(args) => set::set(context, &args),
            VmCommand::Net(args) => net::net(context, &args),
            VmCommand::Logs(args) => logs::logs(context, &args),
            VmCommand::Stats(args) => inside::stats(context, &args),
            VmCommand::Ports(args) => inside::ports(context, &args),
            VmCommand::Health(args) => inside::health(context, &args),
            VmCommand::Prune(args) => prune::prune(context, &args),
            VmCommand::Exec(args) => exec::exec(context, &args),
            VmCommand::Ssh(args) => ssh::ssh(context, &args),
            VmCommand::Diff(args) => diff::diff(context, &args),
            VmCommand::Apply(args) => apply::apply(context, &args),
            VmCommand::Reset(args) => reset::reset(context, &args),
            VmCommand::Fetch(args) => fetch::fetch(context, &args),
            VmCommand::Workspace(args) => workspace::dispatch(context, &args),
        },
        Command::Ps => list::list(context),
        Command::Image(image) => image::dispatch(context, image.command),
        Command::Dns(dns) => dns::verbs::dispatch(context, &dns.command),
        Command::Kernel(kernel) => kernel::dispatch(context, kernel.command),
        Command::Gc => gc::gc(context),
        Command::Doctor(args) => doctor::doctor(context, &args),
        Command::Config(_) | Command::Completion(_) => unreachable!("they are dispatched without a context"),
    }
}
