//! How commands reach a guest: over its agent's channel where it takes them there, else over SSH.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::guest::{left, quote};
use crate::sys::framed;
use crate::sys::remote::{Exit, Program, Receiver, RemoteError, Watch};
use crate::sys::ssh;
use banger_contract::record::{Vmm, VmmKind};
use banger_host::net::unix;
use banger_protocol::guest::{EXEC_PORTS, HELPER_PATH, VSOCK_EXEC_PORT};
use banger_state::dir::VmDir;

/// How long the guest's service may take to answer. It runs already; an emulated guest with much to do is slow all the same.
const GREETING: Duration = Duration::from_secs(10);
/// How long a closed connection may take to be seen by the guest.
const PAUSE: Duration = Duration::from_millis(200);

/// Over what the guest is to be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over the agent's channel if that is there, free and answers; else over SSH.
    #[default]
    Auto,
    /// Over the agent's channel.
    Agent,
    /// Over SSH.
    Ssh,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "" | "auto" => Ok(Self::Auto),
            "agent" => Ok(Self::Agent),
            "ssh" => Ok(Self::Ssh),
            _ => Err(format!("unknown transport {word:?}; expected auto, agent or ssh")),
        }
    }
}

/// An open way to run commands.
#[derive(Debug)]
pub(super) enum Session {
    /// Over the agent's channel.
    Agent(framed::Session),
    /// Over SSH.
    Ssh(ssh::Session),
}

impl Session {
    /// Runs `program`; see either. Over SSH banger-guest is a command of root's login shell, whose status tells where it is not there.
    pub(super) fn exec(
        &self,
        program: Program<'_>,
        input: Option<OwnedFd>,
        receiver: &mut dyn Receiver,
        watch: &Watch<'_>,
    ) -> Result<Option<Exit>, RemoteError> {
        match (self, program) {
            (Self::Agent(session), program) => session.exec(program, input, receiver, watch),
            (Self::Ssh(session), Program::Line(line)) => session.exec(line, input, receiver, watch),
            (Self::Ssh(session), Program::Own(args)) => {
                let line = format!("exec {HELPER_PATH} {}", quote(args.iter().copied()));
                session.exec(&line, input, receiver, watch)
            }
        }
    }
}

/// Where the guest's service for commands is.
#[derive(Debug)]
pub(super) enum Service {
    /// Behind sockets of QEMU's, one for each port.
    Ports(VmDir),
    /// Behind Firecracker's socket.
    Vsock(PathBuf),
}

impl Service {
    /// Of the VM in `dir`; `None` where the guest has said of none.
    pub(super) fn of(dir: &VmDir, vmm: Option<&Vmm>) -> Option<Self> {
        let vmm = vmm.filter(|vmm| vmm.agent_exec == Some(true))?;
        Some(match vmm.kind {
            VmmKind::Firecracker => Self::Vsock(dir.vsock_socket()),
            _ => Self::Ports(dir.clone()),
        })
    }

    /// Connects, at the latest at `until`; `None` where all ports are taken.
    pub(super) fn connect(
        &self,
        watch: &Watch<'_>,
        until: Option<Instant>,
    ) -> Result<Option<framed::Session>, RemoteError> {
        match self {
            Self::Vsock(path) => {
                let socket = open(path)?;
                framed::Session::begin(socket, None, Some(VSOCK_EXEC_PORT), left(GREETING, until), watch)
                    .map(Some)
            }
            Self::Ports(dir) => {
                for number in 0..EXEC_PORTS {
                    if let Some(session) = connect_port(dir, number, watch, until)? {
                        return Ok(Some(session));
                    }
                }
                Ok(None)
            }
        }
    }
}

fn open(path: &std::path::Path) -> Result<std::os::unix::net::UnixStream, RemoteError> {
    unix::connect(path).map_err(|source| RemoteError::Socket { path: path.to_owned(), source })
}

/// Connects to one port; `None` where somebody else uses it.
fn connect_port(
    dir: &VmDir,
    number: usize,
    watch: &Watch<'_>,
    until: Option<Instant>,
) -> Result<Option<framed::Session>, RemoteError> {
    let path = dir.exec_lock(number);
    let error = |source: io::Error| RemoteError::Socket { path: path.clone(), source };
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(error)?;
    if lock.try_lock().is_err() {
        return Ok(None);
    }
    let socket = dir.exec_socket(number);
    let hold = lock.try_clone().map_err(error)?;
    match framed::Session::begin(open(&socket)?, Some(hold), None, left(GREETING, until), watch) {
        // A host before us may have been killed in the middle of a frame, and our greeting be the rest of it. Now that the guest
        // sees the connection end, the next one is understood.
        Err(RemoteError::Deadline { .. }) => {
            std::thread::sleep(PAUSE);
            framed::Session::begin(open(&socket)?, Some(lock), None, left(GREETING, until), watch).map(Some)
        }
        begun => begun.map(Some),
    }
}
