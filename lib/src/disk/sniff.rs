//! What a file or a stream holds that somebody wants to be an image.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::import::Format;
use crate::sys::{decompress, ext4, tar};

/// What the file holds: an ext4 by its magic number; an archive of images by the name of its first member; else a root filesystem.
pub(super) fn file(path: &Path) -> io::Result<Format> {
    if ext4::uuid(path).is_ok() {
        return Ok(Format::Ext4);
    }
    Ok(archive(decompress::open(Box::new(File::open(path)?))?))
}

/// What the archive holds that begins so.
pub(super) fn archive(beginning: impl Read) -> Format {
    let mut archive = tar::Archive::new(beginning);
    let first = loop {
        // What is no archive at all is told when it is read.
        let Ok(Some(entry)) = archive.next_entry() else { return Format::Tar };
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let first = name.split('/').find(|part| !matches!(*part, "" | "."));
        // The directory that was packed may come first.
        if let Some(first) = first {
            break first.to_owned();
        }
    };
    let hex = [".json", ".tar"].iter().find_map(|end| first.strip_suffix(end)).unwrap_or(&first);
    let is_digest = hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit());
    let fixed = ["blobs", "oci-layout", "index.json", "manifest.json", "repositories"];
    if is_digest || fixed.contains(&first.as_str()) { Format::Archive } else { Format::Tar }
}
