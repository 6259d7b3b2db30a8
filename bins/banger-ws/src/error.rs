//! What goes wrong with a workspace, on which object, and what to do about it.

use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use super::guest::quote;
use super::patch::PatchError;
use crate::sys::remote::RemoteError;
use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::ExecError;

/// A workspace operation that failed.
#[derive(Debug, Error)]
pub enum WorkspaceError {
    /// The directory is not there.
    #[error("there is no directory {0:?}")]
    NoDirectory(PathBuf),
    /// The directory is in no git checkout.
    #[error("{0:?} is not in a git checkout")]
    NoCheckout(PathBuf),
    /// The checkout is somebody else's, and git does not use it.
    #[error("the git checkout at {0:?} belongs to another user")]
    Dubious(PathBuf),
    /// git cannot use the directory for another reason.
    #[error("{dir:?} is not a git checkout that git can use")]
    NotACheckout {
        /// The directory.
        dir: PathBuf,
        /// git's words.
        #[source]
        source: ExecError,
    },
    /// It is a bare repository.
    #[error("{0:?} is a bare repository: it has no files to send")]
    Bare(PathBuf),
    /// It is in the directory where git keeps what it knows of a checkout.
    #[error("{0:?} is git's own, and no checkout")]
    GitDir(PathBuf),
    /// Nothing is tracked and nothing was committed.
    #[error("the git repository {0:?} is empty: nothing is committed or added")]
    Empty(PathBuf),
    /// Its path cannot be told from git's output.
    #[error("the path of the git checkout {0:?} holds a newline")]
    OddPath(PathBuf),
    /// A submodule that cannot be sent.
    #[error("the submodule {path:?} cannot travel: {why}")]
    Submodule {
        /// Where it is.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// What needs git in the guest was asked of a workspace without it.
    #[error("the workspace at {guest_path:?} was prepared without git: nothing tells what changed")]
    NoGit {
        /// The path in the guest.
        guest_path: String,
    },
    /// The guest's git does not find the repository that came with the workspace.
    #[error("the workspace at {guest_path:?} in the guest has no git repository that its git can use")]
    NoRepository {
        /// The path in the guest.
        guest_path: String,
    },
    /// git failed.
    #[error("git failed on the checkout {root:?}")]
    Git {
        /// The checkout's root.
        root: PathBuf,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// A file or directory on the host could not be read or written.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file was written to while it was copied.
    #[error("the file {0:?} changed while it was being copied")]
    Moving(PathBuf),
    /// The path in the guest cannot be used.
    #[error("the guest path {0:?} is not an absolute path without \"..\" and control characters")]
    GuestPath(String),
    /// `--base-commit` is not a commit id.
    #[error("the base commit {0:?} is not a commit id")]
    BaseCommit(String),
    /// Something else is at the path in the guest.
    #[error("{guest_path:?} in the guest holds something else")]
    Occupied {
        /// The path.
        guest_path: String,
    },
    /// Host and guest have both changed these since the last copy.
    #[error("{guest_path:?} in the guest was changed where the checkout was, too: {}", shown(.paths))]
    Changed {
        /// The path.
        guest_path: String,
        /// The paths in it, escaped; `index` and `HEAD` for what git knows of them.
        paths: Vec<String>,
    },
    /// A copy was cut off while it was being put in its place.
    #[error("the last copy to {guest_path:?} in the guest was cut off: a part of it is there")]
    Cut {
        /// The path.
        guest_path: String,
    },
    /// A copy before this one had been cut off, and is complete now; this one was compared with what there was before it.
    #[error(
        "the copy to {guest_path:?} in the guest that was cut off is complete now, and this one has not begun"
    )]
    Completed {
        /// The path.
        guest_path: String,
    },
    /// The differences cannot be sent.
    #[error("only all of the checkout can be sent to {guest_path:?} in the guest: {why}")]
    Whole {
        /// The path.
        guest_path: String,
        /// Why.
        why: &'static str,
    },
    /// The workspace is not (or no longer) in the guest.
    #[error("there is no workspace at {guest_path:?} in the guest")]
    NotPrepared {
        /// The path.
        guest_path: String,
    },
    /// The directory that the command is to run in is not there.
    #[error("the directory that --workdir names is not in the workspace at {guest_path:?} in the guest")]
    NoWorkdir {
        /// The workspace's path.
        guest_path: String,
    },
    /// A script of ours failed in the guest.
    #[error("{step} failed in the guest: {said}")]
    Guest {
        /// What it was to do.
        step: &'static str,
        /// The end of what it said on stderr, escaped.
        said: String,
    },
    /// banger-guest in the guest is of another version than this program.
    #[error("banger-guest in the VM is older than this banger: it cannot tell what changed")]
    OldGuest,
    /// There is no such submodule in what was sent.
    #[error("no submodule at {0:?} was sent")]
    NoSubmodule(String),
    /// The host does not remember what was sent.
    #[error("this host does not remember what was sent, so nothing tells what changed")]
    Forgotten,
    /// The connection failed.
    #[error("cannot talk to the guest")]
    Ssh {
        /// Whether the VM no longer runs.
        stopped: bool,
        /// Why.
        #[source]
        source: RemoteError,
    },
    /// Nobody takes what the command says, or there is no room for it.
    #[error("cannot pass on the command's output")]
    Output(#[source] io::Error),
    /// A signal came before there was a guest to talk to.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// The guest's patch cannot be handed on.
    #[error("the guest's patch is refused")]
    Patch(#[source] PatchError),
}

/// The first of many.
fn shown(paths: &[String]) -> String {
    let first = paths.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(5) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

impl WorkspaceError {
    /// Wraps an I/O error.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn ssh_code(error: &RemoteError) -> ErrorCode {
    match error {
        RemoteError::Interrupted(_) => ErrorCode::Interrupted,
        RemoteError::Deadline { .. } | RemoteError::Overdue => ErrorCode::Timeout,
        RemoteError::HostKey(_) => ErrorCode::Denied,
        RemoteError::NoService => ErrorCode::Unsupported,
        RemoteError::Taken => ErrorCode::Busy,
        _ => ErrorCode::Failed,
    }
}

impl Coded for WorkspaceError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoDirectory(_) | Self::NotPrepared { .. } | Self::NoWorkdir { .. } => ErrorCode::NotFound,
            Self::NotACheckout { source: ExecError::NotFound(_), .. } => ErrorCode::Unsupported,
            Self::NotACheckout { .. }
            | Self::NoCheckout(_)
            | Self::Dubious(_)
            | Self::Bare(_)
            | Self::GitDir(_)
            | Self::Empty(_)
            | Self::OddPath(_)
            | Self::Submodule { .. }
            | Self::NoGit { .. }
            | Self::GuestPath(_)
            | Self::BaseCommit(_) => ErrorCode::BadInput,
            Self::Git { source: ExecError::NotFound(_), .. } => ErrorCode::Unsupported,
            Self::Completed { .. } => ErrorCode::Busy,
            Self::Moving(_)
            | Self::Occupied { .. }
            | Self::Changed { .. }
            | Self::Whole { .. }
            | Self::Cut { .. } => ErrorCode::Conflict,
            Self::OldGuest => ErrorCode::Unsupported,
            Self::Forgotten | Self::NoSubmodule(_) => ErrorCode::NotFound,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            Self::Interrupted(_) | Self::Ssh { source: RemoteError::Interrupted(_), .. } => {
                ErrorCode::Interrupted
            }
            Self::Ssh { stopped: true, .. } => ErrorCode::VmStopped,
            Self::Ssh { source, .. } => ssh_code(source),
            Self::NoRepository { .. }
            | Self::Git { .. }
            | Self::Io { .. }
            | Self::Guest { .. }
            | Self::Output(_)
            | Self::Patch(_) => ErrorCode::Failed,
        }
    }

    fn details(&self) -> Map<String, Value> {
        match self {
            Self::Changed { paths, .. } => [("paths".to_owned(), paths.clone().into())].into_iter().collect(),
            Self::Completed { .. } => [("completed".to_owned(), true.into())].into_iter().collect(),
            _ => Map::new(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoDirectory(_) | Self::GitDir(_) => "give the directory of a git checkout",
            Self::NotACheckout { source: ExecError::NotFound(_), .. }
            | Self::Git { source: ExecError::NotFound(_), .. } => "install git",
            Self::Dubious(_) => "git config --global --add safe.directory DIR lets you use it",
            Self::NotACheckout { .. } | Self::NoCheckout(_) => {
                "give the directory of a git checkout (GIT_DIR and GIT_WORK_TREE are not followed), or make one: git init && git add -A"
            }
            Self::Empty(_) => "add a file first: git add -A",
            Self::Moving(_) => "run the command again when nothing writes to the checkout",
            Self::Occupied { .. } => {
                "give another --guest-path, or replace what is there: banger vm workspace prepare --force NAME"
            }
            Self::Changed { paths, .. } => {
                let give_up = give_up(paths);
                return Some(format!(
                    "take the guest's changes out first: banger vm diff NAME >FILE; give them up: {give_up}; and copy again: banger vm workspace prepare NAME"
                ));
            }
            Self::Cut { .. } => "copy it again, which completes it: banger vm workspace prepare NAME",
            Self::Completed { .. } => "run it again",
            Self::Whole { .. } => {
                "replace it, which gives up what the guest has changed there: banger vm workspace prepare --force NAME"
            }
            Self::Submodule { .. } => {
                "see .gitmodules and git submodule status; --mode files sends files alone"
            }
            Self::Patch(PatchError::TooLarge(_)) => {
                "have the guest ignore what it builds (.gitignore), or allow more: banger-ws export --max-patch-size"
            }
            Self::OldGuest => {
                "start the VM anew, its disks stay: banger vm stop NAME && banger vm start NAME"
            }
            Self::Forgotten => {
                "take the files themselves out: banger vm ssh NAME -- tar -cC COPY . >FILE.tar"
            }
            Self::NoRepository { .. } => "the files themselves can be had without it: banger vm diff NAME",
            Self::NoGit { .. } => "prepare with --mode full or --mode shallow",
            Self::NotPrepared { .. } => "copy a checkout there: banger vm workspace prepare NAME",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room there; what is temporary goes where TMPDIR says"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// How many paths a command that is to be typed names.
const MAX_TYPED: usize = 5;

/// The command that throws away what the guest has changed at `paths`, which are escaped; everything, where they are many or oddly named.
fn give_up(paths: &[String]) -> String {
    let plain = |path: &String| path.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'\\');
    if paths.len() > MAX_TYPED || !paths.iter().all(plain) || paths.iter().any(|path| path.contains("NAME")) {
        return "banger vm reset NAME".to_owned();
    }
    format!("banger vm reset NAME -- {}", quote(paths.iter().map(String::as_str)))
}
