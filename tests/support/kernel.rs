//! Kernels that do not boot but look like some, and packages around files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The release that [`vmlinuz`] has.
pub const RELEASE: &str = "6.1.0-test-amd64";

/// The options that a VM needs, as `config` files have them.
pub const CONFIG: &str = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_BINFMT_ELF=y\nCONFIG_BINFMT_SCRIPT=y\nCONFIG_DEVTMPFS=y\n\
    CONFIG_PROC_FS=y\nCONFIG_SYSFS=y\nCONFIG_TMPFS=y\nCONFIG_NET=y\nCONFIG_INET=y\nCONFIG_UNIX=y\nCONFIG_UNIX98_PTYS=y\n\
    CONFIG_MULTIUSER=y\nCONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_SERIAL_AMBA_PL011_CONSOLE=y\nCONFIG_OF=y\nCONFIG_ACPI=y\n\
    CONFIG_MODULES=y\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_MMIO=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_NET=m\n\
    CONFIG_VIRTIO_CONSOLE=m\nCONFIG_VIRTIO_VSOCKETS=m\nCONFIG_OVERLAY_FS=y\nCONFIG_EXT4_FS=m\n";

/// What of it is a module, by file.
const MODULES: [&str; 7] = [
    "virtio_pci.ko",
    "virtio_mmio.ko",
    "virtio_blk.ko",
    "virtio_net.ko",
    "virtio_console.ko",
    "vmw_vsock_virtio_transport.ko",
    "ext4.ko",
];

/// The ELF kernel of a release.
pub fn vmlinuz(release: &str) -> Vec<u8> {
    format!("\x7fELF something Linux version {release} (test) #1").into_bytes()
}

/// A module with nothing but the section .modinfo.
pub fn module(entries: &[&str]) -> Vec<u8> {
    let mut elf = vec![0; 0x40];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let info: Vec<u8> = entries.iter().flat_map(|e| e.bytes().chain([0])).collect();
    let names = b"\0.modinfo\0";
    let (info_at, names_at) = (0x40, 0x40 + info.len());
    elf.extend_from_slice(&info);
    elf.extend_from_slice(names);
    let headers = elf.len() as u64;
    for (name, at, size) in [(0_u32, names_at, names.len()), (1, info_at, info.len())] {
        let mut header = [0; 0x40];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf[0x28..0x30].copy_from_slice(&headers.to_le_bytes());
    elf[0x3a..0x3c].copy_from_slice(&0x40_u16.to_le_bytes());
    elf[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
    elf
}

/// Makes below `dir` what a distribution installs: boot/vmlinuz-…, boot/config-… and `lib`/modules/….
pub fn install(dir: &Path, lib: &str) -> PathBuf {
    let modules = dir.join(lib).join("modules").join(RELEASE);
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::create_dir_all(dir.join("boot")).unwrap();
    fs::write(dir.join(format!("boot/vmlinuz-{RELEASE}")), vmlinuz(RELEASE)).unwrap();
    fs::write(dir.join(format!("boot/config-{RELEASE}")), CONFIG).unwrap();
    for module in MODULES {
        fs::write(modules.join("kernel").join(module), format!("object of {module}")).unwrap();
    }
    fs::write(modules.join("modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n").unwrap();
    modules
}

/// A Debian package (deb(5)) at `path` with all that is below `root`, packed by `tar` with `option`; `suffix` tells how.
pub fn deb(path: &Path, root: &Path, option: &str, suffix: &str) {
    let data = path.with_extension("data");
    let mut tar = super::command("tar");
    tar.arg("-C").arg(root).arg("-c").arg("-f").arg(&data).args(["--format=gnu", "--owner=0", "--group=0"]);
    if !option.is_empty() {
        tar.arg(option);
    }
    let output = super::run(tar.arg("."), b"");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    let mut file = fs::File::create(path).unwrap();
    file.write_all(b"!<arch>\n").unwrap();
    let data = fs::read(data).unwrap();
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), (&format!("data.tar{suffix}"), &data)] {
        writeln!(file, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, content.len()).unwrap();
        file.write_all(content).unwrap();
        file.write_all(&b"\n"[..content.len() % 2]).unwrap();
    }
}
