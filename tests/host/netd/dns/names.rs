//! Hostile names files: a user's file that a program reads which began as root. Each is refused, or served within its bridge.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::{A, NETD, Names, ask, assert_well, code, eventually, item, question, servers};
use crate::netd::attacks::STRINGS;
use crate::netd::fuzz::{mutated, mutation};
use crate::netd::snapshot::snapshot;
use crate::netd::{STATE, document, isolated, ok, sh};
use crate::support::changes::rng_seed;
use crate::support::{assert_error, command, record, run, soon};

fn file(state: &Value, items: &Value) -> Value {
    json!({ "schema": "banger.names/1", "state_id": state, "items": items })
}

/// What a names file is not, and the bytes of one.
fn attacks() -> Vec<(String, Vec<u8>)> {
    let fine = json!([item("dev2", &["10.213.7.2"], true)]);
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: &str, bytes: &[u8]| all.push((what.to_owned(), bytes.to_vec()));
    for text in STRINGS {
        add(&format!("state {text:?}"), file(&json!(text), &fine).to_string().as_bytes());
        for (key, value) in [("name", json!(text)), ("addresses", json!([text])), ("forward", json!(text))] {
            // Some of these are names.
            if key == "name" && !text.contains(|c: char| !c.is_ascii_alphanumeric()) && !text.is_empty() {
                continue;
            }
            let mut items = fine.clone();
            items[0][key] = value;
            add(&format!("{key} {text:?}"), file(&json!(STATE), &items).to_string().as_bytes());
        }
    }
    let valid = file(&json!(STATE), &fine).to_string();
    add("nothing", b"");
    add("null", b"null");
    add("zeros", &[0; 4096]);
    add("half", &valid.as_bytes()[..valid.len() / 2]);
    add("two", valid.repeat(2).as_bytes());
    add("deep", "[".repeat(1 << 20).as_bytes());
    add("long", format!("{valid}{}", " ".repeat(3 << 20)).as_bytes());
    add("another schema", valid.replace("names/1", "names/2").as_bytes());
    add("another key", valid.replace("\"forward\"", "\"x\":1,\"forward\"").as_bytes());
    add("a long name", valid.replace("dev2", &"a".repeat(64)).as_bytes());
    add("UTF-16", &valid.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    all
}

impl Names {
    fn write_raw(&self, bytes: &[u8]) {
        fs::write(self.path.with_extension("new"), bytes).expect("written");
        fs::rename(self.path.with_extension("new"), &self.path).expect("renamed");
    }
}

#[test]
fn a_hostile_file_is_refused_and_does_no_harm_to_a_server() {
    isolated("netd::dns::names::a_hostile_file_is_refused_and_does_no_harm_to_a_server", || {
        ok("attach", &document(2));
        let names = Names::new(&[2]);
        let before = snapshot();
        let attacks = attacks();
        assert!(attacks.len() > 80, "only {}", attacks.len());
        for (what, bytes) in &attacks {
            names.write_raw(bytes);
            let output = names.try_serve(&[]);
            assert_eq!(output.status.code(), Some(2), "{what}: {}", record(&output));
            assert_error(&output, 2, "bad-input");
            let line = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(line.len() < 1000 && line.lines().count() == 1, "{what}: {line}");
            assert!(!line.chars().any(|c| c.is_control() && c != '\n'), "{what}: {line:?}");
        }
        // Neither a file nor readable, nor there; what is there is not opened but for reading.
        for script in ["mkfifo X", "ln -s /etc/shadow X", "mkdir X", "mknod X c 1 3", "true"] {
            fs::remove_file(names.path.with_extension("new")).unwrap_or_default();
            sh(&format!(
                "rm -rf {0}; {1}",
                names.path.display(),
                script.replace('X', &names.path.display().to_string())
            ));
            let output = names.try_serve(&[]);
            assert!(matches!(output.status.code(), Some(1..=5)), "{script}: {}", record(&output));
        }
        eventually("the end of what did not serve", || servers().is_empty());
        before.assert_still("after all of it");
        // A server keeps to what it knows.
        sh(&format!("rm -rf {}", names.path.display()));
        names.write(vec![item("dev2", &["10.213.7.2"], true)]);
        names.serve(&[]);
        let pid = servers();
        for (_, bytes) in &attacks {
            names.write_raw(bytes);
            assert_well();
        }
        assert_eq!(servers(), pid);
        names.write(vec![item("dev2", &["10.213.7.2"], true), item("dev9", &["10.213.7.9"], true)]);
        eventually("the new name", || code(&ask(&question("dev9.vm", A)).expect("an answer")) == 0);
    });
}

#[test]
fn mutated_files_are_refused_or_served() {
    isolated("netd::dns::names::mutated_files_are_refused_or_served", || {
        ok("attach", &document(2));
        let names = Names::new(&[2]);
        let valid: Value =
            serde_json::from_slice(&fs::read(&names.path).expect("it is there")).expect("JSON");
        let rng_seed = rng_seed();
        let config = Config {
            cases: 150,
            failure_persistence: None,
            max_shrink_iters: 60,
            rng_seed,
            ..Config::default()
        };
        let strategy = proptest::collection::vec(mutation(), 1..4);
        // At the start; without --background, so that it is the one that we end.
        let mut runner = TestRunner::new(Config { cases: 60, ..config.clone() });
        let began = runner.run(&strategy, |mutations| {
            let bytes = mutated(&valid, &mutations);
            names.write_raw(&bytes);
            let mut serve = command("timeout");
            serve.args(["-s", "TERM", "0.15", NETD, "serve", "--names"]).arg(&names.path);
            let output = run(&mut serve, b"");
            // timeout(1) says 124 where it had to end a server.
            let sane = matches!(output.status.code(), Some(0..=5 | 124)) && output.status.signal().is_none();
            prop_assert!(sane, "{:?} {}", output.status, String::from_utf8_lossy(&bytes));
            prop_assert!(soon(|| servers().is_empty()));
            Ok(())
        });
        began.unwrap_or_else(|error| panic!("{error}"));
        // While it runs.
        names.write(vec![item("dev2", &["10.213.7.2"], true)]);
        names.serve(&[]);
        let pid = servers();
        let reloaded = TestRunner::new(config).run(&strategy, |mutations| {
            names.write_raw(&mutated(&valid, &mutations));
            std::thread::sleep(Duration::from_millis(2));
            let answered = ask(&question("dev2.vm", A)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!([0, 3].contains(&code(&answered)));
            Ok(())
        });
        reloaded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(servers(), pid);
        names.write(vec![item("dev2", &["10.213.7.2"], true), item("dev9", &["10.213.7.9"], true)]);
        eventually("the new name", || code(&ask(&question("dev9.vm", A)).expect("an answer")) == 0);
        assert_well();
    });
}
