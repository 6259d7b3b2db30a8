//! What of a patch a person should look at before applying it: files that tools of the host run or obey by themselves, as soon as
//! somebody enters the directory, opens it in an editor, builds, commits or pushes ([`known`]); links, modes and repositories.

use std::collections::BTreeSet;

use super::patch::known::{self, is_version_control};
use super::patch::{Entry, Status};

/// A file to look at, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its path.
    pub path: Vec<u8>,
    /// Why, in a few words.
    pub reason: &'static str,
}

/// What to look at in a patch, in its order.
pub fn flags(entries: &[Entry]) -> Vec<Flag> {
    let there: BTreeSet<&[u8]> =
        entries.iter().filter(|e| e.status != Status::Deleted).map(|e| e.path.as_slice()).collect();
    let mut out = Vec::new();
    for entry in entries {
        let mut flag = |reason| out.push(Flag { path: entry.path.clone(), reason });
        let is_gone = entry.status == Status::Deleted;
        let opaque = !is_gone && (entry.is_symlink() || entry.is_submodule());
        let group = known::group(&entry.path, opaque);
        let of_old = || entry.from.as_ref().and_then(|from| known::group(from, false));
        if let Some(group) = group.or_else(of_old) {
            flag(group.reason());
        }
        // What is removed runs no more, but a removed setting may be one that kept something from running.
        if is_gone {
            continue;
        }
        if entry.is_symlink() && leads_outside(&entry.path, &entry.target) {
            flag("a symbolic link out of the checkout");
        }
        if becomes_executable(entry) {
            flag("it becomes executable");
        }
        if looks_like_a_repository(&entry.path, &there) {
            flag("git takes its directory for a repository and obeys its config");
        }
    }
    out
}

/// Whether a link at `path` leads out of the checkout, or to version control's own directory, by its own words. A link that leads through another
/// one is judged as if that were a directory.
fn leads_outside(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.iter().filter(|b| **b == b'/').count();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            part if is_version_control(&String::from_utf8_lossy(part).to_lowercase()) => return true,
            _ => depth += 1,
        }
    }
    false
}

fn becomes_executable(entry: &Entry) -> bool {
    let executable = Some(0o100_755);
    entry.new_mode == executable && entry.old_mode != executable
}

/// A directory with `HEAD` and `config` is a bare repository for git, which then runs what the config says (core.fsmonitor).
fn looks_like_a_repository(path: &[u8], there: &BTreeSet<&[u8]>) -> bool {
    let Some(dir) = path.strip_suffix(b"HEAD").filter(|dir| dir.is_empty() || dir.ends_with(b"/")) else {
        return false;
    };
    there.contains([dir, b"config"].concat().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, old_mode: Option<u32>, new_mode: Option<u32>, target: &str) -> Entry {
        Entry {
            path: path.into(),
            from: None,
            status: if new_mode.is_none() { Status::Deleted } else { Status::Added },
            old_mode,
            new_mode,
            additions: 1,
            deletions: 0,
            binary: false,
            bytes: 0,
            target: target.into(),
        }
    }

    #[test]
    fn files_that_tools_run_by_themselves_are_flagged() {
        let file = |path| entry(path, Some(0o100_644), Some(0o100_644), "");
        let link = |path| entry(path, None, Some(0o120_000), "src");
        let moved = Entry { from: Some(".envrc".into()), status: Status::Renamed, ..file("x") };
        let module = entry(".husky", Some(0o160_000), Some(0o160_000), "");
        let gone = entry("build.rs", Some(0o100_644), None, "");
        for flagged in [file(".envrc"), file("a/build.rs"), link(".vscode"), moved, module, gone] {
            assert_eq!(flags(std::slice::from_ref(&flagged)).len(), 1, "{flagged:?}");
        }
        for plain in [file("Makefile"), link("vscode"), file(".husky")] {
            assert_eq!(flags(std::slice::from_ref(&plain)), [], "{plain:?}");
        }
    }

    #[test]
    fn links_modes_and_repositories_are_flagged() {
        let link = |path, target| entry(path, None, Some(0o120_000), target);
        for (entry, flagged) in [
            (link("l", "/etc/passwd"), true),
            (link("l", "../x"), true),
            (link("a/l", "../x"), false),
            (link("a/l", "../../x"), true),
            (link("a/l", "b/../../../x"), true),
            (link("l", ".git/config"), true),
            (link("l", ".hg/hgrc"), true),
            (link("l", "x/./y"), false),
            (entry("x", None, Some(0o100_755), ""), true),
            (entry("x", Some(0o100_644), Some(0o100_755), ""), true),
            (entry("x", Some(0o100_755), Some(0o100_755), ""), false),
            (entry("x", Some(0o100_755), None, ""), false),
        ] {
            assert_eq!(flags(std::slice::from_ref(&entry)).len(), usize::from(flagged), "{entry:?}");
        }
        let file = |path| entry(path, None, Some(0o100_644), "");
        assert_eq!(flags(&[file("d/HEAD"), file("d/config")])[0].path, b"d/HEAD");
        assert_eq!(flags(&[file("d/HEAD"), file("config"), file("AHEAD")]), []);
    }
}
