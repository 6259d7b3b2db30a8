//! Unix sockets at paths of any length. A `sockaddr_un` holds 107 bytes (unix(7)); a socket in a directory that is open is named
//! through /proc/self/fd, which is short however deep the directory is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Opens the directory `path` for naming what is in it (O_PATH).
///
/// # Errors
/// Those of open(2).
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)?;
    Ok(file.into())
}

/// The short path of `name` in the open directory `dir`; valid in this process only.
pub fn short_path(dir: BorrowedFd<'_>, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into()
}

/// Listens on a new socket `name` in `dir`, mode 0600 where the caller's umask is 077.
///
/// # Errors
/// Those of bind(2); a socket that is there is EADDRINUSE.
pub fn bind(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixListener> {
    UnixListener::bind(short_path(dir, name))
}

/// Connects to the socket at `path`, without waiting: a listener whose backlog is full is EAGAIN.
///
/// # Errors
/// Those of open(2) for the directory and of connect(2).
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let parent = path.parent().ok_or_else(invalid)?;
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(invalid)?;
    let dir = open_dir(parent)?;
    connect_in(dir.as_fd(), name)
}

/// The same for the socket `name` in `dir`.
///
/// # Errors
/// Those of connect(2).
pub fn connect_in(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(short_path(dir, name))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Removes the sockets `names` from the directory `dir`; those that are not there are no error.
///
/// # Errors
/// The first that cannot be removed.
pub fn remove(dir: &Path, names: &[&str]) -> io::Result<()> {
    for name in names {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The effective user at the other end of `stream` (SO_PEERCRED).
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}
