//! Loop devices: block devices over files (loop(4), linux/loop.h).
//!
//! All of them are made with LO_FLAGS_AUTOCLEAR: the kernel undoes one when the last of its users closes it, so a program that is
//! killed at any moment leaves none behind, and nobody counts users but the kernel.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// How often a free device is asked for: others may take the one that was free.
const ATTEMPTS: usize = 64;

/// struct loop_info64.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A loop device that lasts as long as this value, or as whatever else has it open.
#[derive(Debug)]
pub struct Loop {
    device: File,
    number: u64,
}

impl Loop {
    /// Its device number, as `major:minor`.
    pub fn number(&self) -> String {
        format!("{}:{}", libc::major(self.number), libc::minor(self.number))
    }

    /// Its size, bytes.
    ///
    /// # Errors
    /// As lseek(2).
    pub fn size_bytes(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.device, rustix::fs::SeekFrom::End(0))?)
    }

    /// The read-only device over all of `file`: one that is there, whoever made it, or a new one.
    ///
    /// # Errors
    /// No privilege, no loop devices in this kernel, or as ioctl(2).
    pub fn shared(file: &File) -> io::Result<Self> {
        match find(file)? {
            Some(found) => Ok(found),
            None => Self::over(file, true),
        }
    }

    /// Device and inode of the file behind the loop device `number` (`major:minor`); `None` where it is none or is over nothing.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn backing_of(number: &str) -> io::Result<Option<(u64, u64)>> {
        // Loops have the major number 7 (Documentation/admin-guide/devices.txt).
        let Some(minor) = number.strip_prefix("7:").and_then(|minor| minor.parse::<u32>().ok()) else {
            return Ok(None);
        };
        let Ok(name) = fs::read_link(format!("/sys/dev/block/7:{minor}")) else { return Ok(None) };
        let Some(name) = name.file_name() else { return Ok(None) };
        let device = File::open(std::path::Path::new("/dev").join(name))?;
        Ok(status(&device)?.map(|info| (info.device, info.inode)))
    }

    /// A new device over all of `file`.
    ///
    /// # Errors
    /// No privilege, no loop devices in this kernel, or as ioctl(2).
    pub fn over(file: &File, read_only: bool) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: LOOP_CTL_GET_FREE takes nothing and returns a number.
            let number = checked(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
            match configure(&format!("/dev/loop{number}"), file, read_only) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

fn configure(path: &str, file: &File, read_only: bool) -> io::Result<Loop> {
    let device = OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_CLOEXEC).open(path)?;
    let access = if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    // Without the host's page cache where the file's filesystem can: the guest has one of its own.
    for direct in [LO_FLAGS_DIRECT_IO, 0] {
        let mut config = Config {
            fd: u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
            block_size: 0,
            info: Info { flags: access | LO_FLAGS_AUTOCLEAR | direct, ..NO_INFO },
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads one struct loop_config, which outlives the call.
        match checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw mut config) }) {
            Err(error) if direct != 0 && error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let number = device.metadata()?.rdev();
                return Ok(Loop { device, number });
            }
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// The device that is read-only over all of `file`, found by the inode: a file that was renamed or deleted keeps it.
fn find(file: &File) -> io::Result<Option<Loop>> {
    let wanted = file.metadata()?;
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else { continue };
        // Hosts keep the nodes of loops that are over nothing.
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        // While it is open it cannot go away, so what it says now stays true.
        let Ok(device) = File::open(format!("/dev/{name}")) else { continue };
        let Some(info) = status(&device)? else { continue };
        let same = (info.device, info.inode) == (wanted.dev(), wanted.ino());
        let whole = info.offset == 0 && info.size_limit == 0 && info.flags & LO_FLAGS_READ_ONLY != 0;
        if same && whole {
            let number = device.metadata()?.rdev();
            return Ok(Some(Loop { device, number }));
        }
    }
    Ok(None)
}

/// What the device is over; `None` where it is over nothing.
fn status(device: &File) -> io::Result<Option<Info>> {
    let mut info = NO_INFO;
    // SAFETY: LOOP_GET_STATUS64 writes one struct loop_info64, which outlives the call.
    match checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) }) {
        Ok(_) => Ok(Some(info)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
