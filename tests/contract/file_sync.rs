//! The user's files that travel, from the configuration into the initrd.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::disk::{Bench, vm_dir};
use crate::support::{assert_error, command, run};

/// What `tar` lists of the files in the initrd of an attached VM: mode, name and where a link leads.
fn listed(attached: &Value) -> Vec<String> {
    let listing = tar(attached, &["-tv", "--numeric-owner"]);
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], "0/0", "{line}");
        format!("{} {}", words[0], words[5..].join(" "))
    };
    listing.lines().map(line).collect()
}

fn tar(attached: &Value, args: &[&str]) -> String {
    let initrd = fs::read(vm_dir(attached).join("initrd")).unwrap();
    // newc: six digits of magic, thirteen fields of eight, the name; then the content, at a multiple of four.
    let name = b"banger/files.tar\0";
    let name_at = initrd.windows(name.len()).rposition(|window| window == name).unwrap();
    let size = &initrd[name_at - 110 + 6 + 6 * 8..][..8];
    let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
    let content = &initrd[(name_at + name.len()).next_multiple_of(4)..][..size];
    let output = run(command("tar").arg("-f-").args(args), content);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn attach(bench: &Bench, document: &Value, entries: &[Value]) -> Output {
    let mut args = vec!["attach".to_owned()];
    for entry in entries {
        args.extend(["--file-sync".to_owned(), entry.to_string()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    bench.disk(&args, document.to_string().as_bytes())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_directories_and_links_travel_and_the_rest_is_told() {
    let bench = Bench::new();
    let home = bench.state().join("home");
    let host = |name: &str| home.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(home.join("dir/deep/er")).unwrap();
    fs::write(home.join("secret"), "s3cret").unwrap();
    fs::write(home.join("dir/script"), "#!/bin/sh\n").unwrap();
    fs::write(home.join("dir/deep/er/set-uid"), "x").unwrap();
    fs::write(home.join("dir").join("n".repeat(200)), "long").unwrap();
    symlink("secret", home.join("link")).unwrap();
    symlink("/nowhere/else", home.join("dir/link")).unwrap();
    let _socket = UnixListener::bind(home.join("dir/socket")).unwrap();
    assert!(run(command("mkfifo").arg(home.join("dir/fifo")), b"").status.success());
    for (name, mode) in
        [("secret", 0o640), ("dir", 0o750), ("dir/script", 0o755), ("dir/deep/er/set-uid", 0o4711)]
    {
        chmod(&home.join(name), mode);
    }
    let entries = [
        json!({ "host": host("secret"), "guest": "~/.secret", "mode": "0600" }),
        json!({ "host": host("link"), "guest": "/root/linked" }),
        json!({ "host": host("dir"), "guest": "~/d" }),
        json!({ "host": host("missing"), "guest": "~/m" }),
        json!({ "host": host("secret/below"), "guest": "~/m" }),
        json!({ "host": host("dir/fifo"), "guest": "~/f" }),
    ];
    let planned = bench.planned("dev1");
    let output = attach(&bench, &planned, &entries);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let attached = crate::support::record(&output);
    let files = listed(&attached);
    for wanted in [
        "-rw------- root/.secret",
        "-rw-r----- root/linked",
        "drwxr-x--- root/d/",
        "-rwxr-xr-x root/d/script",
        "lrwxrwxrwx root/d/link -> /nowhere/else",
        "-rwx--x--x root/d/deep/er/set-uid",
        &format!("-rw-r--r-- root/d/{}", "n".repeat(200)),
    ] {
        assert!(files.iter().any(|line| line == wanted), "{wanted} of {files:#?}");
    }
    assert_eq!(tar(&attached, &["-xO", "root/linked"]), "s3cret");
    assert!(
        !files.iter().any(|line| line.contains("fifo") || line.contains("socket") || line.contains("root/m"))
    );
    assert_eq!(said.lines().count(), 5, "{said}");
    for told in
        ["file_sync[3]", "file_sync[4]", "dir/socket", "file_sync[5]", "is not there; the guest keeps"]
    {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert!(fs::metadata(vm_dir(&attached).join("initrd")).unwrap().permissions().mode() & 0o077 == 0);

    // The same files: nothing to do. Another content: the record that says "attached" is not what is there any more.
    let again = crate::support::record(&attach(&bench, &attached, &entries));
    assert_eq!(again["result"]["changed"], false);
    fs::write(home.join("secret"), "other").unwrap();
    assert_error(&attach(&bench, &attached, &entries), 1, "conflict");
    let fresh = crate::support::record(&attach(&bench, &planned, &entries));
    assert_eq!(tar(&fresh, &["-xO", "root/.secret"]), "other");
}

#[test]
fn the_users_gitconfig_wins_and_bangers_key_stays() {
    let bench = Bench::new();
    fs::write(bench.state().join(".gitconfig"), "[user]\n\tname = Ann\n[alias]\n\tst = status\n").unwrap();
    fs::create_dir(bench.state().join("ssh2")).unwrap();
    fs::write(bench.state().join("ssh2/authorized_keys"), "nobody").unwrap();
    let host = |name: &str| bench.state().join(name).to_str().unwrap().to_owned();
    let planned = bench.planned("dev1");
    let without = crate::support::record(&attach(&bench, &planned, &[]));
    assert_eq!(tar(&without, &["-xO", "root/.gitconfig"]), "[user]\n\tname = \"Ann\"\n");
    let entries = [
        json!({ "host": host(".gitconfig"), "guest": "~/.gitconfig" }),
        json!({ "host": host("ssh2"), "guest": "~/.ssh" }),
    ];
    let with = crate::support::record(&attach(&bench, &planned, &entries));
    assert!(tar(&with, &["-xO", "root/.gitconfig"]).contains("[alias]"));
    let keys: Vec<_> = listed(&with).into_iter().filter(|line| line.ends_with("authorized_keys")).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(
        tar(&with, &["-xO", "root/.ssh/authorized_keys"]).ends_with("banger\n"),
        "the last one is banger's"
    );
}

#[test]
fn what_is_too_large_or_cannot_be_read_is_named_and_leaves_nothing() {
    let bench = Bench::new();
    let host = |name: &str| bench.state().join(name).to_str().unwrap().to_owned();
    fs::File::create(bench.state().join("large")).unwrap().set_len(31 << 20).unwrap();
    fs::File::create(bench.state().join("huge")).unwrap().set_len(10 << 40).unwrap();
    fs::create_dir(bench.state().join("many")).unwrap();
    for n in 0..20_001 {
        fs::File::create(bench.state().join(format!("many/{n}"))).unwrap();
    }
    let planned = bench.planned("dev1");
    for name in ["large", "huge", "many"] {
        let entries = [
            json!({ "host": host("ssh"), "guest": "~/small" }),
            json!({ "host": host(name), "guest": "~/x" }),
        ];
        let error = assert_error(&attach(&bench, &planned, &entries), 2, "bad-input");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("file_sync[1]") && message.contains(name), "{message}");
        assert!(!vm_dir(&planned).join("initrd").exists() && !vm_dir(&planned).join("work.ext4").exists());
    }
    for (field, entry) in [
        ("host", json!({ "host": "~/a", "guest": "~/a" })),
        ("guest", json!({ "host": "/a", "guest": "/etc/a" })),
        ("mode", json!({ "host": "/a", "guest": "~/a", "mode": "rwx" })),
    ] {
        let error = assert_error(&attach(&bench, &planned, &[entry]), 2, "bad-input");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("file_sync[0].{field}")), "{message}");
    }
    assert_error(&attach(&bench, &planned, &[json!({ "host": "/a" })]), 2, "usage");
}
