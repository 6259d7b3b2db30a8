//! Random layers: what is made of them is what umoci makes of them.

use super::{World, assert_same, must};
use crate::support::archive::{Header, Tar, layout};
use crate::support::changes::seeds;
use crate::support::{command, tree};

/// Numbers that look random and are always the same (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}

/// A layer above those whose files are `files` and directories `directories`, which are kept up to date as a simple model: it tells
/// what may come next, not what must come out.
fn layer(random: &mut Random, number: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut used: Vec<String> = Vec::new();
    let mut files: Vec<String> = Vec::new();
    for i in 0..random.below(12) + 1 {
        let depth = random.below(3) + 1;
        let path: Vec<String> = (0..depth).map(|_| format!("n{}", random.below(4))).collect();
        let path = path.join("/");
        // No path twice, no file where the layer has a directory, nothing below a file.
        let clash = used.iter().any(|other| {
            *other == path || path.starts_with(&format!("{other}/")) || other.starts_with(&format!("{path}/"))
        });
        if clash {
            continue;
        }
        let (parent, name) =
            path.rsplit_once('/').map_or(("", path.as_str()), |(parent, name)| (parent, name));
        let in_parent =
            |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        tar = match random.below(8) {
            // Every directory on the way is said, since what is in its place below may be a file.
            0 | 1 => {
                used.push(format!("{path}/"));
                parents(tar, &path, &mut used).directory(&path)
            }
            2 | 3 => {
                files.push(path.clone());
                used.push(path.clone());
                parents(tar, &path, &mut used).file(&path, format!("{number} {i}").as_bytes())
            }
            4 if !files.is_empty() => {
                let target = files[random.below(files.len() as u64) as usize].clone();
                used.push(path.clone());
                parents(tar, &path, &mut used).hard_link(&path, &target)
            }
            5 => {
                used.push(path.clone());
                let mut fifo = Header::new(path.as_bytes(), b'6', 0);
                fifo.set(108, format!("{:07o}", random.below(2000)).as_bytes());
                parents(tar, &path, &mut used).put(fifo, b"")
            }
            6 => tar.file(&in_parent(&format!(".wh.{name}")), b""),
            _ if !parent.is_empty() => tar.file(&in_parent(".wh..wh..opq"), b""),
            _ => tar,
        };
    }
    tar.end()
}

/// The directories above `path`, unless the layer has them.
fn parents(mut tar: Tar, path: &str, used: &mut Vec<String>) -> Tar {
    for (at, _) in path.match_indices('/') {
        let directory = format!("{}/", &path[..at]);
        if !used.contains(&directory) {
            tar = tar.directory(&directory);
            used.push(directory);
        }
    }
    tar
}

#[test]
fn random_layers_become_what_umoci_makes_of_them() {
    let Some(world) = World::new() else { return };
    for seed in seeds(0..6) {
        let mut random = Random(seed);
        let layers: Vec<Vec<u8>> =
            (0..random.below(4) + 2).map(|number| layer(&mut random, number as usize)).collect();
        let dir = world.path("layout");
        layout(&dir, &layers.iter().map(|tar| (tar.clone(), tar.clone())).collect::<Vec<_>>());
        let expected = world.umoci(&dir, "test");
        let rootfs = world.import(&dir, "random");
        let mut found = tree::mounted(&rootfs, tree::scan);
        let mut expected = expected;
        // A directory's own time changes in umoci's hands when something in it is removed.
        for scan in [&mut found, &mut expected] {
            tree::forget(scan, &["time", "nanos", "xattrs"]);
        }
        assert_same(found, expected, &format!("BANGER_TEST_SEED={seed}"));
        must(&mut world.command(&["image", "delete", "random"]));
        must(command("rm").arg("-r").arg(&dir));
    }
}
