//! git(1) on the host: every call with hooks, fsmonitor, filters, lazy fetching and the caller's `GIT_*` variables off, so that
//! looking at a checkout runs nothing of the checkout's and changes nothing in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::exec::{Exec, ExecError};

/// Variables by which a caller, such as a hook, points git somewhere else (git-rev-parse(1) --local-env-vars, and more).
const LOCAL_VARIABLES: [&str; 22] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ATTR_SOURCE",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_EXTERNAL_DIFF",
    "GIT_GLOB_PATHSPECS",
    "GIT_GRAFT_FILE",
    "GIT_ICASE_PATHSPECS",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INDEX_VERSION",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NAMESPACE",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Settings that win over every configuration file.
const SETTINGS: [(&str, &str); 21] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.splitIndex", "false"),
    ("core.commitGraph", "true"),
    ("index.sparse", "false"),
    ("index.skipHash", "false"),
    ("index.threads", "true"),
    ("status.showUntrackedFiles", "normal"),
    ("diff.external", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // What a file has been since is seen by all that the filesystem tells of it, and no line ending is a reason to stop.
    ("core.checkStat", "default"),
    ("core.trustctime", "true"),
    ("core.safecrlf", "false"),
    // What we have git write is gone with the transfer.
    ("core.fsync", "none"),
    // git would otherwise map files whole, or hold them in memory whole, up to half a gigabyte each.
    ("core.bigFileThreshold", "4m"),
    ("core.packedGitWindowSize", "1m"),
    ("core.packedGitLimit", "16m"),
    ("core.deltaBaseCacheLimit", "8m"),
    // Comparing a large file with the index deflates it all the same.
    ("core.compression", "0"),
];

/// git on one directory.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    settings: Vec<(String, String)>,
}

impl Git {
    /// git as if started in `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let settings = SETTINGS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let fixed = [
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_LITERAL_PATHSPECS", "1"),
            // git before 2.45 does not know GIT_NO_LAZY_FETCH.
            ("GIT_ALLOW_PROTOCOL", "none"),
        ];
        let env = fixed.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        Self { dir: dir.into(), env, settings }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets a variable for every later call.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets a configuration value for every later call.
    pub fn setting(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.settings.push((key.into(), value.into()));
    }

    /// A call, ready to run.
    pub fn exec<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Exec {
        let mut exec = Exec::new("git").current_dir(&self.dir).deadline(Duration::from_secs(600));
        let ours = |name: &str| name == "GIT_CONFIG_COUNT" || self.env.iter().any(|(key, _)| key == name);
        for name in LOCAL_VARIABLES.into_iter().filter(|name| !ours(name)) {
            exec = exec.env_remove(name);
        }
        // Through the environment and not -c: a name may hold any byte, a "=" included.
        exec = exec.env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (index, (key, value)) in self.settings.iter().enumerate() {
            exec = exec.env(format!("GIT_CONFIG_KEY_{index}"), key);
            exec = exec.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        for (key, value) in &self.env {
            exec = exec.env(key, value);
        }
        exec.args(args)
    }

    /// Runs a call and gives its stdout.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Vec<u8>, ExecError> {
        self.exec(args).run()
    }
}

/// The pieces of `-z` output.
pub fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|b| *b == 0).filter(|piece| !piece.is_empty())
}

/// Output of one line as text, without its newline.
pub fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned()
}

/// A path as git printed it.
pub fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
