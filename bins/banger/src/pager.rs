//! Patches for people: to a terminal in colour and paged, elsewhere as they are.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use banger_contract::Document;
use banger_host::git::{self, Git};
use banger_host::process::exec::{Exec, find_program};

use crate::context::Context;
use crate::paint::Painter;

/// What git itself gives a pager that is told nothing else (core.pager in git-config(1)).
const PAGER: &str = "less";
const PAGER_ENVIRONMENT: [(&str, &str); 2] = [("LESS", "FRX"), ("LV", "-c")];

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
