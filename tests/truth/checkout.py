"""Checkouts of the host: a tree, and traits, each of which makes one thing about it unusual. All of it is shell, so that a failure
can be read and repeated by hand."""

import os
import random
import subprocess
from typing import NamedTuple

import disk
import names
import shell

TRAITS = {}


class Trait(NamedTuple):
    """`stage` says when its script runs: tree (before the first commit), settings (before it, in the repository), after it, or
    last; `make` gives the script. A trait with `create` changes how the repository comes to be."""

    stage: str
    make: object
    weight: float = 1.0


def trait(stage, weight=1.0):
    def register(function):
        TRAITS[function.__name__.strip("_").replace("_", "-")] = Trait(stage, function, weight)
        return function
    return register


def put(path, text):
    """A line that writes `text` (printf's format) to a file."""
    word = shell.path(path)
    folder = f"mkdir -p {shell.path(os.path.dirname(path))}; " if b"/" in path else ""
    return f"{folder}printf {shell.quote(text)} >{word}\n"


def content(rng):
    """Some bytes, as printf's format."""
    word = "".join(rng.choice("abcdefgh") for _ in range(6))
    return rng.choice([
        f"{word}\\n", f"one {word}\\ntwo\\nthree\\n", "".join(f"line {n} of {word}\\n" for n in range(rng.randint(5, 40))), "",
        f"no newline {word}", f"\\000\\001{word}\\377\\n", f"dos {word}\\r\\nlines\\r\\n", f"mixed {word}\\r\\nlines\\n", f"\\n\\n{word}\\n\\n",
    ])


# --- the tree

@trait("tree", 3)
def odd_names(rng):
    return "".join(put(name, content(rng)) for name in rng.sample(names.ODD, 12) if not name.startswith(b"a/"))


@trait("tree")
def twins(rng):
    one, other = rng.choice(names.TWINS)
    return put(one, "one\\n") + put(other, "other\\n")


@trait("tree", 2)
def links(rng):
    return ("ln -s ../elsewhere//./x dangling; ln -s src dirlink; ln -s README.md filelink; ln -s loop loop; ln -s / rootlink\n"
            "ln -s 'tar\nget' oddlink\n")


@trait("tree", 2)
def executables(rng):
    return "chmod 755 ./run.sh ./a 2>/dev/null; printf '#!/bin/sh\\n' >tool; chmod 700 tool; printf x >g-only; chmod 654 g-only\n"


@trait("tree", 2)
def ignored_files(rng):
    return ("printf '*.o\\nbuild/\\n!keep.o\\n/only-top\\n' >.gitignore; printf 'object\\n' >x.o; printf k >keep.o; mkdir -p build src; echo b >build/out\n"
            "printf 'object\\n' >forced.o; echo top >only-top; echo top >src/only-top; printf '*.tmp\\n' >src/.gitignore; echo t >src/x.tmp\n")


@trait("tree")
def deep_path(rng):
    return "".join(put(names.deep(length), "deep\\n") for length in [rng.choice([1000, 3000, 4000])])


@trait("tree", 0.5)
def many_files(rng):
    return "mkdir many; i=0; while [ $i -lt 600 ]; do echo $i >many/$i; i=$((i+1)); done\n"


@trait("tree")
def attributes_eol(rng):
    rule = rng.choice(["* text=auto", "*.txt text eol=crlf", "* text=auto eol=crlf", "*.txt text eol=lf", "* -text", "*.txt text"])
    return f"printf '{rule}\\n' >.gitattributes; printf 'a\\r\\nb\\r\\n' >crlf.txt; printf 'a\\nb\\n' >lf.txt\n"


@trait("tree")
def attributes_filter(rng):
    return "printf '*.dat filter=big diff=big\\n*.up filter=upper\\n' >.gitattributes; echo old >f.dat; echo old >f.up\n"


@trait("tree")
def attributes_encoding(rng):
    return ("printf '*.u16 text working-tree-encoding=UTF-16\\n*.l1 working-tree-encoding=ISO-8859-1\\n' >.gitattributes\n"
            "printf '\\376\\377\\000a\\000\\n' >x.u16; printf '\\344\\n' >x.l1\n")


@trait("tree")
def attributes_ident(rng):
    return "printf '* ident\\n' >.gitattributes; printf '$Id$\\nx\\n' >ident.c; printf '$Id: 0123 $\\ny\\n' >expanded.c\n"


@trait("tree")
def attributes_below(rng):
    return "mkdir -p src; printf '*.c text eol=crlf\\n[attr]mine -diff -merge\\n*.h mine binary\\n' >src/.gitattributes; echo h >src/x.h\n"


@trait("last", 0.5)
def encoding_that_does_not_fit(rng):
    return "printf '*.u16 text working-tree-encoding=UTF-16\\n*.u8 working-tree-encoding=NO-SUCH\\n' >>.gitattributes; printf 'no utf-16' >u.u16; printf x >u.u8; git add -N u.u16 u.u8; printf odd >a\n"


@trait("last", 0.5)
def filter_that_fails(rng):
    return "printf '* filter=broken\\n' >>.gitattributes; git config filter.broken.clean false; git config filter.broken.required true; echo more >>a; echo more >>README.md\n"


# --- settings, before the first commit

@trait("settings")
def autocrlf(rng):
    return f"git config core.autocrlf {rng.choice(['true', 'input'])}; printf 'a\\r\\nb\\r\\n' >crlf2.txt\n"


@trait("settings")
def filters(rng):
    where = rng.choice(["", "--global "])
    return (f"git config {where}filter.big.clean 'wc -c'; git config {where}filter.big.smudge 'tr a-z A-Z'; git config {where}filter.upper.clean 'tr a-z A-Z'\n"
            f"git config {where}filter.upper.smudge 'tr A-Z a-z'; printf '*.dat filter=big\\n*.up filter=upper\\n' >>.gitattributes; echo old >f.dat; echo old >f.up\n")


@trait("settings")
def file_mode_off(rng):
    return "git config core.fileMode false; chmod 755 b 2>/dev/null\n"


@trait("settings")
def ignore_case_on(rng):
    return "git config core.ignoreCase true\n"


@trait("settings", 0.7)
def excludes_file(rng):
    return ("mkdir -p \"$HOME/.config/git\"; printf '*.mine\\n*~\\n' >\"$HOME/.config/git/ignore\"; echo x >a.mine; echo x >b~\n" if rng.random() < 0.5 else
            "printf '*.mine\\n*~\\n' >\"$HOME/ignored\"; git config --global core.excludesFile '~/ignored'; echo x >a.mine; echo x >b~\n")


@trait("settings", 0.7)
def attributes_file(rng):
    return "printf '*.txt text eol=crlf\\n*.md -diff\\n' >\"$HOME/attributes\"; git config --global core.attributesFile '~/attributes'\n"


@trait("settings", 0.7)
def odd_diff_settings(rng):
    return ("git config --global diff.noprefix true; git config --global diff.external false; git config --global diff.renames copies; git config --global color.ui always\n"
            "git config --global diff.context 0; git config --global core.quotePath false; git config --global diff.algorithm patience; git config --global core.abbrev 4\n")


# --- after the first commit

@trait("after", 0.7)
def info_exclude(rng):
    return "mkdir -p \"$(git rev-parse --git-path info)\"; printf '*.private\\n/secret/\\n' >\"$(git rev-parse --git-path info/exclude)\"; echo p >x.private; mkdir -p secret; echo s >secret/s\n"


@trait("after", 0.7)
def info_attributes(rng):
    return "mkdir -p \"$(git rev-parse --git-path info)\"; printf '*.txt text eol=crlf\\n*.c filter=nothing\\n' >\"$(git rev-parse --git-path info/attributes)\"\n"


@trait("after")
def safecrlf(rng):
    return "git config core.autocrlf input; git config core.safecrlf true; printf 'a\\r\\nb\\r\\n' >a\n"


@trait("after")
def symlinks_off(rng):
    return "ln -s target plainlink; git add plainlink; git commit -qm link; git config core.symlinks false; rm plainlink; git checkout -q -- plainlink\n"


@trait("after", 3)
def dirty(rng):
    acts = ["echo more >>a", "rm -f b", "chmod 755 README.md", "mv src/a.c src/moved.c", "rm -rf doc; echo f >doc", "rm -f LICENSE; ln -s a LICENSE",
            "rm -f a; mkdir a; echo i >a/inner", "printf 'x\\r\\ny\\r\\n' >README.md", "truncate -s 0 a", "rm -rf src; ln -s doc src"]
    return "".join(f"{act}\n" for act in rng.sample(acts, 3))


@trait("after", 2)
def staged(rng):
    acts = ["echo staged >>a; git add a; echo unstaged >>a", "git mv b b2 2>/dev/null", "git rm -q --cached README.md 2>/dev/null", "echo n >new; git add -N new",
            "echo n >new2; git add new2; rm new2", "git update-index --chmod=+x a 2>/dev/null", "git rm -q -f LICENSE 2>/dev/null"]
    return "".join(f"{act}\n" for act in rng.sample(acts, 2))


@trait("after", 2)
def untracked(rng):
    return "".join(put(name, content(rng)) for name in rng.sample([b"u1", b"new dir/u2", b"u.o", b"-u", b"u\n3", b"src/u4", b"u5/"[:-1]], 3))


@trait("after", 0.7)
def untracked_attributes(rng):
    return "printf '*.txt text eol=crlf\\n*.c ident\\n' >t/.gitattributes 2>/dev/null || { mkdir -p t; printf '*.txt text eol=crlf\\n' >t/.gitattributes; }\n"


@trait("after", 0.7)
def index_flags(rng):
    return "git update-index --assume-unchanged a 2>/dev/null; echo unseen >>a; git update-index --skip-worktree README.md 2>/dev/null; echo unseen >>README.md\n"


@trait("after", 0.5)
def index_settings(rng):
    return "git config core.untrackedCache true; git config index.version 4; git update-index --split-index --untracked-cache --index-version 4; git config feature.manyFiles true\n"


@trait("after", 0.7)
def conflict(rng):
    return ("git checkout -q -b other; echo theirs >a; git commit -qam theirs; git checkout -q -; echo ours >a; git commit -qam ours; git merge other >/dev/null 2>&1\n")


@trait("after", 0.7)
def sparse_checkout(rng):
    return "git sparse-checkout set --cone src 2>/dev/null\n" if rng.random() < 0.5 else "git sparse-checkout set --no-cone '/*' '!/doc/' '!/data/' 2>/dev/null\n"


@trait("after")
def submodule(rng):
    where = rng.choice(["sub", "sub", "mods/a b"])
    return (f"git init -q -b main --template= ../sub-origin; (cd ../sub-origin; echo s >s; mkdir d; echo t >d/t; printf '*.o\\n' >.gitignore; git add -A; git commit -qm s)\n"
            f"git submodule --quiet add --name the-sub ../sub-origin '{where}' >/dev/null 2>&1; git commit -qm submodule\n"
            + (f"(cd '{where}' && echo dirty >>s)\n" if rng.random() < 0.5 else ""))


@trait("after", 0.7)
def submodule_not_checked_out(rng):
    return ("git init -q -b main --template= ../sub2-origin; (cd ../sub2-origin; echo s >s; git add -A; git commit -qm s)\n"
            "git submodule --quiet add ../sub2-origin empty-sub >/dev/null 2>&1; git commit -qm submodule; git submodule --quiet deinit -f empty-sub\n")


@trait("after", 0.7)
def gitlink_without_gitmodules(rng):
    return "git init -q -b main --template= link; (cd link; echo s >s; git add s; git commit -qm s); git -c advice.addEmbeddedRepo=false add link; git commit -qm link\n"


@trait("after", 0.7)
def repository_inside(rng):
    return "git init -q -b main --template= inner; (cd inner; echo s >s; git add s; git commit -qm s); git init -q --template= inner2; echo x >inner2/x\n"


@trait("after", 0.5)
def detached(rng):
    return "git checkout -q --detach; git tag v1; git tag -am annotated v2\n"


@trait("after", 0.3)
def unborn(rng):
    return "git checkout -q --orphan fresh; git rm -rq --cached LICENSE 2>/dev/null\n"


@trait("last", 0.3)
def read_only(rng):
    return "chmod -R a-w src 2>/dev/null\n"


@trait("last", 0.5)
def times_of_the_future(rng):
    return "touch -d 2040-01-01 a README.md 2>/dev/null; touch -d 1969-12-31 src/b.c 2>/dev/null; touch -d @0 b 2>/dev/null\n"


# --- how the repository comes to be: at most one of them

CREATE = {
    "sha256": ("git init -q -b main --template= --object-format=sha256 .\n", ""),
    "reftable": ("git init -q -b main --template= --ref-format=reftable .\n", ""),
    "linked-worktree": ("git init -q -b main --template= ../main; cd ../main\n", "git branch side; git worktree add -q ../repo side; cd ../repo\n"),
    "shallow-clone": ("git init -q -b main --template= ../main; cd ../main\n",
                      "echo second >second; git add second; git commit -qm second; git clone -q --depth 1 \"file://$PWD\" ../repo; cd ../repo\n"),
    "partial-clone": ("git init -q -b main --template= ../main; cd ../main\n",
                      "git config uploadpack.allowFilter true; git clone -q --filter=blob:none \"file://$PWD\" ../repo; cd ../repo\n"),
    "separate-git-dir": ("git init -q -b main --template= --separate-git-dir ../elsewhere.git .\n", ""),
    "": ("git init -q -b main --template= .\n", ""),
}
ALL = sorted([*TRAITS, *filter(None, CREATE)])
NOT_TOGETHER = [{"symlinks-off", "links"}, {"sparse-checkout", "conflict"}]


def choose(rng):
    """Some traits of a checkout: none in a fifth of all."""
    if rng.random() < 0.2:
        return []
    chosen = {rng.choice(sorted(filter(None, CREATE)))} if rng.random() < 0.2 else set()
    population, weights = zip(*((name, trait.weight) for name, trait in TRAITS.items()))
    chosen.update(rng.choices(population, weights, k=rng.randint(1, 6)))
    for both in NOT_TOGETHER:
        if both <= chosen:
            chosen.discard(sorted(both)[0])
    return sorted(chosen)


def script(seed, chosen):
    """What makes the checkout, run in an empty directory `repo`."""
    rng = random.Random(f"{seed}/tree")
    create, then = CREATE[next((name for name in chosen if name in CREATE), "")]
    parts = {stage: "" for stage in ("tree", "settings", "after", "last")}
    for name in chosen:
        if name in TRAITS:
            parts[TRAITS[name].stage] += TRAITS[name].make(random.Random(f"{seed}/{name}"))
    plain = "".join(put(name, content(rng)) for name in sorted(rng.sample(names.PLAIN, rng.randint(5, len(names.PLAIN)))))
    forced = "[ ! -f forced.o ] || git add -f forced.o\n"
    # Mostly the files are older than git's index: what is as old git reads in any case.
    old = "find . -path ./.git -prune -o -exec touch -h -d '2025-05-05 05:05:05' {} +\n" if rng.random() < 0.8 else ""
    commit = old + "git add -A 2>/dev/null; " + forced + "git commit -qm first\n"
    return "exec 2>/dev/null\n" + create + plain + parts["tree"] + parts["settings"] + commit + then + parts["after"] + parts["last"]


def second_script(seed, sent):
    """What happens to the checkout before it is sent again: changes of files, most of which git knows."""
    rng = random.Random(f"{seed}/again")
    files = [path for path, entry in sorted(sent.items()) if entry.kind == "file"] or [b"a"]

    def act():
        one, text = shell.path(rng.choice(files)), rng.randrange(1000)
        return rng.choice([
            f"echo host {text} >>{one}", f"echo host {text} >{one}", f"rm -f {one}", f"chmod +x {one}", f"rm -f {one}; ln -s host-{text} {one}",
            f"rm -f {one}; mkdir {one} && echo {text} >{one}/inner; git add -A {one}", f"echo host >n{text}; git add n{text}", f"mkdir -p new/er; echo host >new/er/n{text}; git add new",
            "echo the same >README.md; git add README.md", f"git commit -qam again{text}", f"git mv {one} moved-by-the-host", f"touch {one}", f"printf 'dos\\r\\n' >{one}",
            f"f={one}; touch -r \"$f\" ../ref; tr a-y b-z <\"$f\" >../new; cat ../new >\"$f\"; touch -r ../ref \"$f\"",
        ])
    return "exec 2>/dev/null\n" + "".join(act() + "\n" for _ in range(rng.randint(2, 6)))


def environment(home):
    """The variables of whoever owns the checkout."""
    return {"PATH": os.environ["PATH"], "HOME": home, "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true"}


HOME_CONFIG = "[user]\n\tname = A \"B\" \\\\ ä\n\temail = a@b\n[protocol \"file\"]\n\tallow = always\n[advice]\n\taddEmbeddedRepo = false\n[init]\n\tdefaultBranch = main\n"


class Part(NamedTuple):
    """A repository of the checkout: its place, what was sent of it, and the rules beside .gitignore that were sent."""

    prefix: bytes
    tracked: frozenset
    rules: bytes
    object_format: str


class Checkout:
    """A checkout of the host."""

    def __init__(self, seed, chosen, folder, include_untracked):
        self.home, self.path = os.path.join(folder, "home"), os.path.join(folder, "repo")
        os.makedirs(self.home)
        os.makedirs(self.path)
        with open(os.path.join(self.home, ".gitconfig"), "w") as file:
            file.write(HOME_CONFIG)
        self.include_untracked = include_untracked
        self.script = script(seed, chosen)
        self.run(self.script)

    def run(self, text):
        """Changes the checkout by a script, and notes what would be sent then."""
        subprocess.run(["sh", "-s"], input=os.fsencode(text), cwd=self.path, env=environment(self.home), capture_output=True, timeout=120, check=False)
        self.tree = disk.walk(self.path)
        self.parts, self.links = [], set()
        self.look(b"", b"", 0)
        self.sent = {path: self.tree[path] for part in self.parts for path in part.tracked}

    def git(self, prefix, *args):
        place = os.path.join(os.fsencode(self.path), prefix)
        done = subprocess.run(["git", *args], cwd=place, env={**environment(self.home), "GIT_OPTIONAL_LOCKS": "0"}, capture_output=True, timeout=60)
        return done.stdout if done.returncode == 0 else b""

    def look(self, prefix, path, depth):
        """Notes what of a repository travels, by what banger-ws(1) says."""
        # One call for all that cheap answers are needed of.
        said = self.git(prefix, "rev-parse", "--path-format=absolute", "--show-object-format", "--git-path", "info/exclude").split(b"\n")
        names, gitlinks = set(), []
        for line in self.git(prefix, "ls-files", "-s", "-z").split(b"\0")[:-1]:
            mode, name = line[:6], line.split(b"\t", 1)[1]
            if mode == b"160000":
                gitlinks.append(name)
            else:
                names.add(name)
        untracked = self.git(prefix, "ls-files", "-o", "--exclude-standard", "-z").split(b"\0")[:-1]
        names.update(name for name in untracked if self.include_untracked or name.split(b"/")[-1] == b".gitattributes")
        there = frozenset(prefix + name for name in names if self.travels(prefix + name))
        self.parts.append(Part(prefix, there, self.rules(prefix, said[1]), said[0].decode()))
        for name in gitlinks:
            place = prefix + name
            self.links.add(place)
            git_there = self.tree.get(place + b"/.git")
            if git_there and self.git(place, "rev-parse", "-q", "--verify", "HEAD"):
                self.look(place + b"/", name, depth + 1)

    def travels(self, path):
        entry = self.tree.get(path)
        return entry is not None and entry.kind in ("file", "link")

    def rules(self, prefix, exclude):
        """The user's own ignore file, then the repository's: what comes later wins."""
        own = self.git(prefix, "config", "--path", "--get", "core.excludesFile").rstrip(b"\n")
        text = b""
        for file in (own or os.fsencode(os.path.join(self.home, ".config/git/ignore")), exclude):
            try:
                with open(file, "rb") as opened:
                    text += opened.read() + b"\n"
            except OSError:
                pass
        return text

    @property
    def object_format(self):
        return self.parts[0].object_format
