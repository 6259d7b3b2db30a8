//! An OCI image that is imported and booted: what its guest sees of every kind of file is what the source has. It has no sshd, so that
//! it shows that none is needed.

use std::fs;
use std::path::Path;

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
find . -type f -size +1000k -printf '%b %s %P\n' | perl -ane 'print "$F[2] ", $F[0] * 512 < $F[1] ? "has holes" : "is full", "\n"' | sort
find . -print0 | sort -z | perl -n0e '
    BEGIN { ($list, $get) = `uname -m` =~ /x86_64/ ? (195, 192) : (12, 9) }
    chomp; my $path = $_; my $names = "\0" x 65536;
    my $length = syscall($list, $path, $names, 65536);
    for my $name (sort split /\0/, substr($names, 0, $length > 0 ? $length : 0)) {
        my $value = "\0" x 65536; my $size = syscall($get, $path, $name, $value, 65536);
        print "$path $name ", unpack("H*", substr($value, 0, $size)), "\n";
    }'
"#;

/// What the upper layer takes away again.
fn hide(tree: &Path) {
    fs::create_dir_all(tree.join("opaque/below")).unwrap();
    fs::create_dir(tree.join("gone")).unwrap();
    for hidden in
        ["whited out", "opaque/old", "opaque/below/older", "opaque/replaced", "gone/with it", "becomes"]
    {
        fs::write(tree.join(hidden), "of the lower layer").unwrap();
    }
    at_noon(tree);
}

/// A layer with whiteouts, an opaque directory, a file that becomes a directory, one with another content, a hard link to a file of
/// the layer below, and no sshd. Makes of `tree` what is to be seen through it.
fn upper_layer(tree: &Path) -> Vec<u8> {
    for file in ["whited out", "becomes"] {
        fs::remove_file(tree.join(file)).unwrap();
    }
    for directory in ["opaque", "gone"] {
        fs::remove_dir_all(tree.join(directory)).unwrap();
    }
    for directory in ["opaque", "becomes"] {
        fs::create_dir(tree.join(directory)).unwrap();
    }
    for (file, content) in
        [("opaque/replaced", "of the upper"), ("becomes/below", "x"), ("n".repeat(255).as_str(), "other")]
    {
        fs::write(tree.join(file), content).unwrap();
        at_noon(&tree.join(file));
    }
    fs::hard_link(tree.join("dir/file"), tree.join("across")).unwrap();
    for directory in ["opaque", "becomes", ""] {
        at_noon(&tree.join(directory));
    }
    let long = format!("tree/{}", "n".repeat(255));
    archive::Tar::default()
        .file("tree/.wh.whited out", b"")
        .file("tree/.wh.gone", b"")
        .directory("tree/becomes")
        .file("tree/becomes/below", b"x")
        .directory("tree/opaque")
        .file("tree/opaque/replaced", b"of the upper")
        .file("tree/opaque/.wh..wh..opq", b"")
        .pax(&[("path", long.as_bytes())])
        .file("long", b"other")
        .hard_link("tree/across", "tree/dir/file")
        .file("usr/sbin/.wh.sshd", b"")
        .end()
}

/// Gives a file the time that those of [`archive::Tar`] have.
fn at_noon(path: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(0o14_000_000_000);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn an_oci_image_boots_and_its_files_are_those_of_the_source() {
    let Some(home) = Home::new() else { return };
    if !support::require("vm", tree::can_mount_loop(), "reading the prepared image needs loop devices") {
        return;
    }
    let source = home.path("source");
    tree::make_every_kind(&source.join("tree"));
    let (lower, middle, layout) = (home.path("lower.tar"), home.path("middle.tar"), home.path("layout"));
    let rootfs = home.path("rootfs.ext4");
    std::os::unix::fs::symlink(prepared().join("images/debian/rootfs.ext4"), &rootfs).unwrap();
    // Without what this test does not need: there are no kernel's modules in a container image either.
    tree::mounted(&rootfs, |root| {
        let mut tar = command("tar");
        tar.args(["--exclude=./usr/lib/modules", "--exclude=./usr/share", "--exclude=./lost+found", "-C"])
            .arg(root);
        assert!(run(tar.arg("-cf").arg(&lower).arg("."), b"").status.success());
    });
    let tree = source.join("tree");
    hide(&tree);
    let mut tar = command("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "--format=posix", "-C"]).arg(&source);
    assert!(run(tar.arg("-cf").arg(&middle).arg("tree"), b"").status.success());
    let layers = [lower, middle].map(|path| {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (bytes.clone(), bytes)
    });
    let upper = upper_layer(&tree);
    archive::layout(&layout, &[&layers[..], &[(upper.clone(), upper)]].concat());
    drop(layers);
    let imported = home.json(&["image", "import", layout.to_str().unwrap(), "oci"]);
    assert_eq!(imported["distribution"], "debian");
    let notes = imported["notes"].as_array().unwrap();
    assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains("/usr/sbin/sshd"), "{notes:?}");

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
