//! Root's login shell, as sshd starts it for a command, and this program where it is the command itself.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use crate::sys;
use banger_protocol::guest::{DEFAULTS_PATH, ENVIRONMENT_PATH, HELPER_PATH};

/// Where programs are looked for if nobody says: what Debian's sshd gives to root.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell if nobody says.
const DEFAULT_SHELL: &str = "/bin/sh";

/// What /etc/passwd says of root.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    home: String,
    shell: String,
}

impl Account {
    fn of(passwd: &str) -> Self {
        let line = passwd.lines().find(|line| line.split(':').nth(2) == Some("0")).unwrap_or_default();
        let field = |at: usize, or: &str| {
            line.split(':').nth(at).filter(|field| field.starts_with('/')).unwrap_or(or).to_owned()
        };
        Self { home: field(5, "/root"), shell: field(6, DEFAULT_SHELL) }
    }

    fn read() -> Self {
        Self::of(&fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// The shell, which finds its own name as its first argument.
    fn shell(&self) -> Command {
        let shell = shell_of(self);
        #[expect(
            clippy::disallowed_methods,
            reason = "the host's command: the guest has no deadlines of ours"
        )]
        let mut command = Command::new(shell);
        command.arg0(shell.file_name().unwrap_or(shell.as_os_str()));
        command
    }

    /// The environment; what comes later wins.
    fn variables(&self) -> Vec<(OsString, OsString)> {
        let shell = shell_of(self).as_os_str();
        let mut all = vec![("PATH".into(), DEFAULT_PATH.into())];
        all.extend(read(DEFAULTS_PATH));
        all.extend(of_system().into_iter().map(|(name, value)| (name.into(), value.into())));
        all.extend(of_image());
        all.extend([("HOME".into(), self.home.clone().into()), ("SHELL".into(), shell.into())]);
        all.extend(["USER", "LOGNAME"].map(|name| (name.into(), "root".into())));
        all
    }
}

/// The variables of /etc/environment: `NAME=value`, the value perhaps in quotes, as pam_env(8) reads it.
fn variables(text: &str) -> Vec<(String, String)> {
    let variable = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        is_name(name).then(|| (name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(variable).collect()
}

/// The variables of the guest's own file.
fn of_system() -> Vec<(String, String)> {
    variables(&fs::read_to_string("/etc/environment").unwrap_or_default())
}

/// The image's variables, as [`ENVIRONMENT_PATH`] has them.
fn of_image() -> Vec<(OsString, OsString)> {
    read(ENVIRONMENT_PATH)
}

/// The variables that sessions of an sshd get: what is set there cannot be set otherwise, so that a default which the guest's own file
/// sets is not among them.
pub fn of_sessions() -> Vec<(OsString, OsString)> {
    let (of_image, of_system) = (of_image(), of_system());
    let is_set = |name: &OsString| {
        of_image.iter().any(|(other, _)| other == name)
            || of_system.iter().any(|(other, _)| name == other.as_str())
    };
    let defaults: Vec<_> = read(DEFAULTS_PATH).into_iter().filter(|(name, _)| !is_set(name)).collect();
    [defaults, of_image].concat()
}

/// Variables as one of our own files has them.
fn read(path: &str) -> Vec<(OsString, OsString)> {
    let bytes = fs::read(path).unwrap_or_default();
    let variables = bytes.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        Some((text(&variable[..at]), text(&variable[at + 1..])))
    });
    variables.collect()
}

/// The streams of a command.
pub struct Streams {
    /// A socket, as sshd's is: it is what makes bash read root's ~/.bashrc.
    pub input: OwnedFd,
    /// Its stdout.
    pub output: OwnedFd,
    /// Its stderr.
    pub errors: OwnedFd,
}

/// Starts the shell with `line` in a session of its own.
pub fn start(line: &[u8], streams: Streams) -> io::Result<Child> {
    let account = Account::read();
    let mut command = account.shell();
    command.arg("-c").arg(OsStr::from_bytes(line));
    begin(command, &account, streams)
}

/// Starts this program itself with the arguments `line`, each with a NUL behind it, in a session of its own: without the shell, unless it
/// takes that to find git.
pub fn start_own(line: &[u8], streams: Streams) -> io::Result<Child> {
    let account = Account::read();
    let variables = account.variables();
    let path = variables.iter().rfind(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let mut directories = std::env::split_paths(path.unwrap_or_default());
    let mut command = if directories.any(|directory| directory.join("git").is_file()) {
        #[expect(clippy::disallowed_methods, reason = "this very program, once more")]
        Command::new(HELPER_PATH)
    } else {
        let mut shell = account.shell();
        shell.args(["-c", "exec \"$0\" \"$@\"", HELPER_PATH]);
        shell
    };
    let args = line.strip_suffix(b"\0").unwrap_or(line).split(|byte| *byte == 0);
    command.args(args.map(OsStr::from_bytes));
    begin(command, &account, streams)
}

fn begin(mut command: Command, account: &Account, streams: Streams) -> io::Result<Child> {
    command.env_clear().envs(account.variables());
    let home = Path::new(&account.home);
    command.current_dir(if home.is_dir() { home } else { Path::new("/") });
    command.stdin(streams.input).stdout(streams.output).stderr(streams.errors);
    sys::begin_session(&mut command);
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let shell = shell_of(account).display();
            io::Error::other(format!("the image has no {shell}, and commands need a shell"))
        }
        _ => error,
    };
    command.spawn().map_err(missing)
}

/// Root's shell, or the one that every system has where root has none to work with, as in images that are hardened.
fn shell_of(account: &Account) -> &Path {
    let own = Path::new(&account.shell);
    let refuses = ["nologin", "false"].iter().any(|name| own.ends_with(name));
    if own.is_file() && !refuses { own } else { Path::new(DEFAULT_SHELL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_who_has_the_number_0() {
        let account = Account::of("daemon:x:1:1::/d:/bin/false\nroot:x:0:0:root:/home/r:/bin/bash\n");
        assert_eq!(account, Account { home: "/home/r".into(), shell: "/bin/bash".into() });
        let default = Account { home: "/root".into(), shell: "/bin/sh".into() };
        assert_eq!((Account::of("root:x:0:0:::\n"), Account::of("")), (default, Account::of("x")));
    }

    #[test]
    fn a_shell_that_refuses_to_work_is_none() {
        let shell = |shell: &str| shell_of(&Account { home: "/".into(), shell: shell.into() }).to_owned();
        assert_eq!(shell("/proc/self/exe"), Path::new("/proc/self/exe"));
        for none in ["/nonexistent/zsh", "/bin/false", "/usr/sbin/nologin", "/tmp"] {
            assert_eq!(shell(none), Path::new("/bin/sh"), "{none}");
        }
    }

    #[test]
    fn the_environment_is_read_as_pam_does() {
        let text = "# PATH=/no\nPATH=\"/a:/b\"\nexport LANG='C'\n A_1=x=y\nno variable\nB C=1\n=x\n";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(variables(text), [pair("PATH", "/a:/b"), pair("LANG", "C"), pair("A_1", "x=y")]);
    }
}
