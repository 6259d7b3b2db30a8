//! From an API socket that is not there yet to a machine that boots.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::api::{Action, Configuration, EntropyDevice, Version};
use super::client::{Client, RequestError};
use super::error::LaunchError;
use crate::sys::inotify::NewEntries;

/// The first Firecracker that banger speaks to: `(1, 14)`. nixpkgs 26.05 ships it.
pub const OLDEST: (u32, u32) = (1, 14);
/// How long Firecracker may take to make its API socket. It takes milliseconds.
pub const SOCKET_LIMIT: Duration = Duration::from_secs(10);
/// How long one request may take. The start loads the kernel from a disk that may be slow.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// The path of `name` in the open directory `dir`: short however deep the directory is (a `sockaddr_un` holds 107 bytes).
pub fn short_path(dir: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

/// Connects to the socket `name` in `dir` as soon as it is there and listened to. `process` is Firecracker's pidfd: a
/// Firecracker that ends is not waited for.
///
/// # Errors
/// [`LaunchError::NoSocket`], [`LaunchError::Ended`], [`LaunchError::Socket`].
pub fn connect_when_there(
    dir: BorrowedFd<'_>,
    name: &str,
    process: BorrowedFd<'_>,
    limit: Duration,
) -> Result<UnixStream, LaunchError> {
    let socket = |source| LaunchError::Socket { source };
    let until = Instant::now() + limit;
    // Watched before the first attempt, so that nothing is missed between the two.
    let entries = NewEntries::watch(short_path(dir, ".")).map_err(socket)?;
    loop {
        entries.clear();
        let left = until.saturating_duration_since(Instant::now());
        let wait = match UnixStream::connect(short_path(dir, name)) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound => left,
            // It is bound and not listened to yet, which nothing tells: that takes Firecracker microseconds.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                left.min(Duration::from_millis(1))
            }
            Err(source) => return Err(LaunchError::Socket { source }),
        };
        if left.is_zero() {
            return Err(LaunchError::NoSocket { limit });
        }
        let mut fds =
            [PollFd::new(&entries, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) if fds[1].revents().is_empty() => {}
            Ok(_) => return Err(LaunchError::Ended { request: "its API socket was there".to_owned() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(socket(errno.into())),
        }
    }
}

/// Whether the process of `pidfd` has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
}

/// Firecracker's version, where it is new enough.
///
/// # Errors
/// [`LaunchError::TooOld`], [`LaunchError::Request`].
pub fn version(client: &mut Client) -> Result<String, LaunchError> {
    let Version { firecracker_version: version } = client.get("/version")?;
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Ok(version),
        (Some(Ok::<u32, _>(_)), Some(Ok::<u32, _>(_))) => Err(LaunchError::TooOld { version }),
        _ => Err(RequestError::Nonsense {
            request: "GET /version".to_owned(),
            problem: format!("{version:?} is no version"),
        }
        .into()),
    }
}

/// Tells Firecracker everything about the machine, in the order that it wants.
///
/// # Errors
/// [`LaunchError::Request`].
pub fn configure(client: &mut Client, configuration: &Configuration) -> Result<(), LaunchError> {
    client.put("/machine-config", &configuration.machine)?;
    client.put("/boot-source", &configuration.boot)?;
    for drive in &configuration.drives {
        client.put(&format!("/drives/{}", drive.drive_id), drive)?;
    }
    let interface = &configuration.interface;
    client.put(&format!("/network-interfaces/{}", interface.iface_id), interface)?;
    client.put("/vsock", &configuration.vsock)?;
    // A guest with little entropy stalls at its first key (#663).
    client.put("/entropy", &EntropyDevice {})?;
    Ok(())
}

/// Boots the machine.
///
/// # Errors
/// [`LaunchError::Request`].
pub fn start(client: &mut Client) -> Result<(), LaunchError> {
    Ok(client.put("/actions", &Action::InstanceStart)?)
}
