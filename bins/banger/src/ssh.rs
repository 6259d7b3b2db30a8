//! The system's ssh, for people: with banger's key and the guest's pinned one and nothing of the user's config.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use banger_contract::Document;
use banger_contract::error::escape_controls;
use banger_contract::record::{Net, Workspace};
use banger_disk::image;
use banger_host::process::exec::{Exec, shell_status};
use banger_state::db::VmRow;
use banger_state::dir::VmDir;
use banger_ws::command::Command;

use crate::context::{self, Context, ContextError, Result};
use crate::guest_command::{self, Wanted};
use crate::lifecycle::{self, LifecycleError};
use crate::plan;
use crate::stage::StageError;

/// ssh's status for its own failures; also that of a command that ends with it.
const SSH_FAILED: i32 = 255;

/// How much of what ssh complains of is told, bytes.
const MAX_COMPLAINTS: usize = 2048;

/// ssh, about to go to the VM.
pub fn ssh_to(context: &Context, row: &VmRow, net: &Net) -> Exec {
    let dir = VmDir::at(&row.vm.paths.dir);
    let path = |path: &Path| path.as_os_str().to_owned();
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
    exec.arg(format!("root@{}", net.ssh_host))
}

pub fn net_of(row: &VmRow, document: &Document) -> Result<Net> {
    let net = document.net()?.filter(|_| lifecycle::runs(&row.vm));
    Ok(net.ok_or_else(|| LifecycleError::Stopped(row.vm.name.to_string()))?)
}

/// `banger vm exec --tty`.
pub fn exec(
    context: &Context,
    row: &VmRow,
    document: &Document,
    wanted: &Wanted<'_>,
    workspace: &Workspace,
) -> Result<ExitCode> {
    if context.json {
        return Err(ContextError::Tty("--json and --tty exclude each other").into());
    }
    if !io::stdin().is_terminal() {
        return Err(ContextError::Tty("--tty needs a terminal on stdin").into());
    }
    let command = Command {
        words: guest_command::utf8(wanted.words)?,
        env: wanted.options.variables()?.into_iter().collect(),
        workdir: wanted.options.checked_workdir()?,
        limit: wanted.options.timeout,
        mise: !wanted.options.no_mise,
    };
    let script = command.terminal_script(&workspace.guest_path, workspace.mode);
    let talk = |source| StageError::Talk { program: "ssh".into(), source };
    // ssh ends with 255 when it fails, as the command may: what it complains of tells the two apart.
    let complaints = tempfile::NamedTempFile::new().map_err(talk)?;
    let ssh = ssh_to(context, row, &net_of(row, document)?).arg("-E").arg(complaints.path());
    let ended = session(context, row, ssh.args(["-t", "--"]).arg(script))?;
    let said = fs::read(complaints.path()).map_err(talk)?;
    if ended == ExitCode::from(SSH_FAILED as u8) && !said.is_empty() {
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(MAX_COMPLAINTS)..]).into_owned();
        let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        return Err(ContextError::Ssh(escape_controls(&lines.join("; "))).into());
    }
    Ok(ended)
}

/// Runs ssh on our terminal and says what it leaves behind.
pub fn session(context: &Context, row: &VmRow, ssh: Exec) -> Result<ExitCode> {
    if context.explain {
        return Ok(context::print(&format!("{ssh:?}\n")));
    }
    let interrupts = context.interrupts()?;
    let mut command = ssh.command().map_err(StageError::Exec)?;
    let talk = |source| StageError::Talk { program: "ssh".into(), source };
    let mut child = command.stdin(Stdio::inherit()).spawn().map_err(talk)?;
    let status = shell_status(interrupts.attend(&mut child).map_err(talk)?);
    if !lifecycle::runs(&row.vm) {
        if status == SSH_FAILED {
            return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
        }
    } else {
        if status == SSH_FAILED {
            tell_of_sshd(context, row);
        }
        let name = &row.vm.name;
        context.say(format!("{name} still runs; delete it: banger vm delete --force {name}"));
    }
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(context::OWN_FAILURE)))
}

/// After ssh has failed: what was noted when the image was imported, where it has no sshd.
fn tell_of_sshd(context: &Context, row: &VmRow) {
    let image = image::load_manifest(&context.state, &row.vm.image).ok().flatten();
    let notes = image.map_or_else(Vec::new, |image| image.manifest.notes);
    notes.iter().filter(|note| note.contains("sshd")).for_each(|note| context.say(escape_controls(note)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_for_ssh_stay_one_word() {
        let value = ssh_option("IdentityFile", OsStr::new("/a b/\"c\\%d"));
        assert_eq!(value, "IdentityFile=\"/a b/\\\"c\\\\%%d\"");
    }
}
