//! SSH under the lean init: this program listens, and each connection gets an sshd of its own (`sshd -i`). So "ready" is true
//! before any sshd was started, and an image's sshd costs nothing until it is used; each connection would cost a start of sshd under a
//! listening sshd as well.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::error::{Context, Error};
use crate::protocol::HOST_KEY_PATH;
use crate::{halt, login};

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

/// Whether the image has an sshd.
pub fn is_installed() -> bool {
    Path::new(SSHD).exists()
}

/// Listens for connections, on both families where the kernel has them. `Ok(None)`: the image has no sshd, and the host has other ways
/// in.
pub fn listen(has_streams: bool) -> Result<Option<TcpListener>, Error> {
    if !is_installed() {
        let missing = format!("the image has no {SSHD}");
        if !has_streams {
            return Err(Error::new(format!(
                "{missing}, and the VM has no device over which commands could come"
            )));
        }
        halt::say(&format!("{missing}: nobody can log in over SSH"));
        return Ok(None);
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    let what = || format!("cannot listen on port {PORT}");
    let listener = listener.context(what)?;
    listener.set_nonblocking(true).context(what)?;
    Ok(Some(listener))
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

/// The option that gives sessions the image's variables. All are in one, since only the first counts; sshd_config(5) has quotes, and
/// backslashes in them.
fn set_env(variables: &[(OsString, OsString)]) -> Option<OsString> {
    let mut option = OsString::from("SetEnv=");
    for (name, value) in variables {
        option.push("\"");
        option.push(name);
        option.push("=");
        for byte in value.as_bytes() {
            if matches!(byte, b'"' | b'\\') {
                option.push("\\");
            }
            option.push(OsStr::from_bytes(&[*byte]));
        }
        option.push("\" ");
    }
    (!variables.is_empty()).then_some(option)
}

/// Starts an sshd for a connection. The caller reaps it.
pub fn serve(connection: TcpStream) -> io::Result<u32> {
    let (input, output) = (OwnedFd::from(connection.try_clone()?), OwnedFd::from(connection));
    #[expect(clippy::disallowed_methods, reason = "the one program that this one starts")]
    let mut sshd = Command::new(SSHD);
    sshd.args(["-i", "-e", "-o", &format!("HostKey=/{HOST_KEY_PATH}")]);
    sshd.args(OPTIONS.iter().flat_map(|option| ["-o", option]));
    if let Some(option) = set_env(&login::of_image()) {
        sshd.arg("-o").arg(option);
    }
    sshd.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if is_emulated() {
        sshd.env("OPENSSL_ia32cap", "0x0:0");
    }
    let console = File::options().write(true).open("/dev/console")?;
    sshd.stdin(input).stdout(output).stderr(Stdio::from(console)).process_group(0);
    sshd.spawn().map(|child| child.id())
}
