//! Again and again, and many at once: what is left is what was there before.

use serde_json::{Value, json};

use super::snapshot::{snapshot, snapshot_with_settings};
use super::{STATE, document, document_in, gc, ip, isolated, netd, ok, record, sh};
use crate::support::changes::{Dice, seeds};

/// A second state directory of the same host.
const OTHER: &str = "ffffffff";

/// What others have: it is to stay as it is.
fn neighbours() {
    ip(&["link", "add", "other0", "type", "bridge"]);
    ip(&["link", "add", "veth0", "group", "77", "type", "veth", "peer", "name", "veth1"]);
    ip(&["address", "add", "192.0.2.1/24", "dev", "veth0"]);
    ip(&["link", "set", "veth0", "master", "other0", "up"]);
    let rules = "nft 'add table inet other; add chain inet other c { type filter hook forward priority 0; }'
        nft 'add rule inet other c ct state established counter accept; add table ip nat'
        nft 'add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }'";
    assert!(sh(rules).status.success());
}

/// Runs `verb` on all of `inputs` at the same time.
fn at_once(verb: &'static str, inputs: &[Value]) -> Vec<Value> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = inputs.iter().map(|input| scope.spawn(move || ok(verb, input))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn two_hundred_cycles_leave_everything_as_it_was() {
    isolated("netd::cycles::two_hundred_cycles_leave_everything_as_it_was", || {
        neighbours();
        let before = snapshot_with_settings();
        for cycle in 0..200 {
            let attached = ok("attach", &document(2 + cycle % 7));
            assert_eq!(attached["result"]["changed"], true);
            assert_eq!(ok("detach", &attached)["result"]["changed"], true);
            if cycle % 50 == 0 {
                before.assert_still(&format!("after cycle {cycle}"));
            }
        }
        before.assert_still("after all cycles");
    });
}

#[test]
fn sixty_four_at_once_lose_nothing_and_leave_nothing() {
    isolated("netd::cycles::sixty_four_at_once_lose_nothing_and_leave_nothing", || {
        neighbours();
        let before = snapshot_with_settings();
        let all: Vec<Value> = (2..66).map(document).collect();
        let attached = at_once("attach", &all);
        assert!(attached.iter().all(|document| document["result"]["changed"] == true));
        at_once("check", &attached);
        // The same one, many times: one of them made it.
        at_once("detach", &all[..1]);
        let same = vec![all[0].clone(); 16];
        let changed = at_once("attach", &same);
        assert_eq!(changed.iter().filter(|document| document["result"]["changed"] == true).count(), 1);
        at_once("detach", &attached);
        before.assert_still("after all were detached");
    });
}

#[test]
fn forwarding_is_switched_on_for_as_long_as_it_is_needed_and_no_other_setting() {
    isolated(
        "netd::cycles::forwarding_is_switched_on_for_as_long_as_it_is_needed_and_no_other_setting",
        || {
            assert!(sh("echo 0 > /proc/sys/net/ipv4/ip_forward").status.success());
            let before = snapshot_with_settings();
            let attached = ok("attach", &document(2));
            let changed = before.changed_settings(&snapshot_with_settings());
            assert!(
                !changed.is_empty() && changed.iter().all(|(path, _)| path.ends_with("/forwarding")),
                "{changed:?}"
            );
            ok("detach", &attached);
            before.assert_still("after the last VM");
            // Without a way out it is left alone.
            let mut inner = document(2);
            inner["vm"]["nat"] = json!(false);
            ok("detach", &ok("attach", &inner));
            before.assert_still("without nat");
        },
    );
}

#[test]
fn two_state_directories_never_meet() {
    isolated("netd::cycles::two_state_directories_never_meet", || {
        neighbours();
        let before = snapshot_with_settings();
        let document_of =
            |state: &str, n: u8| document_in(state, if state == STATE { "213.7" } else { "99.1" }, n);
        let gc_of = |state: &str, keep: u8| {
            let items = [json!({ "id": document_of(state, keep)["vm"]["id"] })];
            ok("gc", &json!({ "schema": "banger.vms/1", "state_id": state, "items": items }))
        };
        let seed = seeds(0..1)[0];
        let mut dice = Dice::of(seed);
        for step in 0..60 {
            let (mine, theirs) = if dice.roll(2) == 0 { (STATE, OTHER) } else { (OTHER, STATE) };
            let n = 2 + dice.roll(4) as u8;
            let (what, untouched) = (dice.roll(5), snapshot().of_state(theirs));
            match what {
                0..3 => drop(ok("attach", &document_of(mine, n))),
                3 => drop(ok("detach", &document_of(mine, n))),
                _ => drop(gc_of(mine, n)),
            }
            untouched.assert_state_still(
                theirs,
                &format!("BANGER_TEST_SEED={seed}, step {step}: {what} on VM {n} of {mine}"),
            );
        }
        // And at the same time, in both.
        let both =
            [STATE, OTHER].map(|state| (2..10).map(move |n| document_of(state, n)).collect::<Vec<_>>());
        let churn = |mine: &[Value]| {
            for _ in 0..3 {
                for document in &at_once("attach", mine) {
                    ok("check", document);
                }
                gc_of(mine[0]["vm"]["state_id"].as_str().expect("text"), 2);
                ok("check", &ok("attach", &mine[0]));
                at_once("detach", mine);
            }
        };
        std::thread::scope(|scope| both.iter().for_each(|mine| drop(scope.spawn(|| churn(mine)))));
        before.assert_still("in the end");
    });
}

#[test]
fn gc_keeps_what_is_listed_and_its_neighbours() {
    isolated("netd::cycles::gc_keeps_what_is_listed_and_its_neighbours", || {
        let before = snapshot();
        let mine: Vec<Value> = (2..10).map(document).collect();
        let theirs: Vec<Value> = (2..6).map(|n| document_in(OTHER, "99.1", n)).collect();
        let attached = at_once("attach", &[mine.clone(), theirs.clone()].concat());
        let removed = gc(&[&mine[1]]);
        assert_eq!(removed["removed"].as_array().map(Vec::len), Some(2 * 7), "{removed}");
        ok("check", &attached[1]);
        attached[8..].iter().for_each(|document| drop(ok("check", document)));
        let nothing = gc(&[&mine[1]]);
        assert_eq!(nothing["removed"], json!([]));
        // The other directory's list says nothing about this one.
        let output = netd("gc", &json!({ "schema": "banger.vms/1", "state_id": OTHER, "items": [] }));
        assert!(output.status.success(), "{}", record(&output));
        ok("check", &attached[1]);
        at_once("detach", &[mine, theirs].concat());
        before.assert_still("in the end");
    });
}
