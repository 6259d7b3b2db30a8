//! What of a checkout would travel, in words for people.

use banger_contract::error::escape_controls;
use banger_contract::record::WorkspaceMode;
use banger_contract::reply::CheckoutReply;

/// How many submodules are named.
const MAX_NAMED: usize = 20;

/// `1 file` or `2 files`, in groups of three digits.
fn count(number: usize, what: &str) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{out} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes in the largest binary unit that fits.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let power = (1..=units.len()).rev().find(|power| bytes >> (10 * power) > 0);
    match power {
        Some(power) => format!("{:.1} {}", bytes as f64 / (1_u64 << (10 * power)) as f64, units[power - 1]),
        None => count(usize::try_from(bytes).unwrap_or(0), "byte"),
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// What a caller may not expect, a line each.
pub fn notices(reply: &CheckoutReply) -> Vec<String> {
    let mut lines = Vec::new();
    let left = reply.left_behind_count;
    if left > 0 {
        let stay = if left == 1 { "stays" } else { "stay" };
        let how = "--include-untracked takes them along, but for repositories in the checkout";
        lines.push(format!("{} {stay} behind ({how})", count(left, "untracked file")));
    }
    let pointers = reply.lfs_pointer_count;
    if pointers > 0 {
        let are = if pointers == 1 {
            "is a Git LFS pointer and travels"
        } else {
            "are Git LFS pointers and travel"
        };
        lines.push(format!(
            "{} {are} as such (git lfs pull fetches what they point at)",
            count(pointers, "file")
        ));
    }
    let empty = reply.submodules.iter().filter(|submodule| submodule.head_commit.is_none()).count();
    if empty > 0 {
        let are = if empty == 1 { "is" } else { "are" };
        let how = "git submodule update --init --recursive fetches them";
        lines.push(format!("{} {are} not checked out and stay empty ({how})", count(empty, "submodule")));
    }
    lines
}

/// The whole answer, a line for each thing.
pub fn text(reply: &CheckoutReply) -> String {
    let mut lines = vec![("checkout", reply.root.clone())];
    let at = reply.head_commit.as_deref().map_or("no commit yet", short);
    let branch = reply.branch.as_deref().unwrap_or("detached HEAD");
    lines.push(("head", format!("{at} ({branch})")));
    let git = match (reply.mode, reply.shallow, reply.partial) {
        (WorkspaceMode::Files, ..) => "none (--mode files): no patch can be taken",
        (WorkspaceMode::Shallow, ..) => "one commit of history",
        (_, _, true) => "the history reachable from HEAD, but for what this partial clone lacks",
        (_, true, _) => "the history reachable from HEAD, as far as this shallow clone has it",
        _ => "the history reachable from HEAD",
    };
    lines.push(("git", git.to_owned()));
    let changed = match reply.changed_count {
        0 => "none changed".to_owned(),
        changed => format!("{} changed", count(changed, "file")),
    };
    let files = count(reply.file_count, "file");
    lines.push(("files", format!("{files}, {}, {changed}", size(reply.size_bytes))));
    if reply.sparse_count > 0 {
        lines.push(("sparse", format!("{} not checked out", count(reply.sparse_count, "further file"))));
    }
    for submodule in reply.submodules.iter().take(MAX_NAMED) {
        let state = match &submodule.head_commit {
            None => "not checked out".to_owned(),
            Some(commit) if submodule.changed_count == 0 => short(commit).to_owned(),
            Some(commit) => format!("{}, {} changed", short(commit), count(submodule.changed_count, "file")),
        };
        lines.push(("submodule", format!("{} ({state})", submodule.path)));
    }
    if reply.submodules.len() > MAX_NAMED {
        lines.push(("submodule", format!("and {} more", reply.submodules.len() - MAX_NAMED)));
    }
    lines.extend(notices(reply).into_iter().map(|notice| ("note", notice)));
    lines.iter().map(|(name, value)| format!("{name:<10} {}\n", escape_controls(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1_234_567, "file"), "1,234,567 files");
        assert_eq!(
            [size(1), size(1023), size(1536), size(5 << 30)],
            ["1 byte", "1,023 bytes", "1.5 KiB", "5.0 GiB"]
        );
    }
}
