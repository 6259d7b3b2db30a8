"""Names: odd ones, long ones, renames and what some file system takes for another."""

import names
import shell

from . import kind


@kind(2)
def odd_name(c):
    return "\n".join(f"f={shell.path(c.name())}; mk \"$f\"; echo {c.text()} >\"$f\"" for _ in range(3))


@kind
def every_odd_name(c):
    return "mkdir -p odd && cd odd\n" + "\n".join(f"f={shell.path(name)}; mk \"$f\"; echo x >\"$f\"" for name in names.ODD)


@kind
def every_byte(c):
    lines = (f"echo x >{shell.path(bytes([byte]))}" for byte in range(1, 256) if byte not in b"/.")
    return "mkdir -p bytes && cd bytes\n" + "\n".join(lines)


@kind
def odd_directory(c):
    return f"d={shell.path(c.rng.choice(names.ODD))}; mkdir -p \"$d\"; echo {c.text()} >\"$d/inner\"; ln -s inner \"$d/link\""


@kind
def name_twins(c):
    one, other = c.rng.choice(names.TWINS)
    return f"for f in {shell.path(one)} {shell.path(other)}; do mk \"$f\"; echo \"$f\" {c.text()} >\"$f\"; done"


@kind(0.6)
def name_like_git(c):
    name = c.rng.choice(names.LIKE_GIT)
    return f"d={shell.path(name)}; mkdir -p \"$d\"; echo {c.text()} >\"$d/config\"; echo beside >beside-{c.text()}"


@kind(0.6)
def name_like_git_below(c):
    name = c.rng.choice(names.LIKE_GIT)
    return f"mkdir -p src; echo {c.text()} >src/{shell.quote(name)}; echo beside >src/beside"


@kind
def rename(c):
    return f"n={c.new()}; mk \"$n\"; mv -T {c.file()} \"$n\""


@kind
def rename_and_edit(c):
    return f"n={c.new()}; mk \"$n\"; mv -T {c.file()} \"$n\" && echo {c.text()} >>\"$n\""


@kind
def rename_over(c):
    one, other = c.two()
    return f"mv -T {one} {other}"


@kind
def rename_swap(c):
    one, other = c.two()
    return f"mv {one} /tmp/swap && mv {other} {one}; mv /tmp/swap {other}"


@kind
def rename_directory(c):
    return f"mv -T {c.folder()} moved-{c.text()}"


@kind
def rename_into_itself(c):
    d = c.folder()
    return f"mv {d} /tmp/aside && mkdir -p {d} && mv /tmp/aside {d}/inner"


@kind
def rename_case(c):
    f = c.rng.choice(c.files)
    folder, slash, base = f.rpartition(b"/")
    return f"mv -T {shell.path(f)} {shell.path(folder + slash + base.swapcase())}"


@kind
def rename_case_of_a_directory(c):
    return f"d={c.folder()}; n=$(printf '%s' \"${{d##*/}}\" | tr a-zA-Z A-Za-z); mv -T \"$d\" \"${{d%/*}}/$n\""


@kind
def rename_with_git(c):
    return f"n={c.new()}; mk \"$n\"; git mv -f {c.file()} \"$n\""


@kind
def copies(c):
    f = c.file()
    return f"cp {f} copy-{c.text()}; cp -p {f} copy-{c.text()}; echo {c.text()} >>{f}"


@kind
def copy_a_directory(c):
    return f"cp -a {c.folder()} copied-{c.text()}"


@kind
def name_of_255_bytes(c):
    return f"echo {c.text()} >{shell.path(bytes([c.rng.choice(b'xyz')]) * 255)}"


@kind
def path_near_the_limit(c):
    return f"f={shell.path(names.deep(c.pick(4090, 4093)))}; mk \"$f\"; echo {c.text()} >\"$f\"; echo beside >beside"


@kind
def path_beyond_the_limit(c):
    return f"d={'p' * 250}; i=0; while [ $i -lt {c.pick(16, 17, 20)} ]; do mkdir -p $d && cd -P $d || break; i=$((i+1)); done; echo {c.text()} >far-{'q' * 200}; cd \"$W\"; echo beside >beside-{c.text()}"


@kind(0.5)
def very_deep_path(c):
    return f"i=0; while [ $i -lt {c.pick(300, 1500)} ]; do mkdir -p l && cd -P l || break; i=$((i+1)); done; echo {c.text()} >f"
