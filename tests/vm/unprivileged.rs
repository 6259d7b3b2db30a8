//! An ordinary user without any privilege: no tap, no sudo, a state directory at home.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::home::{BANGER, Home, git, prepared, said};
use crate::support;

/// nobody
const UID: u32 = 65534;

/// Copies the programs and the image to where the user can read them.
fn furnish(home: &Home) {
    let bin = home.path("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["banger", "banger-netd", "banger-disk", "banger-qemu", "banger-ws"] {
        fs::copy(Path::new(BANGER).with_file_name(name), bin.join(name)).unwrap();
    }
    let image = home.path("home/state/images/debian");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    let copy = support::command("cp")
        .args(["-r", "--sparse=always", "--reflink=auto"])
        .arg(prepared().join("images/debian"))
        .arg(&image)
        .status();
    assert!(copy.unwrap().success());
    for dir in [home.dir.path(), &home.path("repo")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let owned = support::run(
        support::command("chown").args(["-R", &format!("{UID}:{UID}")]).arg(home.path("home")),
        b"",
    );
    assert!(owned.status.success(), "{}", said(&owned));
    chown(home.path("repo"), Some(UID), Some(UID)).unwrap();
    support::run(support::command("chown").args(["-R", &format!("{UID}:{UID}")]).arg(home.path("repo")), b"");
}

#[test]
fn the_main_job_needs_no_privilege() {
    let Some(home) = Home::new() else { return };
    let repo = home.repo("repo");
    // Nor does it need a git identity: the guest can commit all the same.
    git(&repo, &["config", "--unset", "user.name"]);
    git(&repo, &["config", "--unset", "user.email"]);
    furnish(&home);
    let script = "id -u; cat /proc/sys/kernel/hostname; git commit -q --allow-empty -m try || exit 9; exit 7";
    let mut command = support::command("setpriv");
    command
        .args([
            &format!("--reuid={UID}"),
            &format!("--regid={UID}"),
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ])
        .arg(home.path("bin/banger"))
        .args(["vm", "run", "--rm", "--name", "mine", "--patch"])
        .arg(home.path("home/p.patch"))
        .arg(home.path("repo"))
        .args(["--", "sh", "-c", script])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home.path("home"))
        .env("BANGER_STATE_DIR", home.path("home/state"))
        .current_dir(home.path("home"));
    let output = support::run(&mut command, b"");
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(output.stdout, b"0\nmine\n", "{}", said(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().filter(|line| line.contains("user networking")).count(), 1, "{stderr}");
    assert_eq!(fs::read(home.path("home/p.patch")).unwrap(), b"", "nothing changed");
    assert_eq!(fs::read_dir(home.path("home/state/vms")).unwrap().count(), 0);
}
