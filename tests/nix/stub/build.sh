# What buildRustPackage does after the compiler: install the programs, then run postInstall with the hooks' functions.
# Sourced by the stub's builder; `out`, `src`, `binDir`, `pname` and `postInstall` are in the environment.

installManPage() {
    local page
    for page in "$@"; do
        [ -s "$page" ] || { echo "installManPage: no page $page" >&2; return 1; }
        install -D -m 644 "$page" "$out/share/man/man${page##*.}/${page##*/}"
    done
}

installShellCompletion() {
    local name=
    while [ $# -gt 0 ]; do
        case $1 in
        --cmd) name=$2 ;;
        --bash) install -D -m 644 "$2" "$out/share/bash-completion/completions/$name.bash" ;;
        --fish) install -D -m 644 "$2" "$out/share/fish/vendor_completions.d/$name.fish" ;;
        --zsh) install -D -m 644 "$2" "$out/share/zsh/site-functions/_$name" ;;
        *) echo "installShellCompletion: $1" >&2; return 1 ;;
        esac
        shift 2
    done
}

substituteInPlace() {
    local file=$1 text
    [ $# = 4 ] && [ "$2" = --replace-fail ] || { echo "substituteInPlace: $*" >&2; return 1; }
    text=$(<"$file")
    [[ $text == *"$3"* ]] || { echo "substituteInPlace: $file has no $3" >&2; return 1; }
    printf '%s\n' "${text//"$3"/"$4"}" >"$file"
}

# As the real one does: the program moves to .NAME-wrapped, and a script that sets PATH takes its place.
wrapProgram() {
    local program=$1 before= after=
    shift
    while [ $# -gt 0 ]; do
        [ "$2" = PATH ] && [ "$3" = : ] || { echo "wrapProgram: $*" >&2; return 1; }
        case $1 in
        --prefix) before=$4: ;;
        --suffix) after=:$4 ;;
        *) echo "wrapProgram: $1" >&2; return 1 ;;
        esac
        shift 4
    done
    local hidden=${program%/*}/.${program##*/}-wrapped
    mv "$program" "$hidden"
    # shellcheck disable=SC2016 # $PATH and $@ are for the wrapper itself
    printf '#!/bin/sh\nPATH="%s$PATH%s" exec "%s" "$@"\n' "$before" "$after" "$hidden" >"$program"
    chmod 755 "$program"
}

mkdir -p "$out/bin"
if [ "$pname" = banger ]; then
    for program in banger banger-netd banger-disk banger-fc banger-qemu banger-ws; do
        install -m 755 "$binDir/$program" "$out/bin/$program"
    done
else
    touch "$out/bin/$pname"
fi
work=$(mktemp -d)
cp -r "$src/." "$work"
chmod -R u+w "$work"
cd "$work"
eval "$postInstall"
cd /
rm -rf "$work"
