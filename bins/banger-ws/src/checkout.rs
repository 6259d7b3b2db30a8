//! A git checkout on the host: where it is, what git says of it, and which of its files are there as they stand.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::config::Config;
use super::error::WorkspaceError;
use banger_host::git::{self, Git};
use banger_host::process::exec::ExecError;

/// A checkout and what git is told about it.
#[derive(Debug)]
pub struct Checkout {
    /// Its root.
    pub root: PathBuf,
    /// Its git directory (of the worktree, where there are several).
    pub git_dir: PathBuf,
    /// Where its objects are.
    pub objects: PathBuf,
    /// Its index; the file may be missing.
    pub index: PathBuf,
    /// The list of its shallow commits; the file may be missing.
    pub shallow: PathBuf,
    /// `info/` of the repository.
    pub info: PathBuf,
    /// What a sparse checkout takes in; the file may be missing.
    pub sparse: PathBuf,
    /// `sha1` or `sha256`.
    pub object_format: String,
    /// git's configuration.
    pub config: Config,
    git: Git,
    dir: OwnedFd,
}

/// Where HEAD stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The commit; `None` on an unborn branch.
    pub commit: Option<String>,
    /// The branch without `refs/heads/`; `None` when detached.
    pub branch: Option<OsString>,
    /// The branch's upstream, where that is the commit itself or one before it: full name and commit.
    pub upstream: Option<(Vec<u8>, String)>,
}

/// One file of the working tree, as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the root.
    pub path: PathBuf,
    /// Size, modes, times.
    pub stat: Stat,
    /// The object that holds the same bytes, where the guest makes the file from that.
    pub object: Option<String>,
}

impl Entry {
    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Symlink
    }
}

/// What `git status` says.
#[derive(Debug, Default)]
pub struct Status {
    /// Paths that differ from HEAD or the index, or are unmerged.
    pub changed: BTreeSet<PathBuf>,
    /// Files that are neither tracked nor ignored; directories that are repositories of their own end in `/`.
    pub untracked: BTreeSet<PathBuf>,
}

/// Looks at the files of a working tree, fastest where those of one directory come one after the other.
#[derive(Debug)]
pub struct Looker<'a> {
    checkout: &'a Checkout,
    /// The directory of the file before; `None` where there is none.
    parent: Option<(PathBuf, Option<OwnedFd>)>,
}

impl Looker<'_> {
    /// Looks at `path`: a file or a symbolic link of the working tree, not reached through another link. `None` where nothing
    /// of that kind is there, which git calls deleted.
    pub fn look(&mut self, path: &Path) -> Result<Option<Entry>, WorkspaceError> {
        let error = || WorkspaceError::io("look at", self.checkout.root.join(path));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        if self.parent.as_ref().is_none_or(|(known, _)| known.as_os_str() != parent.as_os_str()) {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let place = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let opened = self.checkout.open_beneath(place, flags).map_err(error())?;
            self.parent = Some((parent.to_owned(), opened));
        }
        let Some((_, Some(parent))) = &self.parent else { return Ok(None) };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(|errno| error()(errno.into()))?,
        };
        let counts =
            matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink);
        Ok(counts.then(|| Entry { path: path.to_owned(), stat, object: None }))
    }
}

/// Why git cannot use `dir`: in our words, where git's own begin with the long command that was tried.
fn unusable(dir: &Path, source: ExecError) -> WorkspaceError {
    match &source {
        ExecError::Status { stderr, .. } if stderr.contains("not a git repository") => {
            WorkspaceError::NoCheckout(dir.to_owned())
        }
        ExecError::Status { stderr, .. } if stderr.contains("dubious ownership") => {
            WorkspaceError::Dubious(dir.to_owned())
        }
        ExecError::Status { stderr, .. } if stderr.contains("must be run in a work tree") => {
            WorkspaceError::GitDir(dir.to_owned())
        }
        _ => WorkspaceError::NotACheckout { dir: dir.to_owned(), source },
    }
}

impl Checkout {
    /// The checkout that holds `dir`.
    pub fn open(dir: &Path) -> Result<Self, WorkspaceError> {
        let dir = dir.canonicalize().map_err(|_| WorkspaceError::NoDirectory(dir.to_owned()))?;
        if !dir.is_dir() {
            return Err(WorkspaceError::NoDirectory(dir));
        }
        let args = [
            "rev-parse",
            "--path-format=absolute",
            "--show-toplevel",
            "--absolute-git-dir",
            "--git-path",
            "objects",
            "--git-path",
            "index",
            "--git-path",
            "shallow",
            "--git-path",
            "info",
            "--git-path",
            "info/sparse-checkout",
            "--show-object-format",
        ];
        let git = Git::at(&dir);
        // Beside each other: a process costs more than what it does here.
        let (said, listed) = std::thread::scope(|scope| {
            let listed = scope.spawn(|| git.run(["config", "-z", "--list"]));
            (git.run(args), listed.join().expect("running git does not panic"))
        });
        let said = said.map_err(|source| {
            let bare = Git::at(&dir).run(["rev-parse", "--is-bare-repository"]);
            match bare {
                Ok(bare) if git::line(&bare) == "true" => WorkspaceError::Bare(dir.clone()),
                _ => unusable(&dir, source),
            }
        })?;
        let lines: Vec<&[u8]> = said.strip_suffix(b"\n").unwrap_or(&said).split(|b| *b == b'\n').collect();
        let [root, git_dir, objects, index, shallow, info, sparse, format] = lines[..] else {
            return Err(WorkspaceError::OddPath(dir));
        };
        let root = git::path(root);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&root, flags, Mode::empty())
            .map_err(|e| WorkspaceError::io("open", &root)(e.into()))?;
        let mut checkout = Self {
            git: Git::at(&root),
            git_dir: git::path(git_dir),
            objects: git::path(objects),
            index: git::path(index),
            shallow: git::path(shallow),
            info: git::path(info),
            sparse: git::path(sparse),
            object_format: git::line(format),
            config: Config::default(),
            dir: handle,
            root,
        };
        checkout.take_config(&listed.map_err(checkout.git_error())?);
        Ok(checkout)
    }

    /// git in this checkout.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// Wraps a failure of git's.
    pub fn git_error(&self) -> impl Fn(ExecError) -> WorkspaceError + use<> {
        let root = self.root.clone();
        move |source| WorkspaceError::Git { root: root.clone(), source }
    }

    /// Takes the configuration, and turns off every filter driver in it: the bytes travel as they stand in the working tree,
    /// and reading a checkout must not run a program that the checkout names.
    fn take_config(&mut self, listed: &[u8]) {
        self.config = Config::parse(listed);
        let drivers: Vec<String> = self.config.subsections("filter").into_iter().map(str::to_owned).collect();
        for driver in drivers {
            for (name, value) in [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")] {
                self.git.setting(format!("filter.{driver}.{name}"), value);
            }
        }
    }

    /// A configuration value as a path, `~` expanded by git.
    pub fn config_path(&self, key: &str) -> Option<PathBuf> {
        self.config.get(key)?;
        let said = self.git.run(["config", "--null", "--path", "--get", key]).ok()?;
        git::split_nul(&said).next().map(git::path)
    }

    /// Where HEAD stands and what differs, by `git` that points at an index. Of submodules only their commit counts. What git finds
    /// out about files goes into that index where `git` may take locks.
    pub fn status(&self, git: &Git) -> Result<(Head, Status), WorkspaceError> {
        let args = [
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--ahead-behind",
            "--no-renames",
            "--untracked-files=all",
            "--ignore-submodules=dirty",
        ];
        let said = git.run(args).map_err(self.git_error())?;
        let (mut head, mut status, mut distance) = (Head::default(), Status::default(), None);
        for line in git::split_nul(&said) {
            // 1 XY sub mH mI mW hH hI path; u XY sub m1 m2 m3 mW h1 h2 h3 path; ? path (git-status(1)).
            let fields = match line.first() {
                Some(b'1') => 9,
                Some(b'u') => 11,
                Some(b'?') => 2,
                _ => {
                    match line.strip_prefix(b"# branch.") {
                        Some(rest) if rest.starts_with(b"oid ") && rest != b"oid (initial)" => {
                            head.commit = Some(git::line(&rest[4..]));
                        }
                        Some(rest) if rest.starts_with(b"head ") => head.branch = self.branch(&rest[5..])?,
                        Some(rest) if rest.starts_with(b"ab ") => distance = Some(git::line(&rest[3..])),
                        _ => {}
                    }
                    continue;
                }
            };
            let Some(path) = line.splitn(fields, |b| *b == b' ').nth(fields - 1).map(git::path) else {
                continue;
            };
            if fields == 2 {
                status.untracked.insert(path)
            } else {
                status.changed.insert(path)
            };
        }
        // Behind by nothing: all that the upstream holds is in HEAD's history.
        if distance.is_some_and(|distance| distance.ends_with(" -0")) {
            head.upstream = self.upstream();
        }
        Ok((head, status))
    }

    /// The branch as `git status` names it, which is in words where there is none.
    fn branch(&self, said: &[u8]) -> Result<Option<OsString>, WorkspaceError> {
        if said != b"(detached)" && !said.starts_with(b"refs/") {
            return Ok(Some(OsString::from_vec(said.to_vec())));
        }
        let said = self.git.exec(["symbolic-ref", "-q", "HEAD"]).output().map_err(self.git_error())?;
        let name = said.stdout.strip_suffix(b"\n").and_then(|name| name.strip_prefix(b"refs/heads/"));
        Ok(name.map(|name| OsString::from_vec(name.to_vec())))
    }

    /// The full name and the commit of the branch's upstream.
    fn upstream(&self) -> Option<(Vec<u8>, String)> {
        let name = self.git.run(["rev-parse", "--symbolic-full-name", "@{upstream}"]).ok()?;
        let commit = self.git.run(["rev-parse", "-q", "--verify", "@{upstream}^{commit}"]).ok()?;
        let name = name.strip_suffix(b"\n").unwrap_or(&name).to_vec();
        name.starts_with(b"refs/remotes/").then(|| (name, git::line(&commit)))
    }

    /// Whether objects may be missing that a remote has.
    pub fn is_partial(&self) -> bool {
        let promised = |name: &str| self.config.is_true(&format!("remote.{name}.promisor"));
        self.config.get("extensions.partialclone").is_some()
            || self.config.subsections("remote").into_iter().any(promised)
    }

    /// Looks at the files of the working tree.
    pub fn looker(&self) -> Looker<'_> {
        Looker { checkout: self, parent: None }
    }

    /// Looks at one; see [`Looker::look`].
    pub fn look(&self, path: &Path) -> Result<Option<Entry>, WorkspaceError> {
        self.looker().look(path)
    }

    /// Opens `path` below the root without following any link. `None` where it is not there.
    pub fn open_beneath(&self, path: &Path, flags: OFlags) -> std::io::Result<Option<OwnedFd>> {
        // A FIFO must not hold us up; openat2 refuses that flag beside O_PATH, which never blocks.
        let patient = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | patient;
        // A link as the last component is opened as itself (O_PATH | O_NOFOLLOW), one before it is ELOOP.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened =
            rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve | ResolveFlags::NO_SYMLINKS);
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a directory is at `path`, not reached through a link.
    pub fn has_dir(&self, path: &Path) -> bool {
        self.open_beneath(path, OFlags::PATH | OFlags::DIRECTORY).is_ok_and(|fd| fd.is_some())
    }

    /// The name that the workspace has in the guest by default: the root's last component, control characters replaced.
    pub fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or_else(|| self.root.as_os_str());
        let name = String::from_utf8_lossy(name.as_bytes());
        let name: String = name.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).collect();
        if name.is_empty() { "workspace".to_owned() } else { name }
    }
}
