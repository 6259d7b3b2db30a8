//! `exec` and `run`: a command in the workspace.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::TOOL;
use super::args::{ExecArgs, Products, RunArgs};
use super::export::{Base, Destination, Target, take_patch};
use super::inspect;
use super::job::{places, report};
use super::prepare::Staged;
use crate::cli::command::CommandOptions;
use crate::cli::report::{Live, RecordTo};
use crate::command::{self, Command, Ending};
use crate::error::WorkspaceError;
use crate::guest::Guest;
use crate::sys::remote::Exit;
use crate::transfer;
use banger_cli::Failure;
use banger_cli::plumbing::{Input, UsageError};
use banger_contract::record::Outcome;
use banger_state::handles::Handles;

/// Where stdout and the record go, by the options of `exec` and `run`.
fn destinations(products: &Products) -> Result<(RecordTo, bool), UsageError> {
    let patch_to_stdout = products.patch.as_deref() == Some(Path::new("-"));
    match &products.record {
        Some(file) if file == Path::new("-") => {
            Err(UsageError("--record - would mix the record with the command's output".into()))
        }
        Some(file) => Ok((RecordTo::File(file.clone()), patch_to_stdout)),
        None if patch_to_stdout => Err(UsageError("--patch - needs --record FILE for the record".into())),
        None => Ok((RecordTo::Stdout, true)),
    }
}

/// The files that `products` are written to.
fn written(products: &Products, target: Option<&Target>) -> Result<Vec<PathBuf>, Failure> {
    let patches = target.map_or_else(|| Ok(Vec::new()), Target::places)?;
    Ok([patches, places(&[products.record.as_ref()])?].concat())
}

fn outcome_of(ending: &Ending) -> Outcome {
    let signal = match &ending.exit {
        Exit::Signal(name) => Some(name.clone()),
        Exit::Status(_) => None,
    };
    let timed_out = ending.timed_out.then_some(true);
    Outcome { changed: true, exit_code: Some(ending.shell_status()), signal, timed_out, ..Outcome::default() }
}

/// The command and its stdin, which a record that comes on ours leaves empty.
fn command_of(
    options: &CommandOptions,
    words: &[String],
    input: &Input,
) -> Result<(Command, Option<OwnedFd>), Failure> {
    let command = options.command(words)?;
    let stdin = options.stdin(input.is_stdin());
    Ok((command, stdin.map_err(WorkspaceError::io("read", "stdin"))?))
}

/// `exec`.
pub(super) fn exec(args: &ExecArgs) -> ExitCode {
    let products = &args.products;
    let (to, all_to_stderr) = match destinations(products) {
        Ok(destinations) => destinations,
        Err(error) => return RecordTo::Stdout.fail(error.into(), TOOL, "exec", true, false),
    };
    report("exec", &to, true, &args.input, |job| {
        let (command, stdin) = command_of(&args.options, &args.command, &args.input)?;
        let workspace = job.document.required_workspace()?;
        let target = Target::of(products)?;
        let base =
            target.as_ref().map(|_| Base::new(&products.comparison, &workspace, &job.dir())).transpose()?;
        transfer::check_guest_path(&workspace.guest_path)?;
        job.confine(&[], &written(products, target.as_ref())?)?;
        let connect = || Guest::connect_within(&job.endpoint, &job.interrupts, command.limit);
        let guest = job.timeline.step("connect", connect)?;
        let mut live = Live::new(&job.interrupts, all_to_stderr, || {});
        let path = &workspace.guest_path;
        let ran = command::run(&guest, path, workspace.mode, &command, stdin, &mut live, &mut job.timeline);
        job.started = guest.has_started();
        let mut outcome = outcome_of(&ran?);
        if let (Some(target), Some(base)) = (&target, base) {
            let _lock = job.lock("exec")?;
            let into = Destination { target, dir: job.dir(), interrupts: &job.interrupts };
            take_patch(&guest, path, base, &into, &mut job.timeline, &mut outcome)?;
        }
        Ok(outcome)
    })
}

/// `run`.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let (source, products) = (&args.source, &args.products);
    if source.dry_run {
        return inspect::list("run", &source.repo, &source.choice, true);
    }
    let (to, all_to_stderr) = match destinations(products) {
        Ok(destinations) => destinations,
        Err(error) => return RecordTo::Stdout.fail(error.into(), TOOL, "run", true, false),
    };
    report("run", &to, true, &args.input, |job| {
        let (mut command, stdin) = command_of(&args.options, &args.command, &args.input)?;
        let lock = job.lock("run")?;
        if let Some(base) = &products.comparison.base_commit {
            transfer::check_commit(base)?;
        }
        let staged = Staged::new(job, source)?;
        staged.notice();
        command.workdir = command.workdir.or_else(|| staged.directory(&source.repo));
        let target = Target::of(products)?;
        let base = target.as_ref().map(|_| staged.base(&products.comparison, &job.dir())).transpose()?;
        job.confine(&[staged.root()], &written(products, target.as_ref())?)?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let (workspace, dir) = (staged.workspace(), job.dir());
        let mut noted = Ok(());
        // The lock lasts while bytes move, never while the command runs. By then exec and export find the workspace, also
        // when the connection breaks under the command.
        let on_ready = || {
            noted = Handles { workspace: Some(workspace.clone()), ..Handles::load(&dir) }.save(&dir);
            drop(lock);
        };
        let mut live = Live::new(&job.interrupts, all_to_stderr, on_ready);
        let path = &staged.guest_path;
        // One remote command for both, unless the command has a stdin: what comes there is the checkout then.
        let along = Some(&command).filter(|_| stdin.is_none() && staged.can_take_along());
        let sent = staged.send(&guest, along, &mut live, &mut job.timeline);
        let ran = match sent {
            Ok(_) if along.is_none() => {
                command::run(&guest, path, workspace.mode, &command, stdin, &mut live, &mut job.timeline)
            }
            sent => sent.map(|sent| sent.ending),
        };
        job.started = guest.has_started();
        drop(live);
        let mut outcome = outcome_of(&ran?);
        noted?;
        job.document.set_workspace(Some(&workspace));
        if let (Some(target), Some(base)) = (&target, base) {
            let _lock = job.lock("run")?;
            let into = Destination { target, dir, interrupts: &job.interrupts };
            take_patch(&guest, path, base, &into, &mut job.timeline, &mut outcome)?;
        }
        Ok(outcome)
    })
}
