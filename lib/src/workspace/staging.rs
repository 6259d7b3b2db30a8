//! The git directory that the guest gets, made on the host in a directory of its own. The host's repository is read and never
//! written: new objects go to the staging directory, which names the host's objects as alternates.
//!
//! Pack and pack index are made here, so that the guest, whose processor may be emulated, unpacks a tar and computes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkout::{Checkout, Entry, Head, Status};
use super::error::WorkspaceError;
use crate::sys::git::{self, Git};

/// The ref in the guest that holds what was sent.
pub const PREPARED_REF: &str = "refs/banger/prepared";

/// The largest ignore or attributes file that travels, bytes.
const MAX_INFO_BYTES: u64 = 1 << 20;

/// Settings of the host's repository that decide how git reads and writes the same files in the guest.
const CARRIED: [(&str, &str); 8] = [
    ("core.filemode", "filemode"),
    ("core.symlinks", "symlinks"),
    ("core.ignorecase", "ignorecase"),
    ("core.autocrlf", "autocrlf"),
    ("core.eol", "eol"),
    ("core.safecrlf", "safecrlf"),
    ("core.precomposeunicode", "precomposeunicode"),
    ("core.whitespace", "whitespace"),
];

/// What of the checkout travels, by name.
#[derive(Debug)]
pub struct Selection {
    /// The files, sorted by path.
    pub entries: Vec<Entry>,
    /// Directories of submodules, which travel empty.
    pub submodules: Vec<PathBuf>,
    /// Where HEAD stands.
    pub head: Head,
    /// What differs from HEAD and the index.
    pub status: Status,
    /// How many untracked files stay behind.
    pub left_behind: usize,
}

impl Selection {
    /// The bytes of the files.
    pub fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|e| u64::try_from(e.stat.st_size).unwrap_or(0)).sum()
    }
}

/// A directory for one transfer, removed when dropped, with a copy of the host's index in it.
#[derive(Debug)]
pub struct Staging {
    temp: tempfile::TempDir,
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkspaceError> {
    fs::write(path, bytes).map_err(WorkspaceError::io("write", path))
}

fn make_dir(path: &Path) -> Result<(), WorkspaceError> {
    fs::create_dir_all(path).map_err(WorkspaceError::io("make", path))
}

impl Staging {
    /// Makes the directory below `parent`, named `ws-…`, and copies the index into it.
    pub fn new(parent: &Path, checkout: &Checkout) -> Result<Self, WorkspaceError> {
        let temp = tempfile::Builder::new().prefix("ws-").tempdir_in(parent);
        let temp = temp.map_err(WorkspaceError::io("make a directory in", parent))?;
        let staging = Self { temp };
        make_dir(&staging.objects().join("pack"))?;
        make_dir(&staging.objects().join("info"))?;
        let mut alternates = quote(checkout.objects.as_os_str());
        alternates.push(b'\n');
        write(&staging.objects().join("info/alternates"), &alternates)?;
        staging.copy_index(checkout)?;
        Ok(staging)
    }

    fn objects(&self) -> PathBuf {
        self.temp.path().join("objects")
    }
    fn index(&self) -> PathBuf {
        self.temp.path().join("index")
    }
    /// The directory.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// git on this staging's objects and `index`.
    fn git(&self, checkout: &Checkout, index: &Path) -> Git {
        checkout.git().clone().env("GIT_OBJECT_DIRECTORY", self.objects()).env("GIT_INDEX_FILE", index)
    }

    /// Copies the host's index, its time included: by it git tells which entries it must not believe (racy-git.adoc). Then lets
    /// git refresh it and write it whole, without the extensions that point at files or processes of this host.
    fn copy_index(&self, checkout: &Checkout) -> Result<(), WorkspaceError> {
        let index = self.index();
        if checkout.index.exists() {
            fs::copy(&checkout.index, &index).map_err(WorkspaceError::io("copy", &checkout.index))?;
            let stamp = |path: &Path| {
                let modified = fs::metadata(&checkout.index)?.modified()?;
                File::options().write(true).open(path)?.set_times(FileTimes::new().set_modified(modified))
            };
            stamp(&index).map_err(WorkspaceError::io("copy", &checkout.index))?;
        }
        let args = [
            "update-index",
            "-q",
            "--unmerged",
            "--ignore-submodules",
            "--no-split-index",
            "--no-untracked-cache",
            "--no-fsmonitor",
            "--force-write-index",
            "--refresh",
        ];
        self.git(checkout, &index).run(args).map_err(checkout.git_error())?;
        Ok(())
    }

    /// Looks at everything that travels.
    pub fn select(&self, checkout: &Checkout, include_untracked: bool) -> Result<Selection, WorkspaceError> {
        let git = self.git(checkout, &self.index());
        let head = checkout.head()?;
        let (mut paths, submodules) = checkout.tracked(&git)?;
        let status = checkout.status(&git)?;
        let nothing_loose = !include_untracked || status.untracked.is_empty();
        if paths.is_empty() && head.commit.is_none() && nothing_loose {
            return Err(WorkspaceError::Empty(checkout.root.clone()));
        }
        let mut left_behind = status.untracked.len();
        if include_untracked {
            // A repository inside the checkout that is no submodule shows as a directory; it stays behind.
            let files = status.untracked.iter().filter(|p| !p.as_os_str().as_bytes().ends_with(b"/"));
            paths.extend(files.cloned());
            left_behind =
                status.untracked.iter().filter(|p| p.as_os_str().as_bytes().ends_with(b"/")).count();
        }
        let mut entries = Vec::with_capacity(paths.len());
        for path in paths {
            entries.extend(checkout.look(&path)?);
        }
        let submodules = submodules.into_iter().filter(|path| checkout.has_dir(path)).collect();
        Ok(Selection { entries, submodules, head, status, left_behind })
    }

    /// Makes the commit that holds the tree exactly as `selection` saw it, its parent HEAD. The same checkout gives the same id.
    fn commit(&self, checkout: &Checkout, selection: &Selection) -> Result<String, WorkspaceError> {
        let index = self.temp.path().join("index.prepared");
        fs::copy(self.index(), &index).map_err(WorkspaceError::io("copy", self.index()))?;
        let git = self.git(checkout, &index);
        let present: BTreeSet<&Path> = selection.entries.iter().map(|e| e.path.as_path()).collect();
        let untracked = selection.status.untracked.iter().filter(|p| present.contains(p.as_path()));
        let touched = selection.status.changed.iter().chain(untracked);
        let (there, gone): (Vec<&PathBuf>, Vec<&PathBuf>) =
            touched.partition(|p| present.contains(p.as_path()));
        let nul = |paths: &[&PathBuf]| {
            paths
                .iter()
                .flat_map(|p| p.as_os_str().as_bytes().iter().copied().chain([0]))
                .collect::<Vec<u8>>()
        };
        // Removals first: a directory may stand where a file was, and the other way round.
        if !gone.is_empty() {
            let exec = git.exec(["update-index", "--force-remove", "-z", "--stdin"]).stdin(nul(&gone));
            exec.run().map_err(checkout.git_error())?;
        }
        if !there.is_empty() {
            let exec = git.exec(["update-index", "--add", "--replace", "-z", "--stdin"]).stdin(nul(&there));
            exec.run().map_err(checkout.git_error())?;
        }
        let tree = git::line(&git.run(["write-tree"]).map_err(checkout.git_error())?);
        let mut args = vec!["commit-tree", tree.as_str(), "-m", "The checkout as banger sent it"];
        if let Some(parent) = &selection.head.commit {
            args.extend(["-p", parent]);
        }
        let mut git = git;
        for who in ["AUTHOR", "COMMITTER"] {
            git = git.env(format!("GIT_{who}_NAME"), "banger");
            git = git.env(format!("GIT_{who}_EMAIL"), "banger@localhost");
            git = git.env(format!("GIT_{who}_DATE"), "@0 +0000");
        }
        git.setting("commit.gpgSign", "false");
        git.setting("i18n.commitEncoding", "UTF-8");
        Ok(git::line(&git.run(args).map_err(checkout.git_error())?))
    }

    /// Packs what is reachable from HEAD, the index and `prepared`.
    fn pack(&self, checkout: &Checkout, prepared: &str) -> Result<(), WorkspaceError> {
        let mut git = self.git(checkout, &self.index());
        git.setting("pack.writeReverseIndex", "false");
        git.setting("pack.indexVersion", "2");
        git.setting("pack.packSizeLimit", "0");
        let stem = self.objects().join("pack/pack");
        let mut args: Vec<&OsStr> =
            ["pack-objects", "-q", "--revs", "--indexed-objects", "--delta-base-offset"]
                .into_iter()
                .map(OsStr::new)
                .collect();
        let partial = checkout.config.keys().any(|k| k.starts_with("remote.") && k.ends_with(".promisor"));
        if partial {
            args.push(OsStr::new("--missing=allow-promisor"));
        }
        args.push(stem.as_os_str());
        git.exec(args).stdin(format!("{prepared}\n")).run().map_err(checkout.git_error())?;
        Ok(())
    }

    /// Makes the guest's git directory; gives the id of the prepared commit and the directory's files with their names in `.git`.
    pub fn build(
        &self,
        checkout: &Checkout,
        selection: &Selection,
    ) -> Result<(String, Vec<(PathBuf, PathBuf)>), WorkspaceError> {
        let prepared = self.commit(checkout, selection)?;
        self.pack(checkout, &prepared)?;
        let made = self.temp.path().join("git");
        make_dir(&made.join("info"))?;
        write(&made.join("HEAD"), &head_file(&selection.head))?;
        write(&made.join("packed-refs"), &packed_refs(&selection.head, &prepared))?;
        write(&made.join("config"), &config_file(checkout))?;
        let mut names: Vec<PathBuf> = ["HEAD", "packed-refs", "config"].iter().map(PathBuf::from).collect();
        for (name, key, fallback) in [
            ("exclude", "core.excludesfile", "git/ignore"),
            ("attributes", "core.attributesfile", "git/attributes"),
        ] {
            // The user's own file first: what comes later wins.
            let own = checkout.config_path(key).or_else(|| xdg_file(checkout, fallback));
            let mut text = own.map(|path| read_small(&path)).unwrap_or_default();
            text.extend(read_small(&checkout.info.join(name)));
            if !text.is_empty() {
                let relative = Path::new("info").join(name);
                write(&made.join(&relative), &text)?;
                names.push(relative);
            }
        }
        let shallow = fs::read(&checkout.shallow).unwrap_or_default();
        if !shallow.is_empty() {
            write(&made.join("shallow"), &shallow)?;
            names.push("shallow".into());
        }
        let mut files: Vec<(PathBuf, PathBuf)> =
            names.into_iter().map(|name| (made.join(&name), name)).collect();
        files.push((self.index(), "index".into()));
        let packs = self.objects().join("pack");
        for entry in fs::read_dir(&packs).map_err(WorkspaceError::io("read", &packs))? {
            let path = entry.map_err(WorkspaceError::io("read", &packs))?.path();
            if path.extension().is_some_and(|e| e == "pack" || e == "idx") {
                let name = Path::new("objects/pack").join(path.file_name().unwrap_or_default());
                files.push((path, name));
            }
        }
        Ok((prepared, files))
    }
}

/// git's own default place for a user's ignore and attributes files, which it does not print.
fn xdg_file(checkout: &Checkout, name: &str) -> Option<PathBuf> {
    // `git var` knows HOME and XDG_CONFIG_HOME; this layer does not read the environment.
    let said = checkout.git().run(["var", "GIT_CONFIG_GLOBAL"]).ok()?;
    let line = said.split(|b| *b == b'\n').find(|line| line.ends_with(b"/git/config"))?;
    let dir = git::path(line).parent()?.parent()?.to_owned();
    Some(dir.join(name))
}

/// A text file, with a final newline; empty where it is missing or too large.
fn read_small(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_INFO_BYTES + 1).read_to_end(&mut text));
    if read.is_err() || text.len() as u64 > MAX_INFO_BYTES {
        return Vec::new();
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

fn head_file(head: &Head) -> Vec<u8> {
    let mut text = Vec::new();
    match (&head.branch, &head.commit) {
        (Some(branch), _) => {
            text.extend_from_slice(b"ref: refs/heads/");
            text.extend_from_slice(branch.as_bytes());
        }
        (None, Some(commit)) => text.extend_from_slice(commit.as_bytes()),
        // Neither a branch nor a commit: an unborn HEAD always names its branch, so this is git's default.
        (None, None) => text.extend_from_slice(b"ref: refs/heads/main"),
    }
    text.push(b'\n');
    text
}

fn packed_refs(head: &Head, prepared: &str) -> Vec<u8> {
    // "fully-peeled": neither ref is a tag, so nothing is to peel; "sorted": banger < heads (git-pack-refs(1)).
    let mut text = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    text.extend_from_slice(format!("{prepared} {PREPARED_REF}\n").as_bytes());
    if let (Some(branch), Some(commit)) = (&head.branch, &head.commit) {
        text.extend_from_slice(format!("{commit} refs/heads/").as_bytes());
        text.extend_from_slice(branch.as_bytes());
        text.push(b'\n');
    }
    text
}

/// The guest's configuration. `checkStat = minimal` lets the shipped index stay valid by size and modification time, which travel,
/// though inode, owner and change time are others there: else the first `git status` would read every file.
fn config_file(checkout: &Checkout) -> Vec<u8> {
    let sha256 = checkout.object_format != "sha1";
    let mut text = Vec::new();
    let version = u8::from(sha256);
    let fixed = "bare = false\n\tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n";
    text.extend_from_slice(format!("[core]\n\trepositoryformatversion = {version}\n\t{fixed}").as_bytes());
    let mut add = |name: &str, value: &[u8]| {
        text.extend_from_slice(format!("\t{name} = ").as_bytes());
        text.extend(config_value(value));
        text.push(b'\n');
    };
    for (key, name) in CARRIED {
        if let Some(value) = checkout.config.get(key) {
            add(name, value);
        }
    }
    if sha256 {
        text.extend_from_slice(
            format!("[extensions]\n\tobjectFormat = {}\n", checkout.object_format).as_bytes(),
        );
    }
    // A host without an identity, as many a CI runner is, must not keep the guest from committing: the patch names nobody.
    text.extend_from_slice(b"[user]\n");
    for (name, nobody) in [("name", "banger"), ("email", "banger@localhost")] {
        let value = checkout.config.get(&format!("user.{name}")).map_or(nobody.as_bytes(), Vec::as_slice);
        text.extend_from_slice(format!("\t{name} = ").as_bytes());
        text.extend(config_value(value));
        text.push(b'\n');
    }
    text
}

/// A value of a git configuration file, quoted (git-config(1), "Syntax").
fn config_value(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in value {
        match byte {
            b'\\' | b'"' => out.extend([b'\\', *byte]),
            b'\n' => out.extend(b"\\n"),
            b'\t' => out.extend(b"\\t"),
            other => out.push(*other),
        }
    }
    out.push(b'"');
    out
}

/// A path as a line of an alternates file: quoted as C does where it would be read otherwise.
fn quote(path: &OsStr) -> Vec<u8> {
    let bytes = path.as_bytes();
    let plain = !bytes.starts_with(b"\"") && !bytes.starts_with(b"#") && !bytes.contains(&b'\n');
    if plain {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    let mut quoted = |text: &[u8]| out.write_all(text).expect("a vector takes everything");
    quoted(b"\"");
    for byte in bytes {
        match byte {
            b'\n' => quoted(b"\\n"),
            b'"' | b'\\' => quoted(&[b'\\', *byte]),
            other => quoted(&[*other]),
        }
    }
    quoted(b"\"");
    out
}
