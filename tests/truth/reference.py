"""What the oracle is itself judged by: an exporter that sees both trees and cannot be misled (`--programs reference`). Where the rule
can be met it meets it, so what the judge finds wrong about it is a mistake of the judge's; and each of its MISTAKES, which programs have
made, the judge must find (`--mistake NAME`)."""

import os
import shutil
import subprocess

import disk
import guest
import judge
import names
import sealed
from judge import Case, Export

MISTAKES = ("believes-times", "forgets-modes", "forgets-new-files", "forgets-what-is-lost", "converts-line-endings", "believes-info-exclude",
            "drops-repositories", "drops-special-files", "status-0")


class Guest(guest.Native):
    """A guest that is sent its files by hand, and asked without banger."""

    def __init__(self, *args):
        super().__init__(*args)
        self.host = None

    def prepare(self, host):
        self.host = host
        place = self.look_at()
        os.makedirs(place)
        disk.write(place, host.sent)
        for link in host.links:
            os.makedirs(os.path.join(os.fsencode(place), link), exist_ok=True)
        for part in host.parts:
            git_dir = os.fsdecode(host.git(part.prefix, "rev-parse", "--absolute-git-dir").rstrip(b"\n"))
            there = os.path.join(place, os.fsdecode(part.prefix), ".git")
            if os.path.isdir(git_dir) and not os.path.exists(there):
                subprocess.run(["cp", "-a", git_dir, there], check=True)
        shutil.copy(os.path.join(host.home, ".gitconfig"), os.path.join(self.folder, "root"))

    def execute(self, script):
        pid = str(self.process())
        root = f"/proc/{pid}/root"
        argv = ["nsenter", "--target", pid, "--mount", "--pid", f"--root={root}", f"--wd={root}{guest.WORKSPACE}", "env", "-i", "HOME=/root",
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "sh", "-s"]
        subprocess.run(argv, input=os.fsencode(script), capture_output=True, timeout=120)


def export(case, mistake=""):
    """The patch and the record for what the guest has."""
    checkout, there = case.checkout, case.guest
    ignored = judge.Ignored(case._replace(scratch=os.path.join(case.scratch, "reference")))
    files = {path: entry for path, entry in there.items() if entry.kind in ("file", "link") and not judge.is_of_git(path)}
    hidden = ignored.of([path for path in files if path not in checkout.sent])
    lost, left_out = {}, {}
    new, old = {}, dict(checkout.sent)
    for path in set(files) | set(old):
        entry = files.get(path)
        if path in hidden or (mistake == "believes-info-exclude" and path not in old):
            continue
        like_git = any(part.lower() in [name.lower() for name in names.LIKE_GIT] for part in path.split(b"/"))
        if judge.in_submodule(case, path) or len(path) > judge.LONGEST_PATH or like_git or any(link.startswith(path + b"/") for link in checkout.links):
            if entry != old.get(path):
                lost[path] = "a patch cannot hold it"
            if path in old:
                new[path] = old[path]
        elif entry is not None and not (mistake == "forgets-new-files" and path not in old):
            if path in old and mistake == "believes-times" and len(old[path].data) == len(entry.data):
                entry = old[path]
            if mistake == "forgets-modes":
                entry = entry._replace(executable=False if path not in old else old[path].executable)
            if mistake == "converts-line-endings" and entry.kind == "file":
                entry = entry._replace(data=entry.data.replace(b"\r\n", b"\n"))
            if not (mistake == "drops-repositories" and any(above + b"/.git" in there for above in disk.parents(path))):
                new[path] = entry
    for path, entry in there.items():
        filled = any(other.startswith(path + b"/") for other in there) if entry.kind == "dir" else True
        if (entry.special or not filled) and not judge.is_of_git(path) and mistake != "drops-special-files":
            left_out[path] = entry.kind
        if judge.of_git_beneath(path) == path:
            left_out[path] = "a repository"
    patch = difference(case, old, new)
    result = {"changed": bool(patch), "lost": listed(lost), "left_out": listed(left_out)}
    if mistake == "forgets-what-is-lost":
        result["lost"] = []
    status = judge.LOST_STATUS["export"] if result["lost"] and mistake != "status-0" else 0
    return Export("export", status, "", {"schema": "banger.vm/1", "result": result}, patch)


def listed(paths):
    return [{"path": path.decode("utf-8", "replace"), "reason": why} for path, why in sorted(paths.items())]


def difference(case, old, new):
    """What git says between two trees that it is given on a disk."""
    base = os.path.join(case.scratch, "reference-trees")
    home, git_dir = os.path.join(base, "home"), os.path.join(base, "git")
    os.makedirs(home)
    sealed.repository(git_dir, case.checkout.object_format)
    trees = []
    for name, entries in (("old", old), ("new", new)):
        place = os.path.join(base, name)
        os.makedirs(place)
        disk.write(place, entries)
        where = [f"--git-dir={git_dir}", f"--work-tree={place}"]
        for args in (["read-tree", "--empty"], ["add", "-A", "-f"], ["write-tree"]):
            status, out, said = sealed.git(home, place, *where, *args)
            if status != 0:
                raise RuntimeError(f"git {args}: {said.decode(errors='replace')}")
        trees.append(out.strip().decode())
    status, patch, said = sealed.git(home, base, f"--git-dir={git_dir}", "diff-tree", "-r", "-p", "--binary", "--full-index", "-M", *trees)
    if status != 0:
        raise RuntimeError(f"git diff-tree: {said.decode(errors='replace')}")
    return patch


def take(run, mistake=""):
    """The whole of a case, as campaign.Run does it with banger."""
    run.guest = Guest(run.folder, run.settings.keys, "", "", run.host.home)
    run.guest.prepare(run.host)
    run.guest.execute(run.script)
    tree = disk.walk(run.guest.look_at())
    volatile = frozenset(path for one in run.operations for path in one.volatile)
    case = Case(run.host, tree, None, volatile, run.folder)
    return judge.judge(case._replace(export=export(case, mistake)))
