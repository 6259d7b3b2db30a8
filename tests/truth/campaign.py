"""Runs cases: a checkout of the host, what a guest does to it, the patch, and the judgement; and looks for the shortest story of one
that is wrong."""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from typing import NamedTuple

import checkout
import disk
import guest
import judge
import operations
import reference
import shell
import vm
from judge import LOST_STATUS, Export, Fault


# How the patch is taken, and how often: exec, then export; all in one; prepare, then exec with --patch; exec, then a second copy of
# a checkout that changed as well (and with --force), then export.
FORMS = {"export": 6, "run": 2, "exec": 2, "again": 1, "again-forced": 0.5}
# The first seeds are those that every change is tried with: nothing that takes many seconds is among them.
QUICK = 100
# What a second copy does not compare: it says so, and replaces everything or nothing.
NOT_AGAIN = {"submodule", "submodule-not-checked-out", "gitlink-without-gitmodules", "sparse-checkout", "shallow-clone", "partial-clone"}


# How long the command in the guest may take, seconds.
PATIENCE = 120


class Plan(NamedTuple):
    """A case before it runs: all that it is made of follows from this."""

    seed: int
    traits: tuple
    kinds: tuple  # (place, kind): the place is part of what an operation's dice begin with
    untracked: bool
    form: str  # one of FORMS
    limit: int = 0  # --max-patch-size, bytes; 0: as it is without

    def words(self):
        """The arguments that repeat it."""
        kinds = ",".join(f"{place}:{kind}" for place, kind in self.kinds)
        return f"--seeds {self.seed} --host '{','.join(self.traits)}' --ops '{kinds}' --form {self.form}{' --untracked' if self.untracked else ''}{f' --limit {self.limit}' if self.limit else ''}"


class Settings(NamedTuple):
    """What all cases of a campaign have in common."""

    programs: str
    helper: str
    keys: str
    vm: str = ""
    mistake: str = ""
    keep: bool = False


class Outcome(NamedTuple):
    """What came of a case."""

    plan: Plan
    faults: list
    host_script: str
    guest_script: str
    seconds: float
    folder: str


def plan_of(seed, only="", traits=None, kinds=None, form="", untracked=None, in_vm=False, limit=None):
    """The case of a seed; `only` is a kind of operation, or a trait of the host's after "host:"."""
    rng = random.Random(f"plan/{seed}")
    chosen = checkout.choose(rng)
    plan_untracked, plan_form = rng.random() < 0.4, rng.choices(list(FORMS), list(FORMS.values()))[0]
    plan_form = form or plan_form
    plan_limit = 60_000 if rng.random() < 0.08 and not only and not in_vm else 0
    if only:
        plan_untracked, plan_form = False, "export"
        chosen = [only[5:]] if only.startswith("host:") else list(operations.KINDS[only].needs)
        picked = [(0, "edit-append"), (1, "new-file"), (2, "mode-executable")] if only.startswith("host:") else [(0, only)]
    else:
        picked = list(enumerate(operations.choose(rng, traits if traits is not None else chosen, in_vm, seed > QUICK)))
        picked = [(place, kind) for place, kind in picked if not (in_vm and kind in vm.NOT_HERE)]
    if plan_form.startswith("again"):
        chosen = [name for name in chosen if name not in NOT_AGAIN]
        picked = [(place, kind) for place, kind in picked if not set(operations.KINDS[kind].needs) & NOT_AGAIN and not kind.startswith("race-")]
    return Plan(seed, tuple(chosen if traits is None else traits), tuple(picked if kinds is None else kinds),
                plan_untracked if untracked is None else untracked, plan_form, plan_limit if limit is None else limit)


def same_as_sent(host, there):
    """Faults of the sending: what arrived is to be what the host has."""
    arrived = {path: entry for path, entry in there.items() if entry.kind in ("file", "link") and not judge.is_of_git(path)}
    wrong = sorted(path for path in set(arrived) | set(host.sent) if arrived.get(path) != host.sent.get(path))
    return [Fault("not-as-sent", path, f"the host has {judge.seen(host.sent.get(path))}, the guest {judge.seen(arrived.get(path))}") for path in wrong[:5]]


def of_git(tree):
    return {path: rest for path, rest in tree.items() if judge.is_of_git(path)}


class Run:
    """One case, natively."""

    def __init__(self, settings, plan, folder):
        self.settings, self.plan, self.folder = settings, plan, folder
        self.host = checkout.Checkout(plan.seed, list(plan.traits), folder, plan.untracked)
        self.operations = [operations.make(kind, plan.seed, place, self.host) for place, kind in plan.kinds]
        self.script = operations.script(self.operations)
        self.guest, self.second_script = None, ""

    def judged(self):
        try:
            if self.settings.programs == "reference":
                return reference.take(self, self.settings.mistake)
            if self.settings.vm:
                return vm.take(self)
            # What the host's checkout was made with must not change it: it is only read.
            self.guest = guest.Native(self.folder, self.settings.keys, self.settings.programs, self.settings.helper, self.host.home)
            return self.go()
        finally:
            if self.guest:
                self.guest.stop()

    def go(self):
        form = self.plan.form
        source = ["--repo", self.host.path, "--guest-path", guest.WORKSPACE, *(["--include-untracked"] if self.plan.untracked else [])]
        limit = ["--max-patch-size", str(self.plan.limit)] if self.plan.limit else []
        products = ["--patch", "p.patch", "--record", "r.json", *limit]
        command = ["--", "sh", "-s"]
        script = os.fsencode(self.script)
        # A filter of the guest's is a process for each of a hundred thousand files.
        patience = PATIENCE * 10 if any(operations.KINDS[kind].heavy for _, kind in self.plan.kinds) else PATIENCE
        # Where nothing is committed or added, nothing can be sent; attributes alone are nothing.
        is_empty = all(path.split(b"/")[-1] == b".gitattributes" for path in self.host.sent)
        if form == "run":
            taken = self.guest.ws("run", *source, *products, *command, stdin=script, timeout=patience)
            return [] if is_empty and taken[0] == LOST_STATUS["run"] else self.judge("run", taken)
        status, out, err = self.guest.ws("prepare", *source)
        if is_empty and status == 2:
            return []
        if status != 0:
            return [Fault("prepare-failed", b"", f"status {status}: {(out + err)[-600:].decode(errors='replace')}")]
        self.guest.record = json.loads(out)
        faults = same_as_sent(self.host, disk.walk(self.guest.look_at()))
        if faults:
            return faults
        if form == "exec":
            return self.judge("exec", self.guest.ws("exec", *products, *command, stdin=script, timeout=patience))
        status, out, err = self.guest.ws("exec", "--record", "r.json", *command, stdin=script, timeout=patience)
        if status != 0:
            return [Fault("exec-failed", b"", f"status {status}: {(out + err)[-600:].decode(errors='replace')}")]
        os.unlink(os.path.join(self.folder, "r.json"))
        if form.startswith("again"):
            faults = self.again([*source, *(["--force"] if form == "again-forced" else [])])
            if faults is not None:
                return faults
        quiet = not any(kind.startswith("race-") for _, kind in self.plan.kinds)
        before = disk.walk(self.guest.look_at(), details=True) if quiet else None
        taken = self.guest.ws("export", "--output", "p.patch", "--record", "r.json", *limit)
        faults = self.judge("export", taken)
        if quiet:
            faults += self.touched(before)
        return faults

    def again(self, source):
        """Sends the checkout once more, after changes on its side too. Gives the faults; None where the patch is to be judged against
        what was sent now."""
        sent, before = dict(self.host.sent), disk.walk(self.guest.look_at(), details=True)
        self.second_script = checkout.second_script(self.plan.seed, sent)
        self.host.run(self.second_script)
        # What both sides have agreed on travels whether git tracks it or not.
        there = {path: self.host.tree[path] for path in sent if path in self.host.tree}
        self.host.sent.update({path: entry for path, entry in there.items() if entry.kind in ("file", "link")})
        status, out, err = self.guest.ws("prepare", *source)
        after = disk.walk(self.guest.look_at(), details=True)
        record = judge.load_record(out) or {}
        if status == 0:
            self.guest.record = record
        kept = lambda tree: {path: rest[0] for path, rest in tree.items()}  # noqa: E731
        untouched = all(judge.bytes_and_mode(path, before) == judge.bytes_and_mode(path, after) for path in {*before, *after})
        second = judge.Second(sent, dict(self.host.sent), kept(before), kept(after), untouched, status, record, "--force" in source, (out + err)[-400:].decode(errors="replace"),
                              any(kind.startswith((*operations.BREAKS, "workspace-", "mount-")) for _, kind in self.plan.kinds))
        faults = judge.second_copy(second)
        return faults if faults or status != 0 else None

    def touched(self, before):
        """The guest's tree and repository are as they were before the export."""
        after = disk.walk(self.guest.look_at(), details=True)
        wrong = [path for path in sorted(set(before) | set(after)) if judge.bytes_and_mode(path, before) != judge.bytes_and_mode(path, after)]
        return [Fault("touched", path, "the export changed it") for path in wrong[:3]]

    def judge(self, verb, taken):
        status, out, err = taken
        with_path = lambda name: os.path.join(self.folder, name)  # noqa: E731
        read = lambda name: open(with_path(name), "rb").read() if os.path.exists(with_path(name)) else None  # noqa: E731
        record = judge.load_record(read("r.json") or b"") or judge.load_record(out)
        tree = disk.walk(self.guest.look_at())
        export = Export(verb, status, err.decode(errors="replace"), record, read("p.patch"))
        # A race that runs git runs its hooks as well.
        hooked = {b"by-a-hook"} if any(kind.startswith("race-") for _, kind in self.plan.kinds) else set()
        moving = {path for one in self.operations for path in one.volatile} | hooked
        volatile = disk.with_hard_links(self.guest.look_at(), tree, moving)
        return judge.judge(judge.Case(self.host, tree, export, volatile, self.folder, self.plan.limit))


def run(settings, plan):
    """Runs a case; a mistake of the oracle's own is a fault as well."""
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix="banger-truth-")
    host_script = script = ""
    try:
        case = Run(settings, plan, folder)
        host_script, script = case.host.script, case.script
        faults = case.judged()
    except Exception as error:  # noqa: BLE001: whatever it is, the campaign goes on
        import traceback
        faults = [Fault("oracle", b"", f"{error!r} {traceback.format_exc()[-700:]}")]
    if not (settings.keep and faults):
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False, stderr=subprocess.DEVNULL)
    return Outcome(plan, faults, host_script, script, time.monotonic() - began, folder)


def shorter(settings, outcome, tries):
    """The shortest story found that ends in one of the same faults."""
    wanted = {fault.fault for fault in outcome.faults}
    best = outcome

    def attempt(plan):
        nonlocal tries, best
        if tries <= 0 or plan == best.plan:
            return False
        tries -= 1
        again = run(settings._replace(keep=False), plan)
        if wanted & {fault.fault for fault in again.faults}:
            best = again
            return True
        return False

    # Operations by halves, quarters and so on; then traits, one by one.
    size = len(best.plan.kinds)
    while size >= 1 and best.plan.kinds:
        at = 0
        while at < len(best.plan.kinds) and tries > 0:
            kinds = best.plan.kinds[:at] + best.plan.kinds[at + size:]
            if not attempt(best.plan._replace(kinds=kinds)):
                at += size
        size = min(size // 2, len(best.plan.kinds))
    for name in best.plan.traits:
        attempt(best.plan._replace(traits=tuple(t for t in best.plan.traits if t != name)))
    attempt(best.plan._replace(untracked=False))
    attempt(best.plan._replace(form="export"))
    return best


def story(outcome):
    """What to tell about a case that is wrong."""
    lines = [f"seed {outcome.plan.seed}: {outcome.plan.words()}"]
    lines += [f"  {fault}" for fault in outcome.faults[:6]]
    if len(outcome.faults) > 6:
        lines.append(f"  … and {len(outcome.faults) - 6} more")
    return "\n".join(lines)


def scripts(outcome):
    """What was run on the host and in the guest."""
    return "on the host:\n" + shell.shown(outcome.host_script) + "\nin the guest:\n" + shell.shown(outcome.guest_script)
