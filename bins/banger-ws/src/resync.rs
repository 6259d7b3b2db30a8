//! The second copy of a checkout into a guest: only what differs since the first one, and never over what the guest has changed.
//!
//! banger-guest receives and compares everything before it writes anything. Then it sets a mark, and from there on whatever is cut off
//! is completed by the next copy.

use std::fs::File;
use std::io;
use std::time::Duration;

use banger_contract::error::escape_controls;
use banger_host::clock::{Timeline, boottime_us};
use banger_host::git;
use banger_protocol::resync::VERB;

use crate::delta::{Delta, is_unread};
use crate::error::WorkspaceError;
use crate::guest::{Ended, Given, Guest, Output, failed};
use crate::shipment::Shipment;

/// How long the guest may be silent while it compares and writes.
const SILENCE: Duration = Duration::from_secs(600);
/// How many bytes of paths are taken.
const MAX_PATHS: usize = 4 << 20;

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub enum Resynced {
    /// The guest has all of it now, but for what it keeps of its own: `HEAD`, `index`.
    Done(Vec<String>),
    /// The guest's workspace is another one than the note says: of this prepared commit.
    Other(String),
    /// The guest has nobody who could do it: no banger-guest, or an older one.
    Unable,
}

/// The statuses of a banger-guest that does not know the verb, and of a shell that finds none: 126 and 127.
const UNABLE: std::ops::RangeInclusive<u8> = 125..=127;

/// Whether nobody was there to do it.
pub(super) fn is_unable(ended: &Ended) -> bool {
    ended.verdict.is_empty() && UNABLE.contains(&ended.exit.shell_status())
}

/// Collects what the script says.
#[derive(Default)]
struct Answer {
    said: Vec<u8>,
    complaints: Vec<u8>,
}

impl Output for Answer {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        if self.said.len() > MAX_PATHS {
            Err(io::Error::other("the guest names too many paths"))
        } else {
            Ok(())
        }
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.complaints.extend_from_slice(bytes);
        let excess = self.complaints.len().saturating_sub(4096);
        self.complaints.drain(..excess);
        Ok(())
    }
}

/// What goes to a workspace that is there.
pub(super) struct Exchange<'a> {
    /// The prepared commit that it is a difference to.
    pub(super) from: &'a str,
    pub(super) guest_path: &'a str,
}

impl Exchange<'_> {
    /// Sends what `write` writes, and gives the guest's answer.
    pub(super) fn carry_out(
        &self,
        guest: &Guest<'_>,
        timeline: &mut Timeline,
        write: impl FnOnce(File) -> Result<(), WorkspaceError> + Send,
    ) -> Result<Resynced, WorkspaceError> {
        let guest_path = self.guest_path;
        let args = ["--from", self.from, "--", guest_path];
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
        let start_us = boottime_us();
        let mut answer = Answer::default();
        let (sent, ended) = std::thread::scope(|scope| {
            let sender = scope.spawn(move || write(File::from(writer)));
            let given = Given { input: Some(reader), patience: Some(SILENCE), ..Given::default() };
            let ended = guest.run_own(VERB, &args, given, &mut answer);
            (sender.join().expect("the sender does not panic"), ended)
        });
        match sent {
            Err(error) if is_unread(&error) => {}
            other => other?,
        }
        let mut ended = ended?;
        timeline.note("send", start_us, ended.verdict_us.saturating_sub(start_us));
        timeline.note("resync", ended.verdict_us, boottime_us().saturating_sub(ended.verdict_us));
        if is_unable(&ended) {
            return Ok(Resynced::Unable);
        }
        if !ended.is_ready() {
            return Err(failed("sending what changed", guest_path, ended));
        }
        let text = |word: &&[u8]| escape_controls(&String::from_utf8_lossy(word));
        let words: Vec<&[u8]> = git::split_nul(&answer.said).collect();
        match words[..] {
            [b"done", ref kept @ .., b"end"] => Ok(Resynced::Done(kept.iter().map(text).collect())),
            [b"other", id, b"end"] => Ok(Resynced::Other(String::from_utf8_lossy(id).into_owned())),
            [b"other", b"end"] => Ok(Resynced::Other(String::new())),
            [b"conflict", ref paths @ .., b"end"] => Err(WorkspaceError::Changed {
                guest_path: guest_path.to_owned(),
                paths: paths.iter().filter(|path| !path.is_empty()).map(text).collect(),
            }),
            _ => {
                let said = String::from_utf8_lossy(&answer.complaints);
                ended.said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
                Err(failed("sending what changed", guest_path, ended))
            }
        }
    }
}

/// Sends `delta` to the workspace at `guest_path`. `force`: over what the guest has changed.
///
/// # Errors
/// [`WorkspaceError::Changed`] names what both have changed; nothing is different then.
pub fn resync(
    guest: &Guest<'_>,
    delta: &Delta,
    shipment: &Shipment,
    guest_path: &str,
    force: bool,
    timeline: &mut Timeline,
) -> Result<Resynced, WorkspaceError> {
    let plan = delta.plan(shipment, force);
    let part = shipment.survey.root();
    let exchange = Exchange { from: &delta.from.base_commit, guest_path };
    exchange.carry_out(guest, timeline, |out| delta.write(part, &shipment.base_commit, &plan, out))
}

/// Completes what was cut off in the workspace at `guest_path`, and gives the prepared commit that is there; `None` where the guest
/// has nobody who could do it.
///
/// # Errors
/// [`WorkspaceError`].
pub fn complete(guest: &Guest<'_>, guest_path: &str) -> Result<Option<String>, WorkspaceError> {
    let mut answer = Answer::default();
    let given = Given { patience: Some(SILENCE), ..Given::default() };
    let ended = guest.run_own(VERB, &["--", guest_path], given, &mut answer)?;
    if is_unable(&ended) {
        return Ok(None);
    }
    if !ended.is_ready() {
        return Err(failed("completing the copy before this one", guest_path, ended));
    }
    let words: Vec<&[u8]> = git::split_nul(&answer.said).collect();
    match words[..] {
        [b"other", id, b"end"] => Ok(Some(String::from_utf8_lossy(id).into_owned())),
        _ => Ok(Some(String::new())),
    }
}
