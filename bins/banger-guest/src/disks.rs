//! The VM's disks: found by the UUID of their ext4, since the order of probing proves nothing; mounted; grown to the size of
//! their device, which the host only ever extends with a hole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::clock::now_us;
use crate::error::{Context, Error};
use crate::mounts::{NEW_ROOT, mount_at};
use crate::{halt, home, sys};
use banger_protocol::guest::GuestConfig;

/// How long a disk may take to appear, microseconds.
const APPEARS_WITHIN_US: u64 = 10_000_000;
/// Where the two layers of an overlay root stay visible, so that they can be remounted read-only in the end.
const LAYERS: &str = "/run/banger";

/// What this program needs of an ext4 superblock (Documentation/filesystems/ext4/super.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Superblock {
    uuid: String,
    block_bytes: u64,
    blocks: u64,
}

impl Superblock {
    fn read(device: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; 1024];
        device.read_exact_at(&mut bytes, 1024)?;
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8; 1024]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[0x38..0x3a] != [0x53, 0xef] {
            return None;
        }
        let is_64bit = u32_at(0x60) & 0x80 != 0;
        let high = if is_64bit { u64::from(u32_at(0x150)) << 32 } else { 0 };
        let log_block_size = u32_at(0x18).min(6);
        let digits: String = bytes[0x68..0x78].iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
        Some(Self { uuid, block_bytes: 1024 << log_block_size, blocks: high | u64::from(u32_at(4)) })
    }
}

/// A mounted disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Where people see it.
    pub mount: &'static str,
    /// Where the ext4 itself is mounted.
    pub ext4_mount: String,
    /// Its device.
    pub device: String,
}

/// What growing a disk did.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Size before, bytes.
    pub from_bytes: u64,
    /// Size after, bytes.
    pub to_bytes: u64,
}

impl Disk {
    /// Grows the filesystem to the size of its device.
    pub fn grow(&self) -> Result<Growth, Error> {
        let what = || format!("cannot grow the filesystem on {}", self.mount);
        let device = File::open(&self.device).context(what)?;
        let superblock = Superblock::read(&device).context(what)?;
        let superblock = superblock.ok_or_else(|| Error::new(format!("{} is not an ext4", self.device)))?;
        let wanted = device_bytes(&self.device).context(what)? / superblock.block_bytes;
        let from_bytes = superblock.blocks * superblock.block_bytes;
        if wanted <= superblock.blocks {
            return Ok(Growth { from_bytes, to_bytes: from_bytes });
        }
        let directory = File::open(&self.ext4_mount).context(what)?;
        sys::resize_ext4(&directory, wanted).context(what)?;
        Ok(Growth { from_bytes, to_bytes: wanted * superblock.block_bytes })
    }
}

fn device_bytes(device: &str) -> io::Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let sectors = fs::read_to_string(format!("/sys/class/block/{name}/size"))?;
    sectors.trim().parse::<u64>().map(|n| n * 512).map_err(io::Error::other)
}

/// Mounts the root, its changes above it where there is an upper disk, and the work disk. The writable ones are returned, and
/// are to be grown once the new root is the root.
pub fn mount_all(config: &GuestConfig) -> Result<Vec<Disk>, Error> {
    let mut uuids = vec![config.root_uuid.as_str(), config.work_uuid.as_str()];
    uuids.extend(config.upper_uuid.as_deref());
    let devices = find(&uuids)?;
    let root = match &config.upper_uuid {
        None => mount_plain_root(&devices[&config.root_uuid])?,
        Some(upper) => mount_overlay_root(&devices[&config.root_uuid], &devices[upper])?,
    };
    let device = devices[&config.work_uuid].clone();
    mount_ext4(&device, &format!("{NEW_ROOT}/root"))?;
    // A home without the image's files is a home.
    if let Err(error) = home::fill(NEW_ROOT) {
        halt::say(&error.to_string());
    }
    Ok(vec![root, Disk { mount: "/root", ext4_mount: "/root".into(), device }])
}

fn mount_plain_root(device: &str) -> Result<Disk, Error> {
    mount_ext4(device, NEW_ROOT)?;
    Ok(Disk { mount: "/", ext4_mount: "/".into(), device: device.to_owned() })
}

fn mount_overlay_root(root: &str, upper: &str) -> Result<Disk, Error> {
    let (lower_dir, upper_dir) = (format!("{LAYERS}/lower"), format!("{LAYERS}/upper"));
    // The image is shared and clean; its journal must not be replayed into it.
    mount_at("ext4", root, &lower_dir, MsFlags::MS_RDONLY, Some("noload"))?;
    mount_ext4(upper, &upper_dir)?;
    for name in ["upper", "work"] {
        let path = format!("{upper_dir}/{name}");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).context(|| format!("cannot make {path}"));
            }
            _ => {}
        }
    }
    // Without redirect_dir a directory of the image cannot be renamed.
    let options =
        format!("lowerdir={lower_dir},upperdir={upper_dir}/upper,workdir={upper_dir}/work,redirect_dir=on");
    mount_at("overlay", "root", NEW_ROOT, MsFlags::empty(), Some(&options))?;
    Ok(Disk { mount: "/", ext4_mount: upper_dir, device: upper.to_owned() })
}

/// The inode tables of disposable disks need not be zeroed in the background: their checksums say which are unused.
fn mount_ext4(device: &str, target: &str) -> Result<(), Error> {
    mount_at("ext4", device, target, MsFlags::empty(), Some("noinit_itable"))
}

/// The devices of the filesystems with these UUIDs.
fn find(uuids: &[&str]) -> Result<BTreeMap<String, String>, Error> {
    let deadline = now_us() + APPEARS_WITHIN_US;
    loop {
        let seen = filesystems();
        let missing: Vec<&str> = uuids.iter().copied().filter(|uuid| !seen.contains_key(*uuid)).collect();
        if missing.is_empty() {
            return Ok(seen);
        }
        if now_us() > deadline {
            let devices: Vec<String> =
                seen.into_iter().map(|(uuid, device)| format!("{device} {uuid}")).collect();
            return Err(Error::new(format!(
                "no disk has an ext4 with the UUID {}; found: {}",
                missing.join(", "),
                if devices.is_empty() { "none at all".to_owned() } else { devices.join(", ") }
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// UUID → device of every ext4 that can be read.
fn filesystems() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let devices = entries.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()));
    let known = devices.filter_map(|device| {
        let superblock = Superblock::read(&File::open(&device).ok()?).ok()??;
        Some((superblock.uuid, device))
    });
    known.collect()
}

/// Makes every disk's filesystem read-only, so that it needs no recovery next time.
pub fn settle(disks: &[Disk]) {
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for disk in disks.iter().rev() {
        for target in [disk.mount, disk.ext4_mount.as_str()] {
            if let Err(errno) = mount(None::<&str>, target, None::<&str>, read_only, None::<&str>)
                && errno != nix::errno::Errno::EINVAL
            {
                halt::say(&format!("cannot make {target} read-only: {errno}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_recognised() {
        let mut bytes = [0; 1024];
        assert_eq!(Superblock::parse(&bytes), None);
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[4..8].copy_from_slice(&7u32.to_le_bytes());
        bytes[0x18] = 2;
        bytes[0x150] = 1;
        bytes[0x68..0x78].copy_from_slice(&[0xab; 16]);
        let parsed = Superblock::parse(&bytes).unwrap();
        assert_eq!(parsed.uuid, "abababab-abab-abab-abab-abababababab");
        assert_eq!((parsed.block_bytes, parsed.blocks), (4096, 7));
        bytes[0x60] = 0x80;
        assert_eq!(Superblock::parse(&bytes).unwrap().blocks, 7 | 1 << 32);
    }
}
