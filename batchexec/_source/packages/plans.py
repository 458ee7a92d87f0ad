"""What a node must have, in the words of resolvers, and what holds on a node."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from packaging.requirements import Requirement


@dataclass
class Plan:
    """What a node must have, as resolver input.

    `requirements`, `constraints`: lines. `wheels`: bytes by file name, to be installed beside them. `check`: normalised
    names and exact versions ("" for any) that make all of it unnecessary where an interpreter has them; None when only
    a resolver can tell. `reasons`: for each distribution that was found, the module or distribution that needs it.
    `without`: modules that nodes cannot have, and the user's can do without.
    """

    requirements: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    wheels: dict[str, bytes] = field(default_factory=dict)
    check: list[tuple[str, str]] | None = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hints: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.requirements or self.wheels)


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


def applies(requirement: Requirement, here: bool, extras: Iterable[str] = ("",)) -> bool:
    """Whether a node takes notice of the requirement, which its marker says."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**node_environment(here), "extra": extra}) for extra in extras)
