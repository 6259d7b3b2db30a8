//! A command in the workspace: the script that becomes it, by way of banger-guest where that is to be had.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use banger_contract::record::WorkspaceMode;
use banger_host::clock::{Timeline, boottime_us};
use banger_protocol::guest::{HELPER_PATH, NO_SUCH_COMMAND_STATUS, TIMEOUT_GRACE};

use crate::error::WorkspaceError;
use crate::guest::{Given, Guest, Output, failed, fill, quote};
use crate::sys::remote::Exit;

/// The status of a command that was over its time, as timeout(1) has it.
pub const TIMEOUT_STATUS: u8 = 124;

/// How much later than in the guest a command may seem to begin.
const LATE: Duration = Duration::from_secs(2);

/// A command and what it runs in.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// The command and its arguments.
    pub words: Vec<String>,
    /// Variables of its environment; the names are a shell's.
    pub env: Vec<(String, String)>,
    /// Its directory, relative to the workspace, or absolute.
    pub workdir: Option<String>,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// Whether it runs through mise where the guest has it.
    pub mise: bool,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How its process ended.
    pub exit: Exit,
    /// Whether it was ended since it was over its time.
    pub timed_out: bool,
}

impl Ending {
    /// The status for the caller: a shell's, and timeout(1)'s.
    pub fn shell_status(&self) -> u8 {
        if self.timed_out { TIMEOUT_STATUS } else { self.exit.shell_status() }
    }
}

/// To the command's directory.
const ENTER: &str = r#"
if ! cd @PATH@ || [ ! -e @PROOF@ ]; then say missing; exit 0; fi
if [ -f .git/banger-sync/go ]; then say cut; exit 0; fi
@WORKDIR@set -- @COMMAND@
"#;

const WORKDIR: &str = "if ! cd -- @DIR@ 2>/dev/null; then say no-workdir; exit 0; fi\n";

/// mise reads the files of this repository without being asked whether it may: they came from the host with the rest.
const MISE: &str = r#"
for m in mise "$HOME/.local/bin/mise" /usr/local/bin/mise ''; do command -v "$m" >/dev/null 2>&1 && break; done
if [ -n "$m" ]; then
    MISE_TRUSTED_CONFIG_PATHS=${MISE_TRUSTED_CONFIG_PATHS:-@PATH@}
    export MISE_TRUSTED_CONFIG_PATHS
fi
"#;

/// The variables are set at the last moment: they are the command's, not this shell's. What the script says of itself in a list of
/// processes is gone with it.
const BECOME: &str = r#"
g=@HELPER@
if [ -x "$g" ]; then
    [ -z "$m" ] || set -- "$m" exec -- "$g" start -- "$@"
    say "${same:-ready}" marked
    @EXPORTS@
    exec "$g" exec @HOW@ -- "$@" @INPUT@
fi
[ -z "$m" ] || set -- "$m" exec -- "$@"
say "${same:-ready}"
@EXPORTS@
if ! command -v "$1" >/dev/null && [ ! -e "$1" ]; then
    printf 'banger: %s: not found in the guest\n' "$1" >&2
    exit @MISSING@
fi
exec @TIMEOUT@ "$@" @INPUT@
"#;

/// What is in a workspace that was prepared with `mode`.
fn proof(mode: WorkspaceMode) -> String {
    let proof = if mode == WorkspaceMode::Files { "." } else { ".git" };
    proof.to_owned()
}

impl Command {
    /// What [`Guest::run_with`] is to run; the shell variable `same` may hold another verdict than `ready`. `reads` says whether the
    /// command has the script's stdin, or none.
    pub(super) fn script(&self, guest_path: &str, mode: WorkspaceMode, reads: bool) -> String {
        self.fill(guest_path, mode, "--nonce \"$nonce\"", reads)
    }

    /// A script that becomes the command on the terminal that it is started on.
    pub fn terminal_script(&self, guest_path: &str, mode: WorkspaceMode) -> String {
        let say =
            r#"say() { case "$1" in ready) return;; esac; printf 'banger: %s\n' @WHY@ >&2; exit 125; }"#;
        let why = format!("there is no workspace at {guest_path}, or nothing to change to in it");
        let say = fill(say, &BTreeMap::from([("WHY", quote([why.as_str()]))]));
        format!("same=\n{say}\n{}", self.fill(guest_path, mode, "", true))
    }

    fn fill(&self, guest_path: &str, mode: WorkspaceMode, how: &str, reads: bool) -> String {
        let limit = self.limit.map(|limit| limit.as_millis().max(1));
        let timeout = self.limit.map_or_else(String::new, |limit| {
            format!("timeout -k {} {}", TIMEOUT_GRACE.as_secs(), limit.as_secs_f64().max(0.001))
        });
        let workdir = self.workdir.as_deref().map_or_else(String::new, |dir| {
            // A relative one that begins with a dash is no option, and "-" not the directory before. The root is that of the workspace.
            let dir = match dir.trim_end_matches('/') {
                "" => ".".to_owned(),
                _ if dir.starts_with('/') => dir.to_owned(),
                _ => format!("./{dir}"),
            };
            fill(WORKDIR, &BTreeMap::from([("DIR", quote([dir.as_str()]))]))
        });
        let exports = self.env.iter().map(|(key, value)| format!("export {key}={}", quote([value.as_str()])));
        let values = BTreeMap::from([
            ("PATH", quote([guest_path])),
            ("PROOF", proof(mode)),
            ("WORKDIR", workdir),
            ("COMMAND", quote(self.words.iter().map(String::as_str))),
            ("HELPER", HELPER_PATH.to_owned()),
            ("EXPORTS", exports.collect::<Vec<_>>().join("\n")),
            ("HOW", limit.map_or_else(|| how.to_owned(), |ms| format!("{how} --timeout-ms {ms}"))),
            ("INPUT", if reads { String::new() } else { "</dev/null".to_owned() }),
            ("MISSING", NO_SUCH_COMMAND_STATUS.to_string()),
            ("TIMEOUT", timeout),
        ]);
        let mise = if self.mise { MISE } else { "m=\n" };
        fill(&[ENTER, mise, BECOME].concat(), &values)
    }
}

/// Runs `command` in the workspace at `guest_path`, on `input` if there is some.
pub fn run(
    guest: &Guest<'_>,
    guest_path: &str,
    mode: WorkspaceMode,
    command: &Command,
    input: Option<OwnedFd>,
    output: &mut dyn Output,
    timeline: &mut Timeline,
) -> Result<Ending, WorkspaceError> {
    let script = format!("same=\n{}", command.script(guest_path, mode, input.is_some()));
    let given = Given { input, is_command: true, to_the_end: true, limit: command.limit, ..Given::default() };
    let ended = guest.run_with(&script, given, output)?;
    if !ended.is_ready() {
        return Err(failed("running the command", guest_path, ended));
    }
    let duration_us = boottime_us() - ended.verdict_us;
    timeline.note("command", ended.verdict_us, duration_us);
    Ok(command.judge(ended.exit, ended.timed_out, Duration::from_micros(duration_us)))
}

impl Command {
    /// How the command ended, by what is known. Where timeout(1) ran it only its status and the clock tell, and the clock began when
    /// the word of its beginning came here: somewhat later than in the guest.
    pub(super) fn judge(&self, exit: Exit, timed_out: bool, took: Duration) -> Ending {
        let status = exit.shell_status();
        let seems_so =
            matches!(status, TIMEOUT_STATUS | 137) && self.limit.is_some_and(|limit| took + LATE >= limit);
        Ending { exit, timed_out: timed_out || seems_so }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_seems_to_begin_late_was_over_its_time_all_the_same() {
        let command = |seconds| Command { limit: Some(Duration::from_secs(seconds)), ..Command::default() };
        let over = Exit::Status(TIMEOUT_STATUS);
        assert!(command(1).judge(over.clone(), false, Duration::from_millis(900)).timed_out);
        // Its own status, long before.
        assert!(!command(60).judge(over.clone(), false, Duration::from_secs(1)).timed_out);
        assert!(!Command::default().judge(over, false, Duration::from_secs(1)).timed_out);
    }
}
