//! The agent: pushes "ready", then answers the host.

use std::cell::Cell;

use serde_json::{Value, json};

use crate::channel::Channel;
use crate::clock::{Steps, now_us};
use crate::disks::Disk;
use crate::{halt, inspect, notice, serve};
use banger_protocol::guest::{AgentReply, AgentRequest, EXPIRES_PATH, Event, RESIZE_PATH};

/// What the agent knows of its VM.
pub struct Agent {
    /// `lean` or `systemd`.
    pub init: &'static str,
    /// The writable disks.
    pub disks: Vec<Disk>,
    /// Begins a shutdown.
    pub shut_down: fn() -> std::io::Result<()>,
}

impl Agent {
    /// Tells the host that the VM is ready, then answers it for ever. Returns only where the VM has no channel.
    pub fn run(self, mut steps: Steps) {
        let start_us = now_us();
        let mut channel = match Channel::open() {
            Ok(channel) => channel,
            Err(error) => return halt::say(&error.to_string()),
        };
        steps.add("ready", start_us);
        let exec = serve::has_streams();
        if exec {
            serve::keep();
        }
        let (kernel, steps) = (inspect::kernel(), steps.into_list());
        let event = Event::Ready { kernel, steps, now_us: now_us(), exec };
        if let Err(error) = channel.push(&event) {
            halt::say(&error.to_string());
        }
        // Begun when its reply is on its way: the VM may be gone a moment later.
        let stopping = Cell::new(false);
        let reply_to = |request: &AgentRequest| {
            let (status, body) = self.answer(request, &stopping);
            AgentReply { nonce: request.nonce.clone(), status, body }
        };
        let sent = || {
            if stopping.get()
                && let Err(error) = (self.shut_down)()
            {
                halt::say(&format!("cannot shut down: {error}"));
            }
        };
        channel.serve(reply_to, sent);
    }

    fn answer(&self, request: &AgentRequest, stopping: &Cell<bool>) -> (u16, Value) {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v1/healthz") => (200, self.health(stopping.get())),
            ("GET", "/v1/stats") => (200, inspect::stats(&self.disks)),
            ("GET", "/v1/ports") => (200, inspect::ports()),
            ("POST", RESIZE_PATH) => self.resize(),
            ("POST", "/v1/shutdown") => {
                stopping.set(true);
                (202, json!({ "state": "stopping" }))
            }
            ("POST", path) if path.starts_with(EXPIRES_PATH) => expires(&path[EXPIRES_PATH.len()..]),
            (_, "/v1/healthz" | "/v1/stats" | "/v1/ports" | "/v1/resize" | "/v1/shutdown") => {
                (405, json!({ "error": "that method is not for this path" }))
            }
            _ => (404, json!({ "error": "no such path" })),
        }
    }

    fn health(&self, stopping: bool) -> Value {
        json!({
            "state": if stopping { "stopping" } else { "running" },
            "init": self.init,
            "kernel": inspect::kernel(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_us": now_us(),
        })
    }

    fn resize(&self) -> (u16, Value) {
        let mut disks = Vec::new();
        for disk in &self.disks {
            match disk.grow() {
                Ok(growth) => disks.push(json!({
                    "mount": disk.mount, "from_bytes": growth.from_bytes, "to_bytes": growth.to_bytes
                })),
                Err(error) => return (500, json!({ "error": error.to_string() })),
            }
        }
        (200, json!({ "disks": disks }))
    }
}

/// Tells whoever works here that so many seconds are left.
fn expires(seconds: &str) -> (u16, Value) {
    match seconds.parse() {
        Ok(seconds) => {
            notice::expires(seconds);
            (200, json!({ "told": true }))
        }
        Err(_) => (400, json!({ "error": "that is not a number of seconds" })),
    }
}
