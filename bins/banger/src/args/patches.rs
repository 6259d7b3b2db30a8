//! `--patch` and `--patch-dir`.

use std::path::{Path, PathBuf};

use clap::Args;

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
