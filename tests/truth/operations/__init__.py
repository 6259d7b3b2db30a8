"""What commands do to a checkout in a guest: the kinds, each a line or a few of shell with targets that dice choose.

A function with `@kind` takes a `Choice` and gives the script, which is run by itself in the workspace and may fail."""

import random
from typing import NamedTuple

import names
import shell

KINDS = {}

# Before all scripts. Functions: `mk PATH` makes the directories above a path.
PRELUDE = """\
W=$PWD
export LC_ALL=C GIT_EDITOR=true GIT_TERMINAL_PROMPT=0 GIT_MERGE_AUTOEDIT=no
export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=gc.autoDetach GIT_CONFIG_VALUE_0=false GIT_CONFIG_KEY_1=maintenance.autoDetach GIT_CONFIG_VALUE_1=false
mk() { mkdir -p -- "${1%/*}"; }
"""
# Paths whose first name begins so change while the patch is taken: what is in the patch of them is not looked at.
VOLATILE = b"~busy"


# What takes git, or the tools of those that come later, away: mostly after what needs them.
BREAKS = ("git-", "config-", "head-broken", "objects-", "index-corrupt", "index-cut", "index-is", "refs-removed", "ref-broken", "variable-", "setting-bare",
          "setting-worktree", "setting-format", "tools-", "no-locale", "nofile", "file-size", "remove-everything", "owner-", "checkout-cloned-over", "prepared-")


# What makes a FIFO comes after everything: whatever wrote to it later would wait for a reader that never comes.
FIFOS = 9


class Kind(NamedTuple):
    """How often it is chosen, whether it comes after all others (what would block or break those), the traits of a checkout
    that it is about, whether it needs a VM, and whether it takes many seconds."""

    make: object
    weight: float
    late: int
    needs: tuple
    vm: bool
    heavy: bool


def kind(weight=1.0, late=0, needs=(), vm=False, heavy=False):
    def register(function):
        name = function.__name__.strip("_").replace("_", "-")
        assert name not in KINDS, name
        KINDS[name] = Kind(function, weight, late, needs, vm, heavy)
        return function
    if callable(weight):
        function, weight = weight, 1.0
        return register(function)
    return register


class Choice:
    """What an operation may be done to; all of it as words of a shell."""

    def __init__(self, rng, checkout):
        self.rng = rng
        sent = sorted(checkout.sent.items())
        inner = tuple(link + b"/" for link in checkout.links)
        self.files = [path for path, entry in sent if entry.kind == "file" and not path.startswith(inner)] or [b"a"]
        self.lettered = [path for path in self.files if set(checkout.sent[path].data) & set(b"abcdefgh")] if checkout.sent else self.files
        self.lettered = self.lettered or self.files
        self.links = [path for path, entry in sent if entry.kind == "link" and not path.startswith(inner)]
        self.folders = sorted({above for path in self.files if len(path) < 500 for above in _parents(path)}) or [b"src"]
        self.submodules = sorted(checkout.links)
        self.volatile = []

    def file(self):
        """A file that was sent; seldom, where it may not be there any more, another."""
        return shell.path(self.rng.choice(self.files))

    def words(self):
        """A file that was sent in which there are letters, so that `tr a-y b-z` changes it."""
        return shell.path(self.rng.choice(self.lettered))

    def two(self):
        """Two files that were sent."""
        one = self.rng.choice(self.files)
        others = [path for path in self.files if path != one] or [b"other"]
        return shell.path(one), shell.path(self.rng.choice(others))

    def name(self):
        """An odd name, below some directory."""
        name = self.rng.choice(names.ODD)
        return name if self.rng.random() < 0.5 else self.rng.choice(self.folders) + b"/" + name

    def new(self):
        """A path where most likely nothing is."""
        if self.rng.random() < 0.4:
            return shell.path(self.name())
        return shell.path(self.rng.choice([b"", b"src/", b"new/", b"new/er/"]) + b"n%d" % self.rng.randrange(1000))

    def link(self):
        return shell.path(self.rng.choice(self.links or [b"link"]))

    def folder(self):
        """A directory that was sent."""
        return shell.path(self.rng.choice(self.folders))

    def submodule(self):
        return shell.path(self.rng.choice(self.submodules or [b"sub"]))

    def text(self):
        return "".join(self.rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8))

    def pick(self, *choices):
        return self.rng.choice(choices)

    def changes(self, path):
        """Says that `path` (bytes) changes while the patch is taken."""
        self.volatile.append(path)


def _parents(path):
    while b"/" in path:
        path = path.rsplit(b"/", 1)[0]
        yield path


class Operation(NamedTuple):
    """An operation of a case: its kind, its script and what it keeps changing."""

    kind: str
    script: str
    volatile: tuple


def make(name, seed, place, checkout):
    """The operation `name` at a place of a sequence: always the same for a seed and a checkout."""
    choice = Choice(random.Random(f"{seed}/{place}/{name}"), checkout)
    script = KINDS[name].make(choice)
    return Operation(name, script, tuple(choice.volatile))


def choose(rng, traits, vm, heavy):
    """The kinds of a sequence, in order."""
    able = [name for name, one in KINDS.items() if (vm or not one.vm) and (heavy or not one.heavy) and set(one.needs) <= set(traits)]
    # What needs a trait that is there, which few have, is what the trait is for.
    weights = [KINDS[name].weight * (12 if KINDS[name].needs else 1) for name in able]
    chosen = rng.choices(able, weights, k=rng.randint(10, 40))
    broken = {name: 0.5 if name.startswith(BREAKS) and rng.random() < 0.8 else 0 for name in sorted(set(chosen))}
    return sorted(chosen, key=lambda name: KINDS[name].late or broken[name])


def script(operations):
    """All of them as one script, which never fails."""
    parts = [f"# {one.kind}\n( cd -P \"$W\" || exit\n{one.script.strip()}\n) </dev/null >>/tmp/oracle.log 2>&1\n" for one in operations]
    return PRELUDE + "".join(parts) + "exit 0\n"


from . import attributes, edits, environment, filetypes, history, ignores, naming, races, repositories, settings  # noqa: E402, F401
