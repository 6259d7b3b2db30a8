//! What differs between VMMs: the seam between the supervisor and QEMU or Firecracker.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use banger_contract::Coded;
use banger_contract::inside::DiskIo;
use banger_contract::record::{Accel, Disk, Net, Vm, VmmKind};
use banger_state::dir::VmDir;

/// An error of either VMM.
pub type MonitorError = Box<dyn Coded>;

/// What is to be run: the sections of the record that a VMM needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// What the VM is.
    pub vm: Vm,
    /// Its network.
    pub net: Net,
    /// Its disks.
    pub disk: Disk,
    /// How guest code is executed.
    pub accel: Accel,
}

impl Machine {
    /// The VM's files.
    pub fn dir(&self) -> VmDir {
        VmDir::at(&self.vm.paths.dir)
    }
}

/// A VMM that is ready to be started. The supervisor adds: stdin null, stdout the console's pipe, stderr the log's pipe, the run
/// lock, death with the supervisor, and the descriptors of `inherit`.
#[derive(Debug)]
pub struct Launch {
    /// The program with its arguments, from [`banger_host::process::exec::Exec::command`].
    pub command: Command,
    /// Descriptors that the VMM inherits under their own numbers, which its arguments may name. The supervisor closes its own
    /// copies once the VMM runs.
    pub inherit: Vec<OwnedFd>,
    /// How the guest's agent is reached.
    pub channel: Channel,
    /// Sockets in the VM's directory, file names: removed when the VMM has ended. `api.sock` is always removed.
    pub sockets: Vec<&'static str>,
    /// Where the VMM tells what it counts, see [`super::counters`]; it must not block.
    pub counters: Option<OwnedFd>,
}

/// How the guest's agent is reached.
#[derive(Debug)]
pub enum Channel {
    /// A virtio-serial port: one stream without connections, on which requests and replies carry a nonce.
    Port(UnixStream),
    /// A vsock behind Unix sockets.
    Vsock {
        /// Where the guest connects to push its events: bound and listening before the VMM starts.
        events: UnixListener,
        /// The socket on which the VMM takes `CONNECT <port>`, absolute; it may be longer than 107 bytes.
        requests: PathBuf,
    },
}

/// A change of a VM that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// The file behind a disk has grown.
    Grown {
        /// `root`, `upper` or `work`.
        drive: &'static str,
        /// The file.
        path: &'a str,
        /// Its size now, bytes.
        size_bytes: u64,
    },
    /// Another limit for what goes through a disk, bytes a second.
    DiskRate {
        /// `root`, `upper` or `work`.
        drive: &'static str,
        /// `None`: no limit.
        rate: Option<u64>,
    },
    /// Another limit for what the guest receives and for what it sends, bytes a second each; `None`: no limit.
    NetRate(Option<u64>),
}

/// A VMM that runs.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    /// Its pidfd: readable once it has ended.
    pub pidfd: BorrowedFd<'a>,
    /// The VM's directory, an O_PATH descriptor of the supervisor's.
    pub dir: BorrowedFd<'a>,
}

/// One kind of VMM. Its methods are called by `start` (`program`, `accel`, `check`, `version`) and by the supervisor (the others),
/// whose only thread they may hold up for as long as their deadline says.
pub trait Monitor: fmt::Debug {
    /// Which.
    fn kind(&self) -> VmmKind;

    /// The program's name.
    fn program(&self) -> &'static str;

    /// What the program says its version is; runs it.
    ///
    /// # Errors
    /// The program is missing, too old or does not run.
    fn version(&self) -> Result<String, MonitorError>;

    /// How this host would execute guest code, and why, for people.
    ///
    /// # Errors
    /// This VMM cannot run here at all.
    fn accel(&self) -> Result<(Accel, String), MonitorError>;

    /// Whether `machine` is one that this VMM can run now. Starts and makes nothing.
    ///
    /// # Errors
    /// It cannot: no tap, a taken port, a missing file.
    fn check(&self, machine: &Machine) -> Result<(), MonitorError>;

    /// The command to start, with what it inherits and listens on. `dir` is the VM's directory, open. Stale sockets of an earlier
    /// run are already gone.
    ///
    /// # Errors
    /// A socket cannot be made, the program is missing.
    fn launch(&self, machine: &Machine, dir: BorrowedFd<'_>) -> Result<Launch, MonitorError>;

    /// Brings the started VMM to the point where guest code runs, and gives its version.
    ///
    /// # Errors
    /// It refuses, does not answer before `until`, or has ended.
    fn boot(&self, machine: &Machine, process: Process<'_>, until: Instant) -> Result<String, MonitorError>;

    /// Presses the guest's power button (QMP `system_powerdown`, `SendCtrlAltDel`).
    ///
    /// # Errors
    /// It refuses or does not answer before `until`.
    fn press_power_button(&self, process: Process<'_>, until: Instant) -> Result<(), MonitorError>;

    /// How the names of the threads that execute guest code begin.
    fn vcpu_thread_prefix(&self) -> &'static str;

    /// What went through the disks of the VM that runs in `dir`; `None` where the VMM does not say before `until`.
    fn disk_io(&self, dir: &VmDir, until: Instant) -> Option<Vec<DiskIo>>;

    /// Changes the VM that runs in `dir`.
    ///
    /// # Errors
    /// This VMM cannot do that, refuses or does not answer before `until`.
    fn change(&self, dir: &VmDir, changes: &[Change<'_>], until: Instant) -> Result<(), MonitorError>;

    /// Why the VMM ended before the guest was ready, from its status and the end of its log; `None`: nothing more is known than
    /// that.
    fn explain_end(&self, status: ExitStatus, log: &str) -> Option<MonitorError>;
}
