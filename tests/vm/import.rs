//! An OCI image that is imported and booted: what its guest sees of every kind of file is what the source has.

use std::fs;

use crate::home::{Home, prepared, said};
use crate::support::{self, archive, command, run, tree};

/// Says everything of the files below a directory, in the guest as on the host. Perl is in Debian's smallest system; nothing there reads
/// extended attributes, so it asks the kernel (llistxattr is 195 and lgetxattr 192 on x86_64, 12 and 9 on aarch64).
const TELL: &str = r#"
cd "$1"; export LC_ALL=C
find . -printf '%y %m %U:%G %T@ %P -> %l\n' | sort
find . ! -type d -printf '%s %n %P\n' | sort
find . \( -type b -o -type c \) -exec stat -c '%t,%T %n' {} + | sort
find . -type f -exec sha256sum {} + | sort
find . -print0 | sort -z | perl -n0e '
    BEGIN { ($list, $get) = `uname -m` =~ /x86_64/ ? (195, 192) : (12, 9) }
    chomp; my $path = $_; my $names = "\0" x 65536;
    my $length = syscall($list, $path, $names, 65536);
    for my $name (sort split /\0/, substr($names, 0, $length > 0 ? $length : 0)) {
        my $value = "\0" x 65536; my $size = syscall($get, $path, $name, $value, 65536);
        print "$path $name ", unpack("H*", substr($value, 0, $size)), "\n";
    }'
"#;

#[test]
fn an_oci_image_boots_and_its_files_are_those_of_the_source() {
    let Some(home) = Home::new() else { return };
    if !support::require("vm", tree::can_mount_loop(), "reading the prepared image needs loop devices") {
        return;
    }
    let source = home.path("source");
    tree::make_every_kind(&source.join("tree"));
    let (lower, upper, layout) = (home.path("lower.tar"), home.path("upper.tar"), home.path("layout"));
    let rootfs = home.path("rootfs.ext4");
    std::os::unix::fs::symlink(prepared().join("images/debian/rootfs.ext4"), &rootfs).unwrap();
    // Without what this test does not need: there are no kernel's modules in a container image either.
    tree::mounted(&rootfs, |root| {
        let mut tar = command("tar");
        tar.args(["--exclude=./usr/lib/modules", "--exclude=./usr/share", "--exclude=./lost+found", "-C"])
            .arg(root);
        assert!(run(tar.arg("-cf").arg(&lower).arg("."), b"").status.success());
    });
    let mut tar = command("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "--format=posix", "-C"]).arg(&source);
    assert!(run(tar.arg("-cf").arg(&upper).arg("tree"), b"").status.success());
    let layers = [lower, upper].map(|path| {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (bytes.clone(), bytes)
    });
    archive::layout(&layout, &layers);
    drop(layers);
    let imported = home.json(&["image", "import", layout.to_str().unwrap(), "oci"]);
    assert_eq!((&imported["distribution"], &imported["notes"]), (&"debian".into(), &serde_json::json!([])));

    let expected = run(command("sh").args(["-euc", TELL, "sh"]).arg(source.join("tree")), b"");
    assert!(expected.status.success(), "{}", said(&expected));
    let repo = home.repo("repo");
    let output = home.run(&[
        "vm",
        "run",
        "--rm",
        "--image",
        "oci",
        repo.to_str().unwrap(),
        "--",
        "sh",
        "-euc",
        TELL,
        "sh",
        "/tree",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let lines =
        |bytes: &[u8]| -> Vec<String> { String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect() };
    for (found, expected) in lines(&output.stdout).iter().zip(&lines(&expected.stdout)) {
        assert_eq!(found, expected);
    }
    assert!(output.stdout == expected.stdout);
    home.assert_clean();
}
