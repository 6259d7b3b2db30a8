"""Settings of the guest's git that change what it sees, or how it shows it, and flags of its index."""

from . import kind

SCOPES = ("", "--global", "--system")


def setting(c, *lines):
    """One of the settings, in one of the scopes, then an edit and a new file."""
    return f"git config {c.pick(*SCOPES)} {c.pick(*lines)}; echo {c.text()} >>{c.file()}; echo {c.text()} >set-{c.text()}"


@kind
def setting_bare(c):
    return setting(c, "core.bare true")


@kind
def setting_worktree(c):
    return setting(c, "core.worktree /nonexistent", "core.worktree /tmp", "core.worktree ../src", "core.worktree /root")


@kind
def setting_file_mode(c):
    return f"git config {c.pick(*SCOPES)} core.fileMode false; chmod +x {c.file()}; chmod -x {c.file()}; f={c.new()}; mk \"$f\"; echo x >\"$f\"; chmod +x \"$f\""


@kind
def setting_symlinks(c):
    return f"git config {c.pick(*SCOPES)} core.symlinks false; ln -s target newlink-{c.text()}; f={c.file()}; rm -f \"$f\"; ln -s x \"$f\"; l={c.link()}; rm -f \"$l\"; printf x >\"$l\""


@kind
def setting_ignore_case(c):
    return f"git config {c.pick(*SCOPES)} core.ignoreCase true; for f in same SAME Same; do echo $f {c.text()} >$f; done; git add -A; mkdir -p SRC; echo {c.text()} >SRC/a.c"


@kind
def setting_precompose(c):
    return f"git config core.precomposeUnicode true; echo {c.text()} >\"$(printf 'e\\314\\201')\"; echo {c.text()} >\"$(printf '\\303\\251')\""


@kind
def setting_protect(c):
    return setting(c, "core.protectHFS true", "core.protectNTFS true", "core.protectNTFS false")


@kind(2)
def setting_stat(c):
    f = c.words()
    return (f"git config {c.pick('core.checkStat minimal', 'core.trustctime false', 'core.checkStat default')}; git status >/dev/null; "
            f"touch -r {f} /tmp/ref; tr a-y b-z <{f} >/tmp/new; cat /tmp/new >{f}; touch -r /tmp/ref {f}")


@kind
def setting_index(c):
    return setting(c, "core.untrackedCache true", "core.splitIndex true", "core.preloadIndex false", "index.version 4", "index.sparse true", "index.threads 7",
                   "index.skipHash true", "feature.manyFiles true", "core.multiPackIndex false")


@kind
def setting_fsmonitor(c):
    return (f"printf '#!/bin/sh\\nprintf \"token\\\\0\"\\n' >.git/hooks-fs; chmod +x .git/hooks-fs; git config core.fsmonitor \"$PWD/.git/hooks-fs\"; git config core.fsmonitorHookVersion 2; "
            f"git update-index --fsmonitor; git status >/dev/null; echo {c.text()} >>{c.file()}; echo {c.text()} >mon-{c.text()}")


@kind
def setting_untracked_cache(c):
    return f"git config core.untrackedCache true; git update-index --force-untracked-cache; git status >/dev/null; f={c.new()}; mk \"$f\"; echo {c.text()} >\"$f\""


@kind(2)
def setting_diff(c):
    return setting(c, "diff.noprefix true", "diff.mnemonicPrefix true", "diff.external false", "diff.external true", "diff.renames copies", "diff.renames false",
                   "diff.algorithm patience", "diff.context 0", "diff.interHunkContext 20", "diff.ignoreSubmodules all", "diff.suppressBlankEmpty true",
                   "diff.wsErrorHighlight all", "diff.submodule log", "diff.relative true", "diff.srcPrefix x/", "diff.orderFile /nonexistent", "diff.wordRegex x",
                   "diff.renameLimit 1", "diff.statGraphWidth 1", "diff.colorMoved zebra", "diff.dirstat lines", "diff.noIndex true")


@kind
def setting_words(c):
    return setting(c, "color.ui always", "core.quotePath false", "core.abbrev 4", "core.pager false", "core.whitespace error", "apply.whitespace fix", "apply.ignoreWhitespace change",
                   "status.showUntrackedFiles no", "status.relativePaths false", "status.short true", "advice.statusHints false", "column.ui always", "log.showSignature true")


@kind
def setting_sizes(c):
    return setting(c, "core.bigFileThreshold 1", "core.compression 0", "core.compression 9", "core.looseCompression 9", "pack.packSizeLimit 1k", "core.packedGitLimit 1k",
                   "core.deltaBaseCacheLimit 1", "pack.threads 1", "core.sharedRepository 0660", "core.fsync all", "core.createObject rename")


@kind
def setting_of_a_program(c):
    return setting(c, "core.hooksPath /nonexistent", "core.sshCommand false", "alias.add false", "alias.diff-index true", "alias.ls-files true", "core.alternateRefsCommand false",
                   "core.editor false", "credential.helper x", "core.askPass false", "gpg.program false", "commit.gpgSign true", "maintenance.auto true", "gc.auto 1", "core.gitProxy x")


@kind
def setting_format_version(c):
    return setting(c, "core.repositoryFormatVersion 9", "extensions.noSuch true", "extensions.worktreeConfig true", "extensions.objectFormat sha256", "core.repositoryFormatVersion x", "extensions.refStorage files")


@kind
def setting_submodule(c):
    return setting(c, "submodule.recurse true", "submodule.active nothing", "submodule.the-sub.ignore all", "submodule.the-sub.update none", "submodule.the-sub.active false", "status.submoduleSummary true", "fetch.recurseSubmodules true")


@kind
def setting_sparse(c):
    return f"mkdir -p .git/info; printf '/src/\\n' >.git/info/sparse-checkout; git config core.sparseCheckout true; git read-tree -mu HEAD; echo {c.text()} >outside-{c.text()}; mkdir -p doc; echo {c.text()} >doc/new"


@kind
def setting_include(c):
    return f"printf '[core]\\n\\tautocrlf = input\\n\\texcludesFile = /root/all\\n' >/root/inc; printf '*\\n' >/root/all; git config {c.pick(*SCOPES)} include.path /root/inc; printf 'x {c.text()}\\r\\n' >inc-{c.text()}"


@kind
def config_broken(c):
    return f"{c.pick('printf [core >>.git/config', 'printf [core >>/root/.gitconfig', 'printf [core >>/etc/gitconfig')}; echo {c.text()} >>{c.file()}; echo {c.text()} >cfg-{c.text()}"


@kind
def config_removed(c):
    return f"rm -f .git/config; echo {c.text()} >>{c.file()}; printf 'r\\r\\n' >cfgr-{c.text()}"


@kind
def config_is_a_directory(c):
    return f"rm -f .git/config; mkdir .git/config; echo {c.text()} >>{c.file()}"


@kind
def config_locked(c):
    return f": >.git/config.lock; : >/root/.gitconfig.lock; echo {c.text()} >>{c.file()}"


@kind
def flag_assume_unchanged(c):
    f = c.file()
    return f"git update-index --assume-unchanged {f} {c.file()}; echo {c.text()} >>{f}"


@kind
def flag_assume_unchanged_and_removed(c):
    f = c.file()
    return f"git update-index --assume-unchanged {f}; rm -f {f}"


@kind
def flag_skip_worktree(c):
    f = c.file()
    return f"git update-index --skip-worktree {f}; echo {c.text()} >>{f}"


@kind
def flag_skip_worktree_and_removed(c):
    f = c.file()
    return f"git update-index --skip-worktree {f}; rm -f {f}"


@kind
def flag_everything(c):
    return f"git ls-files -z | git update-index -z --{c.pick('assume-unchanged', 'skip-worktree')} --stdin; echo {c.text()} >>{c.file()}; rm -f {c.file()}; chmod +x {c.file()}"


@kind
def flag_fsmonitor_valid(c):
    return f"git update-index --fsmonitor; git ls-files -z | git update-index -z --fsmonitor-valid --stdin; echo {c.text()} >>{c.file()}"


@kind
def flag_intent_to_add(c):
    return f"f={c.new()}; mk \"$f\"; echo {c.text()} >\"$f\"; git add -N -- \"$f\"; : >empty-{c.text()}; git add -N empty-*"


@kind
def flag_chmod_in_the_index(c):
    return f"git update-index --chmod=+x {c.file()}; git update-index --chmod=-x {c.file()}"


@kind
def index_refreshed(c):
    f = c.file()
    return f"echo {c.text()} >>{f}; git update-index --really-refresh; git update-index {f}; echo {c.text()} >>{f}"
