//! Removing an image.

use std::{fs, io};

use banger_contract::types::{ImageName, VmName};
use banger_state::dir::StateDir;
use banger_state::lock::ImagesLock;

use crate::build::DeleteError;
use crate::image::TMP_PREFIX;

/// Removes the image `name` with all its files; `Ok(false)`: there was none. `in_use_by` are the VMs made from it.
///
/// It is renamed away first, so that nobody ever sees half of it; what a crash leaves is an unfinished image.
pub fn delete(
    state: &StateDir,
    _: &ImagesLock,
    name: &ImageName,
    in_use_by: &[VmName],
) -> Result<bool, DeleteError> {
    refuse_in_use(name, in_use_by)?;
    let away = state.images().join(format!("{TMP_PREFIX}deleted-{name}"));
    let removed = match fs::rename(state.image(name), &away) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(()) => fs::remove_dir_all(&away),
        Err(error) => Err(error),
    };
    removed.map(|()| true).map_err(|source| DeleteError::Remove { name: name.clone(), source })
}

/// An error where VMs (`in_use_by`) were made from the image `name`.
pub fn refuse_in_use(name: &ImageName, in_use_by: &[VmName]) -> Result<(), DeleteError> {
    if in_use_by.is_empty() {
        return Ok(());
    }
    let users = in_use_by.iter().map(VmName::as_str).collect::<Vec<_>>().join(", ");
    Err(DeleteError::InUse { name: name.clone(), users })
}
