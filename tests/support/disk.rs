//! Images with real but tiny filesystems, and records up to the stage `banger-disk`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::LazyLock;

use serde_json::Value;

use super::{command, program, record, run};

/// The program under test.
pub static DISK: LazyLock<String> =
    LazyLock::new(|| program("banger-disk").into_os_string().into_string().expect("a path in UTF-8"));

/// A state directory with an image `debian` of three ext4 filesystems and a kernel that does not boot.
pub struct Bench {
    pub temp: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let temp = super::state_with_fake_image();
        let bench = Self { temp };
        for name in ["rootfs.ext4", "work-seed.ext4", "upper-seed.ext4"] {
            let path = bench.image_file(name);
            std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
            let output = run(command(mke2fs()).args(["-q", "-F", "-t", "ext4"]).arg(&path), b"");
            assert!(output.status.success(), "mke2fs: {}", String::from_utf8_lossy(&output.stderr));
        }
        for name in ["vmlinuz", "vmlinux", "initrd.cpio"] {
            std::fs::write(bench.image_file(name), b"not a kernel").unwrap();
        }
        bench
    }

    pub fn state(&self) -> &Path {
        self.temp.path()
    }

    pub fn image_file(&self, name: &str) -> PathBuf {
        self.state().join("images/debian").join(name)
    }

    /// Runs `banger-disk` with `args` on `stdin`.
    pub fn disk(&self, args: &[&str], stdin: &[u8]) -> Output {
        run(self.disk_command().args(args), stdin)
    }

    /// `banger-disk` with this state directory and a home of its own.
    pub fn disk_command(&self) -> std::process::Command {
        let mut disk = command(DISK.as_str());
        disk.env("BANGER_STATE_DIR", self.state()).env("HOME", self.state()).env_remove("XDG_CONFIG_HOME");
        disk.env_remove("BANGER_LOCK_FD");
        disk
    }

    /// A planned VM with user networking: what `banger-disk attach` reads.
    pub fn planned(&self, name: &str) -> Value {
        let mut plan = command(program("banger"));
        let output =
            run(plan.args(["vm", "plan", name, "--net", "user"]).env("BANGER_STATE_DIR", self.state()), b"");
        let planned = record(&output);
        let mut attach = command(program("banger-netd"));
        record(&run(attach.arg("attach"), planned.to_string().as_bytes()))
    }

    /// Runs a verb on `document`; it must succeed.
    #[track_caller]
    pub fn verb(&self, verb: &str, document: &Value) -> Value {
        let output = self.disk(&[verb], document.to_string().as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        record(&output)
    }
}

/// The VM's directory.
pub fn vm_dir(document: &Value) -> PathBuf {
    PathBuf::from(document["vm"]["paths"]["dir"].as_str().expect("a record has a directory"))
}

/// The names in `dir`, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{dir:?}: {e}"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The permission bits of `path`.
pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{path:?}: {e}")).permissions().mode() & 0o7777
}

/// mke2fs, which stands in a directory that an ordinary user's PATH may lack.
pub fn mke2fs() -> PathBuf {
    which::which("mke2fs").unwrap_or_else(|_| PathBuf::from("/usr/sbin/mke2fs"))
}
