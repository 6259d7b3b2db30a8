//! The oracle of tests/truth with guests that are VMs; tests/host tries many more of them, without any.

use std::path::Path;

use crate::home::{BANGER, Home};
use crate::support;

#[test]
fn the_patch_of_a_vm_is_true_or_says_so() {
    let Some(home) = Home::new() else { return };
    if !support::require(
        "vm",
        support::has("python3") && support::has("git"),
        "the oracle needs python3 and git",
    ) {
        return;
    }
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/truth/oracle");
    let seeds = std::env::var("BANGER_TEST_SEED").unwrap_or_else(|_| "1..5".to_owned());
    let mut command = support::command("python3");
    command.arg(oracle).arg("--programs").arg(Path::new(BANGER).parent().expect("it is in a directory"));
    command.args(["--vm", "debian", "--helper", "", "--seeds", &seeds, "--jobs", "1", "--tries", "3"]);
    command.env("BANGER_STATE_DIR", home.state());
    let output = support::run(&mut command, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    home.assert_clean();
}
