//! What host and guest say to each other: the configuration in the initrd, the "ready" event, agent requests.
//!
//! Both sides treat the other's words as hostile: sizes are bounded by the constants here.
//!
//! # Initrd
//!
//! Two segments of uncompressed newc cpio, each 4-byte aligned. The kernel's, shared: [`INIT_PATH`] (banger-guest) and the
//! modules with [`MODULES_LIST`]. The VM's own: [`CONFIG_PATH`], [`FILES_PATH`] and [`DIGEST_PATH`].
//!
//! # Agent channel
//!
//! Lines of JSON, each at most [`MAX_LINE_BYTES`] with its newline. Over vsock a connection carries one exchange; the
//! virtio-serial port [`PORT_NAME`] has no connections, so a request carries a nonce and its reply repeats it: the host drops
//! every line that does not, which resynchronises after a restart of either side. The guest pushes one [`Event`] on the same
//! port (serial), or by connecting to the host's [`VSOCK_EVENT_PORT`] (vsock).
//!
//! # Commands
//!
//! The host runs commands in the guest over streams of their own, in the words of [`super::frames`]: over vsock a connection to
//! [`VSOCK_EXEC_PORT`] each, over virtio-serial one of [`EXEC_PORTS`] ports, which are named [`EXEC_PORT_PREFIX`] and a number from 0 on.
//! banger-guest serves them as a process of its own (`serve`) and says so when it is ready ([`Event::Ready`]). A guest that does not is
//! reached over SSH.
//!
//! A running guest holds banger-guest once more, at [`HELPER_PATH`]. `exec --nonce N -- COMMAND…` runs a command, waits for it
//! and then ends its own stdout with [`mark_start`] and `end\n`, its stderr with [`mark_start`] and how the command ended: `exit STATUS\n`
//! or `signal NUMBER\n`, with ` timeout` before the newline where `--timeout-ms` had passed. So the end is told from what background
//! processes still hold or write, and a status of 0 from none. `start -- COMMAND…` becomes the command, and says the same where it cannot.
//! `resync` is the second copy of a checkout: see [`super::resync`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// banger-guest in the initrd: PID 1.
pub const INIT_PATH: &str = "init";
/// The modules, one per line in the initrd: `NAME PATH [NAME…]`, the path in the initrd, then the modules that it needs. All of
/// these stand in earlier lines. banger-guest loads those that it has a device or a use for.
pub const MODULES_LIST: &str = "banger/modules.list";
/// The VM's [`GuestConfig`] as JSON in the initrd.
pub const CONFIG_PATH: &str = "banger/config.json";
/// A tar of files to lay over the mounted root, paths relative to `/`, in the initrd.
pub const FILES_PATH: &str = "banger/files.tar";
/// Lower-case hexadecimal SHA-256 over the bytes of the config followed by those of the tar, in the initrd.
pub const DIGEST_PATH: &str = "banger/digest";
/// The guest's SSH host key, relative to `/`: the tar of files brings it, and its public half beside it with `.pub`. No other key is
/// offered by the lean init.
pub const HOST_KEY_PATH: &str = "etc/ssh/ssh_host_ed25519_key";
/// The keys that may log in as root, relative to `/`: the tar of files brings them, mode 0600 below a directory of mode 0700.
pub const AUTHORIZED_KEYS_PATH: &str = "root/.ssh/authorized_keys";
/// banger-guest in the running guest, root's alone: it runs the host's commands.
pub const HELPER_PATH: &str = "/run/banger/guest";
/// The variables that commands get, in the running guest: `NAME=VALUE` and a NUL, each.
pub const ENVIRONMENT_PATH: &str = "/run/banger/environment";
/// The variables that commands get where neither the image nor the guest's /etc/environment sets them, in the same form.
pub const DEFAULTS_PATH: &str = "/run/banger/defaults";
/// Everything that the host trusts, PEM, for an image that has no such file itself, relative to `/`: the tar of files brings it where the
/// guest is to trust more than its image does.
pub const HOST_BUNDLE_PATH: &str = "run/banger/host-bundle.pem";
/// The variables that name the file with everything that is trusted: what OpenSSL, curl, Python's requests, pip, cargo and git read.
pub const BUNDLE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "GIT_SSL_CAINFO",
];
/// The one that names a file with what is trusted besides a list of its own: node's.
pub const EXTRA_VARIABLE: &str = "NODE_EXTRA_CA_CERTS";
/// The variables that name a proxy, and those that name who is asked without it, in both cases: programs read the one or the other.
pub const PROXY_VARIABLES: [&str; 4] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
/// See [`PROXY_VARIABLES`].
pub const NO_PROXY_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// The status where a command cannot be executed, as the shell's.
pub const NOT_EXECUTABLE_STATUS: u8 = 126;
/// The status where there is no such command, as the shell's.
pub const NO_SUCH_COMMAND_STATUS: u8 = 127;
/// How long a command that is over its time has between SIGTERM and SIGKILL.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(5);
/// The parameter on the kernel's command line that says how the guest ends its VMM: `banger.halt=poweroff` (QEMU, and the
/// default) or `banger.halt=reboot` (Firecracker on x86, with `reboot=k`).
pub const HALT_PARAMETER: &str = "banger.halt";
/// The largest per-VM segment, bytes.
pub const MAX_VM_SEGMENT_BYTES: u64 = 32 << 20;
/// The name of the virtio-serial port: `/sys/class/virtio-ports/*/name` in the guest.
pub const PORT_NAME: &str = "org.banger.agent";
/// How the names of the virtio-serial ports for commands begin; their number follows.
pub const EXEC_PORT_PREFIX: &str = "org.banger.exec.";
/// How many of them there are.
pub const EXEC_PORTS: usize = 4;
/// The vsock port on which commands are taken in the guest.
pub const VSOCK_EXEC_PORT: u32 = 1026;
/// The vsock port on which the agent listens in the guest.
pub const VSOCK_AGENT_PORT: u32 = 1024;
/// The vsock port on the host (CID 2) to which the guest pushes its events.
pub const VSOCK_EVENT_PORT: u32 = 1025;
/// `POST` of this and a number tells the guest that its VM is stopped in so many seconds.
pub const EXPIRES_PATH: &str = "/v1/expires/";
/// `POST` of this makes the guest grow its filesystems to the size of their disks.
pub const RESIZE_PATH: &str = "/v1/resize";
/// The longest line on the agent channel, newline included, bytes.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// What a mark of the exec with this nonce begins with.
pub fn mark_start(nonce: &str) -> String {
    format!("\x1ebanger:{nonce}:")
}

/// Everything a guest is told about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The VM's identifier.
    pub vm_id: String,
    /// The host name.
    pub hostname: String,
    /// `lean` or `systemd`.
    pub init: String,
    /// The variables that commands get: names that every shell takes, values without NUL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// UUID of the ext4 that is the root.
    pub root_uuid: String,
    /// UUID of the empty ext4 that takes the changes; `None`: the root itself is writable.
    pub upper_uuid: Option<String>,
    /// UUID of the ext4 that is mounted on /root.
    pub work_uuid: String,
    /// The guest's Ethernet address, by which it finds its interface.
    pub mac: String,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// The largest packet on the interface, bytes; `None`: the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The authorities that the guest is to trust besides those of its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ca: Vec<GuestCa>,
    /// Hexadecimal bytes to stir into the kernel's entropy pool.
    pub entropy_seed: String,
    /// The host's time when the VM was attached, seconds since the epoch: the guest's clock is never earlier.
    pub time_unix_s: u64,
}

/// An authority that the host trusts and its distribution does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestCa {
    /// Its certificate, PEM.
    pub pem: String,
    /// The SHA-256 of the certificate's DER, hexadecimal.
    pub sha256: String,
    /// What OpenSSL calls its subject in a directory of certificates.
    pub subject_hash: String,
}

/// A step of the guest's boot, on the guest's CLOCK_BOOTTIME.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStep {
    /// `kernel`, `initramfs`, `disks`, `network`, `sshd` or `ready`.
    pub step: String,
    /// Microseconds since the guest's boot.
    pub start_us: u64,
    /// Microseconds.
    pub duration_us: u64,
}

/// What the guest pushes to the host, unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Commands are taken: sshd, where the image has one, accepts connections.
    Ready {
        /// The guest's CLOCK_BOOTTIME at this moment, microseconds: with the host's it gives the offset of the clocks.
        now_us: u64,
        /// `uname -r`.
        kernel: String,
        /// What the boot cost.
        steps: Vec<GuestStep>,
        /// Whether commands are taken over streams of their own.
        #[serde(default)]
        exec: bool,
    },
    /// The boot cannot go on; the guest powers off.
    Failed {
        /// The step that failed.
        step: String,
        /// Why.
        message: String,
    },
}

/// A request of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRequest {
    /// Repeated in the reply.
    pub nonce: String,
    /// `GET` or `POST`.
    pub method: String,
    /// `/v1/healthz`, `/v1/stats`, `/v1/ports`, `/v1/shutdown`, [`RESIZE_PATH`], [`EXPIRES_PATH`] and a number.
    pub path: String,
}

/// The guest's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReply {
    /// The request's.
    pub nonce: String,
    /// An HTTP status.
    pub status: u16,
    /// The answer, or `{"error": "…"}`.
    pub body: serde_json::Value,
}
