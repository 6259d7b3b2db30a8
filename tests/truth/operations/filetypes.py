"""Files that become something else: links, directories, and what no patch holds."""

from . import FIFOS, kind


@kind
def new_link(c):
    return f"f={c.new()}; mk \"$f\"; ln -s target-{c.text()} \"$f\""


@kind
def link_to_a_directory(c):
    return f"ln -s {c.folder()} dirlink-{c.text()}; ln -s .. src/up; ln -s . here"


@kind
def link_loop(c):
    return f"ln -s loop-a loop-b; ln -s loop-b loop-a; ln -s me me; mkdir -p round; ln -s ../round round/again"


@kind
def link_out_of_the_checkout(c):
    return "ln -s /etc/passwd passwd; ln -s ../../../etc etc; ln -s / root"


@kind
def link_into_the_repository(c):
    return "ln -s .git/config cfg; ln -s .git gitdir"


@kind
def link_with_an_odd_target(c):
    return f"ln -s 'new\nline' oddlink-{c.text()}; ln -s \"$(printf '\\377\\001')\" bytelink; ln -s ' ' blanklink; ln -s \"$(printf 'cr\\r')\" crlink"


@kind
def link_with_a_long_target(c):
    return f"ln -s {'t' * c.pick(4000, 4095, 1023)} longlink"


@kind
def link_changed(c):
    return f"l={c.link()}; [ ! -L \"$l\" ] || ln -snf elsewhere-{c.text()} \"$l\""


@kind
def link_changed_same_size_time_back(c):
    return ("l=" + c.link() + "; [ -L \"$l\" ] || ln -s abcd \"$l\"; t=$(readlink \"$l\"); touch -h -r \"$l\" /tmp/ref; "
            "rm \"$l\"; ln -s \"$(printf '%s' \"$t\" | tr a-y b-z)\" \"$l\"; touch -h -r /tmp/ref \"$l\"")


@kind
def file_to_link(c):
    return f"f={c.file()}; rm -f \"$f\"; ln -s target-{c.text()} \"$f\""


@kind
def file_to_link_to_itself_elsewhere(c):
    f = c.file()
    return f"mv {f} /root/kept-$$ && ln -s /root/kept-$$ {f}"


@kind
def link_to_file(c):
    return f"l={c.link()}; rm -f \"$l\"; echo {c.text()} >\"$l\""


@kind
def link_to_file_of_the_same_bytes(c):
    return f"l={c.link()}; t=$(readlink \"$l\") && rm \"$l\" && printf '%s' \"$t\" >\"$l\""


@kind
def file_to_link_of_the_same_bytes(c):
    return f"f={c.file()}; printf name >\"$f\"; git add -A; git commit -qm x; rm \"$f\"; ln -s name \"$f\""


@kind
def file_to_directory(c):
    return f"f={c.file()}; rm -f \"$f\"; mkdir \"$f\" && echo {c.text()} >\"$f/inner\""


@kind
def file_to_directory_with_itself(c):
    return f"f={c.file()}; mv \"$f\" /tmp/itself && mkdir \"$f\" && mv /tmp/itself \"$f/itself\""


@kind
def file_to_empty_directory(c):
    return f"f={c.file()}; rm -f \"$f\"; mkdir \"$f\""


@kind
def directory_to_file(c):
    return f"d={c.folder()}; rm -rf \"$d\"; echo {c.text()} >\"$d\""


@kind
def directory_to_link(c):
    return f"d={c.folder()}; rm -rf \"$d\"; ln -s nowhere \"$d\""


@kind
def directory_to_link_to_itself_moved(c):
    """What lies behind the link is the same, but no longer there."""
    return f"d={c.folder()}; mv \"$d\" aside-{c.text()} && ln -s \"$W\"/aside-* \"$d\""


@kind
def directory_to_link_outside(c):
    return f"d={c.folder()}; mv \"$d\" /root/outside-$$ && ln -s /root/outside-$$ \"$d\""


@kind
def link_to_directory(c):
    return f"l={c.link()}; rm -f \"$l\"; mkdir \"$l\" && echo {c.text()} >\"$l/f\""


@kind(late=FIFOS)
def new_fifo(c):
    return f"f={c.new()}; mk \"$f\"; mkfifo \"$f\""


@kind(late=FIFOS)
def file_to_fifo(c):
    return f"f={c.file()}; rm -f \"$f\" && mkfifo \"$f\"; echo {c.text()} >beside-{c.text()}"


@kind(late=FIFOS)
def directory_to_fifo(c):
    return f"d={c.folder()}; rm -rf \"$d\" && mkfifo \"$d\""


@kind(late=FIFOS)
def link_to_fifo(c):
    return f"l={c.link()}; rm -f \"$l\" && mkfifo \"$l\""


@kind(late=1)
def new_socket(c):
    return f"perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un($ARGV[0]))' sock-{c.text()}"


@kind(late=1)
def file_to_socket(c):
    return f"f={c.file()}; rm -f \"$f\" && cd \"${{f%/*}}\" && perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un($ARGV[0]))' \"${{f##*/}}\""


@kind(late=1)
def new_device(c):
    return f"mknod null-{c.text()} c 1 3; mknod disk-{c.text()} b 7 200"


@kind(late=1)
def file_to_device(c):
    return f"f={c.file()}; rm -f \"$f\" && mknod \"$f\" c 1 5"


@kind(late=FIFOS)
def directory_of_special_files(c):
    return "mkdir -p special/er && mkfifo special/er/one special/two"


@kind(late=1)
def whiteout(c):
    """What overlayfs keeps for a file that is gone."""
    return f"f={c.file()}; rm -f \"$f\" && mknod \"$f\" c 0 0"


@kind(0.5)
def mount_on_a_directory(c):
    """Another file system within the checkout."""
    return f"mkdir -p mounted && mount -t tmpfs -o size=1m guest mounted && echo {c.text()} >mounted/f"


@kind(0.5)
def mount_on_a_file(c):
    return f"echo {c.text()} >/tmp/over; mount --bind /tmp/over {c.file()}"
