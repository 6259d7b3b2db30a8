//! A command of the host's: run, waited for, and its end told apart from that of the streams, which background processes may
//! hold. See [`banger_protocol::guest`], "Commands".

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{AccessFlags, Pid, access};

use crate::login::DEFAULT_PATH;
use crate::{changes, resync, serve, sys};
use banger_protocol::guest::{NO_SUCH_COMMAND_STATUS, NOT_EXECUTABLE_STATUS, TIMEOUT_GRACE, mark_start};
use banger_protocol::{changes as changes_protocol, resync as plan};

/// The status for arguments that are wrong, and for a timeout: those of timeout(1).
const USAGE_STATUS: u8 = 125;
const TIMEOUT_STATUS: u8 = 124;
/// How often it is asked whether a group that was told to end is gone.
const TICK: Duration = Duration::from_millis(20);

/// What this program was called for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    /// Whether to become the command, rather than to wait for it.
    start: bool,
    /// The nonce of the marks; without one there are none and the command has the terminal.
    nonce: Option<String>,
    limit: Option<Duration>,
    words: Vec<OsString>,
}

/// Runs what the arguments say.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    match words.iter().map(|word| word.to_str().unwrap_or_default()).collect::<Vec<_>>()[..] {
        ["serve"] => return serve::main(false),
        ["serve", "-"] => return serve::main(true),
        [changes_protocol::VERB, ..] => {
            return changes::main(std::env::args_os().skip(2)).unwrap_or_else(refuse);
        }
        [changes_protocol::NOTE_VERB, ..] => {
            return changes::note(std::env::args_os().skip(2)).unwrap_or_else(refuse);
        }
        [plan::VERB, ..] => return resync::main(std::env::args_os().skip(2)).unwrap_or_else(refuse),
        _ => {}
    }
    let Some(call) = parse(std::env::args_os().skip(1)) else { return refuse() };
    if call.start { ExitCode::from(start(&call.words)) } else { run(&call) }
}

fn refuse() -> ExitCode {
    say("this is the init of banger's VMs, and what runs commands in them; it does nothing else");
    ExitCode::from(USAGE_STATUS)
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Call> {
    let mut call = Call {
        start: args.next().filter(|verb| verb == "start" || verb == "exec")? == "start",
        ..Call::default()
    };
    loop {
        match args.next()?.to_str()? {
            "--" => break,
            "--nonce" => call.nonce = Some(args.next()?.into_string().ok()?),
            "--timeout-ms" => {
                call.limit = Some(Duration::from_millis(args.next()?.to_str()?.parse().ok()?));
            }
            _ => return None,
        }
    }
    call.words = args.collect();
    (!call.words.is_empty()).then_some(call)
}

/// One line on stderr. Nobody may be there to read it.
fn say(line: &str) {
    drop(io::stderr().write_all(format!("banger: {line}\n").as_bytes()));
}

/// Why there is no process: what to say, and the status.
#[derive(Debug)]
struct Refusal {
    message: String,
    status: u8,
}

impl Refusal {
    fn missing(word: &OsStr) -> Self {
        let message = format!("{}: not found in the guest", word.to_string_lossy());
        Self { message, status: NO_SUCH_COMMAND_STATUS }
    }

    fn of(word: &OsStr, path: &Path, error: &io::Error) -> Self {
        let word = word.to_string_lossy();
        match error.raw_os_error() {
            // The file itself is there, or it would not have come to this.
            Some(libc::ENOENT) if path.exists() => {
                let message = format!("{word}: the interpreter that it names is not in the guest");
                Self { message, status: NO_SUCH_COMMAND_STATUS }
            }
            Some(libc::ENOENT) => Self::missing(OsStr::new(&*word)),
            code => {
                let why =
                    code.map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().to_owned());
                Self {
                    message: format!("{word}: cannot be executed in the guest: {why}"),
                    status: NOT_EXECUTABLE_STATUS,
                }
            }
        }
    }

    fn tell(self) -> u8 {
        say(&self.message);
        self.status
    }
}

/// The file that `word` names, as execvp(3) finds it. One that may not be executed is given where there is no better.
fn find(word: &OsStr) -> Option<PathBuf> {
    if word.is_empty() {
        return None;
    }
    if word.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(word));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut second_best = None;
    for directory in std::env::split_paths(&path) {
        let candidate = Path::new(".").join(directory).join(word);
        if candidate.is_file() {
            if access(&candidate, AccessFlags::X_OK).is_ok() {
                return Some(candidate);
            }
            second_best.get_or_insert(candidate);
        }
    }
    second_best
}

fn command(program: impl AsRef<OsStr>, args: &[OsString]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the user's command: the guest has no deadlines of ours")]
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Makes a process of `words` through `make`. What is executable but has no format that the kernel knows is a shell script, as for
/// every shell.
fn launch<T>(words: &[OsString], make: impl Fn(&mut Command) -> io::Result<T>) -> Result<T, Refusal> {
    let (word, args) = words.split_first().expect("there is a command");
    let path = find(word).ok_or_else(|| Refusal::missing(word))?;
    let made = match make(command(&path, args).arg0(word)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            let args: Vec<OsString> =
                std::iter::once(path.clone().into()).chain(args.iter().cloned()).collect();
            make(&mut command("/bin/sh", &args))
        }
        made => made,
    };
    made.map_err(|error| Refusal::of(word, &path, &error))
}

/// Becomes the command; gives the status where that fails.
fn start(words: &[OsString]) -> u8 {
    match launch::<()>(words, |command| Err(command.exec())) {
        Ok(()) => 0,
        Err(refusal) => refusal.tell(),
    }
}

/// How a command ended.
struct End {
    status: ExitStatus,
    timed_out: bool,
}

impl End {
    fn shell_status(&self) -> u8 {
        match (self.timed_out, self.status.code(), self.status.signal()) {
            (true, ..) => TIMEOUT_STATUS,
            (false, Some(code), _) => code as u8,
            (false, None, signal) => 128 + signal.unwrap_or(0) as u8,
        }
    }

    fn words(&self) -> String {
        let timeout = if self.timed_out { " timeout" } else { "" };
        match self.status.signal() {
            Some(signal) => format!("signal {signal}{timeout}"),
            None => format!("exit {}{timeout}", self.status.code().unwrap_or(0)),
        }
    }
}

/// Makes a process of the command.
fn spawn(call: &Call) -> Result<Running, Refusal> {
    let has_terminal = call.nonce.is_none();
    let child = launch(&call.words, |command| {
        sys::unblock_signals(command);
        // A group of its own can be ended as a whole. On a terminal it must be in the foreground group, which is ours.
        if has_terminal { command.spawn() } else { command.process_group(0).spawn() }
    })?;
    Ok(Running { child, has_terminal })
}

/// Runs the command, waits for it, and marks the end of both streams.
fn run(call: &Call) -> ExitCode {
    let signals = match signals() {
        Ok(signals) => signals,
        Err(errno) => {
            say(&format!("cannot receive signals: {errno}"));
            return ExitCode::from(USAGE_STATUS);
        }
    };
    let end = spawn(call).map(|running| running.wait(&signals, call.limit));
    let (status, words) = match end {
        Ok(end) => (end.shell_status(), end.words()),
        Err(refusal) => {
            let status = refusal.tell();
            (status, format!("exit {status}"))
        }
    };
    if let Some(nonce) = &call.nonce {
        let start = mark_start(nonce);
        write_all(io::stdout().as_fd(), format!("{start}end\n").as_bytes());
        write_all(io::stderr().as_fd(), format!("{start}{words}\n").as_bytes());
    }
    ExitCode::from(status)
}

/// The signals that are passed on, or that say that the command ended.
fn signals() -> nix::Result<SignalFd> {
    let set: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]
        .into_iter()
        .collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

struct Running {
    child: Child,
    has_terminal: bool,
}

impl Running {
    /// Waits for the command. Over its time, or told to end, the whole group is.
    fn wait(mut self, signals: &SignalFd, limit: Option<Duration>) -> End {
        let mut until = limit.map(|limit| Instant::now() + limit);
        let mut timed_out = false;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    if timed_out {
                        self.clear_group(until);
                    }
                    return End { status, timed_out };
                }
                Ok(None) => {}
                // Nobody else waits for it: this does not happen, and must not become an endless loop.
                Err(_) => return End { status: ExitStatus::from_raw(Signal::SIGKILL as i32), timed_out },
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                self.signal(if timed_out { Signal::SIGKILL } else { Signal::SIGTERM });
                self.signal(Signal::SIGCONT);
                until = (!timed_out).then(|| Instant::now() + TIMEOUT_GRACE);
                timed_out = true;
            }
            await_signal(signals, until);
            while let Ok(Some(info)) = signals.read_signal() {
                let signal = Signal::try_from(info.ssi_signo as i32);
                // What the terminal sends reaches the command by itself.
                if let Ok(signal) = signal
                    && !self.has_terminal
                    && signal != Signal::SIGCHLD
                {
                    self.signal(signal);
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let target = match (self.has_terminal, signal) {
            (false, _) => Pid::from_raw(-pid.as_raw()),
            // SIGKILL for our own group would be for us.
            (true, Signal::SIGKILL) => pid,
            (true, _) => Pid::from_raw(0),
        };
        // It may have ended.
        kill(target, signal).ok();
    }

    /// Waits for what is left of the group, and kills it at `until`.
    fn clear_group(&self, until: Option<Instant>) {
        let group = Pid::from_raw(-(self.child.id() as i32));
        while !self.has_terminal && kill(group, None).is_ok() {
            if until.is_none_or(|until| Instant::now() >= until) {
                kill(group, Signal::SIGKILL).ok();
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Waits for a signal, until `until`.
fn await_signal(signals: &SignalFd, until: Option<Instant>) {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let timeout =
        left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    // EINTR and all else: the caller looks again.
    let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
}

/// Writes all of it, also where the command has left the stream non-blocking. With nobody to read it there is nobody to tell.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Option<Call> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn only_whole_calls_are_taken() {
        let whole = call(&["exec", "--nonce", "ab", "--timeout-ms", "1500", "--", "ls", "--", "-l"]).unwrap();
        assert_eq!((whole.nonce.as_deref(), whole.limit), (Some("ab"), Some(Duration::from_millis(1500))));
        assert_eq!(whole.words, ["ls", "--", "-l"]);
        assert!(call(&["start", "--", "ls"]).unwrap().start);
        for bad in [
            &["exec"][..],
            &["exec", "--"],
            &["exec", "ls"],
            &["x", "--", "ls"],
            &["exec", "--nonce", "--", "x"],
            &[],
        ] {
            assert_eq!(call(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_cannot_be_started_says_so_as_the_shell_would() {
        let refusal = |word: &str| launch(&[word.into()], |command| command.status()).unwrap_err();
        let missing = refusal("no-such-command-here");
        assert_eq!(missing.message, "no-such-command-here: not found in the guest");
        assert_eq!((missing.status, refusal("").status, refusal("/nonexistent/x").status), (127, 127, 127));
        let directory = refusal("/tmp");
        assert_eq!(directory.status, 126);
        assert_eq!(directory.message, "/tmp: cannot be executed in the guest: Permission denied");
    }

    #[test]
    fn a_command_is_ended_by_the_signals_that_this_program_takes() {
        let _blocked = signals().unwrap();
        let words = ["sh", "-c", "kill -TERM $$; exit 3"].map(OsString::from).to_vec();
        let mut running = spawn(&Call { words, ..Call::default() }).unwrap();
        assert_eq!(running.child.wait().unwrap().signal(), Some(15));
    }

    #[test]
    fn the_end_is_told_in_words() {
        let end = |raw, timed_out| End { status: ExitStatus::from_raw(raw), timed_out };
        assert_eq!((end(7 << 8, false).words(), end(7 << 8, false).shell_status()), ("exit 7".into(), 7));
        assert_eq!((end(11, false).words(), end(11, false).shell_status()), ("signal 11".into(), 139));
        assert_eq!((end(15, true).words(), end(15, true).shell_status()), ("signal 15 timeout".into(), 124));
    }
}
