//! The supervisor: one small parent process per VM, as conmon is to podman. It starts the VMM, copies its console into a capped
//! log, owns the agent channel, enforces the time to live, reaps the VMM and records its end. One thread, one poll(2).

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use super::agent::{Agent, Said};
use super::counters::Counters;
use super::error::{BootError, BoxedCause, Evidence, SetupError, panic_in};
use super::exit::{self, Cause};
use super::log::CappedLog;
use super::monitor::{Launch, Monitor, Process};
use super::routes::{Ending, Routes};
use super::server::{Request, Server};
use super::shutdown::{Deadlines, Shutdown, Step};
use super::stop::SOCKETS;
use super::talk::{KEEP, News, Order, TtlRequest};
use super::timings;
use super::ttl::{Due, Ttl};
use banger_contract::{Coded, Fault};
use banger_host::clock::{boottime_us, now_rfc3339};
use banger_host::net::unix;
use banger_host::process::signal::Interrupts;
use banger_host::process::{child, poll};
use banger_protocol::guest::{EXPIRES_PATH, Event};
use banger_state::dir::VmDir;
use banger_state::lock::RunLock;

/// How long the VMM may take until guest code runs.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// How long its power button may take.
const BUTTON_LIMIT: Duration = Duration::from_secs(2);
/// The name of the client-facing socket.
const AGENT_SOCKET: &str = "agent.sock";
/// How much is still copied from the pipes of a VMM that has ended, chunks.
const LAST_CHUNKS: usize = 64;

/// How far the VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting(Instant),
    /// Ready; `start` has yet to record it.
    Ready,
    /// Nobody's but its own.
    Kept,
}

/// A supervisor with its VMM.
struct Supervisor {
    order: Order,
    monitor: Box<dyn Monitor>,
    tool: &'static str,
    dir: VmDir,
    dir_fd: OwnedFd,
    /// Life itself, until this process ends.
    _lock: RunLock,
    parent: Option<UnixStream>,
    parent_said: Vec<u8>,
    vmm: Child,
    pidfd: OwnedFd,
    console: CappedLog,
    log: CappedLog,
    agent: Agent,
    server: Server,
    routes: Routes,
    interrupts: Interrupts,
    sockets: Vec<&'static str>,
    phase: Phase,
    spawn_us: u64,
    ttl: Ttl,
    /// Of a VMM that counts for us.
    counters: Option<Counters>,
    shutdown: Option<Shutdown>,
    cause: Cause,
}

/// What ends the loop.
enum End {
    /// The VMM has ended.
    Vmm(ExitStatus),
    /// The VM cannot be kept: everything is to be undone.
    Undo(Option<Fault>),
}

/// Runs the VM of `order` to its end. `parent` hears how it goes; `tool` is whose errors these are. What fails after the VM was
/// handed over goes into its log.
pub fn run(order: Order, monitor: Box<dyn Monitor>, mut parent: UnixStream, tool: &'static str) {
    let fault = |error: &dyn Coded| Fault::new(error, tool, "start");
    let failed =
        |parent: &mut UnixStream, fault: Fault| tell(parent, &News::Failed { fault: Box::new(fault) });
    let dir = order.machine.dir();
    let lock = match RunLock::acquire(&dir, "the VM's supervisor") {
        Ok(lock) => lock,
        Err(error) => return failed(&mut parent, fault(&error)),
    };
    let news = parent.try_clone();
    let mut supervisor = match Supervisor::start(order, monitor, tool, lock, parent) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            drop(unix::remove(dir.path(), &SOCKETS));
            return news.map_or((), |mut parent| failed(&mut parent, fault(&*error)));
        }
    };
    let end = match supervisor.boot() {
        Ok(()) => supervisor.serve(),
        Err(error) => End::Undo(Some(fault(&error))),
    };
    supervisor.finish(end);
}

/// Tells `start`. One that is gone is noticed by its end of the socket.
fn tell(parent: &mut UnixStream, news: &News) {
    let mut line = serde_json::to_vec(news).expect("news are JSON");
    line.push(b'\n');
    drop(parent.write_all(&line));
}

fn setup(what: impl Into<String>) -> impl FnOnce(io::Error) -> Box<dyn Coded> {
    let what = what.into();
    move |source| Box::new(SetupError { what, source })
}

impl Supervisor {
    /// Makes sockets and logs and starts the VMM.
    fn start(
        order: Order,
        monitor: Box<dyn Monitor>,
        tool: &'static str,
        lock: RunLock,
        parent: UnixStream,
    ) -> Result<Self, Box<dyn Coded>> {
        let dir = order.machine.dir();
        let in_dir = |what: &str| setup(format!("{what} in {:?}", dir.path()));
        let interrupts = Interrupts::catch().map_err(setup("catch signals"))?;
        let dir_fd = unix::open_dir(dir.path()).map_err(in_dir("work"))?;
        unix::remove(dir.path(), &[&SOCKETS[..], &["exit.json"]].concat())
            .map_err(in_dir("remove an old socket"))?;
        let listener = unix::bind(dir_fd.as_fd(), AGENT_SOCKET).map_err(in_dir("listen on agent.sock"))?;
        let server = Server::new(listener).map_err(in_dir("listen on agent.sock"))?;
        let (console, stdout) = log_pipe().map_err(setup("make a pipe"))?;
        let (log, stderr) = log_pipe().map_err(setup("make a pipe"))?;
        let console = CappedLog::create(&dir.console_log(), console).map_err(in_dir("write console.log"))?;
        let log = CappedLog::create(&dir.vmm_log(), log).map_err(in_dir("write vmm.log"))?;
        let Launch { mut command, inherit, channel, sockets, counters } =
            monitor.launch(&order.machine, dir_fd.as_fd())?;
        let talk = CappedLog::alone(&dir.agent_log()).map_err(in_dir("write agent.log"))?;
        let agent = Agent::new(channel, talk).map_err(setup("open the agent channel"))?;
        let kept = inherit.iter().map(AsRawFd::as_raw_fd).chain([lock.as_fd().as_raw_fd()]).collect();
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        child::keep_open(&mut command, kept);
        child::die_with_parent(&mut command);
        let spawn_us = boottime_us();
        let mut vmm = command.spawn().map_err(setup(format!("start {}", monitor.program())))?;
        // The command holds the writing ends of the pipes: with them open the logs would never end.
        drop((command, inherit));
        let pidfd = pidfd_open(Pid::from_child(&vmm), PidfdFlags::empty()).map_err(|errno| {
            drop((vmm.kill(), vmm.wait()));
            setup("watch the VMM")(errno.into())
        })?;
        let phase = Phase::Booting(Instant::now() + Duration::from_secs(order.ready_limit_s));
        let parent = Some(parent);
        let (parent_said, routes, shutdown) = (Vec::new(), Routes::default(), None);
        let _lock = lock;
        Ok(Self {
            order,
            monitor,
            tool,
            dir,
            dir_fd,
            _lock,
            parent,
            parent_said,
            vmm,
            pidfd,
            console,
            log,
            agent,
            server,
            routes,
            interrupts,
            sockets,
            phase,
            spawn_us,
            ttl: Ttl::default(),
            counters: counters.map(Counters::new),
            shutdown,
            cause: Cause::None,
        })
    }

    fn process(&self) -> Process<'_> {
        Process { pidfd: self.pidfd.as_fd(), dir: self.dir_fd.as_fd() }
    }

    fn tell(&mut self, news: &News) {
        if let Some(parent) = &mut self.parent {
            tell(parent, news);
        }
    }

    /// Brings the VMM to the point where guest code runs.
    fn boot(&mut self) -> Result<(), BootError> {
        // No longer than the guest may take altogether: whoever set a short deadline means it.
        let limit = BOOT_LIMIT.min(Duration::from_secs(self.order.ready_limit_s));
        let booted = self.monitor.boot(&self.order.machine, self.process(), Instant::now() + limit);
        let version = booted.map_err(|source| self.boot_failed(source))?;
        let (pid, spawn_us) = (self.vmm.id().cast_signed(), self.spawn_us);
        let (started_at, boot_us) = (now_rfc3339(), boottime_us());
        self.ttl = Ttl::from_now(self.order.machine.vm.ttl_s);
        let expires_at = self.ttl.expires_at();
        self.tell(&News::Started { pid, version, started_at, expires_at, spawn_us, boot_us });
        Ok(())
    }

    /// A VMM that ended says why in its log and status, which tells more than the request that failed with it.
    fn boot_failed(&mut self, source: Box<dyn Coded>) -> BootError {
        let soon = Instant::now() + Duration::from_millis(200);
        drop(poll::wait(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(soon)));
        match self.vmm.try_wait() {
            Ok(Some(status)) => self.ended_early(status),
            _ => BootError::Monitor { source: BoxedCause(source), evidence: self.evidence() },
        }
    }

    fn ended_early(&mut self, status: ExitStatus) -> BootError {
        let evidence = self.evidence();
        if let Some(said) = panic_in(&evidence.console) {
            return BootError::Panicked { said, evidence };
        }
        let source = self.monitor.explain_end(status, &evidence.log).map(BoxedCause);
        BootError::Ended { status, source, evidence }
    }

    /// What was heard so far, what is still in the pipes included.
    fn evidence(&mut self) -> Evidence {
        for log in [&mut self.console, &mut self.log] {
            let mut chunks = 0;
            while chunks < LAST_CHUNKS && log.pump() {
                chunks += 1;
            }
        }
        let console_log = self.dir.console_log().to_string_lossy().into_owned();
        Evidence { console: self.console.tail(), log: self.log.tail(), console_log }
    }

    /// The loop: sleeps until something comes or is due.
    fn serve(&mut self) -> End {
        loop {
            if let Err(error) = self.sleep() {
                self.log.write(format!("banger: the supervisor cannot wait: {error}\n").as_bytes());
                return End::Undo(None);
            }
            self.console.pump();
            self.log.pump();
            if self.counters.as_mut().is_some_and(|counters| !counters.pump()) {
                self.counters = None;
            }
            if let Some(end) = self.hear_guest() {
                return end;
            }
            if let Ok(Some(status)) = self.vmm.try_wait() {
                return End::Vmm(status);
            }
            if let Some(end) = self.hear_parent() {
                return end;
            }
            self.hear_clients();
            if let Some(end) = self.look_at_clock() {
                return end;
            }
        }
    }

    fn sleep(&self) -> io::Result<()> {
        let mut fds =
            vec![PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&self.interrupts, PollFlags::IN)];
        fds.extend(
            [&self.console, &self.log]
                .into_iter()
                .filter_map(CappedLog::pipe)
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        fds.extend(self.parent.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        self.agent.watch(&mut fds);
        self.server.watch(&mut fds);
        let deadline = match self.phase {
            Phase::Booting(until) => Some(until),
            _ => None,
        };
        let shutdown = self.shutdown.as_ref().map(Shutdown::wake);
        fds.extend(self.counters.iter().map(Counters::watch));
        let ttl = self.ttl.wake().filter(|_| self.shutdown.is_none());
        let due = [deadline, shutdown, ttl, self.agent.wake(), self.server.wake()];
        poll::wait(&mut fds, due.into_iter().flatten().min()).map(drop)
    }

    fn hear_guest(&mut self) -> Option<End> {
        for said in self.agent.pump() {
            match said {
                Said::Answer(ticket, answer) => {
                    if let Some(shutdown) = &mut self.shutdown
                        && shutdown.took_answer(ticket, &answer)
                    {
                        continue;
                    }
                    self.routes.answer(&mut self.server, ticket, answer);
                }
                Said::Event(event) => {
                    if let Some(end) = self.take_event(event) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    fn take_event(&mut self, event: Event) -> Option<End> {
        let Phase::Booting(_) = self.phase else { return None };
        match event {
            Event::Ready { now_us, steps, exec, .. } => {
                let ready_us = boottime_us();
                let steps = timings::converted(&steps, now_us, self.spawn_us, ready_us);
                self.agent.note("the guest is ready");
                self.phase = Phase::Ready;
                self.tell(&News::Ready { ready_at: now_rfc3339(), ready_us, steps, exec });
                None
            }
            Event::Failed { step, message } => {
                self.agent.note("the guest cannot boot");
                let cut = |text: String| text.chars().take(300).collect();
                let (step, message) = (cut(step), cut(message));
                Some(self.undo(|evidence| BootError::Guest { step, message, evidence }))
            }
        }
    }

    fn undo(&mut self, error: impl FnOnce(Evidence) -> BootError) -> End {
        let error = error(self.evidence());
        End::Undo(Some(Fault::new(&error, self.tool, "start")))
    }

    /// What `start` says, or that it ended.
    fn hear_parent(&mut self) -> Option<End> {
        let parent = self.parent.as_mut()?;
        let mut chunk = [0; 64];
        match parent.read(&mut chunk) {
            Ok(n @ 1..) => self.parent_said.extend_from_slice(&chunk[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return None;
            }
            _ => return Some(End::Undo(None)),
        }
        match self.phase {
            Phase::Ready if self.parent_said == KEEP => {
                self.tell(&News::Kept);
                (self.phase, self.parent) = (Phase::Kept, None);
                None
            }
            _ if KEEP.starts_with(&self.parent_said) => None,
            _ => Some(End::Undo(None)),
        }
    }

    fn hear_clients(&mut self) {
        for (client, request) in self.server.pump() {
            let usual = self.order.deadlines;
            if let Some((status, body)) = self.answer_of_own(&request) {
                self.server.answer(client, status, &body);
                continue;
            }
            match self.routes.ask(&mut self.server, &mut self.agent, client, &request, usual) {
                Some(Ending::Kill) => self.kill(),
                Some(Ending::Stop(deadlines)) => self.begin_shutdown(Cause::Stopped, deadlines),
                None => {}
            }
        }
        if let Some(signal) = self.interrupts.pending()
            && signal != libc::SIGHUP
        {
            self.begin_shutdown(Cause::Stopped, self.order.deadlines);
        }
    }

    /// What the supervisor itself knows or does.
    fn answer_of_own(&mut self, request: &Request) -> Option<(u16, Value)> {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v1/counters") => {
                let counted = self.counters.as_ref().map(Counters::counted);
                Some((
                    200,
                    serde_json::to_value(counted.unwrap_or_default()).expect("names and numbers are JSON"),
                ))
            }
            ("POST", "/v1/ttl") => match serde_json::from_slice(&request.body) {
                Ok(TtlRequest { ttl_s }) => {
                    self.ttl = Ttl::from_now(ttl_s);
                    Some((200, json!({ "expires_at": self.ttl.expires_at() })))
                }
                Err(error) => Some((400, json!({ "error": error.to_string() }))),
            },
            _ => None,
        }
    }

    fn kill(&mut self) {
        self.cause = Cause::Killed;
        self.shutdown = Some(Shutdown::kill());
    }

    fn begin_shutdown(&mut self, cause: Cause, deadlines: Deadlines) {
        if self.shutdown.is_none() {
            self.cause = cause;
            let ticket = self.agent.ask("POST", "/v1/shutdown");
            self.shutdown = Some(Shutdown::begin(ticket, deadlines));
        }
    }

    /// What is due.
    fn look_at_clock(&mut self) -> Option<End> {
        let now = Instant::now();
        if let Phase::Booting(until) = self.phase
            && until <= now
        {
            let limit = Duration::from_secs(self.order.ready_limit_s);
            return Some(self.undo(|evidence| BootError::NotReady { limit, evidence }));
        }
        match self.ttl.due(now).filter(|_| self.shutdown.is_none()) {
            // Its answer is nobody's: a guest that does not take note of it is stopped all the same.
            Some(Due::Warn(seconds)) => drop(self.agent.ask("POST", &format!("{EXPIRES_PATH}{seconds}"))),
            // Nobody has worked in it yet: there is nothing to be shut down with care.
            Some(Due::Over) if self.phase != Phase::Kept => {
                let ttl = Duration::from_secs(self.order.machine.vm.ttl_s.unwrap_or_default());
                return Some(self.undo(|evidence| BootError::Expired { ttl, evidence }));
            }
            Some(Due::Over) => self.begin_shutdown(Cause::Ttl, self.order.deadlines),
            None => {}
        }
        let step = self.shutdown.as_mut().and_then(|shutdown| shutdown.next(now));
        match step {
            Some(Step::PressButton) => {
                let pressed = self.monitor.press_power_button(self.process(), now + BUTTON_LIMIT);
                if let Err(error) = pressed {
                    self.log.write(format!("banger: the power button does not work: {error}\n").as_bytes());
                }
            }
            Some(Step::Terminate) => self.signal(rustix::process::Signal::TERM),
            Some(Step::Kill) => self.signal(rustix::process::Signal::KILL),
            None => {}
        }
        None
    }

    fn signal(&self, signal: rustix::process::Signal) {
        // ESRCH: it has ended, which is what the signal is for.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Leaves nothing but the logs, and the record of how a VM that had been handed over ended.
    fn finish(mut self, end: End) {
        let (status, mut fault) = match end {
            End::Vmm(status) => (Some(status), None),
            End::Undo(fault) => {
                self.signal(rustix::process::Signal::KILL);
                (self.vmm.wait().ok(), fault)
            }
        };
        let evidence = self.evidence();
        if let (Some(status), Phase::Kept) = (status, self.phase) {
            let exit = exit::describe(self.cause, status, &evidence.console);
            if let Err(error) = exit::save(&self.dir, &exit) {
                self.log.write(format!("banger: {error}\n").as_bytes());
            }
        } else if let (Some(status), None) = (status, &fault) {
            fault = Some(Fault::new(&self.ended_early(status), self.tool, "start"));
        }
        self.sockets.extend([AGENT_SOCKET, "api.sock"]);
        if let Err(error) = unix::remove(self.dir.path(), &self.sockets) {
            self.log.write(format!("banger: cannot remove a socket: {error}\n").as_bytes());
        }
        if let Some(fault) = fault {
            self.tell(&News::Failed { fault: Box::new(fault) });
        }
    }
}

/// A pipe whose reading end does not block.
fn log_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
    Ok((read, write))
}
