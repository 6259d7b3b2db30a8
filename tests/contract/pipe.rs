//! Pipelines of real programs: the first stage, records that no stage may accept, failures passed on.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{self, assert_error, command, record, run};

const STAGES: [(&str, &str); 7] = [
    (env!("CARGO_BIN_EXE_banger-netd"), "attach"),
    (env!("CARGO_BIN_EXE_banger-netd"), "detach"),
    (env!("CARGO_BIN_EXE_banger-disk"), "attach"),
    (env!("CARGO_BIN_EXE_banger-disk"), "detach"),
    (env!("CARGO_BIN_EXE_banger-qemu"), "start"),
    (env!("CARGO_BIN_EXE_banger-fc"), "start"),
    (env!("CARGO_BIN_EXE_banger-ws"), "prepare"),
];

fn banger(state: &Path, args: &[&str]) -> Output {
    run(command(env!("CARGO_BIN_EXE_banger")).args(args).env("BANGER_STATE_DIR", state), b"")
}

fn plan(state: &Path, name: &str) -> Value {
    let output = banger(state, &["vm", "plan", name, "--net", "user"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    record(&output)
}

#[test]
fn a_plan_is_a_whole_record() {
    let state = support::state_with_fake_image();
    let record = plan(state.path(), "dev1");
    assert_eq!(record["schema"], "banger.vm/1");
    for section in ["net", "disk", "vmm", "workspace", "result"] {
        assert!(record.get(section).is_some_and(Value::is_null), "{section} must be null: {record}");
    }
    assert_eq!(record["vm"]["name"], "dev1");
    assert_eq!(record["vm"]["address"], "10.0.2.15");
    let dir = Path::new(record["vm"]["paths"]["dir"].as_str().unwrap());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(dir), 0o700);
    assert_eq!(mode(&dir.join("host_key")), 0o600);
    assert_eq!(mode(&state.path().join("ssh/id_ed25519")), 0o600);
    let again = banger(state.path(), &["vm", "plan", "dev1", "--net", "user"]);
    let error = assert_error(&again, 1, "conflict");
    assert_eq!(error["error"]["details"]["holder"], record["vm"]["id"]);
}

#[test]
fn names_that_are_none_are_refused_and_leave_nothing() {
    let state = support::state_with_fake_image();
    for name in ["a/b", "..", "a\nb", "", "UPPER", "-x-", &"x".repeat(300)] {
        let output = banger(state.path(), &["vm", "plan", "--net", "user", "--", name]);
        assert_error(&output, 2, "usage");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "one line for people: {stderr}");
    }
    assert!(!state.path().join("state.db").exists());
}

#[test]
fn two_plans_of_one_name_at_once_make_one_vm() {
    let state = support::state_with_fake_image();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| banger(state.path(), &["vm", "plan", "one", "--net", "user"])))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outputs.iter().filter(|output| output.status.success()).count(), 1);
    for output in outputs.iter().filter(|output| !output.status.success()) {
        assert_error(output, 1, "conflict");
    }
    let list = record(&banger(state.path(), &["ps", "--json"]));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(state.path().join("vms")).unwrap().count(), 1);
}

#[test]
fn records_that_are_none_are_refused_by_every_stage() {
    let state = support::state_with_fake_image();
    let good = plan(state.path(), "dev1").to_string();
    let unknown = good.replacen("\"vm\":{", "\"vm\":{\"surprise\":1,", 1);
    let newer = good.replacen("banger.vm/1", "banger.vm/2", 1);
    let table: [(&str, Vec<u8>, i32, &[&str]); 8] = [
        ("empty", b"".to_vec(), 2, &["no-input"]),
        ("malformed", b"{\"schema\":".to_vec(), 2, &["bad-input"]),
        ("truncated", good.as_bytes()[..good.len() / 2].to_vec(), 2, &["bad-input"]),
        ("not an object", b"[1,2]".to_vec(), 2, &["bad-input"]),
        ("huge", vec![b' '; 5 << 20], 2, &["bad-input"]),
        ("deep", b"[".repeat(200_000), 2, &["bad-input"]),
        ("unknown field", unknown.into_bytes(), 2, &["bad-input"]),
        ("newer schema", newer.into_bytes(), 2, &["unsupported-schema"]),
    ];
    for (program, verb) in STAGES {
        for (what, input, status, codes) in &table {
            let output = run(command(program).arg(verb), input);
            let error = record(&output);
            let code = error["error"]["code"].as_str().unwrap_or_default();
            assert!(codes.contains(&code), "{program} {verb}, {what}: {error}");
            assert_eq!(output.status.code(), Some(*status), "{program} {verb}, {what}");
        }
    }
}

#[test]
fn an_error_record_is_passed_on_unchanged_and_silently() {
    let error = json!({"schema": "banger.error/1", "error": {
        "code": "busy", "message": "VM x is in use", "details": {"holder": "me"}, "causes": ["a"], "hint": null,
        "retry": true, "tool": "banger-netd", "verb": "attach",
    }});
    for (program, verb) in STAGES {
        let output = run(command(program).arg(verb), error.to_string().as_bytes());
        assert_eq!(output.status.code(), Some(4), "{program} {verb}");
        assert_eq!(record(&output), error, "{program} {verb}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program} {verb}");
    }
}

#[test]
fn an_error_record_that_is_not_valid_is_told_as_the_failure_that_it_is() {
    let table = [
        json!({"schema": "banger.error/1", "error": {"code": "failed", "message": "the tap burst"}}),
        json!({"schema": "banger.error/1", "error": {"code": "of-tomorrow", "message": "the tap burst", "retry": false,
            "tool": "banger-netd", "verb": "attach"}}),
        json!({"schema": "banger.error/1", "error": null, "message": "the tap burst"}),
        json!({"schema": "banger.error/1"}),
    ];
    for (program, verb) in STAGES {
        for record in &table {
            let output = run(command(program).arg(verb), record.to_string().as_bytes());
            let error = assert_error(&output, 2, "bad-input");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.starts_with("the program before this one failed"), "{program} {verb}: {error}");
            assert_eq!(
                message.contains("the tap burst"),
                record["error"]["message"].is_string(),
                "{program} {verb}: {error}"
            );
            assert!(!error.to_string().contains("banger.vm/1"), "{program} {verb}: {error}");
        }
    }
}

#[test]
fn a_verb_that_is_not_given_is_missed() {
    for (program, _) in STAGES {
        let output = run(&mut command(program), b"");
        let error = assert_error(&output, 2, "usage");
        assert_eq!(error["error"]["message"], "no verb is given", "{program}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{program}");
    }
}

#[test]
fn every_program_says_which_schemas_it_speaks() {
    for (program, _) in STAGES {
        let version = record(&run(command(program).arg("version"), b""));
        let schemas = version["schemas"].as_array().unwrap();
        assert!(schemas.contains(&json!("banger.vm/1")), "{program}: {version}");
    }
}

#[test]
fn a_terminal_on_stdin_is_a_usage_error() {
    if !support::require(
        "host",
        support::has("script"),
        "script(1), which gives a program a terminal, is not installed",
    ) {
        return;
    }
    for (program, verb) in STAGES {
        let line = format!("{program} {verb}; echo status=$?");
        let output = run(command("script").args(["-qec", &line, "/dev/null"]), b"");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("status=2") && said.contains("stdin is a terminal"),
            "{program} {verb}: {said}"
        );
    }
}
