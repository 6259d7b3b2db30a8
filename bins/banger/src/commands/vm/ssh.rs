//! `banger vm ssh`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};

use banger_host::process::exec::ExecError;
use banger_ws::guest::quote;
use clap::Args;

use crate::context::{self, Context, Result};
use crate::stage::StageError;
use crate::{lifecycle, observed, ssh};

#[derive(Debug, Args)]
pub struct Ssh {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// A command for ssh, passed on as it is
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `banger vm ssh`: with a command it becomes ssh; a session is waited for, to say what it leaves behind.
pub fn ssh(context: &Context, args: &Ssh) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let document = observed::current(&row)?;
    let exec = ssh::ssh_to(context, &row, &ssh::net_of(&row, &document)?);
    if args.command.is_empty() {
        // Begin where the work is; a guest without a workspace begins at home.
        let cd = document.workspace()?.map_or_else(String::new, |workspace| {
            format!("cd {} 2>/dev/null; ", quote([workspace.guest_path.as_str()]))
        });
        return ssh::session(context, &row, exec.args(["-t", "--"]).arg(format!("{cd}exec \"$SHELL\" -l")));
    }
    let exec = exec.arg("--").args(&args.command);
    if context.explain {
        return Ok(context::print(&format!("{exec:?}\n")));
    }
    let mut command = exec.command().map_err(StageError::Exec)?;
    let source = command.stdin(Stdio::inherit()).exec();
    Err(StageError::Exec(ExecError::Spawn { program: "ssh".into(), source }).into())
}
