"""Stock git of which nothing on this machine, and nothing in the tree that it looks at, changes what it does."""

import os
import subprocess

# What outranks every .gitattributes of the tree: no conversion of any kind.
NO_ATTRIBUTES = "* -text -eol -filter -ident !working-tree-encoding -whitespace\n"


def environment(home):
    """The variables that sealed git runs with; `home` is an empty directory."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": home, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": os.path.dirname(home)}


def repository(place, object_format="sha1", exclude=b""):
    """Makes an empty git directory at `place`, by hand: a process less, and nothing of a template."""
    for name in ("objects", "refs", "info"):
        os.makedirs(os.path.join(place, name))
    sha256 = object_format == "sha256"
    config = f"[core]\n\trepositoryformatversion = {1 if sha256 else 0}\n\tautocrlf = false\n\tsafecrlf = false\n"
    config += "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
    for name, text in (("HEAD", b"ref: refs/heads/main\n"), ("config", config.encode()), ("info/exclude", exclude),
                       ("info/attributes", NO_ATTRIBUTES.encode())):
        with open(os.path.join(place, name), "wb") as file:
            file.write(text)


def git(home, directory, *args, stdin=b""):
    """Runs git there; gives status, stdout, stderr."""
    done = subprocess.run(["git", *args], cwd=directory, env=environment(home), input=stdin, capture_output=True, timeout=300)
    return done.returncode, done.stdout, done.stderr
