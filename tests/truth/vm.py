"""The same in a VM: `banger vm run` makes it, and what is on its disk is read from the disk, with the VM stopped."""

import contextlib
import json
import os
import subprocess

import disk
import judge
from judge import Case, Export, Fault

# What needs more than one file system, or leaves the disk in a state that only the guest's kernel knows.
NOT_HERE = ("mount-on-a-directory", "mount-on-a-file", "workspace-read-only", "temporary-directory-read-only")


class Machine:
    """A VM of a name of its own."""

    def __init__(self, settings, run):
        self.settings, self.run = settings, run
        self.name = f"truth-{os.getpid()}-{os.path.basename(run.folder).rsplit('-', 1)[1].lower().replace('_', 'x')}"

    def banger(self, *args, stdin=b"", timeout=600):
        environment = {**os.environ, "HOME": self.run.host.home, "GIT_CONFIG_NOSYSTEM": "1", "BANGER_CONFIG": "/dev/null",
                       "PATH": self.settings.programs + ":" + os.environ["PATH"]}
        environment.pop("XDG_CONFIG_HOME", None)
        done = subprocess.run([os.path.join(self.settings.programs, "banger"), *args], cwd=self.run.folder, env=environment, input=stdin,
                              capture_output=True, timeout=timeout)
        return done.returncode, done.stdout, done.stderr

    def take(self):
        """Runs the case's script, and takes the patch."""
        args = ["vm", "run", "--name", self.name, "--net", "user", "--image", self.settings.vm, "--patch", "p.patch", "--record", "r.json"]
        args += ["--include-untracked"] if self.run.plan.untracked else []
        return self.banger(*args, "--guest-path", "/root/repo", self.run.host.path, "--", "sh", "-s", stdin=os.fsencode(self.run.script))

    def tree(self):
        """What is on the disk that is the guest's /root."""
        status, out, said = self.banger("--json", "vm", "show", self.name)
        if status != 0:
            raise RuntimeError(f"the VM is gone: {said.decode(errors='replace')}")
        place = find(json.loads(out), "work_device") or os.path.join(find(json.loads(out), "dir"), "work.ext4")
        status, _, said = self.banger("vm", "stop", self.name)
        if status != 0:
            raise RuntimeError(f"the VM does not stop: {said.decode(errors='replace')}")
        with mounted(place, os.path.join(self.run.folder, "mounted")) as folder:
            return disk.walk(os.path.join(folder, "repo"))

    def delete(self):
        self.banger("vm", "delete", "--force", self.name)


def find(document, key):
    """The first value of a key anywhere in a document."""
    if isinstance(document, dict):
        if isinstance(document.get(key), str):
            return document[key]
        document = list(document.values())
    found = (find(item, key) for item in document) if isinstance(document, list) else ()
    return next((value for value in found if value), None)


@contextlib.contextmanager
def mounted(image, folder):
    """An ext4 file, read only."""
    os.makedirs(folder)
    subprocess.run(["mount", "-o", "loop,ro,noload", image, folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def take(run):
    """The whole of a case."""
    machine = Machine(run.settings, run)
    try:
        status, out, said = machine.take()
        read = lambda name: open(os.path.join(run.folder, name), "rb").read() if os.path.exists(os.path.join(run.folder, name)) else None  # noqa: E731
        record = judge.load_record(read("r.json") or b"") or judge.load_record(out)
        export = Export("vm", status, said.decode(errors="replace"), record, read("p.patch"))
        if export.patch is None:
            return [Fault("export-failed", b"", f"status {status}: {export.said[-500:]}")]
        volatile = frozenset(path for one in run.operations for path in one.volatile)
        return judge.judge(Case(run.host, machine.tree(), export, volatile, run.folder))
    finally:
        if not run.settings.keep:
            machine.delete()
