"""What stands around the checkout: variables, programs, profiles, disks, the clock."""

from . import kind

# Where a guest keeps what its sessions begin with.
PROFILES = "/root/.bashrc /root/.profile /root/.bash_profile /etc/profile.d/oracle.sh /etc/bash.bashrc"


def variable(c, *lines):
    """Sets one of the variables in every session that follows."""
    line = c.pick(*lines)
    return (f"mkdir -p /root/.ssh /etc/profile.d; printf '%s\\n' '{line}' >>/root/.ssh/environment; printf '%s\\n' '{line}' >>/etc/environment; "
            f"for f in {PROFILES}; do printf 'export %s\\n' '{line}' >>$f; done; echo {c.text()} >>{c.file()}; echo {c.text()} >var-{c.text()}")


@kind(2)
def variable_of_git(c):
    return variable(c, "GIT_DIR=/nonexistent", "GIT_WORK_TREE=/tmp", "GIT_INDEX_FILE=/tmp/no-index", "GIT_OBJECT_DIRECTORY=/tmp/objects", "GIT_CEILING_DIRECTORIES=/root",
                    "GIT_ALTERNATE_OBJECT_DIRECTORIES=/tmp", "GIT_NAMESPACE=x", "GIT_PREFIX=src/", "GIT_COMMON_DIR=/tmp", "GIT_DISCOVERY_ACROSS_FILESYSTEM=0", "GIT_DEFAULT_HASH=sha256",
                    "GIT_SHALLOW_FILE=/dev/null", "GIT_NO_REPLACE_OBJECTS=1", "GIT_REPLACE_REF_BASE=refs/x/", "GIT_ATTR_SOURCE=HEAD", "GIT_IMPLICIT_WORK_TREE=0")


@kind
def variable_of_the_configuration(c):
    return (f"for v in GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=core.autocrlf GIT_CONFIG_VALUE_0=input GIT_CONFIG_KEY_1=core.excludesFile GIT_CONFIG_VALUE_1=/root/all; do "
            f"printf '%s\\n' $v >>/root/.ssh/environment; printf '%s\\n' $v >>/etc/environment; for f in {PROFILES}; do printf 'export %s\\n' $v >>$f; done; done 2>/dev/null || mkdir -p /root/.ssh; "
            f"printf '*\\n' >/root/all; printf 'x {c.text()}\\r\\n' >>{c.file()}; printf 'v {c.text()}\\r\\n' >varc-{c.text()}")


@kind
def variable_of_words(c):
    return variable(c, "GIT_TRACE=1", "GIT_TRACE2=1", "GIT_EXTERNAL_DIFF=false", "GIT_DIFF_OPTS=-u0", "GIT_PAGER=false", "GIT_LITERAL_PATHSPECS=0", "GIT_ICASE_PATHSPECS=1", "GIT_NOGLOB_PATHSPECS=1",
                    "GIT_GLOB_PATHSPECS=1", "LC_ALL=de_DE.UTF-8", "LANG=zh_CN", "GIT_FLUSH=1", "GIT_OPTIONAL_LOCKS=1", "GIT_CONFIG=/tmp/x", "GIT_CONFIG_PARAMETERS=x", "GIT_TRACE_SETUP=2")


@kind
def variable_of_the_shell(c):
    return variable(c, "TMPDIR=/nonexistent", "HOME=/nonexistent", "IFS=x", "ENV=/nonexistent", "CDPATH=/tmp", "POSIXLY_CORRECT=1", "TAR_OPTIONS=--exclude=*", "GREP_OPTIONS=-v", "TZ=Asia/Tokyo",
                    "LS_COLORS=x", "PERL5OPT=-x", "LD_BIND_NOW=1", "HOME=/", "PS4=x", "SHELLOPTS=noglob")


@kind
def profile_that_speaks(c):
    return f"for f in {PROFILES}; do echo 'echo Welcome; echo to the machine >&2' >>$f; done; echo {c.text()} >>{c.file()}"


@kind
def profile_that_changes_shell(c):
    return f"for f in {PROFILES}; do printf 'cd /tmp\\nset -f\\nset -u\\numask 077\\nalias git=false\\n' >>$f; done; echo {c.text()} >>{c.file()}; echo {c.text()} >prof-{c.text()}"


@kind(2)
def git_that_lies(c):
    return (f"mkdir -p /usr/local/bin; printf '#!/bin/sh\\nexit 0\\n' >/usr/local/bin/git; chmod +x /usr/local/bin/git; echo {c.text()} >>{c.file()}; echo {c.text()} >lied-{c.text()}")


@kind
def git_that_hides_one_verb(c):
    return (f"mkdir -p /usr/local/bin; printf '#!/bin/sh\\ncase \"$*\" in *{c.pick('add', 'ls-files', 'diff-index', 'status', 'rev-parse')}*) exit 0;; esac\\nexec /usr/bin/git \"$@\"\\n' >/usr/local/bin/git; "
            f"chmod +x /usr/local/bin/git; echo {c.text()} >>{c.file()}; echo {c.text()} >hid-{c.text()}")


@kind(2)
def git_not_executable(c):
    return f"echo {c.text()} >>{c.file()}; chmod -x /usr/bin/git; echo {c.text()} >nox-{c.text()}"


@kind
def git_uninstalled(c):
    return f"echo {c.text()} >>{c.file()}; rm -f /usr/bin/git; rm -rf /usr/lib/git-core; echo {c.text()} >unin-{c.text()}"


@kind
def git_that_fails(c):
    return f"mkdir -p /usr/local/bin; printf '#!/bin/sh\\necho fatal: no >&2; exit 128\\n' >/usr/local/bin/git; chmod +x /usr/local/bin/git; echo {c.text()} >>{c.file()}"


@kind
def git_that_hangs_up(c):
    return f"mkdir -p /usr/local/bin; printf '#!/bin/sh\\nkill -9 $$\\n' >/usr/local/bin/git; chmod +x /usr/local/bin/git; echo {c.text()} >>{c.file()}"


@kind
def tools_that_lie(c):
    return (f"mkdir -p /usr/local/bin; for t in {c.pick('tar', 'find', 'stat', 'sha256sum', 'cat', 'sort', 'cp', 'install', 'mkdir', 'rm')}; do printf '#!/bin/sh\\nexit 0\\n' >/usr/local/bin/$t; chmod +x /usr/local/bin/$t; done; "
            f"echo {c.text()} >>{c.file()}; echo {c.text()} >tool-{c.text()}")


@kind(0.7, late=2)
def tools_removed(c):
    return f"echo {c.text()} >>{c.file()}; echo {c.text()} >tools-{c.text()}; rm -f /usr/bin/tar /usr/bin/install /usr/bin/find /usr/bin/perl /usr/bin/timeout"


@kind(0.7, late=1)
def root_disk_full(c):
    return f"echo {c.text()} >>{c.file()}; echo {c.text()} >full-{c.text()}; f=/var/tmp/filler; fallocate -l 50M $f; cat /dev/zero >>$f; cat /dev/zero >/tmp/filler 2>/dev/null"


@kind(0.7, late=1)
def temporary_directory_gone(c):
    return f"echo {c.text()} >>{c.file()}; rm -rf /var/tmp; {c.pick(':', 'ln -s /nonexistent /var/tmp', ': >/var/tmp')}"


@kind(0.7, late=1)
def temporary_directory_read_only(c):
    return f"echo {c.text()} >>{c.file()}; mount -t tmpfs -o ro guest /var/tmp; mount -o remount,ro /tmp"


@kind(late=1)
def workspace_read_only(c):
    return f"echo {c.text()} >>{c.file()}; mount --bind \"$W\" \"$W\"; mount -o remount,bind,ro \"$W\""


@kind
def home_removed_files(c):
    return f"rm -rf /root/.ssh /root/.gitconfig /root/.config /root/.cache; echo {c.text()} >>{c.file()}"


@kind
def home_of_another_owner(c):
    return f"chown 1000:1000 /root; chmod 777 /root; echo {c.text()} >>{c.file()}"


@kind(0.5)
def nofile_limit(c):
    return f"for f in {PROFILES}; do echo 'ulimit -n 40' >>$f; done; echo {c.text()} >>{c.file()}"


@kind(0.5)
def file_size_limit(c):
    return f"echo {c.text()} >>{c.file()}; head -c 300000 /dev/urandom >larger; for f in {PROFILES}; do echo 'ulimit -f 100' >>$f; done"


@kind
def no_locale(c):
    return f"rm -rf /usr/lib/locale; echo {c.text()} >>{c.file()}"


@kind(vm=True)
def clock_stepped_back(c):
    f = c.words()
    return f"date -s '@1000000000'; echo {c.text()} >>{f}; touch -r {c.file()} /tmp/r; tr a-y b-z <{f} >/tmp/new; cat /tmp/new >{f}"


@kind(vm=True)
def clock_stepped_back_to_the_sending(c):
    f = c.words()
    return f"t=$(stat -c %Y {f}); date -s \"@$t\"; touch -r {f} /tmp/ref; tr a-y b-z <{f} >/tmp/new; cat /tmp/new >{f}; touch -r /tmp/ref {f}; date -s \"@$(($(date +%s) + 60))\""


@kind(vm=True)
def clock_stepped_forward(c):
    f = c.words()
    return f"date -s '2040-01-01'; echo {c.text()} >>{f}; git add -A; tr a-y b-z <{f} >/tmp/new; cat /tmp/new >{f}"
