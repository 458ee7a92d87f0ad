"""What `requirements=` asks for: lines, requirements.txt and pyproject.toml files, projects and wheels on this disk."""

from __future__ import annotations

import codecs
import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from batchexec._logins import has_login, is_cut, masked
from batchexec.errors import RequirementsError

if TYPE_CHECKING:
    from batchexec._source.packages.wheels import Wheel

_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
_INDEX_OPTIONS = ("-i", "--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links")
_OTHER_OPTIONS = ("--no-binary", "--only-binary", "--trusted-host")  # with a value
_FLAGS = ("--no-index", "--prefer-binary", "--pre", "--require-hashes")
_IGNORED = ("--use-feature", "--no-build-isolation")  # of pip alone, and of no use on a node
_LONG = {"-i": "--index-url", "--pypi-url": "--index-url", "-f": "--find-links"}


@dataclass
class Wanted:
    """What was asked for, read.

    `requirements` are PEP 508 lines, which may end in hashes as in a requirements.txt; `constraints` too; `options`
    words of a pip command line; `projects` directories and archives on this disk, with their extras ("[a,b]" or "").
    """

    auto: bool = False
    requirements: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    projects: list[tuple[str, str]] = field(default_factory=list)
    wheels: dict[str, Wheel] = field(default_factory=dict)  # those of `projects` and other directories built so far

    @property
    def explicit(self) -> bool:
        """Whether there is something beside what `auto` finds."""
        return bool(self.requirements or self.projects)

    def wheel(self, path: str) -> Wheel:
        """That of a project or archive; built once. Raises RequirementsError."""
        from batchexec._source.packages.wheels import built

        if path not in self.wheels:
            self.wheels[path] = built(path)
        return self.wheels[path]


def read(entries: tuple[str, ...], *, local: bool) -> Wanted:
    """Read what the setting names. `local`: the nodes are this machine, and see its directories.

    Raises RequirementsError, which names file and line.
    """
    wanted = Wanted()
    for entry in entries:
        if entry == "auto":
            wanted.auto = True
        else:
            _entry(entry, wanted, local)
    return wanted


def is_file(entry: str) -> bool:
    """Whether an entry of the setting names a requirements file or a pyproject.toml."""
    return not entry.startswith("-") and (entry.endswith(".txt") or bool(_pyproject(entry)))


def line_of(text: str) -> Requirement:
    """A PEP 508 line without its hashes. Raises ValueError saying what is wrong with it."""
    try:
        return Requirement(text.partition(" --hash")[0].strip())
    except InvalidRequirement as error:
        raise ValueError(" ".join(str(error).split())) from error


def path_of(entry: str, base: str = "") -> tuple[str, str] | None:
    """The project or archive on this disk that an entry names, as pip would take it, and its extras as "[a,b]".

    None for other lines. A relative path is one from here or, where there is nothing, from the directory `base`.
    """
    if entry.startswith("file:"):
        return unquote(urlsplit(entry).path), ""
    named = re.match(r"[\w.-]+\s*(\[[^\]]*\])?\s*@\s*(\S+)", entry)
    if named:
        return (unquote(urlsplit(named[2]).path), named[1] or "") if named[2].startswith("file:") else None
    match = re.fullmatch(r"(.*?)(\[[\w\s,.-]*\])?", entry)
    bare, extras = (match[1], match[2] or "") if match else (entry, "")
    if "://" in entry or not (bare.endswith(_ARCHIVES) or "/" in bare or os.sep in bare or bare in (".", "..")):
        return None
    bare = os.path.expanduser(bare)
    found = os.path.abspath(bare)
    return (found if os.path.exists(found) else os.path.abspath(os.path.join(base, bare))), extras


def _entry(entry: str, wanted: Wanted, local: bool) -> None:
    pyproject = _pyproject(entry)
    if pyproject:
        _read_pyproject(*pyproject, wanted)
    elif is_file(entry):
        _read_file(entry, wanted, local, constraints=False, above=())
    else:
        _line(entry, wanted, local, "requirements=", above=())


def _pyproject(entry: str) -> tuple[str, tuple[str, ...]] | None:
    match = re.fullmatch(r"(.*?pyproject\.toml)(?:\[([^\]]*)\])?", entry)
    return (match[1], tuple(x.strip() for x in (match[2] or "").split(",") if x.strip())) if match else None


def _read_pyproject(path: str, extras: tuple[str, ...], wanted: Wanted) -> None:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = toml.loads(_text(path))
    except ValueError as error:
        raise RequirementsError(f"{path} is not valid TOML: {error}") from error
    project = document.get("project")
    if not isinstance(project, dict):
        raise RequirementsError(f"{path} has no table [project]: write the packages into a requirements.txt instead")
    dynamic = project.get("dynamic", ())
    if "dependencies" in dynamic or (extras and "optional-dependencies" in dynamic):
        raise RequirementsError(
            f"{path}: its dependencies are dynamic, so they are not in it: write them into a requirements.txt instead"
        )
    groups = project.get("optional-dependencies", {})
    own = canonicalize_name(str(project.get("name", "")))
    lines = list(project.get("dependencies", ()))
    asked = list(extras)
    for extra in asked:
        if extra not in groups:
            raise RequirementsError(f"{path} has no optional dependencies {extra!r}: it has {sorted(groups) or 'none'}")
        lines += groups[extra]
        for line in groups[extra]:
            requirement = _checked(line, path)
            if canonicalize_name(requirement.name) == own:  # an extra may stand for others of its own project
                asked += sorted(requirement.extras - set(asked))
    wanted.requirements += [line for line in lines if canonicalize_name(_checked(line, path).name) != own]


def _read_file(path: str, wanted: Wanted, local: bool, *, constraints: bool, above: tuple[str, ...]) -> None:
    real = os.path.realpath(path)
    if real in above:
        raise RequirementsError(f"{path} includes itself")
    for number, line in _logical_lines(_text(path)):
        where = f"{path}, line {number}"
        line = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda match: os.environ.get(match[1], match[0]), line)
        if line.startswith("-"):
            _option(line, wanted, local, where, path, constraints, (*above, real))
        elif constraints:
            _checked(line, where)
            wanted.constraints.append(line)
        else:
            _line(line, wanted, local, where, (*above, real))


def _line(line: str, wanted: Wanted, local: bool, where: str, above: tuple[str, ...]) -> None:
    if line.startswith("-"):
        _option(line, wanted, local, where, os.curdir, False, above)
        return
    named = path_of(line, os.path.dirname(above[-1]) if above else "")
    if named is not None:
        if not os.path.exists(named[0]):
            by_conda = re.search(r"/croot/|feedstock_root|conda-bld", named[0])
            hint = " (pip freeze writes so of conda's packages; pip list --format=freeze does not)" if by_conda else ""
            raise RequirementsError(f"{where}: there is no {named[0]}{hint}")
        wanted.projects.append(named)
        return
    _checked(line, where)
    wanted.requirements.append(line)


def _option(
    line: str, wanted: Wanted, local: bool, where: str, path: str, constraints: bool, above: tuple[str, ...]
) -> None:
    """A line of a requirements file that begins with an option."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequirementsError(f"{where}: {masked(line)!r} is no option: {error}") from error
    if "=" in words[0] and words[0].startswith("--"):
        words[:1] = words[0].split("=", 1)
    name, value = words[0], " ".join(words[1:])
    if name[:2] in ("-r", "-c", "-e", "-i", "-f") and len(name) > 2 and name[1] != "-":
        name, value = name[:2], name[2:]
    needs_value = name in (*_INDEX_OPTIONS, *_OTHER_OPTIONS, "-r", "--requirement", "-c", "--constraint", "-e")
    if needs_value and not value:
        raise RequirementsError(f"{where}: {name} needs a value")
    beside = os.path.join(os.path.dirname(path), value)
    if name in ("-r", "--requirement"):
        _read_file(beside, wanted, local, constraints=constraints, above=above)
    elif name in ("-c", "--constraint"):
        _read_file(beside, wanted, local, constraints=True, above=above)
    elif name in ("-e", "--editable"):
        _line(value, wanted, local, where, above or (os.path.abspath(path),))
    elif name in _INDEX_OPTIONS:
        wanted.options += [_LONG.get(name, name), _reachable(value, beside, local, where)]
    elif name in _OTHER_OPTIONS:
        wanted.options += [name, value]
    elif name in _FLAGS:
        wanted.options.append(name)
    elif name not in _IGNORED:
        raise RequirementsError(f"{where}: {name} is not understood here: leave it out, or give it in pip_options=")


def _reachable(value: str, beside: str, local: bool, where: str) -> str:
    """A URL as it is; a directory of this machine only where the nodes see it."""
    if is_cut(value):
        raise RequirementsError(f"{where}: the login in {masked(value)!r} needs %2F, %3F and %23 for '/', '?' and '#'")
    if "://" in value and not value.startswith("file:"):
        return value
    if not local:
        raise RequirementsError(
            f"{where}: {value} is a place on this machine, which nodes do not see: list the wheels in it by their "
            "paths, or use an index that nodes can reach"
        )
    return os.path.abspath(beside) if os.path.isdir(beside) else value


def _checked(line: str, where: str) -> Requirement:
    if has_login(line):
        raise RequirementsError(
            f"{where}: {masked(line)!r} holds a login, which would lie in storage with the job: install "
            "it here, and 'auto' will send it as a wheel, or have it on an index whose login is in pip_options="
        )
    try:
        return line_of(line)
    except ValueError as error:
        by_conda = re.fullmatch(r"[\w.-]+=[\w.!+]+(=\w+)?", line)
        hint = " (it is one of conda's; pip list --format=freeze writes requirements)" if by_conda else ""
        raise RequirementsError(f"{where}: {line!r} is not a requirement{hint}: {error}") from error


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, numbered by where they begin; without comments and empty ones."""
    pending = ""
    began = 0
    for number, raw in enumerate(text.splitlines(), 1):
        began = began if pending else number
        line = re.sub(r"(^|\s)#.*$", "", raw)
        if raw.endswith("\\") and line == raw:
            pending += line[:-1]
            continue
        line, pending = (pending + line).strip(), ""
        if line:
            yield began, line
    if pending.strip():
        yield began, pending.strip()


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
        # As PowerShell writes what `pip freeze` says, and pip reads it.
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise RequirementsError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequirementsError(f"{path} is not UTF-8 text: {error}") from error
