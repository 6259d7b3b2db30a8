//! SSH under the lean init: this program listens, and each connection gets an sshd of its own (`sshd -i`). So "ready" is true
//! before any sshd was started, and an image's sshd costs nothing until it is used; each connection would cost a start of sshd under a
//! listening sshd as well.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::error::{Context, Error};
use crate::{files, halt, login};
use banger_protocol::guest::HOST_KEY_PATH;

const SSHD: &str = "/usr/sbin/sshd";
const PORT: u16 = 22;
/// The main file of an image's sshd.
const CONFIGURATION: &str = "/etc/ssh/sshd_config";
/// What sshd reads before all others' files: the first value of an option counts.
const OWN_CONFIGURATION: &str = "/etc/ssh/sshd_config.d/00-banger-image.conf";

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

/// Gives the image's variables to the sessions of an sshd that its own init starts. What it has of others' configuration it reads where
/// its main file says so, as OpenSSH's does on most distributions since 8.2.
pub fn leave_variables() -> Result<(), Error> {
    let main = fs::read_to_string(CONFIGURATION).unwrap_or_default();
    let variables = login::of_sessions();
    let (fit, unfit): (Vec<_>, Vec<_>) =
        variables.into_iter().partition(|(_, value)| includes_more(&main) && fits_a_line(value));
    if !unfit.is_empty() {
        let names = unfit.iter().map(|(name, _)| name.to_string_lossy()).collect::<Vec<_>>().join(" ");
        halt::say(&format!("sessions over SSH do not have the variables {names}: sshd cannot be told"));
    }
    let line = set_env(&fit).map(|option| format!("{}\n", option.to_string_lossy()));
    files::leave(OWN_CONFIGURATION, &line.unwrap_or_default())
}

/// Whether sshd reads, by its main file, what stands beside [`OWN_CONFIGURATION`].
fn includes_more(main: &str) -> bool {
    let directory = Path::new(OWN_CONFIGURATION).parent().unwrap_or(Path::new("/"));
    main.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("include"))
            && words.any(|pattern| Path::new(pattern) == directory.join("*.conf"))
    })
}

/// Whether every sshd reads the quoted value for what it is: older ones know no escapes, and one that misreads it does not start.
fn fits_a_line(value: &OsStr) -> bool {
    value.to_str().is_some_and(|value| !value.contains(['"', '\\', '\n']))
}

/// Starts an sshd for a connection. The caller reaps it.
pub fn serve(connection: TcpStream) -> io::Result<u32> {
    let (input, output) = (OwnedFd::from(connection.try_clone()?), OwnedFd::from(connection));
    #[expect(clippy::disallowed_methods, reason = "the one program that this one starts")]
    let mut sshd = Command::new(SSHD);
    sshd.args(["-i", "-e", "-o", &format!("HostKey=/{HOST_KEY_PATH}")]);
    sshd.args(OPTIONS.iter().flat_map(|option| ["-o", option]));
    if let Some(option) = set_env(&login::of_sessions()) {
        sshd.arg("-o").arg(option);
    }
    sshd.env_clear().env("PATH", login::DEFAULT_PATH);
    if is_emulated() {
        sshd.env("OPENSSL_ia32cap", "0x0:0");
    }
    let console = File::options().write(true).open("/dev/console")?;
    sshd.stdin(input).stdout(output).stderr(Stdio::from(console)).process_group(0);
    sshd.spawn().map(|child| child.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_says_so_reads_others() {
        for (main, expected) in [
            ("Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\n", true),
            ("  include  /etc/other/* /etc/ssh/sshd_config.d/*.conf\n", true),
            ("# Include /etc/ssh/sshd_config.d/*.conf\n", false),
            ("#Include /etc/ssh/sshd_config.d/*.conf\nInclude /etc/other/*.conf\n", false),
            ("", false),
        ] {
            assert_eq!(includes_more(main), expected, "{main}");
        }
    }

    #[test]
    fn a_value_that_some_sshd_would_misread_is_left_out() {
        for (value, expected) in
            [("", true), ("a b\t#c='d'; $e", true), ("a\"b", false), ("a\\", false), ("a\nPort 23", false)]
        {
            assert_eq!(fits_a_line(OsStr::new(value)), expected, "{value:?}");
        }
    }
}
