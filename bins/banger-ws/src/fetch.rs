//! The guest's commits come home, as a branch of the repository that the workspace was copied from.
//!
//! The guest's git is asked for one thing: a pack of what its HEAD reaches and the host does not have. Whatever it sends goes to a file
//! ([`receive`]), written by a process that is confined and gone before anybody looks at the bytes. A repository made for them alone
//! ([`quarantine`]) takes them in: there the host's git checks every object as strictly as it can, and that none is missing, and packs anew
//! what the branch needs. Only that pack goes to the host's repository, and then the ref is set ([`home`]). Nothing is checked out, and
//! no configuration, hook or attribute of either side has a say.

pub mod answer;
pub mod home;
pub mod quarantine;
pub mod receive;

use std::path::PathBuf;

use thiserror::Error;

use super::error::WorkspaceError;
use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::ExecError;

/// Why no commits are fetched. The host's repository is as it was.
#[derive(Debug, Error)]
pub enum FetchError {
    /// What every verb meets that talks to a guest or reads a checkout.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// A branch that git would not make.
    #[error("{0:?} is not a name for a branch")]
    BranchName(String),
    /// The guest's branch has a name that banger passes on to nobody.
    #[error("the guest's branch is called {0:?}, and banger makes no branch of that name")]
    GuestBranch(String),
    /// Moving it would change what a working tree is compared with.
    #[error("the branch {branch:?} is checked out at {place:?}")]
    CheckedOut {
        /// The branch.
        branch: String,
        /// The working tree, or the git directory of one that is in the middle of something.
        place: PathBuf,
    },
    /// The branch is another name of another one.
    #[error("the branch {branch:?} is a symbolic ref, to {target:?}")]
    Symbolic {
        /// The branch.
        branch: String,
        /// What it stands for.
        target: String,
    },
    /// git keeps no branch below another one.
    #[error("the branch {other:?} leaves no room for one called {branch:?}")]
    NoRoom {
        /// The branch that is wanted.
        branch: String,
        /// The one that is there.
        other: String,
    },
    /// The branch has commits that the guest's does not have.
    #[error("the branch {branch:?} is at {old}, which the guest's {new} does not build upon")]
    Diverged {
        /// The branch.
        branch: String,
        /// Where it is.
        old: String,
        /// Where it would be.
        new: String,
    },
    /// Somebody else has moved the branch meanwhile.
    #[error("the branch {0:?} was moved by somebody else meanwhile")]
    Moved(String),
    /// More came than was allowed.
    #[error("the guest's commits take more than {0} bytes")]
    TooLarge(u64),
    /// The process that talks to the guest did not run to its end.
    #[error("cannot run the process that talks to the guest")]
    Receiver(#[source] ExecError),
    /// It takes too long, however much it is.
    #[error("the guest has not sent its commits within {0} s")]
    Slow(u64),
    /// What the guest sent is no answer.
    #[error("what the guest's git sent is not what was asked for: {0}")]
    Answer(&'static str),
    /// git does not take what the guest sent.
    #[error("the guest's objects are refused")]
    Refused(#[source] ExecError),
    /// Something that the commits need is nowhere.
    #[error("the guest's commits are not complete")]
    Incomplete(#[source] ExecError),
    /// A signal came before anything was changed.
    #[error("interrupted by signal {0}; the repository is as it was")]
    Interrupted(i32),
}

impl Coded for FetchError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Workspace(error) => error.code(),
            Self::BranchName(_) => ErrorCode::BadInput,
            Self::CheckedOut { .. } => ErrorCode::InUse,
            Self::Symbolic { .. } | Self::NoRoom { .. } | Self::Diverged { .. } | Self::Moved(_) => {
                ErrorCode::Conflict
            }
            Self::Interrupted(_) => ErrorCode::Interrupted,
            Self::Slow(_)
            | Self::Refused(ExecError::Deadline { .. })
            | Self::Incomplete(ExecError::Deadline { .. }) => ErrorCode::Timeout,
            Self::GuestBranch(_)
            | Self::TooLarge(_)
            | Self::Receiver(_)
            | Self::Answer(_)
            | Self::Refused(_)
            | Self::Incomplete(_) => ErrorCode::Failed,
        }
    }

    fn details(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut details = serde_json::Map::new();
        match self {
            Self::Workspace(error) => return error.details(),
            Self::Diverged { branch, old, new } => {
                details.insert("branch".into(), branch.as_str().into());
                details.insert("old".into(), old.as_str().into());
                details.insert("new".into(), new.as_str().into());
            }
            _ => {}
        }
        details
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Workspace(error) => return error.hint(),
            Self::BranchName(_)
            | Self::GuestBranch(_)
            | Self::CheckedOut { .. }
            | Self::Symbolic { .. }
            | Self::NoRoom { .. } => "name another branch: --as BRANCH",
            Self::Diverged { .. } => {
                "give up the branch's own commits: --force; or name another branch: --as BRANCH"
            }
            Self::Moved(_) => "run it again",
            Self::TooLarge(_) => "allow more: --max-size SIZE",
            Self::Answer(_) | Self::Refused(_) => {
                "the files themselves can be had without the guest's git: banger vm diff NAME"
            }
            Self::Incomplete(_) => {
                "the checkout no longer has what was sent, or the guest's history is cut: banger vm diff NAME needs neither"
            }
            Self::Receiver(_) | Self::Slow(_) | Self::Interrupted(_) => return None,
        };
        Some(hint.to_owned())
    }
}
