# Runs when mmdebstrap has installed everything, as (namespace) root, with the root directory as $1: strips what an image has no
# use for, and fills the image's files, which are there and empty.
set -eu
root=$1
output=/proc/self/fd/$BANGER_OUTPUT_FD

# What runs inside trusts the host's authorities, by the distribution's own tool, which a script may install as well. The image keeps
# none of them: each VM gets those that its host has when it starts.
local_ca=$root/usr/local/share/ca-certificates
update_ca() {
    [ -x "$root/usr/sbin/update-ca-certificates" ] || return 0
    chroot "$root" /usr/sbin/update-ca-certificates "$@" > /dev/null 2>&1 || echo "W: update-ca-certificates failed" >&2
}
if [ -d "$output/host-ca" ]; then
    mkdir -p "$local_ca"
    cp "$output/host-ca/"*.crt "$local_ca"
    update_ca
fi

# run_inside TITLE SCRIPT: mmdebstrap has mounted /dev, /proc and /sys, and names can be resolved.
run_inside() {
    [ -n "$2" ] || return 0
    printf '%s' "$2" > "$root/tmp/banger-script"
    chmod 700 "$root/tmp/banger-script"
    # The host's own variables name files of the host.
    bundle=/etc/ssl/certs/ca-certificates.crt title=$1
    set --
    for name in $BANGER_BUNDLE_VARIABLES; do
        set -- "$@" -u "$name"
    done
    if [ -d "$output/host-ca" ] && [ -s "$root$bundle" ]; then
        for name in $BANGER_BUNDLE_VARIABLES; do
            set -- "$@" "$name=$bundle"
        done
    fi
    if ! env -u BANGER_SCRIPT -u BANGER_RECIPE_SCRIPT -u BANGER_HOOK "$@" HOME=/root \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /tmp/banger-script < /dev/null; then
        echo "E: the $title failed" >&2
        exit 1
    fi
    rm -f "$root/tmp/banger-script"
}

# What the recipe does, and then what the user wants done in there.
mise=$root${BANGER_MISE_INSIDE:?}
if [ -s "$output/mise" ]; then
    mkdir "${mise%/*}"
    cp "$output/mise" "$mise"
fi
run_inside "recipe $BANGER_RECIPE" "$BANGER_RECIPE_SCRIPT"
rm -rf "${mise%/*}"
if [ -f "$root/tmp/banger-notes" ]; then
    head -c 4000 "$root/tmp/banger-notes" > "$output/notes"
fi
run_inside script "$BANGER_SCRIPT"
if [ -d "$output/host-ca" ]; then
    rm -f "$local_ca"/banger-*.crt
    update_ca --fresh
fi

# Whatever tells one machine from another is made by the VM or the host, never shared.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
: > "$root/etc/resolv.conf"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
rm -rf "$root"/var/tmp/* "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/cache/debconf/*-old
rm -rf "$root"/usr/share/man/* "$root"/usr/share/info/*
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
find "$root/usr/share/doc" -depth -type d -empty -delete

# The boot set: one kernel, and its modules for the initrd.
set -- "$root"/boot/vmlinuz-*
if [ $# -ne 1 ] || [ ! -f "$1" ]; then
    echo "E: the image must hold one kernel, found: $*" >&2
    exit 1
fi
version=${1##*/vmlinuz-}
cat "$1" > "$output/vmlinuz"
tar -C "$root/lib/modules" -cf "$output/modules.tar" --owner=0 --group=0 "$version"
printf '%s' "$version" > "$output/version"
rm -rf "$root"/boot/* "$root"/vmlinuz* "$root"/initrd.img*

# make_ext4 FILE DIRECTORY SIZE_BYTES LABEL [OPTION]…
make_ext4() {
    file=$output/$1 directory=$2 size=$3 label=$4
    shift 4
    truncate -s "$size" "$file"
    # shellcheck disable=SC2086 # one argument per word
    "$BANGER_MKE2FS" $BANGER_MKE2FS_ARGS -L "$label" "$@" -d "$directory" "$file"
}

make_ext4 work-seed.ext4 "$root/root" "$BANGER_WORK_SIZE" banger-work

# /dev, /proc and /sys are mounted inside the root; a second view of it has them empty.
view=$root/mnt
mount --bind "$root" "$view"
# mmdebstrap has files of its own in /tmp. It still needs them: without its apt.conf there, it would go on with the host's.
mount -t tmpfs -o mode=1777 tmpfs "$view/tmp"
blocks=$(du -sx --block-size=4096 "$view" | cut -f1)
# A directory in memory takes no blocks.
blocks=$((blocks + $(find "$view" -xdev -type d | wc -l)))
inodes=$(find "$view" -xdev | wc -l)
# Room for inode tables, bitmaps, the journal and the blocks of directories; a VM that writes its root grows it first.
inodes=$((inodes * 5 / 4 + 4096))
size=$(((blocks * 4096 + inodes * 256) * 21 / 20 + 64 * 1048576))
size=$((size / 1048576 * 1048576))
make_ext4 rootfs.ext4 "$view" "$size" banger-root -N "$inodes"
umount "$view/tmp" "$view"
