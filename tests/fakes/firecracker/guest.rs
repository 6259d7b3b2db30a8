//! The guest, played: it says "ready" and answers the agent's requests over Firecracker's vsock sockets.

use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::scenario::Scenario;

/// Where the agent listens in the guest, and where it tells its events on the host.
const AGENT_PORT: u32 = 1024;
const EVENT_PORT: u32 = 1025;
/// Sizes of a disk's filesystem before and after it grew, bytes: less and more than any disk of the tests has.
const SMALL: u64 = 1 << 10;
const LARGE: u64 = 1 << 50;

/// A running guest.
pub struct Guest {
    scenario: Arc<Scenario>,
    /// The vsock's socket on the host.
    path: String,
    boot_args: String,
    /// How often it was told to grow its filesystems.
    resizes: AtomicUsize,
}

impl Guest {
    /// Boots it beside the API.
    pub fn boot(listener: UnixListener, path: String, boot_args: String, scenario: Arc<Scenario>) {
        let guest = Arc::new(Self { scenario, path, boot_args, resizes: AtomicUsize::new(0) });
        let booting = Arc::clone(&guest);
        std::thread::spawn(move || booting.start_up());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let guest = Arc::clone(&guest);
                let stream = stream.expect("the vsock's socket accepts");
                std::thread::spawn(move || guest.connection(stream));
            }
        });
    }

    fn console(&self, text: &str) {
        if self.boot_args.split_whitespace().any(|word| word == "console=ttyS0") {
            drop(stdout().write_all(text.as_bytes()));
            drop(stdout().flush());
        }
    }

    /// The boot, up to the event that it ends with.
    fn start_up(&self) {
        self.console("[    0.000000] Linux version 6.1.0-fake\r\n\x1b[2Jbanger-guest: hello\r\n");
        self.scenario.perhaps("ready", None);
        match self.scenario.guest.as_str() {
            "silent" => {}
            "panic" => {
                self.console("[    1.000000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n");
                self.halt("panic");
            }
            "failed" => {
                self.push(&json!({"event": "failed", "step": "disks", "message": "no ext4 with that \u{1b}[2J UUID"}));
                self.halt("failed");
            }
            "garbage" => self.push_garbage(),
            _ => {
                let step =
                    |name: &str, start: u64| json!({"step": name, "start_us": start, "duration_us": 1000});
                let steps = [step("kernel", 0), step("disks", 1000), step("sshd", 2000)];
                self.push(&json!({"event": "ready", "now_us": 5000, "kernel": "6.1.0-fake", "steps": steps}));
            }
        }
    }

    /// Connects to CID 2: Firecracker finds the host's listener at `<uds_path>_<port>`.
    fn connect(&self) -> Option<UnixStream> {
        let stream = UnixStream::connect(format!("{}_{EVENT_PORT}", self.path)).ok();
        self.scenario.note(json!({"event_listener": stream.is_some()}));
        stream
    }

    fn push(&self, event: &Value) {
        if let Some(mut stream) = self.connect() {
            drop(stream.write_all(format!("{event}\n").as_bytes()));
        }
    }

    /// A hostile guest: bytes without end and without a newline.
    fn push_garbage(&self) {
        if let Some(mut stream) = self.connect() {
            while stream.write_all(&[b'\xff'; 4096]).is_ok() {}
            self.scenario.note(json!({"garbage": "refused"}));
        }
    }

    /// A connection of the host's: `CONNECT <port>` in one write, then the agent's line.
    fn connection(&self, mut stream: UnixStream) {
        drop(stream.set_read_timeout(Some(Duration::from_secs(10))));
        let mut request = [0; 32];
        let Ok(n) = stream.read(&mut request) else { return };
        let line = String::from_utf8_lossy(&request[..n]).into_owned();
        let port =
            line.strip_prefix("CONNECT ").and_then(|l| l.strip_suffix('\n')).and_then(|p| p.parse().ok());
        let listens = port == Some(AGENT_PORT) && self.scenario.guest != "silent";
        self.scenario.note(json!({"connect": line, "listens": listens}));
        if !listens {
            // No listener in the guest shows as an end of file.
            return;
        }
        if stream.write_all(b"OK 1073741824\n").is_err() || self.scenario.guest == "deaf" {
            drop(stream.read(&mut [0]));
            return;
        }
        let mut line = String::new();
        let Ok(clone) = stream.try_clone() else { return };
        if BufReader::new(clone.take(64 << 10)).read_line(&mut line).is_ok() {
            self.agent(&mut stream, &line);
        }
    }

    fn agent(&self, stream: &mut UnixStream, line: &str) {
        let request: Value = serde_json::from_str(line).unwrap_or_default();
        self.scenario.note(json!({"agent": request}));
        let path = request["path"].as_str().unwrap_or_default();
        let method = request["method"].as_str().unwrap_or_default();
        let (status, body) = match (method, path) {
            ("GET", "/v1/healthz") => (200, json!({"ok": true})),
            ("GET", "/v1/stats") => (200, json!({"memory_total_bytes": 1 << 29})),
            ("GET", "/v1/ports") => (200, json!({"items": []})),
            ("POST", "/v1/shutdown") => (200, json!({"ok": true})),
            ("POST", "/v1/resize") => {
                let (from, to) = match self.resizes.fetch_add(1, Ordering::Relaxed) {
                    // Its kernel has not heard of it yet.
                    0 => (SMALL, SMALL),
                    1 => (SMALL, LARGE),
                    _ => (LARGE, LARGE),
                };
                (200, json!({"disks": [{"mount": "/root", "from_bytes": from, "to_bytes": to}]}))
            }
            ("POST", path) if path.starts_with("/v1/expires/") => (200, json!({"told": true})),
            _ => (404, json!({"error": "no such thing"})),
        };
        let reply = json!({"nonce": request["nonce"], "status": status, "body": body});
        drop(stream.write_all(format!("{reply}\n").as_bytes()));
        if path == "/v1/shutdown" && self.scenario.guest != "stubborn" {
            self.halt("shutdown");
        }
    }

    /// The guest halts. On x86 only a reboot through the keyboard controller ends Firecracker (#598): banger-guest reboots
    /// where it is told to, and the kernel does it so where it is told to.
    fn halt(&self, why: &str) {
        self.console("reboot: Restarting system\r\n");
        let told = |wanted: &str| self.boot_args.split_whitespace().any(|word| word == wanted);
        if told("banger.halt=reboot") && told("reboot=k") && told("panic=1") {
            self.scenario.note(json!({"halt": why}));
            self.scenario.die(0, "");
        }
        self.scenario.note(json!({"halted_for_ever": why}));
    }
}
