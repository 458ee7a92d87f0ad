"""Installed distributions: which one a module belongs to, what it requires, and where it was installed from."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_COMPILED = (".so", ".pyd", ".dylib", ".dll")
# Their classifiers do not say so.
_ONLY_ELSEWHERE = {
    "appnope": "macOS",
    "comtypes": "Windows",
    "pywin32": "Windows",
    "pywin32-ctypes": "Windows",
    "pywinpty": "Windows",
    "pypiwin32": "Windows",
    "win32-setctime": "Windows",
    "windows-curses": "Windows",
    "wmi": "Windows",
}
_NOT_ON_PYPI = frozenset(
    {"ambertools", "anaconda-navigator", "conda-libmamba-solver", "fenics-dolfinx", "graph-tool", "libmambapy"}
    | {"menuinst", "openmc"}
)


class Installed:
    """One distribution as it is installed here. Names are normalised."""

    def __init__(self, found: importlib.metadata.Distribution) -> None:
        self._found = found
        self.title: str = found.metadata["Name"] or ""
        self.name: str = canonicalize_name(self.title)
        self.version: str = found.version

    @property
    def public_version(self) -> str:
        """Without a `+local` part, which indexes do not carry."""
        return self.version.partition("+")[0]

    @functools.cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """What it requires, as far as it can be read."""
        return tuple(r for line in self._found.requires or () if (r := _requirement(line)) is not None)

    @functools.cached_property
    def files(self) -> tuple[importlib.metadata.PackagePath, ...]:
        """What its RECORD lists, relative to the directory it is installed in; empty where it has none."""
        return tuple(self._found.files or ()) if self.text("RECORD") else ()

    @property
    def compiled(self) -> bool:
        """Whether it has compiled code, which may not run on another machine."""
        tags = [line for line in (self.text("WHEEL") or "").splitlines() if line.startswith("Tag:")]
        return any(not tag.endswith("-any") for tag in tags) or any(str(f).endswith(_COMPILED) for f in self.files)

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """Its direct_url.json (PEP 610); empty when it came from an index, or from conda."""
        if self.from_conda:
            return {}
        try:
            found = json.loads(self.text("direct_url.json") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def from_conda(self) -> bool:
        """Conda's packages name directories of the machine that built them as their origin."""
        if (self.text("INSTALLER") or "").strip() == "conda":
            return True
        records = os.path.join(sys.prefix, "conda-meta")
        return os.path.isdir(records) and any(
            name.startswith(f"{self.name}-{self.version}-") for name in os.listdir(records)
        )

    @property
    def not_on_pypi(self) -> bool:
        """Whether conda alone has it."""
        return self.from_conda and self.name in _NOT_ON_PYPI

    @property
    def directory(self) -> str | None:
        """The project's own directory, when it was installed from one on this machine."""
        return _path(str(self.origin.get("url", ""))) if "dir_info" in self.origin else None

    @property
    def editable(self) -> bool:
        return bool((self.origin.get("dir_info") or {}).get("editable"))

    @property
    def only_on(self) -> str | None:
        """The system it is for, when that is not Linux: by its classifiers, or because it is known."""
        if self.name.startswith("pyobjc"):
            return "macOS"
        if self.name in _ONLY_ELSEWHERE:
            return _ONLY_ELSEWHERE[self.name]
        said = [
            text.split("::", 1)[1].strip()
            for text in self._found.metadata.get_all("Classifier") or ()
            if text.startswith("Operating System ::")
        ]
        if not said or not all(text.startswith(("Microsoft", "MacOS")) for text in said):
            return None
        return "Windows" if all(text.startswith("Microsoft") for text in said) else "macOS"

    def text(self, name: str) -> str | None:
        """A file of its metadata."""
        return self._found.read_text(name)

    def located(self, file: importlib.metadata.PackagePath) -> str:
        return os.path.abspath(str(self._found.locate_file(file)))


def find(name: str) -> Installed | None:
    """The distribution of this name, as an import would find its modules."""
    try:
        return Installed(importlib.metadata.distribution(name))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def owners(files: Iterable[str]) -> dict[str, Installed | None]:
    """The distribution that each file of a module belongs to; several share the directories of a namespace package.

    Looked up in the RECORD files, which takes a tenth of reading all metadata.
    """
    wanted: dict[str, set[str]] = {}
    found: dict[str, Installed | None] = {}
    for file in files:
        root = _root(file)
        if root is None:
            found[file] = None
        elif (file, root) in _owned:
            found[file] = _owned[file, root]
        else:
            wanted.setdefault(root, set()).add(file)
    for root, missing in wanted.items():
        found.update(_owners_in(root, missing))
        _owned.update({(file, root): one for file in missing if (one := found[file]) is not None})
    return found


def projects() -> list[Installed]:
    """Distributions installed in editable form: their modules travel as the user's own, what they require does not."""
    made = []
    for root in dict.fromkeys(os.path.abspath(path) for path in sys.path):
        for path in _metadata_in(root):
            if os.path.exists(os.path.join(path, "direct_url.json")):
                one = _at(path)
                if one.editable:
                    made.append(one)
    return made


_owned: dict[tuple[str, str], Installed] = {}  # an imported module's distribution stays what it was


def _owners_in(root: str, files: set[str]) -> dict[str, Installed | None]:
    found: dict[str, Installed | None] = dict.fromkeys(files)
    missing = {os.path.relpath(file, root).replace(os.sep, "/"): file for file in files}
    rest = []
    for path in _metadata_in(root):
        if not missing:
            return found
        record = _bytes(os.path.join(path, "RECORD"))
        if not record:
            rest.append(path)
            continue
        lines = b"\n" + record.replace(b"\r\n", b"\n")
        mine = [name for name in missing if b"\n" + name.encode() + b"," in lines]
        if mine:
            one = _at(path)
            found.update((missing.pop(name), one) for name in mine)
    for path in rest:  # Debian's packages and old installers keep no RECORD
        tops = set(_bytes(os.path.join(path, "top_level.txt")).decode("utf-8", "replace").split())
        tops = tops or {os.path.basename(path).partition("-")[0]}
        mine = [name for name in missing if name.split("/")[0].partition(".")[0] in tops]
        if mine:
            one = _at(path)
            found.update((missing.pop(name), one) for name in mine)
    return found


def _at(path: str) -> Installed:
    return Installed(importlib.metadata.PathDistribution(Path(path)))


def _metadata_in(root: str) -> tuple[str, ...]:
    try:
        return _listed(root, os.stat(root).st_mtime_ns)
    except OSError:  # a directory on the path that is not there, or an archive
        return ()


@functools.lru_cache(maxsize=64)
def _listed(root: str, mtime_ns: int) -> tuple[str, ...]:
    names = sorted(os.listdir(root))
    ends = (".dist-info", ".egg-info")
    # pip leaves what it could not remove under names that begin with a tilde.
    return tuple(os.path.join(root, name) for name in names if name.endswith(ends) and not name.startswith("~"))


def _root(file: str) -> str | None:
    """The directory on `sys.path` that distributions are installed in, above this file."""
    parts = file.split(os.sep)
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] in ("site-packages", "dist-packages"):
            return os.sep.join(parts[: index + 1])
    above = [root for path in sys.path if file.startswith((root := os.path.abspath(path)) + os.sep)]
    return max(above, key=len, default=None)


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _path(url: str) -> str | None:
    """The path that a file: URL names on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    return path.lstrip("/") if os.name == "nt" else path
