"""Words of a POSIX shell, whatever their bytes. Scripts are `str` with surrogates for bytes that are no UTF-8 (os.fsdecode)."""

import os


def quote(text):
    """`text` (str or bytes) as one word."""
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return "'" + text.replace("'", "'\\''") + "'"


def path(name):
    """A path below the current directory as one word that no program takes for an option."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return quote("./" + name)


def shown(script):
    """A script for a terminal: what cannot be printed is escaped, and long words are cut."""
    lines = []
    for line in script.split("\n"):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        lines.append(line if len(line) < 400 else f"{line[:300]} …({len(line)} characters)")
    return "\n".join(lines)
