//! Commands in a VM: through banger-ws, or for people through the system's ssh.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use banger_lib::cli::Failure;
use banger_lib::contract::{Document, ErrorRecord};
use banger_lib::state::dir::VmDir;
use banger_lib::state::lock::SessionLock;
use banger_lib::sys::exec::{Exec, ExecError, shell_status};
use banger_lib::sys::fd;

use crate::args;
use crate::context::{self, Context, ContextError, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::stage::{self, Stage, StageError};
use crate::{list, plan, review, run};

/// The variable with the descriptor of the session lock: banger-ws holds it as long as it runs, also when `banger` is killed.
const SESSION_FD_VARIABLE: &str = "BANGER_SESSION_FD";

/// What came back from a command in a guest.
#[derive(Debug)]
pub struct Ran {
    /// The guest command's own status, as the shell reports it.
    pub status: u8,
    /// The record with what banger-ws learned.
    pub document: Document,
}

/// Runs a verb of banger-ws that runs a guest command: its output goes straight to our stdout and stderr (with `--json` all of it
/// to stderr, unless a patch is on stdout anyway), its record comes back through a file.
pub fn run_in_guest(
    context: &Context,
    stage: Stage,
    command: &[OsString],
    document: &Document,
    session: Option<&SessionLock>,
) -> Result<Ran> {
    let vm = document.vm()?;
    let talk = |source| StageError::Talk { program: stage.program.to_owned(), source };
    let record = tempfile::Builder::new().prefix(".run-").tempfile_in(&vm.paths.dir).map_err(talk)?;
    let program = stage.program;
    let stage = command.iter().fold(stage.arg("--record").arg(record.path()).arg("--"), Stage::arg);
    let mut process = stage.command()?;
    if let Some(session) = session {
        fd::hand_down(&mut process, session, SESSION_FD_VARIABLE);
    }
    process.stdin(Stdio::piped());
    if context.json {
        process.stdout(io::stderr());
    }
    let mut child = process.spawn().map_err(talk)?;
    let input = document.to_value().to_string();
    let mut pipe = child.stdin.take().expect("piped");
    // A record is far smaller than what a program that reads it first takes; one that does not is judged by its status.
    std::thread::spawn(move || drop(pipe.write_all(input.as_bytes())));
    let (status, signal) = stage::wait(context.interrupts()?, &mut child).map_err(talk)?;
    let bytes = fs::read(record.path()).map_err(talk)?;
    if let Some(signal) = signal {
        return Err(ContextError::Interrupted(signal).into());
    }
    if let Ok(record) = serde_json::from_slice::<ErrorRecord>(&bytes) {
        return Err(Failure::Passed(Box::new(record.error)));
    }
    let status = shell_status(status);
    let no_record = StageError::NoRecord { program: program.to_owned(), verb: "run".into(), status };
    let document = Document::parse(&bytes).map_err(|_| no_record)?;
    let exit_code = document.outcome()?.and_then(|outcome| outcome.exit_code);
    Ok(Ran { status: exit_code.unwrap_or(context::OWN_FAILURE), document })
}

/// `banger vm exec`.
pub fn exec(context: &Context, args: &args::Exec) -> Result<ExitCode> {
    run::check_command(&args.command)?;
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let mut stage = Stage::new("banger-ws", "exec");
    if let Some(patch) = &args.patch {
        stage = stage.arg("--patch").arg(patch);
    }
    if context.explain {
        let words = args.command.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        return Ok(context::print(&format!(
            "banger vm show {} --record | {} -- {words}\n",
            row.vm.name,
            stage.shown()
        )));
    }
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let document = list::current(&row)?;
    if document.workspace()?.is_none() {
        return Err(LifecycleError::NoWorkspace(row.vm.name.to_string()).into());
    }
    let ran = run_in_guest(context, stage, &args.command, &document, None)?;
    if context.json {
        context::emit(&ran.document.to_value());
    }
    if let Some(patch) = &args.patch {
        review::tell(context, patch, &ran.document)?;
    }
    Ok(ExitCode::from(ran.status))
}

/// `banger vm ssh`: becomes the system's ssh, with banger's key and the guest's pinned one and nothing of the user's config.
pub fn ssh(context: &Context, args: &args::Ssh) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let document = list::current(&row)?;
    let net = document.net()?.filter(|_| lifecycle::runs(&row.vm));
    let net = net.ok_or_else(|| LifecycleError::Stopped(row.vm.name.to_string()))?;
    let dir = VmDir::at(&row.vm.paths.dir);
    let path = |path: &Path| path.as_os_str().to_owned();
    let guest_path = document.workspace()?.map(|workspace| workspace.guest_path);
    let mut exec = Exec::new("ssh").args(["-F", "none", "-p"]).arg(net.ssh_port.to_string());
    for (name, value) in [
        ("IdentityFile", path(&context.state.client_key())),
        ("UserKnownHostsFile", path(&dir.known_hosts())),
        ("HostKeyAlias", plan::host_key_alias(&row.vm.id).into()),
        ("IdentitiesOnly", "yes".into()),
        ("StrictHostKeyChecking", "yes".into()),
        ("PreferredAuthentications", "publickey".into()),
        ("LogLevel", "ERROR".into()),
    ] {
        exec = exec.arg("-o").arg(ssh_option(name, &value));
    }
    exec = exec.arg(format!("root@{}", net.ssh_host));
    if args.command.is_empty() {
        // Begin where the work is; a guest without a workspace begins at home.
        let cd =
            guest_path.map(|path| format!("cd {} 2>/dev/null; ", shell_quoted(&path))).unwrap_or_default();
        exec = exec.args(["-t", "--"]).arg(format!("{cd}exec \"$SHELL\" -l"));
    } else {
        exec = exec.arg("--").args(&args.command);
    }
    if context.explain {
        return Ok(context::print(&format!("{exec:?}\n")));
    }
    let mut command = exec.command().map_err(StageError::Exec)?;
    let source = command.stdin(Stdio::inherit()).exec();
    Err(StageError::Exec(ExecError::Spawn { program: "ssh".into(), source }).into())
}

/// An option of ssh whose value is one word: it splits values at spaces unless they are quoted, and expands what follows a `%`
/// (ssh_config(5)).
fn ssh_option(name: &str, value: &OsStr) -> OsString {
    let mut text = format!("{name}=\"").into_bytes();
    for byte in value.as_bytes() {
        match byte {
            b'"' | b'\\' => text.push(b'\\'),
            b'%' => text.push(b'%'),
            _ => {}
        }
        text.push(*byte);
    }
    text.push(b'"');
    OsString::from_vec(text)
}

/// `text` as one word of a POSIX shell.
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_for_ssh_stay_one_word() {
        let value = ssh_option("IdentityFile", OsStr::new("/a b/\"c\\%d"));
        assert_eq!(value, "IdentityFile=\"/a b/\\\"c\\\\%%d\"");
    }
}
