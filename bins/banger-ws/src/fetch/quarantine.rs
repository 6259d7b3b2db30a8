//! A repository for what a guest sent, and for nothing else: it borrows the host's objects, has no refs, and is gone afterwards.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::FetchError;
use super::answer::Answer;
use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use crate::plain_git;
use banger_host::fs::atomic;
use banger_host::git::{self, Git};
use banger_host::process::exec::{ExecError, Held};
use banger_host::process::signal::Interrupts;

/// How much memory git may take for objects of a guest's, bytes: a file of up to half a gigabyte, what it is made of, and more.
/// A pack of a few bytes can claim to be any size.
const MAX_MEMORY: u64 = 2 << 30;

/// What is an error beside all that `--strict` makes one (git-fsck(1)): these are only told by git, or not at all.
const STRICTER: [&str; 5] =
    ["badFilemode", "gitattributesSymlink", "gitignoreSymlink", "gitmodulesParse", "mailmapSymlink"];

/// How mails are made that say the same whatever anybody has configured.
const AS_MAILS: [&str; 16] = [
    "format-patch",
    "--stdin",
    "--stdout",
    "--binary",
    "--full-index",
    "-M",
    "-U3",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--no-signature",
    "--no-attach",
    "--no-thread",
    "--src-prefix=a/",
    "--dst-prefix=b/",
];

/// The repository.
#[derive(Debug)]
pub struct Quarantine<'a> {
    temp: tempfile::TempDir,
    git: Git,
    interrupts: &'a Interrupts,
    /// Commits, and what else refs name, that the host has with all that they reach.
    known: Vec<String>,
    /// The commit that was sent, if the host still has it.
    sent: Option<String>,
}

impl<'a> Quarantine<'a> {
    /// Makes it in `parent`, with a name that begins with `name`, for `checkout`, whose refs are at `known`; `sent` is the commit that the
    /// guest was given. Whoever talks to guests must not be able to write there: git believes what its configuration says.
    ///
    /// What of these the host really has is found now, while it cannot be the guest's.
    ///
    /// # Errors
    /// Those of the files and of git.
    pub fn make(
        (parent, name): (&Path, &str),
        checkout: &Checkout,
        known: &[String],
        sent: Option<&str>,
        interrupts: &'a Interrupts,
    ) -> Result<Self, FetchError> {
        fs::create_dir_all(parent).map_err(WorkspaceError::io("make", parent))?;
        let temp = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(parent);
        let temp = temp.map_err(|e| WorkspaceError::io("make a directory in", parent)(atomic::bare(e)))?;
        let (git_dir, sha256) = (temp.path().join("git"), checkout.object_format == "sha256");
        plain_git::make(&git_dir, std::slice::from_ref(&checkout.objects), sha256)?;
        // Where the host's own history is cut git must not look for more of it.
        if checkout.shallow.exists() {
            let copied = fs::copy(&checkout.shallow, git_dir.join("shallow"));
            copied.map_err(WorkspaceError::io("copy", &checkout.shallow))?;
        }
        let git = plain_git::git(temp.path(), &git_dir);
        let mut made = Self { temp, git, interrupts, known: Vec::new(), sent: None };
        made.known = made.existing(known)?;
        made.sent = made.existing(&sent.map(str::to_owned).into_iter().collect::<Vec<_>>())?.pop();
        Ok(made)
    }

    /// The commit that was sent, if the host still has it.
    pub fn sent(&self) -> Option<&str> {
        self.sent.as_deref()
    }

    /// Runs git here, within limits.
    fn run(&self, args: &[&str], stdin: Vec<u8>) -> Result<Vec<u8>, ExecError> {
        let exec = self.git.exec(args).memory_limit(MAX_MEMORY).stdin(stdin);
        let output = exec.run_held(Held::default(), self.interrupts)?;
        output.success(&format!("git {}", args[0]))
    }

    fn git_error(&self) -> impl Fn(ExecError) -> FetchError + use<> {
        let root = self.temp.path().to_owned();
        move |source| match source {
            ExecError::Interrupted { signal, .. } => FetchError::Interrupted(signal),
            source => WorkspaceError::Git { root: root.clone(), source }.into(),
        }
    }

    /// What a failure of git's means that is a word on what the guest sent: that is `meaning` where git has looked at it.
    fn judge(&self, meaning: fn(ExecError) -> FetchError) -> impl Fn(ExecError) -> FetchError + use<> {
        let own = self.git_error();
        move |source| match source {
            ExecError::Status { .. } | ExecError::Deadline { .. } => meaning(source),
            source => own(source),
        }
    }

    /// Those of `ids` that are there.
    fn existing(&self, ids: &[String]) -> Result<Vec<String>, FetchError> {
        let asked: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let said = self.run(&["cat-file", "--batch-check"], asked.into_bytes()).map_err(self.git_error())?;
        let said = String::from_utf8_lossy(&said).into_owned();
        // ID TYPE SIZE, or ID missing.
        let there = said.lines().filter(|line| !line.ends_with(" missing"));
        let mut ids: Vec<String> =
            there.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Takes the objects of `answer` in, of which at most `max_bytes` may come.
    ///
    /// # Errors
    /// [`FetchError::Refused`] of what git does not take, [`FetchError::Incomplete`] where something is missing.
    pub fn take_in(&self, answer: &Answer, max_bytes: u64) -> Result<(), FetchError> {
        self.index(answer, max_bytes)?;
        let kind = self.run(&["cat-file", "-t", &answer.tip], Vec::new());
        let kind = kind.map_err(self.judge(FetchError::Incomplete))?;
        if kind != b"commit\n" {
            return Err(FetchError::Answer("HEAD is not a commit"));
        }
        // All that the host's refs reach is there; from the commit down to those everything is looked for.
        let asked = revisions(&answer.tip, &self.known);
        let complete = self.run(&["rev-list", "--objects", "--quiet", "--stdin"], asked);
        complete.map(drop).map_err(self.judge(FetchError::Incomplete))
    }

    /// Has git read the pack, name each object by what it holds, and look at each as strictly as it can.
    fn index(&self, answer: &Answer, max_bytes: u64) -> Result<(), FetchError> {
        let strict: Vec<String> = STRICTER.iter().map(|id| format!("{id}=error")).collect();
        let strict = format!("--strict={}", strict.join(","));
        let size = format!("--max-input-size={max_bytes}");
        let args = ["index-pack", "--stdin", "--fix-thin", "--threads=1", &strict, &size];
        let pack = answer.pack.try_clone().map_err(WorkspaceError::io("read", self.temp.path()))?;
        let held = Held { stdin: Some(pack), ..Held::default() };
        let refused = self.judge(refusal);
        let exec = self.git.exec(args).memory_limit(MAX_MEMORY);
        let output = exec.run_held(held, self.interrupts).map_err(&refused)?;
        output.success("git index-pack").map(drop).map_err(refused)
    }

    /// How many commits `tip` reaches and neither what was sent nor `old` does.
    ///
    /// # Errors
    /// Those of git.
    pub fn count(&self, tip: &str, old: Option<&str>) -> Result<u64, FetchError> {
        let args = ["rev-list", "--count", "--stdin"];
        let said = self.run(&args, revisions(tip, self.own_since(old))).map_err(self.git_error())?;
        Ok(git::line(&said).parse().unwrap_or(0))
    }

    /// What commits of the guest's own do not reach. Without the commit that was sent all that the host has is none of them.
    fn own_since<'b>(&'b self, old: Option<&'b str>) -> Vec<&'b str> {
        let known: &[String] = if self.sent.is_some() { &[] } else { &self.known };
        known.iter().map(String::as_str).chain(self.sent()).chain(old).collect()
    }

    /// Whether `new` builds upon `old`.
    ///
    /// # Errors
    /// Those of git.
    pub fn is_ancestor(&self, old: &str, new: &str) -> Result<bool, FetchError> {
        let args = ["rev-list", "--count", "--max-count=1", "--stdin"];
        Ok(self.run(&args, revisions(old, [new])).map_err(self.git_error())? == b"0\n")
    }

    /// Packs what `tip` reaches and the host does not have; gives the directory with the pack and its index, which are there if there is
    /// anything to pack.
    ///
    /// # Errors
    /// Those of git, and of the files.
    pub fn pack(&self, tip: &str) -> Result<PathBuf, FetchError> {
        let dir = self.temp.path().join("pack");
        fs::create_dir_all(&dir).map_err(WorkspaceError::io("make", &dir))?;
        let name = dir.join("pack").to_string_lossy().into_owned();
        let args =
            ["pack-objects", "--revs", "--delta-base-offset", "--non-empty", "--threads=1", "-q", &name];
        self.run(&args, revisions(tip, &self.known)).map_err(self.git_error())?;
        Ok(dir)
    }

    /// Writes the guest's own commits of `tip` as mails to a file, of at most `max_bytes`; gives that.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`], those of git and of the file.
    pub fn write_mails(&self, tip: &str, max_bytes: u64) -> Result<PathBuf, FetchError> {
        let path = self.temp.path().join("mails");
        let file = File::create_new(&path).map_err(WorkspaceError::io("write", &path))?;
        let held = Held { stdout: Some(file), ..Held::default() };
        let asked = revisions(tip, self.own_since(None));
        let exec = self.git.exec(AS_MAILS).stdin(asked).memory_limit(MAX_MEMORY).file_limit(max_bytes);
        let output = exec.run_held(held, self.interrupts).map_err(self.git_error())?;
        let length = fs::metadata(&path).map_err(WorkspaceError::io("read", &path))?.len();
        if length >= max_bytes {
            return Err(FetchError::TooLarge(max_bytes));
        }
        output.success("git format-patch").map_err(self.git_error())?;
        Ok(path)
    }
}

/// What git's refusal of a pack means: it does not look only at what is there, but also for what that names.
fn refusal(source: ExecError) -> FetchError {
    match &source {
        ExecError::Status { stderr, .. } if stderr.contains("did not receive expected object") => {
            FetchError::Incomplete(source)
        }
        _ => FetchError::Refused(source),
    }
}

/// What git reads on stdin for the commits that `tip` reaches and `without` do not.
fn revisions<S: AsRef<str>>(tip: &str, without: impl IntoIterator<Item = S>) -> Vec<u8> {
    let without = without.into_iter().map(|id| format!("^{}\n", id.as_ref()));
    std::iter::once(format!("{tip}\n")).chain(without).collect::<String>().into_bytes()
}
