//! What a patch does, for the record and for people.

use std::collections::BTreeSet;

use crate::export::Export;
use crate::flags;
use crate::patch::{Entry, Scanned, Status, quoted};
use banger_contract::record::{ChangeStatus, FileChange, Flagged, Outcome};

/// How many bytes of paths each list of a record holds: three of them and the rest fit into the largest record.
const MAX_LISTED: usize = 1 << 20;
/// What an entry of a list takes beside its path, bytes.
const AROUND: usize = 160;
/// How wide the longest bar of a stat is.
const MAX_BAR: u64 = 40;

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// As many of `paths` as a record lists, sorted.
pub(super) fn listed<'p>(paths: impl Iterator<Item = &'p Vec<u8>>) -> Vec<String> {
    let mut room = MAX_LISTED;
    let fits = |path: &&Vec<u8>| {
        room = room.saturating_sub(path.len() + 3);
        room > 0
    };
    let sorted: BTreeSet<&Vec<u8>> = paths.collect();
    sorted.into_iter().take_while(fits).map(|p| text(p)).collect()
}

/// Fills in what was learned of a patch.
pub(super) fn describe(scanned: &Scanned, outcome: &mut Outcome) {
    let entries = &scanned.entries;
    let sha256 = scanned.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    outcome.patch_bytes = Some(scanned.bytes);
    outcome.patch_sha256 = Some(sha256);
    outcome.files = Some(listed(entries.iter().flat_map(Entry::paths)));
    outcome.changes =
        Some(within(entries.iter().map(change), |c| c.path.len() + c.from.as_ref().map_or(0, String::len)));
    outcome.change_count = Some(entries.len() as u64);
    outcome.additions = Some(counted(entries, |e| e.additions));
    outcome.deletions = Some(counted(entries, |e| e.deletions));
    let flagged = flags::flags(entries);
    let flagged = flagged.iter().map(|f| Flagged { path: text(&f.path), reason: f.reason.to_owned() });
    outcome.flagged = Some(within(flagged, |f| f.path.len()));
}

/// Names what is not in a patch.
pub(super) fn describe_rest(export: &Export, outcome: &mut Outcome) {
    let listed = |all: &[(Vec<u8>, String)]| {
        let named = all.iter().map(|(path, why)| Flagged { path: text(path), reason: why.clone() });
        (!all.is_empty()).then(|| (within(named, |f| f.path.len() + f.reason.len()), all.len() as u64))
    };
    (outcome.lost, outcome.lost_count) = listed(&export.lost).unzip();
    (outcome.left_out, outcome.left_out_count) = listed(&export.left_out).unzip();
    outcome.ignored_count = (export.ignored > 0).then_some(export.ignored);
}

/// Adds to `outcome` what is known of `part` of the checkout, a repository at `place` in it.
pub(super) fn add(outcome: &mut Outcome, part: Outcome, place: &[u8]) {
    let below = |path: String| if place.is_empty() { path } else { format!("{}/{path}", text(place)) };
    let sum =
        |total: &mut Option<u64>, more: Option<u64>| *total = Some(total.unwrap_or(0) + more.unwrap_or(0));
    outcome.files.get_or_insert_default().extend(part.files.into_iter().flatten().map(below));
    let changes = part.changes.into_iter().flatten();
    let changes = changes.map(|c| FileChange { path: below(c.path), from: c.from.map(below), ..c });
    outcome.changes.get_or_insert_default().extend(changes);
    let flagged = part.flagged.into_iter().flatten();
    let flagged = flagged.map(|f| Flagged { path: below(f.path), ..f });
    outcome.flagged.get_or_insert_default().extend(flagged);
    sum(&mut outcome.change_count, part.change_count);
    sum(&mut outcome.additions, part.additions);
    sum(&mut outcome.deletions, part.deletions);
    // These are named by their paths in the checkout.
    for (all, count, own, own_count) in [
        (&mut outcome.lost, &mut outcome.lost_count, part.lost, part.lost_count),
        (&mut outcome.left_out, &mut outcome.left_out_count, part.left_out, part.left_out_count),
    ] {
        if let Some(own) = own {
            all.get_or_insert_default().extend(own);
            sum(count, own_count);
        }
    }
    outcome.ignored_count = part.ignored_count;
}

/// Shortens the lists of `outcome`, of several repositories, to what a record holds.
pub(super) fn limit(outcome: &mut Outcome) {
    let named = |list: Option<Vec<Flagged>>| {
        list.map(|list| within(list.into_iter(), |f| f.path.len() + f.reason.len()))
    };
    outcome.files = outcome.files.take().map(|files| within(files.into_iter(), String::len));
    let length = |c: &FileChange| c.path.len() + c.from.as_ref().map_or(0, String::len);
    outcome.changes = outcome.changes.take().map(|changes| within(changes.into_iter(), length));
    outcome.flagged = named(outcome.flagged.take());
    outcome.lost = named(outcome.lost.take());
    outcome.left_out = named(outcome.left_out.take());
}

/// As many of `items` as a record lists.
fn within<T>(items: impl Iterator<Item = T>, length: impl Fn(&T) -> usize) -> Vec<T> {
    let mut room = MAX_LISTED;
    items
        .take_while(|item| {
            room = room.saturating_sub(length(item) + AROUND);
            room > 0
        })
        .collect()
}

fn counted(entries: &[Entry], of: impl Fn(&Entry) -> u64) -> u64 {
    entries.iter().filter(|e| !e.is_submodule()).map(of).sum()
}

fn change(entry: &Entry) -> FileChange {
    let lines = !entry.binary;
    FileChange {
        path: text(&entry.path),
        from: entry.from.as_deref().map(text),
        status: match entry.status {
            Status::Added => ChangeStatus::Added,
            Status::Deleted => ChangeStatus::Deleted,
            Status::Modified => ChangeStatus::Modified,
            Status::Renamed => ChangeStatus::Renamed,
        },
        mode: entry.new_mode.map(|mode| format!("{mode:06o}")),
        additions: lines.then_some(entry.additions),
        deletions: lines.then_some(entry.deletions),
        patch_bytes: entry.bytes,
    }
}

/// The paths that differ, one a line, quoted as git does where they must be.
pub(super) fn names(scanned: &Scanned) -> String {
    let paths: BTreeSet<&Vec<u8>> = scanned.entries.iter().flat_map(Entry::paths).collect();
    paths.into_iter().map(|path| quoted(path) + "\n").collect()
}

/// What `git diff --stat` would say.
pub(super) fn stat(scanned: &Scanned) -> String {
    let entries = &scanned.entries;
    if entries.is_empty() {
        return String::new();
    }
    let name = |e: &Entry| match &e.from {
        Some(from) => format!("{} => {}", quoted(from), quoted(&e.path)),
        None => quoted(&e.path),
    };
    let names: Vec<String> = entries.iter().map(name).collect();
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let most = entries.iter().map(|e| e.additions + e.deletions).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let mut out = String::new();
    for (entry, name) in entries.iter().zip(names) {
        let padding = " ".repeat(width - name.chars().count());
        let what = if entry.binary {
            format!("{:>digits$} {} bytes", "Bin", entry.bytes)
        } else {
            let bar = |sign: &str, count: u64| sign.repeat(scaled(count, most) as usize);
            let (plus, minus) = (bar("+", entry.additions), bar("-", entry.deletions));
            format!("{:>digits$} {plus}{minus}", entry.additions + entry.deletions)
        };
        out += &format!(" {name}{padding} | {}\n", what.trim_end());
    }
    let (plus, minus) = (counted(entries, |e| e.additions), counted(entries, |e| e.deletions));
    let files = if entries.len() == 1 { "file" } else { "files" };
    out + &format!(" {} {files} changed, {plus} insertions(+), {minus} deletions(-)\n", entries.len())
}

/// How long a bar for `count` is where the longest stands for `most`; never nothing for something.
fn scaled(count: u64, most: u64) -> u64 {
    if most <= MAX_BAR || count == 0 { count } else { (count.saturating_mul(MAX_BAR) / most).max(1) }
}
