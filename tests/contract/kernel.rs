//! `banger-disk kernel` and `--kernel`: kernels that look like some, real programs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::disk::{Bench, names};
use crate::support::kernel::{CONFIG, RELEASE, deb, install, vmlinuz};
use crate::support::{self, assert_error, command, record, run};

/// A state directory, and beside it what a distribution installs.
fn world() -> (Bench, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "lib");
    (Bench::new(), root)
}

fn import(bench: &Bench, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut disk = bench.disk_command();
    disk.args(["kernel", "import"]);
    for arg in args {
        disk.arg(arg);
    }
    run(&mut disk, b"")
}

fn kernels(bench: &Bench) -> Vec<String> {
    fs::read_dir(bench.state().join("kernels")).map_or(Vec::new(), |_| names(&bench.state().join("kernels")))
}

fn plan(bench: &Bench, args: &[&str]) -> Output {
    let mut banger = command(env!("CARGO_BIN_EXE_banger"));
    banger.args(["vm", "plan", "--net", "user"]).args(args).env("BANGER_STATE_DIR", bench.state());
    run(&mut banger, b"")
}

#[test]
fn a_kernel_is_imported_listed_used_and_deleted() {
    let (bench, root) = world();
    let file = root.path().join(format!("boot/vmlinuz-{RELEASE}"));
    let imported = record(&import(&bench, &[&file, &"--modules", &root.path()]));
    assert_eq!(imported["schema"], "banger.kernel/1");
    assert_eq!(imported["name"], RELEASE, "it is called after its version");
    assert_eq!(imported["version"], RELEASE);
    assert_eq!(imported["source"], json!(file));
    assert_eq!(imported["missing"], json!([]));
    for name in ["vmlinuz", "vmlinux", "initrd.cpio"] {
        assert_eq!(imported["files"][name]["sha256"].as_str().unwrap().len(), 64, "{name}");
    }
    let initrd = fs::read(imported["paths"]["initrd"].as_str().unwrap()).unwrap();
    let text = String::from_utf8_lossy(&initrd);
    assert!(text.contains("object of ext4.ko") && text.contains("banger/modules.list"));
    let list = record(&bench.disk(&["kernel", "ls"], b""));
    assert_eq!(list, json!({ "schema": "banger.kernels/1", "items": [imported], "damaged": [] }));
    assert_eq!(record(&bench.disk(&["kernel", "show", RELEASE], b"")), imported);
    assert_error(&import(&bench, &[&file, &"--modules", &root.path()]), 1, "conflict");

    let planned = record(&plan(&bench, &["dev1", "--kernel", RELEASE]));
    assert_eq!(planned["vm"]["kernel"], RELEASE);
    for path in ["kernel", "kernel_elf", "initrd"] {
        assert_eq!(planned["vm"]["paths"][path], imported["paths"][path]);
    }
    assert!(planned["vm"]["paths"]["rootfs"].as_str().unwrap().contains("/images/debian/"));
    assert_error(&plan(&bench, &["dev2", "--kernel", "none"]), 3, "not-found");
    let error = assert_error(&bench.disk(&["kernel", "delete", RELEASE], b""), 1, "in-use");
    assert!(error["error"]["message"].as_str().unwrap().contains("dev1"), "{error}");

    let mut banger = command(env!("CARGO_BIN_EXE_banger"));
    run(banger.args(["vm", "delete", "dev1"]).env("BANGER_STATE_DIR", bench.state()), b"");
    assert_eq!(record(&bench.disk(&["kernel", "delete", RELEASE], b""))["result"]["changed"], true);
    assert_eq!(record(&bench.disk(&["kernel", "delete", RELEASE], b""))["result"]["changed"], false);
    assert_eq!(kernels(&bench), Vec::<String>::new());
    assert_error(&bench.disk(&["kernel", "show", RELEASE], b""), 3, "not-found");
}

#[test]
fn a_lost_file_is_told_with_the_kernels_name() {
    let (bench, root) = world();
    let file = root.path().join(format!("boot/vmlinuz-{RELEASE}"));
    let imported = record(&import(&bench, &[&file, &"--modules", &root.path(), &"--name", &"mine"]));
    let planned = record(&plan(&bench, &["dev1", "--kernel", "mine"]));
    fs::remove_file(imported["paths"]["kernel_elf"].as_str().unwrap()).unwrap();
    assert_eq!(record(&bench.disk(&["kernel", "show", "mine"], b""))["missing"], json!(["vmlinux"]));
    assert_error(&plan(&bench, &["dev2", "--kernel", "mine"]), 3, "not-found");
    let net = run(command(env!("CARGO_BIN_EXE_banger-netd")).arg("attach"), planned.to_string().as_bytes());
    let error = assert_error(&bench.disk(&["attach"], &net.stdout), 3, "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("kernel mine"), "{error}");
    assert!(error["error"]["hint"].as_str().unwrap().contains("kernel import"), "{error}");
    // A VM would boot another kernel than it was planned with.
    assert_error(&import(&bench, &[&file, &"--modules", &root.path(), &"--name", &"mine"]), 1, "in-use");
}

#[test]
fn packages_of_either_layout_and_several_that_belong_together() {
    for (lib, option, suffix) in [("lib", "--xz", ".xz"), ("usr/lib", "--zstd", ".zst"), ("lib", "", "")] {
        let (bench, root) = (Bench::new(), tempfile::tempdir().unwrap());
        let modules = install(root.path(), lib);
        symlink("/usr/src/linux", modules.join("build")).unwrap();
        // As in Ubuntu: the modules in a package of their own.
        let other = tempfile::tempdir().unwrap();
        let (first, second) = (bench.state().join("image.deb"), bench.state().join("modules.deb"));
        if suffix == ".zst" {
            let target = other.path().join("usr");
            fs::rename(root.path().join("usr"), target).unwrap();
            deb(&second, other.path(), option, suffix);
        }
        deb(&first, root.path(), option, suffix);
        let output = match suffix {
            ".zst" => {
                assert_error(&import(&bench, &[&first]), 2, "bad-input");
                import(&bench, &[&first, &second])
            }
            _ => import(&bench, &[&first]),
        };
        let imported = record(&output);
        assert_eq!(imported["version"], RELEASE);
        assert!(imported["source"].as_str().unwrap().starts_with("image.deb"), "{imported}");
        assert_eq!(kernels(&bench), [RELEASE]);
        assert_eq!(
            names(&bench.state().join("kernels").join(RELEASE)),
            ["initrd.cpio", "manifest.json", "vmlinux", "vmlinuz"]
        );
    }
}

#[test]
fn an_images_kernel_can_be_had() {
    let bench = Bench::new();
    let imported = record(&bench.disk(&["kernel", "import", "--image", "debian", "--name", "old"], b""));
    assert_eq!(imported["source"], "image debian");
    assert_eq!(imported["version"], "6.1.0-test");
    assert_eq!(fs::read(imported["paths"]["kernel"].as_str().unwrap()).unwrap(), b"not a kernel");
    assert_error(&bench.disk(&["kernel", "import", "--image", "none"], b""), 3, "not-found");
}

/// What is changed of a kernel that would do, the status, the code, and what the message must name.
type Refusal = (&'static str, fn(&Path, &Path), i32, &'static str, &'static str);

#[test]
fn what_cannot_boot_is_refused_by_name_and_leaves_nothing() {
    let table: [Refusal; 10] = [
        ("an option", |dir, _| lacking(dir, "DEVTMPFS"), 5, "unsupported", "CONFIG_DEVTMPFS"),
        ("a driver", |dir, _| lacking(dir, "VIRTIO_BLK"), 5, "unsupported", "CONFIG_VIRTIO_BLK"),
        ("no configuration, no module", no_ext4, 5, "unsupported", "ext4"),
        ("no config at all", |dir, _| write_config(dir, "x\n"), 2, "bad-input", "configuration"),
        ("no kernel", |dir, _| write_kernel(dir, b"text"), 2, "bad-input", "boot/vmlinuz-"),
        ("a program", |dir, _| write_kernel(dir, b"\x7fELF of another kind"), 2, "bad-input", "no Linux"),
        ("another's modules", |dir, _| write_kernel(dir, &vmlinuz("6.9.9")), 2, "bad-input", "6.9.9"),
        ("two trees", two_trees, 2, "bad-input", "no modules of 6.9.9"),
        ("no modules", |_, modules| fs::remove_dir_all(modules).unwrap(), 2, "bad-input", "modules"),
        ("a module that is a link", linked, 2, "bad-input", "ext4.ko"),
    ];
    for (what, change, status, code, named) in table {
        let (bench, root) = (Bench::new(), tempfile::tempdir().unwrap());
        let modules = install(root.path(), "usr/lib");
        // Modules that say what they are for.
        fs::write(modules.join("kernel/virtio_pci.ko"), object(&format!("vermagic={RELEASE} SMP"))).unwrap();
        change(root.path(), &modules);
        let file = root.path().join(format!("boot/vmlinuz-{RELEASE}"));
        let output = import(&bench, &[&file, &"--modules", &root.path()]);
        let error = assert_error(&output, status, code);
        assert!(all_of(&error).contains(named), "{what}: {error}");
        assert_eq!(kernels(&bench), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_package_is_called_by_its_name() {
    let (bench, root) = world();
    lacking(root.path(), "DEVTMPFS");
    let package = bench.state().join("image.deb");
    deb(&package, root.path(), "", "");
    let error = assert_error(&import(&bench, &[&package]), 5, "unsupported");
    let said = all_of(&error);
    assert!(said.contains("image.deb") && !said.contains(".tmp-"), "{error}");
}

/// The message with its causes and the hint.
fn all_of(error: &Value) -> String {
    let error = &error["error"];
    format!("{} {} {}", error["message"], error["causes"], error["hint"])
}

fn write_config(dir: &Path, text: &str) {
    fs::write(dir.join(format!("boot/config-{RELEASE}")), text).unwrap();
}

fn write_kernel(dir: &Path, bytes: &[u8]) {
    fs::write(dir.join(format!("boot/vmlinuz-{RELEASE}")), bytes).unwrap();
}

fn lacking(dir: &Path, option: &str) {
    let kept = CONFIG.lines().filter(|line| !line.starts_with(&format!("CONFIG_{option}=")));
    write_config(dir, &kept.collect::<Vec<_>>().join("\n"));
}

fn no_ext4(dir: &Path, modules: &Path) {
    fs::remove_file(dir.join(format!("boot/config-{RELEASE}"))).unwrap();
    fs::remove_file(modules.join("kernel/ext4.ko")).unwrap();
}

fn two_trees(dir: &Path, modules: &Path) {
    fs::create_dir_all(modules.with_file_name("5.0.0/kernel")).unwrap();
    write_kernel(dir, &vmlinuz("6.9.9"));
}

fn linked(_: &Path, modules: &Path) {
    let path = modules.join("kernel/ext4.ko");
    fs::remove_file(&path).unwrap();
    fs::write(modules.join("modules.dep"), dep()).unwrap();
    symlink("/etc/hostname", path).unwrap();
}

fn dep() -> String {
    let names = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "ext4"];
    let lines = names.iter().chain(&["vmw_vsock_virtio_transport"]);
    lines.map(|name| format!("kernel/{name}.ko:\n")).collect()
}

/// An ELF object with nothing but a section .modinfo.
fn object(entry: &str) -> Vec<u8> {
    let (info, names) = (format!("{entry}\0"), b"\0.modinfo\0");
    let mut elf = vec![0; 0x40];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf.extend_from_slice(info.as_bytes());
    elf.extend_from_slice(names);
    let headers = elf.len() as u64;
    for (name, at, size) in [(0_u32, 0x40 + info.len(), names.len()), (1, 0x40, info.len())] {
        let mut header = [0; 0x40];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf[0x28..0x30].copy_from_slice(&headers.to_le_bytes());
    elf[0x3a..0x40].copy_from_slice(&[0x40, 0, 2, 0, 0, 0]);
    elf
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    let (bench, root) = world();
    let file = root.path().join(format!("boot/vmlinuz-{RELEASE}"));
    let package = bench.state().join("image.deb");
    deb(&package, root.path(), "", "");
    let state = bench.state();
    assert_error(&import(&bench, &[]), 2, "usage");
    assert_error(&import(&bench, &[&file, &"--image", &"debian"]), 2, "usage");
    assert_error(&import(&bench, &[&file, &package]), 2, "usage");
    assert_error(&import(&bench, &[&package, &"--modules", &root.path()]), 2, "usage");
    assert_error(&import(&bench, &[&file, &"--name", &"../x", &"--modules", &root.path()]), 2, "usage");
    assert_error(&import(&bench, &[&state.join("none")]), 3, "not-found");
    // Nothing tells what is built in: no modules, no configuration.
    fs::remove_file(root.path().join(format!("boot/config-{RELEASE}"))).unwrap();
    let error = assert_error(&import(&bench, &[&file]), 2, "bad-input");
    assert!(all_of(&error).contains("--modules") && all_of(&error).contains("--kconfig"), "{error}");
    assert_eq!(kernels(&bench), Vec::<String>::new());
}

#[test]
fn a_killed_import_leaves_nothing_to_the_next() {
    if !support::require("contract", support::has("strace"), "killing at a system call needs strace") {
        return;
    }
    let (bench, root) = world();
    let package = bench.state().join("image.deb");
    deb(&package, root.path(), "--xz", ".xz");
    for (call, nth) in [("rename", 1), ("mkdir", 3), ("fchmod", 2), ("unlinkat", 1), ("write", 5)] {
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let mut strace = command("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &inject]);
        strace.args([support::disk::DISK.as_str(), "kernel", "import"]).arg(&package);
        strace.env("BANGER_STATE_DIR", bench.state()).env("HOME", bench.state());
        let output = run(&mut strace, b"");
        assert!(!output.status.success(), "{call} {nth} is never called");
        let left = kernels(&bench);
        assert!(left.iter().all(|name| name.starts_with(".tmp-")), "{call}: {left:?}");
        assert_eq!(record(&bench.disk(&["kernel", "ls"], b""))["items"], json!([]));
        // Every other time the collection cleans, else the next import.
        if nth % 2 == 1 {
            let list = json!({ "schema": "banger.vms/1", "state_id": "01234567", "items": [] });
            record(&bench.disk(&["gc"], list.to_string().as_bytes()));
            assert_eq!(kernels(&bench), Vec::<String>::new(), "{call}");
        }
        record(&import(&bench, &[&package]));
        assert_eq!(kernels(&bench), [RELEASE]);
        record(&bench.disk(&["kernel", "delete", RELEASE], b""));
    }
}
