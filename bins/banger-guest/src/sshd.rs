//! SSH under the lean init: this program listens, and each connection gets an sshd of its own (`sshd -i`). So "ready" is true
//! before any sshd was started, and an image's sshd costs nothing until it is used; each connection would cost a start of sshd under a
//! listening sshd as well.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::error::{Context, Error};
use crate::protocol::HOST_KEY_PATH;

const SSHD: &str = "/usr/sbin/sshd";
const PORT: u16 = 22;

/// What differs from the image's own configuration, which is read as well. No PAM: nothing of it is needed for root's key, and
/// its modules expect a running system. The key exchanges are those that cost an emulated CPU least.
const OPTIONS: [&str; 12] = [
    "UsePAM=no",
    "UseDNS=no",
    "PrintMotd=no",
    "PrintLastLog=no",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "PermitRootLogin=prohibit-password",
    "MaxSessions=1000",
    "LogLevel=ERROR",
    "RekeyLimit=default none",
    "KexAlgorithms=curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256",
    "PidFile=none",
];

/// Listens for connections, on both families where the kernel has them.
pub fn listen() -> Result<TcpListener, Error> {
    if !Path::new(SSHD).exists() {
        return Err(Error::new(format!("the image has no {SSHD}")));
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    listener.context(|| format!("cannot listen on port {PORT}"))
}

/// Whether the CPU is QEMU's emulation. There OpenSSL's vector code is several times slower than its plain code: ChaCha20-Poly1305
/// went from 25 to 107 MB/s without it, SHA-256 from 17 to 53. The sessions do not inherit the setting; sshd makes their
/// environment anew.
fn is_emulated() -> bool {
    static EMULATED: OnceLock<bool> = OnceLock::new();
    *EMULATED.get_or_init(|| {
        std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG CPU"))
    })
}

/// Starts an sshd for a connection. The caller reaps it.
pub fn serve(connection: TcpStream) -> io::Result<u32> {
    let (input, output) = (OwnedFd::from(connection.try_clone()?), OwnedFd::from(connection));
    #[expect(clippy::disallowed_methods, reason = "the one program that this one starts")]
    let mut sshd = Command::new(SSHD);
    sshd.args(["-i", "-e", "-o", &format!("HostKey=/{HOST_KEY_PATH}")]);
    sshd.args(OPTIONS.iter().flat_map(|option| ["-o", option]));
    sshd.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if is_emulated() {
        sshd.env("OPENSSL_ia32cap", "0x0:0");
    }
    let console = File::options().write(true).open("/dev/console")?;
    sshd.stdin(input).stdout(output).stderr(Stdio::from(console)).process_group(0);
    sshd.spawn().map(|child| child.id())
}
