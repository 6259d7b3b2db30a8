//! `start`: the supervisor, and waiting until the guest is ready.

use std::io::{self, Read, Write};
use std::net::Shutdown as Half;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::error::{Relayed, VmmError};
use super::monitor::{Machine, Monitor, MonitorError};
use super::section::Running;
use super::talk::{KEEP, MAX_LINE, News, Order};
use banger_contract::record::{Accel, Vmm, VmmKind};
use banger_host::clock::Timeline;
use banger_host::process::exec::Exec;
use banger_host::process::poll;
use banger_host::process::signal::Interrupts;
use banger_state::handles::Handles;
use banger_state::lock::{VmLock, is_alive};

/// What a supervisor calls itself, before its VM's identifier.
pub const SUPERVISOR: &str = "banger-supervisor-";

/// How much longer than the guest's deadline the supervisor may be silent.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(60);
/// How long the supervisor may take to undo everything.
const UNDO_LIMIT: Duration = Duration::from_secs(15);

/// How long a guest may take to say "ready" unless told otherwise, seconds.
pub fn default_ready_limit_s(accel: Accel) -> u64 {
    if accel == Accel::Kvm { 30 } else { 120 }
}

/// What runs already, where it is what `machine` describes.
///
/// # Errors
/// [`VmmError::Differs`].
pub fn running(machine: &Machine, kind: VmmKind) -> Result<Option<Vmm>, VmmError> {
    let dir = machine.dir();
    if !is_alive(&dir) {
        return Ok(None);
    }
    let differs = |difference| VmmError::Differs { vm: machine.vm.name.clone(), difference };
    let handles = Handles::load(&dir);
    let vmm = handles.vmm.ok_or_else(|| differs("what runs was not recorded"))?;
    if vmm.kind != kind {
        return Err(differs("under another VMM"));
    }
    if handles.net.as_ref() != Some(&machine.net) || handles.disk.as_ref() != Some(&machine.disk) {
        return Err(differs("with another network or other disks than the record has"));
    }
    Ok(Some(vmm))
}

/// Starts the VM of `order` and waits until its guest is ready; `supervisor` is the program that runs [`super::supervisor::run`] on the socket
/// that it gets as stdin. The VM is recorded in its handles when this returns.
///
/// # Errors
/// It does not get there. Then nothing of it is left but its logs.
pub fn start(
    monitor: &dyn Monitor,
    order: Order,
    supervisor: Exec,
    _lock: &VmLock,
    timeline: &mut Timeline,
) -> Result<Vmm, MonitorError> {
    monitor.check(&order.machine)?;
    let interrupts = Interrupts::catch().map_err(|source| failed(&order.machine, source))?;
    let mut startup = Startup::begin(order, supervisor, interrupts)?;
    let result = startup.run(timeline);
    // Either way the supervisor now sees the end of the socket; unless it was told to keep the VM it undoes everything.
    if result.is_err() {
        startup.undo();
    }
    result
}

fn failed(machine: &Machine, source: io::Error) -> VmmError {
    VmmError::Supervisor { vm: machine.vm.name.clone(), source }
}

/// A VM being started.
struct Startup {
    order: Order,
    supervisor: Child,
    socket: UnixStream,
    heard: Vec<u8>,
    interrupts: Interrupts,
}

impl Startup {
    fn begin(order: Order, supervisor: Exec, interrupts: Interrupts) -> Result<Self, MonitorError> {
        let failed = |source| failed(&order.machine, source);
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = supervisor.current_dir("/").command().map_err(|e| failed(io::Error::other(e)))?;
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        // The name under which it is seen, instead of the /proc/self/exe that it is started from.
        command.arg0(format!("{SUPERVISOR}{}", order.machine.vm.id));
        banger_host::process::child::lead_session(&mut command);
        let child = command.spawn().map_err(failed)?;
        // The command holds the other end: with it open here, the supervisor's end would not be noticed.
        drop(command);
        Ok(Self { order, supervisor: child, socket, heard: Vec::new(), interrupts })
    }

    fn run(&mut self, timeline: &mut Timeline) -> Result<Vmm, MonitorError> {
        let mut line = serde_json::to_vec(&self.order).expect("an order is JSON");
        line.push(b'\n');
        self.socket.write_all(&line).map_err(|source| failed(&self.order.machine, source))?;
        let started = self.news()?;
        let News::Started { pid, version, started_at, expires_at, spawn_us, boot_us } = started else {
            return Err(self.failure(started));
        };
        timeline.note("spawn", spawn_us, boot_us.saturating_sub(spawn_us));
        let ready = self.news()?;
        let News::Ready { ready_at, ready_us, steps, exec } = ready else { return Err(self.failure(ready)) };
        timeline.note("boot", boot_us, ready_us.saturating_sub(boot_us));
        steps.into_iter().for_each(|timing| timeline.push(timing));
        let vmm =
            Vmm { agent_exec: Some(exec), ..self.section(pid, version, started_at, ready_at, expires_at) };
        self.record(&vmm)?;
        self.socket.write_all(KEEP).map_err(|source| failed(&self.order.machine, source))?;
        // It may have ended since it was ready.
        match self.news()? {
            News::Kept => Ok(vmm),
            other => Err(self.failure(other)),
        }
    }

    fn failure(&self, news: News) -> MonitorError {
        match news {
            News::Failed { fault } => Box::new(Relayed::new(*fault)),
            _ => Box::new(VmmError::SupervisorEnded(self.order.machine.vm.name.clone())),
        }
    }

    fn section(
        &self,
        pid: i32,
        version: String,
        started_at: String,
        ready_at: String,
        expires_at: Option<String>,
    ) -> Vmm {
        let machine = &self.order.machine;
        let supervisor_pid = self.supervisor.id().cast_signed();
        let (kind, accel, ready_at) = (self.order.kind, machine.accel, Some(ready_at));
        let running = Running { kind, accel, version, supervisor_pid, pid, started_at, ready_at, expires_at };
        running.section(&machine.dir(), Some(&machine.vm))
    }

    fn record(&self, vmm: &Vmm) -> Result<(), VmmError> {
        let dir = self.order.machine.dir();
        let mut handles = Handles::load(&dir);
        handles.net = Some(self.order.machine.net.clone());
        handles.disk = Some(self.order.machine.disk.clone());
        handles.vmm = Some(vmm.clone());
        Ok(handles.save(&dir)?)
    }

    /// The next news. A signal or a supervisor that ends or falls silent is an error.
    fn news(&mut self) -> Result<News, VmmError> {
        let vm = &self.order.machine.vm.name;
        let until = Instant::now() + Duration::from_secs(self.order.ready_limit_s) + SUPERVISOR_LIMIT;
        loop {
            if let Some(end) = self.heard.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| VmmError::SupervisorEnded(vm.clone()));
            }
            let mut fds =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.interrupts, PollFlags::IN)];
            let ready =
                poll::wait(&mut fds, Some(until)).map_err(|source| failed(&self.order.machine, source))?;
            if ready == 0 || self.heard.len() > MAX_LINE {
                return Err(VmmError::SupervisorEnded(vm.clone()));
            }
            if self.interrupts.pending().is_some() {
                return Err(VmmError::Interrupted(vm.clone()));
            }
            if !fds[0].revents().is_empty() {
                let mut chunk = [0; 16 << 10];
                match self.socket.read(&mut chunk) {
                    Ok(0) | Err(_) => return Err(VmmError::SupervisorEnded(vm.clone())),
                    Ok(n) => self.heard.extend_from_slice(&chunk[..n]),
                }
            }
        }
    }

    /// Waits until the supervisor has undone everything; one that does not end is killed, and the VMM dies with it.
    fn undo(&mut self) {
        // The peer may be gone already.
        drop(self.socket.shutdown(Half::Both));
        let pid = rustix::process::Pid::from_child(&self.supervisor);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let ended = pidfd.is_ok_and(|fd| {
            poll::wait(&mut [PollFd::new(&fd, PollFlags::IN)], Some(Instant::now() + UNDO_LIMIT))
                .is_ok_and(|n| n > 0)
        });
        if !ended {
            drop(self.supervisor.kill());
        }
        drop(self.supervisor.wait());
        let dir = self.order.machine.dir();
        let mut handles = Handles::load(&dir);
        if handles.vmm.take().is_some() {
            // What the file says then is seen through: nobody holds the run lock.
            drop(handles.save(&dir));
        }
    }
}

impl From<VmmError> for MonitorError {
    fn from(error: VmmError) -> Self {
        Box::new(error)
    }
}
