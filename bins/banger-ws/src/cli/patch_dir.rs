//! `--patch-dir`: a patch for each repository of the checkout, a file each, and a README of how they are applied.

use std::borrow::Cow;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::changes;
use super::export::Base;
use crate::error::WorkspaceError;
use crate::export::{Differences, Export};
use crate::guest::{Guest, quote};
use banger_cli::Failure;
use banger_cli::plumbing::UsageError;
use banger_contract::error::escape_controls;
use banger_contract::record::{Outcome, RepositoryPatch};
use banger_host::clock::Timeline;
use banger_host::fs::atomic;

/// How the patches are applied.
pub(super) const README: &str = "README";
/// What the checkout itself is called in a record and in the name of its patch.
const ROOT: (&str, &str) = (".", "checkout");
/// How long a repository's part of a file's name may be, bytes.
const MAX_NAME: usize = 64;

/// Makes the directory `path` where there is none, or none with anything in it; gives its name from the root.
///
/// # Errors
/// It cannot be made, or holds something.
pub(super) fn make(path: &Path) -> Result<PathBuf, Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(WorkspaceError::io("make the directory", path)(error).into());
        }
        _ => {}
    }
    let mut there = fs::read_dir(path).map_err(WorkspaceError::io("list", path))?;
    if there.next().is_some() {
        let why = format!("--patch-dir {}: it holds something already; name a new directory", path.display());
        return Err(UsageError(why).into());
    }
    Ok(fs::canonicalize(path).map_err(WorkspaceError::io("find", path))?)
}

/// A repository's patch, in its file.
struct Written {
    /// Where the repository is in the checkout; empty for the checkout itself.
    place: Vec<u8>,
    file: PathBuf,
    export: Export,
}

impl Written {
    /// The repository, as a record calls it.
    fn repository(&self) -> Cow<'_, str> {
        if self.place.is_empty() { ROOT.0.into() } else { String::from_utf8_lossy(&self.place) }
    }
}

/// Takes what changed in each repository of the workspace into the directory `dir`.
pub(super) fn take(
    guest: &Guest<'_>,
    guest_path: &str,
    base: Base,
    dir: &Path,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let (home, prepared) = (base.home().to_owned(), base.prepared().to_owned());
    let written = timeline.step("export", || {
        let mut differences = base.compare(guest, guest_path, &[], true)?;
        let trees = differences.trees();
        let one = |(number, place)| write(&mut differences, number, place, (guest, guest_path), dir);
        trees.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    })?;
    atomic::write(&dir.join(README), &explanation(Path::new(&home), &written), 0o666)?;
    outcome.patch_dir = Some(dir.to_string_lossy().into_owned());
    outcome.base_commit = Some(prepared);
    for one in &written {
        describe(one, outcome);
    }
    changes::limit(outcome);
    Ok(())
}

/// Writes the patch of one tree to a file of `dir`; of a tree in which nothing changed there is none.
fn write(
    differences: &mut Differences,
    number: u16,
    place: Vec<u8>,
    (guest, guest_path): (&Guest<'_>, &str),
    dir: &Path,
) -> Result<Written, WorkspaceError> {
    let file = dir.join(format!("{number}-{}.patch", name(&place)));
    let mut temp = tempfile::Builder::new()
        .prefix(".banger-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(WorkspaceError::io("write", &file))?;
    let export = differences.write_patch(number, guest, guest_path, temp.as_file_mut(), &file)?;
    if export.scanned.bytes > 0 {
        temp.as_file().sync_all().map_err(WorkspaceError::io("write", &file))?;
        temp.persist(&file).map_err(|e| WorkspaceError::io("write", &file)(e.error))?;
    }
    Ok(Written { place, file, export })
}

/// What stands for the repository at `place` in the name of a file: what no shell and no filesystem makes anything else of.
fn name(place: &[u8]) -> String {
    if place.is_empty() {
        return ROOT.1.to_owned();
    }
    let plain = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => char::from(*byte),
        _ => '-',
    };
    place.iter().take(MAX_NAME).map(plain).collect()
}

/// Adds what is known of one repository's patch.
fn describe(one: &Written, outcome: &mut Outcome) {
    let mut own = Outcome::default();
    changes::describe(&one.export.scanned, &mut own);
    changes::describe_rest(&one.export, &mut own);
    let bytes = own.patch_bytes.unwrap_or(0);
    outcome.patches.get_or_insert_default().extend((bytes > 0).then(|| RepositoryPatch {
        repository: one.repository().into_owned(),
        file: one.file.to_string_lossy().into_owned(),
        bytes,
        sha256: own.patch_sha256.take().unwrap_or_default(),
    }));
    changes::add(outcome, own, &one.place);
}

/// How the patches are applied to the checkout that is at `home`.
fn explanation(home: &Path, written: &[Written]) -> Vec<u8> {
    let mut text = format!(
        "What changed in a copy of {}, by banger {}: a patch for each repository in it.\n",
        home.display(),
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    let (changed, same): (Vec<_>, Vec<_>) = written.iter().partition(|one| one.export.scanned.bytes > 0);
    if !changed.is_empty() {
        text.extend_from_slice(b"Look at them before you apply them, each in its repository:\n\n");
    }
    for one in changed {
        let repository = home.join(Path::new(std::ffi::OsStr::from_bytes(&one.place)));
        let words = [&repository, &one.file].map(|path| path.to_string_lossy().into_owned());
        let [repository, file] = words.each_ref().map(|word| quote([word.as_str()]));
        drop(writeln!(text, "    git -C {repository} apply {file}"));
    }
    if !same.is_empty() {
        text.extend_from_slice(b"\nNothing changed in:\n\n");
    }
    for one in same {
        drop(writeln!(text, "    {}", escape_controls(&one.repository())));
    }
    text
}
