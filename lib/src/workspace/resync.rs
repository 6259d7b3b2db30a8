//! The second copy of a checkout into a guest: only what differs since the first one, and never over what the guest has changed.
//!
//! Everything is received and compared before anything is written. Then a mark is set, and from there on whatever is cut off is
//! completed by the next copy: each step can be done twice.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::delta::{Delta, is_unread};
use super::error::WorkspaceError;
use super::guest::{Given, Guest, Output, fill, quote};
use super::shipment::Shipment;
use super::staging::PREPARED_REF;
use super::transfer::failed;
use crate::contract::error::escape_controls;
use crate::contract::record::WorkspaceMode;
use crate::sys::clock::{Timeline, boottime_us};
use crate::sys::git;

/// How long the guest may be silent while it compares and writes.
const SILENCE: Duration = Duration::from_secs(600);
/// How many bytes of paths are taken.
const MAX_PATHS: usize = 4 << 20;

/// Where what was received waits, in the guest's git directory. With the file `go` in it, it is being put in its place.
const BEGIN: &str = r#"
p=@PATH@
umask 022
if ! cd -- "$p" 2>/dev/null || [ ! -f .git/HEAD ]; then say missing; exit 0; fi
s=.git/banger-sync
own() { git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.splitIndex=false --literal-pathspecs "$@"; }
# Each process costs an emulated guest some 20 ms, so a list without paths starts none.
each() { if [ -s "$s/lists/$1" ]; then xargs -0 -r sh -c "$2" sh <"$s/lists/$1"; fi; }
drop() { if [ -s "$s/lists/$1" ]; then xargs -0 -r rm "$2" -- <"$s/lists/$1"; fi; }
up='for f; do while case $f in */*) ;; *) false;; esac; do f=${f%/*}; rmdir -- "$f" 2>/dev/null || break; done; done'
apply() {
    [ -d .git/objects/pack ] || mkdir -p .git/objects/pack || return
    for f in "$s"/pack/*; do [ ! -f "$f" ] || mv -f -- "$f" .git/objects/pack/ || return; done
    drop replace -rf && drop gone -f || return
    each gone "$up"
    drop changed -f || return
    if [ -d "$s/files" ]; then cp -al -- "$s/files/." . || return; fi
    if [ -f "$s/whole" ]; then
        cp -p -- "$s/lists/whole-index" .git/banger-index && mv -f .git/banger-index .git/index || return
    elif [ -s "$s/lists/index" ]; then own update-index -z --index-info <"$s/lists/index" || return; fi
    own update-ref --stdin <"$s/lists/refs" || return
    if [ -f "$s/lists/shallow" ]; then sort -u "$s/lists/shallow" .git/shallow >.git/banger-shallow 2>/dev/null; mv -f .git/banger-shallow .git/shallow || return; fi
    if [ -f "$s/lists/head" ]; then cp -- "$s/lists/head" .git/banger-head && mv -f .git/banger-head .git/HEAD || return; fi
    rm -f -- "$s/go" && rm -rf -- "$s"
}
if [ -f "$s/go" ] && ! apply; then say failed; exit 0; fi
[ ! -e "$s" ] || rm -rf -- "$s"
now=$(git rev-parse -q --verify @REF@)
"#;

/// Tells which prepared commit is there.
const ASK: &str = r#"
say ready
printf 'other\0%s\0end\0' "$now"
"#;

/// Compares, and puts everything in its place.
const REST: &str = r#"
if [ "$now" != @OLD@ ]; then say ready; printf 'other\0%s\0end\0' "$now"; exit 0; fi
if ! mkdir "$s" || ! TAR_OPTIONS=--warning=no-timestamp tar -xpf - -C "$s" || [ ! -f "$s/end" ]; then rm -rf -- "$s"; say failed; exit 0; fi
say ready

# Files: the guest's as they were given, or already as they are to be; new ones not there.
{
    if [ -s "$s/lists/given" ]; then
        GIT_INDEX_FILE=$s/index; export GIT_INDEX_FILE
        own update-index -z --index-info <"$s/lists/given" || exit
        own -c diff.ignoreSubmodules=all diff -z --name-only --no-renames --no-ext-diff --no-textconv || exit
        unset GIT_INDEX_FILE
    fi
    each fresh 'for f; do if [ -e "$f" ] || [ -L "$f" ]; then printf "%s\0" "$f"; fi; done'
    each directories 'for f; do if [ -L "$f" ] || { [ -e "$f" ] && [ ! -d "$f" ]; }; then printf "%s\0" "$f"; fi; done'
} >"$s/differ" || { rm -rf -- "$s"; exit 1; }
: >"$s/lists/replace"
[ ! -s "$s/differ" ] || s=$s xargs -0 -r sh -c 'for f; do
    n=$s/files/$f
    if [ -L "$n" ] && [ -L "$f" ] && [ "$(readlink -- "$n")" = "$(readlink -- "./$f")" ]; then continue; fi
    if [ -f "$n" ] && [ ! -L "$n" ] && [ -f "$f" ] && [ ! -L "$f" ] && cmp -s -- "$n" "./$f"; then continue; fi
    if [ ! -e "$n" ] && [ ! -L "$n" ] && [ ! -e "$f" ] && [ ! -L "$f" ]; then continue; fi
    printf "%s\0" "$f"
done' sh <"$s/differ" >"$s/lists/replace"
# Directories that become files: nothing in them but what goes.
if [ -s "$s/lists/replaced" ]; then
    each replaced 'for f; do if [ -d "$f" ] && [ ! -L "$f" ]; then find "./$f" ! -type d -print0; fi; done' |
        sed 's/\x00\.\//\x00/g; 1s/^\.\///' >"$s/below"
    tr '\0\n' '\n\0' <"$s/lists/gone" | sort >"$s/a"
    tr '\0\n' '\n\0' <"$s/below" | sort | comm -23 - "$s/a" | tr '\0\n' '\n\0' >>"$s/lists/replace"
fi
# What is staged, and where HEAD stands. An index that the guest has not changed is replaced by the host's: with its flags, and
# with what it knows of the files.
staged=
if [ ! -s "$s/lists/staged" ]; then :
elif [ "$(git ls-files -s -z | sha256sum)" = "@INDEX@  -" ]; then : >"$s/whole"
else
    xargs -0 -r git --literal-pathspecs ls-files -s -z -- <"$s/lists/staged" >"$s/have"
    cmp -s "$s/have" "$s/lists/staged-before" || cmp -s "$s/have" "$s/lists/staged-after" || staged=1
fi
head=
commit=
if [ -n @MOVED@ ]; then
    commit=$(git rev-parse -q --verify HEAD)
    cmp -s .git/HEAD "$s/lists/head-before" && [ "$commit" = @WAS@ ] || head=1
fi
if [ -z @FORCE@ ] && { [ -s "$s/lists/replace" ] || [ -n "$staged$head" ]; }; then
    printf 'conflict\0'
    cat "$s/lists/replace"
    [ -z "$staged" ] || printf '\0index\0'
    [ -z "$head" ] || printf '\0HEAD\0'
    printf '\0end\0'
    rm -rf -- "$s"
    exit 0
fi
{
    if [ -n "$head" ] && [ -n "$commit" ]; then echo "update refs/banger/replaced $commit"; fi
    echo "update @REF@ @NEW@ @OLD@"
    @REFS@
} >"$s/lists/refs"
if [ -n @MOVED@ ]; then cp -- "$s/lists/head-after" "$s/lists/head"; fi
@SHALLOW@
# What the mark stands for must be on the disk before the mark: a virtual machine may lose its power.
find "$s" -type f -exec sync -- {} + 2>/dev/null
if : >"$s/go" && apply; then printf 'done\0end\0'; fi
"#;

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub enum Resynced {
    /// The guest has all of it now.
    Done,
    /// The guest's workspace is another one than the note says: of this prepared commit.
    Other(String),
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
    let script = script(delta, shipment, guest_path, force);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| WorkspaceError::Io { action: "make", path: "a pipe".into(), source: e.into() })?;
    let start_us = boottime_us();
    let mut answer = Answer::default();
    let (sent, ended) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || delta.write(shipment.survey.root(), std::fs::File::from(writer)));
        let given = Given { input: Some(reader), patience: Some(SILENCE), ..Given::default() };
        let ended = guest.run_with(&script, given, &mut answer);
        (sender.join().expect("the sender does not panic"), ended)
    });
    match sent {
        Err(error) if is_unread(&error) => {}
        other => other?,
    }
    let mut ended = ended?;
    timeline.note("resync", start_us, boottime_us().saturating_sub(start_us));
    if !ended.is_ready() {
        return Err(failed("sending what changed", guest_path, ended));
    }
    let words: Vec<&[u8]> = git::split_nul(&answer.said).collect();
    match words[..] {
        [b"done", b"end"] => Ok(Resynced::Done),
        [b"other", id, b"end"] => Ok(Resynced::Other(String::from_utf8_lossy(id).into_owned())),
        [b"other", b"end"] => Ok(Resynced::Other(String::new())),
        [b"conflict", ref paths @ .., b"end"] => {
            let paths = paths.iter().filter(|path| !path.is_empty());
            Err(WorkspaceError::Changed {
                guest_path: guest_path.to_owned(),
                paths: paths.map(|path| escape_controls(&String::from_utf8_lossy(path))).collect(),
            })
        }
        _ => {
            let said = String::from_utf8_lossy(&answer.complaints);
            ended.said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
            Err(failed("sending what changed", guest_path, ended))
        }
    }
}

/// Completes what was cut off in the workspace at `guest_path`, and gives the prepared commit that is there.
///
/// # Errors
/// [`WorkspaceError`].
pub fn complete(guest: &Guest<'_>, guest_path: &str) -> Result<String, WorkspaceError> {
    let values = BTreeMap::from([("PATH", quote([guest_path])), ("REF", PREPARED_REF.to_owned())]);
    let mut answer = Answer::default();
    let given = Given { patience: Some(SILENCE), ..Given::default() };
    let ended = guest.run_with(&fill(&[BEGIN, ASK].concat(), &values), given, &mut answer)?;
    if !ended.is_ready() {
        return Err(failed("completing the copy before this one", guest_path, ended));
    }
    let words: Vec<&[u8]> = git::split_nul(&answer.said).collect();
    match words[..] {
        [b"other", id, b"end"] => Ok(String::from_utf8_lossy(id).into_owned()),
        _ => Ok(String::new()),
    }
}

fn script(delta: &Delta, shipment: &Shipment, guest_path: &str, force: bool) -> String {
    let head = &shipment.survey.root().selection.head;
    let moved = delta.head_moved(head);
    let flag = |is: bool| quote([if is { "1" } else { "" }]);
    let refs = match (&head.branch, &head.commit) {
        (Some(branch), Some(commit)) if moved => {
            // A branch's name holds no space and no control character (git-check-ref-format(1)), but may hold a quote.
            let name = format!("refs/heads/{}", branch.to_string_lossy());
            format!("printf '%s\\n' {}", quote([format!("update {name} {commit}").as_str()]))
        }
        _ => ":".to_owned(),
    };
    let shallow = match (&head.commit, shipment.survey.choice.mode) {
        (Some(commit), WorkspaceMode::Shallow) => format!("echo {commit} >\"$s/lists/shallow\""),
        _ => ":".to_owned(),
    };
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("REF", PREPARED_REF.to_owned()),
        ("OLD", quote([delta.from.base_commit.as_str()]).trim_matches('\'').to_owned()),
        ("NEW", shipment.base_commit.clone()),
        ("WAS", quote([delta.from.head_commit.as_deref().unwrap_or_default()])),
        ("INDEX", delta.index_digest()),
        ("MOVED", flag(moved)),
        ("FORCE", flag(force)),
        ("REFS", refs),
        ("SHALLOW", shallow),
    ]);
    fill(&[BEGIN, REST].concat(), &values)
}
