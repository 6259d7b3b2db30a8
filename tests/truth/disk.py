"""What lies on a disk: an own walk that follows no link, reads names of any bytes and paths of any length."""

import os
import resource
import stat
from typing import NamedTuple

KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "dir", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
         stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


class Entry(NamedTuple):
    """One thing below a tree. `data` is a file's bytes or a link's target; directories have none."""

    kind: str
    executable: bool
    data: bytes

    @property
    def special(self):
        """Whether it is something that no patch holds, directories excepted."""
        return self.kind in ("fifo", "socket", "device")


def allow_deep_trees():
    """A walk holds one descriptor for each level."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def look(name, parent, details):
    """The entry `name` of the directory `parent`, and what `details` asks of it; None where it is gone meanwhile."""
    try:
        info = os.lstat(name, dir_fd=parent)
        kind, data = KINDS[stat.S_IFMT(info.st_mode)], b""
        if kind == "link":
            data = os.readlink(name, dir_fd=parent)
        elif kind == "file":
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
            with open(handle, "rb") as file:
                data = file.read()
    except FileNotFoundError:
        return None
    entry = Entry(kind, kind == "file" and bool(info.st_mode & 0o100), data)
    return (entry, info.st_mode, info.st_mtime_ns) if details else entry


def walk(root, details=False, enter=lambda path: True):
    """Everything below `root` by its path (bytes): entries, or with `details` entries, modes and times. `enter` says whether
    a directory's contents count."""
    found = {}
    # One level each: its path, its descriptor, and the names that are still to be looked at.
    levels = [(b"", os.open(root, os.O_RDONLY | os.O_DIRECTORY), None)]
    while levels:
        prefix, handle, names = levels[-1]
        if names is None:
            names = sorted(map(os.fsencode, os.listdir(handle)))
            levels[-1] = (prefix, handle, names)
        if not names:
            os.close(handle)
            levels.pop()
            continue
        name = names.pop()
        looked = look(name, handle, details)
        if looked is None:
            continue
        entry = looked[0] if details else looked
        path = prefix + name
        found[path] = looked
        if entry.kind == "dir" and enter(path):
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            except (FileNotFoundError, NotADirectoryError):
                continue
            levels.append((path + b"/", below, None))
    return found


def with_hard_links(root, found, paths):
    """`paths`, and those of the walk `found` of `root` that are other names of the same files."""
    def inode(path):
        try:
            looked = os.lstat(os.path.join(os.fsencode(root), path))
        except OSError:
            return None
        return (looked.st_dev, looked.st_ino) if looked.st_nlink > 1 else None

    inodes = {inode(path) for path in paths} - {None}
    return frozenset(paths | ({path for path, entry in found.items() if entry.kind == "file" and inode(path) in inodes} if inodes else set()))


def parents(path):
    """The directories above a path, the nearest first."""
    while b"/" in path:
        path = path.rsplit(b"/", 1)[0]
        yield path


def write(root, entries):
    """Makes the files, links and directories of `entries` below `root`."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    made = set()

    def make_directory(path):
        if path in made:
            return
        for above in list(parents(path))[::-1] + [path]:
            if above not in made:
                made.add(above)
                try:
                    os.mkdir(above, 0o755, dir_fd=handle)
                except FileExistsError:
                    pass

    for path, entry in entries.items():
        if entry.kind == "dir":
            make_directory(path)
            continue
        if b"/" in path:
            make_directory(path.rsplit(b"/", 1)[0])
        if entry.kind == "link":
            os.symlink(entry.data, path, dir_fd=handle)
        elif entry.kind == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(path, flags, 0o755 if entry.executable else 0o644, dir_fd=handle), "wb") as file:
                file.write(entry.data)
    os.close(handle)
