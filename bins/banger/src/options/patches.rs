//! `--patch` and `--patch-dir`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use banger_contract::{Coded, ErrorCode};
use banger_host::fs::atomic;
use clap::Args;
use thiserror::Error;

use crate::context::{Context, Result};
use crate::stage::Stage;

/// Where what changed goes.
#[derive(Debug, Args)]
pub struct Patches {
    /// Write what changed in the checkout since it was copied as a patch to FILE, or to stdout ("-")
    #[arg(long, value_name = "FILE")]
    pub patch: Option<PathBuf>,
    /// Write what changed in each repository, the checkout and its submodules, as a patch of its own to the directory DIR, with a README of how
    /// they are applied; DIR is made, or empty
    #[arg(long, value_name = "DIR", conflicts_with = "patch")]
    pub patch_dir: Option<PathBuf>,
}

impl Patches {
    /// The file or the directory, where there is to be one.
    pub fn place(&self) -> Option<&Path> {
        self.patch.as_deref().or(self.patch_dir.as_deref())
    }

    /// `stage` with the option for it.
    pub fn wanted_of(&self, stage: Stage) -> Stage {
        match (&self.patch, &self.patch_dir) {
            (Some(file), _) => stage.arg("--patch").arg(file),
            (None, Some(dir)) => stage.arg("--patch-dir").arg(dir),
            (None, None) => stage,
        }
    }
}

/// Outputs that cannot work together or at all; found before anything is made.
#[derive(Debug, Error)]
pub enum OutputError {
    #[error("{0:?} cannot be written: its directory does not exist")]
    NoDirectory(PathBuf),
    #[error("{0:?} is a directory; a file is needed")]
    IsDirectory(PathBuf),
    #[error("{0:?} is not a new or empty directory, which patches need")]
    PatchDirectory(PathBuf),
    #[error("--json and --patch - both want stdout")]
    Stdout,
}

impl Coded for OutputError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::Stdout).then(|| "give --patch FILE".into())
    }
}

/// Whether the patch is to go to stdout, which then is for nothing else.
pub fn patch_to_stdout(context: &Context, patch: Option<&Path>) -> Result<bool> {
    let to_stdout = patch == Some(Path::new("-"));
    if to_stdout && context.json { Err(OutputError::Stdout.into()) } else { Ok(to_stdout) }
}

/// Refuses what cannot be written as a file.
pub fn check_file(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(OutputError::IsDirectory(path.to_owned()).into());
    }
    check_parent(path)?;
    Ok(atomic::check_writable(&atomic::place_of(path))?)
}

fn check_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.is_dir() { Ok(()) } else { Err(OutputError::NoDirectory(path.to_owned()).into()) }
}

/// Whether `dir` can be made, or is there and empty.
pub fn check_patch_dir(dir: &Path) -> Result<()> {
    match fs::read_dir(dir).map(Iterator::count) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_parent(dir),
        _ => Err(OutputError::PatchDirectory(dir.to_owned()).into()),
    }
}
