#!/bin/sh
# Runs in network and mount namespaces of its own, beside dns.pl: sh resolvers.sh BANGER REPOSITORY. For each host it prints its
# resolvers, what a guest of user networking finds for a name, and what banger says.
set -u
banger=$1 repository=$2
ip link set lo up
perl dns.pl >dns.out &
dns=$!
trap 'kill $dns' EXIT
until grep -qs ready dns.out; do kill -0 $dns || exit 1; sleep 0.05; done
while read -r hosts; do
    for host in $hosts; do echo "nameserver $host"; done >resolv.conf
    mount --bind resolv.conf /etc/resolv.conf
    found=$("$banger" vm run --rm --net user "$repository" -- sh -c 'getent ahostsv4 name.example | head -n 1 || true' 2>err </dev/null)
    umount /etc/resolv.conf
    echo "$hosts: $(echo "$found" | cut -d' ' -f1): $(grep -c 'resolve no names' err)"
done
