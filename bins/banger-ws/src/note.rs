//! What a guest was given: kept in the VM's directory, so that the next copy sends only what is different since. A note that is
//! lost is no harm: then everything is sent anew, or refused.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_contract::record::WorkspaceMode;
use banger_host::fs::atomic;
use banger_protocol::changes::Request;
use banger_state::dir::VmDir;
use serde::{Deserialize, Serialize};

use crate::error::WorkspaceError;
use crate::gitdir;
use crate::index::Index;
use crate::known::Known;
use crate::shipment::Committed;
use crate::survey::Part;

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
    /// The prepared commits of the submodules, by their paths. Bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub submodules: BTreeMap<String, String>,
    /// The commits whose parents the host does not have, either.
    #[serde(default)]
    pub shallow: Vec<String>,
    /// Whether untracked files were sent, too.
    #[serde(default)]
    pub include_untracked: bool,
    /// Whether the differences to it can be sent: there is git in the guest, and the host has all that may be needed.
    pub is_plain: bool,
}

impl Note {
    /// Of what is `committed`, once it is at `guest_path`.
    pub fn new(committed: &Committed, guest_path: &str) -> Self {
        let (survey, part) = (&committed.survey, committed.survey.root());
        let submodules = survey.parts.iter().zip(&committed.prepared).skip(1);
        let submodules =
            submodules.map(|(part, prepared)| (part.prefix.to_string_lossy().into_owned(), prepared.clone()));
        let shallow = fs::read_to_string(&part.checkout.shallow).unwrap_or_default();
        let tags = committed.tags.first().into_iter().flatten();
        Self {
            host_path: part.checkout.root.to_string_lossy().into_owned(),
            guest_path: guest_path.to_owned(),
            base_commit: committed.base_commit().to_owned(),
            mode: survey.choice.mode,
            head_commit: part.selection.head.commit.clone(),
            head: String::from_utf8_lossy(&gitdir::head_file(&part.selection.head)).into_owned(),
            tags: tags
                .map(|tag| (String::from_utf8_lossy(&tag.name).into_owned(), tag.object.clone()))
                .collect(),
            sparse: gitdir::sparse(&part.checkout),
            submodules: submodules.collect(),
            include_untracked: survey.choice.include_untracked,
            shallow: shallow.lines().map(str::to_owned).collect(),
            is_plain: survey.choice.mode != WorkspaceMode::Files
                && !part.checkout.is_partial()
                && part.selection.head.branch.as_ref().is_none_or(|branch| branch.to_str().is_some()),
        }
    }

    /// Why what differs `now` cannot be sent by itself, where that is so.
    pub fn hinders(&self, now: &Self) -> Option<&'static str> {
        if self.mode != now.mode {
            return Some("it was sent with another --mode");
        }
        if !self.is_plain || !now.is_plain {
            return Some("what a partial clone lacks, and files without git, are not compared");
        }
        if self.submodules != now.submodules {
            return Some("a submodule is not as it was sent");
        }
        (self.shallow != now.shallow).then_some("the history of the shallow clone begins elsewhere now")
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

    /// What is known of the files of the checkout from when they were last `sent`; `objects` is where its objects are kept. `None` where that is not
    /// known.
    pub fn known(&self, note: &Note, sent: Request, objects: &Path) -> Option<Known> {
        let path = self.tree(Stage::Sent);
        let looked_at = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        let format = if note.base_commit.len() == 64 { "sha256" } else { "sha1" };
        let tree = Index::read(&path, format).ok()?;
        Some(Known { tree, sent, looked_at, objects: objects.to_owned() })
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
        let written = File::create(&to).and_then(|mut file| {
            file.write_all(&tree.to_bytes())?;
            // Its time says from when on what it has of files is to be believed.
            file.set_modified(part.selection.looked_at)
        });
        written.map_err(error("write", &to))?;
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
