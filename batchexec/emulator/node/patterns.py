"""Patterns of output files: which files of a task's directory they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_WILD = re.compile(r"[*?\[]")


class OutsideError(ValueError):
    """A pattern that leaves the task's directory."""


class Found(NamedTuple):
    """Files that a pattern means: their paths, and each one's name relative to where the wildcards begin.

    Without wildcards there is one at most, and `single` is true.
    """

    files: list[tuple[str, str]]
    single: bool


def find(pattern: str, root: str, env: Mapping[str, str]) -> Found:
    """Look for a pattern, which is relative to `wd` under the task's directory `root`.

    As the service documents it: `*`, `?` and `[...]` within a name, `**` for any directories; environment variables
    are put in first; names that begin with a dot are meant only where that is written. Symbolic links are followed as
    far as they stay in the task's directory. OutsideError where the pattern does not.
    """
    pattern = _VARIABLE.sub(lambda match: env.get(match[1] or match[2], match[0]), pattern)
    whole = os.path.normpath(os.path.join(root, "wd", pattern))
    relative = os.path.relpath(whole, root)
    if relative == ".." or relative.startswith("../") or "\0" in pattern:
        raise OutsideError(pattern)
    parts = relative.split("/")
    fixed = next((index for index, part in enumerate(parts) if _WILD.search(part)), None)
    real_root = os.path.realpath(root)
    if fixed is None:
        path = os.path.join(root, relative)
        return Found([(path, os.path.basename(path))] if _is_inner_file(path, real_root) else [], True)
    base = os.path.join(root, *parts[:fixed])
    if parts[-1] == "**":
        parts.append("*")
    paths = sorted({path for path in _walk(base, parts[fixed:]) if _is_inner_file(path, real_root)})
    return Found([(path, os.path.relpath(path, base)) for path in paths], False)


def _is_inner_file(path: str, real_root: str) -> bool:
    real = os.path.realpath(path)
    return os.path.isfile(real) and real.startswith(real_root + "/")


def _walk(directory: str, parts: list[str]) -> Iterator[str]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walk(directory, rest)
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, parts)
        return
    for entry in entries:
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        if _compiled(part).match(entry.name):
            if not rest:
                yield entry.path
            elif entry.is_dir():
                yield from _walk(entry.path, rest)


@lru_cache(256)
def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(translate(part))
