//! Submodules: which are checked out, what they are called, and where the guest keeps them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::checkout::Checkout;
use super::config::Config;
use super::error::WorkspaceError;
use banger_host::git;

/// The names of the submodules of `checkout`, by their paths, as its `.gitmodules` in the working tree has them.
pub fn names(checkout: &Checkout) -> Result<BTreeMap<PathBuf, String>, WorkspaceError> {
    let file = Path::new(".gitmodules");
    if checkout.look(file)?.is_none_or(|entry| entry.is_symlink()) {
        return Ok(BTreeMap::new());
    }
    let args = ["config", "-z", "--no-includes", "--file", ".gitmodules", "--list"];
    let config = Config::parse(&checkout.git().run(args).map_err(checkout.git_error())?);
    let named = |name: &&str| config.get(&format!("submodule.{name}.path")).map(git::path);
    let names = config.subsections("submodule");
    Ok(names.iter().filter_map(|name| named(name).map(|path| (path, (*name).to_owned()))).collect())
}

/// Opens the submodule at `path` of `parent`; `None` where it is not checked out.
pub fn open(parent: &Checkout, path: &Path) -> Result<Option<Checkout>, WorkspaceError> {
    let own = path.join(".git");
    let full = parent.root.join(path);
    if parent.open_beneath(&own, OFlags::PATH).map_err(WorkspaceError::io("look at", &full))?.is_none() {
        return Ok(None);
    }
    let checkout = Checkout::open(&full)?;
    if checkout.root != full {
        return Err(WorkspaceError::Submodule {
            path: full,
            why: "its git directory belongs to another one",
        });
    }
    Ok(Some(checkout))
}

/// Where the guest keeps the git directory of the submodule at `path` (from the workspace's root), called `name` in the
/// repository whose own git directory is `parent`: where git would, or in the submodule itself where it has no name. git made
/// the same rules after names had led it out of its directory (CVE-2018-11235).
pub fn git_dir(parent: &Path, path: &Path, name: Option<&str>) -> Result<PathBuf, WorkspaceError> {
    let Some(name) = name else { return Ok(path.join(".git")) };
    let fine = name.split(['/', '\\']).all(|part| !matches!(part, "" | "." | ".."));
    if !fine || name.contains('\u{fffd}') {
        return Err(WorkspaceError::Submodule {
            path: path.to_owned(),
            why: "its name in .gitmodules is not a path",
        });
    }
    Ok(parent.join("modules").join(name))
}

/// The way from `from` to `to`, both below the same root.
pub fn relative(from: &Path, to: &Path) -> PathBuf {
    std::iter::repeat_n(Path::new(".."), from.components().count()).collect::<PathBuf>().join(to)
}

/// The file `.git` of a submodule at `path`, whose git directory is `git_dir`.
pub fn git_file(path: &Path, git_dir: &Path) -> Vec<u8> {
    [b"gitdir: ", relative(path, git_dir).as_os_str().as_bytes(), b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        let place = |name| git_dir(Path::new(".git"), Path::new("a/b"), name);
        assert_eq!(place(Some("lib/x")).unwrap(), Path::new(".git/modules/lib/x"));
        assert_eq!(place(None).unwrap(), Path::new("a/b/.git"));
        for name in ["../x", "a/../../x", "..\\x", "/x", "a//b", "", "."] {
            assert!(place(Some(name)).is_err(), "{name}");
        }
        let file = git_file(Path::new("a/b"), Path::new(".git/modules/x"));
        assert_eq!(file, b"gitdir: ../../.git/modules/x\n");
    }
}
