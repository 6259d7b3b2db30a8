#!/bin/sh
# The recipe dev, in the system that is being built: mise, which Debian and Ubuntu have no package of. It is the one that the host
# gave where that runs here, else that of mise's own package archive. Nothing is taken from the network that nobody signed.
set -eu
given=/tmp/banger-given/mise
url=https://mise.jdx.dev
# "mise releases <release@mise.jdx.dev>", as mise's installation page has it.
fingerprint=24853EC9F655CE80B48E6C3A8B81C9D17413A06D
keyring=/etc/apt/keyrings/mise-archive-keyring.gpg

fail() {
    echo "E: $*" >&2
    exit 1
}

# version_of PROGRAM: what it says of itself; it leaves nothing behind.
version_of() {
    env HOME="$scratch" MISE_OFFLINE=1 "$1" --version 2>&1 | head -n 1 | cut -c 1-100
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -e "$given" ]; then
    chmod 755 "$given"
    if env HOME="$scratch" MISE_OFFLINE=1 "$given" --version > /dev/null 2> "$scratch/said"; then
        mv "$given" /usr/local/bin/mise
        echo "mise is the host's: $(version_of mise)" > /tmp/banger-notes
        exit 0
    fi
    said=$(head -c 200 "$scratch/said" | head -n 1)
    [ "$BANGER_MISE_NEEDED" != 1 ] || fail "the given mise does not run in the image: $said"
    echo "I: the host's mise does not run in the image: $said" >&2
fi

other="give a mise of your own with --mise FILE"
curl -fsS --retry 2 --connect-timeout 20 --max-time 120 "$url/gpg-key.pub" -o "$scratch/key" ||
    fail "cannot get the key of mise's package archive from $url: $other"
install -d -m 700 "$scratch/gnupg"
export GNUPGHOME="$scratch/gnupg"
gpg --batch --quiet --import "$scratch/key" || fail "what $url gives as its key is none: $other"
install -d -m 755 /etc/apt/keyrings
gpg --batch --quiet --export "$fingerprint" > "$keyring"
[ -s "$keyring" ] || fail "the key of $url is not $fingerprint, which mise's makers publish: $other"
echo "deb [signed-by=$keyring arch=$(dpkg --print-architecture)] $url/deb stable main" \
    > /etc/apt/sources.list.d/mise.list
apt-get update -q || fail "cannot read mise's package archive at $url: $other"
apt-get install -y -q --no-install-recommends mise || fail "cannot install mise from $url: $other"
echo "mise is that of $url/deb, and apt upgrade renews it: $(version_of mise)" > /tmp/banger-notes
