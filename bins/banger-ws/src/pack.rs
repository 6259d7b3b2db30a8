//! The pack of what travels of a repository. Pack and pack index are made on the host, so that the guest, whose processor may be
//! emulated, unpacks a tar and computes nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::checkout::{Checkout, Head};
use super::error::WorkspaceError;
use super::gitdir;
use super::reuse::{self, Whole};
use super::staging::Staging;
use super::tags::{self, Tag};
use banger_contract::record::WorkspaceMode;
use banger_host::clock::boottime_us;
use banger_host::process::exec::Running;

/// How long packing may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What bounds git's memory, whatever it packs.
pub(super) const SETTINGS: [(&str, &str); 7] = [
    ("pack.writeReverseIndex", "false"),
    ("pack.indexVersion", "2"),
    ("pack.packSizeLimit", "0"),
    ("pack.windowMemory", "4m"),
    ("pack.deltaCacheSize", "4m"),
    ("pack.threads", "2"),
    ("pack.compression", "1"),
];

/// A pack that is being made beside us.
#[derive(Debug)]
pub struct Packing {
    dir: PathBuf,
    root: PathBuf,
    partial: bool,
    whole: Vec<Whole>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: Option<Running>,
    /// What it waits for, and where that goes.
    held: Option<(File, String)>,
    /// When and how long it was waited for, microseconds (the first on CLOCK_BOOTTIME).
    waited_us: Option<(u64, u64)>,
}

/// What a file of a git directory is sent from.
#[derive(Debug)]
pub enum Source {
    /// An opened file.
    File(File),
    /// The file at this path.
    Path(PathBuf),
    /// Nothing: it is empty.
    Empty,
}

impl Packing {
    /// Starts packing what is reachable from `prepared`, so from HEAD, from the index, and the tags; with `hold` not before it is waited for.
    pub fn start(
        checkout: &Checkout,
        staging: &Staging,
        head: &Head,
        (prepared, tags): (&str, &[Tag]),
        mode: WorkspaceMode,
        hold: bool,
    ) -> Result<Self, WorkspaceError> {
        let mut git = staging.git(checkout, &staging.index());
        for (key, value) in SETTINGS {
            git.setting(key, value);
        }
        if mode == WorkspaceMode::Shallow && head.commit.is_some() {
            let file = staging.path().join("shallow");
            let text = gitdir::shallow(checkout, head, mode);
            fs::write(&file, text).map_err(WorkspaceError::io("write", &file))?;
            git = git.env("GIT_SHALLOW_FILE", &file);
        }
        let dir = staging.objects().join("pack");
        let stem = dir.join("pack");
        let pack = |how: &[&str]| {
            let words = ["pack-objects", "-q", "--delta-base-offset", "--honor-pack-keep"]
                .iter()
                .chain(how)
                .map(OsStr::new);
            git.exec(words.chain([stem.as_os_str()])).deadline(PATIENCE)
        };
        let partial = checkout.is_partial();
        let revisions = format!("{prepared}\n{}", tags::lines(tags));
        // With a part of the history the packs hold more than travels.
        let whole = mode == WorkspaceMode::Full && !partial && !hold;
        let plan = if whole { reuse::plan(checkout, &git, &revisions)? } else { None };
        let (mut whole, mut held) = (Vec::new(), None);
        let running = if hold && !partial {
            // It waits for its input, and once we are confined it could not be started any more.
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|e| WorkspaceError::io("make", "a pipe")(e.into()))?;
            held = Some((File::from(write), revisions));
            pack(&["--revs", "--indexed-objects"]).start_reading(File::from(read))
        } else if let Some(plan) = plan {
            whole = plan.packs;
            let list = staging.path().join("objects.list");
            fs::write(&list, plan.rest).map_err(WorkspaceError::io("write", &list))?;
            let list = File::open(&list).map_err(WorkspaceError::io("read", &list))?;
            pack(&[]).start_reading(list)
        } else if partial {
            // pack-objects itself cannot do without a tree.
            let args = ["rev-list", "--objects", "--missing=allow-promisor", "--indexed-objects", "--stdin"];
            git.exec(args).deadline(PATIENCE).stdin(revisions).start_into(pack(&["--missing=allow-promisor"]))
        } else {
            pack(&["--revs", "--indexed-objects"]).stdin(revisions).start()
        };
        let running = Some(running.map_err(checkout.git_error())?);
        let state = Mutex::new(State { running, held, waited_us: None });
        Ok(Self { dir, root: checkout.root.clone(), partial, whole, state })
    }

    /// Waits until it is made.
    pub fn wait(&self) -> Result<(), WorkspaceError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = state.running.take() else { return Ok(()) };
        if let Some((mut input, revisions)) = state.held.take() {
            // One that has ended without reading says so when it is waited for.
            drop(input.write_all(revisions.as_bytes()));
        }
        let start_us = boottime_us();
        let ended = running.wait();
        state.waited_us = Some((start_us, boottime_us() - start_us));
        ended.map_err(|source| WorkspaceError::Git { root: self.root.clone(), source })
    }

    /// When and for how long it was waited for: start on CLOCK_BOOTTIME and duration, microseconds.
    pub fn waited_us(&self) -> Option<(u64, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waited_us
    }

    /// Packs of the host's that travel as they are: their files, and the names of those in a git directory.
    pub fn whole(&self) -> Result<Vec<(PathBuf, Source)>, WorkspaceError> {
        let files = self.whole.iter().flat_map(|pack| &pack.files);
        let cloned = files.map(|(name, file)| Ok((name.clone(), Source::File(file.try_clone()?))));
        cloned.collect::<std::io::Result<_>>().map_err(WorkspaceError::io("read", &self.root))
    }

    /// The files of the pack that was made, and their names in a git directory. An empty file beside it marks a pack whose
    /// objects may refer to ones that only the remote has (partial-clone, "promisor").
    pub fn made(&self) -> Result<Vec<(PathBuf, Source)>, WorkspaceError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(WorkspaceError::io("read", &self.dir))? {
            let path = entry.map_err(WorkspaceError::io("read", &self.dir))?.path();
            let name = Path::new("objects/pack").join(path.file_name().unwrap_or_default());
            if self.partial && path.extension().is_some_and(|e| e == "pack") {
                files.push((name.with_extension("promisor"), Source::Empty));
            }
            if path.extension().is_some_and(|e| e == "pack" || e == "idx") {
                files.push((name, Source::Path(path)));
            }
        }
        Ok(files)
    }
}
