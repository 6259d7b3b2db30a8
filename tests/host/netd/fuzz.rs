//! Valid input, mutated at random: no panic, no signal, one record, and nothing changed that cannot be undone.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::attacks::{OTHER, STRINGS, inhabited, raw};
use super::snapshot::{snapshot, snapshot_with_settings};
use super::{STATE, document, isolated, ok};
use crate::support::changes::rng_seed;

/// How one valid input becomes a hostile one.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// A value becomes another.
    Replace(Index, Index),
    /// A key or an item goes.
    Remove(Index),
    /// A key comes.
    Add(Index, String, Index),
    /// A value becomes a random text.
    Text(Index, String),
    /// A value becomes a random number.
    Number(Index, i64),
    /// Bytes of the text change.
    Bytes(Index, Vec<u8>),
    /// It ends early.
    Cut(Index),
}

pub fn mutation() -> impl Strategy<Value = Mutation> {
    let at = || any::<Index>();
    prop_oneof![
        4 => (at(), at()).prop_map(|(at, what)| Mutation::Replace(at, what)),
        1 => at().prop_map(Mutation::Remove),
        1 => (at(), ".{0,12}", at()).prop_map(|(at, key, what)| Mutation::Add(at, key, what)),
        2 => (at(), ".{0,40}").prop_map(|(at, text)| Mutation::Text(at, text)),
        2 => (at(), any::<i64>()).prop_map(|(at, number)| Mutation::Number(at, number)),
        1 => (at(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(at, bytes)| Mutation::Bytes(at, bytes)),
        1 => at().prop_map(Mutation::Cut),
    ]
}

/// Values for any place.
fn values() -> Vec<Value> {
    let mut values: Vec<Value> = STRINGS.iter().map(|text| json!(text)).collect();
    values.extend([
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(16),
        json!(30),
        json!(255),
        json!(65535),
        json!(65536),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(0.5),
        json!("user"),
        json!("tap"),
        json!("10.213.7.3"),
        json!("10.213.7.1"),
        json!("192.168.50.1"),
        json!("::1"),
        json!("02:00:00:00:00:03"),
        json!(STATE),
        json!(OTHER),
        json!("10.0.0.0/8"),
        json!(vec![json!("x"); 5000]),
        json!("x".repeat(100_000)),
        json!([[[[[[[[{}]]]]]]]]),
    ]);
    values
}

/// All places in `value`.
fn pointers(value: &Value, prefix: &str, into: &mut Vec<String>) {
    into.push(prefix.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            pointers(v, &format!("{prefix}/{}", key.replace('~', "~0").replace('/', "~1")), into)
        }),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, v)| pointers(v, &format!("{prefix}/{n}"), into))
        }
        _ => {}
    }
}

fn mutate(value: &mut Value, mutation: &Mutation) {
    let mut places = Vec::new();
    pointers(value, "", &mut places);
    let mut put =
        |at: &Index, new: Value| *value.pointer_mut(at.get::<String>(&places)).expect("it is there") = new;
    let values = values();
    match mutation {
        Mutation::Replace(at, what) => put(at, what.get(&values).clone()),
        Mutation::Text(at, text) => put(at, json!(text)),
        Mutation::Number(at, number) => put(at, json!(number)),
        Mutation::Remove(at) => {
            let (parent, key) = at.get::<String>(&places).rsplit_once('/').unwrap_or_default();
            if let Some(map) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
                map.remove(key);
            }
        }
        Mutation::Add(at, key, what) => {
            if let Some(map) = value.pointer_mut(at.get::<String>(&places)).and_then(Value::as_object_mut) {
                map.insert(key.clone(), what.get(&values).clone());
            }
        }
        Mutation::Bytes(..) | Mutation::Cut(_) => {}
    }
}

pub fn mutated(valid: &Value, mutations: &[Mutation]) -> Vec<u8> {
    let mut value = valid.clone();
    mutations.iter().for_each(|m| mutate(&mut value, m));
    let mut bytes = value.to_string().into_bytes();
    for mutation in mutations {
        match mutation {
            Mutation::Bytes(at, new) => {
                let at = at.index(bytes.len() + 1);
                let end = (at + new.len()).min(bytes.len());
                bytes.splice(at..end, new.iter().copied());
            }
            Mutation::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            _ => {}
        }
    }
    bytes
}

/// Runs `verb` on `cases` mutations of `valid` and judges each by `judge`.
fn fuzz(verb: &str, cases: u32, valid: &Value, judge: impl Fn(bool) -> Result<(), TestCaseError>) {
    let rng_seed = rng_seed();
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 60, rng_seed, ..Config::default() };
    let strategy = proptest::collection::vec(mutation(), 1..4);
    let result = TestRunner::new(config).run(&strategy, |mutations| {
        let input = mutated(valid, &mutations);
        // A list that became the other state directory's asks for what that has to be removed.
        let list: Value = serde_json::from_slice(&input).unwrap_or_default();
        if verb == "gc" && list["state_id"] == OTHER {
            return Ok(());
        }
        let output = raw(verb, &input);
        let shown =
            || format!("{verb} {}", String::from_utf8_lossy(&input).chars().take(3000).collect::<String>());
        // 70 would be a bug, 101 a panic, no code a signal.
        prop_assert!(matches!(output.status.code(), Some(0..=5)), "{:?} {}", output.status, shown());
        let said: Result<Value, _> = serde_json::from_slice(&output.stdout);
        prop_assert!(said.is_ok(), "{}", shown());
        let succeeded = output.status.success();
        prop_assert_eq!(said.unwrap_or_default()["schema"] == "banger.error/1", !succeeded, "{}", shown());
        judge(succeeded).map_err(|error| TestCaseError::fail(format!("{error} {}", shown())))
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn mutated_records_are_refused_or_can_be_undone() {
    isolated("netd::fuzz::mutated_records_are_refused_or_can_be_undone", || {
        inhabited();
        let mut valid = document(2);
        valid["vm"]["publish"] =
            json!([{ "host_ip": null, "host_port": 8080, "guest_port": 80, "protocol": "tcp" }]);
        valid["vm"]["egress"] = json!({ "policy": "allow", "allow": [{ "network": "192.0.2.0/24", "port": 443, "protocol": "tcp" }] });
        valid["vm"]["peer"] = json!(false);
        // Since a VM of the bridge's publishes a port, the bridge routes 127.0.0.0/8 as long as it is there.
        ok("detach", &ok("attach", &valid));
        let before = snapshot_with_settings();
        let still = |what: &str| {
            if snapshot_with_settings() == before {
                Ok(())
            } else {
                Err(TestCaseError::fail(what.to_owned()))
            }
        };
        fuzz("attach", 300, &valid, |succeeded| {
            if succeeded {
                // Whatever VM it has become, it is none of those that are there.
                super::gc(&[&document(3)]);
            }
            still("it changed something")
        });
        fuzz("pool fill 2", 60, &valid, |succeeded| {
            if succeeded {
                ok("pool drain", &document(2));
            }
            still("it changed something")
        });
        fuzz("pool drain", 60, &valid, |_| still("it removed something"));
        fuzz("status", 60, &valid, |_| still("it changed something"));
        fuzz("update", 60, &valid, |_| still("it changed something"));
        for verb in ["hook", "unhook"] {
            let request = json!({ "schema": "banger.hook/1", "state_id": STATE });
            fuzz(verb, 60, &request, |_| still("it changed something"));
        }
        fuzz("check", 100, &document(2), |_| still("it changed something"));
        fuzz("detach", 200, &document(2), |_| still("it removed something"));
        let theirs = snapshot().of_state(OTHER);
        let list = json!({ "schema": "banger.vms/1", "state_id": STATE, "items": [{ "id": document(3)["vm"]["id"] }] });
        fuzz("gc", 150, &list, |_| {
            ok("attach", &document(3));
            if theirs.state_is_still(OTHER) {
                Ok(())
            } else {
                Err(TestCaseError::fail("it touched another state directory"))
            }
        });
    });
}
