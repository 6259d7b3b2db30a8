//! `banger-disk` on real parts that need root: full filesystems, killed builds, filesystems that share blocks.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use crate::support::disk::{Bench, DISK, names, vm_dir};
use crate::support::{self, assert_error, command, eventually, record, run};

/// A mmdebstrap that makes a small root of its own and then runs the real hook on it.
const FAKE_MMDEBSTRAP: &str = r#"#!/bin/sh
set -eu
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXX")
printf '%s\n' "$@" > "$FAKE_LOG"
env | sed -n 's/^[a-z]*_proxy=/environment: &/p' >> "$FAKE_LOG"
mkdir "$root/tmp"
chmod 1777 "$root/tmp"
echo keep > "$root/tmp/mmdebstrap.apt.conf"
for option; do
    case $option in --setup-hook=*) sh -c "${option#*=}" exec "$root" ;; esac
done
if [ -n "${FAKE_SLEEP:-}" ]; then
    echo $$ > "$FAKE_PID"
    exec sleep "$FAKE_SLEEP"
fi
if [ -n "${FAKE_FAIL:-}" ]; then
    echo "I: about to fail" >&2
    echo "E: $FAKE_FAIL" >&2
    exit 25
fi
cd "$root"
echo "filesystem: $(stat -f -c %T .)" >> "$FAKE_LOG"
mkdir -p boot dev proc sys mnt root etc/ssh usr/share/doc/a usr/share/man/man1 var/lib/apt/lists lib/modules/6.1-test
printf '\177ELF Linux version 6.1-test (test)' > boot/vmlinuz-6.1-test
: > lib/modules/6.1-test/modules.dep
for m in virtio_pci virtio_mmio virtio_blk virtio_net virtio_console vmw_vsock_virtio_transport overlay ext4; do
    echo "kernel/$m.ko"
done > lib/modules/6.1-test/modules.builtin
echo secret > etc/ssh/ssh_host_ed25519_key
echo 1234 > etc/machine-id
echo manual > usr/share/man/man1/a.1
echo changes > usr/share/doc/a/changelog
echo licence > usr/share/doc/a/copyright
echo profile > root/.profile
install -m 4755 -o 1 -g 2 /dev/null odd-owner
mount -t tmpfs tmpfs proc
echo no > proc/never
sh -c 'eval "$BANGER_HOOK"' exec "$root"
test -e tmp/mmdebstrap.apt.conf
umount proc
cd /
rm -r --one-file-system "$root"
"#;

/// A state directory, and a mmdebstrap of its own.
pub struct Builds {
    pub bench: Bench,
    bin: PathBuf,
}

impl Builds {
    pub fn new() -> Option<Self> {
        let able = support::is_root() && support::has("unshare") && can_mount();
        if !support::require("host", able, "building images as root needs root, unshare and mount namespaces")
        {
            return None;
        }
        let bench = Bench::new();
        let bin = bench.state().join("bin");
        fs::create_dir(&bin).unwrap();
        let fake = bin.join("mmdebstrap");
        fs::write(&fake, FAKE_MMDEBSTRAP).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { bench, bin })
    }

    pub fn command(&self, fake: &[(&str, &str)]) -> std::process::Command {
        let mut build = self.bench.disk_command();
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        build.args(["image", "build", "--name", "small", "--size", "256M"]).env("PATH", path);
        build.env("FAKE_LOG", self.file("log")).env("FAKE_PID", self.file("pid"));
        for (name, value) in fake {
            build.env(name, value);
        }
        build
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.bench.state().join(name)
    }

    pub fn images(&self) -> Vec<String> {
        names(&self.bench.state().join("images"))
    }
}

fn can_mount() -> bool {
    run(command("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]), b"").status.success()
}

fn debugfs(image: &Path, request: &str) -> String {
    let output = run(command("/usr/sbin/debugfs").args(["-R", request]).arg(image), b"");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn packages_come_through_the_proxy_that_the_environment_names() {
    let Some(builds) = Builds::new() else { return };
    let mut build = builds.command(&[("ALL_PROXY", "http://all.test"), ("HTTP_PROXY", "http://upper.test")]);
    build.env("no_proxy", "lower.test").env("NO_PROXY", "upper.test");
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY"] {
        build.env_remove(name);
    }
    let output = run(&mut build, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // apt reads these names in lower case only.
    let log = fs::read_to_string(builds.file("log")).unwrap();
    let mut lines: Vec<_> = log.lines().filter_map(|line| line.strip_prefix("environment: ")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["http_proxy=http://upper.test", "https_proxy=http://all.test", "no_proxy=lower.test"]);
}

#[test]
fn an_image_is_built_with_its_boot_set() {
    let Some(builds) = Builds::new() else { return };
    let progress = builds.file("progress");
    let script = "exec 9>\"$PROGRESS\"; exec \"$@\" --progress-fd 9";
    let build = builds.command(&[]);
    let mut shell = command("sh");
    shell.args(["-c", script, "sh"]).arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = run(shell.env("PROGRESS", &progress), b"");
    let image = record(&output);
    assert!(output.status.success(), "{image}");
    assert_eq!(image["schema"], "banger.image/1");
    assert_eq!(image["kernel_version"], "6.1-test");
    assert_eq!(image["missing"], json!([]));
    assert_eq!(builds.images(), ["debian", "small"], "nothing unfinished is left");
    let steps: Vec<Value> = fs::read_to_string(progress)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("progress is NDJSON"))
        .collect();
    assert_eq!(steps.first().unwrap()["step"], "bootstrap");
    assert_eq!(steps.last().unwrap()["step"], "done");

    let path = |name: &str| PathBuf::from(image["paths"][name].as_str().unwrap());
    let rootfs = path("rootfs");
    assert_eq!(support::disk::mode(&rootfs), 0o444);
    let odd = debugfs(&rootfs, "stat /odd-owner");
    assert!(
        odd.contains("User:     1") && odd.contains("Group:     2") && odd.contains("Mode:  04755"),
        "{odd}"
    );
    let listing = ["/", "/tmp", "/proc", "/etc/ssh", "/boot", "/usr/share/doc/a", "/usr/share/man"]
        .map(|dir| debugfs(&rootfs, &format!("ls -p {dir}")))
        .join("");
    for gone in ["ssh_host", "vmlinuz", "changelog", "man1", "never", "apt.conf"] {
        assert!(!listing.contains(gone), "{gone} is in the image: {listing}");
    }
    assert!(listing.contains("copyright") && listing.contains("odd-owner"), "{listing}");
    assert_eq!(debugfs(&rootfs, "cat /etc/machine-id"), "");
    assert!(debugfs(&path("work_seed"), "cat /.profile").contains("profile"));
    for filesystem in ["rootfs", "work_seed", "upper_seed"] {
        let fsck = run(command("/usr/sbin/e2fsck").args(["-fn"]).arg(path(filesystem)), b"");
        assert!(fsck.status.success(), "{filesystem}: {}", String::from_utf8_lossy(&fsck.stdout));
        let metadata = fs::metadata(path(filesystem)).unwrap();
        assert!(metadata.blocks() * 512 < 16 << 20, "{filesystem} is sparse");
    }
    let sum = run(command("sha256sum").arg(&rootfs), b"");
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    assert!(sum.starts_with(image["files"]["rootfs.ext4"]["sha256"].as_str().unwrap()), "{sum}");
    assert_error(&run(&mut builds.command(&[]), b""), 1, "conflict");
    // One that lacks a file is made again.
    fs::remove_file(path("kernel_elf")).unwrap();
    assert!(run(&mut builds.command(&[]), b"").status.success());
}

#[test]
fn a_root_is_made_in_memory_where_it_is_known_to_fit() {
    let Some(builds) = Builds::new() else { return };
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap().trim();
    let fits = available.trim_end_matches(" kB").parse::<u64>().unwrap() >= 5 << 20;
    let on_tmpfs =
        run(command("stat").args(["-f", "-c", "%T"]).arg(builds.bench.state()), b"").stdout == b"tmpfs\n";
    if !support::require(
        "host",
        fits && !on_tmpfs,
        "needs 5 GiB of memory, and a directory that is not in it",
    ) {
        return;
    }
    let script = builds.file("script.sh");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let built_in_memory = |options: &[&str]| {
        let output = run(builds.command(&[]).args(options), b"");
        let log = fs::read_to_string(builds.file("log")).unwrap();
        (output, log.lines().any(|line| line == "filesystem: tmpfs"))
    };
    let (output, in_memory) = built_in_memory(&[]);
    assert!(output.status.success() && in_memory, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(builds.bench.disk(&["image", "delete", "small"], b"").status.success());
    // Nobody knows how much these take. The script finds no shell in this root.
    assert!(!built_in_memory(&["--script", script.to_str().unwrap()]).1);
    assert!(!built_in_memory(&["--package", "texlive-full"]).1);
    assert!(builds.bench.disk(&["image", "delete", "small"], b"").status.success());
    assert_eq!(builds.images(), ["debian"]);
}

#[test]
fn a_failed_build_says_why_and_leaves_nothing() {
    let Some(builds) = Builds::new() else { return };
    let output = run(&mut builds.command(&[("FAKE_FAIL", "no such suite")]), b"");
    let error = assert_error(&output, 1, "failed");
    let causes = error["error"]["causes"].to_string();
    assert!(causes.contains("no such suite") && !causes.contains("about to fail"), "{causes}");
    assert_eq!(error["error"]["hint"], Value::Null);
    assert_eq!(builds.images(), ["debian"]);
    // Without a network there are other ways.
    let offline = "Failed to fetch http://deb.example/InRelease  Temporary failure resolving 'deb.example'";
    let error = assert_error(&run(&mut builds.command(&[("FAKE_FAIL", offline)]), b""), 1, "failed");
    let hint = error["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("--mirror") && hint.contains("image import"), "{hint}");
    assert_eq!(builds.images(), ["debian"]);
}

#[test]
fn a_killed_build_is_cleaned_up_by_the_next_command() {
    let Some(builds) = Builds::new() else { return };
    let mut build = builds.command(&[("FAKE_SLEEP", "60")]).stdout(Stdio::null()).spawn().unwrap();
    // Its pid in its own namespace is written once it works.
    eventually("the build to begin", || builds.file("pid").exists());
    let busy = run(&mut builds.command(&[]), b"");
    let error = assert_error(&busy, 4, "busy");
    assert!(error["error"]["details"]["holder"].as_str().unwrap().contains("image build"), "{error}");
    let children = children_of(&build);
    build.kill().unwrap();
    build.wait().unwrap();
    for child in children {
        eventually("mmdebstrap to end with its build", || !Path::new(&format!("/proc/{child}")).exists());
    }
    assert_eq!(builds.images().len(), 2, "what it had begun is still there");
    let list = json!({ "schema": "banger.vms/1", "state_id": "01234567", "items": [] });
    // What mmdebstrap had started may need a moment more to end, and holds the lock until then.
    let collect = || record(&builds.bench.disk(&["gc"], list.to_string().as_bytes()))["removed"].clone();
    eventually("gc to remove the image", || collect().as_array().is_some_and(|removed| removed.len() == 1));
    assert_eq!(builds.images(), ["debian"]);
}

#[test]
fn an_interrupted_build_removes_what_it_made() {
    let Some(builds) = Builds::new() else { return };
    let build = builds.command(&[("FAKE_SLEEP", "60")]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the build to begin", || builds.file("pid").exists());
    let killed = run(command("kill").args(["-TERM", &build.id().to_string()]), b"");
    assert!(killed.status.success());
    let output = build.wait_with_output().unwrap();
    assert_error(&output, 1, "interrupted");
    assert_eq!(builds.images(), ["debian"]);
}

fn children_of(child: &Child) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    let mut text = String::new();
    fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    let children: Vec<i32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(!children.is_empty());
    children
}

/// Runs `banger-disk attach` on `document` after `prepare`, a shell script with the VM's directory as `$1`, in mounts of its own.
fn attach_in_mounts(bench: &Bench, document: &Value, prepare: &str) -> Output {
    let script = format!(
        "set -e\n{prepare}\nrc=0; {} attach || rc=$?\n{}",
        DISK.as_str(),
        "ls -A \"$1\" >&2; exit $rc"
    );
    let mut shell = command("unshare");
    shell.args(["--mount", "sh", "-c", &script, "sh"]).arg(vm_dir(document));
    shell.env("STATE", bench.state()).env("HOME", bench.state());
    run(&mut shell, document.to_string().as_bytes())
}

#[test]
fn a_full_filesystem_is_a_clear_error_and_nothing_is_left() {
    if !support::require("host", support::is_root() && can_mount(), "a small tmpfs needs root") {
        return;
    }
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    // Room for the keys and half a seed.
    let small = "cp -a \"$1\" \"$STATE/keys\"; mount -t tmpfs -o size=100k,mode=700 tmpfs \"$1\"; cp -a \"$STATE\"/keys/. \"$1\"";
    let output = attach_in_mounts(&bench, &planned, small);
    let error = assert_error(&output, 1, "failed");
    let causes = error["error"]["causes"].to_string();
    assert!(causes.contains("No space left"), "{error}");
    assert!(error["error"]["hint"].as_str().unwrap().contains("make room"), "{error}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("host_key\nhost_key.pub\nknown_hosts\n"), "{said}");
}

#[test]
fn a_filesystem_that_shares_blocks_is_used_so() {
    let mkfs = ["mkfs.btrfs", "mkfs.xfs"].into_iter().find(|program| support::has(program));
    let able = support::is_root() && can_mount();
    // An optional tool: its absence is no failure even where the tier is required.
    let reason = "neither mkfs.btrfs nor mkfs.xfs is installed, or not root: reflink is not tried";
    let Some(mkfs) = mkfs.filter(|_| able) else {
        support::require("reflink", false, reason);
        return;
    };
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    let prepare = format!(
        "truncate -s 512M \"$STATE/fs\"; {mkfs} \"$STATE/fs\" >/dev/null 2>&1; cp -a \"$STATE\" /tmp/keep.$$ ; \
         mkdir \"$STATE/mnt\"; mount -o loop \"$STATE/fs\" \"$STATE/mnt\"; cp -a /tmp/keep.$$/images /tmp/keep.$$/vms \"$STATE/mnt\"; \
         rm -rf /tmp/keep.$$; mount --bind \"$STATE/mnt/images\" \"$STATE/images\"; mount --bind \"$STATE/mnt/vms\" \"$STATE/vms\""
    );
    let output = attach_in_mounts(&bench, &planned, &prepare);
    let attached = record(&output);
    assert_eq!(attached["disk"]["backend"], "reflink", "{attached}");
    assert_eq!(attached["disk"]["root_read_only"], false);
    assert!(attached["disk"]["upper_device"].is_null());
}

#[test]
fn a_script_that_fails_makes_no_image() {
    let Some(builds) = Builds::new() else { return };
    let script = builds.file("script");
    fs::write(&script, "#!/nonexistent\n").unwrap();
    let mut build = builds.command(&[]);
    let output = run(build.arg("--script").arg(&script), b"");
    let error = assert_error(&output, 1, "failed");
    assert!(error.to_string().contains("the script failed"), "{error}");
    assert_eq!(names(&builds.bench.state().join("images")), ["debian"]);
}

#[test]
fn a_dockerfile_is_built_by_what_is_there_and_imported() {
    let able = support::is_root() && support::has("buildah");
    if !support::require("host", able, "building a Dockerfile needs buildah, and here root") {
        return;
    }
    let bench = Bench::new();
    let context = bench.state().join("My_Context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("hello"), "from a Dockerfile\n").unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nLABEL made=here\nCOPY hello /etc/hello\n").unwrap();
    fs::write(context.join("Wrong"), "FROM scratch\nCOPY none /\n").unwrap();
    let store = bench.state().join("containers");
    let build = |file: &str, name: &[&str]| {
        let mut disk = bench.disk_command();
        disk.args(["image", "build", "-f"]).arg(context.join(file)).arg(&context).args(name);
        // buildah is to leave nothing of its own behind, and to need no namespaces.
        disk.env("STORAGE_DRIVER", "vfs").env("BUILDAH_ISOLATION", "chroot");
        disk.env("CONTAINERS_STORAGE_CONF", bench.state().join("storage.conf"));
        run(&mut disk, b"")
    };
    let (graph, runs) = (store.join("graph"), store.join("run"));
    let storage = format!("[storage]\ndriver = \"vfs\"\ngraphroot = {graph:?}\nrunroot = {runs:?}\n");
    fs::write(bench.state().join("storage.conf"), storage).unwrap();
    let built = record(&build("Dockerfile", &[]));
    assert_eq!(built["name"], "my-context", "it is called as the directory");
    assert_eq!(built["labels"]["made"], "here");
    let rootfs = bench.state().join("images/my-context/rootfs.ext4");
    let debugfs = which::which("debugfs").unwrap_or_else(|_| "/usr/sbin/debugfs".into());
    let output = run(command(debugfs).args(["-R", "cat /etc/hello"]).arg(rootfs), b"");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from a Dockerfile\n");
    let error = support::assert_error(&build("Wrong", &["--name", "wrong"]), 1, "failed");
    assert!(error.to_string().contains("none"), "what buildah said is told: {error}");
    assert_eq!(names(&bench.state().join("images")), ["debian", "my-context"]);
    assert!(names(&bench.state().join("cache/files")).is_empty(), "no archive is left");
}

#[test]
fn a_killed_attach_is_completed_by_the_next_one() {
    let able = support::is_root() && support::has("strace");
    if !support::require("host", able, "killing at a system call needs strace and root") {
        return;
    }
    let bench = Bench::new();
    let planned = bench.planned("dev1");
    for call in ["ftruncate", "rename", "copy_file_range", "write"] {
        for nth in 1..=3 {
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let mut strace = command("strace");
            strace.args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "signal=none",
                "-e",
                &inject,
                DISK.as_str(),
                "attach",
            ]);
            strace.env("BANGER_STATE_DIR", bench.state()).env("HOME", bench.state());
            run(&mut strace, planned.to_string().as_bytes());
            let attached = bench.verb("attach", &planned);
            bench.verb("check", &attached);
            let left = names(&vm_dir(&planned));
            assert!(!left.iter().any(|name| name.ends_with(".new")), "{call} {nth}: {left:?}");
            bench.verb("detach", &attached);
            for disk in ["upper.ext4", "root.ext4", "work.ext4"] {
                drop(fs::remove_file(vm_dir(&planned).join(disk)));
            }
        }
    }
}
