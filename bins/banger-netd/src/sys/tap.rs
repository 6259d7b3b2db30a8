//! Taps: /dev/net/tun and its ioctls (Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use banger_contract::types::LinkName;
use banger_host::net::link::LinkError;

// struct ifreq is 40 bytes on every 64-bit Linux: the name, then a union whose first member here is the flags.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Those that Firecracker and QEMU open a tap with: one that was made MULTI_QUEUE is refused with EINVAL.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A tap that is held open, and that lasts as long as this value, until [`Tap::persist`] is called.
///
/// So a program that is killed between making a tap and having set it up leaves none behind.
#[derive(Debug)]
pub struct Tap {
    device: File,
    name: LinkName,
}

impl Tap {
    /// Makes the tap `name` for `owner` to open. EXCL keeps the kernel from opening a tap that somebody else has made meanwhile.
    ///
    /// # Errors
    /// No /dev/net/tun, no CAP_NET_ADMIN, or the name is in use.
    pub fn create(name: &LinkName, owner: u32) -> Result<Self, LinkError> {
        let error = |source| LinkError { action: "create", link: name.to_string(), source };
        let device = open(name, FLAGS | libc::IFF_TUN_EXCL).map_err(error)?;
        // SAFETY: TUNSETOWNER takes the uid by value.
        checked(unsafe {
            libc::ioctl(device.as_raw_fd(), libc::TUNSETOWNER as _, libc::c_ulong::from(owner))
        })
        .map_err(error)?;
        Ok(Self { device, name: name.clone() })
    }

    /// Opens a tap that is there and outlives programs; `None` where another process has it open.
    ///
    /// # Errors
    /// No /dev/net/tun or no CAP_NET_ADMIN.
    pub fn open_free(name: &LinkName) -> Result<Option<Self>, LinkError> {
        match open(name, FLAGS) {
            Ok(device) => Ok(Some(Self { device, name: name.clone() })),
            Err(source) if source.raw_os_error() == Some(libc::EBUSY) => Ok(None),
            Err(source) => Err(LinkError { action: "open", link: name.to_string(), source }),
        }
    }

    /// Lets the tap outlive this program.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn persist(self) -> Result<(), LinkError> {
        let one: libc::c_ulong = 1;
        // SAFETY: TUNSETPERSIST takes a flag by value.
        checked(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETPERSIST as _, one) })
            .map_err(|source| LinkError { action: "keep", link: self.name.to_string(), source })
    }
}

/// Opens the tap `name`, which is made where it is not there.
fn open(name: &LinkName, flags: libc::c_int) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: flags as libc::c_short, rest: [0; 22] };
    // A LinkName has 15 bytes at most, so the last stays NUL.
    request.name[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which outlives the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
    Ok(device)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
