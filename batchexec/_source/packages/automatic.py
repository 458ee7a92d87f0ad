"""What `auto` finds: the distributions that own modules, and the versions of what they require in turn."""

from __future__ import annotations

import os

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from batchexec._source.modules import locate
from batchexec._source.packages import requirements_files as files
from batchexec._source.packages import wheels
from batchexec._source.packages.distributions import Installed, find, owners, projects
from batchexec._source.packages.plans import Plan, applies
from batchexec._source.packages.requirements_files import Wanted
from batchexec._source.reach import is_only_tried, local_closure
from batchexec.errors import RequirementsError

_NEVER = frozenset({"batchexec", "cloudpickle"})  # which the worker brings itself
_TORCH = frozenset({"torch", "torchaudio", "torchvision"})


class Automatic:
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
        of: dict[str, list[str]] = {}  # the modules of each distribution
        located = {name: file for name in modules if (file := locate(name)) is not None}
        owned = owners(located.values())
        for name in modules:
            one = owned.get(located.get(name, ""))
            if one is not None:
                needed.setdefault(one.name, (one, f"module {name}"))
                of.setdefault(one.name, []).append(name)
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
                error = RequirementsError(
                    f"{one.title} {one.version} ({reason}) is for {one.only_on}, nodes are Linux: do without it there, "
                    f"or list what is needed in place of 'auto' (requirements=[...])"
                )
                self._leave_out(of.get(name, []), local, error)
        for one, reason in list(needed.values()):
            try:
                self._require(one, reason)
            except RequirementsError as error:
                self._leave_out(of.get(one.name, []), local, error)
                del needed[one.name]
                closure = self._closure([one for one, _ in needed.values()])
        for name, one in closure.items():
            if name not in needed and name not in self._explicit and not (one.only_on and not self._here):
                self._constrain(one)
        self._made.hints = (*self._made.hints, *self._hints)

    def _leave_out(self, modules: list[str], local: list[str], error: RequirementsError) -> None:
        """Warn of a package that nodes cannot have and the user's modules can do without; else raise the error."""
        if not modules or not all(is_only_tried(local, module) for module in modules):
            raise error
        self._made.without.extend(modules)
        self._warn(f"nodes do without {', '.join(modules)}, which your modules only try to import: {error}")

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
                one = find(requirement.name) if applies(requirement, self._here) else None
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
                if not applies(requirement, self._here, ("", *extras)):
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
        extras = ",".join(sorted(self._extras.get(one.name, ())))
        name = f"{one.name}[{extras}]" if extras else one.name
        if not self._shipped(one):
            version = "" if one.name in self._constrained else f"=={self._version(one)}"
            self._made.requirements.append(f"{name}{version}")
        elif extras:  # what they bring is not in the wheel
            self._made.requirements.append(name)
        self._made.reasons[one.name] = reason
        self._checked(one)

    def _constrain(self, one: Installed) -> None:
        if one.name not in self._constrained:
            if not self._shipped(one):
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
        if one.version != one.public_version and not self._here:
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
                self._ship(self._wanted.wheel(given[0]), one)
                return True
        directory = one.directory
        if one.editable and directory is not None:
            self._ship(self._wanted.wheel(directory), one)
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
