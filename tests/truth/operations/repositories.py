"""Repositories within the repository: new ones, submodules, worktrees."""

from . import kind

FILES = "git -c protocol.file.allow=always"


@kind(2)
def nested_without_a_commit(c):
    return f"mkdir -p app-{c.text()}/src && cd app-*/ && git init -q && echo {c.text()} >src/main.c && echo {c.text()} >top"


@kind(2)
def nested_with_a_commit(c):
    return f"mkdir -p kit-{c.text()}/src && cd kit-*/ && git init -q && echo {c.text()} >src/main.c && git add -A && git commit -qm kit && echo {c.text()} >uncommitted"


@kind
def nested_and_added(c):
    return f"mkdir -p link-{c.text()} && cd link-*/ && git init -q && echo {c.text()} >f && git add f && git commit -qm f; cd \"$W\"; git add -A; git commit -qm gitlink; echo more >>$(echo link-*/f)"


@kind
def nested_with_ignored_files(c):
    return f"mkdir -p ign-{c.text()} && cd ign-*/ && git init -q && printf '*.log\\n' >.gitignore && echo x >a.log && echo {c.text()} >b && mkdir -p .git/info && printf '*\\n' >>.git/info/exclude && echo {c.text()} >c"


@kind
def nested_in_a_tracked_directory(c):
    d = c.folder()
    return f"cd {d} && git init -q && echo {c.text()} >inner-new && {c.pick(':', 'git add -A && git commit -qm taken')}; cd \"$W\"; echo {c.text()} >>{c.file()}"


@kind
def nested_deep(c):
    return f"mkdir -p n1/n2/n3 && for d in n1 n1/n2 n1/n2/n3; do (cd $d && git init -q && echo {c.text()} >f && git add f && git commit -qm f); done; echo {c.text()} >n1/n2/g"


@kind
def nested_bare(c):
    return f"git init -q --bare bare-{c.text()}.git; git init -q --bare bare2/.git"


@kind
def nested_git_is_a_file(c):
    return f"mkdir -p gitfile && echo gitdir: {c.pick('/nonexistent', '../.git', '.git', '../../..')} >gitfile/.git; echo {c.text()} >gitfile/f"


@kind
def nested_git_is_odd(c):
    return f"mkdir -p oddgit/a oddgit/b oddgit/c/.git oddgit/d; : >oddgit/a/.git; ln -s ../../.git oddgit/b/.git; echo x >oddgit/c/.git/x; ln -s nowhere oddgit/d/.git; for d in a b c d; do echo {c.text()} >oddgit/$d/f; done"


@kind
def nested_with_nothing_else(c):
    return "mkdir -p only-git/er && cd only-git/er && git init -q"


@kind
def nested_clone_of_itself(c):
    return f"git clone -q . clone-{c.text()} && cd clone-*/ && echo {c.text()} >>README.md"


@kind
def nested_sha256(c):
    return f"mkdir -p n256 && cd n256 && git init -q --object-format=sha256 && echo {c.text()} >f && git add f && git commit -qm f"


@kind
def nested_broken(c):
    return f"mkdir -p nbroken && cd nbroken && git init -q && echo {c.text()} >f && git add f && git commit -qm f && {c.pick('echo x >.git/HEAD', 'rm -rf .git/objects', 'rm -f .git/config', 'chmod 000 .git')}"


@kind
def nested_of_another_owner(c):
    return f"mkdir -p nother && cd nother && git init -q && echo {c.text()} >f && git add f && git commit -qm f && chown -R 1000:1000 ."


@kind
def nested_ignored(c):
    return f"printf '/vendor/\\n' >>.gitignore; mkdir -p vendor/kit && cd vendor/kit && git init -q && echo x >f; cd \"$W\"; echo {c.text()} >>{c.file()}"


@kind
def nested_changed_of_the_host(c):
    """Repositories that lie in the host's checkout stay behind; here others come in their place."""
    return f"mkdir -p inner && cd inner && git init -q; echo {c.text()} >s; echo {c.text()} >t"


@kind
def worktree_inside(c):
    return f"git worktree add -q -b wt-{c.text()} wt-{c.text()} && cd wt-*/ && echo {c.text()} >>README.md && echo {c.text()} >in-the-worktree"


@kind
def worktree_inside_hidden(c):
    return f"git worktree add -q --detach .worktrees/one && cd .worktrees/one && echo {c.text()} >f && git add -A && git commit -qm wt"


@kind
def worktree_outside(c):
    return f"git worktree add -q -b out-{c.text()} /root/out-$$ && cd /root/out-$$ && echo {c.text()} >>README.md; cd \"$W\"; echo {c.text()} >>{c.file()}"


@kind
def worktree_with_bare(c):
    """What agents' tools leave behind."""
    return f"git worktree add -q -b agent-{c.text()} .agents/a; git config core.bare true; git config extensions.worktreeConfig true; echo {c.text()} >>{c.file()}; echo {c.text()} >.agents/a/new"


@kind
def worktree_moved(c):
    return f"git worktree add -q --detach wtm; git worktree move wtm wtn; git worktree lock wtn; echo {c.text()} >>wtn/README.md"


def _origin(c):
    return f"rm -rf /root/origin && git init -q -b main /root/origin && (cd /root/origin && echo {c.text()} >s && git add s && git commit -qm s)"


@kind(2)
def submodule_added(c):
    return f"{_origin(c)}; {FILES} submodule --quiet add /root/origin added-{c.text()}"


@kind
def submodule_added_and_committed(c):
    return f"{_origin(c)}; {FILES} submodule --quiet add /root/origin addedc-{c.text()}; git commit -qm submodule; echo more >>$(echo addedc-*/s)"


@kind
def submodule_added_in_place(c):
    return f"mkdir -p inplace && cd inplace && git init -q && echo {c.text()} >f && git add f && git commit -qm f; cd \"$W\"; git submodule --quiet add ./inplace inplace"


@kind
def gitmodules_made_up(c):
    return f"printf '[submodule \"x\"]\\n\\tpath = src\\n\\turl = /x\\n[submodule \"../evil\"]\\n\\tpath = {c.pick('doc', '.', '..', '/x')}\\n\\turl = -x\\n' >>.gitmodules; echo {c.text()} >>{c.file()}; echo {c.text()} >src/n"


SUB = ("submodule",)


@kind(needs=SUB)
def submodule_edited(c):
    return f"echo {c.text()} >>{c.submodule()}/s; echo {c.text()} >{c.submodule()}/new; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_committed(c):
    return f"cd {c.submodule()} && echo {c.text()} >>s && git add -A && git commit -qm inner; cd \"$W\"; {c.pick(':', 'git add -A', 'git commit -qam outer')}; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_same_size_time_back(c):
    s = c.submodule()
    return f"touch -r {s}/s /tmp/ref; tr a-y b-z <{s}/s >/tmp/new; cat /tmp/new >{s}/s; touch -r /tmp/ref {s}/s"


@kind(needs=SUB)
def submodule_removed(c):
    return f"rm -rf {c.submodule()}; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_removed_with_git(c):
    return f"git rm -qf {c.submodule()}; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_moved(c):
    return f"git mv {c.submodule()} moved-sub || mv {c.submodule()} moved-sub; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_moved_without_git(c):
    return f"mv {c.submodule()} moved-sub2; echo {c.text()} >>moved-sub2/s"


@kind(needs=SUB)
def submodule_deinit(c):
    return f"git submodule --quiet deinit -f --all; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_to_file(c):
    s = c.submodule()
    return f"rm -rf {s}; echo {c.text()} >{s}; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_to_files(c):
    """Its repository is taken away, its files are the outer one's now."""
    s = c.submodule()
    return f"rm -rf {s}/.git; git rm -q --cached {s}; echo {c.text()} >>{s}/s; git add -A; {c.pick(':', 'git commit -qm vendored')}"


@kind(needs=SUB)
def submodule_to_link(c):
    s = c.submodule()
    return f"mv {s} /root/sub-elsewhere && ln -s /root/sub-elsewhere {s}; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_git_removed(c):
    return f"rm -rf {c.submodule()}/.git {c.pick('', '.git/modules')}; echo {c.text()} >>{c.submodule()}/s; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_at_another_commit(c):
    return f"cd {c.submodule()} && git checkout -q --detach && git commit -q --allow-empty -m e; cd \"$W\"; echo {c.text()} >>{c.file()}"


@kind(needs=SUB)
def submodule_absorbed_or_not(c):
    s = c.submodule()
    return f"cd {s} && g=$(git rev-parse --absolute-git-dir) && rm .git && mv \"$g\" .git && git config --unset core.worktree; echo {c.text()} >>s; cd \"$W\"; echo {c.text()} >>{c.file()}"


@kind(needs=("submodule-not-checked-out",))
def empty_submodule_filled(c):
    return f"mkdir -p empty-sub; echo {c.text()} >empty-sub/f; echo {c.text()} >>{c.file()}"


@kind(needs=("submodule-not-checked-out",))
def empty_submodule_becomes_a_repository(c):
    return f"mkdir -p empty-sub && cd empty-sub && git init -q && echo {c.text()} >f && git add f && git commit -qm f"


@kind(needs=("submodule-not-checked-out",))
def empty_submodule_removed(c):
    return f"rmdir empty-sub; echo {c.text()} >>{c.file()}"


@kind(needs=("gitlink-without-gitmodules",))
def gitlink_edited(c):
    return f"echo {c.text()} >>link/s; echo {c.text()} >link/new"


@kind(needs=("gitlink-without-gitmodules",))
def gitlink_committed(c):
    return f"cd link && echo {c.text()} >>s && git commit -qam inner"


@kind(needs=("gitlink-without-gitmodules",))
def gitlink_to_files(c):
    return f"rm -rf link/.git; git rm -q --cached link; echo {c.text()} >link/f; git add -A"
