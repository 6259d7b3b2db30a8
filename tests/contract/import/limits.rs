//! Memory and time of imports: both stay small whatever an archive holds or claims.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use banger_host::digest::sha256;
use serde_json::{Value, json};

use super::{World, simple, whole};
use crate::support::archive::{Header, Tar, layout};
use crate::support::disk::DISK;
use crate::support::{self, assert_error, command, run};

/// What an import may take, KiB, whatever it reads.
const MEMORY_KIB: i64 = 64 << 10;

/// Names as many as are allowed by default, directories not counted. Programs without optimisation, which take a minute for them, get a few.
const NAMES: u32 = if cfg!(debug_assertions) { 50_000 } else { 498_000 };

/// What became of an import.
struct Ended {
    output: Output,
    peak_kib: i64,
    took: Duration,
}

impl World {
    /// Imports from stdin what `write` writes, after the program `packer` packed it.
    fn stream<F>(&self, packer: &[&str], more: &[&str], write: F) -> Ended
    where
        F: FnOnce(&mut BufWriter<ChildStdin>) -> io::Result<()> + Send,
    {
        let mut pack = command(packer[0]);
        let pack = pack.args(&packer[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut pack = pack.expect("the packer starts");
        let packed = Stdio::from(pack.stdout.take().expect("piped"));
        let mut disk = command(DISK.as_str());
        disk.args(["image", "import", "-", "new"]).args(more).env("BANGER_STATE_DIR", self.state.path());
        disk.stdin(packed);
        let input = pack.stdin.take().expect("piped");
        let ended = std::thread::scope(|scope| {
            // An import may end before it has read everything.
            scope.spawn(move || drop(write(&mut BufWriter::new(input))));
            measured(disk)
        });
        pack.wait().expect("the packer ends");
        ended
    }
}

/// Runs `import`; its stdin is given.
#[expect(clippy::zombie_processes, reason = "wait4 waits, and tells more")]
fn measured(mut import: Command) -> Ended {
    let begun = Instant::now();
    let child = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the import starts");
    // It holds the pipe, whose end the packer is to see.
    drop(import);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().expect("piped").read_to_end(&mut stdout).expect("stdout is read");
    child.stderr.take().expect("piped").read_to_end(&mut stderr).expect("stderr is read");
    let (status, peak_kib) = wait(child.id());
    Ended { output: Output { status, stdout, stderr }, peak_kib, took: begun.elapsed() }
}

/// Waits for the child `pid`; gives the most memory that it had, KiB.
fn wait(pid: u32) -> (ExitStatus, i64) {
    let mut status = 0;
    // SAFETY: all zeros is a valid rusage; wait4 fills it and the status.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        let pid = libc::pid_t::try_from(pid).expect("a pid");
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
        usage
    };
    (ExitStatus::from_raw(status), usage.ru_maxrss)
}

/// As many empty files as `count`, in directories of `dir`, with names that are as long as they may be on average.
fn names(out: &mut dyn Write, dir: &str, count: u32) -> io::Result<()> {
    for i in 0..count {
        let path = format!("{dir}/{:03}/a-file-with-a-na{i:07}", i % 1000);
        out.write_all(&Tar::default().file(&path, b"").bytes)?;
    }
    Ok(())
}

/// A file of `mib` MiB that is not zeros.
fn large(out: &mut dyn Write, mib: u64) -> io::Result<()> {
    let piece = support::noise(1 << 16);
    out.write_all(&Tar::default().put(Header::new(b"usr/large", b'0', mib << 20), b"").bytes)?;
    (0..mib << 4).try_for_each(|_| out.write_all(&piece))
}

/// Everything that takes memory at once: the largest window, and as many names as are allowed, some of them twice.
#[test]
fn memory_stays_small_whatever_the_layer_is() {
    let able = support::has("zstd") && support::has("xz");
    if !support::require("contract", able, "packing archives needs zstd and xz-utils") {
        return;
    }
    let world = World::new();
    let zstd = ["zstd", "-q", "-1", "--zstd=wlog=24"];
    let xz = ["xz", "-0", "--lzma2=preset=0,dict=16MiB"];
    let gzip = ["gzip", "-1"];
    let seen = |what: &str, packer: &[&str], write: &(dyn Fn(&mut dyn Write) -> io::Result<()> + Sync)| {
        let ended = world.stream(packer, &[], |out| {
            write(out)?;
            out.write_all(&[0; 1024])
        });
        let said = String::from_utf8_lossy(&ended.output.stderr);
        assert!(ended.output.status.success(), "{what}: {said}");
        assert!(ended.peak_kib < MEMORY_KIB, "{what}: {} KiB", ended.peak_kib);
        let mut delete = command(DISK.as_str());
        delete.args(["image", "delete", "new"]).env("BANGER_STATE_DIR", world.state.path());
        assert!(run(&mut delete, b"").status.success());
    };
    seen("a large file, zstd", &zstd, &|out| large(out, 48));
    seen("a large file, xz", &xz, &|out| large(out, 48));
    seen("names, zstd", &zstd, &|out| names(out, "usr", NAMES));
    seen("names in /root, gzip", &gzip, &|out| names(out, "root", NAMES / 2 - 1000));
}

#[test]
fn what_would_take_too_much_memory_is_refused_with_a_way_out() {
    if !support::require("contract", support::has("zstd") && support::has("xz"), "needs zstd and xz-utils") {
        return;
    }
    let world = World::new();
    for packer in [&["xz", "-9"][..], &["zstd", "-q", "-1", "--long=27"]] {
        let ended = world.stream(packer, &[], |out| {
            large(out, 40)?;
            out.write_all(&[0; 1024])
        });
        let error = assert_error(&ended.output, 2, "bad-input");
        let (text, hint) = (whole(&error), error["error"]["hint"].to_string());
        assert!(text.contains(packer[0]) && text.contains("16 MiB"), "{text}");
        assert!(hint.contains(&format!("{} -dc FILE | banger image import - NAME", packer[0])), "{hint}");
        assert!(ended.peak_kib < MEMORY_KIB / 2, "{packer:?}: {} KiB", ended.peak_kib);
        world.assert_nothing_left(packer[0]);
    }
}

/// More entries than are allowed: ten million of them, directories that only stand in paths, and the home, which is copied.
#[test]
fn too_many_entries_end_an_import_early() {
    let world = World::new();
    let many = world.stream(&["cat"], &[], |out| names(out, "usr", 10_000_000));
    let text = whole(&assert_error(&many.output, 2, "bad-input"));
    assert!(text.contains("usr/") && text.contains("500000 entries"), "{text}");
    assert!(many.peak_kib < MEMORY_KIB, "{} KiB", many.peak_kib);
    assert!(many.took < Duration::from_secs(120), "{:?}", many.took);
    world.assert_nothing_left("ten million entries");

    let deep = (0..40).fold(Tar::default(), |tar, i| {
        let path: Vec<String> = (0..1000).map(|j| format!("{:x}", (i * 7 + j) % 16)).collect();
        tar.pax(&[("path", path.join("/").as_bytes())]).directory("d")
    });
    let home = (0..600).fold(Tar::default(), |tar, i| tar.file(&format!("root/f{i}"), b""));
    for (tar, limit, entry) in [(deep, 10_000, "/0/1/2/3"), (home, 1000, "\"root\"")] {
        let error =
            assert_error(&world.tar(&tar.end(), &[&format!("--max-entries={limit}")]), 2, "bad-input");
        let text = whole(&error);
        assert!(text.contains(entry) && text.contains(&format!("{limit} entries")), "{text}");
        assert!(error["error"]["hint"].to_string().contains("--max-entries"), "{error}");
        world.assert_nothing_left(entry);
    }
}

/// Ten gigabytes that a few kilobytes unpack to, or only claim.
#[test]
fn bombs_end_at_the_limit() {
    let world = World::new();
    let bomb = |packer: &[&str], bytes: u64| {
        world.stream(packer, &["--max-unpacked=67108864"], move |out| {
            let zeros = [0; 1 << 16];
            out.write_all(&Tar::default().put(Header::new(b"bomb", b'0', 10 << 30), b"").bytes)?;
            (0..bytes >> 16).try_for_each(|_| out.write_all(&zeros))
        })
    };
    for packer in [&["cat"][..], &["gzip", "-1"]] {
        let ended = bomb(packer, 128 << 20);
        let text = whole(&assert_error(&ended.output, 2, "bad-input"));
        assert!(text.contains("67108864"), "{text}");
        assert!(ended.peak_kib < MEMORY_KIB / 2, "{} KiB", ended.peak_kib);
        world.assert_nothing_left("a bomb");
    }
    for packer in [&["cat"][..], &["gzip"]] {
        let text = whole(&assert_error(&bomb(packer, 1 << 16).output, 2, "bad-input"));
        assert!(text.contains("bomb") && text.contains("cut off"), "{text}");
        world.assert_nothing_left("a claim");
    }
}

/// An image layout in `dir` whose configuration, manifest and index begin with members of whoever made it.
fn padded(dir: &Path, [config, manifest, index]: [&str; 3]) {
    let tar = simple().end();
    drop(fs::remove_dir_all(dir));
    layout(dir, &[(tar.clone(), tar)]);
    let blobs = dir.join("blobs/sha256");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::read_to_string(blobs.join(digest.trim_start_matches("sha256:"))).unwrap()
    };
    let pad = |text: &str, with: &str| format!("{{{with}{}", &text[1..]);
    let described = |text: &str| {
        fs::write(blobs.join(sha256(text.as_bytes())), text).unwrap();
        json!({ "digest": format!("sha256:{}", sha256(text.as_bytes())), "size": text.len() })
    };
    let list: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
    let mut image: Value = serde_json::from_str(&blob(&list["manifests"][0])).unwrap();
    image["config"] = described(&pad(&blob(&image["config"]), config));
    let list = json!({ "manifests": [described(&pad(&image.to_string(), manifest))] });
    fs::write(dir.join("index.json"), pad(&list.to_string(), index)).unwrap();
}

/// The largest documents that are read, full of what takes more room in memory than in a file.
#[test]
fn what_describes_an_image_takes_no_more_memory_than_it_is_long() {
    let world = World::new();
    let dir = world.path("layout");
    let import = |what: &str| {
        let mut disk = command(DISK.as_str());
        disk.args(["image", "import"]).arg(&dir).arg("new").env("BANGER_STATE_DIR", world.state.path());
        disk.stdin(Stdio::null());
        let ended = measured(disk);
        assert!(ended.peak_kib < MEMORY_KIB, "{what}: {} KiB", ended.peak_kib);
        ended.output
    };
    let many = |key: &str, entry: &str| {
        // The peak that the kernel tells of a child is at least what this process has.
        let entries = format!("{entry},").repeat(4_100_000 / (entry.len() + 1));
        format!("\"{key}\":[{}],", entries.trim_end_matches(','))
    };
    for unknown in [many("x", "0"), many("history", "{}")] {
        padded(&dir, [&unknown, &unknown, &unknown]);
        let output = import(&unknown[..20]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut delete = command(DISK.as_str());
        delete.args(["image", "delete", "new"]).env("BANGER_STATE_DIR", world.state.path());
        assert!(run(&mut delete, b"").status.success());
    }
    let descriptors = many("LIST", r#"{"digest":"","size":0}"#);
    let config = format!("\"config\":{{{}\"Cmd\":[]}},", many("Env", "\"\""));
    for (at, pad) in [
        (0, config),
        (1, descriptors.replace("LIST", "layers")),
        (1, descriptors.replace("LIST", "manifests")),
        (2, descriptors.replace("LIST", "manifests")),
    ] {
        let mut pads = ["", "", ""];
        pads[at] = &pad;
        padded(&dir, pads);
        let error = assert_error(&import(&pad[..20]), 2, "bad-input");
        assert!(whole(&error).contains("more than 10000 entries"), "{error}");
        world.assert_nothing_left("a list");
    }
}
