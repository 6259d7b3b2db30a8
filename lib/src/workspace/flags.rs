//! What of a patch a person should look at before applying it: files that tools of the host run or obey by themselves, as soon as
//! somebody enters the directory, opens it in an editor, commits or pushes. What runs only when it is called (a Makefile, a
//! script) is not of them.

use std::collections::BTreeSet;

use super::patch::{Entry, Status};

/// How a path is recognized; letter case does not matter.
#[derive(Debug, Clone, Copy)]
enum At {
    /// The file has this name, wherever it is.
    Name(&'static str),
    /// The file's name ends so.
    Suffix(&'static str),
    /// The file is below a directory of this path, wherever that is.
    Below(&'static str),
    /// The path is this, or ends in it after a slash.
    Tail(&'static str),
}
use At::{Below, Name, Suffix, Tail};

const SHELL: &str = "a shell that enters the directory may run it";
const HOOK: &str = "git hooks run it";
const EDITOR: &str = "an editor that opens the directory may run it";
const CI: &str = "CI runs it";
const GIT: &str = "git obeys it";
const TOOLS: &str = "it chooses or redirects the tools that run here";
const AGENT: &str = "coding agents run or follow it";

/// The one table of such files.
const TABLE: &[(At, &str)] = &[
    (Name(".envrc"), SHELL),
    (Name(".direnvrc"), SHELL),
    (Name(".autoenv.zsh"), SHELL),
    (Below(".husky"), HOOK),
    (Below(".githooks"), HOOK),
    (Below(".git-hooks"), HOOK),
    (Below(".hooks"), HOOK),
    (Below("git-hooks"), HOOK),
    (Below("githooks"), HOOK),
    (Name(".pre-commit-config.yaml"), HOOK),
    (Name(".pre-commit-config.yml"), HOOK),
    (Name("lefthook.yml"), HOOK),
    (Name("lefthook.yaml"), HOOK),
    (Name("lefthook.toml"), HOOK),
    (Name(".lefthook.yml"), HOOK),
    (Below(".lefthook"), HOOK),
    (Name(".overcommit.yml"), HOOK),
    (Name(".lintstagedrc"), HOOK),
    (Name(".lintstagedrc.json"), HOOK),
    (Name(".lintstagedrc.js"), HOOK),
    (Tail(".vscode/tasks.json"), EDITOR),
    (Tail(".vscode/launch.json"), EDITOR),
    (Tail(".vscode/settings.json"), EDITOR),
    (Tail(".vscode/extensions.json"), EDITOR),
    (Tail(".vscode/mcp.json"), AGENT),
    (Suffix(".code-workspace"), EDITOR),
    (Below(".idea"), EDITOR),
    (Below(".fleet"), EDITOR),
    (Below(".zed"), EDITOR),
    (Below(".devcontainer"), EDITOR),
    (Name(".devcontainer.json"), EDITOR),
    (Name(".exrc"), EDITOR),
    (Name(".vimrc"), EDITOR),
    (Name(".nvimrc"), EDITOR),
    (Name(".nvim.lua"), EDITOR),
    (Name(".dir-locals.el"), EDITOR),
    (Name(".dir-locals-2.el"), EDITOR),
    (Suffix(".sublime-project"), EDITOR),
    (Name(".gdbinit"), EDITOR),
    (Name(".lldbinit"), EDITOR),
    (Name(".gitpod.yml"), EDITOR),
    (Name(".watchmanconfig"), EDITOR),
    (Below(".github/workflows"), CI),
    (Below(".github/actions"), CI),
    (Below(".forgejo/workflows"), CI),
    (Below(".gitea/workflows"), CI),
    (Name(".gitlab-ci.yml"), CI),
    (Below(".gitlab/ci"), CI),
    (Below(".circleci"), CI),
    (Name("Jenkinsfile"), CI),
    (Below(".buildkite"), CI),
    (Name(".travis.yml"), CI),
    (Name("azure-pipelines.yml"), CI),
    (Name("bitbucket-pipelines.yml"), CI),
    (Name(".drone.yml"), CI),
    (Name(".woodpecker.yml"), CI),
    (Below(".woodpecker"), CI),
    (Name("appveyor.yml"), CI),
    (Name(".appveyor.yml"), CI),
    (Name(".cirrus.yml"), CI),
    (Below(".teamcity"), CI),
    (Below(".semaphore"), CI),
    (Name(".build.yml"), CI),
    (Below(".builds"), CI),
    (Name("cloudbuild.yaml"), CI),
    (Name(".gitattributes"), GIT),
    (Name(".gitmodules"), GIT),
    (Name(".lfsconfig"), GIT),
    (Name("mise.toml"), TOOLS),
    (Name(".mise.toml"), TOOLS),
    (Name("mise.local.toml"), TOOLS),
    (Name(".mise.local.toml"), TOOLS),
    (Below(".mise"), TOOLS),
    (Tail("mise/config.toml"), TOOLS),
    (Below(".config/mise"), TOOLS),
    (Name(".tool-versions"), TOOLS),
    (Name(".asdfrc"), TOOLS),
    (Name("rust-toolchain"), TOOLS),
    (Name("rust-toolchain.toml"), TOOLS),
    (Name(".npmrc"), TOOLS),
    (Name(".yarnrc"), TOOLS),
    (Name(".yarnrc.yml"), TOOLS),
    (Below(".yarn"), TOOLS),
    (Name(".pnpmfile.cjs"), TOOLS),
    (Name("bunfig.toml"), TOOLS),
    (Tail(".cargo/config.toml"), TOOLS),
    (Tail(".cargo/config"), TOOLS),
    (Name("pip.conf"), TOOLS),
    (Tail(".bundle/config"), TOOLS),
    (Below(".mvn"), TOOLS),
    (Name(".bazelrc"), TOOLS),
    (Below(".claude"), AGENT),
    (Name("CLAUDE.md"), AGENT),
    (Name("CLAUDE.local.md"), AGENT),
    (Name("AGENTS.md"), AGENT),
    (Name("GEMINI.md"), AGENT),
    (Name(".mcp.json"), AGENT),
    (Below(".cursor"), AGENT),
    (Name(".cursorrules"), AGENT),
    (Below(".windsurf"), AGENT),
    (Name(".windsurfrules"), AGENT),
    (Below(".codex"), AGENT),
    (Below(".gemini"), AGENT),
    (Name(".aider.conf.yml"), AGENT),
    (Below(".continue"), AGENT),
    (Name(".clinerules"), AGENT),
    (Below(".clinerules"), AGENT),
    (Below(".roo"), AGENT),
    (Below(".kiro"), AGENT),
    (Below(".junie"), AGENT),
    (Below(".amazonq"), AGENT),
    (Below(".opencode"), AGENT),
    (Name("opencode.json"), AGENT),
    (Tail(".github/copilot-instructions.md"), AGENT),
];

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
        if let Some(reason) = known(&entry.path) {
            flag(reason);
        }
        // What is removed runs no more, but a removed setting may be one that kept something from running.
        if entry.status == Status::Deleted {
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

/// The table's reason for `path`.
fn known(path: &[u8]) -> Option<&'static str> {
    let path = String::from_utf8_lossy(path).to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    let rooted = format!("/{path}");
    let hit = |at: &At| match at {
        Name(wanted) => name == wanted.to_lowercase(),
        Suffix(wanted) => name.ends_with(wanted),
        Below(wanted) => rooted.contains(&format!("/{wanted}/")),
        Tail(wanted) => rooted.ends_with(&format!("/{wanted}")),
    };
    TABLE.iter().find(|(at, _)| hit(at)).map(|(_, reason)| *reason)
}

/// Whether a link at `path` leads out of the checkout, or to its git directory, by its own words. A link that leads through another
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
            part if part.eq_ignore_ascii_case(b".git") => return true,
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
        for (path, reason) in [
            (".envrc", SHELL),
            ("sub/.ENVRC", SHELL),
            (".husky/pre-commit", HOOK),
            ("a/.vscode/tasks.json", EDITOR),
            (".github/workflows/ci.yml", CI),
            ("Jenkinsfile", CI),
            (".gitattributes", GIT),
            ("x/.cargo/config.toml", TOOLS),
            ("CLAUDE.md", AGENT),
            ("x.code-workspace", EDITOR),
        ] {
            assert_eq!(known(path.as_bytes()), Some(reason), "{path}");
        }
        for path in [
            "Makefile",
            "src/main.rs",
            ".vscode/notes.txt",
            "envrc",
            "my.envrc",
            ".github/x",
            "cargo/config.toml",
        ] {
            assert_eq!(known(path.as_bytes()), None, "{path}");
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
