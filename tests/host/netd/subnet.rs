//! Which subnet `banger vm plan` takes on a host that has networks of its own, and that `banger-netd` takes it, too.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::{ip, isolated, ok};
use crate::support::{assert_error, command, record, run, state_with_fake_image};

fn banger(state: &Path, args: &[&str]) -> Output {
    let mut command = command(env!("CARGO_BIN_EXE_banger"));
    run(command.arg("--state-dir").arg(state).args(["--json"]).args(args).env_remove("BANGER_SUBNET"), b"")
}

fn plan(state: &Path, name: &str, args: &[&str]) -> Output {
    banger(state, &[&["vm", "plan", name, "--image", "debian", "--net", "tap"], args].concat())
}

/// The record of a VM that can be planned.
#[track_caller]
fn planned(state: &Path, name: &str, args: &[&str]) -> Value {
    let output = plan(state, name, args);
    assert!(output.status.success(), "{}", record(&output));
    record(&output)
}

fn gateway(document: &Value) -> &str {
    document["vm"]["gateway"].as_str().expect("an address")
}

#[test]
fn the_next_subnet_is_taken_where_one_overlaps() {
    isolated("netd::subnet::the_next_subnet_is_taken_where_one_overlaps", || {
        ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
        ip(&["link", "set", "lan0", "up"]);
        let state = state_with_fake_image();
        let first = planned(state.path(), "one", &[]);
        assert!(gateway(&first).starts_with("10.213."), "{first}");
        ok("detach", &ok("attach", &first));
        assert!(banger(state.path(), &["vm", "delete", "one"]).status.success());
        // A network that came later, also one whose link is down; then a whole /8, as VPNs have it.
        ip(&["address", "add", &format!("{}/24", gateway(&first)), "dev", "lan1"]);
        let second = planned(state.path(), "two", &[]);
        assert!(gateway(&second).starts_with("10.213.") && gateway(&second) != gateway(&first), "{second}");
        ip(&["route", "add", "10.0.0.0/8", "dev", "lan0"]);
        // As long as a VM has an address of it, it stays; attach says what is wrong, and so does doctor.
        assert_eq!(gateway(&planned(state.path(), "three", &[])), gateway(&second));
        assert_error(&super::netd("attach", &second), 1, "conflict");
        let checks = record(&banger(state.path(), &["doctor"]));
        let check =
            checks["items"].as_array().expect("a list").iter().find(|check| check["name"] == "subnet");
        assert!(
            check.is_some_and(|c| c["detail"].to_string().contains("overlaps 10.0.0.0/8 of lan0")),
            "{checks}"
        );
        for name in ["two", "three"] {
            assert!(banger(state.path(), &["vm", "delete", name]).status.success());
        }
        let third = planned(state.path(), "four", &[]);
        assert!(gateway(&third).starts_with("172.29."), "{third}");
        ok("detach", &ok("attach", &third));
    });
}

#[test]
fn a_subnet_that_is_asked_for_is_taken_or_refused() {
    isolated("netd::subnet::a_subnet_that_is_asked_for_is_taken_or_refused", || {
        ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
        ip(&["address", "add", "192.168.50.1/24", "dev", "lan0"]);
        let state = state_with_fake_image();
        let path = state.path();
        for bad in [
            "0.0.0.0/0",
            "127.0.0.0/8",
            "8.8.8.0/24",
            "10.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.1/24",
            "224.0.0.0/24",
            "x",
            "",
        ] {
            assert_error(&plan(path, "one", &["--subnet", bad]), 2, "usage");
        }
        let error = assert_error(&plan(path, "one", &["--subnet", "192.168.0.0/16"]), 1, "conflict");
        assert!(error["error"]["message"].to_string().contains("192.168.50.0/24"), "{error}");
        let wide = planned(path, "one", &["--subnet", "10.50.0.0/16"]);
        assert_eq!((gateway(&wide), &wide["vm"]["prefix_len"]), ("10.50.0.1", &16.into()));
        ok("detach", &ok("attach", &wide));
        // It stays, unasked; another is refused while it is in use, and taken afterwards.
        assert_eq!(gateway(&planned(path, "two", &[])), "10.50.0.1");
        assert_error(&plan(path, "three", &["--subnet", "10.51.0.0/24"]), 1, "conflict");
        for name in ["one", "two"] {
            assert!(banger(path, &["vm", "delete", name]).status.success());
        }
        assert_eq!(gateway(&planned(path, "three", &["--subnet", "10.51.0.0/24"])), "10.51.0.1");
    });
}
