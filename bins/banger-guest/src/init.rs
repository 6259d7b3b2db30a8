//! The lean init: serves SSH, reaps what dies, shuts down cleanly.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::clock::{Steps, now_us};
use crate::disks::{self, Disk};
use crate::error::{BootFailure, Context, Error};
use crate::{files, halt, mounts, serve, sshd, sys};

/// Connections that are served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 200;
/// How long processes have to end when asked to.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the VM until it is shut down.
pub fn run(disks: Vec<Disk>, mut steps: Steps) -> Result<Infallible, BootFailure> {
    let start_us = now_us();
    let (listener, signals) = prepare().map_err(|error| BootFailure { step: "sshd", error })?;
    steps.add("sshd", start_us);
    let agent = Agent { init: "lean", disks: disks.clone(), shut_down: ask_for_shutdown };
    // Spawned with the signals blocked, so that they come to the descriptor and nowhere else.
    drop(std::thread::Builder::new().name("agent".into()).spawn(move || agent.run(steps)));
    serve(listener.as_ref(), &signals);
    drop(listener);
    shut_down(&disks);
    halt::now()
}

fn prepare() -> Result<(Option<TcpListener>, SignalFd), Error> {
    mounts::userland_filesystems();
    files::write_machine_id()?;
    files::unlock_root_for_keys()?;
    sys::raise_file_limit();
    // Ctrl-Alt-Del, which Firecracker can send, is a wish to shut down.
    set_cad_enabled(false).ok();
    let what = || "cannot receive signals".to_owned();
    let mut set = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGUSR1, Signal::SIGUSR2]
    {
        set.add(signal);
    }
    set.thread_block().context(what)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&set, flags).context(what)?;
    Ok((sshd::listen(serve::has_device())?, signals))
}

fn ask_for_shutdown() -> std::io::Result<()> {
    kill(Pid::from_raw(1), Signal::SIGTERM).map_err(Into::into)
}

/// Returns when a shutdown is asked for.
fn serve(listener: Option<&TcpListener>, signals: &SignalFd) {
    let mut connections = BTreeSet::new();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(listener) = listener
            && connections.len() < MAX_CONNECTIONS
        {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
            && errno != Errno::EINTR
        {
            halt::say(&format!("cannot wait for connections: {errno}"));
            std::thread::sleep(Duration::from_secs(1));
        }
        if let Some(Ok((connection, _))) = listener.map(TcpListener::accept) {
            match sshd::serve(connection) {
                Ok(pid) => drop(connections.insert(pid as i32)),
                Err(error) => halt::say(&format!("cannot start sshd: {error}")),
            }
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return;
            }
        }
        while let Some(pid) = reap() {
            connections.remove(&pid.as_raw());
        }
    }
}

/// Takes one dead child, if there is one.
fn reap() -> Option<Pid> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(_) => None,
        Ok(status) => status.pid(),
    }
}

/// Ends every process, first kindly, and makes the disks clean.
fn shut_down(disks: &[Disk]) {
    let everyone = Pid::from_raw(-1);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        kill(everyone, signal).ok();
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && waitpid(None, Some(WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD) {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(everyone, Signal::SIGKILL).ok();
    nix::unistd::sync();
    disks::settle(disks);
}
