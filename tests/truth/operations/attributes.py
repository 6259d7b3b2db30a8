"""Attributes and conversions: what a guest's git would make of bytes is not what lies on the disk."""

from . import kind

# Where a rule may stand; each is what comes before it in a shell.
PLACES = {
    "committed": "printf '{rule}\\n' >>.gitattributes; git add .gitattributes; git commit -qm attributes",
    "tree": "printf '{rule}\\n' >>.gitattributes",
    "info": "mkdir -p .git/info; printf '{rule}\\n' >>.git/info/attributes",
    "global": "mkdir -p /root/.config/git; printf '{rule}\\n' >>/root/.config/git/attributes",
    "file": "printf '{rule}\\n' >>/root/attrs; git config --global core.attributesFile /root/attrs",
    "system": "printf '{rule}\\n' >>/etc/gitattributes",
}
SCOPES = ("", "--global", "--system")


def rule(c, text, *places):
    return PLACES[c.pick(*(places or sorted(PLACES)))].format(rule=text)


def sample(c):
    """A file with both line endings, changed, and a new one."""
    return f"printf 'x {c.text()}\\r\\ny\\n' >{c.file()}; printf 'n {c.text()}\\r\\nm\\r\\n' >eol-{c.text()}.txt; printf 'a\\nb\\n' >lf-{c.text()}.txt"


@kind
def attribute_text_auto(c):
    return f"{rule(c, '* text=auto')}; {sample(c)}"


@kind
def attribute_text(c):
    return f"{rule(c, '* text')}; {sample(c)}"


@kind
def attribute_eol_crlf(c):
    return f"{rule(c, '* text=auto eol=crlf')}; {sample(c)}"


@kind
def attribute_eol_lf(c):
    return f"{rule(c, '* text eol=lf')}; {sample(c)}"


@kind
def attribute_binary(c):
    return f"{rule(c, c.pick('* binary', '* -diff', '* -text -diff', '* diff'))}; {sample(c)}"


@kind
def attribute_ident(c):
    return f"{rule(c, '* ident')}; f={c.file()}; printf '$Id: {c.text()} $\\n' >\"$f\"; printf '$Id: 1234 $\\n' >id-{c.text()}"


@kind
def attribute_encoding(c):
    return f"{rule(c, '*.txt working-tree-encoding=UTF-16')}; printf '\\376\\377\\000a' >u-{c.text()}.txt; printf 'not utf-16' >v-{c.text()}.txt; printf '\\377\\376b\\000' >doc/x.txt"


@kind
def attribute_encoding_latin1(c):
    return f"{rule(c, '* working-tree-encoding=ISO-8859-1')}; printf '\\344\\366\\n' >l-{c.text()}; printf '\\344\\n' >>{c.file()}"


@kind
def attribute_encoding_unknown(c):
    return f"{rule(c, '* working-tree-encoding=' + c.pick('NO-SUCH', 'UTF-7', 'UTF-16LE-BOM', 'SHIFT-JIS'))}; echo {c.text()} >>{c.file()}; echo {c.text()} >e-{c.text()}"


@kind
def attribute_other(c):
    return f"{rule(c, c.pick('* export-ignore', '* export-subst', '* -merge', '* whitespace=-blank-at-eol', '* conflict-marker-size=3', '* -delta', '* linguist-generated', '[attr]foo -text'))}; echo {c.text()} >>{c.file()}"


@kind
def attributes_removed(c):
    return f"rm -f .gitattributes src/.gitattributes; {sample(c)}"


@kind
def attributes_file_is_broken(c):
    return f"printf 'a b=c \\377 !-\\n\"x\\n[attr\\n' >.gitattributes; {sample(c)}"


@kind
def attributes_file_is_a_link(c):
    return f"rm -f .gitattributes; printf '* eol=crlf\\n' >/root/at; ln -s /root/at .gitattributes; {sample(c)}"


@kind
def attributes_file_is_a_directory(c):
    return f"rm -rf .gitattributes; mkdir .gitattributes; {sample(c)}; echo {c.text()} >.gitattributes/f"


@kind(2)
def filter_clean(c):
    scope = c.pick(*SCOPES)
    clean = c.pick("wc -c", "tr a-z A-Z", "cat /dev/null", "sed s/a/b/g", "sort")
    return f"{rule(c, '* filter=big')}; git config {scope} filter.big.clean '{clean}'; echo changed {c.text()} >>{c.file()}; echo new {c.text()} >filtered-{c.text()}"


@kind
def filter_clean_on_what_was_sent(c):
    """Nothing but the filter changes: the patch is to be empty."""
    return f"{rule(c, '* filter=up', 'info')}; git config filter.up.clean 'tr a-z A-Z'; git config filter.up.smudge 'tr A-Z a-z'; touch -d @1 README.md src/a.c"


@kind
def filter_required_that_fails(c):
    return f"{rule(c, '* filter=bad')}; git config {c.pick(*SCOPES)} filter.bad.required true; git config {c.pick(*SCOPES)} filter.bad.clean false; echo {c.text()} >>{c.file()}; echo {c.text()} >f-{c.text()}"


@kind
def filter_that_is_missing(c):
    return f"{rule(c, '* filter=gone')}; git config filter.gone.clean /no/such/program; git config filter.gone.required true; echo {c.text()} >>{c.file()}"


@kind
def filter_process(c):
    return f"{rule(c, '* filter=proc')}; git config {c.pick(*SCOPES)} filter.proc.process 'sh -c \"exit 1\"'; git config filter.proc.required true; echo {c.text()} >>{c.file()}"


@kind
def filter_that_changes_files(c):
    return f"{rule(c, '* filter=evil')}; git config filter.evil.clean '[ -s /root/repo/by-the-filter ] || echo touched >>/root/repo/by-the-filter; cat'; echo {c.text()} >>{c.file()}; git add -A"


@kind
def filter_of_lfs(c):
    return (f"{rule(c, '*.dat filter=lfs diff=lfs merge=lfs -text')}; git config --global filter.lfs.clean 'printf \"version https://git-lfs.github.com/spec/v1\\n\"'; "
            f"git config --global filter.lfs.required true; mkdir -p data; echo {c.text()} >>data/f.dat; echo {c.text()} >data/new-{c.text()}.dat")


@kind
def diff_driver(c):
    return f"{rule(c, '* diff=mine')}; git config {c.pick(*SCOPES)} diff.mine.{c.pick('textconv', 'command')} '{c.pick('wc -c', 'true', 'false')}'; git config diff.mine.binary true; echo {c.text()} >>{c.file()}"


@kind(2)
def autocrlf(c):
    return f"git config {c.pick(*SCOPES)} core.autocrlf {c.pick('true', 'input', 'false')}; {sample(c)}"


@kind
def autocrlf_and_time_back(c):
    f = c.file()
    return f"git config core.autocrlf input; printf 'a\\nb\\n' >{f}; git add {f}; git commit -qm x; printf 'a\\r\\nb\\r\\n' >{f}"


@kind
def core_eol(c):
    return f"git config {c.pick(*SCOPES)} core.eol {c.pick('crlf', 'lf', 'native')}; {rule(c, '* text=auto')}; {sample(c)}"


@kind
def safecrlf(c):
    return f"git config {c.pick(*SCOPES)} core.safecrlf {c.pick('true', 'warn')}; git config core.autocrlf {c.pick('true', 'input')}; {sample(c)}"


@kind
def line_endings_alone(c):
    return f"git config core.autocrlf {c.pick('true', 'input')}; find . -path ./.git -prune -o -type f -exec sed -i 's/\\r*$/\\r/' {{}} +"


@kind
def encodings_of_messages(c):
    return f"git config i18n.commitEncoding ISO-8859-1; git config gui.encoding x; git config core.checkRoundtripEncoding UTF-16; echo {c.text()} >>{c.file()}; git commit -qam \"$(printf '\\344')\""
