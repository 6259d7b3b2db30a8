//! `banger-disk` without privilege: tiny filesystems, real programs.

use std::fs::{self, File};
use std::io::{Seek, Write};

use serde_json::{Value, json};

use crate::support::disk::{Bench, mode, names, vm_dir};
use crate::support::{assert_error, command, record, run};

/// What `vm plan` leaves in a VM's directory, before any disk.
const PLANNED: [&str; 3] = ["host_key", "host_key.pub", "known_hosts"];

#[test]
fn attach_twice_changes_nothing_and_detach_keeps_the_disks() {
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    let first = bench.verb("attach", &planned);
    assert_eq!(first["result"]["changed"], true);
    let (disk, dir) = (&first["disk"], vm_dir(&first));
    assert!(disk["backend"] == "overlay" || disk["backend"] == "reflink", "{disk}");
    assert_eq!(mode(&dir.join("initrd")), 0o600, "it holds the host key");
    assert_eq!(fs::metadata(dir.join("work.ext4")).unwrap().len(), 1 << 30, "grown to the VM's size");
    // The same record again, and the plan replayed: both find it done.
    for again in [&first, &planned] {
        let second = bench.verb("attach", again);
        assert_eq!(second["result"]["changed"], false);
        assert_eq!(second["disk"], *disk);
    }
    assert_eq!(bench.verb("check", &first)["result"]["changed"], false);

    let mut work = File::options().write(true).open(dir.join("work.ext4")).unwrap();
    work.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
    work.write_all(b"the guest was here").unwrap();
    let before = fs::read(dir.join("work.ext4")).map(|bytes| bytes[1 << 20..][..18].to_vec()).unwrap();
    let detached = bench.verb("detach", &first);
    assert_eq!(detached["result"]["changed"], true);
    assert!(detached["disk"].is_null());
    assert!(!dir.join("initrd").exists() && dir.join("work.ext4").exists());
    assert_eq!(bench.verb("detach", &detached)["result"]["changed"], false, "removing nothing succeeds");

    let back = bench.verb("attach", &detached);
    assert_eq!(back["result"]["changed"], true);
    assert_eq!(back["disk"]["root_device"], disk["root_device"]);
    assert_eq!(
        fs::read(dir.join("work.ext4")).unwrap()[1 << 20..][..18],
        before,
        "the work disk is the same"
    );
}

#[test]
fn other_input_is_a_conflict_once_attached() {
    let bench = Bench::new();
    let attached = bench.verb("attach", &bench.planned("dev1"));
    let mut network = attached.clone();
    network["net"]["dns"] = json!(["192.0.2.53"]);
    let mut hostname = attached.clone();
    hostname["vm"]["hostname"] = "other".into();
    for other in [network, hostname] {
        let output = bench.disk(&["attach"], other.to_string().as_bytes());
        let error = assert_error(&output, 1, "conflict");
        assert!(error["error"]["hint"].as_str().unwrap().contains("detach"), "{error}");
        let mut detached = other;
        detached["disk"] = Value::Null;
        assert_eq!(
            bench.verb("attach", &detached)["result"]["changed"],
            true,
            "not attached: it is made anew"
        );
        bench.verb("detach", &attached);
        bench.verb("attach", &attached);
    }
}

#[test]
fn a_deleted_image_file_is_named_and_nothing_is_left() {
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    for name in ["rootfs.ext4", "vmlinuz", "vmlinux", "initrd.cpio", "work-seed.ext4", "upper-seed.ext4"] {
        let (file, away) = (bench.image_file(name), bench.state().join("away"));
        fs::rename(&file, &away).unwrap();
        let output = bench.disk(&["attach"], planned.to_string().as_bytes());
        let error = assert_error(&output, 3, "not-found");
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.contains(name), "{text}");
        assert!(error["error"]["hint"].as_str().unwrap().contains("banger image build debian"), "{error}");
        let shown = record(&bench.disk(&["image", "show", "debian"], b""));
        assert_eq!(shown["missing"], json!([name]));
        fs::rename(&away, &file).unwrap();
    }
    assert_eq!(names(&vm_dir(&planned)), PLANNED);
}

#[test]
fn bad_records_are_refused_and_leave_nothing() {
    let bench = Bench::new();
    let good = bench.planned("dev1");
    let table: [(&str, Value, i32, &str); 12] = [
        ("/net", Value::Null, 2, "bad-input"),
        ("/vm/paths/rootfs", json!("rootfs.ext4"), 2, "bad-input"),
        ("/vm/paths/rootfs", json!("/nonexistent/\u{1b}[2J"), 3, "not-found"),
        ("/vm/paths/rootfs", json!("/"), 3, "not-found"),
        ("/vm/paths/rootfs", json!(bench.image_file("vmlinuz")), 1, "failed"),
        ("/vm/paths/work_seed", json!(bench.image_file("vmlinuz")), 1, "failed"),
        ("/vm/paths/dir", json!("/etc"), 2, "bad-input"),
        ("/vm/paths/dir", json!("relative/vms/0123456789ab"), 2, "bad-input"),
        ("/vm/work_size_bytes", json!(u64::MAX), 2, "bad-input"),
        ("/vm/rootfs_size_bytes", json!(-1), 2, "bad-input"),
        ("/vm/disk_backend", json!("dm"), 5, "unsupported"),
        ("/vm/disk_backend", json!("magic"), 2, "bad-input"),
    ];
    for (pointer, value, status, code) in table {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value.clone();
        let output = bench.disk(&["attach"], bad.to_string().as_bytes());
        let error = assert_error(&output, status, code);
        assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{1b}'), "{pointer} {value}: {error}");
        assert_eq!(names(&vm_dir(&good)), PLANNED, "{pointer} {value}");
    }
    let mut unknown = good.clone();
    unknown["vm"]["surprise"] = json!(1);
    assert_error(&bench.disk(&["attach"], unknown.to_string().as_bytes()), 2, "bad-input");
}

#[test]
fn keys_that_are_missing_or_no_keys_are_refused() {
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    let dir = vm_dir(&planned);
    let attach = || bench.disk(&["attach"], planned.to_string().as_bytes());
    let client = bench.state().join("ssh/id_ed25519.pub");
    fs::write(&client, "ssh-ed25519 AAAA\nssh-rsa injected\n").unwrap();
    let error = assert_error(&attach(), 2, "bad-input");
    assert!(error["error"]["message"].as_str().unwrap().contains("id_ed25519.pub"), "{error}");
    fs::remove_file(&client).unwrap();
    assert_error(&attach(), 3, "not-found");
    fs::remove_file(dir.join("host_key")).unwrap();
    let error = assert_error(&attach(), 3, "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("host_key"), "{error}");
    assert_eq!(names(&dir), ["host_key.pub", "known_hosts"], "no disk is left of a failed attach");
}

#[test]
fn a_running_vm_keeps_its_disks() {
    let bench = Bench::new();
    let attached = bench.verb("attach", &bench.planned("dev1"));
    let lock = File::create(vm_dir(&attached).join("run.lock")).unwrap();
    lock.lock().unwrap();
    let document = attached.to_string();
    assert_error(&bench.disk(&["detach"], document.as_bytes()), 1, "in-use");
    assert_eq!(bench.verb("attach", &attached)["result"]["changed"], false);
    fs::remove_file(vm_dir(&attached).join("work.ext4")).unwrap();
    assert_error(&bench.disk(&["attach"], document.as_bytes()), 1, "in-use");
    let error = assert_error(&bench.disk(&["check"], document.as_bytes()), 1, "failed");
    assert!(error["error"]["message"].as_str().unwrap().contains("work.ext4"), "{error}");
    drop(lock);
    // It ran, so its entropy is spent: the initrd is made anew, and the disk that is gone with it.
    assert_eq!(bench.verb("attach", &attached)["result"]["changed"], true);
    bench.verb("check", &attached);
}

#[test]
fn the_initrd_has_the_identity_and_the_keys() {
    let bench = Bench::new();
    fs::write(
        bench.state().join(".gitconfig"),
        "[user]\n\tname = Ann \"A\" Doe\n\temail = ann@example.org\n",
    )
    .unwrap();
    let attached = bench.verb("attach", &bench.planned("dev1"));
    let initrd = fs::read(vm_dir(&attached).join("initrd")).unwrap();
    let key = fs::read_to_string(vm_dir(&attached).join("host_key")).unwrap();
    let client = fs::read_to_string(bench.state().join("ssh/id_ed25519.pub")).unwrap();
    let text = String::from_utf8_lossy(&initrd);
    assert!(text.starts_with("not a kernel"), "the shared segment comes first");
    assert!(text.contains("ann@example.org") && text.contains(key.lines().nth(1).unwrap()));
    assert!(text.contains(client.split_whitespace().nth(1).unwrap()));
    assert!(text.contains("root/.ssh/authorized_keys"));
}

#[test]
fn gc_removes_what_belongs_to_nobody() {
    let bench = Bench::new();
    let recorded = bench.planned("dev1");
    let vms = bench.state().join("vms");
    let [orphan, listed, alive] = ["0000000000aa", "0000000000bb", "0000000000cc"].map(|id| vms.join(id));
    for dir in [&orphan, &listed, &alive] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("work.ext4"), "data").unwrap();
    }
    let lock = File::create(alive.join("run.lock")).unwrap();
    lock.lock().unwrap();
    let unfinished = bench.state().join("images/.tmp-abc");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("rootfs.ext4"), "half").unwrap();
    let list =
        json!({ "schema": "banger.vms/1", "state_id": "01234567", "items": [{ "id": "0000000000bb" }] });
    let report = record(&bench.disk(&["gc"], list.to_string().as_bytes()));
    assert_eq!(report["schema"], "banger.gc/1");
    assert_eq!(report["removed"], json!([unfinished, orphan]));
    assert_eq!(report["errors"], json!([]));
    assert!(listed.exists() && alive.exists() && vm_dir(&recorded).exists());
    let again = record(&bench.disk(&["gc"], list.to_string().as_bytes()));
    assert_eq!(again["removed"], json!([]));
    assert_error(&bench.disk(&["gc"], b""), 2, "no-input");
    assert_error(
        &bench.disk(&["gc"], b"{\"schema\":\"banger.vms/9\",\"items\":[]}"),
        2,
        "unsupported-schema",
    );
    assert_error(&bench.disk(&["gc"], b"[]"), 2, "bad-input");
}

#[test]
fn images_are_listed_shown_and_deleted() {
    let bench = Bench::new();
    let list = record(&bench.disk(&["image", "ls"], b""));
    assert_eq!(list["schema"], "banger.images/1");
    assert_eq!(list["items"][0]["name"], "debian");
    assert_eq!(list["items"][0]["missing"], json!([]));
    assert_error(&bench.disk(&["image", "show", "other"], b""), 3, "not-found");
    assert_error(&bench.disk(&["image", "show", "../x"], b""), 2, "usage");
    bench.planned("dev1");
    let error = assert_error(&bench.disk(&["image", "delete", "debian"], b""), 1, "in-use");
    assert!(error["error"]["message"].as_str().unwrap().contains("dev1"), "{error}");
    fs::rename(bench.state().join("images/debian"), bench.state().join("images/spare")).unwrap();
    let deleted = record(&bench.disk(&["image", "delete", "spare"], b""));
    assert_eq!(deleted["result"]["changed"], true);
    assert_eq!(record(&bench.disk(&["image", "delete", "spare"], b""))["result"]["changed"], false);
    assert_eq!(names(&bench.state().join("images")), Vec::<String>::new());
}

#[test]
fn a_damaged_image_or_kernel_hides_no_other() {
    let bench = Bench::new();
    let broken = bench.state().join("images/broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("manifest.json"), "{").unwrap();
    let kernel = bench.state().join("kernels/6.1");
    fs::create_dir_all(&kernel).unwrap();
    fs::write(kernel.join("manifest.json"), "{}").unwrap();

    let list = record(&bench.disk(&["image", "ls"], b""));
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["items"][0]["name"], "debian");
    let [damaged] = &list["damaged"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&damaged["name"], &damaged["error"]["code"]), (&json!("broken"), &json!("failed")));
    let kernels = record(&bench.disk(&["kernel", "ls"], b""));
    assert_eq!(kernels["items"], json!([]));
    assert_eq!(kernels["damaged"][0]["name"], "6.1");

    let banger = |args: &[&str]| {
        let mut banger = command(env!("CARGO_BIN_EXE_banger"));
        run(banger.args(args).env("BANGER_STATE_DIR", bench.state()), b"")
    };
    assert_eq!(record(&banger(&["image", "ls", "--json"])), list);
    fs::remove_file(bench.image_file("vmlinuz")).unwrap();
    let output = banger(&["image", "ls"]);
    assert!(output.status.success());
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let states: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(states[1], ["broken", "-", "-", "-", "damaged"], "{stdout}");
    assert!(states[2][0] == "debian" && states[2].ends_with(&["lacks", "vmlinuz"]), "{stdout}");
    assert!(stderr.contains("broken is not valid") && stderr.contains("image delete broken"), "{stderr}");
    // What removes by what is listed does nothing with half of the list.
    assert_error(&bench.disk(&["image", "prune", "--all"], b""), 1, "failed");
    assert!(bench.state().join("images/debian").exists());
    record(&bench.disk(&["image", "delete", "broken"], b""));
    assert_eq!(record(&bench.disk(&["image", "ls"], b""))["damaged"], json!([]));
}

#[test]
fn wrong_build_arguments_are_refused_before_anything_is_made() {
    let bench = Bench::new();
    let script = bench.state().join("script");
    fs::write(&script, "echo no interpreter\n").unwrap();
    let script = script.to_str().unwrap();
    let table: [&[&str]; 14] = [
        &["devel"],
        &["--recipe", "other"],
        &["--mise", "/usr/bin/mise"],
        &["--file", "Dockerfile", "--recipe", "dev"],
        &["--script", script],
        &["--file", "Dockerfile", "--suite", "sid"],
        &["--kernel", "other"],
        &["--suite", "../x"],
        &["--suite", "-x"],
        &["--package", "--option"],
        &["--package", "a,b"],
        &["--mirror", "ftp://example.org/"],
        &["--mirror", "http://example.org/ sid main\ndeb http://x"],
        &["--size", "4096"],
    ];
    for wrong in table {
        let args = [&["image", "build", "--name", "new"], wrong].concat();
        assert_error(&bench.disk(&args, b""), 2, "usage");
    }
    assert_error(&bench.disk(&["image", "build", "debian"], b""), 1, "conflict");
    let mut bare = bench.disk_command();
    let build = ["image", "build", "--name", "new"];
    let output = crate::support::run(bare.args(build).env("PATH", "/nonexistent"), b"");
    assert_error(&output, 5, "unsupported");
    for gone in ["--script", "--keyring"] {
        let output = bench.disk(&[&build[..], &[gone, "/nonexistent"]].concat(), b"");
        assert_error(&output, 3, "not-found");
    }
    assert_error(&bench.disk(&["image", "build", "-f", "/nonexistent", "."], b""), 3, "not-found");
    let mut bare = bench.disk_command();
    bare.args(["image", "build", "-f", script, "--name", "new"])
        .arg(bench.state())
        .env("PATH", "/nonexistent");
    let error = assert_error(&crate::support::run(&mut bare, b""), 5, "unsupported");
    assert!(error["error"]["message"].as_str().unwrap().contains("buildah, podman and docker"), "{error}");
    assert_eq!(names(&bench.state().join("images")), ["debian"]);
}

#[test]
fn a_work_disk_smaller_than_its_seed_is_made_empty_with_the_seeds_uuid() {
    let bench = Bench::new();
    let seed = bench.image_file("work-seed.ext4");
    fs::remove_file(&seed).unwrap();
    File::create(&seed).unwrap().set_len(256 << 20).unwrap();
    let mut mke2fs = command(crate::support::disk::mke2fs());
    let made = crate::support::run(mke2fs.args(["-q", "-F", "-t", "ext4"]).arg(&seed), b"");
    assert!(made.status.success());
    let mut planned = bench.planned("dev1");
    planned["vm"]["work_size_bytes"] = (64u64 << 20).into();
    let attached = bench.verb("attach", &planned);
    let work = vm_dir(&attached).join("work.ext4");
    assert_eq!(fs::metadata(&work).unwrap().len(), 64 << 20);
    let superblock = |path| fs::read(path).unwrap()[1024..2048].to_vec();
    let (seed, work) = (superblock(&seed), superblock(&work));
    assert_eq!(seed[0x68..0x78], work[0x68..0x78], "the guest finds it by the UUID");
    assert_eq!(
        u32::from_le_bytes(work[4..8].try_into().unwrap()),
        (64 << 20) / 4096,
        "and it fills the disk"
    );
    assert_eq!(bench.verb("check", &attached)["result"]["changed"], false);
}

#[test]
fn disks_grow_at_the_next_attach_and_what_is_in_them_stays() {
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    let first = bench.verb("attach", &planned);
    let dir = vm_dir(&first);
    let mut work = File::options().write(true).open(dir.join("work.ext4")).unwrap();
    work.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
    work.write_all(b"the guest was here").unwrap();
    let mut larger = bench.verb("detach", &first);
    larger["vm"]["rootfs_size_bytes"] = (3u64 << 30).into();
    larger["vm"]["work_size_bytes"] = (2u64 << 30).into();
    let grown = bench.verb("attach", &larger);
    let root = if grown["disk"]["backend"] == "overlay" { "upper.ext4" } else { "root.ext4" };
    let length = |name: &str| fs::metadata(dir.join(name)).unwrap().len();
    assert_eq!((length(root), length("work.ext4")), (3 << 30, 2 << 30));
    assert_eq!(bench.verb("check", &grown)["result"]["changed"], false);
    let mut bytes = vec![0; 18];
    let file = File::open(dir.join("work.ext4")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 1 << 20).unwrap();
    assert_eq!(bytes, b"the guest was here");
    // A record that is smaller than what is there shrinks nothing.
    let mut smaller = bench.verb("detach", &grown);
    smaller["vm"]["work_size_bytes"] = (1u64 << 30).into();
    bench.verb("attach", &smaller);
    assert_eq!(length("work.ext4"), 2 << 30);
}

#[test]
fn a_cap_makes_the_upper_disk_smaller_and_keeps_it_so() {
    let bench = Bench::new();
    let mut planned = bench.planned("dev1");
    planned["vm"]["max_changes_bytes"] = (32u64 << 20).into();
    let first = bench.verb("attach", &planned);
    let dir = vm_dir(&first);
    assert_eq!(first["disk"]["backend"], "overlay", "what cannot be capped is not taken: {first}");
    let upper = dir.join("upper.ext4");
    assert_eq!(fs::metadata(&upper).unwrap().len(), 32 << 20);
    let uuid = |path: &std::path::Path| fs::read(path).unwrap()[1024 + 0x68..][..16].to_vec();
    assert_eq!(uuid(&upper), uuid(&bench.image_file("upper-seed.ext4")), "the guest finds it by the seed's");
    let checked = command("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(&upper).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    assert_eq!(bench.verb("check", &first)["result"]["changed"], false);
    let mut larger = first.clone();
    larger["vm"]["rootfs_size_bytes"] = (3u64 << 30).into();
    assert_eq!(bench.verb("update", &larger)["result"]["changed"], false);
    let larger = bench.verb("detach", &larger);
    bench.verb("attach", &larger);
    assert_eq!(fs::metadata(&upper).unwrap().len(), 32 << 20);
}
