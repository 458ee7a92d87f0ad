"""What a path, directory or glob stands for: local files, each with its place below a node's working directory."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator

from batchexec.errors import FilesError

from .hashes import unreadable

_LEFT_OUT = frozenset({".git", "__pycache__"})

Found = tuple[str, "str | None"]  # the place there; the file here, None for a directory


def below(source: str, there: str | None, base: str) -> Iterator[Found]:
    """The files and directories that `source` stands for. `there` is where they go; None: where they are, seen from
    `base`. Raises FilesError when there are none, or one of them cannot be had."""
    path = os.path.normpath(os.path.join(base, source))
    if os.path.lexists(path):
        target = _same_place(path, source, base) if there is None else there
        yield from _taken(path, target)
        return
    if not glob.has_magic(source):
        if "://" in source:
            raise FilesError(f"{source!r} is a URL: BlobPath('container/name') names what is in the storage account")
        home = ". A ~ is not replaced here: os.path.expanduser does so" if source.startswith("~") else ""
        raise FilesError(f"{source!r} is not there: looked for it at {path!r}{home}")
    matches = sorted(match for match in glob.glob(path, recursive=True) if not _left_out(match[len(base) :]))
    if not matches:
        raise FilesError(f"{source!r} matches no file (in {base!r})")
    root = _fixed_part(path)
    for match in matches:
        match = os.path.normpath(match)
        if there is None:
            target = _same_place(match, source, base)
        else:
            target = "/".join(part for part in (there, _posix(os.path.relpath(match, root))) if part not in ("", "."))
        if os.path.isdir(match) and "**" in source:
            yield target, None  # what is in it matches too, as far as it is meant
        else:
            yield from _taken(match, target)


def regular(path: str) -> os.stat_result:
    """The state of the file `path`. Raises FilesError when it is none."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        what = "is a link that leads nowhere" if os.path.islink(path) else "is not there"
        raise FilesError(f"{path!r} {what}") from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise FilesError(f"{path!r} is {_kind(state.st_mode)}: only files and directories can be sent")
    return state


def _taken(path: str, target: str) -> Iterator[Found]:
    if os.path.isdir(path):
        yield from _tree(path, target, ())
    else:
        regular(path)
        yield target, path


def _tree(path: str, target: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    """The directory `path` and all in it. `above` are the directories that it was reached through."""
    try:
        state = os.stat(path)
        children = sorted(os.listdir(path))
    except OSError as error:
        raise unreadable(path, error) from error
    here = (state.st_dev, state.st_ino)
    if here in above:
        raise FilesError(f"{path!r} is a link to a directory that it lies in: a loop cannot be sent")
    if target:
        yield target, None
    for name in children:
        if name in _LEFT_OUT:
            continue
        inner, place = os.path.join(path, name), f"{target}/{name}" if target else name
        if os.path.isdir(inner):
            yield from _tree(inner, place, (*above, here))
        else:
            yield place, inner


def _same_place(path: str, source: str, base: str) -> str:
    """Where `path` is, seen from `base`."""
    if path == base:
        return ""
    inside = os.path.join(base, "")
    if not path.startswith(inside):  # perhaps by another name of the same directory
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        inside = os.path.join(os.path.realpath(base), "")
    if not path.startswith(inside):
        raise FilesError(
            f"{source!r} is outside of the current directory ({base!r}), so it has no place in the tasks' working "
            f"directory: say where it shall be, as in files={{{os.path.basename(path)!r}: {source!r}}}"
        )
    return _posix(path[len(inside) :])


def _fixed_part(pattern: str) -> str:
    """The directory that a glob's matches are below."""
    head = pattern
    while glob.has_magic(head):
        head = os.path.dirname(head)
    return head


def _left_out(path: str) -> bool:
    return not _LEFT_OUT.isdisjoint(path.split(os.sep))


def _posix(path: str) -> str:
    return path.replace(os.sep, "/") if os.sep != "/" else path


def _kind(mode: int) -> str:
    for test, what in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return what
    return "no file"
