//! Seeds that are missing or stale heal with the next VM.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::disk::{Bench, mode};
use crate::support::{command, run};

fn uuid(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(path).unwrap(), &mut bytes, 1024 + 0x68).unwrap();
    bytes
}

#[track_caller]
fn assert_sound(seed: &Path) {
    assert_eq!(mode(seed), 0o444);
    assert_eq!(fs::metadata(seed).unwrap().len(), 1 << 30);
    let checked = run(command("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(seed), b"");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_missing_seed_is_made_again_under_its_uuid() {
    let bench = Bench::new();
    for (n, name) in ["work-seed.ext4", "upper-seed.ext4"].into_iter().enumerate() {
        let seed = bench.image_file(name);
        // The first time nothing is known of it, afterwards its UUID is.
        fs::remove_file(&seed).unwrap();
        bench.verb("attach", &bench.planned(&format!("first{n}")));
        assert_sound(&seed);
        let made = uuid(&seed);
        fs::remove_file(&seed).unwrap();
        // What a killed attempt left.
        fs::write(bench.image_file(&format!("{name}.new")), "half").unwrap();
        bench.verb("attach", &bench.planned(&format!("again{n}")));
        assert_sound(&seed);
        assert_eq!(uuid(&seed), made, "VMs that have a copy of the old one are still found by it");
        assert!(!bench.image_file(&format!("{name}.new")).exists());
    }
}

#[test]
fn a_seed_of_another_root_is_made_again_and_a_good_one_is_left_alone() {
    let bench = Bench::new();
    let (seed, rootfs) = (bench.image_file("work-seed.ext4"), bench.image_file("rootfs.ext4"));
    fs::remove_file(bench.image_file("upper-seed.ext4")).unwrap();
    let before = (uuid(&seed), fs::metadata(&seed).unwrap().ino());
    bench.planned("healed");
    assert!(bench.image_file("seeds.json").is_file());
    assert_eq!((uuid(&seed), fs::metadata(&seed).unwrap().ino()), before, "only what is missing is made");
    bench.planned("same");
    assert_eq!(fs::metadata(&seed).unwrap().ino(), before.1);

    let rootfs = File::options().write(true).open(rootfs).unwrap();
    rootfs.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    bench.planned("stale");
    assert_eq!(uuid(&seed), before.0);
    assert_ne!(fs::metadata(&seed).unwrap().ino(), before.1);
    assert_sound(&seed);
    let healed = fs::metadata(&seed).unwrap().ino();
    bench.planned("fresh");
    assert_eq!(fs::metadata(&seed).unwrap().ino(), healed);
}
