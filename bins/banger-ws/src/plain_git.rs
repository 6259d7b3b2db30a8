//! A git that knows of nothing but bytes: a git directory of our own, no configuration but ours, no attributes, no filters. What it reads and
//! writes is what lies there.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::WorkspaceError;
use super::staging;
use banger_host::git::Git;

/// Settings that make a patch one that applies anywhere.
const SETTINGS: [(&str, &str); 7] = [
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.quotePath", "true"),
    ("core.compression", "1"),
    ("diff.suppressBlankEmpty", "false"),
    ("diff.algorithm", "default"),
];
/// What takes away whatever a `.gitattributes` file gives: nothing wins over `info/attributes` (gitattributes(5)).
const NO_ATTRIBUTES: &str =
    "* -text !crlf !eol -ident !filter !working-tree-encoding !diff !merge !whitespace\n";

/// Makes the git directory `git_dir`, which borrows the objects in `alternates`.
///
/// # Errors
/// Those of the files.
pub fn make(git_dir: &Path, alternates: &[PathBuf], sha256: bool) -> Result<(), WorkspaceError> {
    let config = if sha256 {
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n"
    } else {
        "[core]\n\trepositoryformatversion = 0\n"
    };
    let lines: Vec<u8> =
        alternates.iter().flat_map(|path| [&staging::quote(path.as_os_str())[..], b"\n"].concat()).collect();
    for dir in ["refs/heads", "objects/info", "objects/pack", "info"] {
        let path = git_dir.join(dir);
        fs::create_dir_all(&path).map_err(WorkspaceError::io("make", path))?;
    }
    let files: [(&str, &[u8]); 4] = [
        ("HEAD", b"ref: refs/heads/none\n"),
        ("config", config.as_bytes()),
        ("info/attributes", NO_ATTRIBUTES.as_bytes()),
        ("objects/info/alternates", &lines),
    ];
    for (name, text) in files {
        let path = git_dir.join(name);
        fs::write(&path, text).map_err(WorkspaceError::io("write", path))?;
    }
    Ok(())
}

/// git in `dir`, on `git_dir` and with nothing else.
pub fn git(dir: &Path, git_dir: &Path) -> Git {
    let mut git = Git::at(dir)
        .env("GIT_DIR", git_dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        // git before 2.32 does not know GIT_CONFIG_GLOBAL.
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent");
    SETTINGS.into_iter().for_each(|(name, value)| git.setting(name, value));
    git
}
