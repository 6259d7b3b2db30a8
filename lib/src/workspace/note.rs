//! What a guest was given: kept in the VM's directory, so that the next copy sends only what is different since. A note that is
//! lost is no harm: then everything is sent anew, or refused.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::WorkspaceError;
use super::gitdir;
use super::index::Index;
use super::shipment::{Part, Survey};
use super::tags::Tag;
use crate::contract::record::WorkspaceMode;
use crate::state::dir::VmDir;
use crate::sys::atomic;

/// The directory of the notes in the VM's.
const DIRECTORY: &str = "sent";
/// How large a note may be, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Whether the guest is known to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was on its way when it was last heard of.
    Sending,
    /// The guest has it.
    Sent,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Sent => "sent",
        }
    }
}

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The checkout. Bytes that are not UTF-8 are replaced.
    pub host_path: String,
    /// Where it is in the guest.
    pub guest_path: String,
    /// The prepared commit.
    pub base_commit: String,
    /// How much of git there is.
    pub mode: WorkspaceMode,
    /// Where HEAD stood; `None` on an unborn branch.
    pub head_commit: Option<String>,
    /// The text of `.git/HEAD`. Bytes that are not UTF-8 are replaced.
    pub head: String,
    /// The tags that were sent, by their names, and their objects. Bytes that are not UTF-8 are replaced.
    pub tags: BTreeMap<String, String>,
    /// The settings of a sparse checkout, names and values.
    pub sparse: Vec<(String, String)>,
    /// Whether the differences to it can be sent: it is one repository, and all of it is there.
    pub is_plain: bool,
}

impl Note {
    /// Of what `survey` found, with `tags`, once it is at `guest_path`.
    pub fn new(survey: &Survey, tags: &[Tag], base_commit: &str, guest_path: &str) -> Self {
        let part = survey.root();
        Self {
            host_path: part.checkout.root.to_string_lossy().into_owned(),
            guest_path: guest_path.to_owned(),
            base_commit: base_commit.to_owned(),
            mode: survey.choice.mode,
            head_commit: part.selection.head.commit.clone(),
            head: String::from_utf8_lossy(&gitdir::head_file(&part.selection.head)).into_owned(),
            tags: tags
                .iter()
                .map(|tag| (String::from_utf8_lossy(&tag.name).into_owned(), tag.object.clone()))
                .collect(),
            sparse: gitdir::sparse(&part.checkout),
            is_plain: survey.choice.mode != WorkspaceMode::Files
                && survey.parts.len() == 1
                && !part.checkout.is_partial()
                && !part.checkout.shallow.exists()
                && part.selection.head.branch.as_ref().is_none_or(|branch| branch.to_str().is_some()),
        }
    }
}

/// The notes of one VM.
#[derive(Debug, Clone)]
pub struct Notes {
    dir: PathBuf,
}

impl Notes {
    /// In the VM's directory.
    pub fn of(dir: &VmDir) -> Self {
        Self { dir: dir.path().join(DIRECTORY) }
    }

    fn path(&self, stage: Stage, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", stage.name()))
    }

    /// The index as it was sent.
    pub fn index(&self, stage: Stage) -> PathBuf {
        self.path(stage, "index")
    }

    /// The index of the prepared commit's tree, with what the files were when they were sent.
    pub fn tree(&self, stage: Stage) -> PathBuf {
        self.path(stage, "tree")
    }

    /// The note, where it is whole.
    pub fn load(&self, stage: Stage) -> Option<Note> {
        let path = self.path(stage, "json");
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
        let note = small.then(|| fs::read(&path).ok()).flatten()?;
        let whole = self.index(stage).is_file() && self.tree(stage).is_file();
        serde_json::from_slice(&note).ok().filter(|_| whole)
    }

    /// Keeps `note` with the index of `part` and that of the prepared commit, `tree`. The note itself comes last: without it the rest
    /// is nothing.
    ///
    /// # Errors
    /// Those of the files.
    pub fn save(&self, stage: Stage, note: &Note, part: &Part, tree: &Index) -> Result<(), WorkspaceError> {
        let error = |what: &'static str, path: &Path| WorkspaceError::io(what, path.to_owned());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(error("make", &self.dir))?;
        self.forget(stage)?;
        let (from, to) = (part.staging.index(), self.index(stage));
        fs::copy(&from, &to).map_err(error("write", &to))?;
        let to = self.tree(stage);
        fs::write(&to, tree.to_bytes()).map_err(error("write", &to))?;
        let json = serde_json::to_vec(note).expect("a note has string keys only");
        let path = self.path(stage, "json");
        atomic::write(&path, &json, 0o600).map_err(|source| error("write", &path)(io::Error::other(source)))
    }

    /// What was on its way has arrived.
    ///
    /// # Errors
    /// Those of the files.
    pub fn arrived(&self) -> Result<(), WorkspaceError> {
        if !self.path(Stage::Sending, "json").exists() {
            return Ok(());
        }
        self.forget(Stage::Sent)?;
        for suffix in ["index", "tree", "json"] {
            let (from, to) = (self.path(Stage::Sending, suffix), self.path(Stage::Sent, suffix));
            fs::rename(&from, &to).map_err(WorkspaceError::io("rename", from))?;
        }
        Ok(())
    }

    /// Drops a note; one that is not there is no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, stage: Stage) -> Result<(), WorkspaceError> {
        let path = self.path(stage, "json");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(WorkspaceError::io("remove", path)(source))
            }
            _ => Ok(()),
        }
    }
}
