//! The API client against the fake, without a supervisor in between: what is sent, in which order, and what the fake refuses.
//! The last is as much a test of the fake: it must be as strict as Firecracker.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use banger_contract::record::Accel;
use banger_contract::{Coded, Document, ErrorCode};
use banger_fc::api::Configuration;
use banger_fc::client::{Client, RequestError};
use banger_fc::error::LaunchError;
use banger_fc::launch;
use banger_vmm::arch::FIRECRACKER_BOOT_LINE;
use banger_vmm::monitor::{self, Machine};
use serde_json::{Value, json};

use super::stage::{ID, Stage};
use crate::support;

const LIMIT: Duration = support::SOON;

/// A fake Firecracker started by the test, in the VM's directory. Ends with it.
struct Process {
    child: Child,
    pidfd: OwnedFd,
    dir: OwnedFd,
}

impl Process {
    fn start(stage: &Stage) -> Self {
        let mut command = support::command(stage.bin().join("firecracker"));
        command.args(["--api-sock", "api.sock", "--id", ID]).current_dir(stage.dir());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let dir = std::fs::File::open(stage.dir()).unwrap().into();
        Self { child, pidfd, dir }
    }

    fn connect(&self, limit: Duration) -> Result<Client, LaunchError> {
        let process = monitor::Process { pidfd: self.pidfd.as_fd(), dir: self.dir.as_fd() };
        launch::connect_when_there(process, "api.sock", Instant::now() + limit)
            .map(|stream| Client::new(stream, Instant::now() + LIMIT))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("the fake can be killed");
        self.child.wait().expect("the fake can be waited for");
    }
}

/// Starts a fake that behaves as `variables` say, and connects.
fn connected(variables: &[(&str, &str)]) -> (Stage, Process, Client) {
    let stage = Stage::new(variables);
    let process = Process::start(&stage);
    let client = process.connect(LIMIT).unwrap();
    (stage, process, client)
}

fn configuration(stage: &Stage, version: &str) -> Configuration {
    let document = Document::parse(stage.record.to_string().as_bytes()).unwrap();
    let net = document.required_net().unwrap();
    let tap = net.tap.clone().unwrap();
    let disk = document.required_disk().unwrap();
    Configuration::new(
        &Machine { vm: document.vm().unwrap(), net, disk, accel: Accel::Kvm },
        &tap,
        "metrics".into(),
        version,
    )
}

#[track_caller]
fn refused(client: &mut Client, path: &str, body: &Value) -> String {
    match client.put(path, body) {
        Err(RequestError::Refused { status: 400, fault, .. }) => fault,
        other => panic!("{path} with {body} should be refused: {other:?}"),
    }
}

#[test]
fn a_machine_is_described_in_firecrackers_order_and_words() {
    let (stage, _process, mut client) = connected(&[("DELAY_MS", "50")]);
    assert_eq!(launch::version(&mut client).unwrap(), "1.14.0");
    launch::configure(&mut client, &configuration(&stage, "1.14.0")).unwrap();
    launch::start(&mut client).unwrap();
    let requests = stage.requests();
    let names: Vec<_> = requests.iter().map(|(name, _)| name.as_str()).collect();
    let order = [
        "GET /version",
        "PUT /metrics",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/root",
        "PUT /drives/upper",
        "PUT /drives/work",
        "PUT /network-interfaces/eth0",
        "PUT /vsock",
        "PUT /entropy",
        "PUT /actions",
    ];
    assert_eq!(names, order);
    let body = |name: &str| requests.iter().find(|(n, _)| n == name).map(|(_, body)| body.clone()).unwrap();
    let disk = &stage.record["disk"];
    assert_eq!(body("PUT /machine-config"), json!({"vcpu_count": 2, "mem_size_mib": 512}));
    let boot = json!({"kernel_image_path": disk["kernel_elf"], "initrd_path": disk["initrd"], "boot_args": FIRECRACKER_BOOT_LINE});
    assert_eq!(body("PUT /boot-source"), boot);
    assert_eq!(body("PUT /metrics"), json!({"metrics_path": "metrics"}));
    let drive = |id: &str, path: &Value, read_only: bool| {
        json!({"drive_id": id, "path_on_host": path, "is_root_device": false, "is_read_only": read_only,
               "cache_type": "Unsafe", "io_engine": "Sync"})
    };
    assert_eq!(body("PUT /drives/root"), drive("root", &disk["root_device"], true));
    assert_eq!(body("PUT /drives/upper"), drive("upper", &disk["upper_device"], false));
    assert_eq!(body("PUT /drives/work"), drive("work", &disk["work_device"], false));
    let interface =
        json!({"iface_id": "eth0", "host_dev_name": format!("bgt{ID}"), "guest_mac": "02:42:0a:4d:00:02"});
    assert_eq!(body("PUT /network-interfaces/eth0"), interface);
    assert_eq!(body("PUT /vsock"), json!({"guest_cid": 42, "uds_path": "vsock.sock"}));
    let limit = json!({"bandwidth": {"size": 65536, "refill_time": 1000}});
    assert_eq!(body("PUT /entropy"), json!({ "rate_limiter": limit }));
    assert_eq!(body("PUT /actions"), json!({"action_type": "InstanceStart"}));
}

#[test]
fn the_mtu_is_told_to_a_firecracker_that_knows_of_it() {
    for (version, told) in
        [("1.14.0", Value::Null), ("1.15.3", Value::Null), ("1.16.0", json!(1400)), ("2.0.0", json!(1400))]
    {
        let (mut stage, _process, mut client) = connected(&[("VERSION", version)]);
        stage.record["vm"]["mtu"] = json!(1400);
        let said = launch::version(&mut client).unwrap();
        launch::configure(&mut client, &configuration(&stage, &said)).unwrap();
        let requests = stage.requests();
        let (_, body) = requests.iter().find(|(name, _)| name == "PUT /network-interfaces/eth0").unwrap();
        assert_eq!(body["mtu"], told, "{version}");
    }
}

#[test]
fn the_fake_is_as_strict_as_firecracker() {
    let (stage, _process, mut client) = connected(&[]);
    let c = &mut client;
    let fault = refused(c, "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 128, "ht": true}));
    assert!(fault.contains("unknown field `ht`"), "{fault}");
    let fault = refused(c, "/machine-config", &json!({"vcpu_count": "1", "mem_size_mib": 128}));
    assert!(fault.contains("invalid type"), "{fault}");
    refused(c, "/machine-config", &json!({"vcpu_count": 33, "mem_size_mib": 128}));
    let fault = refused(c, "/machine-config", &json!({"vcpu_count": 1}));
    assert!(fault.contains("missing field `mem_size_mib`"), "{fault}");
    let drive = json!({"drive_id": "ro-ot", "is_root_device": false});
    assert!(refused(c, "/drives/ro-ot", &drive).contains("alphanumeric"));
    let drive = json!({"drive_id": "b", "is_root_device": false});
    assert!(refused(c, "/drives/a", &drive).contains("does not match"));
    let drive = json!({"drive_id": "a", "is_root_device": false, "io_engine": "Aio"});
    assert!(refused(c, "/drives/a", &drive).contains("unknown variant"));
    let interface = json!({"iface_id": "eth0", "host_dev_name": "t", "mtu": 1500});
    let fault = refused(c, "/network-interfaces/eth0", &interface);
    assert!(fault.contains("unknown field `mtu`"), "mtu came with 1.16: {fault}");
    refused(c, "/vsock", &json!({"guest_cid": 2, "uds_path": "v"}));
    assert!(refused(c, "/nonsense", &json!({})).contains("Invalid request method and/or path"));
    assert!(refused(c, "/actions", &json!({"action_type": "InstanceStart"})).contains("without kernel"));
    assert!(refused(c, "/actions", &json!({"action_type": "SendCtrlAltDel"})).contains("before starting"));
    launch::configure(c, &configuration(&stage, "1.14.0")).unwrap();
    launch::start(c).unwrap();
    assert!(refused(c, "/entropy", &json!({})).contains("after starting"));
    assert!(refused(c, "/actions", &json!({"action_type": "InstanceStart"})).contains("after starting"));
}

#[test]
fn an_old_firecracker_is_refused_with_the_reason() {
    let (_stage, _process, mut client) = connected(&[("VERSION", "1.13.2")]);
    let error = launch::version(&mut client).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert_eq!(error.to_string(), "Firecracker 1.13.2 is too old: banger needs 1.14 or newer");
    for newer in ["1.17.0-dev", "2.0.0"] {
        let (_stage, _process, mut client) = connected(&[("VERSION", newer)]);
        assert!(launch::version(&mut client).is_ok(), "{newer}");
    }
}

#[test]
fn a_firecracker_that_ends_or_makes_no_socket_is_not_waited_for() {
    let stage = Stage::new(&[("EXIT", "socket=153:Arguments parsing error")]);
    let begun = Instant::now();
    let error = Process::start(&stage).connect(Duration::from_secs(60)).unwrap_err();
    assert!(matches!(error, LaunchError::Ended { .. }), "{error}");
    assert!(begun.elapsed() < support::SOON);
    stage.behave(&[("HANG", "socket")]);
    let error = Process::start(&stage).connect(Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
}

#[test]
fn a_stale_socket_of_another_firecracker_is_explained() {
    let stage = Stage::new(&[]);
    // Nobody listens: what a Firecracker that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(stage.dir().join("api.sock")).unwrap());
    let process = Process::start(&stage);
    let error = process.connect(LIMIT).unwrap_err();
    assert!(matches!(error, LaunchError::Ended { .. }), "{error}");
}
