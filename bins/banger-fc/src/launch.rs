//! From an API socket that is not there yet to a machine that boots.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_host::fs::inotify::NewEntries;
use banger_host::net::unix;
use banger_vmm::arch::ENTROPY_BYTES_S;
use banger_vmm::monitor::{Change, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::api::{
    Action, Configuration, EntropyDevice, INTERFACE_ID, PartialDrive, PartialNetworkInterface, RateLimiter,
    Version,
};
use crate::client::Client;
use crate::error::LaunchError;
use crate::program::{OLDEST, numbers};

/// Connects to the socket `name` in the VM's directory as soon as it is there and listened to, until `until` at the latest. A
/// Firecracker that ends is not waited for.
///
/// # Errors
/// [`LaunchError::NoSocket`], [`LaunchError::Ended`], [`LaunchError::Socket`].
pub fn connect_when_there(
    process: Process<'_>,
    name: &str,
    until: Instant,
) -> Result<UnixStream, LaunchError> {
    let socket = |source| LaunchError::Socket { source };
    // Watched before the first attempt, so that nothing is missed between the two.
    let entries = NewEntries::watch(unix::short_path(process.dir, ".")).map_err(socket)?;
    loop {
        entries.clear();
        let left = until.saturating_duration_since(Instant::now());
        let wait = match unix::connect_in(process.dir, name) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound => left,
            // It is bound and not listened to yet, which nothing tells: that takes Firecracker microseconds.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                left.min(Duration::from_millis(1))
            }
            Err(source) => return Err(LaunchError::Socket { source }),
        };
        if left.is_zero() {
            return Err(LaunchError::NoSocket);
        }
        let mut fds =
            [PollFd::new(&entries, PollFlags::IN), PollFd::from_borrowed_fd(process.pidfd, PollFlags::IN)];
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) if fds[1].revents().is_empty() => {}
            Ok(_) => return Err(LaunchError::Ended { request: "its API socket was there".to_owned() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(socket(errno.into())),
        }
    }
}

/// Firecracker's version, where it is new enough.
///
/// # Errors
/// [`LaunchError::TooOld`], [`LaunchError::Request`].
pub fn version(client: &mut Client) -> Result<String, LaunchError> {
    let Version { firecracker_version: version } = client.get("/version")?;
    supported(version)
}

/// `version`, where it is one and new enough.
///
/// # Errors
/// [`LaunchError::TooOld`], [`LaunchError::NoVersion`].
pub fn supported(version: String) -> Result<String, LaunchError> {
    match numbers(&version) {
        Some(numbers) if numbers >= OLDEST => Ok(version),
        Some(_) => Err(LaunchError::TooOld { version }),
        None => Err(LaunchError::NoVersion { said: version.chars().take(100).collect() }),
    }
}

/// Tells Firecracker everything about the machine, in the order that it wants.
///
/// # Errors
/// [`LaunchError::Request`].
pub fn configure(client: &mut Client, configuration: &Configuration) -> Result<(), LaunchError> {
    client.put("/metrics", &configuration.metrics)?;
    client.put("/machine-config", &configuration.machine)?;
    client.put("/boot-source", &configuration.boot)?;
    for drive in &configuration.drives {
        client.put(&format!("/drives/{}", drive.drive_id), drive)?;
    }
    let interface = &configuration.interface;
    client.put(&format!("/network-interfaces/{}", interface.iface_id), interface)?;
    client.put("/vsock", &configuration.vsock)?;
    // A guest with little entropy stalls at its first key (#663).
    let rate_limiter = RateLimiter::bytes_per_second(ENTROPY_BYTES_S);
    client.put("/entropy", &EntropyDevice { rate_limiter })?;
    Ok(())
}

/// Boots the machine.
///
/// # Errors
/// [`LaunchError::Request`].
pub fn start(client: &mut Client) -> Result<(), LaunchError> {
    Ok(client.put("/actions", &Action::InstanceStart)?)
}

/// Changes a machine that runs.
///
/// # Errors
/// [`LaunchError::Request`].
pub fn change(client: &mut Client, change: &Change<'_>) -> Result<(), LaunchError> {
    let drive = |client: &mut Client, drive_id: &str, path_on_host, rate_limiter| {
        let body = PartialDrive { drive_id: drive_id.to_owned(), path_on_host, rate_limiter };
        client.patch(&format!("/drives/{drive_id}"), &body)
    };
    match change {
        Change::Grown { drive: id, path, .. } => drive(client, id, Some((*path).to_owned()), None)?,
        Change::DiskRate { drive: id, rate } => {
            drive(client, id, None, Some(RateLimiter::changed_to(*rate)))?
        }
        Change::NetRate(rate) => {
            let limiter = RateLimiter::changed_to(*rate);
            let body = PartialNetworkInterface {
                iface_id: INTERFACE_ID.to_owned(),
                rx_rate_limiter: limiter,
                tx_rate_limiter: limiter,
            };
            client.patch(&format!("/network-interfaces/{INTERFACE_ID}"), &body)?;
        }
    }
    Ok(())
}
