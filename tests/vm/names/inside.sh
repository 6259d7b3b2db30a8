#!/bin/bash
# The names of VMs on a host with systemd-resolved, for real. Runs as root in a virtual machine with systemd, beside the programs banger
# and banger-netd; prints one line for each thing that was seen, and ends at the first that was not so.
set -eu
PATH=$PWD:$PATH
export BANGER_STATE_DIR=/var/lib/banger

seen() { echo "seen: $*"; }
fail() {
    echo "FAILED: $*" >&2
    resolvectl status >&2 || true
    [ -z "${unit:-}" ] || systemctl status --lines 20 "$unit.path" "$unit.service" >&2 || true
    exit 1
}
# Runs a command that is to end with a status, and gives all that it said.
ends() {
    local wanted=$1 status=0
    shift
    said=$("$@" 2>&1) || status=$?
    [ $status = "$wanted" ] || fail "$* ended with $status, not $wanted: $said"
}
says() { [[ $said == *"$1"* ]] || fail "not told: $1; but: $said"; }
# All that systemd-resolved knows of its links and keeps of them, but for what comes and goes by itself: whether a link has an address for
# LLMNR yet, which server answered last, and what was found out of it.
known() {
    resolvectl status | sed -e '/^ *Current Scopes:/{s, LLMNR/IPv[46],,g;s/:$/: none/}' -e 's,\(DNSSEC=[a-z-]*\)/[a-z]*,\1,' \
        -e '/^ *Current DNS Server:/d'
    grep -r . /run/systemd/resolve --include='[0-9a-z]*' || true
    readlink /etc/resolv.conf || cat /etc/resolv.conf
}
# Waits until it has heard of all links, and writes down what it knows.
settled() {
    local before='' now
    for _ in $(seq 20); do
        now=$(known)
        [ "$now" != "$before" ] || break
        before=$now
        sleep 0.3
    done
    echo "$now" >"$1"
}
# A state directory with an image that is none: enough to plan VMs.
plan() {
    local image=$1/images/debian file
    mkdir -p "$image"
    for file in rootfs.ext4 vmlinuz vmlinux initrd.cpio work-seed.ext4 upper-seed.ext4; do : >"$image/$file"; done
    cat >"$image/manifest.json" <<'JSON'
{"schema":"banger.image/1","name":"debian","created_at":"2026-01-01T00:00:00.000Z","source":"test","distribution":"debian",
"suite":"bookworm","packages":[],"kernel_version":"6.1.0-test","arch":"x86_64","init":"lean","default_rootfs_size_bytes":1073741824,
"default_work_size_bytes":1073741824,"files":{}}
JSON
    banger --state-dir "$1" vm plan "$2" --net tap
}
# unchanged FILE MESSAGE: what it knows is what the file holds.
unchanged() {
    known >now
    diff "$1" now >&2 || fail "$2"
}
address() { grep -o '"address":"[0-9.]*"' "$1" | head -n 1 | cut -d '"' -f 4; }
bridge() { echo "bgr$(cat "$1/state_id")"; }

systemctl start systemd-resolved
modprobe -a tun bridge dummy
# Links are what they are at once, and not when no other turned out to have their IPv6 address.
for conf in all default; do echo 0 >/proc/sys/net/ipv6/conf/$conf/accept_dad; done
resolvectl flush-caches

# A resolver that runs and that nobody asks is none.
plan $BANGER_STATE_DIR dev1 >dev1.json
settled fresh
ends 5 banger dns enable
says "stub-resolv.conf /etc/resolv.conf"
unchanged fresh "a refusal changed something"
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
# The strictest settings there are: ours has to be left out of them.
mkdir -p /etc/systemd/resolved.conf.d
printf '[Resolve]\nDNSSEC=yes\nDNSOverTLS=yes\n' >/etc/systemd/resolved.conf.d/strict.conf
systemctl restart systemd-resolved
settled fresh
seen "advice where systemd-resolved is not asked"

# Chosen before there is a VM: nothing changes until then.
banger dns enable
unchanged fresh "the choice alone changed something"
banger dns disable
banger-netd attach <dev1.json >attached.json
one=$(address dev1.json)
link=$(bridge $BANGER_STATE_DIR)
settled attached
ends 2 getent ahostsv4 dev1.vm
banger dns enable
ends 0 getent hosts dev1.vm
says "$one"
ends 0 getent hosts "$one"
says dev1.vm
ends 0 resolvectl query --cache=no dev1.vm
says "$one"
says "link: $link"
ends 2 getent ahostsv4 nobody.vm
ends 0 resolvectl default-route "$link"
says ": no"
ends 0 banger dns status --json
says '"hooked":true'
says "\"answers\":[\"$one\"],\"resolves\":true"
settled hooked
banger dns enable
unchanged hooked "enabling twice changed something"
seen "names, addresses and unknown names by getent and resolvectl"

# What others do to it is seen, and mended.
resolvectl revert "$link"
resolvectl flush-caches
ends 0 banger dns status --json
says '"enabled":true'
says '"hooked":false'
says '"answers":[],"resolves":false'
banger dns enable
ends 0 getent hosts dev1.vm
# One that saw that it is not needed may be on its way out.
for _ in $(seq 300); do
    server=$(pgrep -f 'banger-netd serve')
    [[ $server == *[[:space:]]* ]] || break
    sleep 0.1
done
kill -9 "$server"
resolvectl flush-caches
ends 0 banger dns status --json
says '"served":false'
says '"hooked":true'
says '"resolves":false'
banger dns enable
resolvectl flush-caches
ends 0 getent hosts dev1.vm
seen "a resolver that was killed, and settings that were reverted"

# The same under systemd: it starts with a change of the names, has given up what it could, and comes back.
unit=banger-netd@$(systemd-escape --path $BANGER_STATE_DIR/dns)
cp banger-netd /usr/bin
cp banger-netd@.* /etc/systemd/system
systemctl daemon-reload
pkill -f 'banger-netd serve'
# One that has not gone yet would be taken for one that stays.
while pgrep -f 'banger-netd serve' >/dev/null; do sleep 0.1; done
systemctl enable --now "$unit.path"
cp $BANGER_STATE_DIR/dns/names names
mv names $BANGER_STATE_DIR/dns/names
serves() {
    for _ in $(seq 300); do
        server=$(systemctl show -P MainPID "$unit.service")
        [ "$server" = 0 ] || [ "$server" = "$1" ] || break
        sleep 0.2
    done
    for _ in $(seq 300); do
        if grep -qs '^Uid:.65534.65534.65534.65534$' "/proc/$server/status"; then break; fi
        sleep 0.2
    done
    resolvectl flush-caches
    ends 0 getent hosts dev1.vm
}
serves 0
ends 0 grep -c -e '^CapEff:.0000000000000000$' -e '^CapPrm:.0000000000000000$' -e '^NoNewPrivs:.1$' -e '^Seccomp:.2$' "/proc/$server/status"
says 4
ends 0 banger dns status --json
says '"served":true'
kill -9 "$server"
serves "$server"
# A second one sees that it is not needed.
banger-netd serve --names $BANGER_STATE_DIR/dns/names | grep -q '"changed":false' || fail "two resolvers"
seen "the units start it, confine it and bring it back"

# A second state directory of the same user; then one of somebody else's.
two=/var/lib/two
plan $two dev2 >dev2.json
banger-netd attach <dev2.json >/dev/null
ends 0 banger --state-dir $two dns enable
says "$link"
for vm in 1 2; do
    ends 0 getent hosts dev$vm.vm
    says "$(address dev$vm.json)"
done
banger --state-dir $two dns disable
ends 0 getent hosts dev1.vm
ends 2 getent ahostsv4 dev2.vm
banger-netd detach <dev2.json >/dev/null
sed 's/"owner_uid":0/"owner_uid":1000/' dev2.json >theirs.json
SUDO_UID=1000 banger-netd attach <theirs.json >/dev/null
request="{\"schema\":\"banger.hook/1\",\"state_id\":\"$(cat $two/state_id)\"}"
settled before
ends 1 env SUDO_UID=1000 banger-netd hook <<<"$request"
says '"code":"conflict"'
says "$link"
ends 5 env SUDO_UID=1001 banger-netd hook <<<"$request"
unchanged before "a refused hook changed something"
SUDO_UID=1000 banger-netd detach <theirs.json >/dev/null
banger dns disable
ip link add name vpn0 type dummy
ip address add 192.0.2.1/24 dev vpn0
ip link set vpn0 up
settled now
resolvectl domain vpn0 '~vm'
ends 1 banger dns enable
says vpn0
ip link delete vpn0
seen "two state directories, and a link that has the names already"

# Back, bit for bit: by disable, and with the last VM.
resolvectl flush-caches
settled now
diff attached now >&2 || fail "disable left something"
ends 2 getent ahostsv4 dev1.vm
banger dns enable
banger-netd detach <attached.json >/dev/null
settled now
diff fresh now >&2 || fail "the last VM left something"
ends 2 getent ahostsv4 dev1.vm
for _ in $(seq 450); do [ -e "/proc/$server" ] || break; sleep 0.1; done
ends 3 systemctl is-active "$unit.service"
says inactive
[ ! -e "/proc/$server" ] && ! pgrep -f 'banger-netd serve' >/dev/null || fail "a resolver is left"
seen "everything as it was"
