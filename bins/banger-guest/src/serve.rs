//! The service that runs the host's commands: a process of its own beside the agent, so that its children are nobody else's and a
//! command's bytes hold nothing up. A thread for each port, or for each connection over vsock.

use std::fs::{self, File};
use std::io::{self, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{Backlog, VsockAddr, bind, getpeername, listen};

use crate::channel::vsock_socket;
use crate::clock::now_us;
use crate::conversation::{Conversation, Over};
use crate::halt::say;
use crate::modules::virtio_devices;
use crate::sys;
use banger_protocol::guest::{EXEC_PORT_PREFIX, EXEC_PORTS, HELPER_PATH, VSOCK_EXEC_PORT};

/// How long the ports may take to get their names, microseconds.
const PORTS_WITHIN_US: u64 = 2_000_000;
/// How long after its end, or a failure, something is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The virtio device ids of a console, whose ports these are, and of vsock.
const VIRTIO_CONSOLE: u32 = 3;
const VIRTIO_VSOCK: u32 = 19;

/// Whether this VM has a device over which commands may come; its ports may not have their names yet.
pub fn has_device() -> bool {
    let devices = virtio_devices();
    devices.contains(&VIRTIO_CONSOLE) || devices.contains(&VIRTIO_VSOCK)
}

/// Whether this VM has something to take commands over.
pub fn has_streams() -> bool {
    let devices = virtio_devices();
    if devices.contains(&VIRTIO_CONSOLE) { !ports().is_empty() } else { devices.contains(&VIRTIO_VSOCK) }
}

/// Keeps the service running, beside the caller. Called by the agent, when the boot is as good as done.
pub fn keep() {
    thread::spawn(|| {
        loop {
            #[expect(clippy::disallowed_methods, reason = "this very program, once more")]
            let mut service = Command::new(HELPER_PATH);
            service.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            sys::begin_session(&mut service);
            match service.spawn() {
                // The lean init reaps whatever dies, so that this may fail: it has ended as well then.
                Ok(mut child) => drop(child.wait()),
                Err(error) => say(&format!("cannot start the service for commands: {error}")),
            }
            thread::sleep(AGAIN);
        }
    });
}

/// `serve`: all ports, or vsock. `serve -`: the socket that is stdin, until its other end is closed.
pub fn main(from_stdin: bool) -> ExitCode {
    // A thread that is gone would leave its host waiting. This way everything is opened anew.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("bug: {panic}"));
        std::process::abort();
    }));
    sys::raise_file_limit();
    let served = if from_stdin {
        stdin().as_fd().try_clone_to_owned().and_then(|socket| serve_socket(File::from(socket)))
    } else if virtio_devices().contains(&VIRTIO_CONSOLE) {
        serve_ports()
    } else {
        serve_vsock()
    };
    if let Err(error) = &served {
        say(&format!("cannot serve commands: {error}"));
    }
    ExitCode::from(u8::from(served.is_err()))
}

/// The ports for commands that the kernel has named so far.
fn ports() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        name.starts_with(EXEC_PORT_PREFIX)
    });
    named.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect()
}

fn serve_ports() -> io::Result<()> {
    let deadline = now_us() + PORTS_WITHIN_US;
    while ports().len() < EXEC_PORTS && now_us() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let threads: Vec<_> = ports().into_iter().map(|port| thread::spawn(move || serve_port(&port))).collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// One host after the other, for ever.
fn serve_port(path: &str) {
    loop {
        let port = File::options().read(true).write(true).open(path).and_then(Conversation::over);
        let Ok(mut port) = port else {
            thread::sleep(AGAIN);
            continue;
        };
        // The end of a host leaves the port open; see there. After anything else all is begun anew, which the host is told.
        while port.await_host().is_ok() {
            match port.serve() {
                Over::Gone | Over::Malformed => {}
                Over::Failed => break,
            }
        }
        drop(port);
        thread::sleep(AGAIN);
    }
}

fn serve_vsock() -> io::Result<()> {
    let listener = vsock_socket()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, VSOCK_EXEC_PORT))?;
    listen(&listener, Backlog::new(16)?)?;
    loop {
        let Ok(connection) = sys::accept(&listener) else {
            thread::sleep(AGAIN);
            continue;
        };
        // A guest's own user can connect through the loopback of vsock, and would be root.
        let peer = getpeername::<VsockAddr>(connection.as_raw_fd());
        if peer.is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST) {
            thread::spawn(|| serve_socket(File::from(connection)));
        }
    }
}

fn serve_socket(socket: File) -> io::Result<()> {
    let mut conversation = Conversation::over(socket)?;
    conversation.serve();
    conversation.end();
    Ok(())
}
