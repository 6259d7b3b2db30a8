//! The pool of ready taps: claimed by renaming, given back, and nobody's but its owner's.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::guest::open_tap;
use super::snapshot::snapshot;
use super::{NETD, STATE, document, document_in, gc, ip, isolated, netd, ok, tap};
use crate::support::{assert_error, command, record, run};

/// The links of that prefix: name and number.
fn links(prefix: &str) -> Vec<(String, u64)> {
    let list: Value = serde_json::from_slice(&ip(&["-j", "link"])).expect("ip prints JSON");
    let all = list.as_array().expect("a list").iter();
    let named = all
        .map(|l| (l["ifname"].as_str().expect("text").to_owned(), l["ifindex"].as_u64().expect("a number")));
    named.filter(|(name, _)| name.starts_with(prefix)).collect()
}

fn waiting() -> usize {
    links("bgq").len()
}

#[test]
fn taps_are_claimed_by_renaming_and_come_back() {
    isolated("netd::pool::taps_are_claimed_by_renaming_and_come_back", || {
        let nothing = snapshot();
        assert_eq!(ok("pool fill 3", &document(2))["result"]["changed"], true);
        assert_eq!(ok("pool fill 2", &document(2))["result"]["changed"], false);
        assert_eq!(waiting(), 3);
        let filled = links("bgq");
        let attached = ok("attach", &document(2));
        ok("check", &attached);
        let claimed = links("bgt");
        assert_eq!((claimed[0].0.clone(), waiting()), (tap(2), 2));
        assert!(filled.iter().any(|(_, index)| *index == claimed[0].1), "it was made anew");
        assert_eq!(ok("attach", &attached)["result"]["changed"], false);
        assert_eq!(ok("detach", &attached)["result"]["changed"], true);
        assert_eq!(links("bgq"), filled);
        assert_eq!(ok("detach", &attached)["result"]["changed"], false);
        // Again and again it is the same; the counters and the bridge being up are all that tells.
        let before = snapshot();
        for n in [2, 3, 4] {
            ok("detach", &ok("attach", &document(n)));
            before.assert_still("after a cycle");
        }
        assert_eq!(ok("pool drain", &document(2))["result"]["changed"], true);
        assert_eq!(ok("pool drain", &document(2))["result"]["changed"], false);
        nothing.assert_still("drained");
    });
}

#[test]
fn many_at_once_never_take_the_same_one() {
    isolated("netd::pool::many_at_once_never_take_the_same_one", || {
        let nothing = snapshot();
        ok("pool fill 8", &document(2));
        let pool: BTreeSet<u64> = links("bgq").into_iter().map(|(_, index)| index).collect();
        let all: Vec<Value> = (2..18).map(document).collect();
        let at_once = |verb: &'static str| {
            std::thread::scope(|scope| all.iter().for_each(|d| drop(scope.spawn(move || ok(verb, d)))));
        };
        at_once("attach");
        all.iter().for_each(|d| drop(ok("check", &ok("attach", d))));
        let used = links("bgt");
        assert_eq!((used.len(), waiting()), (16, 0));
        assert_eq!(used.iter().filter(|(_, index)| pool.contains(index)).count(), 8);
        at_once("detach");
        assert_eq!(links("bgq").into_iter().map(|(_, index)| index).collect::<BTreeSet<_>>(), pool);
        ok("pool drain", &document(2));
        nothing.assert_still("drained");
    });
}

#[test]
fn a_tap_that_somebody_has_open_serves_no_other_vm() {
    isolated("netd::pool::a_tap_that_somebody_has_open_serves_no_other_vm", || {
        ok("pool fill 1", &document(2));
        let held = open_tap(&links("bgq")[0].0);
        ok("attach", &document(2));
        assert_eq!((links("bgt").len(), waiting()), (1, 1), "the open one was claimed");
        drop(held);
        ok("detach", &document(2));
        assert_eq!(waiting(), 1);
        // A VM that still runs when it is detached: its tap goes.
        ok("attach", &document(2));
        let running = open_tap(&tap(2));
        ok("detach", &document(2));
        assert_eq!((links("bgt").len(), waiting()), (0, 0));
        drop(running);
    });
}

#[test]
fn drain_and_gc_know_the_pool() {
    isolated("netd::pool::drain_and_gc_know_the_pool", || {
        let nothing = snapshot();
        ok("pool fill 2", &document(2));
        let attached = ok("attach", &document(2));
        // What is in use stays, and does not come back.
        ok("pool drain", &document(2));
        assert_eq!(waiting(), 0);
        ok("check", &attached);
        ok("detach", &attached);
        nothing.assert_still("after the last one");

        ok("pool fill 2", &document(2));
        let (kept, _) = (ok("attach", &document(2)), ok("attach", &document(3)));
        assert_eq!(gc(&[&kept])["removed"].as_array().map(Vec::len), Some(2));
        ok("check", &kept);
        ok("detach", &kept);
        assert_eq!((links("bgt").len(), waiting()), (0, 1));
        assert_eq!(gc(&[&kept])["removed"], json!([]));
        assert_eq!(gc(&[])["removed"].as_array().map(Vec::len), Some(3));
        nothing.assert_still("after gc");
    });
}

#[test]
fn a_pool_is_nobodys_but_its_owners() {
    isolated("netd::pool::a_pool_is_nobodys_but_its_owners", || {
        let nothing = snapshot();
        let mut mine = document(2);
        mine["vm"]["owner_uid"] = json!(61000);
        ok("pool fill 2", &mine);
        let before = snapshot();
        let sudo = |verb: &str, input: &Value| {
            let mut command = command(NETD);
            run(command.args(verb.split(' ')).env("SUDO_UID", "61001"), input.to_string().as_bytes())
        };
        let mut theirs = mine.clone();
        theirs["vm"]["owner_uid"] = json!(61001);
        for verb in ["pool fill 3", "pool drain"] {
            assert_error(&sudo(verb, &mine), 5, "denied");
        }
        // The same ids are other names; the subnet is taken.
        assert_error(&sudo("pool fill 3", &theirs), 1, "conflict");
        assert_eq!(record(&sudo("pool drain", &theirs))["result"]["changed"], false);
        before.assert_still("after another user");
        // Another state directory's pool is another one.
        let other = document_in("ffffffff", "99.1", 2);
        assert_eq!(ok("pool drain", &other)["result"]["changed"], false);
        ok("detach", &ok("attach", &other));
        before.assert_still("after another state directory");
        // Forged: the name without the tag, the tag and the group without the name.
        let fake = format!("bgq{STATE}0a");
        ip(&["tuntap", "add", &fake, "mode", "tap"]);
        ip(&["tuntap", "add", "vnet0", "mode", "tap"]);
        ip(&["link", "set", "vnet0", "group", "1650946304", "alias", &format!("banger:{STATE}:61000")]);
        ok("pool drain", &mine);
        let left = snapshot();
        assert!(left.has_link(&fake) && left.has_link("vnet0"));
        ip(&["link", "del", &fake]);
        ip(&["link", "del", "vnet0"]);
        nothing.assert_still("drained");
        for verb in ["pool fill 0", "pool fill 65", "pool fill -1", "pool fill", "pool"] {
            assert_error(&netd(verb, &mine), 2, "usage");
        }
        assert_eq!(record(&netd("detach", &mine))["result"]["changed"], false);
    });
}
