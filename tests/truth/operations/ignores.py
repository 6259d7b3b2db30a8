"""What may be ignored, and what must not be: only .gitignore files as they stand and the rules that were sent count."""

from . import FIFOS, kind


def _add(path, text):
    return f"printf '{text}\\n' >>{path}"


@kind
def ignore_new_files(c):
    return f"{_add('.gitignore', '*.new')}; echo {c.text()} >x.new; echo {c.text()} >x.old"


@kind
def ignore_tracked_files(c):
    return f"{_add('.gitignore', '*')}; echo {c.text()} >>{c.file()}"


@kind
def ignore_a_tracked_directory(c):
    return f"{_add('.gitignore', '/src/')}; echo {c.text()} >>src/a.c; echo {c.text()} >src/new.c; echo {c.text()} >>{c.file()}"


@kind
def ignore_in_a_directory(c):
    return f"d={c.folder()}; printf '*\\n' >\"$d/.gitignore\"; echo {c.text()} >\"$d/new\"; echo {c.text()} >beside-{c.text()}"


@kind
def ignore_itself(c):
    return f"mkdir -p cache; printf '*\\n' >cache/.gitignore; echo {c.text()} >cache/f; echo beside >beside"


@kind
def ignore_negated(c):
    return f"printf '*.log\\n!keep.log\\nlogs/\\n!logs/keep.log\\n/top*\\n!/topmost\\n' >>.gitignore; mkdir -p logs; for f in a.log keep.log logs/keep.log logs/x topx topmost; do echo {c.text()} >$f; done"


@kind
def ignore_and_unignore_below(c):
    return f"printf 'gen/*\\n!gen/keep/\\n' >>.gitignore; mkdir -p gen/keep gen/not; echo {c.text()} >gen/keep/f; echo x >gen/not/f; echo x >gen/f; printf '!*\\n' >gen/.gitignore"


@kind
def ignore_removed(c):
    return f"rm -f .gitignore src/.gitignore; echo {c.text()} >n.o; mkdir -p build; echo {c.text()} >build/new"


@kind
def ignore_emptied(c):
    return ": >.gitignore; echo x >x2.o"


@kind
def ignore_removed_from_the_index_alone(c):
    return f"git rm -q --cached .gitignore; echo {c.text()} >y.o; git commit -qm untracked-ignore"


@kind
def ignore_with_odd_patterns(c):
    return ("printf '\\\\#hash\\n\\\\!bang\\ntrailing\\\\ \\nspace  \\n[a-\\n**/deep/**\\n/a/**/b\\nq?\\n*.[ch]x\\n\\xff\\n' >>.gitignore; "
            f"mkdir -p a2/deep x/deep; for f in 'space' 'trailing ' '!bang' qq n.cx x/deep/f a2/f; do echo {c.text()} >\"$f\"; done")


@kind
def ignore_with_carriage_returns(c):
    return f"printf '*.crig\\r\\nother\\r\\n' >>.gitignore; echo {c.text()} >x.crig; echo {c.text()} >other"


@kind
def ignore_with_byte_order_mark(c):
    return f"mkdir -p bom; printf '\\357\\273\\277*.bom\\n' >bom/.gitignore; echo {c.text()} >bom/x.bom"


@kind
def ignore_file_is_a_link(c):
    return f"printf '*\\n' >/root/all; mkdir -p lnk; ln -s /root/all lnk/.gitignore; echo {c.text()} >lnk/f"


@kind
def ignore_file_is_a_directory(c):
    return f"mkdir -p dirig/.gitignore; echo {c.text()} >dirig/f; echo {c.text()} >dirig/.gitignore/g"


@kind(late=FIFOS)
def ignore_file_is_a_fifo(c):
    return f"mkdir -p fifoig; echo {c.text()} >fifoig/f; mkfifo fifoig/.gitignore"


@kind
def ignore_file_cannot_be_read(c):
    return f"mkdir -p unread; printf '*.x\\n' >unread/.gitignore; chmod 000 unread/.gitignore; echo {c.text()} >unread/f; echo {c.text()} >unread/f.x"


@kind(2)
def exclude_everything(c):
    return f"mkdir -p .git/info; printf '*\\n' >>.git/info/exclude; echo {c.text()} >unseen-{c.text()}; echo {c.text()} >>{c.file()}"


@kind
def exclude_negated(c):
    """The rules that were sent still count."""
    return f"mkdir -p .git/info; printf '!*\\n' >>.git/info/exclude; echo {c.text()} >y.private; echo {c.text()} >y.mine; echo {c.text()} >y.o"


@kind
def exclude_removed(c):
    return f"rm -f .git/info/exclude; echo {c.text()} >z.private; echo {c.text()} >z.mine; mkdir -p secret; echo {c.text()} >secret/new"


@kind(2)
def excludes_file_of_the_guest(c):
    where = c.pick("", "--global", "--system")
    return f"printf '*\\n' >/root/everything; git config {where} core.excludesFile /root/everything; echo {c.text()} >hidden-{c.text()}"


@kind
def excludes_file_in_the_checkout(c):
    return f"printf '*\\n' >myignore; git config core.excludesFile myignore; echo {c.text()} >hidden2-{c.text()}"


@kind
def ignore_file_of_the_home(c):
    return f"mkdir -p /root/.config/git; printf '*\\n' >/root/.config/git/ignore; echo {c.text()} >hidden3-{c.text()}"


@kind
def ignore_case(c):
    return f"git config core.ignoreCase true; printf '*.UPPER\\n' >>.gitignore; echo {c.text()} >seen.upper; echo {c.text()} >not.UPPER"


@kind
def ignored_but_added(c):
    return f"printf '*.forced\\n' >>.gitignore; echo {c.text()} >new.forced; git add -f new.forced; git commit -qm forced; echo {c.text()} >>new.forced"


@kind
def tracked_and_ignored_changed(c):
    return f"echo {c.text()} >>forced.o; printf '*.o\\n' >>.gitignore; git add -A; git commit -qm x; echo {c.text()} >>forced.o"


@kind
def tracked_in_an_ignored_directory(c):
    f = c.rng.choice(c.files).split(b"/")[0].decode("ascii", "ignore") or "src"
    return f"printf '%s\\n' '/{f}' '/{f}/' >>.gitignore; find './{f}' -type f -exec sh -c 'for f; do echo x >>\"$f\"; done' sh {{}} +; rm -f .git/index"


@kind
def ignored_directory_becomes_file(c):
    return f"printf 'out/\\n' >>.gitignore; mkdir -p out; echo x >out/x; mkdir -p o2; echo {c.text()} >o2/out"


@kind(2)
def ignore_random_patterns(c):
    """git's own matching decides what these mean, however they are read elsewhere."""
    parts = ["a", "b", "ab", "*", "?", "**", "[ab]", "[!a]", "a*", "*b", "a**b", "\\\\*", "[a-", "\\\\", " ", ".", "..", "[[:alpha:]]", "[]a]", "A", "a ", "#a", "!a", "\\\\ ", "\\303\\251"]

    def pattern():
        text = "/".join(c.pick(*parts) + (c.pick(*parts) if c.rng.random() < 0.3 else "") for _ in range(c.pick(1, 1, 2, 3)))
        return c.pick("", "", "", "!", "/", "!/", "**/") + text + c.pick("", "", "/", "/**", "/*", "  ", "\\t", "\\r")

    lines = "".join(pattern() + "\\n" for _ in range(c.pick(2, 4, 8)))
    below = "".join(pattern() + "\\n" for _ in range(2))
    return (f"mkdir -p ig && cd ig && printf '{lines}' >.gitignore; for d in a b ab . a/b b/a; do mkdir -p \"$d\"; for f in aa b ab A c '#a' '!a' 'a ' ' ' '\\' '*' '[a-'; do echo {c.text()} >\"$d/x$f\"; echo x >\"$d/$f\"; done; done; "
            f"printf '{below}' >a/.gitignore; mkdir -p a/b/ab/a; echo {c.text()} >a/b/ab/a/b")
