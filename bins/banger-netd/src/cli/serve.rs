//! `banger-netd serve`: begins the resolver, in this process or in one that stays behind.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use thiserror::Error;

use crate::NetError;
use crate::caller::Caller;
use crate::dns::PORT;
use crate::dns::serve::{self, Begun, Order};
use crate::dns::site::Site;
use crate::permit::Permit;
use banger_cli::{Failure, plumbing};
use banger_contract::reply::{RESOLVER_SCHEMA, Resolver};
use banger_contract::{Coded, ErrorCode, ErrorRecord, Fault, error};
use banger_host::process;
use banger_host::process::exec::{Exec, ExecError};
use banger_host::process::{child, poll};

const VERB: &str = "serve";

/// How long the process that stays behind may take until it answers. It waits 5 s for one that ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest record that it prints, bytes.
const MAX_RECORD: usize = 64 << 10;

/// What is served, and how.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The names file of the state directory (its dns/names)
    #[arg(long, value_name = "FILE")]
    names: PathBuf,
    /// Ask this resolver about other names, an address with or without a port; may be given again [default: those in
    /// /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_upstream)]
    upstream: Vec<SocketAddr>,
    /// Return once questions are answered, and leave a process behind
    #[arg(long)]
    background: bool,
}

fn parse_upstream(text: &str) -> Result<SocketAddr, &'static str> {
    let bare = || text.parse::<IpAddr>().map(|ip| (ip, PORT).into());
    text.parse().or_else(|_| bare()).map_err(|_| "write it as 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53")
}

/// What goes wrong with the process that is to stay behind.
#[derive(Debug, Error)]
enum BackgroundError {
    #[error("cannot start the resolver")]
    Start(#[source] io::Error),
    #[error("cannot start the resolver")]
    Exec(#[from] ExecError),
    #[error("the resolver ended without a word")]
    Silent,
    #[error("the resolver did not answer within {} s", PATIENCE.as_secs())]
    Late,
}

impl Coded for BackgroundError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Start(_) | Self::Exec(_) => ErrorCode::Failed,
            Self::Silent => ErrorCode::Bug,
            Self::Late => ErrorCode::Busy,
        }
    }
}

/// Runs the verb.
pub fn serve(tool: &'static str, args: &Serve, caller: Result<Caller, NetError>) -> ExitCode {
    if args.background {
        return plumbing::value_verb(tool, VERB, || background(tool, args));
    }
    match foreground(tool, args, caller) {
        Ok(exit) => exit,
        Err(failure) => plumbing::fail(failure, tool, VERB),
    }
}

fn foreground(tool: &str, args: &Serve, caller: Result<Caller, NetError>) -> Result<ExitCode, Failure> {
    process::set_name(tool);
    let caller = caller?;
    Permit::of(&caller)?;
    // Only root can be somebody else for a moment, and only a user behind sudo is not root.
    let user = caller.uid().filter(|_| rustix::process::geteuid().is_root());
    let order = Order { names: args.names.clone(), upstream: args.upstream.clone() };
    let server = match serve::begin(&order, &caller, user)? {
        Begun::Already(site) => return Ok(plumbing::emit(&answer(&site, false))),
        Begun::Ours(server) => server,
    };
    let record = answer(server.site(), true);
    let complain = |error: &dyn Coded| {
        let fault = Fault::new(error, tool, VERB);
        drop(writeln!(io::stderr(), "{tool}: {}", fault.human_line()));
    };
    let ready = || {
        plumbing::emit(&record);
    };
    server.run(ready, complain)?;
    Ok(ExitCode::SUCCESS)
}

fn answer(site: &Site, changed: bool) -> serde_json::Value {
    plumbing::value(&Resolver {
        schema: RESOLVER_SCHEMA.to_owned(),
        state_id: site.realm.state().clone(),
        bridge: site.realm.bridge(),
        address: site.address,
        changed,
    })
}

/// Starts this program once more, in a session of its own and with nothing of the caller's but what it needs, and gives what it
/// says once it answers.
fn background(tool: &str, args: &Serve) -> Result<serde_json::Value, Failure> {
    let names = std::path::absolute(&args.names).map_err(BackgroundError::Start)?;
    let mut program = Exec::new("/proc/self/exe").arg(VERB).arg("--names").arg(names).current_dir("/");
    for upstream in &args.upstream {
        program = program.arg("--upstream").arg(upstream.to_string());
    }
    let mut command = program.command().map_err(BackgroundError::from)?;
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(uid) = std::env::var_os("SUDO_UID") {
        command.env("SUDO_UID", uid);
    }
    std::os::unix::process::CommandExt::arg0(&mut command, tool);
    child::lead_session(&mut command);
    let mut server = command.spawn().map_err(BackgroundError::Start)?;
    let line = first_line(server.stdout.take().expect("piped"));
    let value = match line {
        Ok(line) => serde_json::from_slice(&line).ok(),
        Err(error) => {
            // It would be found by nobody: whoever asked was told that there is none.
            drop((server.kill(), server.wait()));
            return Err(error.into());
        }
    };
    let value: serde_json::Value = value.ok_or(BackgroundError::Silent)?;
    if value["schema"] == error::ERROR_SCHEMA {
        let record: ErrorRecord = serde_json::from_value(value).map_err(|_| BackgroundError::Silent)?;
        drop(writeln!(io::stderr(), "{tool}: {}", record.error.human_line()));
        return Err(Failure::Passed(Box::new(record.error)));
    }
    Ok(value)
}

/// What comes up to the first newline or the end.
fn first_line(mut pipe: impl Read + std::os::fd::AsFd) -> Result<Vec<u8>, BackgroundError> {
    let until = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while !line.contains(&b'\n') && line.len() < MAX_RECORD {
        let ready = poll::wait(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(until));
        if ready.map_err(BackgroundError::Start)? == 0 {
            return Err(BackgroundError::Late);
        }
        match pipe.read(&mut chunk).map_err(BackgroundError::Start)? {
            0 => break,
            n => line.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(line)
}
