"""From the modules that a callable reaches to the packages that its tasks need, for a node and not for this machine."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from batchexec._source.packages import requirements_files as files
from batchexec._source.packages.automatic import Automatic
from batchexec._source.packages.plans import Plan, applies
from batchexec._source.packages.requirements_files import Wanted
from batchexec._source.reach import Reached, local_closure, unloaded_imports
from batchexec.errors import RequirementsError


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
        Automatic(wanted, made, explicit, constrained, here).add(sorted(modules), sorted(local))
    made.requirements = sorted(dict.fromkeys(made.requirements))
    made.constraints = sorted(dict.fromkeys(made.constraints))
    if made.wheels and (wanted.projects or not here):
        made.check = None  # their versions may stay when their content changes
    elif made.check is not None:
        made.check = sorted(set(made.check))
    return made


def refuse_foreign(local: Iterable[str]) -> None:
    """Raise RequirementsError for compiled modules among the user's own that no Linux can load."""
    for entries in local_closure(local).values():
        names = {entry.name for entry in entries}
        for entry in entries:
            system = "Windows" if entry.name.endswith(".pyd") else "macOS" if "-darwin.so" in entry.name else None
            stem = entry.name.partition(".")[0]
            fits = (f"{stem}.py", f"{stem}.so", f"{stem}.abi3.so")
            if system and names.isdisjoint(fits) and not any(n.startswith(f"{stem}.") and "linux" in n for n in names):
                raise RequirementsError(
                    f"{entry.path} is compiled for {system}, nodes are Linux: build a wheel for Linux (cibuildwheel, a "
                    "Linux machine), give its path in requirements=, and import the module from where it is installed"
                )


def name_of(line: str) -> str:
    """The normalised name of the distribution that a requirement line is about."""
    return canonicalize_name(files.line_of(line).name)


def _explicit(wanted: Wanted, made: Plan, here: bool) -> set[str]:
    """Add what was asked for by name; the names."""
    names: set[str] = set()
    for line in wanted.requirements:
        requirement = files.line_of(line)
        name = canonicalize_name(requirement.name)
        if name == "batchexec":
            continue  # the worker brings it
        names.add(name)
        made.requirements.append(line)
        made.reasons[line] = "asked for"
        _check_line(requirement, made, here)
    for line in wanted.constraints:
        made.constraints.append(line)
        made.check = None
    for path, extras in wanted.projects:
        wheel = wanted.wheel(path)
        names.add(wheel.name)
        made.wheels[wheel.file_name] = wheel.data
        made.reasons[wheel.file_name] = f"asked for as {path}"
        if extras:
            made.requirements.append(wheel.name + extras)
    return names


def _check_line(requirement: Requirement, made: Plan, here: bool) -> None:
    """Whether an interpreter has it can be said without a resolver for exact versions, and for any version."""
    if requirement.marker is not None and not applies(requirement, here):
        return
    pins = [(one.operator, one.version) for one in requirement.specifier]
    exact = len(pins) == 1 and pins[0][0] in ("==", "===") and "*" not in pins[0][1]
    if requirement.url or requirement.extras or (pins and not exact):
        made.check = None
    if made.check is not None:
        made.check.append((canonicalize_name(requirement.name), pins[0][1].partition("+")[0] if pins else ""))
