//! `banger vm run`: boot, copy, run, bring back.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_cli::Failure;
use banger_contract::error::escape_controls;
use banger_contract::record::Vm;
use banger_contract::reply::CheckoutReply;
use banger_contract::types::VmId;
use banger_contract::{Coded, Document, ErrorCode};
use banger_host::clock::Timeline;
use banger_host::fs::atomic;
use banger_host::random;
use banger_state::db::{Life, Store, StoreError, VmRow};
use banger_state::lock::{SessionLock, VmLock};
use banger_ws::cli::report::RecordTo;
use banger_ws::cli::{ModeChoice, summary};
use banger_ws::guest::quote;
use banger_ws::transfer::check_guest_path;
use serde_json::Value;
use thiserror::Error;

use crate::args::Run;
use crate::context::{self, Context, Result};
use crate::exec::{self, Ran};
use crate::plan::{self, Wanted};
use crate::stage::Stage;
use crate::{gc, image, lifecycle, list, review, setup, timings, vmm};

/// How long a VM whose connection broke may take to be gone.
const GOING_DOWN: Duration = Duration::from_secs(2);
/// How long a guest's command may be, quoted: what libssh2 puts in one packet, less what runs it.
const MAX_COMMAND: usize = 24 << 10;

/// Arguments of `vm run` that cannot work together or at all; found before anything is made.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("{0:?} cannot be written: its directory does not exist")]
    NoDirectory(PathBuf),
    #[error("{0:?} is a directory; a file is needed")]
    IsDirectory(PathBuf),
    #[error("{0:?} is no new or empty directory, which patches need")]
    PatchDirectory(PathBuf),
    #[error("the command is {0} bytes long; {MAX_COMMAND} is the most that can be sent")]
    LongCommand(usize),
    #[error("--json and --patch - both want stdout")]
    Stdout,
    #[error("banger-ws answered something else than what travels")]
    Reply(#[source] serde_json::Error),
    #[error("the command's word {0:?} is not UTF-8, and can be sent to no guest")]
    OddWord(OsString),
}

impl Coded for RunError {
    fn code(&self) -> ErrorCode {
        if matches!(self, Self::Reply(_)) { ErrorCode::Bug } else { ErrorCode::Usage }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Stdout => Some("give --patch FILE".into()),
            Self::LongCommand(_) => Some("put it in a file that is tracked, and run that".into()),
            _ => None,
        }
    }
}

pub fn run(context: &Context, args: Run) -> Result<ExitCode> {
    check_outputs(context, &args)?;
    check_inputs(&args)?;
    check_command(&command_of(&args))?;
    if context.explain {
        return explain(context, &args);
    }
    if args.dry_run {
        let stage = Stage::new("banger-ws", "inspect").arg("--files").arg(&args.repo);
        return dry_run(context, with_choice(stage, &args));
    }
    // Caught from here on: whatever is made below is undone when Ctrl-C comes.
    context.interrupts()?;
    if args.setup {
        setup::install(context, &[])?;
    }
    // A checkout that cannot travel is found before a VM is made for it.
    let travels = inspect(context, &args)?;
    for line in summary::notices(&travels) {
        context.say(line);
    }
    let mut timeline = Timeline::new("banger", "vm run");
    let mut store = Store::open(&context.state)?;
    gc::sweep(context, &mut store)?;
    let (id, config) = (VmId::from_bytes(random::bytes()), args.spec.over(&context.config));
    let life = Life { creating: true, ephemeral: args.rm };
    let wanted = Wanted { id, name: args.name.as_ref(), spec: &args.spec, config, life };
    plan::check(context, &mut store, &wanted)?;
    timeline.step("image", || image::ensure(context, &wanted.config.image))?;

    let session = SessionLock::acquire(&context.state, &wanted.id, "banger vm run")?;
    let lock = VmLock::acquire(&context.state, &wanted.id, "banger vm run")?;
    let planned = timeline.step("plan", || plan::plan(context, &mut store, &wanted));
    let vm = planned.inspect_err(|_| drop(lock.remove_files(&context.state, &wanted.id)))?;
    let row = VmRow { vm, workspace: None, life };

    let mut document = Document::new(&row.vm);
    document.push_timings(timeline.into_timings());
    let document = match lifecycle::run_start(context, document, &lock, args.keep) {
        Ok(document) => document,
        Err(failure) => return Err(abandon(context, &mut store, &row, &lock, failure, args.keep)),
    };
    store.set_life(&row.vm.id, Life { creating: false, ephemeral: args.rm })?;
    // Never a lifecycle lock while bytes move or the command runs: stop and delete must be able to take it.
    drop(lock);

    match exec::run_in_guest(context, workspace_stage(&args)?, &command_of(&args), &document, Some(&session))
    {
        Ok(ran) => finish(context, &args, &mut store, row, ran),
        Err(failure) => Err(after_failure(context, &args, &mut store, &row, failure)),
    }
}

fn command_of(args: &Run) -> exec::Wanted<'_> {
    exec::Wanted { options: &args.options, words: &args.command }
}

/// Refuses a command that cannot be sent, or is too long for its way to the guest with all that belongs to it.
pub fn check_command(wanted: &exec::Wanted<'_>) -> Result<()> {
    let words = utf8(wanted.words)?;
    let variables = wanted.options.variables()?;
    let workdir = wanted.options.checked_workdir()?;
    let values = words.iter().chain(variables.values()).chain(&workdir);
    let length =
        quote(values.map(String::as_str)).len() + variables.keys().map(|key| key.len() + 9).sum::<usize>();
    if length > MAX_COMMAND { Err(RunError::LongCommand(length).into()) } else { Ok(()) }
}

/// The words of a command, which a guest takes as UTF-8.
pub fn utf8(words: &[OsString]) -> Result<Vec<String>> {
    let text =
        |word: &OsString| word.to_str().map(str::to_owned).ok_or_else(|| RunError::OddWord(word.clone()));
    Ok(words.iter().map(text).collect::<std::result::Result<_, _>>()?)
}

/// Where output is to go, checked before anything is made.
fn check_outputs(context: &Context, args: &Run) -> Result<()> {
    let to_stdout = patch_to_stdout(context, args.patches.patch.as_deref())?;
    if let Some(dir) = &args.patches.patch_dir {
        check_patch_dir(dir)?;
    }
    for path in args.patches.patch.iter().filter(|_| !to_stdout).chain(&args.record) {
        if path.is_dir() {
            return Err(RunError::IsDirectory(path.clone()).into());
        }
        check_parent(path)?;
        atomic::check_writable(&atomic::place_of(path))?;
    }
    Ok(())
}

fn check_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.is_dir() { Ok(()) } else { Err(RunError::NoDirectory(path.to_owned()).into()) }
}

/// Whether `dir` can be made, or is there and empty.
fn check_patch_dir(dir: &Path) -> Result<()> {
    match fs::read_dir(dir).map(Iterator::count) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_parent(dir),
        _ => Err(RunError::PatchDirectory(dir.to_owned()).into()),
    }
}

/// Whether the patch is to go to stdout, which then is for nothing else.
pub fn patch_to_stdout(context: &Context, patch: Option<&Path>) -> Result<bool> {
    let to_stdout = patch == Some(Path::new("-"));
    if to_stdout && context.json { Err(RunError::Stdout.into()) } else { Ok(to_stdout) }
}

/// What the guest is to be told, checked before there is one.
fn check_inputs(args: &Run) -> Result<()> {
    Ok(args.guest_path.as_deref().map_or(Ok(()), check_guest_path)?)
}

/// `stage` with what says what travels.
fn with_choice(mut stage: Stage, args: &Run) -> Stage {
    if args.include_untracked {
        stage = stage.arg("--include-untracked");
    }
    if args.mode != ModeChoice::Full {
        stage = stage.arg("--mode").arg(args.mode.as_str());
    }
    stage
}

/// The stage that copies in, runs and copies out, but for the command.
fn workspace_stage(args: &Run) -> Result<Stage> {
    let mut stage = with_choice(Stage::new("banger-ws", "run").arg("--repo").arg(&args.repo), args);
    if let Some(path) = &args.guest_path {
        stage = stage.arg("--guest-path").arg(path);
    }
    Ok(args.patches.wanted_of(stage))
}

fn inspect(context: &Context, args: &Run) -> Result<CheckoutReply> {
    let stage = with_choice(Stage::new("banger-ws", "inspect").arg(&args.repo), args);
    checkout_reply(stage.run(context, b"", None)?)
}

fn checkout_reply(value: Value) -> Result<CheckoutReply> {
    Ok(serde_json::from_value(value).map_err(RunError::Reply)?)
}

/// Lists what would travel, as `stage` finds it.
pub fn dry_run(context: &Context, stage: Stage) -> Result<ExitCode> {
    let travels = stage.run(context, b"", None)?;
    if context.json {
        return Ok(context::emit(&travels));
    }
    let reply = checkout_reply(travels)?;
    let lines = reply.files.iter().flatten().map(|file| escape_controls(file) + "\n");
    let printed = context::print(&lines.collect::<String>());
    // After the list, so that it stands above the next prompt; on stderr, so that a pipe gets the list alone.
    drop(write!(io::stderr(), "{}", summary::text(&reply)));
    Ok(printed)
}

fn explain(context: &Context, args: &Run) -> Result<ExitCode> {
    let config = args.spec.over(&context.config);
    let name = args.name.as_ref().map_or("NAME", |name| name.as_str());
    let program = vmm::default_program(&config);
    let mut text = format!(
        "banger vm plan {name} --image {} | banger-netd attach | banger-disk attach | {program} start | {}\n",
        config.image,
        command_of(args).shown(workspace_stage(args)?),
    );
    if args.rm {
        text.push_str(&format!(
            "banger vm show {name} --record | {program} kill | banger-disk detach | banger-netd detach; banger vm delete {name}\n"
        ));
    }
    Ok(context::print(&text))
}

/// The command ran: record, timings, and the VM's end or how to get back to it.
fn finish(context: &Context, args: &Run, store: &mut Store, row: VmRow, ran: Ran) -> Result<ExitCode> {
    if let Some(workspace) = ran.document.workspace()? {
        store.set_workspace(&row.vm.id, &workspace)?;
    }
    let is_lossy = ran.document.outcome()?.is_some_and(|outcome| outcome.is_lossy());
    let stays = !args.rm || is_lossy;
    if stays {
        store.set_life(&row.vm.id, Life { creating: false, ephemeral: false })?;
    } else {
        let lock = VmLock::acquire(&context.state, &row.vm.id, "banger vm run --rm")?;
        lifecycle::run_delete(context, store, &row, &lock)?;
    }
    if args.timings {
        timings::print(&ran.document)?;
    }
    if let Some(path) = &args.record {
        RecordTo::File(path.clone()).deliver(&ran.document.to_value())?;
    }
    if context.json {
        context::emit(&ran.document.to_value());
    }
    if let Some(patch) = args.patches.place() {
        review::tell(context, patch, &ran.document)?;
    }
    if is_lossy {
        say_where_the_rest_is(context, &row);
    } else if stays {
        say_where(context, &row.vm);
    }
    Ok(ExitCode::from(ran.status))
}

fn say_where(context: &Context, vm: &Vm) {
    let name = &vm.name;
    context.say(format!(
        "{name} still runs; go in: banger vm ssh {name}; delete it: banger vm delete --force {name}"
    ));
}

/// A start that failed has undone its stages; what the plan made goes as well.
fn abandon(
    context: &Context,
    store: &mut Store,
    row: &VmRow,
    lock: &VmLock,
    failure: Failure,
    keep: bool,
) -> Failure {
    if keep {
        return match store.set_life(&row.vm.id, Life { creating: false, ephemeral: false }) {
            Ok(()) => failure,
            Err(error) => error.into(),
        };
    }
    remove(context, store, row, lock);
    failure
}

fn remove(context: &Context, store: &mut Store, row: &VmRow, lock: &VmLock) {
    if let Err(error) = lifecycle::run_delete(context, store, row, lock) {
        let fault = error.into_fault("banger", "vm run");
        context.say(format!(
            "removing {} failed as well: {}; run: banger gc",
            row.vm.name,
            fault.human_line()
        ));
    }
}

/// banger-ws failed. Where the command has run its work is in the VM, which therefore stays; otherwise everything is undone.
fn after_failure(context: &Context, args: &Run, store: &mut Store, row: &VmRow, failure: Failure) -> Failure {
    let work_inside = failure.details().get("command_ran") == Some(&Value::Bool(true));
    if was_deleted(context, store, row) {
        context.say(format!("{} was deleted while it ran", row.vm.name));
        return failure;
    }
    if let Some(exit) = list::ended(row) {
        context.say(format!("{} ended: {}", row.vm.name, exit.message));
    }
    // With --rm and no --patch the caller wants nothing out of the VM, whatever became of the command; nor who ends it himself.
    let is_interrupted = failure.code() == ErrorCode::Interrupted;
    let wanted = !args.rm || (args.patches.place().is_some() && !is_interrupted);
    if args.keep || (work_inside && wanted) {
        if let Err(error) = store.set_life(&row.vm.id, Life { creating: false, ephemeral: false }) {
            return error.into();
        }
        say_how_to_get_it_out(context, row);
        return failure;
    }
    match VmLock::acquire(&context.state, &row.vm.id, "banger vm run") {
        Ok(lock) => remove(context, store, row, &lock),
        Err(error) => context.say(format!("{} is left: {error}", row.vm.name)),
    }
    failure
}

/// Whether another command deleted the VM, or is about to: it is waited for.
fn was_deleted(context: &Context, store: &mut Store, row: &VmRow) -> bool {
    let gone = |store: &Store| matches!(store.vm(row.vm.id.as_str()), Err(StoreError::NotFound(_)));
    let until = Instant::now() + GOING_DOWN;
    while !gone(store) && Instant::now() < until {
        // A guest that goes down closes its connections before it is gone, and whoever ended it holds the lock until all is done.
        if !lifecycle::runs(&row.vm)
            && let Ok(lock) = VmLock::acquire(&context.state, &row.vm.id, "banger vm run")
        {
            if gone(store) {
                // Taking the lock has made its file again.
                drop(lock.remove_files(&context.state, &row.vm.id));
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    gone(store)
}

/// Says how to get at what is not in the patch, in a VM that stays for it.
fn say_where_the_rest_is(context: &Context, row: &VmRow) {
    let name = &row.vm.name;
    let copy = lifecycle::document(row).workspace().ok().flatten().map(|workspace| workspace.guest_path);
    let copy = quote([copy.as_deref().unwrap_or("/root")]);
    context.say(format!(
        "the patch lacks what is named above, so {name} stays, with all of it; take the files: banger vm ssh {name} -- tar -cC {copy} . > FILE.tar; then delete it: banger vm delete --force {name}"
    ));
}

/// Says how to get at the work in a VM that stays.
fn say_how_to_get_it_out(context: &Context, row: &VmRow) {
    let name = &row.vm.name;
    if !lifecycle::runs(&row.vm) {
        context.say(format!(
            "{name} does not run any more; what had reached its disks: banger vm start {name}, then banger vm ssh {name}; delete it: banger vm delete --force {name}"
        ));
        return;
    }
    let copy = lifecycle::document(row).workspace().ok().flatten().map(|workspace| workspace.guest_path);
    let copy = quote([copy.as_deref().unwrap_or("/root")]);
    context.say(format!(
        "{name} stays, with the work in it; get the patch: banger vm exec {name} --patch FILE -- true; or the files: banger vm ssh {name} -- tar -cC {copy} . > FILE.tar; then delete it: banger vm delete --force {name}"
    ));
}
