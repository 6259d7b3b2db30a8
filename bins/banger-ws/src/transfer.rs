//! The checkout's way into the guest: what our script does there, and what becomes of its answer.
//!
//! Each remote command costs an emulated guest a tenth of a second and more, so unpacking and the user's command are one.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use banger_contract::record::WorkspaceMode;
use banger_host::clock::{Timeline, boottime_us};
use banger_protocol::changes;
use banger_protocol::guest::HELPER_PATH;

use crate::command::{Command, Ending};
use crate::error::WorkspaceError;
use crate::guest::{Given, Guest, Output, failed, fill, quote};
use crate::reset::Thrown;
use crate::shipment::Shipment;
use crate::staging::PREPARED_REF;
use crate::{fill, stream};

/// Unpacks the stream on stdin unless what it holds is there already.
///
/// What is to be replaced steps aside until its successor is whole, and comes back where that fails.
const UNPACK: &str = r#"
p=@PATH@
old=${p%/*}/.${p##*/}.replaced
umask 022
same=
[ -e "$p" ] || [ ! -e "$old" ] || mv -- "$old" "$p"
if [ -e "$p" ] || [ -L "$p" ]; then
    if [ "$(git --git-dir="$p/.git" rev-parse -q --verify @REF@ 2>/dev/null)" = @BASE@ ]; then same=kept
    elif [ -n @FORCE@ ]; then
        rm -rf -- "$old" && mv -- "$p" "$old" || { say failed; exit 0; }
    elif ! rmdir -- "$p" 2>/dev/null; then say occupied; exit 0
    fi
fi
if [ -z "$same" ]; then
    if mkdir -p -- "$p" && TAR_OPTIONS=--warning=no-timestamp tar -xpf - -C "$p" && (cd -- "$p" && @FILL@) && @NOTE@ && @WHOLE@; then rm -rf -- "$old"; else
        rm -rf -- "$p"; [ ! -e "$old" ] || mv -- "$old" "$p"
        say failed; exit 0
    fi
fi
"#;

/// Tells mise, where the guest has it, that the workspace's configuration may be used; else it asks, or refuses. Best effort.
const TRUST: &str = r#"
if [ -z "$same" ]; then
    m=$(command -v mise) || m=$HOME/.local/bin/mise
    if [ -x "$m" ]; then (cd "$p" && timeout 20 "$m" trust --all --yes --quiet) </dev/null >/dev/null 2>&1; fi
fi
"#;

/// Whether mise would read the file at `path` in the root of a checkout (mise, "Configuration").
fn is_mise_config(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let local = text.strip_prefix('.').unwrap_or(text);
    let toml = text.ends_with(".toml");
    text == ".tool-versions"
        || (toml && local.starts_with("mise.") && !text.contains('/'))
        || (toml && (text.starts_with(".config/mise") || local.starts_with("mise/")))
}

/// Has banger-guest keep what the files are right after they have come. Without it they are read at the next comparison.
fn note_script(guest_path: &str) -> String {
    let values = BTreeMap::from([
        ("HELPER", HELPER_PATH.to_owned()),
        ("VERB", changes::NOTE_VERB.to_owned()),
        ("PATH", quote([guest_path])),
        ("SENT", changes::SENT.to_owned()),
    ]);
    fill("{ @HELPER@ @VERB@ -- @PATH@ 2>/dev/null || rm -f -- \"$p/@SENT@\"; }", &values)
}

/// How a shipment went.
#[derive(Debug)]
pub struct Sent {
    /// Whether it was unpacked; it may have been there.
    pub changed: bool,
    /// What the guest has kept of its own, though the host's is another: `HEAD`, `index`.
    pub kept: Vec<String>,
    /// What of the guest's was thrown away before, where that was asked for.
    pub thrown: Thrown,
    /// How the command ended.
    pub ending: Ending,
}

/// Checks a path in the guest.
pub fn check_guest_path(path: &str) -> Result<(), WorkspaceError> {
    let parts_fine = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    let fine =
        path.starts_with('/') && path.len() <= 1024 && parts_fine && !path.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(WorkspaceError::GuestPath(path.to_owned())) }
}

/// Checks a commit id, in full or cut.
pub fn check_commit(id: &str) -> Result<(), WorkspaceError> {
    let fine = (4..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
    if fine { Ok(()) } else { Err(WorkspaceError::BaseCommit(id.to_owned())) }
}

/// Drops what is said.
struct Nobody;

impl Output for Nobody {
    fn stdout(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the shipment to `guest_path` unless it is there (`force`: in place of whatever is), then runs the command `words` there; gives how the command ended.
pub fn send_and_run(
    guest: &Guest<'_>,
    shipment: &Shipment,
    guest_path: &str,
    force: bool,
    command: Option<&Command>,
    output: &mut dyn Output,
    timeline: &mut Timeline,
) -> Result<Sent, WorkspaceError> {
    let mode = shipment.survey.choice.mode;
    let whole = match mode {
        WorkspaceMode::Files => format!("[ -f \"$p/{}\" ] && rm -rf -- \"$p/.git\"", stream::END),
        WorkspaceMode::Full | WorkspaceMode::Shallow => "[ -f \"$p/.git/HEAD\" ]".to_owned(),
    };
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([shipment.base_commit.as_str()])),
        ("REF", quote([PREPARED_REF])),
        ("FORCE", quote([if force { "1" } else { "" }])),
        ("WHOLE", whole),
        ("NOTE", note_script(guest_path)),
        ("FILL", format!("if [ -f {0} ]; then . ./{0}; fi", fill::SCRIPT)),
    ]);
    let mise = shipment.survey.root().selection.entries.iter().any(|entry| is_mise_config(&entry.path));
    let end = command.map_or_else(
        || "say \"${same:-ready}\"\n".to_owned(),
        |command| command.script(guest_path, mode, false),
    );
    let script = fill(&[UNPACK, if mise { TRUST } else { "" }].concat(), &values) + &end;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
    let start_us = boottime_us();
    let (sent, ended) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || stream::write(std::fs::File::from(writer), shipment));
        let limit = command.and_then(|command| command.limit);
        let given = Given { input: Some(reader), is_command: command.is_some(), limit, ..Given::default() };
        let ended = guest.run_with(&script, given, output);
        (sender.join().expect("the sender does not panic"), ended)
    });
    // A file that moved makes a short stream, which the guest complains about: the cause counts, not the complaint. A guest that
    // stops reading makes the sender fail, which is only a consequence.
    match sent {
        Err(error @ WorkspaceError::Moving(_)) => return Err(error),
        Err(WorkspaceError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {}
        // A VM that is deleted takes along the folder in which the host packs.
        Err(_) if matches!(ended, Err(WorkspaceError::Ssh { stopped: true, .. })) => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let ended = ended?;
    if let Some((start_us, duration_us)) = shipment.repositories.first().and_then(|r| r.packing.waited_us()) {
        timeline.note("pack", start_us, duration_us);
    }
    timeline.note("unpack", start_us, ended.verdict_us.saturating_sub(start_us));
    if !ended.is_ready() {
        return Err(failed("unpacking the checkout", guest_path, ended));
    }
    let took_us = boottime_us() - ended.verdict_us;
    let changed = ended.verdict != "kept";
    let ending = match command {
        Some(command) => {
            timeline.note("command", ended.verdict_us, took_us);
            command.judge(ended.exit, ended.timed_out, Duration::from_micros(took_us))
        }
        None => Ending { exit: ended.exit, timed_out: false },
    };
    Ok(Sent { changed, kept: Vec::new(), thrown: Thrown::default(), ending })
}

/// Whether the workspace at `guest_path` is the one of `base_commit`.
pub fn verify(guest: &Guest<'_>, guest_path: &str, base_commit: &str) -> Result<(), WorkspaceError> {
    let script = "[ \"$(git --git-dir=@PATH@/.git rev-parse -q --verify @REF@)\" = @BASE@ ] && say ready || say missing\n";
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("BASE", quote([base_commit])),
        ("REF", quote([PREPARED_REF])),
    ]);
    // The prefix of an option does not end where a quoted word begins, so "--git-dir='…'/.git" is one word.
    let ended = guest.run(&fill(script, &values), None, None, &mut Nobody)?;
    if ended.is_ready() { Ok(()) } else { Err(failed("looking for the workspace", guest_path, ended)) }
}
