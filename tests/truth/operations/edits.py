"""What is done to the bytes, times and modes of files."""

from . import kind


@kind(2)
def edit_append(c):
    return f"echo {c.text()} >>{c.file()}"


@kind(2)
def edit_replace(c):
    return f"printf '%s\\n' {c.text()} {c.text()} >{c.file()}"


@kind
def edit_first_line(c):
    return f"sed -i '1s/.*/first {c.text()}/' {c.file()}"


@kind(2)
def edit_same_size_time_back(c):
    f = c.words()
    return f"touch -r {f} /tmp/ref; tr 'a-y\\000' 'b-z\\001' <{f} >/tmp/new; cat /tmp/new >{f}; touch -r /tmp/ref {f}"


@kind
def edit_same_size_time_back_by_rename(c):
    f = c.words()
    return f"cp -p {f} /tmp/new; tr 'a-y\\000' 'b-z\\001' <{f} >/tmp/new; touch -r {f} /tmp/new; mv /tmp/new {f}"


@kind
def edit_same_size_at_once(c):
    """Within the clock tick of what was sent, as far as a shell can."""
    f = c.file()
    return f"printf X | dd of={f} bs=1 conv=notrunc"


@kind
def edit_twice_time_back(c):
    f = c.file()
    return f"touch -r {f} /tmp/ref; echo 1 >>{f}; touch -r /tmp/ref {f}; git add -A; echo 2 >>{f}; touch -r /tmp/ref {f}"


@kind
def edit_staged_then_same_size(c):
    f = c.file()
    return f"echo aaaa >{f}; git add {f}; touch -r {f} /tmp/ref; echo bbbb >{f}; touch -r /tmp/ref {f}"


@kind
def edit_time_of_the_past(c):
    return f"f={c.file()}; echo {c.text()} >\"$f\"; touch -d '{c.pick('1970-01-01', '1999-12-31 23:59:59', '2000-01-01', '1960-01-01')}' \"$f\""


@kind
def edit_time_of_the_future(c):
    return f"f={c.file()}; echo {c.text()} >\"$f\"; touch -d '{c.pick('2038-01-20', '2100-01-01', '2446-01-01')}' \"$f\""


@kind
def touch_only(c):
    return f"touch {c.file()}; find . -path ./.git -prune -o -type f -exec touch -d @1 {{}} +"


@kind
def rewrite_the_same(c):
    f = c.file()
    return f"cp {f} /tmp/same; rm {f}; cp /tmp/same {f}"


@kind
def edit_empty(c):
    return f": >{c.file()}"


@kind
def edit_truncate_by_one(c):
    return f"truncate -s -1 {c.file()}"


@kind
def edit_crlf(c):
    return f"sed -i 's/$/\\r/' {c.file()}"


@kind
def edit_lf(c):
    return f"sed -i 's/\\r$//' {c.file()}"


@kind
def edit_lone_cr(c):
    return f"printf 'a\\rb\\rc' >{c.file()}"


@kind
def edit_mixed_line_endings(c):
    return f"printf 'a\\r\\nb\\nc\\r\\r\\n\\n\\r\\n' >{c.file()}"


@kind
def edit_without_last_newline(c):
    return f"printf 'no newline {c.text()}' >{c.file()}"


@kind
def edit_binary(c):
    return f"printf '\\000\\001{c.text()}\\377\\n\\000' >{c.file()}"


@kind
def edit_null_far_behind(c):
    """git looks for a NUL in the first 8,000 bytes."""
    return f"f={c.file()}; {{ i=0; while [ $i -lt 500 ]; do echo 'line of some text {c.text()}'; i=$((i+1)); done; printf '\\000x\\n'; }} >\"$f\""


@kind
def edit_long_line(c):
    return f"head -c {c.pick(70000, 70001, 300000)} /dev/zero | tr '\\000' x >{c.file()}"


@kind
def edit_only_newlines(c):
    return f"printf '\\n\\n\\n\\n' >{c.file()}"


@kind
def edit_trailing_blanks(c):
    return f"printf 'a \\nb\\t\\n \\n\\t\\n+\\n-\\n\\\\ No newline at end of file\\n' >{c.file()}"


@kind
def edit_like_a_patch(c):
    return f"printf 'diff --git a/x b/x\\n--- a/x\\n+++ b/x\\n@@ -1 +1 @@\\n-a\\n+b\\n-- \\n2.30\\nGIT binary patch\\n' >{c.file()}"


@kind
def edit_utf16(c):
    return f"printf '\\377\\376a\\000\\r\\000\\n\\000' >{c.file()}"


@kind
def edit_byte_order_mark(c):
    return f"printf '\\357\\273\\277text\\n' >{c.file()}"


@kind
def edit_latin1(c):
    return f"printf 'stra\\337e\\n\\200\\201\\n' >{c.file()}"


@kind
def edit_conflict_markers(c):
    return f"printf '<<<<<<< ours\\na\\n=======\\nb\\n>>>>>>> theirs\\n' >{c.file()}"


@kind
def edit_as_the_host_does(c):
    """Where a checkout is sent again, both sides may have changed the same."""
    return "echo the same >README.md"


@kind
def edit_by_hard_link(c):
    f = c.file()
    return f"ln {f} /root/other-name-$$ && echo {c.text()} >>/root/other-name-$$"


@kind
def edit_through_a_link(c):
    f = c.file()
    return f"ln -s \"$PWD\"/{f} /tmp/way && echo {c.text()} >>/tmp/way"


@kind
def edit_many(c):
    return f"find . -path ./.git -prune -o -type f -name '*.c' -exec sh -c 'for f; do echo {c.text()} >>\"$f\"; done' sh {{}} +"


@kind
def hard_links(c):
    one, other = c.two()
    return f"ln -f {one} {other}; ln {one} hard-{c.text()}"


@kind(0.5)
def sparse_file(c):
    return f"f={c.new()}; mk \"$f\"; truncate -s {c.pick('1M', '3M')} \"$f\"; printf end >>\"$f\""


@kind(0.5)
def big_file(c):
    return f"f={c.new()}; mk \"$f\"; head -c 2500000 /dev/urandom >\"$f\""


@kind(0.5)
def big_text_file(c):
    return f"f={c.file()}; seq {c.rng.randrange(1000)} 60000 >\"$f\""


@kind(0.6)
def many_new_files(c):
    return "mkdir -p heap; cd heap && i=0; while [ $i -lt 1500 ]; do echo $i >f$i; i=$((i+1)); done"


@kind(0.5, heavy=True)
def very_many_new_files(c):
    return "mkdir -p crowd; cd crowd && seq 100000 | split -a 6 -l 1 -"


@kind
def mode_executable(c):
    return f"chmod +x {c.file()} {c.file()}"


@kind(needs=("executables",))
def mode_not_executable(c):
    return f"chmod -x {c.file()} {c.file()}; find . -path ./.git -prune -o -type f -perm /111 -exec chmod a-x {{}} +"


@kind
def mode_flip_and_edit(c):
    f = c.file()
    return f"if [ -x {f} ]; then chmod -x {f}; else chmod +x {f}; fi; echo {c.text()} >>{f}"


@kind
def mode_of_others_alone(c):
    return f"chmod {c.pick('611', '655', '077', '711', '100')} {c.file()}"


@kind
def mode_nothing(c):
    return f"chmod 000 {c.file()} {c.file()}; echo {c.text()} >>{c.file()}"


@kind
def mode_nothing_on_a_directory(c):
    return f"d={c.folder()}; echo {c.text()} >\"$d/n\"; chmod 000 \"$d\""


@kind
def mode_nothing_everywhere(c):
    return f"echo {c.text()} >>{c.file()}; chmod -R a-rwx . "


@kind
def mode_setuid(c):
    return f"chmod u+s,g+s {c.file()}; chmod +t {c.folder()}; chmod g+s {c.folder()}"


@kind
def mode_with_time_back(c):
    f = c.file()
    return f"touch -r {f} /tmp/ref; chmod a+x {f}; touch -r /tmp/ref {f}"


@kind
def owner_of_everything(c):
    return f"chown -R 1000:1000 .; echo {c.text()} >>{c.file()}"


@kind
def owner_of_the_repository(c):
    return f"chown -R {c.pick('1000:1000', '65534:65534')} .git; echo {c.text()} >>{c.file()}"


@kind
def owner_of_the_root_alone(c):
    return f"chown 1234 .; echo {c.text()} >>{c.file()}"


@kind
def extended_attributes(c):
    f = c.file()
    return f"perl -e 'my ($n, $v) = (\"user.x\", \"y\"); syscall(188, $ARGV[0], $n, $v, 1, 0)' {f}; setfattr -n user.a -v b {f}; echo {c.text()} >>{f}"


@kind
def immutable(c):
    f = c.file()
    return f"echo {c.text()} >>{f}; chattr +i {f}; chattr -i {f}; chattr +A {f}"


@kind
def remove(c):
    return f"rm -f {c.file()} {c.file()}"


@kind(0.6)
def remove_everything(c):
    return "find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +"


@kind
def remove_directory(c):
    return f"rm -rf {c.folder()}"


@kind
def remove_and_put_back(c):
    f = c.file()
    return f"mv {f} /tmp/kept && git add -A && git commit -qm gone; mv /tmp/kept {f}"


@kind(2)
def new_file(c):
    return f"f={c.new()}; mk \"$f\"; echo {c.text()} >\"$f\""


@kind
def new_empty_file(c):
    return f"f={c.new()}; mk \"$f\"; : >\"$f\""


@kind
def new_executable(c):
    return f"f={c.new()}; mk \"$f\"; printf '#!/bin/sh\\n' >\"$f\"; chmod {c.pick('755', '700', '744', '4755')} \"$f\""


@kind
def new_binary(c):
    return f"f={c.new()}; mk \"$f\"; head -c {c.pick(100, 8000, 70000)} /dev/urandom >\"$f\""


@kind
def new_and_removed(c):
    return f"f={c.new()}; mk \"$f\"; echo x >\"$f\"; git add -A; rm \"$f\""


@kind
def new_staged_only(c):
    return f"f={c.new()}; mk \"$f\"; echo {c.text()} >\"$f\"; git add -- \"$f\"; echo {c.text()} >>\"$f\""


@kind
def empty_directory(c):
    return f"mkdir -p {c.new()} deep/er/empty"


@kind
def directory_emptied(c):
    return f"d={c.folder()}; find \"$d\" -type f -exec rm {{}} +"
