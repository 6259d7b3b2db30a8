//! A good pack, mutilated in many ways: what git takes all the same is sound, and all else leaves no trace.

use std::fs;

use super::super::guest::said;
use super::{COMMITS, World, line, sh};
use crate::support;
use crate::support::changes::{Dice, seeds};

/// How many mutants there are of the pack's bytes, and of what its objects hold.
const OF_BYTES: usize = 150;
const OF_OBJECTS: usize = 60;

pub(super) fn sha1(bytes: &[u8]) -> Vec<u8> {
    let output = support::run(&mut support::command("sha1sum"), bytes);
    let text = String::from_utf8(output.stdout).unwrap();
    (0..40).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Changes `bytes` in one of several ways.
fn mutilate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.roll(3) {
        let (at, other) = (dice.roll(bytes.len().max(1)), dice.roll(bytes.len().max(1)));
        match dice.roll(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at.min(other)..at.max(other).min(at.min(other) + 20))),
            2 => {
                let piece = bytes[at.min(other)..at.max(other)].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => bytes.insert(at.min(bytes.len()), dice.roll(256) as u8),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.roll(8);
                }
            }
        }
    }
}

/// Fetches a mutant: it is refused and nothing has changed, or it is sound and goes again. Gives whether it was taken.
fn survives(world: &World, what: &str) -> bool {
    let (all, rest) = (world.all(), world.rest("banger/t/main"));
    let output = world.fetch(&[]);
    world.assert_tidy();
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
        assert_eq!(world.all(), all, "{what}");
        return false;
    }
    assert_eq!(world.rest("banger/t/main"), rest, "{what}");
    world.assert_sound();
    let undo = "git update-ref -d refs/heads/banger/t/main; rm -rf .git/refs/heads/banger .git/logs/refs/heads/banger
        rm -f .git/objects/pack/*";
    sh(&world.repo, undo);
    assert_eq!(sh(&world.repo, "git fsck --strict 2>&1"), "", "{what}: what is left is the host's own");
    true
}

#[test]
fn a_mutilated_pack_is_refused_or_sound() {
    let Some(world) = World::new() else { return };
    world.inside(COMMITS);
    let copy = world.guest.path("guest");
    let tip = line(&copy, &["rev-parse", "HEAD"]);
    sh(
        &copy,
        "git rev-list --objects HEAD ^refs/banger/prepared^1 | cut -d' ' -f1 | git pack-objects --stdout -q >../good",
    );
    let good = fs::read(world.guest.path("good")).unwrap();
    let seed = seeds(0..1)[0];
    let (mut dice, mut taken) = (Dice::of(seed), 0);
    world.lie(&tip, "refs/heads/main", "cat pack");
    fs::write(world.guest.path("pack"), &good).unwrap();
    assert!(survives(&world, "the pack as it is"));
    for number in 0..OF_BYTES {
        let mut mutant = good.clone();
        // Most with a checksum that fits, so that git looks further than at that.
        let resealed = number % 5 > 0;
        if resealed {
            mutant.truncate(good.len() - 20);
        }
        mutilate(&mut dice, &mut mutant);
        if resealed {
            let sum = sha1(&mutant);
            mutant.extend(sum);
        }
        fs::write(world.guest.path("pack"), mutant).unwrap();
        taken += usize::from(survives(&world, &format!("BANGER_TEST_SEED={seed}, mutant {number}")));
    }
    assert!(taken < OF_BYTES / 4, "{taken} were taken");
}

#[test]
fn a_mutilated_object_is_refused_or_sound() {
    let Some(world) = World::new() else { return };
    world.inside("mkdir -p d/e; echo 1 >d/e/f; ln -s f d/e/l; git add -A; git commit -qm one");
    let copy = world.guest.path("guest");
    let seed = seeds(0..1)[0];
    let mut dice = Dice::of(seed);
    let (blob, tree) = (line(&copy, &["rev-parse", "HEAD:d/e/f"]), line(&copy, &["rev-parse", "HEAD:d/e"]));
    let commit =
        support::run(support::command("git").arg("-C").arg(&copy).args(["cat-file", "commit", "HEAD"]), b"");
    let raw =
        support::run(support::command("git").arg("-C").arg(&copy).args(["cat-file", "tree", &tree]), b"");
    let link = line(&copy, &["rev-parse", "HEAD:d/e/l"]);
    let mut taken = 0;
    for number in 0..OF_OBJECTS {
        let (mut new_tree, mut new_commit) = (raw.stdout.clone(), commit.stdout.clone());
        if number % 2 == 0 {
            mutilate(&mut dice, &mut new_tree);
        }
        let tree = world.object("tree", &new_tree);
        new_commit = [format!("tree {tree}").as_bytes(), &new_commit["tree ".len() + 40..]].concat();
        if number % 2 == 1 {
            mutilate(&mut dice, &mut new_commit);
        }
        let commit = world.object("commit", &new_commit);
        world.send(&[&blob, &link, &tree, &commit]);
        taken += usize::from(survives(&world, &format!("BANGER_TEST_SEED={seed}, object {number}")));
    }
    // A message or a name may be another one.
    assert!(taken > 0 && taken < OF_OBJECTS / 2, "{taken} were taken");
}
