"""Names of every kind that a file system takes and a program may stumble over."""

ODD = [
    b"sp ace", b" leading", b"trailing ", b"it's", b'q"uote', b"back\\slash", b"new\nline", b"ends\n", b"\nbegins", b"tab\there",
    b"cr\rhere", b"ends\r", b"-dash", b"--help", b"latin-\xe4\xff", b"\xff\xfe", b"*", b"?", b"[a-z]", b":(top)x", b":!x", b"$HOME",
    b"`id`", b"#hash", b"!bang", b"~", b"~root", b".hidden", b"...", b"..dots", b"ctrl\x01\x7f", b"esc\x1b[31m", b"a => b",
    b"{a => b}", b"a b/c d", b"/x".lstrip(b"/") + b".", b"dot.", b"con", b"aux.c", b"a:b", b"%41", b"\\101", b'"\\101"',
    "ünï/日本語".encode(), "e\u0301-decomposed".encode(), "\u00e9-composed".encode(), "zero\u200dwidth".encode(),
    "\ufeffbom".encode(), "right\u202eleft".encode(), b"dev/null", b"b/b/b", b"a/b", b".gitx", b"git", b".git-x", b"x.git",
    b".gitkeep", b"x" * 255, b"index.lock", b"HEAD", b"refs/heads/x", b"objects/ab/cd", b"modules/x", b"old mode 100644",
    b"diff --git a/x b/x", b"@@ -1 +1 @@", b"+++ b/x", b"deleted file mode 100644", b"\x80\x81\x82\x88", b"C:\\x", b"n.", b"nul",
]

# Pairs that some setting or file system takes for one name.
TWINS = [(b"case", b"CASE"), (b"Readme.txt", b"README.TXT"), ("\u00e9".encode(), "e\u0301".encode()), (b"dir/x", b"DIR/x"),
         ("\u00df".encode(), b"ss"), ("\u212b".encode(), "\u00c5".encode())]

# What git takes for a `.git` on some file system.
LIKE_GIT = [b".GIT", b".Git", b"git~1", b".git ", b".git.", ".g\u200cit".encode(), b".git::$INDEX_ALLOCATION", b".git\\x"]

PLAIN = [b"a", b"b", b"README.md", b"LICENSE", b"Makefile", b"run.sh", b"src/a.c", b"src/b.c", b"src/deep/er/c.c", b"src/deep/d.py",
         b"doc/x.txt", b"doc/y.txt", b"lib/one/two/three.js", b"data/f.dat", b"data/g.dat", b"t/test.sh", b"crlf.txt", b"notes.md"]


def deep(length):
    """A path of `length` bytes."""
    part = b"d" * 200
    path = b"deep"
    while length - len(path) > 202:
        path += b"/" + part
    return path + b"/" + b"e" * (length - len(path) - 1)
