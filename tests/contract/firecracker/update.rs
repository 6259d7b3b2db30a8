//! What a VM under `banger-fc` uses, and what of it is changed while it runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::stage::{ACCEL, Stage, assert_changed};
use crate::support;

fn start(stage: &Stage) -> Value {
    assert_changed(&stage.run(&["start", ACCEL, "kvm"], &stage.record), true)
}

/// The bodies of the requests of this name, in their order.
fn bodies(stage: &Stage, name: &str) -> Vec<Value> {
    stage.requests().into_iter().filter(|(request, _)| request == name).map(|(_, body)| body).collect()
}

#[test]
fn the_disks_are_counted_from_the_start() {
    let stage = Stage::new(&[]);
    let started = start(&stage);
    // Firecracker tells each time what came since the last.
    for sum in [100, 200, 300] {
        let usage = support::record(&stage.run(&["stats"], &started));
        let work = json!({ "drive": "work", "read_bytes": sum, "written_bytes": sum / 10 });
        assert!(usage["disks"].as_array().unwrap().contains(&work), "{usage}");
        assert_eq!(usage["disks"].as_array().unwrap().len(), 3, "{usage}");
    }
    assert_changed(&stage.run(&["kill"], &started), true);
}

#[test]
fn limits_are_set_at_the_start() {
    let mut stage = Stage::new(&[]);
    stage.record["vm"]["disk_rate_bytes_s"] = json!(1 << 20);
    stage.record["vm"]["net_rate_bytes_s"] = json!(1 << 16);
    let started = start(&stage);
    let limit = |bytes: u64| json!({ "bandwidth": { "size": bytes, "refill_time": 1000 } });
    for drive in ["root", "upper", "work"] {
        assert_eq!(bodies(&stage, &format!("PUT /drives/{drive}"))[0]["rate_limiter"], limit(1 << 20));
    }
    let interface = &bodies(&stage, "PUT /network-interfaces/eth0")[0];
    assert_eq!(
        (&interface["rx_rate_limiter"], &interface["tx_rate_limiter"]),
        (&limit(1 << 16), &limit(1 << 16))
    );
    assert_eq!(started["vmm"]["disk_rate_bytes_s"], 1 << 20);
    assert_changed(&stage.run(&["kill"], &started), true);
}

#[test]
fn a_running_vm_is_made_what_its_record_says() {
    let stage = Stage::new(&[]);
    let mut started = start(&stage);
    started["vm"]["disk_rate_bytes_s"] = json!(1 << 20);
    started["vm"]["net_rate_bytes_s"] = json!(1 << 16);
    let updated = assert_changed(&stage.run(&["update"], &started), true);
    assert_eq!(updated["vmm"]["net_rate_bytes_s"], 1 << 16);
    let limit = |bytes: u64, ms: u64| json!({ "bandwidth": { "size": bytes, "refill_time": ms } });
    assert_eq!(
        bodies(&stage, "PATCH /drives/root"),
        [json!({ "drive_id": "root", "rate_limiter": limit(1 << 20, 1000) })],
        "the image is not opened again"
    );
    let work = &stage.record["disk"]["work_device"];
    assert!(
        bodies(&stage, "PATCH /drives/work").contains(&json!({ "drive_id": "work", "path_on_host": work }))
    );
    let net = &bodies(&stage, "PATCH /network-interfaces/eth0")[0];
    assert_eq!(net["tx_rate_limiter"], limit(1 << 16, 1000));
    // At first its kernel has not seen the new size.
    let resizes = || stage.events().iter().filter(|e| e["agent"]["path"] == "/v1/resize").count();
    assert_eq!(resizes(), 2);
    // The second time there is nothing to do.
    let again = assert_changed(&stage.run(&["update"], &updated), false);
    assert_eq!(again["vmm"], updated["vmm"]);
    assert_eq!(bodies(&stage, "PATCH /network-interfaces/eth0").len(), 1);
    assert_eq!(resizes(), 3);
    let mut unlimited = again;
    unlimited["vm"]["net_rate_bytes_s"] = Value::Null;
    let unlimited = assert_changed(&stage.run(&["update"], &unlimited), true);
    assert_eq!(bodies(&stage, "PATCH /network-interfaces/eth0")[1]["rx_rate_limiter"], limit(0, 0));

    let killed = assert_changed(&stage.run(&["kill"], &unlimited), true);
    support::assert_error(&stage.run(&["update"], &unlimited), 1, "vm-stopped");
    support::assert_error(&stage.run(&["update"], &killed), 1, "vm-stopped");
}

#[test]
fn a_refused_change_is_told() {
    let stage = Stage::new(&[("FAIL", "PATCH /drives/work=400:Unable to patch the block device")]);
    let mut started = start(&stage);
    started["vm"]["disk_rate_bytes_s"] = json!(1 << 20);
    let error = support::assert_error(&stage.run(&["update"], &started), 1, "failed");
    assert!(error.to_string().contains("Unable to patch the block device"), "{error}");
    assert_changed(&stage.run(&["kill"], &started), true);
}

#[test]
fn the_time_to_live_is_counted_anew_and_the_guest_is_warned() {
    let mut stage = Stage::new(&[]);
    stage.record["vm"]["ttl_s"] = json!(3600);
    let started = start(&stage);
    let until =
        |record: &Value| record["vmm"]["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let left = until(&started).duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3500..=3600).contains(&left), "{left}");
    let never = assert_changed(&stage.run(&["update", "--ttl", "never"], &started), true);
    assert_eq!(never["vmm"]["expires_at"], Value::Null);
    support::assert_error(&stage.run(&["update", "--ttl", "soon"], &never), 2, "usage");
    let begun = Instant::now();
    let short = assert_changed(&stage.run(&["update", "--ttl", "11"], &never), true);
    assert!(until(&short) > jiff::Timestamp::now());
    while support::record(&stage.run(&["status"], &short))["vmm"]["state"] == "running" {
        assert!(begun.elapsed() < Duration::from_secs(90), "it outlives its time");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begun.elapsed() >= Duration::from_secs(11));
    let status = support::record(&stage.run(&["status"], &short));
    assert_eq!(status["vmm"]["exit"]["reason"], "ttl", "{status}");
    let told: Vec<_> =
        stage.events().iter().filter_map(|e| e["agent"]["path"].as_str().map(str::to_owned)).collect();
    // As many seconds as were left when it was told: ten, or fewer on a busy machine.
    assert!(told.iter().any(|path| path.starts_with("/v1/expires/")), "{told:?}");
}
