//! `prepare`: the checkout goes in.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::error::escape_controls;
use banger_contract::record::{Outcome, Workspace};
use banger_host::clock::{Timeline, now_rfc3339};
use banger_protocol::changes::Request;
use banger_state::dir::VmDir;
use banger_state::handles::Handles;

use crate::agreed;
use crate::checkout::Checkout;
use crate::cli::args::{Comparison, PrepareArgs, Source};
use crate::cli::export::Base;
use crate::cli::job::{Job, SESSION_FD_VARIABLE, report};
use crate::cli::report::{Live, RecordTo};
use crate::cli::{TOOL, changes, inspect, summary};
use crate::command::{Command, Ending};
use crate::delta::{Compared, Delta};
use crate::error::WorkspaceError;
use crate::guest::{Guest, Output};
use crate::index::Index;
use crate::maker::Maker;
use crate::note::{Note, Notes, Stage};
use crate::patch::quoted;
use crate::reset::{self, Thrown};
use crate::resync::{self, Resynced};
use crate::sent::{self, Memory};
use crate::shipment::{Committed, Shipment};
use crate::survey::Survey;
use crate::sys::remote::Exit;
use crate::transfer::{self, Sent};

/// How many of the paths that were thrown away are named.
const MAX_TOLD: usize = 20;

/// A checkout that is about to be sent.
pub(super) struct Staged {
    shipment: Shipment,
    /// What differs from what the guest was given.
    compared: Option<Compared>,
    /// What it is to be compared with the next time.
    note: Note,
    notes: Notes,
    memory: Memory,
    force: bool,
    /// What both sides agree on, and what reads it: where all that the guest has changed since is to be thrown away.
    agreed: RefCell<Option<(Request, Maker)>>,
    /// Whether the guest has nobody who could take differences.
    is_unable: Cell<bool>,
    pub(super) guest_path: String,
}

impl Staged {
    pub(super) fn new(job: &mut Job, source: &Source) -> Result<Self, Failure> {
        if let Some(path) = &source.guest_path {
            transfer::check_guest_path(path)?;
        }
        let parent = job.dir().path().to_owned();
        let (notes, memory) = (Notes::of(&job.dir()), Memory::of(&job.dir()));
        let (survey, guest_path) = job.timeline.step("inspect", || look(source, &parent, &notes, &memory))?;
        let (shipment, compared, note) = load(survey, &notes, &memory, &guest_path, &mut job.timeline)?;
        let (force, is_unable) = (source.force, Cell::new(false));
        let given = notes.load(Stage::Sent).filter(|_| force && compared.is_some());
        let agreed = given.and_then(|note| memory.agreed(&note.base_commit)).map(|agreed| {
            let maker = Maker::start(&parent, &[memory.objects()], agreed.sha256)?;
            Ok::<_, WorkspaceError>((agreed, maker))
        });
        let agreed = RefCell::new(agreed.transpose()?);
        Ok(Self { shipment, compared, note, notes, memory, force, agreed, is_unable, guest_path })
    }

    fn delta(&self) -> Option<&Delta> {
        match &self.compared {
            Some(Compared::Differs(delta)) => Some(delta),
            _ => None,
        }
    }

    fn survey(&self) -> &Survey {
        &self.shipment.survey
    }

    pub(super) fn base_commit(&self) -> &str {
        &self.shipment.base_commit
    }

    /// Whether the command can be part of what unpacks the checkout.
    pub(super) fn can_take_along(&self) -> bool {
        self.delta().is_none()
    }

    pub(super) fn root(&self) -> &Path {
        &self.survey().root().checkout.root
    }

    /// Where `dir` of the checkout is in the workspace, if that is not its root and something of it travels.
    pub(super) fn directory(&self, dir: &Path) -> Option<String> {
        let dir = dir.canonicalize().ok()?;
        let below = dir.strip_prefix(self.root().canonicalize().ok()?).ok()?;
        let travels =
            !below.as_os_str().is_empty() && self.survey().paths().any(|path| path.starts_with(below));
        below.to_str().filter(|_| travels).map(str::to_owned)
    }

    /// What a patch of what the command changes is made against.
    pub(super) fn base(&self, comparison: &Comparison, dir: &VmDir) -> Result<Base, WorkspaceError> {
        Base::of(comparison, &self.workspace(), dir, self.shipment.sent.clone())
    }

    pub(super) fn workspace(&self) -> Workspace {
        let survey = self.survey();
        Workspace {
            host_path: self.root().to_string_lossy().into_owned(),
            guest_path: self.guest_path.clone(),
            head_commit: survey.root().selection.head.commit.clone(),
            base_commit: self.base_commit().to_owned(),
            mode: survey.choice.mode,
            include_untracked: survey.choice.include_untracked,
            prepared_at: now_rfc3339(),
            file_count: survey.sum(|selection| selection.entries.len()) as u64,
            size_bytes: survey.size_bytes(),
        }
    }

    /// A line about everything that a caller may not expect. `banger`, which hands down its session lock, says it itself.
    pub(super) fn notice(&self) {
        if std::env::var_os(SESSION_FD_VARIABLE).is_none() {
            for line in summary::notices(&inspect::reply(self.survey(), false)) {
                drop(writeln!(io::stderr(), "{TOOL}: {line}"));
            }
        }
    }

    /// Sends it, and runs `command` where that can go along; without one the ending is of no meaning.
    pub(super) fn send(
        &self,
        guest: &Guest<'_>,
        command: Option<&Command>,
        output: &mut dyn Output,
        timeline: &mut Timeline,
    ) -> Result<Sent, WorkspaceError> {
        let part = self.survey().root();
        self.complete(guest)?;
        let thrown = self.throw_away(guest, timeline)?;
        if command.is_none() && self.is_there(guest, timeline)? {
            let ending = Ending { exit: Exit::Status(0), timed_out: false };
            return Ok(Sent { changed: thrown != Thrown::default(), kept: Vec::new(), thrown, ending });
        }
        self.notes.save(Stage::Sending, &self.note, part, &self.shipment.trees[0])?;
        self.memory.expect(self.base_commit(), &self.shipment.sent)?;
        let resynced = match self.delta() {
            Some(delta) => self.resync(guest, delta, timeline)?,
            None => None,
        };
        let is_whole = resynced.is_none();
        let sent = if let Some(kept) = resynced {
            tell_kept(&kept, self.survey());
            Sent { changed: true, kept, thrown, ending: Ending { exit: Exit::Status(0), timed_out: false } }
        } else {
            let arrived = || drop(self.notes.arrived());
            let mut output = Noting { output, arrived: Some(arrived) };
            let (path, command) = (&self.guest_path, command.filter(|_| self.can_take_along()));
            let sent = transfer::send_and_run(
                guest,
                &self.shipment,
                path,
                self.force,
                command,
                &mut output,
                timeline,
            );
            Sent { thrown, ..sent.map_err(|error| self.explain(error))? }
        };
        // Without a note the next copy sends everything, or is refused.
        drop(self.notes.arrived());
        if sent.changed {
            self.memory.arrived(self.base_commit())?;
            if is_whole {
                self.memory.begins(self.base_commit())?;
            }
        }
        Ok(sent)
    }

    /// Throws away what the guest has changed, where that is wanted and the copy does not replace everything.
    fn throw_away(&self, guest: &Guest<'_>, timeline: &mut Timeline) -> Result<Thrown, WorkspaceError> {
        let Some((agreed, mut maker)) = self.agreed.take() else { return Ok(Thrown::default()) };
        let Some(given) = self.notes.load(Stage::Sent) else { return Ok(Thrown::default()) };
        let wanted =
            reset::Wanted { agreed: &agreed, base_commit: &given.base_commit, only: &[], clean: false };
        match reset::reset(guest, &self.guest_path, &wanted, &self.notes, &mut maker, timeline) {
            // What cannot be brought up to date is replaced as a whole.
            Err(
                WorkspaceError::NotPrepared { .. } | WorkspaceError::Whole { .. } | WorkspaceError::OldGuest,
            ) => Ok(Thrown::default()),
            thrown => {
                let thrown = thrown?;
                tell_thrown(&thrown);
                Ok(thrown)
            }
        }
    }

    /// Whether nothing differs from what the guest was given and still has.
    fn is_there(&self, guest: &Guest<'_>, timeline: &mut Timeline) -> Result<bool, WorkspaceError> {
        if !matches!(self.compared, Some(Compared::Same)) {
            return Ok(false);
        }
        match timeline.step("look", || resync::complete(guest, &self.guest_path)) {
            Err(WorkspaceError::NotPrepared { .. }) => Ok(false),
            // Where nobody answers, the copy itself looks.
            found => Ok(found?.as_deref() == Some(self.base_commit())),
        }
    }

    /// A copy that was cut off may be in the guest all the same, which is what the next one is to be compared with.
    fn complete(&self, guest: &Guest<'_>) -> Result<(), WorkspaceError> {
        let Some(pending) = self.notes.load(Stage::Sending) else { return Ok(()) };
        let plain = pending.guest_path == self.guest_path && self.delta().is_some();
        if plain && resync::complete(guest, &self.guest_path)?.as_ref() == Some(&pending.base_commit) {
            self.notes.arrived()?;
            return Err(WorkspaceError::Completed { guest_path: self.guest_path.clone() });
        }
        self.notes.forget(Stage::Sending)
    }

    /// Sends what differs, and gives what the guest has kept of its own; `None` where the guest has no workspace any more, or it is to be
    /// replaced.
    fn resync(
        &self,
        guest: &Guest<'_>,
        delta: &Delta,
        timeline: &mut Timeline,
    ) -> Result<Option<Vec<String>>, WorkspaceError> {
        let sent = resync::resync(guest, delta, &self.shipment, &self.guest_path, self.force, timeline);
        match sent {
            Ok(Resynced::Done(kept)) => return Ok(Some(kept)),
            // It is there: its note was lost with the connection.
            Ok(Resynced::Other(id)) if id == self.base_commit() => return Ok(Some(Vec::new())),
            Ok(Resynced::Other(_)) if self.force => return Ok(None),
            Ok(Resynced::Unable) => {
                self.is_unable.set(true);
                return Ok(None);
            }
            Err(WorkspaceError::NotPrepared { .. }) => return Ok(None),
            Ok(Resynced::Other(_)) => self.notes.forget(Stage::Sent)?,
            Err(error) => {
                if matches!(error, WorkspaceError::Changed { .. }) {
                    self.notes.forget(Stage::Sending)?;
                }
                return Err(error);
            }
        }
        self.notes.forget(Stage::Sending)?;
        let why = "what is there was not sent by this host, or came back from an older disk";
        Err(WorkspaceError::Whole { guest_path: self.guest_path.clone(), why })
    }

    /// Says why what is there was not only brought up to date.
    fn explain(&self, error: WorkspaceError) -> WorkspaceError {
        match (error, &self.compared) {
            (WorkspaceError::Occupied { guest_path }, _) if self.is_unable.get() => {
                let why = "differences need banger-guest there, and of this version: start the VM anew";
                WorkspaceError::Whole { guest_path, why }
            }
            (WorkspaceError::Occupied { guest_path }, Some(Compared::Unlike(why))) => {
                WorkspaceError::Whole { guest_path, why }
            }
            (error, _) => error,
        }
    }
}

/// Says what of git's the guest has kept of its own.
fn tell_kept(kept: &[String], survey: &Survey) {
    let has = |what: &str| kept.iter().any(|word| word == what);
    let branch = survey.root().selection.head.branch.as_ref().map(|name| name.to_string_lossy().into_owned());
    let line = match branch {
        Some(branch) if has("HEAD") => {
            format!("the guest has commits of its own, or another branch: the host's is host/{branch} there")
        }
        _ if has("HEAD") => {
            "the guest has commits of its own, or a branch: its HEAD stays where it is".to_owned()
        }
        _ if has("index") => "the guest has staged changes of its own, which stay".to_owned(),
        _ => return,
    };
    drop(writeln!(io::stderr(), "{TOOL}: {}", escape_controls(&line)));
}

/// Says what of the guest's is gone.
fn tell_thrown(thrown: &Thrown) {
    let count = thrown.paths.len();
    if count > 0 {
        let named =
            thrown.paths.iter().take(MAX_TOLD).map(|path| quoted(path)).collect::<Vec<_>>().join(", ");
        let more = if count > MAX_TOLD { format!(" and {} more", count - MAX_TOLD) } else { String::new() };
        let changes = if count == 1 { "change" } else { "changes" };
        drop(writeln!(io::stderr(), "{TOOL}: {count} {changes} of the guest's thrown away: {named}{more}"));
    }
    if thrown.head {
        drop(writeln!(io::stderr(), "{TOOL}: {}", reset::COMMITS_KEPT));
    }
}

/// Notes that a checkout has arrived at the moment when it has: the command may run for hours after it.
struct Noting<'a, F: FnOnce()> {
    output: &'a mut dyn Output,
    arrived: Option<F>,
}

impl<F: FnOnce()> Output for Noting<'_, F> {
    fn ready(&mut self) {
        if let Some(arrived) = self.arrived.take() {
            arrived();
        }
        self.output.ready();
    }
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.stdout(bytes)
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.stderr(bytes)
    }
}

/// What is sent: all of `survey`, or the difference to what the guest was given, where there is a note of that and it is of its kind.
fn load(
    survey: Survey,
    notes: &Notes,
    memory: &Memory,
    guest_path: &str,
    timeline: &mut Timeline,
) -> Result<(Shipment, Option<Compared>, Note), WorkspaceError> {
    let root = survey.root().checkout.root.to_string_lossy().into_owned();
    let before = notes.load(Stage::Sent).filter(|note| note.host_path == root);
    let known = before.and_then(|note| {
        let sent = memory.recall(&note.base_commit)?;
        notes.known(&note, sent, &memory.objects())
    });
    let committed = timeline.step("commit", || Committed::new(survey, known.as_ref()))?;
    timeline.step("keep", || memory.keep_objects(&committed.survey))?;
    let now = Note::new(&committed, guest_path);
    let same_place = |note: &Note| note.guest_path == now.guest_path && note.host_path == now.host_path;
    let compared = match notes.load(Stage::Sent).filter(same_place) {
        None => None,
        Some(given) => Some(match given.hinders(&now) {
            Some(why) => Compared::Unlike(why),
            None => {
                let format = &committed.survey.root().checkout.object_format;
                let sent = agreed_with(memory, notes, &given.base_commit, format)?;
                timeline.step("compare", || Delta::compare(&committed, given, notes, sent))?
            }
        }),
    };
    let hold = matches!(compared, Some(Compared::Differs(_) | Compared::Same));
    let shipment = timeline.step("plan", || Shipment::new(committed, hold))?;
    Ok((shipment, compared, now))
}

/// Looks at the checkout, and says where in the guest it goes.
fn look(
    source: &Source,
    scratch: &Path,
    notes: &Notes,
    memory: &Memory,
) -> Result<(Survey, String), WorkspaceError> {
    let checkout = Checkout::open(&source.repo)?;
    let guest_path = source.guest_path.clone().unwrap_or_else(|| format!("/root/{}", checkout.name()));
    transfer::check_guest_path(&guest_path)?;
    let include_untracked = source.choice.include_untracked;
    let agreed = agreed(notes, memory, &checkout, (&guest_path, include_untracked));
    Ok((Survey::new(scratch, checkout, source.choice.of(), &agreed)?, guest_path))
}

/// The paths of the files that host and guest agreed on when `checkout` was last copied to `guest_path`, and since. Where untracked files are
/// to stay behind that were taken along then, only what git had heard of by then.
fn agreed(
    notes: &Notes,
    memory: &Memory,
    checkout: &Checkout,
    (guest_path, include_untracked): (&str, bool),
) -> BTreeSet<Vec<u8>> {
    let same_place =
        |note: &Note| note.guest_path == guest_path && note.host_path == checkout.root.to_string_lossy();
    let Some(given) = notes.load(Stage::Sent).filter(same_place) else { return BTreeSet::new() };
    let sent = memory.agreed(&given.base_commit);
    let mut paths = sent.map(|sent| agreed::paths(&sent)).unwrap_or_default();
    if given.include_untracked && !include_untracked {
        let tracked = Index::read(&notes.index(Stage::Sent), &checkout.object_format).unwrap_or_default();
        paths.retain(|path| tracked.has(path));
    }
    paths
}

/// What host and guest last agreed on, by its bytes: what was sent with the prepared commit `base_commit`, and what has come home since; of
/// a copy that an older banger made, what git had of it.
///
/// # Errors
/// The host does not remember it, or cannot read what it does.
pub(super) fn agreed_with(
    memory: &Memory,
    notes: &Notes,
    base_commit: &str,
    object_format: &str,
) -> Result<Request, WorkspaceError> {
    if let Some(sent) = memory.agreed(base_commit) {
        return Ok(sent);
    }
    let is_of_it = |stage: &Stage| notes.load(*stage).is_some_and(|note| note.base_commit == base_commit);
    match [Stage::Sent, Stage::Sending].into_iter().find(is_of_it) {
        Some(stage) => Ok(sent::of_index(&Index::read(&notes.tree(stage), object_format)?)),
        None => Err(WorkspaceError::Forgotten),
    }
}

fn record_workspace(job: &mut Job, workspace: &Workspace) -> Result<(), Failure> {
    job.document.set_workspace(Some(workspace));
    let dir = job.dir();
    let handles = Handles { workspace: Some(workspace.clone()), ..Handles::load(&dir) };
    Ok(handles.save(&dir)?)
}

/// `prepare`.
pub(super) fn prepare(args: &PrepareArgs) -> ExitCode {
    let source = &args.source;
    if source.dry_run {
        return inspect::list("prepare", &source.repo, &source.choice, true);
    }
    report("prepare", &RecordTo::Stdout, false, &args.input, |job| {
        let _lock = job.lock("prepare")?;
        let staged = Staged::new(job, source)?;
        staged.notice();
        job.confine(&[staged.root()], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let mut quiet = Live::new(&job.interrupts, true, || {});
        let sent = staged.send(&guest, None, &mut quiet, &mut job.timeline)?;
        drop((guest, quiet));
        let before = job.document.workspace()?;
        let now = staged.workspace();
        let same = |before: &Workspace| {
            (&before.base_commit, before.include_untracked) == (&now.base_commit, now.include_untracked)
        };
        let workspace = before.filter(|before| !sent.changed && same(before)).unwrap_or(now);
        record_workspace(job, &workspace)?;
        let kept = (!sent.kept.is_empty()).then_some(sent.kept);
        let files = source.force.then(|| changes::listed(sent.thrown.paths.iter()));
        Ok(Outcome { changed: sent.changed, kept, files, ..Outcome::default() })
    })
}
