//! `--setup`: installs what this host lacks, through its own package manager. Giving the option is the consent.

mod patience;

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::{Exec, ExecError, find_program};
use patience::Patience;
use thiserror::Error;

use crate::context::{Context, ContextError, Result};
use crate::sys::package_lock::{self, PackageLock};

/// How long an installation may take.
const DEADLINE: Duration = Duration::from_secs(1800);

/// A program that the main job needs, or by its path another file, and the package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    pub program: &'static str,
    /// What for, for `doctor`.
    pub purpose: &'static str,
    /// Whether the main job fails without it.
    pub required: bool,
    /// Package names for apt, dnf, pacman and zypper; `None` where the distribution has none.
    packages: [Option<&'static str>; 4],
}

/// QEMU's emulator of this machine.
const QEMU: &str = if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
/// Its packages.
const QEMU_PACKAGES: [Option<&str>; 4] = if cfg!(target_arch = "aarch64") {
    [Some("qemu-system-arm"), Some("qemu-system-aarch64-core"), Some("qemu-system-aarch64"), Some("qemu-arm")]
} else {
    [Some("qemu-system-x86"), Some("qemu-system-x86-core"), Some("qemu-system-x86"), Some("qemu-x86")]
};

/// Everything that banger runs on the host.
pub const NEEDED: [Needed; 9] = [
    Needed {
        program: QEMU,
        purpose: "runs VMs where there is no Firecracker or no KVM",
        required: true,
        packages: QEMU_PACKAGES,
    },
    Needed {
        program: "mmdebstrap",
        purpose: "builds images",
        required: true,
        packages: [Some("mmdebstrap"), Some("mmdebstrap"), None, Some("mmdebstrap")],
    },
    Needed {
        program: "mount",
        purpose: "builds images",
        required: true,
        packages: [Some("mount"), Some("util-linux"), Some("util-linux"), Some("util-linux")],
    },
    Needed { program: "mke2fs", purpose: "makes disks", required: true, packages: [Some("e2fsprogs"); 4] },
    Needed {
        program: "git",
        purpose: "reads the checkout",
        required: true,
        packages: [Some("git"), Some("git-core"), Some("git"), Some("git")],
    },
    Needed {
        program: "ssh",
        purpose: "banger vm ssh",
        required: false,
        packages: [Some("openssh-client"), Some("openssh-clients"), Some("openssh"), Some("openssh-clients")],
    },
    Needed {
        program: "nft",
        purpose: "guards and masquerades taps (root)",
        required: false,
        packages: [Some("nftables"); 4],
    },
    Needed {
        program: "ip",
        purpose: "makes bridges (root)",
        required: false,
        packages: [Some("iproute2"), Some("iproute"), Some("iproute2"), Some("iproute2")],
    },
    Needed {
        program: "newuidmap",
        purpose: "builds images without root",
        required: false,
        packages: [Some("uidmap"), Some("shadow-utils"), Some("shadow"), Some("shadow")],
    },
];

/// What images of Ubuntu need besides.
pub const UBUNTU_KEYS: Needed = Needed {
    program: "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    purpose: "builds Ubuntu images",
    required: true,
    packages: [Some("ubuntu-archive-keyring"), Some("ubu-keyring"), Some("ubuntu-keyring"), None],
};

/// A package manager and how it installs.
struct Manager {
    program: &'static str,
    /// Its column in [`Needed::packages`].
    column: usize,
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    locks: &'static [PackageLock<'static>],
}

const MANAGERS: [Manager; 4] = [
    Manager {
        program: "apt-get",
        column: 0,
        refresh: Some(&["update", "-q"]),
        install: &["install", "-y", "-q", "--no-install-recommends"],
        locks: package_lock::APT,
    },
    Manager {
        program: "dnf",
        column: 1,
        refresh: None,
        install: &["install", "-y", "-q"],
        locks: package_lock::DNF,
    },
    Manager {
        program: "pacman",
        column: 2,
        refresh: None,
        install: &["-Sy", "--needed", "--noconfirm"],
        locks: package_lock::PACMAN,
    },
    Manager {
        program: "zypper",
        column: 3,
        refresh: None,
        install: &["--non-interactive", "install"],
        locks: package_lock::ZYPPER,
    },
];

/// Why nothing was installed.
#[derive(Debug, Error)]
pub enum SetupError {
    #[error("this host lacks {0}, and has none of apt-get, dnf, pacman and zypper")]
    NoManager(String),
    #[error("this host lacks {0}, for which {1} has no package")]
    NoPackage(String, &'static str),
    #[error(
        "installing needs root, and sudo cannot be asked: it is not there, or there is no terminal for its password"
    )]
    NeedsRoot(String),
    #[error("installing {0} failed")]
    Install(String, #[source] ExecError),
    #[error("waited {waited_s} s for {holder}")]
    Locked { holder: String, pid: Option<i32>, waited_s: u64 },
    #[error("{0} is still not there after the installation")]
    StillMissing(String),
}

impl Coded for SetupError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoManager(_) | Self::NoPackage(..) => ErrorCode::Unsupported,
            Self::NeedsRoot(_) => ErrorCode::Denied,
            Self::Locked { .. } => ErrorCode::Busy,
            Self::Install(..) | Self::StillMissing(_) => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NeedsRoot(command) => Some(format!("have somebody run: {command}")),
            Self::Locked { pid: Some(pid), .. } => {
                Some(format!("see what it does with ps -fp {pid}, and try again when it has ended"))
            }
            Self::Locked { .. } => Some("try again when it has ended".into()),
            _ => Some("install them by hand and try again; banger doctor lists them".into()),
        }
    }
}

impl Needed {
    fn is_there(&self) -> bool {
        match self.program.starts_with('/') {
            true => Path::new(self.program).exists(),
            false => find_program(self.program.as_ref()).is_some(),
        }
    }
}

/// The needed programs that are not there. Without root, taps are out of reach and so is what only they need.
pub fn missing() -> Vec<Needed> {
    let root = rustix::process::geteuid().is_root();
    let useful = |needed: &&Needed| match needed.program {
        "nft" | "ip" => root,
        "newuidmap" => !root,
        _ => true,
    };
    NEEDED.iter().filter(useful).filter(|needed| !needed.is_there()).copied().collect()
}

/// Installs what is missing, `besides` as well, and says so.
pub fn install(context: &Context, besides: &[Needed]) -> Result<()> {
    let mut missing = missing();
    missing.extend(besides.iter().filter(|needed| !needed.is_there()));
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|needed| needed.program).collect::<Vec<_>>().join(", ");
    let manager = MANAGERS.iter().find(|manager| find_program(manager.program.as_ref()).is_some());
    let manager = manager.ok_or_else(|| SetupError::NoManager(names.clone()))?;
    let mut packages = Vec::new();
    for needed in &missing {
        match needed.packages[manager.column] {
            Some(package) => packages.push(package),
            None if needed.required => {
                return Err(SetupError::NoPackage(needed.program.into(), manager.program).into());
            }
            None => {}
        }
    }
    let root = Root::find(manager, &packages)?;
    context.say(format!("installing {} with {}", packages.join(" "), manager.program));
    let say = |line: String| context.say(line);
    let pause = |time: Duration| -> Result<()> {
        match context.interrupts()?.pause(time) {
            Some(signal) => Err(ContextError::Interrupted(signal).into()),
            None => Ok(()),
        }
    };
    let mut patience = Patience::new(manager.locks, &say, &pause);
    patience.wait_for_locks()?;
    while let Err(failed) = root.attempt(context, manager, &packages) {
        if !patience.wants_another_try(&failed.complaints)? {
            return Err(SetupError::Install(packages.join(" "), failed.error).into());
        }
        patience.wait_for_locks()?;
    }
    match missing.iter().find(|needed| needed.required && !needed.is_there()) {
        Some(needed) => Err(SetupError::StillMissing(needed.program.into()).into()),
        None => Ok(()),
    }
}

/// An attempt at installing that failed.
struct Attempt {
    error: ExecError,
    /// All that the package manager complained of, lines joined by "; ".
    complaints: String,
}

/// apt removes what conflicts with a new package; nobody should learn that afterwards.
fn warn_of_removals(context: &Context, manager: &Manager, packages: &[&str]) {
    if manager.program != "apt-get" {
        return;
    }
    let simulated =
        Exec::new("apt-get").args(["install", "-s", "-q", "--no-install-recommends"]).args(packages).run();
    let text = simulated.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let removed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next()).collect();
    if !removed.is_empty() {
        context.say(format!("apt-get will remove {}, which conflicts with them", removed.join(" ")));
    }
}

/// How to become root.
enum Root {
    Already,
    Sudo,
    /// sudo will ask for a password, on the terminal itself.
    SudoAsks,
}

impl Root {
    fn find(manager: &Manager, packages: &[&str]) -> std::result::Result<Self, SetupError> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Already);
        }
        if Exec::new("sudo").args(["-n", "true"]).run().is_ok() {
            return Ok(Self::Sudo);
        }
        if find_program("sudo".as_ref()).is_some() && io::stdin().is_terminal() && io::stderr().is_terminal()
        {
            return Ok(Self::SudoAsks);
        }
        let sudo = |words: &[&str]| format!("sudo {} {}", manager.program, words.join(" "));
        let refresh = manager.refresh.map(|words| sudo(words) + " && ").unwrap_or_default();
        Err(SetupError::NeedsRoot(refresh + &sudo(&[manager.install, packages].concat())))
    }

    /// Refreshes what the package manager knows of the archive and installs `packages`.
    fn attempt(
        &self,
        context: &Context,
        manager: &Manager,
        packages: &[&str],
    ) -> std::result::Result<(), Attempt> {
        // `apt-get update` succeeds without a network, too; what it then warns of tells why a package is not to be found.
        let mut complaints = String::new();
        if let Some(refresh) = manager.refresh {
            self.run(manager.program, refresh, &mut complaints)?;
        }
        warn_of_removals(context, manager, packages);
        let words: Vec<&str> = manager.install.iter().chain(packages).copied().collect();
        self.run(manager.program, &words, &mut complaints)
    }

    fn run(
        &self,
        program: &str,
        words: &[&str],
        complaints: &mut String,
    ) -> std::result::Result<(), Attempt> {
        // The variables keep debconf from asking and the messages in English; env(1) carries them through sudo.
        let quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", program];
        let exec = match self {
            Self::Already => Exec::new("env").args(&quiet[1..]),
            Self::Sudo => Exec::new("sudo").arg("-n").args(quiet),
            Self::SudoAsks => Exec::new("sudo").args(quiet),
        };
        let error = match exec.args(words).deadline(DEADLINE).output() {
            Ok(output) => {
                complaints.push_str(&output.stderr);
                complaints.push_str("; ");
                if output.status.success() {
                    return Ok(());
                }
                let argv = format!("{program} {}", words.join(" "));
                ExecError::Status { argv, status: output.status, stderr: output.stderr }
            }
            Err(error) => error,
        };
        Err(Attempt { error, complaints: std::mem::take(complaints) })
    }
}

/// The command that installs what is missing here, for `doctor`.
pub fn command_line(missing: &[Needed]) -> Option<String> {
    let manager = MANAGERS.iter().find(|manager| find_program(OsStr::new(manager.program)).is_some())?;
    let packages = missing.iter().filter_map(|needed| needed.packages[manager.column]).collect::<Vec<_>>();
    Some([&[manager.program], manager.install, &packages[..]].concat().join(" "))
}
