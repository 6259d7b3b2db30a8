//! `banger`: the program for people. It runs the other programs as processes and draws what they say. See man/banger.1.

#![allow(clippy::disallowed_methods, reason = "here the caller's world is read")]

mod changes;
mod commands;
mod context;
mod copy;
mod guest_command;
mod host_resolver;
mod images;
mod inside;
mod lifecycle;
mod observed;
mod options;
mod pager;
mod paint;
mod plan;
mod progress;
mod resolver;
mod review;
mod settings;
mod setup;
mod space;
mod ssh;
mod stage;
mod subnet;
mod sweep;
#[allow(unsafe_code, reason = "interfaces of the kernel")]
mod sys;
mod table;
mod timings;
mod tree;
mod vmm;

use std::process::ExitCode;

use banger_cli::plumbing::{self, NothingToRun, UsageError};
use clap::CommandFactory;

use commands::{completion, config, dns, doctor, gc, image, kernel, vm};
use context::Context;
use tree::{Banger, Command, VmCommand};

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
        Command::Config(args) => config::dispatch(&banger.globals, args),
        Command::Completion(args) => Ok(completion::completion(args, Banger::command())),
        _ => Context::new(&banger.globals).and_then(|context| dispatch(&context, banger.command)),
    };
    match done {
        Ok(exit) => exit,
        Err(failure) => context::report(failure, verb, banger.globals.json),
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
        Command::Vm(verbs) => match verbs.command {
            VmCommand::Run(args) => vm::run::run(context, *args),
            VmCommand::Plan(args) => vm::plan::plan(context, &args),
            VmCommand::Create(args) => vm::create::create(context, &args),
            VmCommand::Start(args) => vm::start::start(context, &args),
            VmCommand::Stop(args) => vm::stop::stop(context, &args),
            VmCommand::Delete(args) => vm::delete::delete(context, &args),
            VmCommand::Show(args) => vm::show::show(context, &args),
            VmCommand::List => vm::list::list(context),
            VmCommand::Set(args) => vm::set::set(context, &args),
            VmCommand::Net(args) => vm::net::net(context, &args),
            VmCommand::Logs(args) => vm::logs::logs(context, &args),
            VmCommand::Stats(args) => vm::stats::stats(context, &args),
            VmCommand::Ports(args) => vm::ports::ports(context, &args),
            VmCommand::Health(args) => vm::health::health(context, &args),
            VmCommand::Prune(args) => vm::prune::prune(context, &args),
            VmCommand::Exec(args) => vm::exec::exec(context, &args),
            VmCommand::Ssh(args) => vm::ssh::ssh(context, &args),
            VmCommand::Diff(args) => vm::diff::diff(context, &args),
            VmCommand::Apply(args) => vm::apply::apply(context, &args),
            VmCommand::Reset(args) => vm::reset::reset(context, &args),
            VmCommand::Fetch(args) => vm::fetch::fetch(context, &args),
            VmCommand::Workspace(args) => vm::workspace::dispatch(context, &args),
        },
        Command::Ps => vm::list::list(context),
        Command::Image(image) => image::dispatch(context, image.command),
        Command::Dns(dns) => dns::dispatch(context, &dns.command),
        Command::Kernel(kernel) => kernel::dispatch(context, kernel.command),
        Command::Gc => gc::gc(context),
        Command::Doctor(args) => doctor::doctor(context, &args),
        Command::Config(_) | Command::Completion(_) => unreachable!("they are dispatched without a context"),
    }
}
