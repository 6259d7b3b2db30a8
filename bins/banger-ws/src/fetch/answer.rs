//! The guest's answer: where its HEAD is, and a pack.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::FetchError;
use crate::error::WorkspaceError;
use banger_host::fs::atomic;

/// How long the line before the pack may be, bytes.
const MAX_LINE: usize = 4 << 10;
/// How long a branch's name may be that is made of the guest's, bytes: what file systems take as one name, and less.
const MAX_NAME: usize = 200;
/// Characters that a name may have beside letters and digits: those which no shell and no terminal takes for anything else, since a person
/// is shown the name in a command.
const PLAIN: &str = "-_./+=,%";

/// The file that whoever hears the guest writes its answer to. A guest that has taken that process over could put another one in its place,
/// a pipe or a link: what is read is the one that was made.
#[derive(Debug)]
pub struct Spool {
    temp: tempfile::TempDir,
    file: File,
}

impl Spool {
    /// Makes it in a directory of its own in `parent`.
    ///
    /// # Errors
    /// Those of the files.
    pub fn make(parent: &Path) -> Result<Self, FetchError> {
        let temp = tempfile::Builder::new().prefix("ws-").tempdir_in(parent);
        let temp = temp.map_err(|e| WorkspaceError::io("make a directory in", parent)(atomic::bare(e)))?;
        let path = temp.path().join("answer");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        Ok(Self { file: file.map_err(WorkspaceError::io("make", &path))?, temp })
    }

    /// Its name.
    pub fn path(&self) -> PathBuf {
        self.temp.path().join("answer")
    }

    /// Reads what came; `None` where the guest has no commit at all.
    ///
    /// # Errors
    /// [`FetchError::Answer`], and those of the file.
    pub fn read(self, sha256: bool) -> Result<Option<Answer>, FetchError> {
        let path = self.path();
        Answer::read(self.file, sha256, &path)
    }
}

/// What the guest says of its HEAD, and its pack, unread.
#[derive(Debug)]
pub struct Answer {
    /// The commit.
    pub tip: String,
    /// The branch, without `refs/heads/`; `None` where HEAD is on none.
    pub branch: Option<String>,
    /// The file, at the pack's first byte.
    pub pack: File,
}

impl Answer {
    /// Reads the first line of the file `pack`, whose name is `path`.
    fn read(mut pack: File, sha256: bool, path: &Path) -> Result<Option<Self>, FetchError> {
        let line = first_line(&mut pack).map_err(WorkspaceError::io("read", path))?;
        let line = line.ok_or(FetchError::Answer("it does not say where HEAD is"))?;
        if line == b"none" {
            return Ok(None);
        }
        let wrong = || FetchError::Answer("it names no commit of the checkout's kind");
        let line = String::from_utf8_lossy(&line).into_owned();
        let (tip, head) = line.split_once(' ').ok_or_else(wrong)?;
        let is_id = |id: &str| id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if tip.len() != if sha256 { 64 } else { 40 } || !is_id(tip) {
            return Err(wrong());
        }
        let branch = head.strip_prefix("refs/heads/").map(str::to_owned);
        Ok(Some(Self { tip: tip.to_owned(), branch, pack }))
    }

    /// The branch that it becomes where nobody names another one.
    ///
    /// # Errors
    /// [`FetchError::GuestBranch`].
    pub fn own_branch(&self, vm: &str) -> Result<String, FetchError> {
        let Some(name) = &self.branch else { return Ok(format!("{}HEAD", own_branches(vm))) };
        let is_plain = |c: char| c.is_alphanumeric() || PLAIN.contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
            return Err(FetchError::GuestBranch(name.chars().take(MAX_NAME).collect()));
        }
        Ok(format!("{}{name}", own_branches(vm)))
    }
}

/// How the names of the branches begin that are made of those of `vm`.
pub fn own_branches(vm: &str) -> String {
    format!("banger/{vm}/")
}

/// The first line, where there is one; the file stands behind it then.
fn first_line(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut start = Vec::new();
    file.rewind()?;
    file.take(MAX_LINE as u64).read_to_end(&mut start)?;
    let Some(at) = start.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    file.seek(SeekFrom::Start(at as u64 + 1))?;
    start.truncate(at);
    Ok(Some(start))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn opened(text: &[u8]) -> Result<Option<Answer>, FetchError> {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::make(dir.path()).unwrap();
        File::options().write(true).open(spool.path()).unwrap().write_all(text).unwrap();
        // Who writes it has no say in which file it is.
        std::fs::rename(spool.path(), dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", spool.path()).unwrap();
        spool.read(false)
    }

    #[test]
    fn a_line_and_a_pack() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let mut answer = opened(format!("{id} refs/heads/a/b\nPACK…").as_bytes()).unwrap().unwrap();
        assert_eq!((answer.tip.as_str(), answer.branch.as_deref()), (id, Some("a/b")));
        assert_eq!(answer.own_branch("v").unwrap(), "banger/v/a/b");
        let mut rest = String::new();
        answer.pack.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "PACK…");
        assert!(opened(b"none\n").unwrap().is_none());
        for head in ["", "refs/tags/x", "refs/headsx"] {
            let answer = opened(format!("{id} {head}\n").as_bytes()).unwrap().unwrap();
            assert_eq!(answer.own_branch("v").unwrap(), "banger/v/HEAD");
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        for text in ["", "none", "x\n", &format!("{id}\n"), &format!("{id}00 x\n"), &format!("{id}ABC \n")] {
            assert!(opened(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(opened(&[b'x'; 100_000]).is_err());
    }

    #[test]
    fn a_name_that_a_shell_or_a_terminal_reads_is_refused() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["$(x)", "a`b", "a;b", "a\u{202e}b", "a\u{1b}[2J", "a'b", "", "a\u{200b}", "a@{1}", &long]
        {
            let answer = opened(format!("{id} refs/heads/{name}\n").as_bytes()).unwrap().unwrap();
            assert!(matches!(answer.own_branch("v"), Err(FetchError::GuestBranch(_))), "{name:?}");
        }
    }
}
