//! The connection to a guest, and the words in which our scripts answer.
//!
//! A script is run by root's login shell (any POSIX shell). It says its verdict in one marked line on stdout before anything else
//! of interest; the mark holds a nonce, so nothing that the guest prints by itself is taken for it. After the verdict `ready` (or `kept`) the
//! stream belongs to the command: to its end where banger-guest does not run it, else to banger-guest's marks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use banger_contract::error::escape_controls;
use banger_contract::record::{Accel, Net, Vm, Vmm};
use banger_host::clock::boottime_us;
use banger_host::process::signal::Interrupts;
use banger_host::random;
use banger_protocol::guest::{TIMEOUT_GRACE, mark_start};
use banger_state::dir::{StateDir, VmDir};
use banger_state::lock::is_alive;

use crate::error::WorkspaceError;
use crate::marks::{self, Marked};
use crate::sys::remote::{Exit, Program, Receiver, RemoteError, Watch};
use crate::sys::ssh::{self, Keys, Target};
use crate::transport::{Service, Session, Transport};

/// How long connecting may take: an emulated guest needs seconds for a key exchange.
const CONNECT: Duration = Duration::from_secs(90);
/// How long a script may be silent, and take nothing of its input, before its verdict.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a VM whose connection broke may take to be gone: sshd ends before its machine does.
const GOING_DOWN: Duration = Duration::from_secs(3);
/// How much later than it should a guest may end a command that is over its time.
const SLACK: Duration = Duration::from_secs(15);
/// How much a login shell may print before the verdict, bytes.
const MAX_PREAMBLE: usize = 64 << 10;
/// How much a script may say beside its verdict and what a command says, bytes.
const MAX_CHATTER: usize = 1 << 20;
/// How much of a script's stderr an error keeps, bytes.
const MAX_SAID: usize = 4 << 10;

/// Where a guest's sshd is, with the keys: all that is read before connecting.
#[derive(Debug)]
pub struct Endpoint {
    target: Target,
    keys: Keys,
    service: Option<Service>,
    transport: Transport,
    dir: VmDir,
    /// banger-guest, for a machine that has none; empty where none is at hand.
    helper: &'static [u8],
    /// Whether there was a run lock to ask. A VM that was never started here has none; one that was deleted has none any more.
    has_lock: bool,
}

impl Endpoint {
    /// Of the VM `vm` with the network `net`, run by `vmm`, to be reached over `transport`; `helper` is banger-guest.
    pub fn of(
        state: &StateDir,
        vm: &Vm,
        net: &Net,
        vmm: Option<&Vmm>,
        transport: Transport,
        helper: &'static [u8],
    ) -> Result<Self, WorkspaceError> {
        let dir = VmDir::at(&vm.paths.dir);
        let emulated = vmm.is_some_and(|vmm| vmm.accel == Accel::Tcg);
        let target = Target::root(net.ssh_host, net.ssh_port, dir.host_key_pub(), state.client_key());
        let target = Target { emulated, ..target };
        let keys = Keys::read(&target).map_err(|source| WorkspaceError::Ssh { stopped: false, source })?;
        let has_lock = dir.run_lock().exists();
        let service = Service::of(&dir, vmm).filter(|_| transport != Transport::Ssh);
        Ok(Self { target, keys, service, transport, dir, helper, has_lock })
    }

    /// The TCP port of sshd.
    pub fn port(&self) -> u16 {
        self.target.address.port()
    }

    /// Whether the VM's supervisor lives.
    fn lives(&self) -> bool {
        !self.has_lock || is_alive(&self.dir)
    }

    /// Opens a way to run commands, at the latest at `until`.
    fn session(&self, watch: &Watch<'_>, until: Option<Instant>) -> Result<Session, RemoteError> {
        let agent = self.service.as_ref().map(|service| service.connect(watch, until));
        match (agent, self.transport) {
            (Some(Ok(Some(session))), _) => return Ok(Session::Agent(session)),
            (Some(Err(error @ RemoteError::Interrupted(_))), _) => return Err(error),
            (Some(Err(error)), Transport::Agent) => return Err(error),
            (Some(Ok(None)), Transport::Agent) => return Err(RemoteError::Taken),
            (None, Transport::Agent) => return Err(RemoteError::NoService),
            // sshd stays for whatever is wrong with the other way.
            _ => {}
        }
        ssh::Session::connect(&self.target, &self.keys, left(CONNECT, until), watch).map(Session::Ssh)
    }

    /// What becomes of a connection's `error`: whether the VM is gone is part of it.
    fn failure(&self, source: RemoteError) -> WorkspaceError {
        let may_be_gone = matches!(
            source,
            RemoteError::Closed { .. }
                | RemoteError::Connect { .. }
                | RemoteError::Socket { .. }
                | RemoteError::Protocol { .. }
        );
        let until = Instant::now() + if may_be_gone { GOING_DOWN } else { Duration::ZERO };
        while self.has_lock && self.lives() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        lost(source, !self.lives())
    }
}

/// `limit`, or what is left of it at `until`.
pub(super) fn left(limit: Duration, until: Option<Instant>) -> Duration {
    until.map_or(limit, |until| limit.min(until.saturating_duration_since(Instant::now())))
}

/// What ended the talk with a guest.
fn lost(source: RemoteError, stopped: bool) -> WorkspaceError {
    match source {
        RemoteError::Output(source) => WorkspaceError::Output(source),
        source => WorkspaceError::Ssh { stopped, source },
    }
}

/// Keeps a short answer.
#[derive(Debug, Default)]
struct Said(Vec<u8>);

impl Output for Said {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        if self.0.len() > MAX_SAID { Err(io::Error::other("the guest says too much")) } else { Ok(()) }
    }
    fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Takes what a command says.
pub trait Output {
    /// The script is ready: all that was to be copied is, and what follows is the command's.
    fn ready(&mut self) {}
    /// Takes a piece of its stdout.
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes a piece of its stderr.
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// How a script ended.
#[derive(Debug)]
pub struct Ended {
    /// Its verdict; empty where it gave none.
    pub verdict: String,
    /// How it ended.
    pub exit: Exit,
    /// When the verdict came, microseconds on CLOCK_BOOTTIME.
    pub verdict_us: u64,
    /// The end of what it said on stderr before its verdict, or at all where that is not `ready`; escaped.
    pub said: String,
    /// Whether banger-guest ended it, since it was over its time.
    pub timed_out: bool,
}

/// What a script is given.
#[derive(Debug, Default)]
pub struct Given {
    /// Its stdin.
    pub input: Option<OwnedFd>,
    /// Whether it becomes the user's command.
    pub is_command: bool,
    /// Whether that reads its stdin on; else stdin ends with the verdict.
    pub to_the_end: bool,
    /// How long it may be silent after its verdict; `None`: for ever.
    pub patience: Option<Duration>,
    /// How long the command has been given by banger-guest; `None`: for ever.
    pub limit: Option<Duration>,
}

impl Ended {
    /// Whether what follows the verdict was the command's.
    pub fn is_ready(&self) -> bool {
        is_ready(&self.verdict)
    }
}

/// `ready`, or `kept` where what was to be sent was there already.
fn is_ready(verdict: &str) -> bool {
    matches!(verdict, "ready" | "kept")
}

/// A guest that we are logged in to.
#[derive(Debug)]
pub struct Guest<'a> {
    endpoint: &'a Endpoint,
    session: Session,
    interrupts: &'a Interrupts,
    started: Cell<bool>,
    /// When a command that nothing is copied for has begun at the latest.
    until: Option<Instant>,
}

impl<'a> Guest<'a> {
    /// Connects.
    pub fn connect(endpoint: &'a Endpoint, interrupts: &'a Interrupts) -> Result<Self, WorkspaceError> {
        Self::connect_within(endpoint, interrupts, None)
    }

    /// Connects for a command that may take `limit`: a guest that says nothing is not waited for much longer than that.
    pub fn connect_within(
        endpoint: &'a Endpoint,
        interrupts: &'a Interrupts,
        limit: Option<Duration>,
    ) -> Result<Self, WorkspaceError> {
        let limit = limit.map(|limit| limit + TIMEOUT_GRACE + SLACK);
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let alive = || endpoint.lives();
        let watch = Watch { interrupts: Some(interrupts), alive: &alive };
        let session = endpoint.session(&watch, until).map_err(|source| match (source, limit) {
            // The last of several attempts had what the others left.
            (RemoteError::Deadline { step, .. }, Some(limit)) if left(CONNECT, until).is_zero() => {
                RemoteError::Deadline { step, limit }
            }
            (source, _) => source,
        });
        let session = session.map_err(|source| endpoint.failure(source))?;
        Ok(Self { endpoint, session, interrupts, started: Cell::new(false), until })
    }

    /// Whether a script that becomes the user's command came as far as `ready`, so that this may have run.
    pub fn has_started(&self) -> bool {
        self.started.get()
    }

    /// Tells a command that is left alone to end: sshd does not, where there is no terminal. It leads its process group, since sshd
    /// makes a session for each command and the script became the command, or banger-guest, which tells the command.
    fn end_group(&self, process: u32) {
        // Briefly, and whatever signal comes: who sends one to a group often sends another.
        let watch = &Watch { interrupts: None, alive: &|| self.endpoint.lives() };
        // The connection may be gone, or the command; there is nobody left to tell.
        drop(self.session.exec(Program::Line(&format!("kill -TERM -{process}")), None, &mut Brief, watch));
    }

    /// Runs `script`. Its words `say VERDICT` give the verdict; `output` takes what follows `ready`, and `patience` is how long
    /// silence may then last.
    pub fn run(
        &self,
        script: &str,
        input: Option<OwnedFd>,
        patience: Option<Duration>,
        output: &mut dyn Output,
    ) -> Result<Ended, WorkspaceError> {
        self.run_with(script, Given { input, patience, ..Given::default() }, output)
    }

    /// The same for a script that may become a command. `say ready marked` says that banger-guest runs it, whose `--nonce` is `$nonce`.
    pub fn run_with(
        &self,
        script: &str,
        given: Given,
        output: &mut dyn Output,
    ) -> Result<Ended, WorkspaceError> {
        let nonce = nonce();
        // Whatever root's profile in the guest has set counts for the command, which is another program, and not for us.
        let command = format!(
            "nonce={nonce}; set +e +u +f; say() {{ printf '\\036banger:%s:%s %s %s\\n' \"$nonce\" \"$1\" \"$$\" \"${{2-}}\"; }}\n{script}"
        );
        self.follow(&nonce, given, output, |input, listener, watch| {
            self.session.exec(Program::Line(&command), input, listener, watch)
        })
    }

    /// The same for banger-guest's verb `verb`: it is given the nonce, then `args`.
    pub(super) fn run_own(
        &self,
        verb: &str,
        args: &[&str],
        given: Given,
        output: &mut dyn Output,
    ) -> Result<Ended, WorkspaceError> {
        let nonce = nonce();
        let args = [&[verb, "--nonce", &nonce], args].concat();
        self.follow(&nonce, given, output, |input, listener, watch| {
            self.session.exec(Program::Own(&args), input, listener, watch)
        })
    }

    /// The same for a banger-guest that was brought along: the program `helper`.
    pub(super) fn run_helper(
        &self,
        helper: &str,
        verb: &str,
        args: &[&str],
        given: Given,
        output: &mut dyn Output,
    ) -> Result<Ended, WorkspaceError> {
        let nonce = nonce();
        let words = [&[helper, verb, "--nonce", &nonce], args].concat();
        let line = format!("exec {}", quote(words));
        self.follow(&nonce, given, output, |input, listener, watch| {
            self.session.exec(Program::Line(&line), input, listener, watch)
        })
    }

    /// Brings banger-guest to a machine that has none, or another one: over SSH alone, since the agent is banger-guest itself. Gives the
    /// program, in a directory of its own, which removes both when it is called; `None` where that is not possible.
    pub(super) fn bring_helper(&self) -> Result<Option<String>, WorkspaceError> {
        let program = self.endpoint.helper;
        if program.is_empty() || !matches!(self.session, Session::Ssh(_)) {
            return Ok(None);
        }
        let script = "umask 077; d=$(mktemp -d) && cat >\"$d/guest\" && chmod 700 \"$d/guest\" && say ready && printf %s \"$d/guest\"\n";
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
        let mut place = Said::default();
        let ended = std::thread::scope(|scope| {
            // A guest that does not read on says why itself.
            scope.spawn(move || drop(io::Write::write_all(&mut std::fs::File::from(writer), program)));
            self.run(script, Some(reader), None, &mut place)
        })?;
        Ok(String::from_utf8(place.0).ok().filter(|place| ended.is_ready() && place.starts_with('/')))
    }

    /// Listens to what `run` runs.
    fn follow(
        &self,
        nonce: &str,
        mut given: Given,
        output: &mut dyn Output,
        run: impl FnOnce(Option<OwnedFd>, &mut Listener<'_>, &Watch<'_>) -> Result<Option<Exit>, RemoteError>,
    ) -> Result<Ended, WorkspaceError> {
        let mut listener = Listener::new(nonce, &given, output);
        // A checkout may take longer to arrive than the command may run.
        listener.deadline = self.until.filter(|_| given.is_command && given.to_the_end);
        let alive = || self.endpoint.lives();
        let watch = Watch { interrupts: Some(self.interrupts), alive: &alive };
        let exit = run(given.input.take(), &mut listener, &watch);
        self.started.set(self.started.get() || (given.is_command && listener.is_ready()));
        if let (Err(RemoteError::Interrupted(_)), Some(process)) = (&exit, listener.process) {
            self.end_group(process);
        }
        let exit = exit.map_err(|source| self.endpoint.failure(source))?;
        listener.end(exit)
    }
}

/// What tells our words from all others.
fn nonce() -> String {
    random::bytes::<8>().iter().map(|b| format!("{b:02x}")).collect()
}

/// Drops what a short command says.
struct Brief;

impl Receiver for Brief {
    fn stdout(&mut self, _: &[u8]) -> Result<(), RemoteError> {
        Ok(())
    }
    fn stderr(&mut self, _: &[u8]) -> Result<(), RemoteError> {
        Ok(())
    }
    fn patience(&self) -> Option<Duration> {
        Some(Duration::from_secs(3))
    }
    fn wants_input(&self) -> bool {
        false
    }
}

/// Looks for the verdict, then passes on, up to the marks where there are to be some.
struct Listener<'a> {
    mark: Vec<u8>,
    preamble: Vec<u8>,
    verdict: Option<String>,
    verdict_us: u64,
    process: Option<u32>,
    marked: bool,
    stdout: Marked,
    stderr: Marked,
    said: Vec<u8>,
    chatter: usize,
    to_the_end: bool,
    patience: Option<Duration>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    output: &'a mut dyn Output,
}

impl<'a> Listener<'a> {
    fn new(nonce: &str, given: &Given, output: &'a mut dyn Output) -> Self {
        Self {
            mark: mark_start(nonce).into_bytes(),
            preamble: Vec::new(),
            verdict: None,
            verdict_us: 0,
            process: None,
            marked: false,
            stdout: Marked::new(nonce),
            stderr: Marked::new(nonce),
            said: Vec::new(),
            chatter: 0,
            to_the_end: given.to_the_end,
            patience: given.patience,
            limit: given.limit,
            deadline: None,
            output,
        }
    }

    fn is_ready(&self) -> bool {
        self.verdict.as_deref().is_some_and(is_ready)
    }

    /// How the script ended; `exit` is what sshd says, `None` where the marks came first.
    fn end(mut self, exit: Option<Exit>) -> Result<Ended, WorkspaceError> {
        let (out, err) = (self.stdout.rest(), self.stderr.rest());
        let flushed = self.output.stdout(&out).and_then(|()| self.output.stderr(&err));
        flushed.map_err(|error| lost(stream(error), false))?;
        let ending = self.stderr.word().and_then(marks::ending);
        let (exit, timed_out) = match (ending, exit) {
            (Some(ending), _) => ending,
            // banger-guest itself was killed; or it is another that runs the command.
            (None, Some(exit @ Exit::Signal(_))) => (exit, false),
            (None, Some(exit)) if !self.marked => (exit, false),
            _ => {
                let said = "the guest does not say how it ended".to_owned();
                return Err(WorkspaceError::Guest { step: "running the command", said });
            }
        };
        let said = String::from_utf8_lossy(&self.said);
        let said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
        let verdict = self.verdict.unwrap_or_default();
        Ok(Ended { verdict, exit, verdict_us: self.verdict_us, said, timed_out })
    }

    /// Finds the verdict in what came so far; gives what follows it.
    fn find_verdict(&mut self) -> Option<Vec<u8>> {
        let at = self.preamble.windows(self.mark.len()).position(|w| w == self.mark)?;
        let word = &self.preamble[at + self.mark.len()..];
        let end = word.iter().position(|b| *b == b'\n')?;
        let (said, rest) = (String::from_utf8_lossy(&word[..end]).into_owned(), word[end + 1..].to_vec());
        let mut words = said.split(' ');
        self.verdict = words.next().map(str::to_owned);
        self.process = words.next().and_then(|word| word.parse().ok()).filter(|process| *process > 1);
        self.marked = words.next() == Some("marked");
        self.verdict_us = boottime_us();
        self.deadline =
            self.limit.and_then(|limit| Instant::now().checked_add(limit + TIMEOUT_GRACE + SLACK));
        if self.is_ready() {
            self.output.ready();
        }
        self.preamble.clear();
        Some(rest)
    }
}

impl Listener<'_> {
    /// Counts what nobody wants. A guest that says something for ever would otherwise never be silent for too long.
    fn count_chatter(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        self.chatter += bytes.len();
        if self.chatter > MAX_CHATTER {
            return Err(RemoteError::Stream(io::Error::other("the guest's shell prints without end")));
        }
        Ok(())
    }

    /// Takes what is the command's.
    fn pass_stdout(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        if !self.is_ready() {
            return self.count_chatter(bytes);
        }
        let output = &mut *self.output;
        let mut pass = |bytes: &[u8]| output.stdout(bytes);
        let passed = if self.marked { self.stdout.take(bytes, &mut pass) } else { pass(bytes) };
        passed.map_err(stream)
    }
}

impl Receiver for Listener<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        if self.verdict.is_some() {
            return self.pass_stdout(bytes);
        }
        self.preamble.extend_from_slice(bytes);
        match self.find_verdict() {
            Some(rest) if !rest.is_empty() => self.pass_stdout(&rest),
            None if self.preamble.len() > MAX_PREAMBLE => {
                Err(RemoteError::Stream(io::Error::other("the guest's login shell prints without end")))
            }
            _ => Ok(()),
        }
    }

    fn stderr(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        if self.is_ready() {
            let output = &mut *self.output;
            let mut pass = |bytes: &[u8]| output.stderr(bytes);
            let passed = if self.marked { self.stderr.take(bytes, &mut pass) } else { pass(bytes) };
            return passed.map_err(stream);
        }
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(MAX_SAID);
        self.said.drain(..excess);
        self.count_chatter(bytes)
    }

    fn patience(&self) -> Option<Duration> {
        if self.is_ready() { self.patience } else { Some(SILENCE) }
    }

    fn wants_input(&self) -> bool {
        self.verdict.is_none() || (self.to_the_end && self.is_ready())
    }

    fn awaits_input(&self) -> bool {
        // The checkout comes from us; the user's own stdin may be silent as long as it likes.
        self.verdict.is_none() && !self.to_the_end
    }

    fn is_done(&self) -> bool {
        self.stdout.word().is_some() && self.stderr.word().is_some()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// What an [`Output`] reports when a signal came while it waited for its reader.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by signal {0}")]
pub struct OutputInterrupted(pub i32);

fn stream(error: io::Error) -> RemoteError {
    let signal = error.get_ref().and_then(|e| e.downcast_ref::<OutputInterrupted>()).map(|e| e.0);
    signal.map_or(RemoteError::Output(error), RemoteError::Interrupted)
}

/// `words` for a POSIX shell, each in single quotes.
pub fn quote<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let quoted = words.into_iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// A script with its `@NAME@`s replaced by quoted values.
pub fn fill(script: &str, values: &BTreeMap<&str, String>) -> String {
    let mut out = String::with_capacity(script.len());
    let mut rest = script;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let value = after[1..].find('@').and_then(|end| values.get(&after[1..=end]).map(|v| (v, end + 2)));
        let (text, length) = value.map_or(("@", 1), |(v, length)| (v.as_str(), length));
        out.push_str(text);
        rest = &after[length..];
    }
    out + rest
}

/// Why `step` failed, by what a script of ours said.
pub fn failed(step: &'static str, guest_path: &str, ended: Ended) -> WorkspaceError {
    let guest_path = guest_path.to_owned();
    match ended.verdict.as_str() {
        "occupied" => WorkspaceError::Occupied { guest_path },
        "missing" => WorkspaceError::NotPrepared { guest_path },
        "cut" => WorkspaceError::Cut { guest_path },
        "no-workdir" => WorkspaceError::NoWorkdir { guest_path },
        _ if ended.said.is_empty() => {
            WorkspaceError::Guest { step, said: format!("it ended with {}", ended.exit) }
        }
        _ => WorkspaceError::Guest { step, said: ended.said },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quote(["it's", "$x", ""]), r"'it'\''s' '$x' ''");
        let values = BTreeMap::from([("PATH", quote(["@PATH@"])), ("B", "1".to_owned())]);
        assert_eq!(fill("a @PATH@ \"$@\" @B@ @", &values), "a '@PATH@' \"$@\" 1 @");
    }
}
