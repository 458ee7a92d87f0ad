"""Where the files of items go on this machine: directories, names that this system takes, and none of them twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

Directory = Callable[[int, int], Path]

_RESERVED = frozenset('<>:"\\|?*%')
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{kind}{digit}" for kind in ("com", "lpt") for digit in "123456789¹²³"))
)
_FOLDS = sys.platform in ("win32", "darwin")  # names that differ in case only are the same there


class Unplaceable(Exception):
    """A relative path that leads outside; no worker of ours signs one."""


def parts(relative_path: str, windows: bool = sys.platform == "win32") -> list[str]:
    """The path's parts as names on this system. Raises Unplaceable.

    On Windows, characters that a name cannot have there (and "%") become %xx, as do the last character of a name that
    ends with a dot or a blank, and the first of one that stands for a device.
    """
    found = relative_path.split("/")
    if not {"", ".", ".."}.isdisjoint(found) or "\0" in relative_path:
        raise Unplaceable(relative_path)
    return [_for_windows(part) for part in found] if windows else found


def template(text: str, base: str) -> Directory:
    """The directories that `output_dir` names below `base`: `{item}` is the item's number in its executor."""
    return lambda item, index: Path(base, os.path.expanduser(text.format(item=item)))


def is_shared(text: str) -> bool:
    """Whether all items have the same directory."""
    return text.format(item=0) == text.format(item=1)


class Destinations:
    """Gives each file a path of its own: what one item of an executor wrote, another one does not replace."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[int, str]] = {}
        self.renamed: list[Path] = []

    def place(self, directory: Path, item: int, relative_path: str, shared: bool) -> Path:
        """The path for this file of the item. `shared`: whether other items have the same directory; there, a file
        whose name another item took gets the item's number into its own. Raises Unplaceable."""
        *way, name = parts(relative_path)
        path = directory.joinpath(*way, name)
        if not shared and not _FOLDS:
            return path
        stem, dot, ending = name.partition(".") if not name.startswith(".") else (name, "", "")
        mark, tries = f"item{item}", 1
        while self._taken.setdefault(_key(path), (item, relative_path)) != (item, relative_path):
            path = directory.joinpath(*way, f"{stem}.{mark}{dot}{ending}")
            tries += 1
            mark = f"item{item}-{tries}"
        if path.name != name:
            self.renamed.append(path)
        return path


def _key(path: Path) -> str:
    return str(path).casefold() if _FOLDS else str(path)


def _for_windows(name: str) -> str:
    name = "".join(f"%{ord(one):02x}" if one in _RESERVED or one < " " else one for one in name)
    if name.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if name[-1] in ". ":
        name = f"{name[:-1]}%{ord(name[-1]):02x}"
    return name
