//! `reset`: what changed in the guest is thrown away.

use std::io::{self, Write};
use std::process::ExitCode;

use super::args::ResetArgs;
use super::export::{objects_of, sent_of};
use super::job::report;
use super::{TOOL, changes};
use crate::cli::report::RecordTo;
use crate::guest::Guest;
use crate::maker::Maker;
use crate::note::Notes;
use crate::reset::{self, Thrown, Wanted};
use crate::transfer;
use banger_contract::record::Outcome;

/// `reset`.
pub(super) fn reset(args: &ResetArgs) -> ExitCode {
    report("reset", &RecordTo::Stdout, false, &args.input, |job| {
        let _lock = job.lock("reset")?;
        let workspace = job.document.required_workspace()?;
        transfer::check_guest_path(&workspace.guest_path)?;
        let dir = job.dir();
        let agreed = sent_of(&workspace, &dir)?;
        let mut maker = Maker::start(dir.path(), &objects_of(&workspace, &dir), agreed.sha256)?;
        job.confine(&[], &[])?;
        let guest = job.timeline.step("connect", || Guest::connect(&job.endpoint, &job.interrupts))?;
        let wanted = Wanted {
            agreed: &agreed,
            base_commit: &workspace.base_commit,
            only: &args.paths,
            clean: args.clean,
        };
        let (path, notes) = (&workspace.guest_path, Notes::of(&dir));
        let thrown = reset::reset(&guest, path, &wanted, &notes, &mut maker, &mut job.timeline)?;
        Ok(outcome(&thrown))
    })
}

/// What was thrown away, for the record; what of it is still to be had is said.
pub(super) fn outcome(thrown: &Thrown) -> Outcome {
    if thrown.head {
        drop(writeln!(io::stderr(), "{TOOL}: {}", reset::COMMITS_KEPT));
    }
    let files = changes::listed(thrown.paths.iter());
    let change_count = Some(thrown.paths.len() as u64);
    Outcome {
        changed: !thrown.paths.is_empty() || thrown.head,
        files: Some(files),
        change_count,
        ..Outcome::default()
    }
}
