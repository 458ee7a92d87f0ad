"""What is likely meant when a node has not what is on this machine: a path, a name of the script."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import PurePath
from typing import Any

_LOOKED_AT = 100  # elements of a list or mapping among the arguments
# Nodes have these too, so that they may well be meant for there: with all below them, or by themselves.
_SYSTEM = ("/bin/", "/dev/", "/etc/", "/lib/", "/lib64/", "/proc/", "/sbin/", "/sys/", "/usr/")
_COMMON = ("/", "/home/", "/mnt/", "/opt/", "/root/", "/tmp/", "/var/")
_MISSING_IN_MAIN = re.compile(r"Can't get attribute '([^']+)' on <module '__main__'")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def missing_in_main(text: str) -> str | None:
    """What to do about an object of the script or notebook that a node did not find, by what unpickling said of it."""
    found = _MISSING_IN_MAIN.match(text)
    if found is None:
        return None
    return (
        f"{found[1]} is of the script or notebook itself, and pickled by its name alone, as are functions under "
        "functools.cache and lru_cache there: have it in a module and import it, which travels, or make the cache "
        "inside the function that is sent."
    )


def missing_file(error: FileNotFoundError) -> str | None:
    """What to do about a file that a node did not find, when it is on this machine."""
    for name in _names_in(error):
        path = os.path.abspath(name)
        inside = _below_here(path)
        if inside is None and "/wd/" in name:  # an absolute path in the task's own working directory
            inside = name.rpartition("/wd/")[2]
            path = os.path.abspath(inside)
        if not os.path.exists(path):
            continue
        if inside is not None and not os.path.isabs(name):
            advice = f"files=[{name!r}] of BatchExecutor sends it along"
        elif inside is not None:
            advice = f"files=[{inside!r}] of BatchExecutor sends it along, to be opened by that relative path"
        else:
            there = os.path.basename(path)
            advice = f"files={{{there!r}: {name!r}}} of BatchExecutor sends it along, to be opened as {there!r}"
        return f"{name!r} is on this machine ({path}), and not on the node: {advice}."
    return None


def local_path(items: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> str | None:
    """A warning about the first path of this machine among the arguments of calls that run elsewhere."""
    for args, kwargs in items:
        for value in (*args, *kwargs.values()):
            for one in _elements(value):
                if type(one).__name__ == "WindowsPath":
                    return (
                        f"{_shown(one)} among the arguments is a WindowsPath, which nodes cannot load: pass "
                        "path.as_posix(), relative to the current directory, and send the file along with files="
                    )
                if isinstance(one, (str, PurePath)) and _is_here(os.fspath(one)):
                    return (
                        f"{os.fspath(one)!r} among the arguments is a path of this machine, which nodes do not see: "
                        "send it along with files= and pass its relative path"
                    )
    return None


def _names_in(error: FileNotFoundError) -> Iterator[str]:
    for name in (error.filename, error.filename2):
        if isinstance(name, (str, bytes)):
            yield os.fsdecode(name)
    if error.filename is None and error.args and isinstance(error.args[0], str):
        found = re.fullmatch(r"(.+?) (?:not found|does not exist)\.?", error.args[0])  # numpy's words, among others
        if found:
            yield found[1].strip("'\"")


def _below_here(path: str) -> str | None:
    """The path, seen from the current directory; None when it is not below that."""
    here = os.path.join(os.getcwd(), "")
    return path[len(here) :] if path.startswith(here) else None


def _elements(value: object) -> Iterator[object]:
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from islice(value, _LOOKED_AT)
    elif isinstance(value, dict):
        yield from islice(value.values(), _LOOKED_AT)
    else:
        yield value


def _is_here(text: str) -> bool:
    if not text.startswith("/") and not _DRIVE.match(text):
        return False
    folder = text.rstrip("/") + "/"
    if folder in _COMMON or folder.startswith(_SYSTEM):
        return False
    try:
        return os.path.exists(text)
    except (OSError, ValueError):  # too long, or not a path at all
        return False


def _shown(path: object) -> str:
    try:
        return repr(str(path))
    except Exception:  # noqa: BLE001 - one made on another system; its class alone tells enough
        return "a path"
