//! An image from scratch: a handful of programs of this host and the libraries that they need, no git, no package, no account but root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::home::{Home, git, said};
use crate::support::{command, run};

/// What a copy takes, and what the test's own command does.
const PROGRAMS: [&str; 9] = ["sh", "tar", "mkdir", "rm", "rmdir", "mv", "chmod", "ln", "cat"];

/// Copies `program` of this host and what it is linked with to the root of an image.
fn add(root: &Path, program: &str) {
    let found = run(command("sh").args(["-c", "command -v \"$1\"", "sh", program]), b"");
    let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let linked = run(command("ldd").arg(&path), b"");
    // NAME => PATH (ADDRESS), or the loader's PATH (ADDRESS).
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for library in libraries {
        let place = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(&library, &place).unwrap();
    }
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(&path, root.join("bin").join(program)).unwrap();
}

#[test]
fn a_guest_without_git_gives_a_true_patch() {
    let Some(home) = Home::new() else { return };
    let root = home.path("root");
    PROGRAMS.iter().for_each(|program| add(&root, program));
    for dir in ["etc", "root", "tmp", "usr", "dev", "proc", "sys", "run"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink("../bin", root.join("usr/bin")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let archive = home.path("root.tar");
    assert!(run(command("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."), b"").status.success());
    let imported = home.run(&["image", "import", archive.to_str().unwrap(), "scratch"]);
    assert!(imported.status.success(), "{}", said(&imported));

    let repo = home.repo("repo");
    fs::write(repo.join("dirty"), "not committed\n").unwrap();
    git(&repo, &["add", "dirty"]);
    let script = "command -v git && exit 9; echo more >>README.md; rm LICENSE; chmod +x run.sh; mv dirty moved; ln -s moved link; mkdir d; printf 'a\\0b' >d/bin; echo '*.o' >.gitignore; echo >x.o";
    let patch = home.path("p.patch");
    let args = ["vm", "run", "--rm", "--json", "--image", "scratch", "--patch", patch.to_str().unwrap()];
    let output = home.run(&[&args[..], &[repo.to_str().unwrap(), "--", "sh", "-c", script]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    git(&repo, &["apply", patch.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(repo.join("README.md")).unwrap(), "hello\nmore\n");
    assert_eq!(fs::read(repo.join("d/bin")).unwrap(), b"a\0b");
    assert_eq!(fs::read_link(repo.join("link")).unwrap(), Path::new("moved"));
    assert_eq!(
        git(&repo, &["status", "--porcelain", "--untracked-files=all"]),
        " D LICENSE\n M README.md\nAD dirty\n M run.sh\n?? .gitignore\n?? d/bin\n?? link\n?? moved\n"
    );
    home.assert_clean();
}
