//! `banger vm run`: boot, copy, run, bring back.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_cli::Failure;
use banger_contract::record::Vm;
use banger_contract::reply::CheckoutReply;
use banger_contract::types::{VmId, VmName};
use banger_contract::{Document, ErrorCode};
use banger_host::clock::Timeline;
use banger_host::random;
use banger_state::db::{Life, Store, StoreError, VmRow};
use banger_state::lock::{SessionLock, VmLock};
use banger_ws::cli::command::CommandOptions;
use banger_ws::cli::report::RecordTo;
use banger_ws::cli::{ModeChoice, summary};
use banger_ws::guest::quote;
use banger_ws::transfer::check_guest_path;
use clap::Args;
use serde_json::Value;

use crate::context::{self, Context, Result};
use crate::guest_command::{self, Ran};
use crate::options::patches::{self, Patches};
use crate::options::spec::Spec;
use crate::plan::{self, Wanted};
use crate::stage::Stage;
use crate::{copy, images, lifecycle, observed, review, setup, sweep, timings, vmm};

/// How long a VM whose connection broke may take to be gone.
const GOING_DOWN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Run {
    /// The VM's name [default: a generated one]
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,
    /// Delete the VM when the command has ended and the patch is written
    #[arg(long)]
    pub rm: bool,
    #[command(flatten)]
    pub spec: Spec,
    #[command(flatten)]
    pub patches: Patches,
    /// Write the VM's record to FILE
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Copy untracked files as well; ignored ones never travel
    #[arg(long)]
    pub include_untracked: bool,
    /// How much of git travels with the files
    #[arg(long, value_enum, value_name = "MODE", default_value = "full")]
    pub mode: ModeChoice,
    /// Say what would travel, and do nothing: the files on stdout, a summary on stderr
    #[arg(long)]
    pub dry_run: bool,
    /// Where the checkout goes in the guest [default: /root/<its name>]
    #[arg(long, value_name = "PATH")]
    pub guest_path: Option<String>,
    /// Print what every step cost
    #[arg(long)]
    pub timings: bool,
    /// Install what this host lacks first, without asking
    #[arg(long)]
    pub setup: bool,
    #[command(flatten)]
    pub options: CommandOptions,
    /// If a stage fails, leave everything as it stands
    #[arg(long)]
    pub keep: bool,
    /// A directory in the checkout: all of the checkout is copied, and the command runs in that directory
    #[arg(value_name = "REPO", default_value = ".")]
    pub repo: PathBuf,
    /// The command and its arguments
    #[arg(last = true, required_unless_present_any = ["dry_run"], value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

pub fn run(context: &Context, args: Run) -> Result<ExitCode> {
    check_outputs(context, &args)?;
    check_inputs(&args)?;
    guest_command::check_command(&command_of(&args))?;
    if context.explain {
        return explain(context, &args);
    }
    if args.dry_run {
        let stage = Stage::new("banger-ws", "inspect").arg("--files").arg(&args.repo);
        return copy::dry_run(context, with_choice(stage, &args));
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
    sweep::sweep(context, &mut store)?;
    let (id, config) = (VmId::from_bytes(random::bytes()), args.spec.over(&context.config));
    let life = Life { creating: true, ephemeral: args.rm };
    let wanted = Wanted { id, name: args.name.as_ref(), spec: &args.spec, config, life };
    plan::check(context, &mut store, &wanted)?;
    timeline.step("image", || images::ensure(context, &wanted.config.image))?;

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

    match guest_command::run_in_guest(
        context,
        workspace_stage(&args)?,
        &command_of(&args),
        &document,
        Some(&session),
    ) {
        Ok(ran) => finish(context, &args, &mut store, row, ran),
        Err(failure) => Err(after_failure(context, &args, &mut store, &row, failure)),
    }
}

fn command_of(args: &Run) -> guest_command::Wanted<'_> {
    guest_command::Wanted { options: &args.options, words: &args.command }
}

/// Where output is to go, checked before anything is made.
fn check_outputs(context: &Context, args: &Run) -> Result<()> {
    let to_stdout = patches::patch_to_stdout(context, args.patches.patch.as_deref())?;
    if let Some(dir) = &args.patches.patch_dir {
        patches::check_patch_dir(dir)?;
    }
    for path in args.patches.patch.iter().filter(|_| !to_stdout).chain(&args.record) {
        patches::check_file(path)?;
    }
    Ok(())
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
    copy::checkout_reply(stage.run(context, b"", None)?)
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
    if let Some(exit) = observed::ended(row) {
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
