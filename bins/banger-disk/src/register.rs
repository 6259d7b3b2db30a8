//! Images whose root filesystem lies elsewhere: *registered* ones point to it with a symbolic link ([`Source::Registered`]), and banger
//! neither changes nor removes the file. Promoting copies it, so that the image owns what it is made of. And removing many images.
//!
//! [`Source::Registered`]: super::import::Source::Registered

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::build::{self, BuildError};
use super::image::{self, Image, ImageError};
use super::import::ImportError;
use banger_contract::types::{ImageName, VmName};
use banger_formats::ext4;
use banger_host::fs::reflink;
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

/// Makes a registered image own its root filesystem; `Ok(false)`: it does already. The copy is what was registered, or it is an error.
/// VMs that were made from it do not notice.
///
/// # Errors
/// [`ImportError`]; the image then is what it was.
pub fn promote(state: &StateDir, lock: &ImagesLock, name: &ImageName) -> Result<bool, ImportError> {
    build::clean_leftovers(state, lock)?;
    let image = image::load(state, name)?.ok_or_else(|| ImageError::Unknown(name.clone()))?;
    let Some(source) = image.registered() else { return Ok(false) };
    let tmp = build::unfinished(state)?;
    let copy = tmp.path().join(image::ROOTFS);
    let copied = || -> io::Result<()> {
        let (from, to) = (File::open(&source)?, ext4::create_file(&copy)?);
        if !reflink::reflink(&from, &to)? {
            reflink::copy_sparse(&from, &to)?;
        }
        Ok(())
    };
    copied().map_err(|error| ImportError::Source { path: source.clone(), source: error })?;
    let files = super::boot_set::seal(tmp.path(), &[image::ROOTFS], |_| false).map_err(BuildError::from)?;
    if files.get(image::ROOTFS) != image.manifest.files.get(image::ROOTFS) {
        return Err(ImportError::Changed { name: name.clone(), path: source });
    }
    // The link and the file that takes its place have the same content, so that there is no moment in between.
    let target = state.image(name).join(image::ROOTFS);
    fs::rename(&copy, &target).map_err(|source| BuildError::File { path: target.clone(), source })?;
    let synced = File::open(&image.dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| BuildError::File { path: image.dir.clone(), source })?;
    Ok(true)
}

/// What a prune did, or would do.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The images that are gone.
    pub removed: Vec<ImageName>,
    /// Images that VMs use.
    pub in_use: Vec<ImageName>,
}

/// Removes images that no VM uses (`users` gives those of an image): those that lack files, or `all`.
///
/// # Errors
/// [`ImportError`]; what was removed before stays removed.
pub fn prune(
    state: &StateDir,
    lock: &ImagesLock,
    all: bool,
    users: &dyn Fn(&ImageName) -> Vec<VmName>,
) -> Result<Pruned, ImportError> {
    build::clean_leftovers(state, lock)?;
    let mut pruned = Pruned::default();
    for (name, image) in image::list(state)? {
        let image = image?;
        if !all && image.missing().is_empty() {
            continue;
        }
        let users = users(&name);
        if !users.is_empty() {
            pruned.in_use.push(name);
            continue;
        }
        super::delete::delete(state, lock, &name, &[]).map_err(BuildError::InUse)?;
        pruned.removed.push(name);
    }
    Ok(pruned)
}

impl Image {
    /// Where a registered image's root filesystem really is; `None`: the image owns it.
    pub fn registered(&self) -> Option<PathBuf> {
        fs::read_link(&self.rootfs).ok()
    }
}
