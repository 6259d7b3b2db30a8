//! What the guest does with a second copy, as shell. Each process costs an emulated guest some 20 ms, so what differs comes as words
//! that builtins work on, all files of the working tree and of the git directory go to their places with one cp(1), and the ref
//! of the prepared commit is a file as well.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use crate::contract::record::WorkspaceMode;
use crate::sys::git;
use crate::workspace::checkout::Head;
use crate::workspace::delta::{Delta, PLACE};
use crate::workspace::fill::{batches, word};
use crate::workspace::gitdir;
use crate::workspace::guest::quote;
use crate::workspace::shipment::Shipment;
use crate::workspace::staging::PREPARED_REF;
use crate::workspace::stream::GIVEN_INDEX;

/// Completes what was cut off, and looks which prepared commit is there. What was received waits in `$s`; with the file `go` in
/// it, it is being put in its place.
pub(super) fn begin(guest_path: &str) -> String {
    format!(
        r#"
umask 022
if ! cd -- {path} 2>/dev/null || [ ! -f .git/HEAD ]; then say missing; exit 0; fi
s={PLACE}
own() {{ git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.splitIndex=false --literal-pathspecs "$@"; }}
if [ -f "$s/go" ] && ! . "./$s/apply"; then say failed; exit 0; fi
[ ! -e "$s" ] || rm -rf -- "$s"
now=
[ ! -f .git/{PREPARED_REF} ] || IFS= read -r now <.git/{PREPARED_REF}
[ -n "$now" ] || now=$(git rev-parse -q --verify {PREPARED_REF})
"#,
        path = quote([guest_path])
    )
}

/// Tells which prepared commit is there.
pub(super) const ASK: &str = r#"
say ready
printf 'other\0%s\0end\0' "$now"
"#;

/// Receives what comes on top of the prepared commit `from`, and does what it says.
pub(super) fn receive(from: &str) -> String {
    format!(
        r#"
if [ "$now" != {from} ]; then say ready; printf 'other\0%s\0end\0' "$now"; exit 0; fi
if ! TAR_OPTIONS=--warning=no-timestamp tar -xpf - || [ ! -f "$s/end" ]; then rm -rf -- "$s"; say failed; exit 0; fi
say ready
. "./$s/end"
"#,
        from = quote([from])
    )
}

/// Compares: the guest's files as they were given, or already as they are to be; new ones not there.
const COMPARE: &str = r#"
for f in @FRESH@; do if [ -e "./$f" ] || [ -L "./$f" ]; then printf '%s\0' "$f"; fi; done >>"$s/differ"
for f in @DIRECTORIES@; do
    if [ -L "./$f" ] || { [ -e "./$f" ] && [ ! -d "./$f" ]; }; then printf '%s\0' "$f"; fi
done >>"$s/differ"
: >"$s/replace"
[ ! -s "$s/differ" ] || s=$s xargs -0 -r sh -c 'for f; do
    n=$s/tree/$f
    if [ -L "$n" ] && [ -L "./$f" ] && [ "$(readlink -- "$n")" = "$(readlink -- "./$f")" ]; then continue; fi
    if [ -f "$n" ] && [ ! -L "$n" ] && [ -f "./$f" ] && [ ! -L "./$f" ] && cmp -s -- "$n" "./$f"; then continue; fi
    if [ ! -e "$n" ] && [ ! -L "$n" ] && [ ! -e "./$f" ] && [ ! -L "./$f" ]; then continue; fi
    printf "%s\0" "$f"
done' sh <"$s/differ" >"$s/replace"
# Directories that become files: nothing in them but what goes.
if [ -s "$s/replaced" ]; then
    xargs -0 -r sh -c 'for f; do if [ -d "./$f" ] && [ ! -L "./$f" ]; then find "./$f" ! -type d -print0; fi; done' sh \
        <"$s/replaced" | sed 's/\x00\.\//\x00/g; 1s/^\.\///' >"$s/below"
    tr '\0\n' '\n\0' <"$s/gone" | sort >"$s/a"
    tr '\0\n' '\n\0' <"$s/below" | sort | comm -23 - "$s/a" | tr '\0\n' '\n\0' >>"$s/replace"
fi
"#;

/// What the guest was given, as far as it differs from what is to be. By size and time first, which the index that came along has.
const GIVEN: &str = r#"
GIT_INDEX_FILE=$PWD/$s/given GIT_OPTIONAL_LOCKS=0 git -c core.hooksPath=/dev/null -c core.fsmonitor=false \
    -c core.splitIndex=false -c diff.ignoreSubmodules=all -c diff.autoRefreshIndex=true \
    diff -z --name-only --no-renames --no-ext-diff --no-textconv >"$s/differ" || { rm -rf -- "$s"; exit 1; }
"#;

/// What is staged. An index that the guest has not changed is replaced by the host's: with its flags, and with what it knows of
/// the files.
const STAGED: &str = r#"
if [ .git/index -ef .git/@GIVEN-INDEX@ ] || [ "$(git ls-files -s -z | sha256sum)" = "@DIGEST@  -" ]; then : >"$s/use-whole"
else
    xargs -0 -r git --literal-pathspecs ls-files -s -z -- <"$s/staged" >"$s/have"
    cmp -s "$s/have" "$s/staged-before" || cmp -s "$s/have" "$s/staged-after" || staged=1
fi
"#;

/// Where HEAD stands.
const HEAD: &str = r#"
commit=$(git rev-parse -q --verify HEAD)
IFS= read -r at <.git/HEAD
[ "$at" = @AT@ ] && [ "$commit" = @COMMIT@ ] || head=1
"#;

/// Asks, or says that it does not.
const ASK_FIRST: &str = r#"
if [ -s "$s/replace" ] || [ -n "$staged$head" ]; then
    printf 'conflict\0'
    cat "$s/replace"
    [ -z "$staged" ] || printf '\0index\0'
    [ -z "$head" ] || printf '\0HEAD\0'
    printf '\0end\0'
    rm -rf -- "$s"
    exit 0
fi
"#;

/// Puts everything in its place. What the mark stands for must be on the disk before the mark: a virtual machine may lose its power.
const GO: &str = r#"
sync -f "$s/end" 2>/dev/null || sync
if : >"$s/go" && . "./$s/apply"; then printf 'done\0end\0'; fi
"#;

/// Puts the files in their places; each step can be done twice.
const PLACE_FILES: &str = r#"
set -- "$s/tree/."
[ ! -f "$s/use-whole" ] || set -- "$@" "$s/whole/."
cp -RPlf -- "$@" . || return
if [ -f "$s/staged" ] && [ ! -f "$s/use-whole" ]; then
    own update-index -z --index-info <"$s/index" || return
    for f in skip-worktree no-skip-worktree assume-unchanged no-assume-unchanged; do
        [ ! -s "$s/$f" ] || own update-index -z "--$f" --stdin <"$s/$f" || return
    done
fi
[ ! -s "$s/refs" ] || own update-ref --stdin <"$s/refs" || return
"#;

/// `paths` as words of a shell.
fn words<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let words: Vec<Vec<u8>> = paths.into_iter().map(plain_word).collect();
    words.join(&b' ')
}

/// `path` as a word of a shell, as it is.
fn plain_word(path: &[u8]) -> Vec<u8> {
    let mut word = word(&git::path(path));
    // Without the "./" that `word` begins with, behind the quote.
    word.drain(1..3);
    word
}

/// `script` with its `@NAME@`s replaced.
fn fill(script: &str, values: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(script.len());
    let mut rest = script;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before.as_bytes());
        let value =
            values.iter().find(|(name, _)| after[1..].strip_prefix(name).is_some_and(|r| r.starts_with('@')));
        match value {
            Some((name, text)) => {
                out.extend_from_slice(text);
                rest = &after[name.len() + 2..];
            }
            None => {
                out.push(b'@');
                rest = &after[1..];
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// The script that compares, asks, and begins to put things in their places.
pub(super) fn compare(delta: &Delta, head: &Head, force: bool) -> Vec<u8> {
    let mut text = b"staged= head= commit=\n: >\"$s/differ\"\n".to_vec();
    if delta.known().next().is_some() {
        text.extend_from_slice(GIVEN.as_bytes());
    }
    let replaced = delta.replaced();
    let becomes_file: BTreeSet<&[u8]> = replaced.iter().copied().collect();
    let fresh = delta.fresh.iter().map(Vec::as_slice).filter(|path| !becomes_file.contains(path));
    text.extend(fill(COMPARE, &[("FRESH", words(fresh)), ("DIRECTORIES", words(delta.directories()))]));
    if !delta.staged().is_empty() {
        let values = [("GIVEN-INDEX", GIVEN_INDEX.into()), ("DIGEST", delta.index_digest().into_bytes())];
        text.extend(fill(STAGED, &values));
    }
    if delta.head_moved(head) {
        let at = quote([delta.from.head.trim_end_matches('\n')]).into_bytes();
        let commit = quote([delta.from.head_commit.as_deref().unwrap_or_default()]).into_bytes();
        text.extend(fill(HEAD, &[("AT", at), ("COMMIT", commit)]));
    }
    if !force {
        text.extend_from_slice(ASK_FIRST.as_bytes());
    }
    let mut refs = Vec::new();
    // A ref's name holds no space and no control character (git-check-ref-format(1)), but may hold a quote.
    let mut update = |name: &[u8], object: &str| {
        let line = [b"update ", name, b" ", object.as_bytes()].concat();
        refs.extend([b"printf '%s\\n' ", &plain_word(&line)[..], b"\n"].concat());
    };
    if delta.head_moved(head)
        && let (Some(branch), Some(commit)) = (&head.branch, &head.commit)
    {
        update(&[b"refs/heads/", branch.as_bytes()].concat(), commit);
    }
    delta.new_tags.iter().for_each(|tag| update(&tag.name, &tag.object));
    let kept = "[ -z \"$head\" ] || [ -z \"$commit\" ] || echo \"update refs/banger/replaced $commit\"\n";
    text.extend([b"{\n", kept.as_bytes(), &refs, b"} >\"$s/refs\"\n"].concat());
    if delta.makes_files() {
        let made = "( cd \"$s/tree\" && GIT_ALTERNATE_OBJECT_DIRECTORIES=.git/objects && export GIT_ALTERNATE_OBJECT_DIRECTORIES && . ../fill ) </dev/null || { rm -rf -- \"$s\"; exit 1; }\n";
        text = [made.as_bytes(), &text].concat();
    }
    text.extend_from_slice(GO.as_bytes());
    text
}

/// The script that puts everything in its place.
pub(super) fn apply(delta: &Delta, shipment: &Shipment) -> Vec<u8> {
    let part = shipment.survey.root();
    let mut text = b"[ ! -s \"$s/replace\" ] || xargs -0 -r rm -rf -- <\"$s/replace\" || return\n".to_vec();
    let gone: Vec<Vec<u8>> = delta.gone.iter().map(|path| word(&git::path(path))).collect();
    let mut call = |command: &[u8], words: &[Vec<u8>], then: &[u8]| {
        for words in batches(words) {
            text.extend([command, b" -- ", &words.join(&b' '), then].concat());
        }
    };
    call(b"rm -f", &gone, b" || return\n");
    let parents = delta
        .gone
        .iter()
        .filter_map(|path| path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]));
    // The deepest first. Where one is not empty, all is well.
    let parents: BTreeSet<&[u8]> = parents.collect();
    let parents: Vec<Vec<u8>> = parents.into_iter().rev().map(plain_word).collect();
    call(b"rmdir -p --ignore-fail-on-non-empty", &parents, b" 2>/dev/null\n");
    text.extend_from_slice(PLACE_FILES.as_bytes());
    if let (Some(commit), WorkspaceMode::Shallow) = (&part.selection.head.commit, shipment.survey.choice.mode)
    {
        let merge = format!(
            "{{ echo {commit}; [ ! -f .git/shallow ] || cat .git/shallow; }} | sort -u >.git/banger-shallow && mv -f .git/banger-shallow .git/shallow || return\n"
        );
        text.extend(merge.into_bytes());
    }
    let sparse = gitdir::sparse(&part.checkout);
    if sparse != delta.from.sparse {
        for (name, value) in sparse {
            text.extend(format!("own config {name} {value} || return\n").into_bytes());
        }
    }
    text.extend_from_slice(b"rm -rf -- \"$s/go\" \"$s\"\n");
    text
}
