//! Commands in a VM, through banger-ws.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use banger_cli::Failure;
use banger_contract::record::Workspace;
use banger_contract::{Document, ErrorRecord};
use banger_host::fs::fd;
use banger_host::git::{self, Git};
use banger_host::process::exec::shell_status;
use banger_state::db::VmRow;
use banger_state::lock::SessionLock;
use banger_ws::cli::command::{CommandOptions, ENV_VARIABLE};
use serde_json::Value;

use crate::args;
use crate::context::{self, Context, ContextError, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::stage::{self, Stage, StageError};
use crate::{list, review, run, space, ssh, workspace};

/// The variable with the descriptor of the session lock: banger-ws holds it as long as it runs, also when `banger` is killed.
const SESSION_FD_VARIABLE: &str = "BANGER_SESSION_FD";
/// How long git may take to say where HEAD stands.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// What came back from a command in a guest.
#[derive(Debug)]
pub struct Ran {
    /// The guest command's own status, as the shell reports it; 125 where its patch lacks something.
    pub status: u8,
    /// The record with what banger-ws learned.
    pub document: Document,
}

/// A command that goes to a guest.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub options: &'a CommandOptions,
    pub words: &'a [OsString],
}

impl Wanted<'_> {
    /// The options for banger-ws, but for the environment, which arguments would show to all users of this host.
    fn options(&self, stage: Stage) -> Stage {
        let mut stage = stage;
        if let Some(dir) = &self.options.workdir {
            stage = stage.arg("--workdir").arg(dir);
        }
        if let Some(limit) = self.options.timeout {
            stage = stage.arg("--timeout").arg(format!("{}s", limit.as_secs_f64()));
        }
        if self.options.no_mise {
            stage = stage.arg("--no-mise");
        }
        if self.options.no_stdin {
            stage = stage.arg("--no-stdin");
        }
        stage
    }

    /// The stage as a person would type it.
    pub fn shown(&self, stage: Stage) -> String {
        let names = self.options.env.iter().map(|given| {
            let given = given.to_string_lossy();
            given.split('=').next().unwrap_or_default().to_owned()
        });
        let stage = names.fold(self.options(stage), |stage, name| stage.arg("--env").arg(name));
        let words = self.words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        format!("{} -- {words}", stage.shown())
    }
}

/// Runs a verb of banger-ws that runs a guest command: our streams are the command's (with `--json` its output is all on stderr), the
/// records come and go through files.
pub fn run_in_guest(
    context: &Context,
    stage: Stage,
    wanted: &Wanted<'_>,
    document: &Document,
    session: Option<&SessionLock>,
) -> Result<Ran> {
    let vm = document.vm()?;
    let talk = |source| StageError::Talk { program: stage.program.to_owned(), source };
    let text = document.to_value().to_string();
    let files = |dir: &Path| {
        let file = || tempfile::Builder::new().prefix(".run-").tempfile_in(dir);
        let (mut input, record) = (file()?, file()?);
        input.write_all(text.as_bytes()).map(|()| (input, record))
    };
    // Where the VM's own filesystem is full, it is all the more important to get in.
    let (input, record) =
        files(Path::new(&vm.paths.dir)).or_else(|_| files(&std::env::temp_dir())).map_err(talk)?;
    let program = stage.program;
    let stage = wanted.options(stage).arg("--input").arg(input.path());
    let stage = wanted.words.iter().fold(stage.arg("--record").arg(record.path()).arg("--"), Stage::arg);
    // Who reads a terminal must be in its foreground group, which is ours, or be stopped (termios(3), SIGTTIN).
    let reads_terminal = !wanted.options.no_stdin && io::stdin().is_terminal();
    let mut process = stage.in_our_group(reads_terminal).command()?;
    if let Some(session) = session {
        fd::hand_down(&mut process, session, SESSION_FD_VARIABLE);
    }
    let variables = serde_json::to_string(&wanted.options.variables()?).expect("a map of strings");
    process.env(ENV_VARIABLE, variables);
    process.stdin(if wanted.options.no_stdin { Stdio::null() } else { Stdio::inherit() });
    if context.json {
        process.stdout(io::stderr());
    }
    let interrupts = context.interrupts()?;
    let mut child = process.spawn().map_err(talk)?;
    let (status, signal) = stage::wait(interrupts, &mut child, !reads_terminal).map_err(talk)?;
    if let Some(signal) = signal {
        let command_ran = may_have_run(record.path());
        return Err(ContextError::CommandInterrupted { vm: vm.name.to_string(), signal, command_ran }.into());
    }
    if !status.success() {
        space::explain(context, &vm);
    }
    let bytes = match fs::read(record.path()) {
        // It goes with the VM.
        Err(_) if !lifecycle::runs(&vm) => return Err(LifecycleError::Gone(vm.name.to_string()).into()),
        read => read.map_err(talk)?,
    };
    if let Ok(record) = serde_json::from_slice::<ErrorRecord>(&bytes) {
        return Err(Failure::Passed(Box::new(record.error)));
    }
    let status = shell_status(status);
    let no_record = StageError::NoRecord { program: program.to_owned(), verb: "run".into(), status };
    let document = Document::parse(&bytes).map_err(|_| no_record)?;
    let outcome = document.outcome()?.unwrap_or_default();
    let exit_code = outcome.exit_code.filter(|_| !outcome.is_lossy());
    Ok(Ran { status: exit_code.unwrap_or(context::OWN_FAILURE), document })
}

/// Whether the guest's command has begun, by what banger-ws wrote to `record` when it was interrupted: where it wrote nothing, it may have.
fn may_have_run(record: &Path) -> bool {
    let record = fs::read(record).ok().and_then(|bytes| serde_json::from_slice::<ErrorRecord>(&bytes).ok());
    record.is_none_or(|record| record.error.details.get("command_ran") != Some(&Value::Bool(false)))
}

/// `banger vm exec`.
pub fn exec(context: &Context, args: &args::Exec) -> Result<ExitCode> {
    let wanted = Wanted { options: &args.options, words: &args.command };
    run::check_command(&wanted)?;
    run::patch_to_stdout(context, args.patches.patch.as_deref())?;
    let (mut store, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return explain(args, &wanted, &row);
    }
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let mut document = list::current(&row)?;
    let no_workspace = || LifecycleError::NoWorkspace(row.vm.name.to_string());
    let mut workspace = document.workspace()?.ok_or_else(no_workspace)?;
    if args.auto_prepare {
        document = prepare_again(context, &document, &workspace)?;
        workspace = document.workspace()?.ok_or_else(no_workspace)?;
        store.set_workspace(&row.vm.id, &workspace)?;
    } else if let Some(head) = moved_head(&workspace) {
        context.say(format!(
            "HEAD of {} is at {head} now, not where it was when the checkout was copied into {}; --auto-prepare copies it again",
            workspace.host_path, row.vm.name
        ));
    }
    if args.tty {
        return ssh::exec(context, &row, &document, &wanted, &workspace);
    }
    let ran = run_in_guest(context, stage_of(args), &wanted, &document, None)?;
    if context.json {
        context::emit(&ran.document.to_value());
    }
    if let Some(patch) = args.patches.place() {
        review::tell(context, patch, &ran.document)?;
    }
    Ok(ExitCode::from(ran.status))
}

fn stage_of(args: &args::Exec) -> Stage {
    args.patches.wanted_of(Stage::new("banger-ws", "exec"))
}

fn explain(args: &args::Exec, wanted: &Wanted<'_>, row: &VmRow) -> Result<ExitCode> {
    let name = &row.vm.name;
    let before = lifecycle::document(row).workspace()?.filter(|_| args.auto_prepare);
    let prepare = before.map_or_else(String::new, |w| format!(" | {}", workspace::again(&w).shown()));
    if args.tty {
        return Err(ContextError::NoPipeline("--tty").into());
    }
    Ok(context::print(&format!(
        "banger vm show {name} --record{prepare} | {}\n",
        wanted.shown(stage_of(args))
    )))
}

/// The checkout as it stands now goes where it went before.
fn prepare_again(context: &Context, document: &Document, workspace: &Workspace) -> Result<Document> {
    let stage = workspace::again(workspace);
    let record = workspace::send(context, &stage, document)?;
    Ok(Document::parse(record.to_string().as_bytes())?)
}

/// Where HEAD of the checkout stands, if that is not where it stood when it was copied. `None` as well where git cannot say.
fn moved_head(workspace: &Workspace) -> Option<String> {
    let path = Path::new(&workspace.host_path);
    let exec = Git::at(path).exec(["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]);
    let head = git::line(&exec.deadline(HEAD_DEADLINE).run().ok()?);
    (workspace.head_commit.as_ref() != Some(&head)).then(|| head.chars().take(12).collect())
}
