"""Files that change, come and go while the patch is taken."""

from . import VOLATILE, kind

BUSY = VOLATILE.decode()


def behind(script):
    """Runs in the background until the guest ends, at most some minutes."""
    return f"( i=0; while [ $i -lt 100000 ] && [ ! -e /tmp/oracle-stop ]; do i=$((i+1)); {script}; done ) </dev/null >/dev/null 2>&1 & sleep 0.05"


@kind(0.7, late=3)
def race_temporary_files(c):
    return f"mkdir -p '{BUSY}'; echo {c.text()} >>{c.file()}; echo {c.text()} >beside-{c.text()}; " + behind(
        f"for n in 1 2 3 4 5; do echo x >'{BUSY}/t'$n; mv '{BUSY}/t'$n '{BUSY}/u'$n; done; rm -f '{BUSY}'/u*")


@kind(0.7, late=3)
def race_file_written(c):
    return f"echo {c.text()} >>{c.file()}; " + behind(f"echo line $i >>'{BUSY}.log'; [ $((i % 500)) != 0 ] || : >'{BUSY}.log'")


@kind(0.7, late=3)
def race_tracked_file_written(c):
    index = c.rng.randrange(len(c.files))
    c.changes(c.files[index])
    import shell
    return f"echo {c.text()} >beside-{c.text()}; " + behind(f"echo line $i >{shell.path(c.files[index])}")


@kind(0.7, late=3)
def race_directories(c):
    return f"mkdir -p '{BUSY}.d'; echo {c.text()} >>{c.file()}; " + behind(f"mkdir -p '{BUSY}.d/a/b/c'; echo x >'{BUSY}.d/a/b/c/f'; rm -rf '{BUSY}.d/a'")


@kind(0.7, late=3)
def race_file_types(c):
    return f"echo {c.text()} >>{c.file()}; " + behind(f"rm -rf '{BUSY}.t'; mkdir '{BUSY}.t'; rmdir '{BUSY}.t'; ln -s / '{BUSY}.t'; rm '{BUSY}.t'; echo x >'{BUSY}.t'")


@kind(0.6, late=3)
def race_git(c):
    return f"echo {c.text()} >>{c.file()}; " + behind("git add -A; git commit -q --allow-empty -m x; git gc -q --auto")


@kind(0.6, late=3)
def race_big_file(c):
    return f"echo {c.text()} >>{c.file()}; " + behind(f"head -c 1000000 /dev/zero >>'{BUSY}.big'; [ $((i % 3)) != 0 ] || : >'{BUSY}.big'")
