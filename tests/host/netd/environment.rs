//! What a hostile caller gives a program that runs as root along: an environment, a search path, files to open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::snapshot::snapshot;
use super::{NETD, document, document_of, etc, isolated, ok, replace_program, sh};
use crate::support::{self, assert_error, command, record, run};

/// nobody, who has no state directory and no home.
const NOBODY: u32 = 65534;

/// A directory of programs that leave a mark, under every name that is looked for, and more.
fn hostile() -> String {
    let dir = "/run/hostile";
    fs::create_dir(dir).expect("made");
    let names = [
        "nft",
        "ip",
        "iptables",
        "iptables-legacy",
        "ip6tables",
        "ufw",
        "firewall-cmd",
        "busctl",
        "getent",
        "sh",
        "bash",
        "env",
        "modprobe",
        "sysctl",
        "dmsetup",
        "losetup",
        "banger",
        "banger-netd",
        "banger-disk",
        "resolvectl",
        "id",
    ];
    for name in names {
        let path = Path::new(dir).join(name);
        fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >> /run/hostile/ran\nexit 0\n"))
            .expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    assert!(sh(&format!("chown -R {NOBODY} {dir} && chmod 1777 {dir}")).status.success());
    dir.to_owned()
}

/// Gives a program everything that could lead it, or one that it starts, astray.
fn mislead<'a>(command: &'a mut Command, dir: &str) -> &'a mut Command {
    for name in ["TMPDIR", "HOME", "XTABLES_LIBDIR", "PYTHONPATH", "PERL5LIB", "NFT_PATH", "BANGER_ROOT_PATH"]
    {
        command.env(name, dir);
    }
    command
        .env("PATH", dir)
        .env("LD_LIBRARY_PATH", dir)
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/hostile/bus")
        .env("BANGER_STATE_DIR", dir)
        .env("BANGER_LOCK_FD", "0")
        .env("BASH_ENV", format!("{dir}/sh"))
        .env("ENV", format!("{dir}/sh"))
        .env("IFS", "/")
}

/// A host on which other programs are asked: Docker's rules, and a VM whose record consents.
fn consenting(uid: u32) -> Value {
    let docker = "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }; \
                  add chain ip filter DOCKER-USER'";
    assert!(sh(docker).status.success());
    let mut document = document_of(uid, super::STATE, "213.7", 2);
    document["vm"]["open_firewall"] = json!(true);
    document
}

#[test]
fn as_root_nothing_of_the_environment_is_used() {
    isolated("netd::environment::as_root_nothing_of_the_environment_is_used", || {
        let dir = hostile();
        let wanted = consenting(1000);
        // A program that is really run tells what it was given.
        replace_program("nft", "#!/bin/sh\n/usr/bin/env >> /run/given\nexec @real@ \"$@\"\n");
        let verb = |verb: &str, input: &Value| {
            let mut netd = command(NETD);
            mislead(&mut netd, &dir).env("SUDO_UID", "1000").args(verb.split(' '));
            run(&mut netd, input.to_string().as_bytes())
        };
        let attached = verb("attach", &wanted);
        assert!(attached.status.success(), "{}", record(&attached));
        let attached = record(&attached);
        for name in ["attach", "check", "status", "pool fill 1", "pool drain", "detach"] {
            let output = verb(name, &attached);
            assert!(output.status.success(), "{name}: {}", record(&output));
        }
        let list = json!({ "schema": "banger.vms/1", "state_id": super::STATE, "items": [] });
        assert!(verb("gc", &list).status.success());
        drop(verb("hook", &json!({ "schema": "banger.hook/1", "state_id": super::STATE })));
        let ran = fs::read_to_string("/run/hostile/ran").unwrap_or_default();
        assert_eq!(ran, "", "programs of the caller's ran as root");
        let given = fs::read_to_string("/run/given").expect("nft was run");
        let names: std::collections::BTreeSet<&str> =
            given.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        let fixed = ["LC_ALL", "PATH", "PWD", "SHLVL", "SUDO_UID", "_"];
        assert!(names.iter().all(|name| fixed.contains(name)), "{names:?}");
        assert!(given.lines().any(|line| line == "PATH=/usr/sbin:/usr/bin:/sbin:/bin"), "{given}");
    });
}

#[test]
fn a_program_that_others_can_change_is_not_run_as_root() {
    isolated("netd::environment::a_program_that_others_can_change_is_not_run_as_root", || {
        let before = snapshot();
        replace_program("nft", "#!/bin/sh\nexec @real@ \"$@\"\n");
        for (change, back) in
            [("chmod 777", "chmod 755"), ("chown nobody", "chown root"), ("chmod g+w", "chmod g-w")]
        {
            assert!(sh(&format!("{change} /run/fake/nft")).status.success());
            let output = super::netd("attach", &document(2));
            let error = assert_error(&output, 5, "denied");
            assert!(error["error"]["causes"][0] == "nft is not run as root", "{change}: {error}");
            assert!(sh(&format!("{back} /run/fake/nft")).status.success());
            before.assert_still(change);
        }
        assert!(sh("chown nobody /run/fake/nft && chmod g+w /run/fake/nft").status.success());
        let error = assert_error(&super::netd("attach", &document(2)), 5, "denied");
        let command = error["error"]["hint"]
            .as_str()
            .and_then(|hint| hint.strip_prefix("as root: "))
            .expect("a command");
        assert!(sh(command).status.success(), "{command}");
        ok("detach", &ok("attach", &document(2)));
    });
}

#[test]
fn as_root_no_file_is_opened_that_the_caller_names() {
    isolated("netd::environment::as_root_no_file_is_opened_that_the_caller_names", || {
        let secret = "/run/secret";
        fs::write(secret, "a root's secret").expect("written");
        for verb in [
            "attach",
            "detach",
            "update",
            "status",
            "pool fill 1",
            "pool drain",
            "check",
            "gc",
            "hook",
            "unhook",
        ] {
            for file in
                [secret, "/run/no-such-file", "/etc/shadow", "/dev/stdin", "/proc/self/mem", "/dev/zero"]
            {
                let mut netd = command(NETD);
                let output =
                    run(netd.args(verb.split(' ')).args(["--input", file]).env("SUDO_UID", "1000"), b"");
                let error = assert_error(&output, 2, "usage");
                assert!(error["error"]["hint"].to_string().contains("< FILE"), "{error}");
                let said = format!("{error} {}", String::from_utf8_lossy(&output.stderr));
                assert!(
                    !said.contains("secret") && !said.contains("shadow") && !said.contains("such"),
                    "{said}"
                );
            }
        }
        let disk = env!("CARGO_BIN_EXE_banger-disk");
        for verb in ["create", "remove", "status", "gc"] {
            let output =
                run(command(disk).args(["dm", verb, "--input", secret]).env("SUDO_UID", "1000"), b"");
            assert_error(&output, 2, "usage");
        }
        // Who is not root reads what they may read.
        let world = "/run/record";
        fs::write(world, document(2).to_string()).expect("written");
        let output = run(command(NETD).args(["check", "--input", world]).uid(NOBODY).gid(NOBODY), b"");
        assert_error(&output, 5, "denied");
    });
}

/// sudo(8) itself, whose configuration leaves nobody's environment as it is.
struct Sudo(String);

impl Sudo {
    fn new() -> Self {
        let dir = hostile();
        assert!(sh(&format!("install -m 755 {NETD} /run/banger-netd")).status.success());
        let rules = "Defaults !secure_path, !env_reset, !requiretty, setenv\n\
                     nobody ALL=(root) NOPASSWD: SETENV: /run/banger-netd\n";
        for file in ["sudoers.d/README", "sudo.conf"] {
            etc(file, "");
        }
        etc("sudoers", rules);
        assert!(sh("chmod 440 /etc/sudoers && chown root:root /etc/sudoers").status.success());
        Self(dir)
    }

    fn run(&self, verb: &str, input: &[u8]) -> Output {
        let mut sudo = command(which::which_in("sudo", Some("/usr/bin:/bin"), "/").expect("sudo"));
        mislead(&mut sudo, &self.0).env("SUDO_UID", "0").uid(NOBODY).gid(NOBODY);
        run(sudo.args(["-n", "-E", "/run/banger-netd"]).args(verb.split(' ')), input)
    }

    #[track_caller]
    fn assert_nothing_of_the_callers_ran(&self) {
        let ran = fs::read_to_string("/run/hostile/ran").unwrap_or_default();
        assert_eq!(ran, "", "programs of the caller's ran as root");
    }
}

/// [`isolated`], where there is sudo.
fn with_sudo(name: &str, body: impl FnOnce(Sudo)) {
    if support::require("host", support::has("sudo"), "needs sudo") {
        isolated(&format!("netd::environment::{name}"), || body(Sudo::new()));
    }
}

#[test]
fn through_sudo_without_secure_path_no_program_of_the_callers_is_run() {
    with_sudo("through_sudo_without_secure_path_no_program_of_the_callers_is_run", |sudo| {
        let attached = sudo.run("attach", consenting(NOBODY).to_string().as_bytes());
        assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
        for verb in ["status", "check", "pool fill 1", "pool drain", "detach"] {
            let output = sudo.run(verb, record(&attached).to_string().as_bytes());
            assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        }
        sudo.assert_nothing_of_the_callers_ran();
        // For nobody but oneself, and in no other network than the usual.
        assert_error(&sudo.run("attach", document(2).to_string().as_bytes()), 5, "denied");
        let elsewhere = document_of(NOBODY, super::STATE, "20.30", 2).to_string();
        assert_error(&sudo.run("attach", elsewhere.as_bytes()), 5, "denied");
    });
}

/// Whatever a user asks for: what is others' stays, nothing of theirs runs, no descriptor of root's and no network outside of the range
/// comes of it.
#[test]
fn through_sudo_mutated_records_change_nothing_of_others() {
    with_sudo("through_sudo_mutated_records_change_nothing_of_others", |sudo| {
        super::attacks::inhabited();
        let mine = document_of(NOBODY, "33333333", "213.9", 2);
        let before = snapshot();
        let clean = json!({ "schema": "banger.vms/1", "state_id": "33333333", "items": [] }).to_string();
        let strategy = proptest::collection::vec(super::fuzz::mutation(), 1..4);
        let rng_seed = support::changes::rng_seed();
        let config = Config {
            cases: 200,
            failure_persistence: None,
            max_shrink_iters: 20,
            rng_seed,
            ..Config::default()
        };
        let verbs = ["attach", "detach", "check", "update", "status", "pool fill 2", "pool drain", "gc"];
        let result = TestRunner::new(config).run(&(strategy, 0..verbs.len()), |(mutations, n)| {
            let valid =
                if verbs[n] == "gc" { serde_json::from_str(&clean).expect("JSON") } else { mine.clone() };
            let input = super::fuzz::mutated(&valid, &mutations);
            let output = sudo.run(verbs[n], &input);
            let shown = format!(
                "{} {}",
                verbs[n],
                String::from_utf8_lossy(&input).chars().take(3000).collect::<String>()
            );
            prop_assert!(matches!(output.status.code(), Some(0..=5)), "{:?} {shown}", output.status);
            for (verb, input) in [("pool drain", &mine.to_string()), ("gc", &clean)] {
                let output = sudo.run(verb, input.as_bytes());
                prop_assert!(output.status.success(), "{verb} after {shown}: {}", record(&output));
            }
            // What became another state directory's or VM's of this user's is still this user's alone.
            let owned = format!("banger:[0-9a-f]*:{NOBODY}");
            let theirs = sh(&format!("ip -o link | grep -o '{owned}' | cut -d: -f2 | sort -u"));
            for state in String::from_utf8_lossy(&theirs.stdout).lines() {
                let list = json!({ "schema": "banger.vms/1", "state_id": state, "items": [] }).to_string();
                prop_assert!(sudo.run("gc", list.as_bytes()).status.success(), "{shown}");
            }
            prop_assert!(snapshot() == before, "it changed something: {shown}");
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
        sudo.assert_nothing_of_the_callers_ran();
    });
}
