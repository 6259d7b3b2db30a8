//! Any sequence of changes, on the host and in the guest, makes the round trip.

use std::fs;

use super::guest::{Guest, copy_of, git, said, tree};
use crate::support;

/// A generator of pseudo-random numbers (xorshift64*), so that a failure can be repeated.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

fn mutate(dice: &mut Dice) -> String {
    let names = ["a", "src/a.c", "d/e/f", "README.md", "run.sh", "sp ace", "forced.o", "link", "q\"uote"];
    let name = format!("'{}'", names[dice.roll(9) as usize]);
    let text = dice.roll(1000);
    match dice.roll(11) {
        0 => format!("mkdir -p \"$(dirname {name})\" && echo {text} > {name}"),
        1 => format!("echo {text} >> {name}"),
        2 => format!("rm -rf {name}"),
        3 => format!("printf '\\0{text}\\377' > {name}"),
        4 => format!("git add {name}"),
        5 => "git add -A".into(),
        6 => format!("git commit -qm {text} -a"),
        7 => format!("chmod 755 {name}"),
        8 => format!("rm -rf {name}; ln -s target{text} {name}"),
        9 => format!("git add -N {name}"),
        _ => format!("rm -rf {name}; mkdir -p {name} && echo {text} > {name}/inner"),
    }
}

#[test]
fn any_sequence_of_changes_makes_the_round_trip() {
    let Some(guest) = Guest::new() else { return };
    let mut dice = Dice(0x00ba_9ce5_0000_0001);
    for round in 0..30 {
        for name in ["guest", "repo", "copy"] {
            drop(fs::remove_dir_all(guest.path(name)));
        }
        let repo = guest.repo();
        let script = |dice: &mut Dice| {
            (0..1 + dice.roll(8)).map(|_| mutate(dice) + " 2>/dev/null\n").collect::<String>()
        };
        let (on_host, in_guest) = (script(&mut dice), script(&mut dice));
        support::run(support::command("sh").args(["-c", &on_host]).current_dir(&repo), b"");
        let copy = copy_of(&guest, &repo);
        let ignored =
            String::from_utf8(git(&repo, &["ls-files", "-z", "--others", "--ignored", "--exclude-standard"]))
                .unwrap();
        for path in ignored.split('\0').filter(|p| !p.is_empty()) {
            drop(fs::remove_file(copy.join(path)));
        }
        let all = format!("git status --porcelain=v2 -z --untracked-files=all --no-renames\n{in_guest} true");
        let output = guest.run(&repo, &["--include-untracked"], &["sh", "-c", &all]);
        let story = format!("round {round}\n{on_host}---\n{in_guest}---\n{}", said(&output));
        assert!(output.status.success(), "{story}");
        let seen = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
        let expected =
            git(&repo, &["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames"]);
        let expected = String::from_utf8_lossy(&expected).replace('\0', "\n");
        assert!(seen.starts_with(&expected), "{story}\nexpected:\n{expected}");
        // Ignored files that the command made stay in the guest.
        let ignored =
            git(&guest.path("guest"), &["ls-files", "-z", "--others", "--ignored", "--exclude-standard"]);
        for path in String::from_utf8(ignored).unwrap().split('\0').filter(|p| !p.is_empty()) {
            drop(fs::remove_file(guest.path("guest").join(path)));
        }
        let patch = guest.path("p.patch");
        if fs::metadata(&patch).unwrap().len() > 0 {
            let mut apply = support::command("git");
            apply.arg("-C").arg(&copy).arg("apply").arg(&patch);
            let applied = support::run(&mut apply, b"");
            assert!(applied.status.success(), "{story}\n{}", said(&applied));
        }
        assert_eq!(tree(&copy), tree(&guest.path("guest")), "{story}");
    }
}
