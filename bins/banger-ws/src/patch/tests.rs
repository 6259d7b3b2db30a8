use super::*;

fn read(text: &str) -> Result<Scanned, PatchError> {
    // In two ways: at once and byte by byte.
    let mut scanner = Scanner::new(MAX_PATCH_BYTES);
    let whole = scanner.feed(text.as_bytes()).and_then(|()| scanner.finish());
    let mut scanner = Scanner::new(MAX_PATCH_BYTES);
    let pieces = text.as_bytes().chunks(1).try_for_each(|piece| scanner.feed(piece));
    assert_eq!(whole, pieces.and_then(|()| scanner.finish()));
    whole
}

fn scan(text: &str) -> Result<Vec<String>, PatchError> {
    read(text).map(|s| s.entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect())
}

#[test]
fn a_patch_of_every_kind_is_read() {
    let text = concat!(
        "diff --git a/a b b/a b\nindex 1..2 100644\n--- a/a b\t\n+++ b/a b\t\n@@ -1,2 +1 @@\n-x\n-+++ b/../x\n",
        "\\ No newline at end of file\n+y\n\\ No newline at end of file\n",
        "diff --git \"a/\\303\\244\\n\" \"b/\\303\\244\\n\"\nnew file mode 100644\nindex 0..1\n",
        "diff --git a/bin b/bin\nnew file mode 100644\nindex 0..1\nGIT binary patch\nliteral 2\nJcmZQz1ONa700IC2\n\n",
        "literal 0\nHcmV?d00001\n\n",
        "diff --git a/m b/m\nold mode 100644\nnew mode 100755\n",
        "diff --git a/t b/t\ndeleted file mode 100644\nindex 1..0\n--- a/t\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
        "diff --git a/t b/t\nnew file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/t\n@@ -0,0 +1,2 @@\n+x\n+y\n",
        "diff --git a/sub b/sub\nindex 1..2 160000\n--- a/sub\n+++ b/sub\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n",
        "diff --git a/z b/z\nold mode 100644\nnew mode 100755\nindex 1..2\n--- a/z\n+++ b/z\n@@ -0,0 +1 @@\n+x\n",
    );
    assert_eq!(scan(text).unwrap(), ["a b", "ä\n", "bin", "m", "t", "t", "sub", "z"]);
    assert_eq!(scan("").unwrap(), Vec::<String>::new());
    let scanned = read(text).unwrap();
    let sizes: u64 = scanned.entries.iter().map(|e| e.bytes).sum();
    assert_eq!((scanned.bytes, sizes), (text.len() as u64, text.len() as u64));
    assert_eq!(scanned.sha256, <[u8; 32]>::from(Sha256::digest(text)));
    let [first, _, bin, mode, gone, link, sub, _] = &scanned.entries[..] else { panic!() };
    assert_eq!((first.additions, first.deletions, first.binary), (1, 2, false));
    assert!(bin.binary && bin.status == Status::Added);
    assert_eq!((mode.old_mode, mode.new_mode), (Some(0o100_644), Some(0o100_755)));
    assert_eq!((gone.status, link.status), (Status::Deleted, Status::Added));
    assert!(link.is_symlink() && link.target == b"x\ny");
    assert!(sub.is_submodule() && sub.target == b"Subproject commit 2");
}

#[test]
fn renames_are_read_with_both_names() {
    let text = concat!(
        "diff --git a/a b \"b/\\303\\266 c\"\nsimilarity index 91%\nrename from a b\nrename to \"\\303\\266 c\"\n",
        "index 1..2 100644\n--- a/a b\t\n+++ \"b/\\303\\266 c\"\t\n@@ -1 +1,2 @@\n x\n+y\n",
        "diff --git a/bin b/bin2\nold mode 100644\nnew mode 100755\nsimilarity index 100%\nrename from bin\nrename to bin2\n",
        "diff --git a/q b/q b/q b/q\nsimilarity index 100%\nrename from q\nrename to q b/q b/q\n",
    );
    let scanned = read(text).unwrap();
    let names: Vec<_> = scanned.entries.iter().map(|e| (e.from.clone().unwrap(), e.path.clone())).collect();
    let pair = |a: &str, b: &str| (a.as_bytes().to_vec(), b.as_bytes().to_vec());
    assert_eq!(names, [pair("a b", "ö c"), pair("bin", "bin2"), pair("q", "q b/q b/q")]);
    assert!(scanned.entries.iter().all(|e| e.status == Status::Renamed));
    assert_eq!(scanned.entries[1].new_mode, Some(0o100_755));
}

#[test]
fn renames_that_git_would_not_print_are_refused() {
    let rename = |from: &str, to: &str| {
        format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
    };
    assert!(scan(&rename("x", "y")).is_ok());
    for (from, to) in [("../x", "y"), ("x", "../y"), ("x", ".git/config"), (".git/config", "x"), ("x", "/y")]
    {
        assert!(matches!(scan(&rename(from, to)), Err(PatchError::Path(_))), "{from} {to}");
    }
    let added = "diff --git a/x b/x\nnew file mode 100644\nindex 0..1\n";
    let changed = "diff --git a/x b/x\nold mode 100644\nnew mode 100755\n";
    let gone = "diff --git a/x b/x\ndeleted file mode 100644\nindex 1..0\n";
    for text in [
        rename("x", "x"),
        // Other names than the header's.
        rename("x", "y").replace("rename to y", "rename to z"),
        rename("x", "y").replace("rename from x", "rename from z"),
        rename("x", "y").replace("rename", "copy"),
        rename("x", "y").replace("rename from x\n", ""),
        rename("x", "y").replace("100%", "x%"),
        rename("x", "y").replace("similarity index 100%\n", ""),
        // Onto or from what the patch itself made, changed or removed.
        added.to_owned() + &rename("x", "y"),
        rename("x", "y") + added.replace("/x", "/y").as_str(),
        changed.to_owned() + &rename("x", "y"),
        rename("x", "y") + changed,
        rename("x", "y") + gone,
        gone.to_owned() + &rename("y", "x"),
        rename("x", "y") + &rename("x", "z"),
        rename("x", "z") + &rename("y", "z"),
        rename("x", "y") + &rename("y", "z"),
    ] {
        assert!(is_refused(&text), "{text}: {:?}", scan(&text));
    }
    // A file that moves and then is another one's directory.
    let below = rename("l", "d") + &added.replace("/x", "/d/x");
    assert_eq!(scan(&below), Err(PatchError::Path("d/x".into())));
    assert!(scan(&rename("a", "a/b")).is_ok(), "a file becomes a directory");
}

#[test]
fn paths_outside_and_in_the_git_directory_are_refused() {
    for path in
        ["../x", "a/../../x", "/etc/passwd", ".git/hooks/x", "a/.GIT/config", "a//b", "./a", "git~1/x", ""]
    {
        for change in [
            "old mode 100644\nnew mode 100755\n",
            "new file mode 100644\nindex 0..1\n",
            "index 1..2 100644\n",
        ] {
            let text = format!("diff --git a/{path} b/{path}\n{change}");
            assert!(matches!(scan(&text), Err(PatchError::Path(_))), "{text}");
            let text = text + "diff --git a/x b/x\nnew file mode 100644\nindex 0..1\n";
            assert!(matches!(scan(&text), Err(PatchError::Path(_))), "{text}");
        }
    }
    let through = "diff --git a/l b/l\nnew file mode 120000\nindex 0..1\n\
                   diff --git a/l/x b/l/x\nnew file mode 100644\nindex 0..1\n";
    assert_eq!(scan(through), Err(PatchError::Path("l/x".into())));
    let replaced =
        through.replacen("new file mode 120000\nindex 0..1", "deleted file mode 100644\nindex 1..0", 1);
    assert!(scan(&replaced).is_ok());
}

fn is_refused(text: &str) -> bool {
    use PatchError::{Malformed, Name, Truncated};
    matches!(scan(text), Err(Malformed { .. } | Name { .. } | Truncated))
}

#[test]
fn a_file_is_named_as_git_names_it_or_the_patch_is_refused() {
    let change = |old: &str, new: &str| {
        format!("diff --git {old} {new}\nindex 1..2 100644\n--- {old}\n+++ {new}\n@@ -1 +1 @@\n-a\n+b\n")
    };
    assert!(scan(&change("a/x", "b/x")).is_ok());
    assert!(scan(&change("\"a/\\r\"", "\"b/\\r\"")).is_ok());
    let rename = |from: &str, to: &str| {
        format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
    };
    // git apply takes `.envrc` for the first, `x` for the last.
    for odd in [".envrc\rx", ".envrc\tx", ".envrc\x0bx", ".envrc\0x", "x\x7f", "x\r"] {
        for text in [
            change(&format!("a/{odd}"), &format!("b/{odd}")),
            rename(odd, "y"),
            rename("y", odd),
            format!("diff --git a/{odd} b/{odd}\nold mode 100644\nnew mode 100755\n"),
            format!("diff --git a/x b/x\nindex 1..2 100644\n--- a/{odd}\n"),
            format!("diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/{odd}\n"),
        ] {
            assert!(matches!(scan(&text), Err(PatchError::Name { .. })), "{text:?}: {:?}", scan(&text));
        }
    }
    for (old, new) in [
        ("a/x\\y", "b/x\\y"),
        ("a/x\"y", "b/x\"y"),
        ("\"a/x\"", "\"b/x\""),
        ("\"a/\\056envrc\"", "\"b/\\056envrc\""),
        ("\"a/\\015\"", "\"b/\\015\""),
        ("a/x y", "b/x y"),
        ("a/x\t2020-01-01 00:00:00 +0000", "b/x\t2020-01-01 00:00:00 +0000"),
        ("a/x  ", "b/x  "),
        ("b/x", "a/x"),
        ("x", "x"),
        ("/a/x", "/b/x"),
    ] {
        assert!(is_refused(&change(old, new)), "{old:?}: {:?}", scan(&change(old, new)));
    }
}

#[test]
fn anything_but_git_diff_is_refused() {
    let head = "diff --git a/x b/x\nindex 1..2 100644\n";
    for text in [
        "hello\n".to_owned(),
        "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n".to_owned(),
        "diff --git a/x b/y\nindex 1..2 100644\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\nindex 0..1\n--- a/x\n".to_owned(),
        "diff --git a/x b/x\ndeleted file mode 100644\nindex 1..0\n--- a/x\n+++ b/x\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 104755\nindex 0..1\n".to_owned(),
        "diff --git a/x b/x\nold mode 100644\nnew mode 120000\n".to_owned(),
        "diff --git a/x b/x\nold mode 100644\nindex 1..2\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 120000\nindex 0..1\nGIT binary patch\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\nindex 0..1 100644\n".to_owned(),
        "diff --git a/x b/x\nindex 1..2\n".to_owned(),
        format!("{head}new file mode 100644\n"),
        format!("{head}rename from x\n"),
        format!("{head}--- a/y\n"),
        format!("{head}--- /dev/null\n"),
        format!("{head}--- a/x\t\n"),
        format!("{head}--- a/x\n+++ b/../y\n"),
        format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n"),
        format!("{head}--- a/x\n+++ b/x\nhello\n"),
        format!("{head}Binary files a/x and b/x differ\n"),
        format!("{head}GIT binary patch\nliteral x\n"),
        format!("{head}{head}"),
        head.to_owned(),
        head.replace("1..2", "0..2"),
        head.replace("1..2", "1..0"),
        head.replace("1..2", "A..B"),
        head.replace("\n", "\r\n"),
        "diff --git a/x b/x\nnew file mode 100644\nindex 1..2\n".to_owned(),
        "diff --git a/x b/x\ndeleted file mode 100644\nindex 1..2\n".to_owned(),
        "diff --git a/x b/x\nold mode 100644\nold mode 100644\nnew mode 100755\n".to_owned(),
        "diff --git a/x b/x\nnew mode 100755\nold mode 100644\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\nnew file mode 100644\nindex 0..1\n".to_owned(),
        "diff --git a/x b/x\nnew file mode 100644\nindex 0..1\nindex 0..1\n".to_owned(),
        format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39.5\n"),
        format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n\n"),
        format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n--- a/y\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n"),
        format!("{head}--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-a\n\\ No newline at end of file\n-b\n+c\n"),
        format!("{head}GIT binary patch\nliteral 2\nJcmZQz1ONa700IC2\n\nliteral 0\nHcmV?d00001\n\nhello\n"),
        format!("{head}GIT binary patch\nliteral 2\n\nliteral 0\nHcmV?d00001\n\n"),
        format!("{head}GIT binary patch\nliteral 2\nJcmZQz0096\n\nliteral 0\nHcmV?d00001\n\n"),
    ] {
        assert!(is_refused(&text), "{text}: {:?}", scan(&text));
    }
    assert_eq!(scan(&format!("{head}--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n")), Err(PatchError::Truncated));
    assert_eq!(scan("diff --git a/x b/x"), Err(PatchError::Truncated));
    assert_eq!(scan("diff --git a/x b/x\n"), Err(PatchError::Truncated));
    assert_eq!(scan("diff --git a/x b/x\nold mode 100644\n"), Err(PatchError::Truncated));
}

#[test]
fn a_patch_above_its_limit_is_refused() {
    let mut scanner = Scanner::new(10);
    assert_eq!(scanner.feed(b"diff --git a/x"), Err(PatchError::TooLarge(10)));
}
