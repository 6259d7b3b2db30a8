//! The connection to a guest, and the words in which our scripts answer.
//!
//! A script is run by root's login shell (any POSIX shell). It says its verdict in one marked line on stdout before anything else
//! of interest; the mark holds a nonce, so nothing that the guest prints by itself is taken for it. After the verdict `ready` (or `kept`) the
//! stream belongs to the command.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::error::WorkspaceError;
use crate::contract::error::escape_controls;
use crate::contract::record::{Net, Vm};
use crate::state::dir::{StateDir, VmDir};
use crate::state::lock::is_alive;
use crate::sys::clock::boottime_us;
use crate::sys::random;
use crate::sys::signal::Interrupts;
use crate::sys::ssh::{Exit, Keys, Receiver, Session, SshError, Target, Watch};

/// How long connecting may take: an emulated guest needs seconds for a key exchange.
const CONNECT: Duration = Duration::from_secs(90);
/// How long a script may be silent, and take nothing of its input, before its verdict.
const SILENCE: Duration = Duration::from_secs(120);
/// How much a login shell may print before the verdict, bytes.
const MAX_PREAMBLE: usize = 64 << 10;
/// How much of a script's stderr an error keeps, bytes.
const MAX_SAID: usize = 4 << 10;

/// Where a guest's sshd is, with the keys: all that is read before connecting.
#[derive(Debug)]
pub struct Endpoint {
    target: Target,
    keys: Keys,
    dir: VmDir,
}

impl Endpoint {
    /// Of the VM `vm` with the network `net`.
    pub fn of(state: &StateDir, vm: &Vm, net: &Net) -> Result<Self, WorkspaceError> {
        let dir = VmDir::at(&vm.paths.dir);
        let target = Target::root(net.ssh_host, net.ssh_port, dir.host_key_pub(), state.client_key());
        let keys = Keys::read(&target).map_err(|source| WorkspaceError::Ssh { stopped: false, source })?;
        Ok(Self { target, keys, dir })
    }

    /// The TCP port of sshd.
    pub fn port(&self) -> u16 {
        self.target.address.port()
    }

    /// Whether the VM's supervisor lives. A VM that was never started here has no lock to ask.
    fn lives(&self) -> bool {
        !self.dir.run_lock().exists() || is_alive(&self.dir)
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
}

impl<'a> Guest<'a> {
    /// Connects.
    pub fn connect(endpoint: &'a Endpoint, interrupts: &'a Interrupts) -> Result<Self, WorkspaceError> {
        let alive = || endpoint.lives();
        let watch = Watch { interrupts, alive: &alive };
        let session = Session::connect(&endpoint.target, &endpoint.keys, CONNECT, &watch);
        let session = session.map_err(|source| WorkspaceError::Ssh { stopped: !endpoint.lives(), source })?;
        Ok(Self { endpoint, session, interrupts, started: Cell::new(false) })
    }

    /// Whether a script came as far as `ready`, so that the user's command may have run.
    pub fn has_started(&self) -> bool {
        self.started.get()
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
        let nonce: String = random::bytes::<8>().iter().map(|b| format!("{b:02x}")).collect();
        let command = format!("say() {{ printf '\\036banger:{nonce}:%s\\n' \"$1\"; }}\n{script}");
        let mut listener = Listener {
            mark: format!("\x1ebanger:{nonce}:").into_bytes(),
            preamble: Vec::new(),
            verdict: None,
            verdict_us: 0,
            said: Vec::new(),
            patience,
            output,
        };
        let alive = || self.endpoint.lives();
        let watch = Watch { interrupts: self.interrupts, alive: &alive };
        let exit = self.session.exec(&command, input, &mut listener, &watch);
        self.started.set(self.started.get() || listener.is_ready());
        let exit = exit.map_err(|source| WorkspaceError::Ssh { stopped: !self.endpoint.lives(), source })?;
        let said = String::from_utf8_lossy(&listener.said);
        let said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
        let verdict = listener.verdict.unwrap_or_default();
        Ok(Ended { verdict, exit, verdict_us: listener.verdict_us, said })
    }
}

/// Looks for the verdict, then passes on.
struct Listener<'a> {
    mark: Vec<u8>,
    preamble: Vec<u8>,
    verdict: Option<String>,
    verdict_us: u64,
    said: Vec<u8>,
    patience: Option<Duration>,
    output: &'a mut dyn Output,
}

impl Listener<'_> {
    fn is_ready(&self) -> bool {
        self.verdict.as_deref().is_some_and(is_ready)
    }

    /// Finds the verdict in what came so far; gives what follows it.
    fn find_verdict(&mut self) -> Option<Vec<u8>> {
        let at = self.preamble.windows(self.mark.len()).position(|w| w == self.mark)?;
        let word = &self.preamble[at + self.mark.len()..];
        let end = word.iter().position(|b| *b == b'\n')?;
        let (verdict, rest) = (String::from_utf8_lossy(&word[..end]).into_owned(), word[end + 1..].to_vec());
        self.verdict = Some(verdict);
        self.verdict_us = boottime_us();
        if self.is_ready() {
            self.output.ready();
        }
        self.preamble.clear();
        Some(rest)
    }
}

impl Receiver for Listener<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> Result<(), SshError> {
        if self.verdict.is_some() {
            return if self.is_ready() { self.output.stdout(bytes).map_err(stream) } else { Ok(()) };
        }
        self.preamble.extend_from_slice(bytes);
        match self.find_verdict() {
            Some(rest) if self.is_ready() && !rest.is_empty() => self.output.stdout(&rest).map_err(stream),
            None if self.preamble.len() > MAX_PREAMBLE => {
                Err(SshError::Stream(io::Error::other("the guest's login shell prints without end")))
            }
            _ => Ok(()),
        }
    }

    fn stderr(&mut self, bytes: &[u8]) -> Result<(), SshError> {
        if self.is_ready() {
            return self.output.stderr(bytes).map_err(stream);
        }
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(MAX_SAID);
        self.said.drain(..excess);
        Ok(())
    }

    fn patience(&self) -> Option<Duration> {
        if self.is_ready() { self.patience } else { Some(SILENCE) }
    }

    fn wants_input(&self) -> bool {
        self.verdict.is_none()
    }
}

/// What an [`Output`] reports when a signal came while it waited for its reader.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by signal {0}")]
pub struct OutputInterrupted(pub i32);

fn stream(error: io::Error) -> SshError {
    let signal = error.get_ref().and_then(|e| e.downcast_ref::<OutputInterrupted>()).map(|e| e.0);
    signal.map_or(SshError::Stream(error), SshError::Interrupted)
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
