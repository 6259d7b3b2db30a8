//! What the configuration brings into a VM: the user's files, git identity, disks of the wanted size; and again at the next start.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Output;

use crate::home::{Home, prepared, said};
use crate::support;

/// A user's home and configuration beside the state directory.
struct User<'a> {
    home: &'a Home,
    dir: PathBuf,
}

impl<'a> User<'a> {
    fn new(home: &'a Home) -> Self {
        let dir = home.path("user");
        fs::create_dir_all(dir.join("dotfiles/sub")).unwrap();
        fs::write(dir.join(".gitconfig"), "[user]\n\tname = Ann\n\temail = ann@example.org\n").unwrap();
        Self { home, dir }
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.dir.join(name), text).unwrap();
        fs::set_permissions(self.dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.home.banger(args);
        command.env("HOME", &self.dir).env("BANGER_CONFIG", self.dir.join("config.toml"));
        support::run(&mut command, b"")
    }

    /// What a shell in the guest prints.
    #[track_caller]
    fn guest(&self, script: &str) -> String {
        let output = self.run(&["vm", "ssh", "dev1", "--", script]);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

const CONFIG: &str = r#"
[vm]
disk_size = "9G"
work_size = "10G"

[[file_sync]]
host = "~/secret"
guest = "~/.config/tool/secret"
mode = "0600"

[[file_sync]]
host = "~/dotfiles"
guest = "/root/dotfiles"

[[file_sync]]
host = "~/sometimes"
guest = "~/sometimes"

[[file_sync]]
host = "~/secret"
guest = "~/linked/secret"
"#;

/// Puts an image that lacks its work seed in the prepared one's place.
fn without_seed(home: &Home) {
    let image = home.state().join("images/debian");
    fs::remove_file(&image).unwrap();
    fs::create_dir(&image).unwrap();
    for entry in fs::read_dir(prepared().join("images/debian")).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if name != "work-seed.ext4" && name != "seeds.json" {
            symlink(path, image.join(name)).unwrap();
        }
    }
}

/// Size of the filesystems on / and /root, GiB; ext4 keeps a little for itself.
const SIZES: &str =
    "df -B1 --output=size / /root | awk 'NR > 1 { printf \"%.0f \", $1 / 1024 / 1024 / 1024 + 0.1 }'";

#[test]
fn files_identity_and_sizes_come_with_every_start() {
    let Some(home) = Home::new() else { return };
    let user = User::new(&home);
    user.write("config.toml", CONFIG, 0o600);
    user.write("secret", "one\n", 0o644);
    user.write("sometimes", "there\n", 0o640);
    user.write("dotfiles/script", "#!/bin/sh\necho ran\n", 0o755);
    symlink("script", user.dir.join("dotfiles/sub/link")).unwrap();
    without_seed(&home);
    let created = user.run(&["vm", "create", "dev1"]);
    assert!(created.status.success(), "{}", said(&created));
    assert!(home.state().join("images/debian/work-seed.ext4").is_file(), "it heals");
    let started = user.run(&["vm", "start", "dev1"]);
    assert!(started.status.success(), "{}", said(&started));
    let seen = user.guest("cd; stat -c '%A %U %n' .config .config/tool/secret dotfiles/script sometimes; readlink dotfiles/sub/link; dotfiles/script");
    let wanted = "drwx------ root .config\n-rw------- root .config/tool/secret\n-rwxr-xr-x root dotfiles/script\n-rw-r----- root sometimes\nscript\nran\n";
    assert_eq!(seen, wanted);
    assert_eq!(
        user.guest("git config --global user.email; cat ~/.config/tool/secret"),
        "ann@example.org\none\n"
    );
    // The image's own /root is there, though the seed had nothing of it.
    let own = "stat -c '%a %U' /root; ls -A ~ | grep -x -e .bashrc -e .profile";
    assert_eq!(user.guest(own), "700 root\n.bashrc\n.profile\n");
    assert_eq!(user.guest(SIZES), "9 10 ");
    let running = user.run(&["vm", "set", "dev1", "--work-size", "11G", "--json"]);
    assert!(running.status.success(), "{}", said(&running));
    assert_eq!(user.guest(SIZES), "9 11 ", "a disk grows while the VM runs");

    // The guest does its worst, the host changes, and the VM starts again.
    let guest = "cd; mkdir /srv/trap; rm -r linked; ln -s /srv/trap linked; echo mine > sometimes; echo mine > dotfiles/mine; sync";
    user.guest(guest);
    assert!(user.run(&["vm", "stop", "dev1"]).status.success());
    user.write("secret", "two\n", 0o644);
    fs::remove_file(user.dir.join("sometimes")).unwrap();
    let set = user.run(&["vm", "set", "dev1", "--disk-size", "12G", "--work-size", "13G"]);
    assert!(set.status.success(), "{}", said(&set));
    support::assert_error(&user.run(&["vm", "set", "dev1", "--json", "--work-size", "12G"]), 2, "usage");
    let started = user.run(&["vm", "start", "dev1"]);
    assert!(started.status.success(), "{}", said(&started));
    assert!(said(&started).contains("file_sync[2]"), "{}", said(&started));
    assert_eq!(user.guest("cd; cat .config/tool/secret sometimes dotfiles/mine"), "two\nmine\nmine\n");
    assert_eq!(user.guest(SIZES), "12 13 ");
    assert_eq!(user.guest("ls /srv/trap; readlink ~/linked"), "/srv/trap\n");
    let logs = user.run(&["vm", "logs", "dev1"]);
    assert!(said(&logs).contains("cannot lay /root/linked/secret"), "{}", said(&logs));
    assert!(user.run(&["vm", "delete", "--force", "dev1"]).status.success());
    home.assert_clean();
}
