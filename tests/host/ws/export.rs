//! What the guest changed comes out, and the guest stays as it was.

use std::fs;

use serde_json::json;

use super::guest::{Guest, git, said};
use crate::support;

#[test]
fn export_leaves_the_guest_as_it_was_and_keeps_forced_files() {
    let Some(guest) = Guest::new() else { return };
    let repo = guest.repo();
    let output = guest.run(
        &repo,
        &[],
        &["sh", "-c", "echo x > forced2.o; git add -f forced2.o; echo y > s; git add s; echo z > s"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let snapshot = || {
        (
            fs::read(guest.path("guest/.git/index")).unwrap(),
            git(&guest.path("guest"), &["for-each-ref"]),
            git(&guest.path("guest"), &["count-objects", "-v"]),
        )
    };
    let before = snapshot();
    let record = guest.last_record();
    let output = guest.ws(&["export", "--output", "e.patch"], &record);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]));
    assert_eq!(fs::read(guest.path("e.patch")).unwrap(), fs::read(guest.path("p.patch")).unwrap());
    assert_eq!(snapshot(), before);
    assert!(
        !fs::read_dir(guest.path("guest/.git")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("banger-export"))
    );
    // To stdout the patch is alone; status and check agree.
    let output = guest.ws(&["export"], &record);
    assert_eq!(output.stdout, fs::read(guest.path("e.patch")).unwrap());
    let output = guest.ws(&["status"], &record);
    assert_eq!(support::record(&output)["result"]["files"], json!(["forced2.o", "s"]), "{}", said(&output));
    assert!(guest.ws(&["check"], &record).status.success());
}
