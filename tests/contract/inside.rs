//! `stats` and `ports` of a VM, whatever its guest says.

use serde_json::{Value, json};

use crate::support;
use crate::vmm::world::World;

#[test]
fn what_a_vm_uses_is_told_without_its_guest() {
    let world = World::new("");
    let record = world.start();
    let usage = world.ok(&["stats"], &record);
    assert_eq!((&usage["schema"], &usage["name"]), (&json!("banger.usage/1"), &json!("dev1")));
    assert_eq!(usage["vmm"]["pid"], record["vmm"]["pid"]);
    assert!(usage["vmm"]["rss_bytes"].as_u64().unwrap() > 1 << 20, "{usage}");
    assert_eq!(usage["disks"], json!([{ "drive": "root", "read_bytes": 7, "written_bytes": 5 }]));
    // This guest's answer has another shape, and there is no tap.
    assert_eq!((&usage["guest"], &usage["net"]), (&Value::Null, &Value::Null));
    assert!(
        usage["storage"]["free_bytes"].is_u64() && usage["storage"]["root_limit_bytes"].is_null(),
        "{usage}"
    );
    world.ok(&["kill"], &record);
    for verb in ["stats", "ports"] {
        support::assert_error(&world.run(&[verb], &record), 1, "vm-stopped");
    }
}

#[test]
fn ports_are_bounded_and_of_their_shape() {
    let world = World::new("reply=many");
    let record = world.start();
    let ports = world.ok(&["ports"], &record);
    let items = ports["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["port"], &items[255]["port"]), (256, &json!(1), &json!(256)));
    world.ok(&["kill"], &record);

    for reply in ["", "status", "huge", "none"] {
        let world = World::new(&format!("reply={reply}"));
        let record = world.start();
        let error = support::assert_error(&world.run(&["ports"], &record), 1, "failed");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("agent of VM dev1"), "{message}");
        world.ok(&["kill"], &record);
    }
}
