//! The guest behind Firecracker's vsock, which shows on the host as Unix sockets: one that Firecracker listens on, for
//! connections to the guest, and one per port that the host listens on, for connections from it (docs/vsock.md there).

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;

use banger_host::net::unix;
use banger_protocol::guest::VSOCK_EVENT_PORT;

/// The socket that Firecracker makes in its working directory, the VM's. Relative, as `uds_path` is: a `sockaddr_un` holds 107
/// bytes, and Firecracker adds `_<port>`.
pub const SOCKET: &str = "vsock.sock";

/// The socket on which the host awaits the guest's events.
pub const EVENT_SOCKET: &str = "vsock.sock_1025";

const _: () = assert!(VSOCK_EVENT_PORT == 1025, "EVENT_SOCKET names the port");

/// Listens for the guest's events in the VM's directory. It must stand before the start: a guest that finds nobody is refused.
///
/// # Errors
/// Those of bind(2) and listen(2).
pub fn listen_for_events(dir: BorrowedFd<'_>) -> io::Result<UnixListener> {
    unix::bind(dir, EVENT_SOCKET)
}
