//! The machine: what was configured, what the host must have for it, and the start.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::guest::Guest;
use crate::http::Request;
use crate::scenario::Scenario;
use crate::schema::Schema;

type Answer = (u16, Value);

/// One VM, configured request by request.
pub struct Machine {
    id: String,
    schema: Schema,
    scenario: Arc<Scenario>,
    running: bool,
    configuration: Value,
    /// The files that it holds open.
    files: Vec<File>,
    vsock: Option<(UnixListener, String)>,
    metrics: Option<File>,
}

fn refuse(words: impl std::fmt::Display) -> Answer {
    (400, json!({"fault_message": words.to_string()}))
}

fn done() -> Answer {
    (204, Value::Null)
}

impl Machine {
    pub fn new(id: String, scenario: Arc<Scenario>) -> Self {
        let schema = Schema::new(&scenario.version);
        let configuration = json!({"drives": {}, "network-interfaces": {}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 128}});
        Self {
            id,
            schema,
            scenario,
            running: false,
            configuration,
            files: Vec::new(),
            vsock: None,
            metrics: None,
        }
    }

    /// The status and the body of the reply.
    pub fn answer(&mut self, request: &Request) -> Answer {
        let Some(known) = self.schema.request(&request.method, &request.path) else {
            return refuse(format!(
                "Invalid request method and/or path: {} {}.",
                request.method, request.path
            ));
        };
        let (phase, definition, id) = (known.phase.to_owned(), known.body.map(str::to_owned), known.id);
        let Some(definition) = definition else {
            return if request.body.is_empty() {
                self.get(&request.path)
            } else {
                refuse("GET request cannot have a body.")
            };
        };
        if request.body.is_empty() {
            return refuse(format!("Empty {} request.", request.method));
        }
        if let Some((_, id)) = &id
            && !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            return refuse("API Resource IDs can only contain alphanumeric characters and underscores.");
        }
        let body = match serde_json::from_slice::<Value>(&request.body) {
            Ok(body) => body,
            Err(e) => {
                return refuse(format!(
                    "An error occurred when deserializing the json body of a request: {e}."
                ));
            }
        };
        if let Err(problem) = self.schema.check(&definition, &body) {
            return refuse(format!(
                "An error occurred when deserializing the json body of a request: {problem}."
            ));
        }
        if let Some((field, id)) = &id
            && body[field] != id.as_str()
        {
            return refuse("The id from the path does not match the id from the body!");
        }
        match (phase.as_str(), self.running) {
            ("before", true) => {
                refuse("The requested operation is not supported after starting the microVM.")
            }
            ("after", false) => {
                refuse("The requested operation is not supported before starting the microVM.")
            }
            _ => self.put(&request.path, id.map(|(_, id)| id).as_deref(), &body).unwrap_or_else(refuse),
        }
    }

    fn get(&self, path: &str) -> Answer {
        let version = &self.scenario.version;
        let state = if self.running { "Running" } else { "Not started" };
        let reply = match path {
            "/version" => json!({"firecracker_version": version}),
            "/" => json!({"app_name": "Firecracker", "id": self.id, "state": state, "vmm_version": version}),
            "/machine-config" => self.configuration["machine-config"].clone(),
            _ => self.configuration.clone(),
        };
        (200, reply)
    }

    fn put(&mut self, path: &str, id: Option<&str>, body: &Value) -> Result<Answer, String> {
        let text = |field: &str| body[field].as_str().map(str::to_owned);
        match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
            "actions" => return self.act(&text("action_type").unwrap_or_default()),
            "boot-source" => self.boot_source(text("kernel_image_path"), text("initrd_path"))?,
            // What is changed after the start keeps the rest of what it is.
            "drives" | "network-interfaces" if self.running => return self.change(path, id, body),
            "drives" => self.drive(text("path_on_host"), body["is_read_only"].as_bool())?,
            "network-interfaces" => network_interface(body)?,
            "metrics" => self.open_metrics(&text("metrics_path").unwrap_or_default())?,
            "vsock" => self.open_vsock(text("uds_path").unwrap_or_default())?,
            "machine-config"
                if body["smt"] == true
                    && body["vcpu_count"].as_u64().is_some_and(|n| n > 1 && n % 2 == 1) =>
            {
                return Err(
                    "Machine config error: The number of vCPUs must be 1 or an even number".to_owned()
                );
            }
            _ => {}
        }
        let slot = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match id {
            Some(id) => self.configuration[slot][id] = body.clone(),
            None => self.configuration[slot] = body.clone(),
        }
        Ok(done())
    }

    /// Firecracker opens kernel and initrd at once and reads them at the start.
    fn boot_source(&mut self, kernel: Option<String>, initrd: Option<String>) -> Result<(), String> {
        let open =
            |path: &str, what: &str| File::open(path).map_err(|e| format!("Boot source error: {what}: {e}"));
        if let Some(path) = kernel {
            self.files.push(open(&path, "The kernel file cannot be opened")?);
        }
        if let Some(path) = initrd {
            let what = "The initrd file cannot be opened due to invalid path or invalid permissions";
            self.files.push(open(&path, what)?);
        }
        Ok(())
    }

    fn drive(&mut self, path: Option<String>, read_only: Option<bool>) -> Result<(), String> {
        let prefix = "Drive config error: Unable to create the virtio block device";
        let (Some(path), Some(read_only)) = (path, read_only) else {
            return Err(format!("{prefix}: Virtio backend error: Cannot create config"));
        };
        let file = OpenOptions::new().read(true).write(!read_only).open(&path);
        self.files.push(file.map_err(|e| {
            format!("{prefix}: Virtio backend error: Error manipulating the backing file: {e} {path}")
        })?);
        Ok(())
    }

    /// `PATCH`: only what is there can be changed, and a larger file must be there.
    fn change(&mut self, path: &str, id: Option<&str>, body: &Value) -> Result<Answer, String> {
        let slot = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if self.configuration[slot][id.unwrap_or_default()].is_null() {
            return Err(format!("Unable to patch the device: invalid id {id:?}"));
        }
        if let Some(file) = body["path_on_host"].as_str() {
            self.drive(Some(file.to_owned()), Some(true))?;
        }
        Ok(done())
    }

    fn open_metrics(&mut self, path: &str) -> Result<(), String> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        self.metrics = Some(opened.map_err(|e| format!("Metrics error: {e}"))?);
        Ok(())
    }

    /// Firecracker tells what it counted since it last told.
    fn flush_metrics(&mut self) -> Result<Answer, String> {
        let drives = self.configuration["drives"].as_object().into_iter().flatten();
        let counted =
            drives.map(|(id, _)| (format!("block_{id}"), json!({"read_bytes": 100, "write_bytes": 10})));
        let mut report = Value::Object(counted.collect());
        report["utc_timestamp_ms"] = json!(1);
        report["block"] = json!({"read_bytes": 300, "write_bytes": 30, "flush_count": 0});
        if let Some(file) = &mut self.metrics {
            file.write_all(format!("{report}\n").as_bytes()).map_err(|e| e.to_string())?;
        }
        Ok(done())
    }

    fn open_vsock(&mut self, path: String) -> Result<(), String> {
        let prefix = "Vsock config error: Cannot create backend for vsock device";
        let listener = UnixListener::bind(&path);
        let listener =
            listener.map_err(|e| format!("{prefix}: Error binding to the host-side Unix socket: {e}"))?;
        self.vsock = Some((listener, path));
        Ok(())
    }

    fn act(&mut self, action: &str) -> Result<Answer, String> {
        match (action, self.running) {
            ("InstanceStart", true) => {
                Ok(refuse("The requested operation is not supported after starting the microVM."))
            }
            ("InstanceStart", false) => self.start().map(|()| done()),
            (_, false) => Ok(refuse("The requested operation is not supported before starting the microVM.")),
            ("FlushMetrics", true) => self.flush_metrics(),
            _ => Ok(done()),
        }
    }

    fn start(&mut self) -> Result<(), String> {
        if self.configuration["boot-source"].is_null() {
            return Err("Start microvm error: Cannot start microvm without kernel configuration.".to_owned());
        }
        let mut magic = [0; 4];
        let read = self.files.first_mut().map(|kernel| kernel.read_exact(&mut magic));
        if !matches!(read, Some(Ok(()))) || magic != *b"\x7fELF" {
            let words = "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Invalid Elf magic number";
            return Err(format!("Start microvm error: System configuration error: {words}"));
        }
        self.running = true;
        Ok(())
    }

    /// Lets the guest run, once the start has been answered.
    pub fn boot(&mut self) {
        if let Some((listener, path)) = self.vsock.take() {
            let boot_args = self.configuration["boot-source"]["boot_args"].as_str().unwrap_or_default();
            Guest::boot(listener, path, boot_args.to_owned(), Arc::clone(&self.scenario));
        }
    }
}

/// Whether the kernel would take the names; nothing is opened.
fn network_interface(body: &Value) -> Result<(), String> {
    let tap = body["host_dev_name"].as_str().unwrap_or_default();
    let prefix = "Network config error: Could not create the network device: Open tap device failed";
    if tap.is_empty() || tap.len() > 15 {
        return Err(format!("{prefix}: Invalid interface name"));
    }
    let mac = body["guest_mac"].as_str().unwrap_or("02:00:00:00:00:00");
    let octets: Vec<_> = mac.split(':').map(|o| (o.len(), u8::from_str_radix(o, 16))).collect();
    if octets.len() == 6 && octets.iter().all(|(length, octet)| *length == 2 && octet.is_ok()) {
        Ok(())
    } else {
        Err(format!(
            "An error occurred when deserializing the json body of a request: invalid MAC address {mac}."
        ))
    }
}
