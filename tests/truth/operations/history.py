"""What is done to commits, branches, the index and the repository itself."""

from . import FIFOS, kind

STORE = ".git"


@kind(2)
def add_all(c):
    return f"echo {c.text()} >>{c.file()}; git add -A"


@kind(2)
def commit(c):
    return f"echo {c.text()} >>{c.file()}; f={c.new()}; mk \"$f\"; echo {c.text()} >\"$f\"; git add -A; git commit -qm {c.text()}"


@kind
def commit_part(c):
    one, other = c.two()
    return f"echo {c.text()} >>{one}; echo {c.text()} >>{other}; git add {one}; git commit -qm {c.text()}; echo {c.text()} >>{one}"


@kind
def amend(c):
    return f"echo {c.text()} >>{c.file()}; git commit -qa --amend -m amended"


@kind
def amend_the_root(c):
    return f"git checkout -q --orphan new-root; git commit -qm root; echo {c.text()} >>{c.file()}"


@kind
def reset_hard(c):
    return f"echo {c.text()} >>{c.file()}; git reset -q --hard; echo {c.text()} >after-reset"


@kind
def reset_to_the_parent(c):
    return f"git commit -q --allow-empty -m e; git reset -q {c.pick('--soft', '--mixed', '--hard', '--keep')} HEAD~1; echo {c.text()} >>{c.file()}"


@kind
def checkout_another_branch(c):
    return f"git checkout -q -b side-{c.text()}; echo {c.text()} >>{c.file()}; git commit -qam side; git checkout -q - ; echo {c.text()} >>{c.file()}"


@kind
def checkout_of_files(c):
    f = c.file()
    return f"git rm -qf {f}; git commit -qm rm; git checkout -q HEAD~1 -- {f}; git restore --source=HEAD~1 --staged --worktree -- {c.file()}"


@kind
def checkout_forced(c):
    return f"echo {c.text()} >>{c.file()}; git checkout -q -f HEAD -- .; git clean -qfd; echo {c.text()} >cleaned"


@kind
def clean_ignored(c):
    return f"git clean -qfdx; echo {c.text()} >>{c.file()}"


@kind
def detach(c):
    return f"git checkout -q --detach; echo {c.text()} >>{c.file()}; git commit -qam detached"


@kind
def stash(c):
    return f"echo {c.text()} >>{c.file()}; git stash -q; echo {c.text()} >>{c.file()}"


@kind
def stash_untracked(c):
    return f"echo {c.text()} >to-stash; git stash -qu; echo {c.text()} >after-stash"


@kind
def stash_and_pop(c):
    return f"echo {c.text()} >>{c.file()}; git stash -qa; git stash pop -q --index"


def _both(c, f):
    return f"git checkout -q -b theirs-{c.text()}; echo theirs >{f}; git commit -qam theirs; git checkout -q - ; echo ours >{f}; git commit -qam ours"


@kind
def merge_stopped(c):
    f = c.file()
    return f"{_both(c, f)}; git merge -q $(git branch --list 'theirs-*' | tail -1)"


@kind
def merge_stopped_and_edited(c):
    f = c.file()
    return f"{_both(c, f)}; git merge -q $(git branch --list 'theirs-*' | tail -1); echo resolved {c.text()} >{f}; echo {c.text()} >merged-new"


@kind
def merge_with_a_removal(c):
    f = c.file()
    return f"git checkout -q -b del; git rm -q {f}; git commit -qm del; git checkout -q - ; echo {c.text()} >>{f}; git commit -qam mod; git merge -q del"


@kind
def merge_file_and_directory(c):
    return f"git checkout -q -b fd; mkdir fd; echo x >fd/x; git add -A; git commit -qm d; git checkout -q - ; echo {c.text()} >fd; git add -A; git commit -qm f; git merge -q fd"


@kind
def merge_done(c):
    return f"git checkout -q -b m-{c.text()}; echo {c.text()} >m-{c.text()}; git add -A; git commit -qm m; git checkout -q -; git merge -q --no-ff -m merged $(git branch --list 'm-*' | tail -1)"


@kind
def rebase_stopped(c):
    f = c.file()
    return f"{_both(c, f)}; git rebase -q $(git branch --list 'theirs-*' | tail -1)"


@kind
def rebase_stopped_to_edit(c):
    return f"git commit -q --allow-empty -m e; echo {c.text()} >>{c.file()}; git commit -qam two; GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -i HEAD~1; echo {c.text()} >>{c.file()}"


@kind
def cherry_pick_stopped(c):
    f = c.file()
    return f"{_both(c, f)}; git cherry-pick $(git branch --list 'theirs-*' | tail -1)"


@kind
def revert_stopped(c):
    f = c.file()
    return f"echo one >{f}; git commit -qam one; echo two >{f}; git commit -qam two; git revert --no-edit HEAD~1"


@kind
def am_stopped(c):
    return f"echo {c.text()} >>{c.file()}; git commit -qam p; git format-patch -q -1 -o /tmp/am; git am /tmp/am/*; git am --show-current-patch >/dev/null"


@kind
def bisect(c):
    return f"git commit -q --allow-empty -m e; git commit -q --allow-empty -m e; git bisect start HEAD HEAD~2; echo {c.text()} >>{c.file()}"


@kind
def remove_with_git(c):
    return f"git rm -qf {c.file()}"


@kind
def remove_from_the_index(c):
    return f"git rm -rq --cached {c.file()}; git rm -rq --cached {c.folder()}"


@kind
def remove_all_from_the_index(c):
    return f"git rm -rq --cached .; echo {c.text()} >>{c.file()}"


@kind
def remove_from_the_index_and_commit(c):
    f = c.file()
    return f"git rm -rq --cached {f}; git commit -qm untracked; echo {c.text()} >>{f}"


@kind
def index_empty(c):
    return f"git read-tree --empty; echo {c.text()} >>{c.file()}"


@kind
def index_of_another_tree(c):
    return f"git read-tree HEAD; git read-tree --prefix=again/ HEAD; echo {c.text()} >>{c.file()}"


@kind
def index_removed(c):
    return f"rm -f .git/index; echo {c.text()} >>{c.file()}"


@kind
def index_corrupt(c):
    return f"printf garbage | dd of=.git/index bs=1 seek={c.pick(0, 4, 40)} conv=notrunc; echo {c.text()} >>{c.file()}; echo {c.text()} >corrupt-{c.text()}"


@kind
def index_cut_off(c):
    return f"truncate -s {c.pick(0, 5, 100)} .git/index; echo {c.text()} >>{c.file()}"


@kind
def index_locked(c):
    return f": >.git/index.lock; echo {c.text()} >>{c.file()}; echo {c.text()} >locked-{c.text()}"


@kind
def index_is_a_directory(c):
    return f"rm -f .git/index; mkdir .git/index; echo {c.text()} >>{c.file()}"


@kind
def index_with_a_made_up_entry(c):
    return f"git update-index --add --cacheinfo 100644,$(git hash-object -w README.md),made/up; echo {c.text()} >>{c.file()}"


@kind
def index_with_a_missing_object(c):
    return f"git update-index --add --cacheinfo 100644,{'1' * 40},missing-object; echo {c.text()} >>{c.file()}"


@kind
def index_version_4(c):
    return f"git update-index --index-version 4; echo {c.text()} >>{c.file()}"


@kind
def split_index(c):
    return f"git update-index --split-index; echo {c.text()} >>{c.file()}; git add -A; rm -f .git/sharedindex.*; echo {c.text()} >>{c.file()}"


@kind
def sparse_index(c):
    return f"git sparse-checkout set --cone --sparse-index src; echo {c.text()} >>{c.file()}; mkdir -p doc; echo {c.text()} >doc/outside"


@kind
def sparse_checkout(c):
    return f"git sparse-checkout set {c.pick('--cone src', '--no-cone /src/', '--cone doc', '--cone nothing')}; echo {c.text()} >>{c.file()}; mkdir -p data; echo {c.text()} >data/new"


@kind
def sparse_checkout_undone(c):
    return f"git sparse-checkout set --cone src; git sparse-checkout disable; echo {c.text()} >>{c.file()}"


@kind
def garbage_collected(c):
    return f"echo {c.text()} >>{c.file()}; git commit -qam x; git reflog expire --expire=now --all; git gc -q --prune=now"


@kind(2)
def prepared_ref_removed(c):
    return f"git update-ref -d refs/banger/prepared; rm -rf .git/refs/banger; git reflog expire --expire=now --all; git gc -q --prune=now; echo {c.text()} >>{c.file()}"


@kind
def prepared_ref_moved(c):
    return f"echo {c.text()} >>{c.file()}; git commit -qam x; git update-ref refs/banger/prepared HEAD"


@kind
def refs_removed(c):
    return f"rm -rf .git/refs .git/packed-refs; echo {c.text()} >>{c.file()}"


@kind
def refs_packed(c):
    return f"git pack-refs --all --prune; echo {c.text()} >>{c.file()}; git commit -qam packed"


@kind
def refs_to_reftable(c):
    return f"git config core.logAllRefUpdates false; rm -rf .git/logs; git refs migrate --ref-format=reftable; echo {c.text()} >>{c.file()}; git commit -qam reftable"


@kind
def ref_broken(c):
    return f"mkdir -p .git/refs/heads .git/refs/banger; echo garbage >.git/refs/heads/main; echo garbage >.git/refs/banger/prepared; echo {c.text()} >>{c.file()}"


@kind
def branches_deleted(c):
    return f"git checkout -q --detach; git for-each-ref --format='delete %(refname)' | git update-ref --stdin; echo {c.text()} >>{c.file()}"


@kind
def head_broken(c):
    return f"{c.pick('echo garbage >.git/HEAD', ': >.git/HEAD', 'rm -f .git/HEAD', 'echo ref: refs/heads/nowhere >.git/HEAD', 'rm -f .git/HEAD; ln -s refs/heads/main .git/HEAD', 'mv .git/HEAD .git/HEAD2')}; echo {c.text()} >>{c.file()}; echo {c.text()} >head-{c.text()}"


@kind
def objects_removed(c):
    return f"{c.pick('rm -rf .git/objects', 'rm -f .git/objects/pack/*', 'rm -rf .git/objects/??', 'rm -rf .git/objects/*')}; echo {c.text()} >>{c.file()}; echo {c.text()} >obj-{c.text()}"


@kind
def objects_corrupt(c):
    return f"find .git/objects -type f | while read -r f; do chmod u+w \"$f\"; printf XXXX | dd of=\"$f\" bs=1 seek=20 conv=notrunc; done; echo {c.text()} >>{c.file()}"


@kind
def objects_forged(c):
    """git replace shows another object for one; grafts are as old."""
    return f"git replace HEAD $(git commit-tree -m forged 'HEAD^{{tree}}'); git replace -f $(git rev-parse HEAD:README.md) $(echo forged | git hash-object -w --stdin); mkdir -p .git/info; git rev-parse HEAD >.git/info/grafts; echo {c.text()} >>{c.file()}"


@kind
def prepared_replaced(c):
    return f"echo {c.text()} >>{c.file()}; git add -A; t=$(git write-tree); git replace refs/banger/prepared $(git commit-tree -m forged $t)"


@kind
def objects_elsewhere(c):
    return f"mv .git/objects /root/objs-$$; mkdir .git/objects; mkdir -p .git/objects/info; echo /root/objs-$$ >.git/objects/info/alternates; echo {c.text()} >>{c.file()}"


@kind
def commit_graph(c):
    return f"git commit-graph write --reachable; git multi-pack-index write; git repack -adq --write-bitmap-index; echo {c.text()} >>{c.file()}"


@kind
def hooks(c):
    return f"mkdir -p .git/hooks; for h in pre-commit post-index-change post-checkout reference-transaction fsmonitor-watchman; do printf '#!/bin/sh\\necho $0 >>/root/repo/by-a-hook; exit 1\\n' >.git/hooks/$h; chmod +x .git/hooks/$h; done; echo {c.text()} >>{c.file()}; git commit -qam hooked"


@kind
def shallow_made(c):
    return f"git rev-parse HEAD >.git/shallow; echo {c.text()} >>{c.file()}; git commit -qam shallow"


@kind
def patch_applied(c):
    f = c.file()
    return f"cp {f} /tmp/was; echo {c.text()} >>{f}; git diff >/tmp/d; cp /tmp/was {f}; git apply --index /tmp/d; git apply --cached /tmp/d"


@kind(2)
def git_removed(c):
    return f"rm -rf .git; echo {c.text()} >>{c.file()}; echo {c.text()} >nogit-{c.text()}"


@kind
def git_renamed(c):
    return f"mv .git {c.pick('git-kept', '.git2', '/root/dotgit', 'old.git')}; echo {c.text()} >>{c.file()}"


@kind
def git_made_anew(c):
    return f"rm -rf .git; git init -q; echo {c.text()} >>{c.file()}; {c.pick(':', 'git add -A', 'git add -A; git commit -qm anew')}; echo {c.text()} >>{c.file()}"


@kind
def git_made_anew_with_sha256(c):
    return f"rm -rf .git; git init -q --object-format=sha256; echo {c.text()} >>{c.file()}; git add -A; git commit -qm anew"


@kind
def git_init_again(c):
    return f"git init -q --shared; git init -q --separate-git-dir /root/sep-$$; echo {c.text()} >>{c.file()}"


@kind
def git_is_a_file(c):
    return f"rm -rf .git; {c.pick('echo gitdir: /nonexistent >.git', 'echo gitdir: ../elsewhere >.git', ': >.git', 'echo garbage >.git')}; echo {c.text()} >>{c.file()}"


@kind
def git_is_a_link(c):
    return f"mv .git /root/linked-git-$$; ln -s /root/linked-git-$$ .git; echo {c.text()} >>{c.file()}"


@kind(late=FIFOS)
def git_is_a_fifo(c):
    return f"rm -rf .git; mkfifo .git; echo {c.text()} >plain-{c.text()}"


@kind
def git_is_empty(c):
    return f"rm -rf .git; mkdir .git; echo {c.text()} >>{c.file()}"


@kind
def git_of_another_checkout(c):
    return f"git clone -q . /tmp/other-$$; rm -rf .git; mv /tmp/other-$$/.git .git; echo {c.text()} >>{c.file()}"


@kind
def git_cannot_be_read(c):
    return f"chmod -R 000 .git; echo {c.text()} >>{c.file()}"


@kind
def git_read_only(c):
    return f"chmod -R a-w .git; echo {c.text()} >>{c.file()}"


@kind
def git_grows_odd_things(c):
    return f"mkfifo .git/fifo; ln -s / .git/root; echo {c.text()} >>{c.file()}"


@kind
def checkout_moved_away_and_back(c):
    return f"cd /root && mv \"$W\" /root/aside-$$ && cp -a /root/aside-$$ \"$W\"; cd \"$W\" && echo {c.text()} >>{c.file()}"


@kind
def checkout_cloned_over(c):
    return f"git clone -q . /tmp/clone-$$; cp -a /tmp/clone-$$/. .; echo {c.text()} >>{c.file()}"
