"""From the modules that a callable reaches to the packages that its tasks need, for a node and not for this machine."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from batchexec._source import requirements_files as files
from batchexec._source import wheels
from batchexec._source.distributions import Installed, find, owners, projects
from batchexec._source.modules import locate
from batchexec._source.reach import Reached, local_closure, unloaded_imports
from batchexec._source.requirements_files import Wanted
from batchexec.errors import RequirementsError

_NEVER = frozenset({"batchexec", "cloudpickle"})  # which the worker brings itself
_TORCH = frozenset({"torch", "torchaudio", "torchvision"})


@dataclass
class Plan:
    """What a node must have, as resolver input.

    `requirements`, `constraints`: lines. `wheels`: bytes by file name, to be installed beside them. `check`: normalised
    names and exact versions ("" for any) that make all of it unnecessary where an interpreter has them; None when only
    a resolver can tell. `reasons`: for each distribution that was found, the module or distribution that needs it.
    """

    requirements: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    wheels: dict[str, bytes] = field(default_factory=dict)
    check: list[tuple[str, str]] | None = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hints: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.requirements or self.wheels)


def modules_of(reached: Reached) -> frozenset[str]:
    """Third-party modules that the callable, and the user's modules that travel with it, import or may import."""
    return frozenset(reached.third_party) | unloaded_imports(reached.local)


def plan(wanted: Wanted, modules: Iterable[str], local: Iterable[str], here: bool) -> Plan:
    """What nodes must have for `wanted`, and for `modules` and what the projects of the `local` modules require when
    it says auto. `here`: the nodes are this machine, else Linux on x86_64.

    Raises RequirementsError for what no node can have as it is, or as a resolver could find it.
    """
    made = Plan(warnings=[])
    explicit = _explicit(wanted, made, here)
    if wanted.auto:
        constrained: set[str] = {canonicalize_name(files.line_of(line).name) for line in wanted.constraints}
        _Auto(wanted, made, explicit, constrained, here).add(sorted(modules), sorted(local))
    made.requirements = sorted(dict.fromkeys(made.requirements))
    made.constraints = sorted(dict.fromkeys(made.constraints))
    if made.wheels:
        made.check = None  # their versions may stay when their content changes
    elif made.check is not None:
        made.check = sorted(set(made.check))
    return made


def name_of(line: str) -> str:
    """The normalised name of the distribution that a requirement line is about."""
    return canonicalize_name(files.line_of(line).name)


@functools.cache
def node_environment(here: bool) -> dict[str, str]:
    """What markers of requirements (PEP 508) mean on a node: this Python minor, on Linux."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name if here else "posix",
        "platform_machine": platform.machine() if here else "x86_64",
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": "",
        "platform_system": platform.system() if here else "Linux",
        "platform_version": "",
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform if here else "linux",
    }


def _explicit(wanted: Wanted, made: Plan, here: bool) -> set[str]:
    """Add what was asked for by name; the names."""
    names: set[str] = set()
    for line in wanted.requirements:
        requirement = files.line_of(line)
        name = canonicalize_name(requirement.name)
        names.add(name)
        made.requirements.append(line)
        made.reasons[line] = "asked for"
        _check_line(requirement, made, here)
    for line in wanted.constraints:
        made.constraints.append(line)
        made.check = None
    for path, extras in wanted.projects:
        wheel = _built(path, wanted)
        names.add(wheel.name)
        made.wheels[wheel.file_name] = wheel.data
        made.reasons[wheel.file_name] = f"asked for as {path}"
        if extras:
            made.requirements.append(wheel.name + extras)
    return names


def _built(path: str, wanted: Wanted) -> wheels.Wheel:
    """Built once, however often plans are made."""
    if path not in wanted.wheels:
        wanted.wheels[path] = wheels.built(path)
    return wanted.wheels[path]


def _check_line(requirement: Requirement, made: Plan, here: bool) -> None:
    """Whether an interpreter has it can be said without a resolver for exact versions, and for any version."""
    if requirement.marker is not None and not _applies(requirement, here):
        return
    pins = [(one.operator, one.version) for one in requirement.specifier]
    exact = len(pins) == 1 and pins[0][0] in ("==", "===") and "*" not in pins[0][1]
    if requirement.url or requirement.extras or (pins and not exact):
        made.check = None
    if made.check is not None:
        made.check.append((canonicalize_name(requirement.name), pins[0][1].partition("+")[0] if pins else ""))


def _applies(requirement: Requirement, here: bool, extras: Iterable[str] = ("",)) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**node_environment(here), "extra": extra}) for extra in extras)


class _Auto:
    """The distributions that own modules, and the versions of what they require."""

    def __init__(self, wanted: Wanted, made: Plan, explicit: set[str], constrained: set[str], here: bool) -> None:
        self._wanted = wanted
        self._made = made
        self._explicit = explicit | _NEVER
        self._constrained = constrained  # by the user: their versions are not ours to say
        self._here = here
        self._extras: dict[str, set[str]] = {}  # of the distributions met
        self._not_here: set[str] = set()  # required on other systems only
        self._hints: list[str] = []

    def add(self, modules: list[str], local: list[str]) -> None:
        needed: dict[str, tuple[Installed, str]] = {}
        located = {name: file for name in modules if (file := locate(name)) is not None}
        owned = owners(located.values())
        for name in modules:
            one = owned.get(located.get(name, ""))
            if one is not None:
                needed.setdefault(one.name, (one, f"module {name}"))
            elif name in located:
                self._warn(
                    f"module {name} ({located[name]}) belongs to no installed distribution: nodes will not have it "
                    "unless their image does"
                )
        for one, requirement in self._of_projects(local):
            needed.setdefault(one.name, (one, f"required by your project {requirement}"))
        for name in [name for name in needed if name in self._explicit]:
            del needed[name]
        closure = self._closure([one for one, _ in needed.values()])
        elsewhere = [name for name, (one, _) in needed.items() if one.only_on and not self._here]
        for name in elsewhere:
            one, reason = needed.pop(name)
            if name not in self._not_here:
                raise RequirementsError(
                    f"{one.title} {one.version} ({reason}) is for {one.only_on}, nodes are Linux: do without it there, "
                    f"or list what is needed in place of 'auto' (requirements=[...])"
                )
        for one, reason in needed.values():
            self._require(one, reason)
        for name, one in closure.items():
            if name not in needed and name not in self._explicit and not (one.only_on and not self._here):
                self._constrain(one)
        self._made.hints = (*self._made.hints, *self._hints)

    def _of_projects(self, local: list[str]) -> list[tuple[Installed, str]]:
        """What the user's own projects require that are installed in editable form, where their modules are used."""
        if not local:
            return []
        places = [os.path.realpath(e.path) for group in local_closure(local).values() for e in group]
        found = []
        for project in projects():
            root = os.path.realpath(project.directory or os.devnull) + os.sep
            if project.name in _NEVER or not any(place.startswith(root) for place in places):
                continue
            for requirement in project.requires:
                one = find(requirement.name) if _applies(requirement, self._here) else None
                if one is not None:
                    self._extras.setdefault(one.name, set()).update(requirement.extras)
                    found.append((one, project.title))
        return found

    def _closure(self, roots: list[Installed]) -> dict[str, Installed]:
        """All that these require on a node, as far as it is installed here."""
        found = {one.name: one for one in roots}
        done: set[tuple[str, frozenset[str]]] = set()
        pending = list(roots)
        while pending:
            one = pending.pop()
            extras = frozenset(self._extras.get(one.name, ()))
            if (one.name, extras) in done:
                continue
            done.add((one.name, extras))
            for requirement in one.requires:
                name = canonicalize_name(requirement.name)
                if not _applies(requirement, self._here, ("", *extras)):
                    if not _optional(requirement):
                        self._not_here.add(name)
                    continue
                other = found.get(name) or find(name)
                if other is not None:
                    found[name] = other
                    self._extras.setdefault(name, set()).update(requirement.extras)
                    pending.append(other)
        return found

    def _require(self, one: Installed, reason: str) -> None:
        self._made.reasons[one.name] = reason
        if not self._shipped(one):
            extras = sorted(self._extras.get(one.name, ()))
            version = "" if one.name in self._constrained else f"=={self._version(one)}"
            self._made.requirements.append(f"{one.name}{'[' + ','.join(extras) + ']' if extras else ''}{version}")
            self._checked(one)

    def _constrain(self, one: Installed) -> None:
        if one.name not in self._constrained and not self._shipped(one):
            self._made.constraints.append(f"{one.name}=={self._version(one)}")
            self._checked(one)

    def _checked(self, one: Installed) -> None:
        if self._made.check is not None:
            self._made.check.append((one.name, one.public_version))

    def _version(self, one: Installed) -> str:
        """The version as an index has it."""
        if one.not_on_pypi:
            raise RequirementsError(
                f"{one.title} {one.version} is a package of conda alone, which no installer of nodes finds: use an "
                "image that has it, with requirements=None"
            )
        if one.from_conda:
            self._hints.append(f"{one.title} {one.version} was installed by conda: indexes may not have this version.")
        if one.version != one.public_version:
            index = " (or pip_options=['--index-url', 'https://download.pytorch.org/whl/cpu'])"
            self._warn(
                f"{one.title} {one.version} is a local build: nodes get {one.public_version} from their index"
                f"{index if one.name in _TORCH else ''}"
            )
        return one.public_version

    def _shipped(self, one: Installed) -> bool:
        """Whether it is one that no index has, and travels as a wheel."""
        origin = one.origin
        url = str(origin.get("url", ""))
        if not origin:
            return False
        if "archive_info" in origin and one.compiled and url.endswith(".whl"):
            given = files.path_of(url) if url.startswith("file:") else None
            if given is None and "linux" in url:
                self._made.requirements.append(f"{one.name} @ {url}")
                self._made.check = None
                return True
            if given is not None and os.path.exists(given[0]):
                self._ship(_built(given[0], self._wanted), one)
                return True
        directory = one.directory
        if one.editable and directory is not None:
            self._ship(_built(directory, self._wanted), one)
        else:
            self._ship(wheels.repacked(one), one)
        return True

    def _ship(self, wheel: wheels.Wheel, one: Installed) -> None:
        self._made.wheels[wheel.file_name] = wheel.data
        self._made.reasons.setdefault(one.name, "required")

    def _warn(self, text: str) -> None:
        if text not in self._made.warnings:
            self._made.warnings.append(text)


def _optional(requirement: Requirement) -> bool:
    """Whether it belongs to an extra."""
    return "extra" in str(requirement.marker)
