//! Firecracker: told over its API socket what to boot, and heard through its vsock's Unix sockets.

pub mod api;
pub mod cli;
pub mod client;
pub mod error;
pub mod explain;
pub mod launch;
pub mod program;
pub mod vsock;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use self::client::Client;
use self::error::{EndedError, LaunchError, NoKvm};
use self::program::{MAX_VCPUS, PROGRAM};
use banger_contract::inside::DiskIo;
use banger_contract::record::{Accel, NetMode, VmmKind};
use banger_contract::types::LinkName;
use banger_host::kvm;
use banger_host::net::unix;
use banger_host::process::exec::Exec;
use banger_state::dir::VmDir;
use banger_vmm::counters::Counted;
use banger_vmm::monitor::{Change, Channel, Launch, Machine, Monitor, MonitorError, Process};
use banger_vmm::sys::http;

/// The API socket in Firecracker's working directory, the VM's; [`banger_state::dir::VmDir::api_socket`].
const API_SOCKET: &str = "api.sock";
/// How long `firecracker --version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Firecracker by its program: a path, or a name to be found in PATH.
#[derive(Debug, Clone)]
pub struct Firecracker {
    program: String,
    /// Where the Firecracker that was launched counts, in its own words.
    metrics: RefCell<String>,
}

impl Default for Firecracker {
    /// The one in PATH.
    fn default() -> Self {
        Self::at(None)
    }
}

impl Firecracker {
    /// The program at `path`; `None`: the one in PATH.
    pub fn at(path: Option<String>) -> Self {
        Self { program: path.unwrap_or_else(|| PROGRAM.to_owned()), metrics: RefCell::default() }
    }
}

fn boxed(error: impl Into<LaunchError>) -> MonitorError {
    Box::new(error.into())
}

/// The tap that `machine` is on.
fn tap(machine: &Machine) -> Result<&LinkName, LaunchError> {
    match machine.net.mode {
        NetMode::User => Err(LaunchError::UserNetwork),
        NetMode::Tap => machine.net.tap.as_ref().ok_or(LaunchError::NoTap),
    }
}

/// Opens a file of the VM as Firecracker will, without waiting for anybody should it be a FIFO.
fn check_file(path: &str, write: bool) -> io::Result<()> {
    let file = File::options().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    let usable = kind.is_file() || kind.is_block_device();
    if usable { Ok(()) } else { Err(io::Error::other("it is neither a file nor a block device")) }
}

/// Opens every file of the VM, so that one that Firecracker could not use is named by its field of the record.
fn check_files(machine: &Machine) -> Result<(), LaunchError> {
    let disk = &machine.disk;
    let upper = disk.upper_device.as_ref().map(|path| ("disk.upper_device", path, true));
    let fixed = [
        ("disk.kernel_elf", &disk.kernel_elf, false),
        ("disk.initrd", &disk.initrd, false),
        ("disk.root_device", &disk.root_device, !disk.root_read_only),
        ("disk.work_device", &disk.work_device, true),
    ];
    for (field, path, write) in fixed.into_iter().chain(upper) {
        check_file(path, write).map_err(|source| LaunchError::File { field, path: path.clone(), source })?;
    }
    Ok(())
}

/// The API of the Firecracker that runs in `dir`.
fn client(dir: &VmDir, until: Instant) -> io::Result<Client> {
    Ok(Client::new(unix::connect(&dir.api_socket())?, until))
}

fn boot(
    machine: &Machine,
    metrics: String,
    process: Process<'_>,
    until: Instant,
) -> Result<String, LaunchError> {
    let stream = launch::connect_when_there(process, API_SOCKET, until)?;
    let mut client = Client::new(stream, until);
    let version = launch::version(&mut client)?;
    launch::configure(&mut client, &api::Configuration::new(machine, tap(machine)?, metrics, &version))?;
    launch::start(&mut client)?;
    Ok(version)
}

impl Monitor for Firecracker {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    fn program(&self) -> &'static str {
        PROGRAM
    }

    fn version(&self) -> Result<String, MonitorError> {
        let exec = Exec::new(&self.program).arg("--version").deadline(VERSION_LIMIT).stdout_limit(4096);
        let stdout = exec.run().map_err(boxed)?;
        // "Firecracker v1.14.0" and, in some releases, an empty line and more.
        let text = String::from_utf8_lossy(&stdout).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let version = first.strip_prefix("Firecracker v").unwrap_or(first).trim();
        launch::supported(version.to_owned()).map_err(boxed)
    }

    fn accel(&self) -> Result<(Accel, String), MonitorError> {
        kvm::usable().map_err(|reason| boxed(LaunchError::NoKvm { source: NoKvm(reason) }))?;
        Ok((Accel::Kvm, "KVM works here".to_owned()))
    }

    fn check(&self, machine: &Machine) -> Result<(), MonitorError> {
        tap(machine).map_err(boxed)?;
        if !(1..=MAX_VCPUS).contains(&machine.vm.vcpus) {
            return Err(boxed(LaunchError::Vcpus(machine.vm.vcpus)));
        }
        check_files(machine).map_err(boxed)?;
        Exec::new(&self.program).command().map(drop).map_err(boxed)
    }

    fn launch(&self, machine: &Machine, dir: BorrowedFd<'_>) -> Result<Launch, MonitorError> {
        let path = machine.dir().path().to_owned();
        let exec = Exec::new(&self.program)
            .args(["--api-sock", API_SOCKET, "--id", machine.vm.id.as_str()])
            // To stderr, which the supervisor caps: a guest can make Firecracker complain without end. Left to itself it logs to
            // stdout, which is the guest's console.
            .args(["--log-path", "/proc/self/fd/2", "--level", "Warning"])
            .current_dir(&path);
        let command = exec.command().map_err(boxed)?;
        let socket = |source| boxed(LaunchError::Socket { source });
        let (counters, metrics) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|errno| socket(errno.into()))?;
        *self.metrics.borrow_mut() = format!("/proc/self/fd/{}", metrics.as_raw_fd());
        let events = vsock::listen_for_events(dir).map_err(socket)?;
        Ok(Launch {
            command,
            inherit: vec![metrics],
            channel: Channel::Vsock { events, requests: path.join(vsock::SOCKET) },
            sockets: vec![vsock::SOCKET, vsock::EVENT_SOCKET],
            counters: Some(counters),
        })
    }

    fn boot(&self, machine: &Machine, process: Process<'_>, until: Instant) -> Result<String, MonitorError> {
        boot(machine, self.metrics.borrow().clone(), process, until).map_err(boxed)
    }

    fn press_power_button(&self, process: Process<'_>, until: Instant) -> Result<(), MonitorError> {
        let press = || {
            let stream = launch::connect_when_there(process, API_SOCKET, until)?;
            Ok::<_, LaunchError>(Client::new(stream, until).put("/actions", &api::Action::SendCtrlAltDel)?)
        };
        press().map_err(boxed)
    }

    fn vcpu_thread_prefix(&self) -> &'static str {
        "fc_vcpu"
    }

    fn disk_io(&self, dir: &VmDir, until: Instant) -> Option<Vec<DiskIo>> {
        // What it counted since it last told; the supervisor has the rest.
        client(dir, until).ok()?.put("/actions", &api::Action::FlushMetrics).ok()?;
        let supervisor = unix::connect(&dir.agent_socket()).ok()?;
        let (status, body) = http::exchange(supervisor, "GET", "/v1/counters", "", until).ok()?;
        let counted: Counted = serde_json::from_slice(&body).ok().filter(|_| status == 200)?;
        Some(counted.disks)
    }

    fn change(&self, dir: &VmDir, changes: &[Change<'_>], until: Instant) -> Result<(), MonitorError> {
        let mut client = client(dir, until).map_err(|source| boxed(LaunchError::Socket { source }))?;
        changes.iter().try_for_each(|change| launch::change(&mut client, change)).map_err(boxed)
    }

    fn explain_end(&self, status: ExitStatus, log: &str) -> Option<MonitorError> {
        let ended = EndedError { status, log: log.to_owned() };
        if ended.tells_something() { Some(Box::new(ended)) } else { None }
    }
}
