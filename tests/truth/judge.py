"""The rule, applied strictly: the patch on the files as sent gives what lies on the guest's disk; or what is missing is named in
`result.lost`, and the exit status says so; or no patch can hold it, and `result.left_out` names it."""

import errno
import json
import os
from typing import NamedTuple

import disk
import names
import sealed
from operations import VOLATILE

# The exit status where something is lost, by what took the patch.
LOST_STATUS = {"export": 125, "exec": 125, "run": 125, "vm": 125}
# git applies no larger one.
LARGEST_FILE = 1023 << 20
# The longest path that a program can name at once.
LONGEST_PATH = 4095
# About what a patch says of a file before its lines, bytes.
HEADER = 200
# From where on a record may cut a path off; what is cut ends in dots.
CUT_FROM = 4000
# Whether directories in which nothing is at all must be named.
EMPTY_DIRECTORIES_ARE_TOLD = True


class Fault(NamedTuple):
    """What went wrong: the kind of fault, at which path, and what was seen."""

    fault: str
    path: bytes
    what: str

    def __str__(self):
        path = ascii(os.fsdecode(self.path))[1:-1]
        return f"{self.fault}: {path if len(path) < 200 else path[:150] + '…'}{': ' if self.what else ''}{self.what}"


class Export(NamedTuple):
    """How a patch was taken: by which verb, with which status, what was said, the record, and the patch (None: there is none)."""

    verb: str
    status: int
    said: str
    record: dict
    patch: bytes


def is_of_git(path):
    return b".git" in path.split(b"/")


def of_git_beneath(path):
    """The `.git` that a path is, or is in, other than the checkout's own; None for other paths."""
    parts = path.split(b"/")
    if b".git" not in parts:
        return None
    at = parts.index(b".git")
    return b"/".join(parts[:at + 1]) if at else None


def seen(entry):
    if entry is None:
        return "nothing"
    data = entry.data if len(entry.data) <= 40 else entry.data[:30] + b"..."
    return f"{entry.kind}{' (executable)' if entry.executable else ''} of {len(entry.data)} bytes {data!r}" if entry.kind in ("file", "link") else entry.kind


def is_name_of(text, path):
    """Whether a record's word for a path means `path`."""
    begin = text.removesuffix("...")
    return text in spellings(path) or (begin != text and len(begin) >= CUT_FROM and any(one.startswith(begin) for one in spellings(path)))


def spellings(path):
    """How a record may write a path of any bytes."""
    text = path.decode("utf-8", "replace")
    quoted = "".join({"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}.get(chr(b), chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in path)
    return {text, quoted, f'"{quoted}"', os.fsdecode(path)}


class Names:
    """The paths of a list in a record."""

    def __init__(self, listed):
        self.paths = {item["path"].rstrip("/") if item["path"] != "/" else "/" for item in listed or []}
        self.reasons = {item["path"].rstrip("/"): item.get("reason", "") for item in listed or []}

    def have(self, path):
        return any(text in self.paths for text in spellings(path)) or (len(path) > CUT_FROM and any(is_name_of(text, path) for text in self.paths))

    def cover(self, path):
        """Whether it, or a directory that it is in, is named."""
        return self.have(path) or any(self.have(above) for above in disk.parents(path))


class Case(NamedTuple):
    """What there is to judge. `guest` is a walk of the guest's working tree; `volatile`: paths that changed all the time."""

    checkout: object
    guest: dict
    export: Export
    volatile: frozenset
    scratch: str
    limit: int = 0  # the largest patch that was asked for; 0: as large as git takes


def judge(case):
    """All faults of a case."""
    export = case.export
    result = (export.record or {}).get("result") or {}
    lost, left_out = Names(result.get("lost")), Names(result.get("left_out"))
    if export.status is None:
        return [Fault("hangs", b"", export.said[-300:])]
    if export.patch is None or "result" not in (export.record or {}):
        return [Fault("export-failed", b"", f"status {export.status}: {export.said[-500:]}")]
    faults = status_faults(case, lost)
    if case.limit and len(export.patch) > case.limit:
        faults.append(Fault("too-large", b"", f"{len(export.patch)} bytes of at most {case.limit}"))
    if bool(export.patch) and result.get("changed") is False:
        faults.append(Fault("status", b"", "the record says that nothing changed"))
    applied, said = apply(case)
    if applied is None:
        return faults + [Fault("does-not-apply", b"", said[:500])]
    ignored = Ignored(case)
    faults += differences(case, applied, lost, left_out, ignored)
    faults += untold(case, applied, left_out, lost, ignored)
    faults += needless(case, lost)
    return faults


def status_faults(case, lost):
    status, verb = case.export.status, case.export.verb
    if lost.paths and status != LOST_STATUS[verb]:
        return [Fault("status", b"", f"{len(lost.paths)} lost, and {verb} gives {status} instead of {LOST_STATUS[verb]}")]
    if not lost.paths and status != 0:
        return [Fault("status", b"", f"nothing lost, and {verb} gives {status}: {case.export.said[-300:]}")]
    return []


def apply(case):
    """The tree after the patch: its walk, or None and what git said."""
    home, place, git_dir = (os.path.join(case.scratch, name) for name in ("sealed-home", "applied", "applied.git"))
    for folder in (home, place):
        os.makedirs(folder)
    disk.write(place, case.checkout.sent)
    if case.export.patch:
        sealed.repository(git_dir, case.checkout.object_format)
        patch = os.path.join(case.scratch, "to-apply.patch")
        with open(patch, "wb") as file:
            file.write(case.export.patch)
        args = [f"--git-dir={git_dir}", f"--work-tree={place}", "apply", "--whitespace=nowarn", patch]
        status, _, said = sealed.git(home, place, *args)
        if status != 0:
            return None, said.decode(errors="replace")
    return disk.walk(place), ""


class Ignored:
    """What is ignored: by the .gitignore files of the guest's tree as they stand and the rules that were sent. A path that was
    sent never is."""

    def __init__(self, case):
        self.case, self.known, self.number = case, {}, 0
        self.skeletons = {}

    def of(self, paths):
        """Those of `paths` (directories end in a slash) that are ignored."""
        ignored = set()
        # The innermost repository of the host's decides, by its own rules.
        parts = sorted(self.case.checkout.parts, key=lambda part: -len(part.prefix))
        rest = set(paths)
        for part in parts:
            here = {path for path in rest if path.startswith(part.prefix)}
            rest -= here
            ignored |= self.in_part(part, here)
        return ignored

    def in_part(self, part, paths):
        if not paths:
            return set()
        if part.prefix not in self.skeletons:
            self.skeletons[part.prefix] = self.skeleton(part)
        place, git_dir, home = self.skeletons[part.prefix]
        # A path that git cannot name is ignored where a directory above it is. Behind `./` nothing is a pattern.
        short = {path: shortened(path[len(part.prefix):]) for path in paths}
        asked = b"".join(b"./" + path + b"\0" for path in set(short.values()))
        for path in paths:
            if short[path].endswith(b"/"):
                self.make_folder(place, short[path])
        args = [f"--git-dir={git_dir}", f"--work-tree={place}", "check-ignore", "--no-index", "-z", "--stdin"]
        status, out, said = sealed.git(home, place, *args, stdin=asked)
        if status not in (0, 1):
            raise RuntimeError(f"git check-ignore: {said.decode(errors='replace')}")
        ignored = {path.removeprefix(b"./") for path in out.split(b"\0")[:-1]}
        return {path for path, inner in short.items() if inner in ignored}

    @staticmethod
    def make_folder(place, path):
        handle = os.open(place, os.O_RDONLY)
        for above in [*reversed(list(disk.parents(path.rstrip(b"/")))), path.rstrip(b"/")]:
            try:
                os.mkdir(above, dir_fd=handle)
            except OSError:
                pass
        os.close(handle)

    def skeleton(self, part):
        """A tree of nothing but the .gitignore files."""
        self.number += 1
        base = os.path.join(self.case.scratch, f"ignored-{self.number}")
        place, git_dir, home = (os.path.join(base, name) for name in ("tree", "git", "home"))
        os.makedirs(place)
        os.makedirs(home)
        sealed.repository(git_dir, exclude=part.rules)
        rules = {path[len(part.prefix):]: entry for path, entry in self.case.guest.items()
                 if path.startswith(part.prefix) and path.split(b"/")[-1] == b".gitignore" and entry.kind in ("file", "link") and len(path) < LONGEST_PATH - 8
                 and not is_of_git(path)}
        disk.write(place, rules)
        return place, git_dir, home


def shortened(path):
    """The path, or the nearest directory above it that git can name behind `./`."""
    return path if len(path) <= LONGEST_PATH - 2 else next(above + b"/" for above in disk.parents(path) if len(above) <= LONGEST_PATH - 3)


def in_submodule(case, path):
    return any(path == link or path.startswith(link + b"/") for link in case.checkout.links)


def is_volatile(case, path):
    return path.split(b"/")[0].startswith(VOLATILE) or any(path == one or path.startswith(one + b"/") or one.startswith(path + b"/") for one in case.volatile)


def differences(case, applied, lost, left_out, ignored):
    """Paths at which the guest's tree and the patched one differ without a word."""
    guest, sent = case.guest, case.checkout.sent
    different = []
    for path in sorted(set(guest) | set(applied)):
        there, here = guest.get(path), applied.get(path)
        there_counts = there is not None and there.kind in ("file", "link") and not is_of_git(path)
        here_counts = here is not None and here.kind in ("file", "link")
        if (there if there_counts else None) != (here if here_counts else None) and not is_volatile(case, path):
            different.append(path)
    new = [path for path in different if path not in sent]
    hidden = ignored.of(new) if new else set()
    faults = []
    for path in different:
        there, here = guest.get(path), applied.get(path)
        # An ignored file may be there or not; what is there must be right.
        if path in hidden and (here is None or there is None):
            continue
        if here is not None and path not in guest and path not in sent and not hidden:
            pass
        if lost.cover(path):
            continue
        fault = "unnamed" if case.export.status else "silent-loss"
        faults.append(Fault(fault, path, f"the guest has {seen(there)}, the patch gives {seen(here)}"))
    return faults


def untold(case, applied, left_out, lost, ignored):
    """What no patch holds, and nobody told."""
    guest, faults = case.guest, []
    filled = {above for path in guest for above in list(disk.parents(path))[:1]}
    special = [path for path, entry in guest.items() if entry.special and not is_of_git(path) and not is_volatile(case, path)]
    empty = [path for path, entry in guest.items() if entry.kind == "dir" and path not in filled and not is_of_git(path)
             and not is_volatile(case, path) and not (path in applied and applied[path].kind == "dir") and path not in case.checkout.links]
    repositories = {of_git_beneath(path) for path in guest} - {None}
    repositories = [path for path in repositories if not is_volatile(case, path) and path.rsplit(b"/", 1)[0] not in case.checkout.links
                    and not any(path.startswith(link + b"/") for link in case.checkout.links)]
    hidden = ignored.of(special + [path + b"/" for path in empty + repositories]) if special or empty or repositories else set()
    told = lambda path: left_out.cover(path) or lost.cover(path)  # noqa: E731
    for path in special:
        if (path not in hidden or path in case.checkout.sent) and not told(path):
            faults.append(Fault("untold", path, guest[path].kind))
    for path in empty if EMPTY_DIRECTORIES_ARE_TOLD else []:
        if path + b"/" not in hidden and not told(path):
            faults.append(Fault("untold", path, "empty directory"))
    for path in repositories:
        if path + b"/" not in hidden and not told(path) and not any(guest_path in hidden for guest_path in [path.rsplit(b"/", 1)[0] + b"/"]):
            above = path.rsplit(b"/", 1)[0] + b"/"
            if above not in ignored.of([above]):
                faults.append(Fault("untold", path, "a repository inside"))
    return faults


def needless(case, lost):
    """What is named as lost although a patch could hold it."""
    faults = []
    for text in sorted(lost.paths):
        reason = lost.reasons.get(text, "")
        if not reason:
            faults.append(Fault("lost-without-a-reason", os.fsencode(text), ""))
        matching = [path for path in (*case.guest, *case.checkout.sent) if is_name_of(text, path)]
        if not any(may_be_lost(case, path) for path in matching or [os.fsencode(text)]):
            faults.append(Fault("needless-loss", os.fsencode(text), reason))
    return faults


def may_be_lost(case, path):
    """Whether a patch cannot hold what is, or was, at `path`."""
    entry = case.guest.get(path)
    parts = path.split(b"/")
    like_git = any(part.lower() in [name.lower() for name in (*names.LIKE_GIT, b".git")] for part in parts)
    # git takes no symbolic link of this name.
    like_git = like_git or (entry is not None and entry.kind == "link" and parts[-1].lower() == b".gitmodules")
    below = [other for other in case.guest if other.startswith(path + b"/")] if entry is None or entry.kind == "dir" else []
    too_long = len(path) > LONGEST_PATH or any(len(other) > LONGEST_PATH for other in below)
    sizes = [len(one.data) for one in (entry, case.checkout.sent.get(path)) if one is not None]
    # What a patch needs for a file is a matter of its encoding; next to the limit any file may be too much.
    too_large = any(size > (case.limit or LARGEST_FILE) // 4 for size in sizes) or (case.limit and (len(case.export.patch) > case.limit // 2
                                                                                                    or together(case, path) > case.limit // 4))
    beneath_submodule = any(link.startswith(path + b"/") for link in case.checkout.links)
    return in_submodule(case, path) or like_git or too_long or too_large or is_volatile(case, path) or beneath_submodule or goes_round(case, path)


def together(case, path):
    """About how many bytes a patch needs for all that can only come with `path`: a file in whose place a directory is, or the other
    way round, and what is below it."""
    trees = (case.guest, case.checkout.sent)
    solid = lambda one: any(one in tree and tree[one].kind in ("file", "link") for tree in trees)  # noqa: E731
    root = next((above for above in disk.parents(path) if solid(above)), path)
    entries = [entry for tree in trees for other, entry in tree.items() if other == root or other.startswith(root + b"/")]
    return sum(HEADER + len(entry.data) for entry in entries) if len(entries) > 1 and solid(root) else 0


def goes_round(case, path):
    """Whether links of the checkout lead round in a circle on the way to `path`: git makes nothing there, whatever it removes."""
    try:
        os.lstat(os.path.join(os.fsencode(case.checkout.path), path))
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def bytes_and_mode(path, walked):
    """What must not change at a path of a walk with details: of git's own things the times may."""
    return walked.get(path) if not is_of_git(path) or path not in walked else walked[path][:2]


class Second(NamedTuple):
    """A second copy: what was sent before and is sent now, the guest's tree before and after, whether everything of it is untouched,
    git's own things included, what banger said, and whether the guest is so broken that it may refuse to touch anything."""

    old: dict
    new: dict
    before: dict
    after: dict
    untouched: bool
    status: int
    record: dict
    forced: bool
    said: str
    may_refuse: bool


def no_room(second, path, counted):
    """Whether the guest has made something of a directory above `path`, so that the host's file has no place."""
    if second.new.get(path) is None:
        return False
    above = [one for one in disk.parents(path) if counted(second.before, one)]
    return any(second.new.get(one) is None and counted(second.before, one) != second.old.get(one) for one in above)


def second_copy(second):
    """Faults of a second copy: what only the host changed arrives, what the guest changed stays, and where both did, nothing happens
    and every such path is named, or, forced, the host's is taken."""
    counted = lambda tree, path: tree.get(path) if tree.get(path) and tree[path].kind != "dir" and not is_of_git(path) else None  # noqa: E731
    conflicts, faults = [], []
    paths = sorted(path for path in {*second.old, *second.new, *second.before, *second.after} if not is_of_git(path))
    for path in paths:
        old, new, guest, after = second.old.get(path), second.new.get(path), counted(second.before, path), counted(second.after, path)
        if second.forced and second.status == 0 and after == new:
            # A forced copy may replace all that is there.
            continue
        if old == new:
            expected = guest
        elif second.forced or ((guest == old or guest == new) and not no_room(second, path, counted)):
            expected = new
        else:
            conflicts.append(path)
            continue
        if second.status == 0 and after != expected:
            # What the guest put in the way of what the host has may give way where that is forced.
            in_the_way = second.forced and any(one == path or one.startswith(path + b"/") or path.startswith(one + b"/") for one in second.new if second.old.get(one) != second.new[one])
            if not in_the_way:
                fault = "overwritten" if after != guest else "not-taken-over"
                faults.append(Fault(fault, path, f"sent {seen(old)}, now {seen(new)}; the guest had {seen(guest)}, has {seen(after)}"))
    if second.status is None:
        return [Fault("hangs", b"", second.said)]
    if second.status == 0:
        return faults + [Fault("conflict-unseen", path, f"sent {seen(second.old.get(path))}, now {seen(second.new.get(path))}; the guest had {seen(counted(second.before, path))}, "
                               f"has {seen(counted(second.after, path))}") for path in conflicts]
    error = second.record.get("error") or {}
    named = {str(name).rstrip("/") for name in (error.get("details") or {}).get("paths") or []}
    if not second.untouched:
        faults = [Fault("touched", b"", f"the second copy failed, and changed the guest: {second.said}")]
    else:
        faults = []
    if second.may_refuse and not named:
        return faults
    if second.forced:
        return faults + [Fault("second-copy-failed", b"", second.said)]
    if error.get("code") == "conflict" and named:
        faults += [Fault("conflict-unnamed", path, second.said) for path in conflicts
                   if not any(text in named for one in (path, *disk.parents(path)) for text in spellings(one))]
        if not conflicts and not named & {"index", "HEAD"}:
            faults.append(Fault("conflict-made-up", b"", second.said))
    elif not conflicts:
        faults.append(Fault("second-copy-failed", b"", second.said))
    return faults


def load_record(text):
    """The record of a file or stdout; None where it is none."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
