#!/bin/sh
# Device-mapper roots for real. Runs as root in a virtual machine, beside the program banger-disk; prints one line for each thing
# that was seen, and ends at the first that was not so.
set -eu
disk=$PWD/banger-disk
work=/var/dm-test
state=0a1b2c3d
modprobe loop
modprobe dm_snapshot
mkdir -p "$work" /mnt
cd "$work"

seen() { echo "seen: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# vm owner base cow size: a request. The number of a VM fills its id.
request() { printf '{"schema":"banger.dm/1","vm_id":"%012d","state_id":"%s","owner_uid":%s,"base":"%s","cow":"%s","size_bytes":%s}' \
    "$1" "$state" "$2" "$3" "$4" "$5"; }
mine() { request "$1" 0 "$work/base.ext4" "$work/cow$1" 134217728; }
create() { mine "$1" | "$disk" dm create >/dev/null; }
remove() { mine "$1" | "$disk" dm remove >/dev/null; }
node() { printf '/dev/banger/bgd%s-%012d' "$state" "$1"; }
# The list of VMs that stay, for gc.
list() { printf '{"schema":"banger.vms/1","state_id":"%s","items":[%s]}' "$1" "$2"; }
gc() { list "$state" "" | "$disk" dm gc >/dev/null; }
# All that the kernel and /dev hold.
held() {
    losetup -nO NAME,BACK-FILE | sort
    for d in /sys/block/dm-*; do [ ! -e "$d" ] || cat "$d/dm/name" "$d/dm/uuid"; done | sort
    ls -ln /dev/banger 2>/dev/null | grep -v '^total' || true
}
nothing_held() { [ -z "$(held)" ] || fail "$1 leaves: $(held)"; }
# As large as all changes of a root of 128 MiB can become, and no larger.
cow() { truncate -s 133M "$work/cow$1"; }

truncate -s 64M base.ext4
# Blocks as an image has them, and few inodes: growing it writes tables of them.
mke2fs -q -b 4096 -i 262144 base.ext4
sum=$(sha256sum <base.ext4)
unchanged() { [ "$(sha256sum <base.ext4)" = "$sum" ] || fail "the image was written to"; }

# One VM: attached, written to, looked at, in use, detached, back again with what was written.
cow 1
create 1
mount "$(node 1)" /mnt
echo hello >/mnt/x
dd if=/dev/zero of=/mnt/y bs=1M count=20 status=none
sync
used=$(mine 1 | "$disk" dm status | sed 's/.*"used_bytes":\([0-9]*\).*/\1/')
[ "$used" -gt 20000000 ] || fail "20 MiB were written, $used bytes are taken"
held >before
if mine 1 | "$disk" dm remove >error 2>/dev/null; then fail "a root in use was removed"; fi
grep -q '"code":"in-use"' error || fail "in use: $(cat error)"
held | cmp -s - before || fail "a refused removal changed something"
mine 1 | "$disk" dm create | grep -q '"changed":false' || fail "the second attach changed something"
umount /mnt
[ "$(blockdev --getsize64 "$(node 1)")" = 134217728 ] || fail "the root is not as large as was asked for"
remove 1
nothing_held "a removal"
remove 1
create 1
mount "$(node 1)" /mnt
[ "$(cat /mnt/x)" = hello ] || fail "what was written is lost"
umount /mnt
remove 1
# Larger by far, and its filesystem as a guest grows it.
truncate -s 8260M cow1
request 1 0 "$work/base.ext4" "$work/cow1" 8589934592 | "$disk" dm create >/dev/null
[ "$(blockdev --getsize64 "$(node 1)")" = 8589934592 ] || fail "the root did not grow"
mount "$(node 1)" /mnt
resize2fs "$(node 1)" >error 2>&1 || fail "the filesystem does not grow: $(cat error)"
[ "$(df --output=size -m /mnt | tail -n 1)" -gt 7000 ] || fail "the filesystem did not grow: $(df -m /mnt)"
dd if=/dev/zero of=/mnt/z bs=1M count=80 status=none
[ "$(cat /mnt/x)" = hello ] || fail "what was written is lost in a root that grew"
umount /mnt
e2fsck -fn "$(node 1)" >error 2>&1 || fail "the filesystem that grew is damaged: $(cat error)"
remove 1
rm cow1
cow 1
create 1
mv base.ext4 renamed.ext4
request 2 0 "$work/renamed.ext4" "$work/cow2" 134217728 >r2
cow 2
"$disk" dm create <r2 >/dev/null
[ "$(losetup -nO RO | grep -c 1)" = 1 ] || fail "a renamed image has a second loop: $(held)"
mv renamed.ext4 base.ext4
gc
nothing_held "gc"
unchanged
seen "attach, write, detach and attach again, larger too; the image unchanged bit for bit"

# 50 VMs.
i=100
while [ $i -lt 150 ]; do cow $i; create $i; i=$((i + 1)); done
[ "$(losetup -nO RO | grep -c 1)" = 1 ] || fail "50 VMs on one image: $(held)"
[ "$(ls /dev/banger | wc -l)" = 50 ] || fail "50 VMs: $(held)"
list "$state" '{"id":"000000000100"}' | "$disk" dm gc >/dev/null
[ "$(ls /dev/banger)" = "$(basename "$(node 100)")" ] || fail "gc kept: $(held)"
list ffffffff "" | "$disk" dm gc >/dev/null
[ -e "$(node 100)" ] || fail "the gc of another state directory took a root"
gc
nothing_held "gc after 50 VMs"
unchanged
seen "50 VMs on one image share one loop"

# Killed at every system call of interest.
kills=0
for verb in create remove; do
    for call in ioctl openat openat2 mkdir mknodat fchownat unlink flock; do
        when=1
        while :; do
            [ $verb = create ] || create 1
            mine 1 >r1
            status=0
            strace -qq -o /dev/null -e trace=$call -e inject=$call:signal=KILL:when=$when "$disk" dm $verb <r1 >/dev/null 2>&1 || status=$?
            if [ $status = 0 ]; then
                # It lived: there is no such call any more.
                gc
                break
            fi
            gc
            nothing_held "a $verb killed at $call number $when, and gc,"
            kills=$((kills + 1))
            when=$((when + 1))
            [ $when -lt 60 ] || fail "$verb has no end of $call"
        done
    done
done
[ $kills -gt 30 ] || fail "only $kills kills"
unchanged
seen "$kills kills in create and remove, and gc finds nothing to be left"

# Attacks: each refused, nothing changed.
cow 1
create 1
ln -s base.ext4 link.ext4
mkdir real && cp base.ext4 real/ && ln -s real aside
mkfifo fifo
truncate -s 140M others && chown 1000 others
truncate -s 140M twice && ln twice twice2
truncate -s 1K tiny
held >before
attack() {
    what=$1
    status=0
    timeout 20 "$disk" dm "${2:-create}" >answer 2>&1 || status=$?
    [ $status != 0 ] && [ $status != 124 ] || fail "$what: status $status: $(cat answer)"
    grep -q '"schema":"banger.error/1"' answer || fail "$what: no error record: $(cat answer)"
    held | cmp -s - before || fail "$what changed something: $(held)"
}
b=$work/base.ext4
cow 7
c=$work/cow7
n=134217728
request 7 0 "$work/link.ext4" "$c" $n | attack "an image behind a symbolic link"
request 7 0 "$work/aside/base.ext4" "$c" $n | attack "an image in a directory behind a symbolic link"
request 7 0 base.ext4 "$c" $n | attack "a relative path"
request 7 0 "$work/../dm-test/link.ext4" "$c" $n | attack "a path with dots to a symbolic link"
request 7 0 "$work/fifo" "$c" $n | attack "a FIFO"
request 7 0 /dev/vda "$c" $n | attack "a block device"
request 7 0 /dev/zero "$c" $n | attack "a character device"
request 7 0 "$work" "$c" $n | attack "a directory"
request 7 0 /proc/self/mem "$c" $n | attack "a file of proc"
request 7 0 "$b" "$work/others" $n | attack "another user's file of changes"
request 7 1000 "$b" "$work/others" $n | attack "an image of root's for somebody else"
request 7 0 "$b" "$work/twice" $n | attack "a file of changes with two names"
request 7 0 "$b" "$work/tiny" $n | attack "a tiny file of changes"
request 7 0 "$b" "$work/missing" $n | attack "a missing file of changes"
request 7 0 "$b" "$c" 99999999999999999 | attack "a huge size"
request 7 0 "$b" "$c" 0 | attack "no size"
request 7 0 "$b" "$c" 4096 | attack "a size below the image's"
request 7 0 "$b" "$c" 134217729 | attack "half a sector"
request 1 0 "$b" "$c" $n | attack "another file of changes for a root that is there"
request 1 0 "$b" "$work/cow1" 268435456 | attack "another size for a root that is there"
request 7 0 "$b" "$c" $n | SUDO_UID=1000 attack "a caller who is not the owner"
request 1 0 "$b" "$work/cow1" $n | SUDO_UID=1000 attack "a removal by somebody else" remove
request 7 0 "$b" "$c" $n | SUDO_UID=x attack "a caller who is not a number"
request 7 0 "$b" "$c" $n | sed 's/0000000007/..\/..\/x/' | attack "a name that leads elsewhere"
request 7 0 "$b" "$c" $n | sed 's/"owner_uid"/"x":1,"owner_uid"/' | attack "an unknown field"
request 7 0 "$b" "$c" $n | sed 's,banger.dm/1,banger.dm/2,' | attack "another schema"
echo '{' | attack "no JSON"
: | attack "nothing"

# What the kernel would believe: three chunks of whatever size in memory, a list of changes without end.
exec 8<>"$work/cow7"
request 7 0 "$b" "$c" $n | attack "a file of changes that somebody could still write to"
grep -q '"code":"in-use"' answer || fail "open elsewhere: $(cat answer)"
exec 8>&-
# words: bytes in octal, at an offset
put() { printf "$2" | dd of="$c" bs=1 seek="$1" conv=notrunc status=none; }
believed() { request 7 0 "$b" "$c" $n | attack "$1"; grep -q "$2" answer || fail "$1: $(cat answer)"; }
put 0 'SnAp\1\0\0\0\1\0\0\0\0\0\0\100'
believed "a chunk of 512 GiB" 'another chunk size'
put 12 '\1\0\0\0'
believed "a chunk of a sector" 'another chunk size'
put 12 '\10\0\0\0'
put 4096 '\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0'
believed "a change outside of the file" 'lies outside'
put 4096 '\0\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0'
believed "a change outside of the root" 'lies outside'
put 0 'XXXX'
believed "something else than a snapshot" "something else"
put 0 '\0\0\0\0'
truncate -s 134M "$c"
believed "a file larger than all changes" 'too small or too large'

# Another user's root with the same ids is another one, and neither is in the other's way.
rm "$c"
truncate -s 0 others
truncate -s 133M others
cp base.ext4 theirs.ext4
chown 1000 theirs.ext4
theirs() { request 1 1000 "$work/theirs.ext4" "$work/others" $n | SUDO_UID=1000 "$disk" dm "$1"; }
theirs create | grep -q '"changed":true' || fail "a root of root's is in another user's way: $(held)"
[ -e "$(node 1)" ] && [ -e "$(node 1)-1000" ] || fail "two users, one VM's id: $(held)"
list "$state" "" | SUDO_UID=1000 "$disk" dm gc >/dev/null
[ -e "$(node 1)" ] && [ ! -e "$(node 1)-1000" ] || fail "a gc of one of two users: $(held)"
theirs create >/dev/null
theirs remove >/dev/null
held | cmp -s - before || fail "another user's root leaves: $(held)"

dmsetup=$(list "$state" "" | SUDO_UID=1000 "$disk" dm gc)
[ -e "$(node 1)" ] || fail "somebody else's gc took a root: $dmsetup"
gc
nothing_held "gc after the attacks"
seen "the attacks change nothing"

# A store that is full breaks, and says so; it does not hang.
truncate -s 1M "$work/cow9"
create 9
dd if=/dev/zero of="$(node 9)" bs=1M count=8 oflag=direct status=none 2>error && fail "a full store took everything"
mine 9 | "$disk" dm status | grep -q '"broken":true' || fail "a full store is not told: $(mine 9 | "$disk" dm status)"
gc
nothing_held "gc after a full store"
seen "a full store gives an I/O error and is told"
