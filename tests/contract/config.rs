//! The configuration file: what is wrong in it, who wins over whom, and what of it reaches the stages.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::kernel::{RELEASE, install};
use crate::support::{self, assert_error, command, record, run};

/// A state directory with an image, and a configuration.
struct World {
    state: tempfile::TempDir,
}

impl World {
    fn new(config: &str) -> Self {
        let state = support::state_with_fake_image();
        std::fs::write(state.path().join("config.toml"), config).unwrap();
        Self { state }
    }

    fn config(&self) -> String {
        self.state.path().join("config.toml").to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_banger"));
        command.args(args).env("BANGER_STATE_DIR", self.state.path()).env("BANGER_CONFIG", self.config());
        for variable in ["BANGER_SUBNET", "BANGER_OPEN_FIREWALL", "BANGER_READY_TIMEOUT"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&mut self.command(args), b"")
    }

    /// The section `vm` of a new VM.
    fn planned(&self, name: &str, args: &[&str]) -> Value {
        let output = self.run(&[&["vm", "plan", name], args].concat());
        record(&output)["vm"].clone()
    }
}

#[test]
fn what_is_wrong_is_named_with_file_line_and_key() {
    let cases = [
        ("\n[vm\n", 2, &["unclosed table"][..]),
        ("[vm]\nmemory = 2G\n", 2, &[]),
        ("[vm]\nmemory = '1G'\nmemory = '2G'\n", 3, &["duplicate key"]),
        ("[vm]\n\nmemroy = '2G'\n", 3, &["no key vm.memroy", "vm.memory", "vm.image"]),
        ("memory = '2G'\n", 1, &["no key memory", "vm", "disk", "vmm", "net"]),
        ("vm = 'x'\n", 1, &["vm"]),
        ("[vms]\n", 1, &["no key vms"]),
        ("[vm]\nmemory = 2048\n", 2, &["vm.memory is 2048", "128M"]),
        ("[vm]\nmemory = '64M'\n", 2, &["vm.memory is '64M'", "128M"]),
        ("[vm]\nvcpus = '2'\n", 2, &["vm.vcpus is '2'", "1 to 32"]),
        ("[vm]\nvcpus = 0\n", 2, &["vm.vcpus is 0"]),
        ("[vm]\nvcpus = 33\n", 2, &["vm.vcpus is 33"]),
        ("[vm]\nvcpus = -1\n", 2, &["vm.vcpus is -1"]),
        ("[vm]\nimage = 'a/b'\n", 2, &["vm.image is 'a/b'"]),
        ("[vm]\nkernel = 'a/b'\n", 2, &["vm.kernel is 'a/b'", "kernel ls"]),
        ("[images]\nmax_entries = 0\n", 2, &["images.max_entries is 0", "from 1"]),
        ("[images]\nmax_entries = '10'\n", 2, &["images.max_entries is '10'"]),
        ("[images]\nmax_unpacked = 20\n", 2, &["images.max_unpacked is 20", "16T"]),
        ("[images]\nmax_size = '1K'\n", 2, &["images.max_size is '1K'", "1M"]),
        ("[images]\nmax_download = 'x'\n", 2, &["images.max_download is 'x'"]),
        ("[images]\nmax = 1\n", 2, &["no key images.max;", "images.max_entries", "images.catalog"]),
        ("[vm]\ninit = 'openrc'\n", 2, &["vm.init", "lean", "systemd"]),
        ("[vm]\nttl = '0s'\n", 2, &["vm.ttl", "1h30m"]),
        ("[vm]\nnat = 'yes'\n", 2, &["vm.nat is 'yes'", "true or false"]),
        ("[vm]\negress = 'some'\n", 2, &["vm.egress", "allow="]),
        ("[vm]\ndisk_size = '1K'\n", 2, &["vm.disk_size", "64M"]),
        ("[vm]\nwork_size = 20\n", 2, &["vm.work_size is 20"]),
        ("[disk]\nbackend = 'zfs'\n", 2, &["disk.backend is 'zfs'", "reflink"]),
        ("[vmm]\nkind = 'xen'\n", 2, &["vmm.kind"]),
        ("[vmm]\nfirecracker_bin = 'firecracker'\n", 2, &["vmm.firecracker_bin", "absolute"]),
        ("[vmm]\nready_timeout = '25h'\n", 2, &["vmm.ready_timeout is '25h'", "24h"]),
        ("[net]\nsubnet = '8.8.8.0/24'\n", 2, &["net.subnet", "private"]),
        ("[net]\nsubnet = '10.0.0.0/8'\n", 2, &["net.subnet"]),
        ("[net]\nmtu = 1279\n", 2, &["net.mtu is 1279", "1280"]),
        ("[net]\nmtu = 9001\n", 2, &["net.mtu is 9001", "9000"]),
        ("[net]\nmtu = '1400'\n", 2, &["net.mtu is '1400'", "1280"]),
        ("[net]\nmode = 'wifi'\n", 2, &["net.mode", "tap"]),
        ("[vm.memory]\nsize = 1\n", 1, &["vm.memory"]),
        ("[[vm]]\nmemory = '1G'\n", 1, &["vm"]),
        ("[vm]\nimage = \"\u{1b}[2J\"\n", 2, &[]),
        ("[disk]\nmax_changes = '1M'\n", 2, &["disk.max_changes", "64M"]),
        ("file_sync = '~/.vimrc'\n", 1, &["file_sync is", "[[file_sync]]"]),
        ("[file_sync]\nhost = '/a'\n", 1, &["file_sync", "[[file_sync]]"]),
        ("[[file_sync]]\nhost = '/a'\n", 1, &["file_sync[0].guest is absent", "/root/"]),
        ("[[file_sync]]\nguest = '~/a'\n", 1, &["file_sync[0].host is absent"]),
        (
            "[[file_sync]]\nhost = '/a'\nguest = '~/a'\n\n[[file_sync]]\nhost = 'a'\nguest = '~/a'\n",
            6,
            &["file_sync[1].host is 'a'"],
        ),
        ("[[file_sync]]\nhost = '/a/../b'\nguest = '~/a'\n", 2, &["file_sync[0].host", "without"]),
        ("[[file_sync]]\nhost = '~user/b'\nguest = '~/a'\n", 2, &["file_sync[0].host"]),
        ("[[file_sync]]\nhost = '/a'\nguest = '/etc/a'\n", 3, &["file_sync[0].guest is '/etc/a'", "/root/"]),
        ("[[file_sync]]\nhost = '/a'\nguest = '~/../a'\n", 3, &["file_sync[0].guest"]),
        (
            "[[file_sync]]\nhost = '/a'\nguest = '~/a'\nmode = '0888'\n",
            4,
            &["file_sync[0].mode is '0888'", "octal"],
        ),
        (
            "[[file_sync]]\nhost = '/a'\nguest = '~/a'\nmode = 600\n",
            4,
            &["file_sync[0].mode is 600", "octal"],
        ),
        ("[[file_sync]]\nhost = '/a'\nguest = '~/a'\nmod = '600'\n", 4, &["no key file_sync[0].mod", "mode"]),
        ("[[file_sync]]\nhost = 1\nguest = '~/a'\n", 2, &["file_sync[0].host is 1"]),
    ];
    for (text, line, words) in cases {
        let world = World::new(text);
        let output = world.run(&["ps", "--json"]);
        let error = assert_error(&output, 2, "usage");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("{}:{line}: ", world.config())), "{text:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{text:?}: {message}");
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.lines().count() == 1 && !said.contains('\u{1b}'), "{said:?}");
        // `banger config` is how it is mended.
        assert_error(&world.run(&["config", "check", "--json"]), 2, "usage");
        assert!(world.run(&["config", "path"]).status.success());
        assert!(world.run(&["completion", "bash"]).status.success());
    }
}

#[test]
fn a_wrong_configuration_is_a_failure_of_bangers_own() {
    let world = World::new("x = 1\n");
    assert_eq!(world.run(&["vm", "run", ".", "--", "true"]).status.code(), Some(125));
    assert_eq!(world.run(&["vm", "create", "dev1"]).status.code(), Some(2));
    assert!(!world.state.path().join("state.db").exists());
}

#[test]
fn files_that_are_not_there_or_no_text() {
    let world = World::new("");
    let place = |path: &Path| world.run(&["--config", path.to_str().unwrap(), "ps", "--json"]);
    let missing = world.state.path().join("missing.toml");
    let error = assert_error(&place(&missing), 2, "usage");
    assert!(error["error"]["message"].as_str().unwrap().contains("missing.toml"), "{error}");
    assert_error(&place(world.state.path()), 2, "usage");
    let odd = world.state.path().join("odd.toml");
    std::fs::write(&odd, b"[vm]\nimage = '\xff'\n").unwrap();
    assert_error(&place(&odd), 2, "usage");
    std::fs::write(&odd, vec![b'#'; 2 << 20]).unwrap();
    let error = assert_error(&place(&odd), 2, "usage");
    assert!(error["error"]["causes"][0].as_str().unwrap().contains("1 MiB"), "{error}");
    // A user's own, in its usual place, may be absent. (Root's is in /etc, which is not the test's.)
    if !support::is_root() {
        let mut command = world.command(&["config", "path"]);
        command.env_remove("BANGER_CONFIG").env("XDG_CONFIG_HOME", world.state.path());
        let said = run(&mut command, b"").stdout;
        assert_eq!(
            String::from_utf8(said).unwrap(),
            format!("{}/banger/config.toml\n", world.state.path().display())
        );
        assert!(run(command.args(["--json"]), b"").status.success());
    }
}

#[test]
fn options_win_over_the_environment_and_that_over_the_file() {
    let world = World::new(concat!(
        "net.subnet = '10.99.98.0/24'\nvm.memory = '2G'\nvm.vcpus = 3\nvm.ttl = '2h'\nvm.nat = false\nvm.egress = 'none'\nvm.init = 'systemd'\n",
        "vm.disk_size = '3G'\nvm.work_size = '4G'\nvm.open_firewall = true\n",
        "net.mode = 'tap'\ndisk.backend = 'copy'\nvmm.kind = 'qemu'\n",
    ));
    let vm = world.planned("file", &[]);
    let of =
        |vm: &Value, keys: &[&str]| keys.iter().map(|key| vm[key].to_string()).collect::<Vec<_>>().join(" ");
    let keys = [
        "memory_mib",
        "vcpus",
        "ttl_s",
        "nat",
        "init",
        "net_mode",
        "disk_backend",
        "vmm_kind",
        "open_firewall",
    ];
    assert_eq!(of(&vm, &keys), "2048 3 7200 false \"systemd\" \"tap\" \"copy\" \"qemu\" true");
    assert_eq!(
        (&vm["rootfs_size_bytes"], &vm["work_size_bytes"]),
        (&(3u64 << 30).into(), &(4u64 << 30).into())
    );
    assert_eq!(vm["egress"]["policy"], "none");

    let options = [
        "--memory",
        "512M",
        "--vcpus",
        "1",
        "--ttl",
        "60",
        "--nat",
        "--init",
        "lean",
        "--disk",
        "auto",
        "--vmm",
        "auto",
        "--open-firewall=false",
        "--egress",
        "open",
        "--disk-size",
        "5G",
        "--work-size",
        "6G",
    ];
    let vm = world.planned("options", &options);
    assert_eq!(of(&vm, &keys), "512 1 60 true \"lean\" \"tap\" \"auto\" \"auto\" false");
    assert_eq!(
        (&vm["rootfs_size_bytes"], &vm["work_size_bytes"]),
        (&(5u64 << 30).into(), &(6u64 << 30).into())
    );

    let mut command = world.command(&["vm", "plan", "environment"]);
    let output = run(command.env("BANGER_OPEN_FIREWALL", "0"), b"");
    assert_eq!(record(&output)["vm"]["open_firewall"], false);
    let mut command = world.command(&["vm", "plan", "both", "--open-firewall"]);
    let output = run(command.env("BANGER_OPEN_FIREWALL", "0"), b"");
    assert_eq!(record(&output)["vm"]["open_firewall"], true);

    let mut command = world.command(&["ps", "--json"]);
    let error = assert_error(&run(command.env("BANGER_SUBNET", "8.8.8.0/24"), b""), 2, "usage");
    assert!(
        error["error"]["message"].as_str().unwrap().contains("BANGER_SUBNET is \"8.8.8.0/24\""),
        "{error}"
    );
}

#[test]
fn what_holds_is_shown_with_where_it_comes_from() {
    let world = World::new("[vm]\nmemory = '2048M'\nopen_firewall = true\n");
    let mut command = world.command(&["config", "show", "--json"]);
    let shown = record(&run(command.env("BANGER_OPEN_FIREWALL", "no"), b""));
    assert_eq!((&shown["schema"], &shown["exists"]), (&"banger.config/1".into(), &true.into()));
    let item = |key: &str| {
        let items = shown["items"].as_array().unwrap();
        items.iter().find(|item| item["key"] == key).unwrap_or_else(|| panic!("{shown}")).to_string()
    };
    assert_eq!(item("vm.memory"), r#"{"key":"vm.memory","value":"2G","source":"config","place":"2"}"#);
    assert_eq!(item("vm.image"), r#"{"key":"vm.image","value":"debian","source":"default"}"#);
    assert_eq!(
        item("vm.open_firewall"),
        r#"{"key":"vm.open_firewall","value":false,"source":"environment","place":"BANGER_OPEN_FIREWALL"}"#
    );
    assert_eq!(item("vm.ttl"), r#"{"key":"vm.ttl","value":null,"otherwise":"never","source":"default"}"#);
    let table = String::from_utf8(world.run(&["config", "show"]).stdout).unwrap();
    assert!(table.contains(&format!("{}:2", world.config())) && table.contains("(never)"), "{table}");
    let said = String::from_utf8(world.run(&["config", "check"]).stdout).unwrap();
    assert_eq!(said, format!("{} is right\n", world.config()));
}

#[test]
fn stages_are_told_what_they_need() {
    let world = World::new(concat!(
        "net.mode = 'user'\n[vmm]\nready_timeout = '90s'\nshutdown_timeout = '4s'\nbutton_timeout = '5s'\n",
        "term_timeout = '6s'\nforce_kvm = true\nfirecracker_bin = '/opt/fc'\n",
        "[[file_sync]]\nhost = '~/.vimrc'\nguest = '~/.vimrc'\nmode = 0o640\n",
    ));
    world.planned("dev1", &[]);
    let explained = |args: &[&str]| {
        String::from_utf8(run(world.command(args).env("HOME", "/home/me"), b"").stdout).unwrap()
    };
    let deadlines = "--deadline 4 --button-deadline 5 --term-deadline 6";
    let start = explained(&["--explain", "vm", "start", "dev1"]);
    assert!(
        start.contains(&format!("banger-qemu start {deadlines} --accel kvm --ready-timeout 90\n")),
        "{start}"
    );
    let sync =
        r#"banger-disk attach --file-sync {"host":"/home/me/.vimrc","guest":"~/.vimrc","mode":"640"} | "#;
    assert!(start.contains(sync), "{start}");
    let homeless = run(world.command(&["--explain", "vm", "start", "dev1"]).env_remove("HOME"), b"");
    assert_eq!(homeless.status.code(), Some(2));
    let stop = explained(&["--explain", "vm", "stop", "dev1"]);
    assert!(stop.contains(&format!("banger-qemu stop {deadlines} | banger-disk detach")), "{stop}");
    let kill = explained(&["--explain", "vm", "stop", "--force", "dev1"]);
    assert!(kill.contains("banger-qemu kill | "), "{kill}");
    let run =
        explained(&["--explain", "vm", "run", "--vmm", "firecracker", "--name", "x", ".", "--", "true"]);
    assert!(run.contains("banger-fc start"), "{run}");
}

#[test]
fn a_disk_that_would_shrink_is_refused_before_anything_is_made() {
    let world = World::new("net.mode = 'user'\n");
    let image = world.state.path().join("images/debian");
    std::fs::File::create(image.join("rootfs.ext4")).unwrap().set_len(1 << 30).unwrap();
    let error = assert_error(&world.run(&["vm", "plan", "dev1", "--disk-size", "512M"]), 2, "usage");
    assert_eq!(
        error["error"]["message"],
        "a root filesystem of 512M is wanted, and that of the image debian has 1G already"
    );
    // The work disk may be smaller than its seed, as long as there is room for what is in that.
    let (seed, home) = (image.join("work-seed.ext4"), world.state.path().join("home"));
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("file"), vec![b'x'; 100 << 20]).unwrap();
    std::fs::File::create(&seed).unwrap().set_len(1 << 30).unwrap();
    let mut mke2fs = command(support::disk::mke2fs());
    let made = run(mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&home).arg(&seed), b"");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let error = assert_error(&world.run(&["vm", "plan", "dev1", "--work-size", "200M"]), 2, "usage");
    assert_eq!(
        error["error"]["message"],
        "a work disk of 200M is wanted, and what the image debian has in /root needs one of 206M"
    );
    assert_eq!(world.planned("small", &["--work-size", "206M"])["work_size_bytes"], 206 << 20);
    assert!(world.run(&["vm", "delete", "small"]).status.success());
    assert_eq!(record(&world.run(&["ps", "--json"]))["items"].as_array().unwrap().len(), 0);
    assert!(std::fs::read_dir(world.state.path().join("vms")).unwrap().next().is_none());
}

#[test]
fn disks_grow_and_never_shrink() {
    let world = World::new("net.mode = 'user'\n");
    world.planned("dev1", &[]);
    let set = |args: &[&str]| world.run(&[&["vm", "set", "dev1", "--json"], args].concat());
    let grown = record(&set(&["--disk-size", "2G", "--work-size", "3G"]));
    assert_eq!(
        (&grown["vm"]["rootfs_size_bytes"], &grown["vm"]["work_size_bytes"]),
        (&(2u64 << 30).into(), &(3u64 << 30).into())
    );
    let error = assert_error(&set(&["--work-size", "2G"]), 2, "usage");
    assert_eq!(
        error["error"]["message"],
        "the work disk of VM dev1 has 3G, and 2G is less: disks grow and never shrink"
    );
    assert_error(&set(&["--disk-size", "1G", "--work-size", "4G"]), 2, "usage");
    assert_error(&set(&["--disk-size", "20"]), 2, "usage");
    let shown = record(&world.run(&["vm", "show", "dev1", "--json"]));
    assert_eq!(shown["vm"], grown["vm"]);
}

#[test]
fn limits_of_images_reach_the_stage_unless_options_say_otherwise() {
    let world = World::new(concat!(
        "[images]\nmax_entries = 7\nmax_unpacked = '2G'\nmax_size = '1G'\nmax_download = '3M'\n",
        "catalog = 'http://127.0.0.1:9/index.json'\n",
    ));
    let explained = |args: &[&str]| {
        let output = world.run(&[&["--explain", "image"], args].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let configured = "--max-entries=7 --max-unpacked=2147483648 --max-size=1073741824";
    let import = explained(&["import", "layout", "new"]);
    assert!(import.contains(configured) && !import.contains("max-download"), "{import}");
    let pull = explained(&["pull", "127.0.0.1:9/x:1"]);
    assert!(pull.contains(configured) && pull.contains("--max-download=3145728"), "{pull}");
    let options =
        ["pull", "127.0.0.1:9/x:1", "--max-size", "5G", "--max-entries", "8", "--max-download", "9"];
    let pull = explained(&options);
    for (option, times) in [
        ("--max-size=5368709120", 1),
        ("--max-size", 1),
        ("--max-entries=8", 1),
        ("--max-entries", 1),
        ("--max-unpacked=2147483648", 1),
        ("--max-download=9", 1),
        ("--max-download", 1),
    ] {
        assert_eq!(pull.matches(option).count(), times, "{option}: {pull}");
    }
    assert!(!explained(&["build", "debian"]).contains("--max-"), "packages are signed, not limited");
    assert!(explained(&["build", "--file", "x", "."]).contains(configured));
}

#[test]
fn the_configured_kernel_is_booted_unless_an_option_names_another() {
    let world = World::new("net.mode = 'user'\nvm.kernel = 'mine'\n");
    let error = assert_error(&world.run(&["vm", "plan", "dev1"]), 3, "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("mine"), "{error}");
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "lib");
    let file = root.path().join(format!("boot/vmlinuz-{RELEASE}"));
    for name in ["mine", "other"] {
        let mut command = world.command(&["kernel", "import", "--name", name, "--modules"]);
        let output = run(command.arg(root.path()).arg(&file), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let vm = world.planned("dev1", &[]);
    assert_eq!(vm["kernel"], "mine");
    assert!(vm["paths"]["kernel"].as_str().unwrap().contains("/kernels/mine/"), "{vm}");
    assert_eq!(world.planned("dev2", &["--kernel", "other"])["kernel"], "other");
    let own = world.planned("dev3", &["--kernel", "image"]);
    assert_eq!(own["kernel"], Value::Null);
    assert!(own["paths"]["kernel"].as_str().unwrap().contains("/images/debian/"), "{own}");
    // So nothing else may be called that.
    let mut import = world.command(&["kernel", "import", "--name", "image", "x", "--json"]);
    let error = assert_error(&run(&mut import, b""), 2, "usage");
    assert!(error["error"]["message"].as_str().unwrap().contains("the kernel of an image"), "{error}");
}

#[test]
fn changes_are_capped_where_the_configuration_says_so() {
    let world = World::new("net.mode = 'user'\ndisk.max_changes = '128M'\n");
    assert_eq!(world.planned("dev1", &[])["max_changes_bytes"], 128 << 20);
    assert!(World::new("net.mode = 'user'\n").planned("dev1", &[])["max_changes_bytes"].is_null());
}

#[test]
fn limits_and_the_mtu_can_be_given_at_creation() {
    let world = World::new("net.mode = 'tap'\nnet.mtu = 1400\n");
    let options = ["--disk-rate", "50M", "--net-rate", "10M", "--mtu", "9000", "--vmm", "firecracker"];
    let vm = world.planned("dev1", &options);
    assert_eq!(
        (&vm["disk_rate_bytes_s"], &vm["net_rate_bytes_s"], &vm["mtu"]),
        (&(50 << 20).into(), &(10 << 20).into(), &9000.into())
    );
    let vm = world.planned("dev2", &["--disk-rate", "none", "--net-rate", "none"]);
    assert_eq!(
        (&vm["disk_rate_bytes_s"], &vm["net_rate_bytes_s"], &vm["mtu"]),
        (&Value::Null, &Value::Null, &1400.into())
    );
    assert!(World::new("net.mode = 'user'\n").planned("dev1", &[])["mtu"].is_null());
}

#[test]
fn what_cannot_be_limited_is_refused_and_leaves_nothing() {
    let world = World::new("");
    let plan = |args: &[&str]| world.run(&[&["vm", "plan", "dev1"], args].concat());
    for mode in [["--vmm", "qemu"], ["--net", "user"]] {
        let error = assert_error(&plan(&[&mode[..], &["--net-rate", "10M"]].concat()), 5, "unsupported");
        let hint = "leave --net-rate out, or use Firecracker (--vmm firecracker)";
        assert_eq!(error["error"]["hint"], hint, "{mode:?}");
    }
    assert_error(&plan(&["--net", "user", "--mtu", "1501"]), 5, "unsupported");
    for rate in ["1K", "0", "fast"] {
        assert_error(&plan(&["--disk-rate", rate]), 2, "usage");
        assert_error(&plan(&["--net-rate", rate]), 2, "usage");
    }
    for mtu in ["0", "576", "1279", "9001", "65536", "-1", "1.5K"] {
        assert_error(&plan(&[&format!("--mtu={mtu}")]), 2, "usage");
    }
    assert_eq!(world.planned("dev1", &["--net", "user", "--mtu", "1280"])["mtu"], 1280);
}
