//! What the guest is asked for, and how much of an answer is taken.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use banger_contract::error::escape_controls;

use crate::error::WorkspaceError;
use crate::fetch::FetchError;
use crate::guest::{Guest, Output, failed, fill, quote};
use crate::sys::remote::Exit;

/// How long a guest may say nothing while it packs.
const SILENCE: Duration = Duration::from_secs(600);
/// How much the guest may say beside the pack, bytes.
const MAX_CHATTER: usize = 1 << 20;
/// How much of that an error keeps, bytes.
const MAX_SAID: usize = 4 << 10;

/// Has git in the guest say where HEAD is, and pack what it reaches without what the host has. Of the host's commits some may be none that
/// the guest knows, and git would not go on from there.
const PACK: &str = r#"
p=@PATH@
[ -d "$p" ] || { say missing; exit 0; }
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
export GIT_NO_REPLACE_OBJECTS=1 GIT_NO_LAZY_FETCH=1 GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0
g() { git --git-dir="$p/.git" -c core.hooksPath=/dev/null -c core.fsmonitor=false -c pack.packSizeLimit=0 "$@"; }
g rev-parse --git-dir >/dev/null || { say no-repository; exit 0; }
c=$(g rev-parse -q --verify 'HEAD^{commit}') || { say ready; echo none; exit 0; }
say ready
printf '%s %s\n' "$c" "$(g symbolic-ref -q HEAD)"
{ printf '%s\n' "$c"; printf '%s\n' @HAVE@ | g cat-file --batch-check | sed -n 's/^\([0-9a-f]*\) commit .*/^\1/p'; } |
    g pack-objects --revs --stdout --thin --delta-base-offset -q
"#;

/// Takes the answer to a file, up to a limit.
struct Spool<'a> {
    file: &'a mut File,
    left: u64,
    is_over: bool,
    failure: Option<io::Error>,
    said: Vec<u8>,
    chatter: usize,
}

impl Output for Spool<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.is_over = true;
            return Err(io::Error::other("the guest sends too much"));
        };
        self.left = left;
        self.file.write_all(bytes).map_err(|error| {
            let copy = io::Error::new(error.kind(), "the file cannot be written");
            self.failure = Some(error);
            copy
        })
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(MAX_SAID);
        self.said.drain(..excess);
        self.chatter += bytes.len();
        if self.chatter > MAX_CHATTER {
            return Err(io::Error::other("the guest's git complains without end"));
        }
        Ok(())
    }
}

/// Has the guest answer to `file`, whose name is `path`: of the workspace at `guest_path`, without what the commits `have` reach.
///
/// # Errors
/// [`FetchError`]; the file holds a part of the answer then.
pub fn receive(
    guest: &Guest<'_>,
    guest_path: &str,
    have: &[String],
    max_bytes: u64,
    file: &mut File,
    path: &Path,
) -> Result<(), FetchError> {
    let values =
        BTreeMap::from([("PATH", quote([guest_path])), ("HAVE", quote(have.iter().map(String::as_str)))]);
    let mut spool =
        Spool { file, left: max_bytes, is_over: false, failure: None, said: Vec::new(), chatter: 0 };
    let ended = guest.run(&fill(PACK, &values), None, Some(SILENCE), &mut spool);
    if spool.is_over {
        return Err(FetchError::TooLarge(max_bytes));
    }
    if let Some(error) = spool.failure {
        return Err(WorkspaceError::io("write", path)(error).into());
    }
    let ended = ended?;
    if !ended.is_ready() {
        return Err(match ended.verdict.as_str() {
            "no-repository" => WorkspaceError::NoRepository { guest_path: guest_path.to_owned() },
            _ => failed("packing the guest's commits", guest_path, ended),
        }
        .into());
    }
    if ended.exit != Exit::Status(0) {
        let said = String::from_utf8_lossy(&spool.said);
        let said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
        let said = if said.is_empty() { format!("it ended with {}", ended.exit) } else { said };
        return Err(WorkspaceError::Guest { step: "packing the guest's commits", said }.into());
    }
    Ok(())
}
