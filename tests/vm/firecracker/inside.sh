#!/bin/sh
# banger on real Firecracker. Runs as root in a virtual machine whose processor emulates AMD's virtualization, beside the programs,
# a firecracker and a state directory with an image. Ends at the first thing that is not as it should be; else it prints what was
# seen, for the test to judge: "seen: words", "took: seconds words", "json: name record".
set -eu
here=/root/nested
PATH=$here/bin:/usr/sbin:/sbin:$PATH
# A guest in software, inside one in software: what takes a processor a second takes a minute here.
export PATH HOME=/root BANGER_STATE_DIR=$here/state BANGER_READY_TIMEOUT=400
cd "$here"
for module in kvm_amd dm_snapshot loop tun; do modprobe $module; done
# Loaded on demand it would make a link of its own.
modprobe dummy numdummies=0

seen() { echo "seen: $*"; }
fail() {
    echo "FAILED: $*" >&2
    for log in --console --vmm; do banger vm logs $log dev1 2>&1 | tail -n 40 >&2 || true; done
    exit 1
}
now() { cut -d' ' -f1 /proc/uptime; }
# name command…: runs it, and tells how long it took.
took() {
    name=$1
    shift
    start=$(now)
    "$@" >out 2>err || fail "$name: exit status $?: $(cat out err)"
    echo "$start $(now) $name" | awk '{ printf "took: %.1f", $2 - $1; $1 = $2 = ""; print }'
}
is() { [ "$1" = "$2" ] || fail "$3: \"$1\" instead of \"$2\""; }
# becomes WANTED WHAT COMMAND…: waits, up to two minutes, until the command says what it is to.
becomes() {
    wanted=$1
    what=$2
    shift 2
    end=$(($(now | cut -d. -f1) + 120))
    until found=$("$@") && [ "$found" = "$wanted" ]; do
        [ "$(now | cut -d. -f1)" -lt $end ] || fail "$what: \"$found\" instead of \"$wanted\""
        sleep 0.1
    done
}
json() {
    name=$1
    shift
    "$@" >out 2>err || fail "$name: exit status $?: $(cat out err)"
    echo "json: $name $(cat out)"
}
# All that the kernel holds for VMs, and whatever runs or is kept of them.
held() {
    # It stays a moment for the kernel to let go of links.
    while pgrep -f 'banger-netd (detach|gc)' >/dev/null; do sleep 0.05; done
    ip -o link | awk -F': ' '{print $2}' | sort
    nft list ruleset
    losetup -nO NAME,BACK-FILE | sort
    cat /sys/block/dm-*/dm/name 2>/dev/null | sort || true
    ls /dev/banger 2>/dev/null || true
    ps -eo args= | grep -E '[b]anger|[f]irecracker' | grep -v inside.sh || true
    find state/vms state/locks -mindepth 1 2>/dev/null | grep -v -e schema.lock -e images.lock || true
}
nothing_new() { held | diff before - >difference || fail "$1 leaves $(cat difference)"; }

git init -q -b trunk repo
git -C repo config user.name Test
git -C repo config user.email test@example.org
echo hello >repo/README.md
git -C repo add -A
git -C repo commit -qm one
image=$(sha256sum <state/images/debian/rootfs.ext4)
banger ps >/dev/null
held >before
seen "$(firecracker --version | head -1) under Linux $(uname -r), KVM by $(grep -o -m1 -w svm /proc/cpuinfo)"

took "vm run" banger vm run --record record --name dev1 --memory 384M --vcpus 1 -p 8080:80 repo -- \
    sh -c 'cat README.md; findmnt -no FSTYPE /; echo kept >/var/kept; echo more >new; exit 0'
is "$(cat out)" "hello
ext4" "what the command says"
json run cat record
is "$(ls -l /dev/banger | grep -c '^b')" 1 "device-mapper roots"
seen "a VM on real Firecracker, its root a device-mapper snapshot"

took "vm exec" banger vm exec dev1 -- cat new /var/kept
is "$(cat out)" "more
kept" "what exec says"
took "vm exec with input" sh -c 'echo input | banger vm exec dev1 -- wc -c'
banger vm exec dev1 --patch - -- true >patch 2>err || fail "no patch: $(cat err)"
grep -q '^+more' patch || fail "the patch is $(cat patch)"
seen "exec and the patch"

json stats banger vm stats --json dev1
json ports banger vm ports --json dev1
json health banger vm health --json dev1
json ps banger ps --json
banger vm logs --vmm dev1 >vmm.log
seen "stats, ports and health from the guest's agent over vsock"

work_size() { banger vm exec dev1 -- df -B1 --output=size /root | tail -n 1; }
before=$(work_size)
took "vm set" banger vm set dev1 --work-size 9G --disk-rate 200M --net-rate 100M --ttl 1h
[ "$(work_size)" -gt $((before + 900000000)) ] || fail "the work disk has $(work_size) bytes, before it had $before"
json set banger vm show --json dev1
banger vm set --json dev1 --disk-size 9G >out 2>err && fail "a device-mapper root grew while its VM runs"
is "$(jq -r .error.code out)" unsupported "a device-mapper root that is to grow while its VM runs"
took "vm exec after a change" banger vm exec dev1 -- cat new
banger vm set dev1 --disk-rate none --net-rate none --ttl never
seen "the work disk grown, limits set and lifted, while the VM runs"

took "vm stop" banger vm stop dev1
is "$(jq -r .reason state/vms/*/exit.json)" stopped "how it ended"
is "$(cat /sys/block/dm-*/dm/name 2>/dev/null || true)" "" "device-mapper roots of a stopped VM"
ps -eo args= | grep -q '[f]irecracker --api-sock' && fail "a stopped VM runs: $(ps -eo args=)"
banger vm set dev1 --disk-size 9G
took "vm start" banger vm start dev1
[ "$(banger vm exec dev1 -- df -B1 --output=size / | tail -n 1)" -gt 9000000000 ] || fail "the root did not grow"
took "vm exec" banger vm exec dev1 -- cat /var/kept
is "$(cat out)" kept "what was written before the stop"
seen "stop and start: the root is detached and attached again, larger, with what was written"

took "vm delete" banger vm delete --force dev1
nothing_new "a delete"
is "$(sha256sum <state/images/debian/rootfs.ext4)" "$image" "the image's checksum"
seen "nothing is left, and the image is as it was"

# Killed: the next command tells the truth and cleans.
took "vm run" banger vm run --name dev1 --memory 384M --vcpus 1 repo -- true
# How the VM is, and how it ended.
ending() { banger vm show --json dev1 | jq -r '[.vmm.state, .vmm.exit.reason, .vmm.exit.signal | strings, numbers] | join(" ")'; }
kill -9 "$(banger vm show --json dev1 | jq .vmm.pid)"
becomes "exited crashed 9" "a killed Firecracker" ending
took "vm start" banger vm start dev1
kill -9 "$(banger vm show --json dev1 | jq .vmm.supervisor_pid)"
becomes "exited lost" "a killed supervisor" ending
# A reboot takes bridge, rules, tap, loop and root along, and leaves what the files say.
list='{"schema":"banger.vms/1","state_id":"'$(cat state/state_id)'","items":[]}'
echo "$list" | banger-disk dm gc >/dev/null
echo "$list" | banger-netd gc >/dev/null
is "$(cat /sys/block/dm-*/dm/name 2>/dev/null || true)$(ip -o link | grep -o 'bg[rt][0-9a-f]*' || true)" "" "what is left as after a reboot"
is "$(banger ps --json | jq -r '.items[0].vmm.state')" exited "ps after a reboot"
took "vm start" banger vm start dev1
# What the guest had not written to its disks when it was killed is gone, as with any machine; so no command is run in the copy.
banger vm health dev1 >out 2>err || fail "health: $(cat out err)"
banger vm delete --force dev1
nothing_new "a delete after kills"
seen "Firecracker killed, its supervisor killed, the host rebooted: it is told, and cleaned"

# The suite that every VMM stage passes.
banger vm plan dev1 --memory 384M --vcpus 1 | banger-netd attach | banger-disk attach >record 2>err || fail "attach: $(cat err)"
# A VM of which no database knows, so that gc can be told that it is not to stay.
rm state/state.db*
took "the suite for VMM stages" ./stage-suite "$here/bin/banger-fc" record
is "$(grep -c '^ok: ' out)" 8 "what the suite saw"
banger-disk detach <record | banger-netd detach >out
rm -r state/vms/* state/locks/vm-*
nothing_new "the suite"
seen "banger-fc with real Firecracker is a VMM stage"
