//! `banger-disk dm` and files that the kernel would believe. Device-mapper itself is tried in tests/vm/dm.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;

use crate::support::{self, assert_error, command, run};

/// How large the root is, bytes, and how large its file of changes may be.
const ROOT: u64 = 64 << 20;
const COW: u64 = ROOT + ROOT / 128 + (4 << 20);

fn words(words: [u32; 4]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn what_the_kernel_would_believe_is_refused_before_it_hears_of_it() {
    if !support::require("host", support::is_root(), "needs root") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().canonicalize().expect("it is there");
    let (base, cow) = (dir.join("base"), dir.join("cow"));
    File::create(&base).and_then(|file| file.set_len(1 << 20)).expect("made");
    let request = json!({
        "schema": "banger.dm/1", "vm_id": "0123456789ab", "state_id": "0a1b2c3d", "owner_uid": 0,
        "base": base, "cow": cow, "size_bytes": ROOT,
    });
    let refused = |size: u64, header: &[u8], exception: &[u8], status: i32, code: &str| {
        let file = File::create(&cow).expect("made");
        file.set_len(size).expect("it fits");
        file.write_all_at(header, 0).expect("written");
        file.write_all_at(exception, 4096).expect("written");
        drop(file);
        let output = run(
            command(env!("CARGO_BIN_EXE_banger-disk")).args(["dm", "create"]),
            request.to_string().as_bytes(),
        );
        assert_error(&output, status, code)["error"]["message"].as_str().expect("text").to_owned()
    };
    let magic = u32::from_le_bytes(*b"SnAp");
    for sectors in [0, 1, 16, 1 << 30] {
        let said = refused(COW, &words([magic, 1, 1, sectors]), &[], 5, "denied");
        assert!(said.contains("another chunk size"), "{said}");
    }
    let good = words([magic, 1, 1, 8]);
    for (old, new) in [(0, 1 << 40), (1 << 40, 2), (0, 1)] {
        let exception: Vec<u8> = [old, new].iter().flat_map(|half: &u64| half.to_le_bytes()).collect();
        let said = refused(COW, &good, &exception, 5, "denied");
        assert!(said.contains("lies outside"), "{said}");
    }
    let said = refused(COW, b"somebody's notes", &[], 5, "denied");
    assert!(said.contains("something else"), "{said}");
    refused(COW + 4096, &good, &[], 2, "bad-input");
}
