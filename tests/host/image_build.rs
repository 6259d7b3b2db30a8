//! `image build`: distributions, the keys of archives, recipes. The archives are of the tests' own, the apt that reads them is real.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::disk::Builds;
use crate::support::disk::names;
use crate::support::web::{Reply, Server};
use crate::support::{self, assert_error, command, record, run};

/// The script of the recipe `dev`.
const DEV: &str = include_str!("../../bins/banger-disk/src/recipe/dev.sh");
/// The key that it accepts.
const MISE_KEY: &str = "24853EC9F655CE80B48E6C3A8B81C9D17413A06D";

#[test]
fn ubuntu_is_built_of_its_own_archive_with_the_keys_that_are_named() {
    let Some(builds) = Builds::new() else { return };
    let keys = builds.file("keys");
    fs::write(&keys, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n").unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let log = || fs::read_to_string(builds.file("log")).unwrap();
    let mut build = builds.command(&[]);
    let image = record(&run(build.arg("ubuntu").arg("--keyring").arg(&keys), b""));
    assert_eq!((&image["distribution"], &image["suite"]), (&"ubuntu".into(), &"noble".into()), "{image}");
    assert!(image["packages"].as_array().unwrap().contains(&"linux-image-virtual".into()), "{image}");
    let said = log();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.contains(&"noble"), "{said}");
    for suite in ["noble", "noble-updates", "noble-security"] {
        let end = format!(" {suite} main universe");
        assert!(lines.iter().any(|l| l.starts_with("deb http://") && l.ends_with(&end)), "{suite}: {said}");
    }
    // A copy that apt can read, named as apt knows armoured keys.
    let given = lines.iter().position(|line| *line == "--keyring").map(|at| lines[at + 1]).unwrap();
    assert!(given != keys.to_str().unwrap() && given.ends_with(".asc"), "{given}");

    // Called as the distribution; from the mirror that is named, and nothing else.
    let mut build = builds.bench.disk_command();
    let path = builds
        .command(&[])
        .get_envs()
        .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
        .collect::<Vec<_>>();
    let mirror = ["image", "build", "ubuntu", "--suite", "jammy", "--size", "256M", "--mirror", "http://m/u"];
    let image = record(&run(build.args(mirror).arg("--keyring").arg(&keys).envs(path), b""));
    assert_eq!((&image["name"], &image["source"]), (&"ubuntu".into(), &"http://m/u".into()), "{image}");
    assert_eq!(
        log().lines().filter(|line| line.starts_with("deb ")).collect::<Vec<_>>(),
        ["deb http://m/u jammy main universe"]
    );
    assert_eq!(builds.images(), ["debian", "small", "ubuntu"]);
}

/// A directory with an archive that has the release `noble`, with nothing to boot in it, and the keys that sign it and that do not.
struct Archive {
    dir: tempfile::TempDir,
}

impl Archive {
    /// `None`: it cannot be here.
    fn new() -> Option<Self> {
        let able = support::is_root() && support::has("mmdebstrap") && support::has("gpg");
        if !support::require("host", able, "reading a signed archive needs root, mmdebstrap and gpg") {
            return None;
        }
        let archive = Self { dir: tempfile::tempdir().unwrap() };
        let packages = archive.path("dists/noble/main/binary-amd64");
        fs::create_dir_all(&packages).unwrap();
        let package = "Package: a\nVersion: 1\nArchitecture: all\nFilename: a.deb\nSize: 1\n";
        fs::write(packages.join("Packages"), package).unwrap();
        let sum = run(command("sha256sum").arg(packages.join("Packages")), b"").stdout;
        let sum = String::from_utf8(sum).unwrap()[..64].to_owned();
        let date = run(command("date").args(["-Ru"]), b"").stdout;
        let date = String::from_utf8(date).unwrap();
        let release = format!(
            "Origin: Test\nSuite: noble\nCodename: noble\nArchitectures: amd64\nComponents: main\nDate: {}\nSHA256:\n \
             {sum} {} main/binary-amd64/Packages\n",
            date.trim().replace("+0000", "UTC"),
            package.len()
        );
        fs::write(archive.path("Release"), release).unwrap();
        for name in ["good", "other"] {
            archive
                .gpg(name, &["--passphrase", "", "--quick-generate-key", "Test", "ed25519", "sign", "never"]);
            archive
                .gpg(name, &["--output", archive.path(&format!("{name}.gpg")).to_str().unwrap(), "--export"]);
        }
        let (from, to) = (archive.path("Release"), archive.path("dists/noble/InRelease"));
        archive.gpg("good", &["--output", to.to_str().unwrap(), "--clearsign", from.to_str().unwrap()]);
        Some(archive)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn gpg(&self, home: &str, args: &[&str]) -> Output {
        gpg(&self.path(home), args)
    }
}

fn gpg(home: &Path, args: &[&str]) -> Output {
    fs::create_dir_all(home).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o700)).unwrap();
    let output = run(command("gpg").args(["--batch", "--quiet", "--homedir"]).arg(home).args(args), b"");
    drop(run(command("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", home), b""));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn an_archive_that_cannot_be_used_is_a_clear_error_and_nothing_is_left() {
    let Some(archive) = Archive::new() else { return };
    let Some(builds) = Builds::new() else { return };
    let root = archive.dir.path().to_owned();
    let server = Server::start(move |asked| match fs::read(root.join(asked.path.trim_start_matches('/'))) {
        Ok(bytes) if asked.path.starts_with("/dists/") => Reply::new(200, bytes),
        _ => Reply::new(404, ""),
    });
    let url = format!("http://{}/", server.address);
    let build = |mirror: &str, suite: &str, keys: &str| {
        let mut disk = builds.bench.disk_command();
        disk.args(["image", "build", "ubuntu", "--mirror", mirror, "--suite", suite, "--keyring"]);
        let error = assert_error(&run(disk.arg(archive.path(keys)), b""), 1, "failed");
        assert_eq!(names(&builds.bench.state().join("images")), ["debian"], "{error}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (error.to_string(), text(&error["error"]["hint"]))
    };
    let (error, hint) = build("http://127.0.0.1:9/", "noble", "good.gpg");
    assert!(error.contains("Failed to fetch http://127.0.0.1:9/"), "{error}");
    assert!(hint.contains("--mirror names another"), "{hint}");
    let (error, hint) = build(&url, "nosuch", "good.gpg");
    assert!(error.contains("does not have a Release file"), "{error}");
    assert!(hint.contains("no such release"), "{hint}");
    let (error, hint) = build(&url, "noble", "other.gpg");
    assert!(error.contains("is not signed"), "{error}");
    assert!(hint.contains("--keyring"), "{hint}");
    // With the right keys it is read; that it lacks what is needed is the next that is wrong.
    let (error, _) = build(&url, "noble", "good.gpg");
    assert!(!error.contains("is not signed") && !error.contains("Failed to fetch"), "{error}");
    assert!(server.asked().iter().any(|asked| asked.path.contains("Packages")), "{:?}", server.asked());
}

/// Runs the recipe's script in a mount namespace with what it changes of a system replaced by directories of `dir`.
fn recipe(dir: &Path, script: &str, needed: bool) -> Output {
    let inside = r#"set -e
for at in /usr/local/bin /etc/apt /tmp; do
    mkdir -p "$DIR/root$at"
done
cp "$DIR/script" "$DIR/root/tmp/script"
[ ! -e "$DIR/mise" ] || { mkdir -p "$DIR/root/tmp/banger-given" && cp "$DIR/mise" "$DIR/root/tmp/banger-given/mise"; }
mount --bind "$DIR/root/usr/local/bin" /usr/local/bin
mkdir -p "$DIR/root/etc/apt/sources.list.d"
mount --bind "$DIR/root/etc/apt" /etc/apt
mount --bind "$DIR/bin" /mnt
PATH=/mnt:/usr/local/bin:/usr/bin:/bin
mount --bind "$DIR/root/tmp" /tmp
exec sh /tmp/script
"#;
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::write(dir.join("script"), script).unwrap();
    let mut unshare = command("unshare");
    unshare
        .args(["--mount", "sh", "-c", inside])
        .env("DIR", dir)
        .env("BANGER_MISE_NEEDED", if needed { "1" } else { "0" });
    run(&mut unshare, b"")
}

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_recipes_mise_is_the_given_one_or_one_that_is_signed() {
    let able = support::is_root() && support::has("gpg") && support::has("unshare");
    if !support::require("host", able, "a recipe's script needs root, mount namespaces and gpg") {
        return;
    }
    let world = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = world.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let notes = |dir: &Path| fs::read_to_string(dir.join("root/tmp/banger-notes")).unwrap_or_default();

    // One that runs; what it leaves in its home goes with that.
    let runs = dir("runs");
    program(&runs.join("mise"), "mkdir -p ~/.local/left; echo 2026.1.1 given");
    let output = recipe(&runs, DEV, true);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(notes(&runs), "mise is the host's: 2026.1.1 given\n");
    assert!(runs.join("root/usr/local/bin/mise").is_file());
    assert_eq!(names(&runs.join("root/tmp")), ["banger-given", "banger-notes", "script"]);

    // One that does not run: an error where it was named.
    let fails = dir("fails");
    program(&fails.join("mise"), "echo GLIBC_9.99 not found >&2; exit 1");
    let output = recipe(&fails, DEV, true);
    assert!(
        !output.status.success()
            && said(&output).contains("E: the given mise does not run in the image: GLIBC_9.99")
    );
    assert!(!fails.join("root/usr/local/bin/mise").exists());

    // Else that of the archive, whose key must be the published one.
    let key = world.path().join("key");
    let home = world.path().join("gnupg");
    gpg(&home, &["--passphrase", "", "--quick-generate-key", "mise releases", "ed25519", "sign", "never"]);
    gpg(&home, &["--armor", "--output", key.to_str().unwrap(), "--export"]);
    let listed = String::from_utf8(gpg(&home, &["--with-colons", "--list-keys"]).stdout).unwrap();
    let fingerprint =
        listed.lines().find_map(|line| line.strip_prefix("fpr:::::::::")?.strip_suffix(':')).unwrap();
    let archive = |dir: &Path| {
        program(&dir.join("mise"), "exit 1");
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::copy(&key, dir.join("bin/key")).unwrap();
        program(&dir.join("bin/curl"), "for last; do :; done; cat /mnt/key > \"$last\"");
        program(
            &dir.join("bin/apt-get"),
            "echo \"$@\" >> /tmp/apt; [ \"$1\" = update ] || printf '#!/bin/sh\\necho 2026.2.2 archive\\n' > /usr/local/bin/mise; \
             [ \"$1\" = update ] || chmod 755 /usr/local/bin/mise",
        );
    };
    let wrong = dir("wrong");
    archive(&wrong);
    let output = recipe(&wrong, DEV, false);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains(&format!("is not {MISE_KEY}")) && said(&output).contains("--mise"),
        "{}",
        said(&output)
    );
    assert!(!wrong.join("root/tmp/apt").exists(), "nothing is asked of an archive whose key is not known");

    let signed = dir("signed");
    archive(&signed);
    assert!(DEV.contains(MISE_KEY));
    let output = recipe(&signed, &DEV.replace(MISE_KEY, fingerprint), false);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        notes(&signed).contains("mise.jdx.dev/deb") && notes(&signed).contains("2026.2.2 archive"),
        "{}",
        notes(&signed)
    );
    let list = fs::read_to_string(signed.join("root/etc/apt/sources.list.d/mise.list")).unwrap();
    assert!(list.contains("signed-by=/etc/apt/keyrings/mise-archive-keyring.gpg"), "{list}");
    let kept = signed.join("root/etc/apt/keyrings/mise-archive-keyring.gpg");
    let shown = gpg(&home, &["--with-colons", "--show-keys", kept.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(fingerprint));

    // Without network.
    let alone = dir("alone");
    program(&alone.join("bin/curl"), "exit 6");
    let output = recipe(&alone, DEV, false);
    assert!(
        !output.status.success() && said(&output).contains("E: cannot get the key of mise's package archive")
    );
}
