//! `banger vm diff`: what changed in the workspace; to a terminal in colour and paged, elsewhere the patch as it is.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};

use banger_contract::Document;
use banger_contract::record::Outcome;
use banger_host::git::{self, Git};
use banger_host::process::exec::{Exec, find_program};
use banger_state::db::VmRow;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::list;
use crate::paint::Painter;
use crate::stage::{Stage, StageError};

/// What git itself gives a pager that is told nothing else (core.pager in git-config(1)).
const PAGER: &str = "less";
const PAGER_ENVIRONMENT: [(&str, &str); 2] = [("LESS", "FRX"), ("LV", "-c")];

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Show how much changed in each file
    #[arg(long)]
    pub stat: bool,
    /// Show the names of the changed files
    #[arg(long, conflicts_with = "stat")]
    pub name_only: bool,
    /// Show what changed in the submodule at PATH
    #[arg(long, value_name = "PATH")]
    pub submodule: Option<String>,
    /// Show what changed since this commit of the guest's instead of since the last copy
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
    /// Show what changed since the first copy, also what is in the checkout by now
    #[arg(long, conflicts_with = "base_commit")]
    pub all: bool,
    /// Do not page
    #[arg(long)]
    pub no_pager: bool,
    /// Only these files and directories, named from the root of the checkout
    #[arg(last = true, value_name = "PATH")]
    pub paths: Vec<String>,
}

/// Why a patch cannot be taken from a VM, found before anything is tried.
pub fn workspace_of(row: &VmRow) -> Result<Document> {
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let document = list::current(row)?;
    if document.workspace()?.is_none() {
        return Err(LifecycleError::NoWorkspace(row.vm.name.to_string()).into());
    }
    Ok(document)
}

/// Has banger-ws export to a file of ours, with `options` and of `paths` alone; gives the file and the record.
pub fn take(
    context: &Context,
    document: &Document,
    options: &[&str],
    paths: &[String],
) -> Result<(NamedTempFile, Document)> {
    let dir = document.vm()?.paths.dir;
    let temp = tempfile::Builder::new().prefix(".patch-").tempfile_in(dir).map_err(talk)?;
    let stage = stage(options, &temp.path().to_string_lossy(), paths);
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    Ok((temp, without_file(&value)?))
}

/// The record `value`, without the name of a file of ours that is gone before anybody reads it.
pub fn without_file(value: &Value) -> Result<Document> {
    let mut document = Document::parse(value.to_string().as_bytes())?;
    let outcome = document.outcome()?.unwrap_or_default();
    document.set_outcome(&Outcome { patch_file: None, ..outcome });
    Ok(document)
}

/// The options for a submodule's own patch.
pub fn of_submodule(path: Option<&str>) -> impl Iterator<Item = &str> {
    path.into_iter().flat_map(|path| ["--submodule", path])
}

pub fn talk(source: io::Error) -> StageError {
    StageError::Talk { program: "banger-ws".to_owned(), source }
}

fn stage(options: &[&str], output: &str, paths: &[String]) -> Stage {
    let stage =
        options.iter().fold(Stage::new("banger-ws", "export").arg("--output").arg(output), Stage::arg);
    if paths.is_empty() { stage } else { paths.iter().fold(stage.arg("--"), Stage::arg) }
}

impl Diff {
    fn options(&self) -> Vec<&str> {
        let options = [(self.stat, "--stat"), (self.name_only, "--name-only"), (self.all, "--all")];
        let options = options.into_iter().filter_map(|(wanted, option)| wanted.then_some(option));
        let base = self.base_commit.iter().flat_map(|commit| ["--base-commit", commit]);
        options.chain(base).chain(of_submodule(self.submodule.as_deref())).collect()
    }
}

/// `banger vm diff`.
pub fn diff(context: &Context, args: &Diff) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        let shown = stage(&args.options(), "-", &args.paths).shown();
        return Ok(context::print(&format!("banger vm show {} --record | {shown}\n", row.vm.name)));
    }
    let document = workspace_of(&row)?;
    let (patch, record) = take(context, &document, &args.options(), &args.paths)?;
    let status = status_of(&record)?;
    if context.json {
        context::emit(&record.to_value());
        return Ok(status);
    }
    let mut file = File::open(patch.path()).map_err(talk)?;
    let written = pass_on(context, &document, &mut file, args.no_pager);
    // The reader went away, as a pager that is quit does: that is its business.
    context::arrived(written).map(|_| status)
}

/// The status of what took a patch: 125 where that lacks something.
pub fn status_of(record: &Document) -> Result<ExitCode> {
    let is_lossy = record.outcome()?.is_some_and(|outcome| outcome.is_lossy());
    Ok(if is_lossy { ExitCode::from(context::OWN_FAILURE) } else { ExitCode::SUCCESS })
}

/// Writes what was taken from a guest to stdout: for a person where that is a terminal.
pub fn pass_on(context: &Context, document: &Document, file: &mut File, no_pager: bool) -> io::Result<()> {
    if io::stdout().is_terminal() {
        show(context, document, file, no_pager)
    } else {
        // Whoever reads this, a file or `git apply`, wants the bytes as they are.
        io::copy(file, &mut io::stdout().lock()).map(drop)
    }
}

/// Shows a patch of the guest's to a person: every control character in it escaped, and our own colours around.
fn show(context: &Context, document: &Document, file: &mut File, no_pager: bool) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        context.say("no changes");
        return Ok(());
    }
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var("TERM").is_ok_and(|term| term != "dumb");
    let pager = if no_pager { None } else { pager(document) };
    let child = pager.and_then(|pager| start(&pager));
    let Some(mut child) = child else { return paint(file, &mut io::stdout().lock(), colours) };
    let painted = match child.stdin.take() {
        Some(mut pipe) => paint(file, &mut pipe, colours),
        None => Ok(()),
    };
    child.wait()?;
    painted
}

fn paint(file: &mut File, out: &mut dyn Write, colours: bool) -> io::Result<()> {
    let mut painter = Painter::new(BufWriter::with_capacity(64 << 10, out), colours);
    let mut reader = BufReader::new(file);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return painter.finish(),
            count => painter.feed(&buffer[..count])?,
        }
    }
}

/// The pager that git would take: `GIT_PAGER`, `core.pager`, `PAGER`, less. `None`: none is wanted or there.
fn pager(document: &Document) -> Option<String> {
    let variable = |name| std::env::var(name).ok();
    let configured = || {
        let home = document.workspace().ok().flatten()?.host_path;
        let dir = if Path::new(&home).is_dir() { home } else { ".".to_owned() };
        let said = Git::at(dir).run(["config", "--get", "core.pager"]).ok()?;
        Some(git::line(&said))
    };
    let chosen = variable("GIT_PAGER").or_else(configured).or_else(|| variable("PAGER"));
    match chosen {
        Some(pager) if pager.is_empty() || pager == "cat" => None,
        Some(pager) => Some(pager),
        None => find_program(PAGER.as_ref()).map(|_| PAGER.to_owned()),
    }
}

/// Starts a pager as git does: through the shell, since it may be a command with arguments.
fn start(pager: &str) -> Option<Child> {
    let mut exec = Exec::new("sh").args(["-c", pager]);
    for (name, value) in PAGER_ENVIRONMENT {
        if std::env::var_os(name).is_none() {
            exec = exec.env(name, value);
        }
    }
    exec.command().ok()?.stdin(Stdio::piped()).spawn().ok()
}
