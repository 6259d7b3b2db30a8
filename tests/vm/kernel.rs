//! A kernel from a package instead of the image's own. The package is made of the image's kernel as Debian makes it, with compressed
//! modules and without what depmod writes.

use std::path::Path;

use crate::home::{Home, prepared, said};
use crate::support::{self, record, run};

/// Runs a program that must succeed.
fn tool(program: &str, args: &[&str]) {
    let output = run(support::command(program).args(args), b"");
    assert!(output.status.success(), "{program} {args:?}: {}", said(&output));
}

/// Makes a package of the kernel in the prepared image; gives its release.
fn package(path: &Path, root: &Path) -> String {
    let image = prepared().join("images/debian");
    let manifest = std::fs::read(image.join("manifest.json")).expect("the image has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let release = manifest["kernel_version"].as_str().expect("an image has a kernel").to_owned();
    let (lib, boot) = (root.join("usr/lib"), root.join("boot"));
    std::fs::create_dir_all(&lib).expect("a directory");
    std::fs::create_dir_all(&boot).expect("a directory");
    std::fs::copy(image.join("vmlinuz"), boot.join(format!("vmlinuz-{release}")))
        .expect("the kernel is copied");
    let dump = format!("rdump /usr/lib/modules {}", lib.display());
    let rootfs = image.join("rootfs.ext4");
    let debugfs = which::which("debugfs").unwrap_or_else(|_| "/usr/sbin/debugfs".into());
    tool(debugfs.to_str().expect("a path is text"), &["-R", &dump, rootfs.to_str().expect("a path is text")]);
    let modules = lib.join("modules").join(&release);
    std::fs::remove_file(modules.join("modules.dep")).expect("the image has modules");
    // A few of them compressed are as good as all, and take seconds less.
    let xz = ["-name", "virtio*.ko", "-exec", "xz", "--check=crc32", "{}", "+"];
    tool("find", &[&[modules.to_str().expect("a path is text")], &xz[..]].concat());
    support::kernel::deb(path, root, "--zstd", ".zst");
    release
}

#[test]
fn a_packaged_kernel_boots_the_image() {
    let Some(home) = Home::new() else { return };
    let (repo, deb) = (home.repo("repo"), home.path("linux.deb"));
    let release = package(&deb, &home.path("package"));
    let imported = home.run(&["kernel", "import", "--name", "other", "--json", deb.to_str().unwrap()]);
    assert_eq!(record(&imported)["version"], release.as_str(), "{}", said(&imported));
    let command = "uname -r; grep -q ^virtio_blk /proc/modules || exit; grep -cw cx16 /proc/cpuinfo
        /lib64/ld-linux-x86-64.so.2 --help | grep -c 'x86-64-v2 (supported'; true";
    let args = [
        "vm",
        "run",
        "--name",
        "dev1",
        "--kernel",
        "other",
        repo.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        command,
    ];
    let output = home.run(&args);
    assert!(output.status.success(), "{}", said(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = stdout.lines();
    assert_eq!(lines.next(), Some(release.as_str()));
    let shown = record(&home.run(&["vm", "show", "dev1", "--record"]));
    let kernel = shown["disk"]["kernel"].as_str().expect("the VM has its disks");
    assert!(kernel.ends_with("/kernels/other/vmlinuz"), "{kernel}");
    if cfg!(target_arch = "x86_64") && shown["vmm"]["accel"] == "tcg" {
        let seen: Vec<&str> = lines.collect();
        assert_eq!(
            seen,
            ["0", "1"],
            "the kernel does without cmpxchg16b, programs have x86-64-v2 all the same"
        );
    }
    support::assert_error(&home.run(&["kernel", "delete", "other", "--json"]), 1, "in-use");
    assert!(home.run(&["vm", "delete", "--force", "dev1"]).status.success());
    assert!(home.run(&["kernel", "delete", "other"]).status.success());
    home.assert_clean();
}
