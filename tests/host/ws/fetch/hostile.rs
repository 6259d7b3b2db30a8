//! A guest whose git lies: objects that no git makes, names that nobody gives, garbage, too much, nothing. Whatever it sends, the host's
//! repository is as it was.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::super::guest::said;
use super::{COMMITS, World, line, sh};
use crate::support::{self, SOON};

/// Makes `path` a program.
fn program(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl World {
    /// From now on git in the guest says that HEAD is the branch `head` at `tip`, and does `packing` where it is to pack.
    pub(super) fn lie(&self, tip: &str, head: &str, packing: &str) {
        for (name, text) in [("tip", tip), ("head", head)] {
            fs::write(self.guest.path(name), text).unwrap();
        }
        let dir = self.guest.path("");
        let script = format!(
            "#!/bin/sh\ncd {}\ncase \"$*\" in\n*pack-objects*) cat >/dev/null; {packing};;\n*symbolic-ref*) cat head;;\n\
             *--verify*) cat tip;;\n*cat-file*) cat >/dev/null;;\nesac\n",
            dir.display()
        );
        program(&self.guest.path("bin/git"), &script);
    }

    /// Writes an object to the guest's repository, whatever it holds.
    pub(super) fn object(&self, kind: &str, bytes: &[u8]) -> String {
        let mut git = support::command("git");
        git.arg("-C").arg(self.guest.path("guest"));
        git.args(["hash-object", "--literally", "-w", "--stdin", "-t", kind]);
        let output = support::run(&mut git, bytes);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A tree of entries: mode, name, id.
    fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend([mode.as_bytes(), b" ", name, b"\0"].concat());
            bytes.extend((0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()));
        }
        self.object("tree", &bytes)
    }

    fn commit(&self, tree: &str) -> String {
        self.object("commit", commit_of(tree).as_bytes())
    }

    /// A pack of `ids`, which the guest sends with the last of them as its HEAD.
    pub(super) fn send(&self, ids: &[&str]) {
        let mut git = support::command("git");
        git.arg("-C").arg(self.guest.path("guest")).args(["pack-objects", "--stdout", "-q"]);
        let output = support::run(&mut git, (ids.join("\n") + "\n").as_bytes());
        assert!(output.status.success(), "{}", said(&output));
        fs::write(self.guest.path("pack"), output.stdout).unwrap();
        self.lie(ids.last().unwrap(), "refs/heads/main", "cat pack");
    }

    /// Fetches, which must fail soon, with `words` in the error and nothing changed.
    #[track_caller]
    fn refuses(&self, args: &[&str], words: &str) -> Value {
        let (before, since) = (self.all(), Instant::now());
        let output = self.fetch(args);
        assert!(since.elapsed() < SOON, "{words} took {:?}", since.elapsed());
        let error = support::assert_error(&output, 1, "failed");
        assert!(error["error"].to_string().contains(words), "{words:?} is not in {error}");
        let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(!output.stderr.iter().any(control), "{}", said(&output));
        assert_eq!(self.all(), before, "{words}");
        self.assert_tidy();
        error
    }
}

fn commit_of(tree: &str) -> String {
    format!("tree {tree}\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nmessage\n")
}

const FILE: &str = "100644";
const LINK: &str = "120000";

#[test]
fn trees_that_would_write_into_a_git_directory_are_refused() {
    let Some(world) = World::new() else { return };
    let blob = world.object("blob", b"x\n");
    let inner = world.tree(&[(FILE, b"config", &blob)]);
    for (mode, name, words) in [
        (FILE, &b".git"[..], "hasDotgit"),
        (LINK, b".git", "hasDotgit"),
        ("40000", b".git", "hasDotgit"),
        ("40000", b".GIT", "hasDotgit"),
        ("40000", b".Git", "hasDotgit"),
        ("40000", b"git~1", "hasDotgit"),
        ("40000", b".git ", "hasDotgit"),
        ("40000", b".git...", "hasDotgit"),
        ("40000", b".git::$INDEX_ALLOCATION", "hasDotgit"),
        ("40000", ".g\u{200c}it".as_bytes(), "hasDotgit"),
        ("40000", ".gi\u{feff}t".as_bytes(), "hasDotgit"),
        (FILE, b".", "hasDot"),
        ("40000", b"..", "hasDotdot"),
        (FILE, b"a/b", "fullPathname"),
        (FILE, b"", "badTree"),
        ("0100644", b"f", "zeroPaddedFilemode"),
        ("040000", b"d", "zeroPaddedFilemode"),
        ("100664", b"f", "badFilemode"),
        ("777", b"f", "badFilemode"),
        (LINK, b".gitmodules", "gitmodulesSymlink"),
        (LINK, b".GITMODULES", "gitmodulesSymlink"),
        (LINK, ".git\u{200c}modules".as_bytes(), "gitmodulesSymlink"),
        (LINK, b".gitattributes", "gitattributesSymlink"),
        (LINK, b".gitignore", "gitignoreSymlink"),
        (LINK, b".mailmap", "mailmapSymlink"),
    ] {
        let id = if mode.ends_with("40000") { &inner } else { &blob };
        let tree = world.tree(&[(mode, name, id)]);
        // Deep inside, too.
        let outer = world.tree(&[("40000", b"deep", &tree)]);
        for root in [&tree, &outer] {
            let commit = world.commit(root);
            world.send(&[&blob, &inner, &tree, &outer, &commit]);
            let error = world.refuses(&[], "refused");
            assert!(error["error"]["causes"].to_string().contains(words), "{name:?}: {error}");
        }
    }
    for entries in [
        [(FILE, &b"a"[..], &*blob), (FILE, b"a", &blob)],
        [(FILE, b"b", &blob), (FILE, b"a", &blob)],
        [("40000", b"a", &inner), (FILE, b"a", &blob)],
    ] {
        let tree = world.tree(&entries);
        let commit = world.commit(&tree);
        world.send(&[&blob, &inner, &tree, &commit]);
        world.refuses(&[], "refused");
    }
}

#[test]
fn submodules_that_would_run_something_are_refused_and_others_are_not() {
    let Some(world) = World::new() else { return };
    let commit_of = |modules: &str| {
        let blob = world.object("blob", modules.as_bytes());
        let link = line(&world.repo, &["rev-parse", "HEAD"]);
        let tree = world.tree(&[(FILE, b".gitmodules", &blob), ("160000", b"sub", &link)]);
        (blob, tree.clone(), world.commit(&tree))
    };
    for (modules, words) in [
        ("[submodule \"a\"]\n\tpath = sub\n\turl = -u./payload\n", "gitmodulesUrl"),
        ("[submodule \"a\"]\n\tpath = sub\n\turl = ./%0ahost=evil\n", "gitmodulesUrl"),
        ("[submodule \"a\"]\n\tpath = -sub\n\turl = https://a/b\n", "gitmodulesPath"),
        ("[submodule \"../../x\"]\n\tpath = sub\n\turl = https://a/b\n", "gitmodulesName"),
        ("[submodule \"a\"]\n\tpath = sub\n\turl = https://a/b\n\tupdate = !touch ran\n", "gitmodulesUpdate"),
        ("[submodule \"a\n", "gitmodulesParse"),
    ] {
        let (blob, tree, commit) = commit_of(modules);
        world.send(&[&blob, &tree, &commit]);
        let error = world.refuses(&[], "refused");
        assert!(error["error"]["causes"].to_string().contains(words), "{modules}: {error}");
    }
    let (blob, tree, commit) = commit_of("[submodule \"a\"]\n\tpath = sub\n\turl = https://a/b\n");
    world.send(&[&blob, &tree, &commit]);
    assert_eq!(world.fetched(&[])["commit"], json!(commit));
    world.assert_sound();
}

#[test]
fn commits_that_are_none_or_lack_something_are_refused() {
    let Some(world) = World::new() else { return };
    let blob = world.object("blob", b"x\n");
    let tree = world.tree(&[(FILE, b"f", &blob)]);
    let fine = commit_of(&tree);
    let missing = "1".repeat(40);
    for (what, bytes) in [
        ("a NUL", fine.replace("message", "mess\0age")),
        ("no author", fine.replace("author A <a@b> 1700000000 +0000\n", "")),
        ("two authors", fine.replace("author A", "author B <a@b> 1 +0000\nauthor A")),
        ("no date", fine.replace("1700000000 +0000\ncommitter", "\ncommitter")),
        ("a date too far", fine.replace("1700000000", "99999999999999999999")),
        ("an odd name", fine.replace("author A <a@b>", "author A <a<b>")),
        ("no such tree", fine.replace(&tree, &missing)),
        ("a tree that is a file", fine.replace(&tree, &blob)),
        ("a parent that is a file", fine.replace("author", &format!("parent {blob}\nauthor"))),
        ("no such parent", fine.replacen("author", &format!("parent {missing}\nauthor"), 1)),
        ("nothing", String::new()),
    ] {
        let commit = world.object("commit", bytes.as_bytes());
        world.send(&[&blob, &tree, &commit]);
        let error = world.refuses(&[], "");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("refused") || message.contains("not complete"), "{what}: {error}");
    }
    let commit = world.commit(&tree);
    for (what, ids) in [
        ("the file", &[&*tree, &*commit][..]),
        ("the tree", &[&blob, &commit]),
        ("the commit", &[&blob, &tree]),
    ] {
        world.send(ids);
        world.lie(&commit, "refs/heads/main", "cat pack");
        let error = world.refuses(&[], "");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("refused") || message.contains("not complete"), "{what}: {error}");
    }
    world.send(&[&commit, &tree, &blob]);
    world.refuses(&[], "not a commit");
}

#[test]
fn names_that_nobody_gives_make_no_branch() {
    let Some(world) = World::new() else { return };
    world.inside("echo 1 >new; git add new; git commit -qm one");
    let tip = line(&world.guest.path("guest"), &["rev-parse", "HEAD"]);
    world.send(
        &["HEAD^{tree}", "HEAD:new", "HEAD"]
            .map(|r| line(&world.guest.path("guest"), &["rev-parse", r]))
            .each_ref()
            .map(String::as_str),
    );
    let long = "x".repeat(3000);
    for name in [
        "$(touch ran)",
        "a;b",
        "a`b`",
        "a\u{1b}[2J",
        "a\u{202e}b",
        "a b",
        "a..b",
        "../../../../x",
        "a.lock",
        "/a",
        "a//b",
        "a/",
        ".a",
        "a/.b",
        "@{u}",
        "a~1",
        "a^",
        "a:b",
        "a\\b",
        "a*",
        "a\u{7f}",
        "",
        &long,
    ] {
        world.lie(&tip, &format!("refs/heads/{name}"), "cat pack");
        let error = world.refuses(&[], "the guest's branch is called");
        assert!(error["error"]["hint"].as_str().unwrap().contains("--as"), "{error}");
    }
    // Where it is given a name the guest's does not count; and what is not a branch of the guest's is none.
    world.lie(&tip, "refs/heads/$(touch ran)", "cat pack");
    assert_eq!(world.fetched(&["--as", "named"])["branch"], "named");
    for name in ["refs/remotes/origin/main", "refs/heads", "../x", "refs/heads/main\nrefs/heads/x"] {
        world.lie(&tip, name, "cat pack");
        let branch = if name.contains('\n') { "banger/t/main" } else { "banger/t/HEAD" };
        let output = world.fetch(&[]);
        if output.status.success() {
            assert_eq!(support::record(&output)["result"]["branch"], branch);
        } else {
            support::assert_error(&output, 1, "failed");
        }
    }
    world.assert_sound();
}

#[test]
fn what_is_no_pack_is_refused() {
    let Some(world) = World::new() else { return };
    world.inside(COMMITS);
    let tip = line(&world.guest.path("guest"), &["rev-parse", "HEAD"]);
    let pack = sh(&world.guest.path("guest"), "git pack-objects --all --stdout -q >../pack; wc -c <../pack");
    assert!(pack.trim().parse::<u64>().unwrap() > 5000);
    for (packing, words) in [
        ("true", "refused"),
        ("echo", "refused"),
        ("head -c 100000 /dev/urandom", "refused"),
        ("printf 'PACK\\0\\0\\0\\002\\377\\377\\377\\377'", "refused"),
        ("printf 'PACK\\0\\0\\0\\011\\0\\0\\0\\0'", "refused"),
        ("head -c 3000 pack", "refused"),
        ("cat pack pack", "junk at the end"),
        ("cat pack; echo x", "junk at the end"),
        ("cat pack; head -c 100000 /dev/zero", "junk at the end"),
        ("exit 3", "ended with status 3"),
        ("printf 'fatal: \\033]0;x\\007 broken\\n' >&2; exit 1", "broken"),
        ("kill -9 $PPID", "packing the guest's commits"),
        ("yes", "more than 1048576 bytes"),
        ("cat /dev/zero", "--max-size"),
        ("yes >&2", "without end"),
    ] {
        world.lie(&tip, "refs/heads/main", packing);
        world.refuses(&["--max-size", "1M"], words);
    }
    for (tip, head) in
        [("", ""), ("x", "refs/heads/main"), (&*"f".repeat(64), ""), ("HEAD", "x"), (&*"A".repeat(40), "")]
    {
        world.lie(tip, head, "cat pack");
        world.refuses(&[], "no commit of the checkout's kind");
    }
    world.lie(&format!("{tip}\n{tip}\n"), "refs/heads/main", "cat pack");
    world.refuses(&[], "");
    program(&world.guest.path("bin/git"), "#!/bin/sh\nexit 128\n");
    world.refuses(&[], "no git repository");
    fs::remove_file(world.guest.path("bin/git")).unwrap();
    let error = world.refuses(&["--max-size", "4K"], "more than 4096 bytes");
    assert!(error["error"]["hint"].as_str().unwrap().contains("--max-size"), "{error}");
    fs::rename(world.guest.path("guest/.git"), world.guest.path("gone")).unwrap();
    world.refuses(&[], "no git repository");
}

/// An object of a pack: its type, how large it says it is, and its bytes, deflated.
fn entry(kind: u8, size: u64, bytes: &[u8]) -> Vec<u8> {
    let (mut rest, mut first) = (size >> 4, kind << 4 | (size & 15) as u8);
    let mut out = Vec::new();
    while rest > 0 {
        out.push(first | 0x80);
        first = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    out.push(first);
    out.extend_from_slice(bytes);
    out
}

/// Up to 255 `bytes` as zlib writes them that it does not deflate (RFC 1950, RFC 1951).
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let length = bytes.len() as u8;
    [&[0x78, 1, 1, length, 0, !length, 0xff], bytes, &(b << 16 | a).to_be_bytes()].concat()
}

#[test]
fn objects_that_claim_to_be_huge_take_no_memory() {
    let Some(world) = World::new() else { return };
    let base = line(&world.repo, &["rev-parse", "HEAD:README.md"]);
    let base: Vec<u8> =
        (0..40).step_by(2).map(|at| u8::from_str_radix(&base[at..at + 2], 16).unwrap()).collect();
    // Base size 6, a result of 3 GiB, and three bytes of it (gitformat-pack(5), "Deltified representation").
    let delta = [6, 0x80, 0x80, 0x80, 0x80, 0x0c, 3, b'a', b'b', b'c'];
    let tip = "b".repeat(40);
    for (object, words) in [
        (entry(3, 1 << 40, &deflated(b"x")), "inflate"),
        (entry(2, 1 << 40, &deflated(b"x")), "emory"),
        (entry(2, 3 << 30, &deflated(b"x")), "emory"),
        (entry(1, 1 << 62, &deflated(b"x")), "emory"),
        (entry(7, delta.len() as u64, &[base, deflated(&delta)].concat()), "emory"),
    ] {
        let head = [&b"PACK\0\0\0\x02\0\0\0\x01"[..], &object].concat();
        let bytes = [&head[..], &super::mutants::sha1(&head)].concat();
        fs::write(world.guest.path("pack"), bytes).unwrap();
        world.lie(&tip, "refs/heads/main", "cat pack");
        let error = world.refuses(&[], "refused");
        assert!(error["error"]["causes"].to_string().contains(words), "{words}: {error}");
    }
}

/// Runs a fetch with `script` as the host's git, and ends it by a signal once that says that it has come so far.
fn interrupted(world: &World, script: &str, waits: &Path) -> Output {
    let (bin, real) = (world.guest.path("host-bin"), which::which("git").unwrap());
    program(
        &bin.join("git"),
        &format!("#!/bin/sh\ncase \"$*\" in {script} esac\nexec {} \"$@\"\n", real.display()),
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = support::command(env!("CARGO_BIN_EXE_banger-ws"));
    command.arg("fetch").current_dir(world.guest.path("")).env("PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(world.record.to_string().as_bytes()).unwrap();
    support::eventually("it has come so far", || waits.exists());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < SOON, "it took {:?}", since.elapsed());
    fs::remove_file(waits).unwrap();
    output
}

#[test]
fn what_is_interrupted_or_fails_leaves_nothing() {
    let Some(world) = World::new() else { return };
    world.inside(COMMITS);
    let waits = world.guest.path("waits");
    let wait = format!(": >{}; exec sleep 600", waits.display());
    let before = world.all();
    for step in ["*index-pack*", "*rev-list*quiet*", "*pack-objects*--non-empty*"] {
        let output = interrupted(&world, &format!("{step}) {wait};;"), &waits);
        support::assert_error(&output, 1, "interrupted");
        assert_eq!(world.all(), before, "{step}");
        world.assert_tidy();
    }
    // The guest packs for ever.
    world.lie(&line(&world.guest.path("guest"), &["rev-parse", "HEAD"]), "refs/heads/main", &wait);
    let output = interrupted(&world, "x) ;;", &waits);
    support::assert_error(&output, 1, "interrupted");
    assert_eq!(world.all(), before);
    world.assert_tidy();
    fs::remove_file(world.guest.path("bin/git")).unwrap();
    // While the guest packs somebody checks the branch out.
    let meanwhile = format!(
        "git -C {0} branch banger/t/main; git -C {0} worktree add -q ../tree banger/t/main; cat pack",
        world.repo.display()
    );
    let tip = line(&world.guest.path("guest"), &["rev-parse", "HEAD"]);
    sh(
        &world.guest.path("guest"),
        "git rev-list --objects HEAD | cut -d' ' -f1 | git pack-objects --stdout -q >../pack",
    );
    world.lie(
        &tip,
        "refs/heads/main",
        &meanwhile.replace("git ", &format!("{} ", which::which("git").unwrap().display())),
    );
    support::assert_error(&world.fetch(&[]), 1, "in-use");
    sh(&world.repo, "git worktree remove ../tree; git branch -q -D banger/t/main");
    fs::remove_file(world.guest.path("bin/git")).unwrap();
    // The ref cannot be set: the pack goes again.
    let lock = world.repo.join(".git/refs/heads/banger/t/main.lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "").unwrap();
    let packs = || sh(&world.repo, "ls .git/objects/pack");
    let there = packs();
    support::assert_error(&world.fetch(&[]), 1, "failed");
    assert_eq!(packs(), there);
    fs::remove_file(&lock).unwrap();
    assert_eq!(world.fetched(&[])["commits"], 3);
    world.assert_sound();
}
