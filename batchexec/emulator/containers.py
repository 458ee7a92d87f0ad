"""Containers where there is no container runtime: what asks for one runs as a process of the node."""

from __future__ import annotations

import functools
import secrets
import shlex
from collections.abc import Sequence

from .resources import CannotStart
from .state import Body

NOTICE = (
    "there is no container runtime here: what asks for a container runs as a process of the node, from its "
    "--entrypoint or command line; images and other run options are ignored"
)


def enabled(pool: Body) -> bool:
    """Whether the nodes of a pool have containers, and so its tasks must ask for one."""
    return bool((pool.get("virtualMachineConfiguration") or {}).get("containerConfiguration"))


def check(body: Body, offered: bool, host_will_do: bool) -> None:
    """Raise CannotStart where container settings are given and not offered, or offered and not given."""
    if body.get("containerSettings"):
        if not offered:
            raise _invalid("containerSettings are given, but the pool has no containerConfiguration")
    elif offered and not host_will_do:
        raise _invalid("containerSettings are missing, and the pool has a containerConfiguration")


def argv(body: Body) -> list[str]:
    """The program and its arguments, as `docker create --entrypoint PROGRAM image ARGUMENTS` would take them.

    Raises ValueError where the command line or the run options cannot be split.
    """
    words = list(_words(body["commandLine"]))
    options = (body.get("containerSettings") or {}).get("containerRunOptions")
    program = _entrypoint(_words(options)) if options else None
    if program:
        words.insert(0, program)
    if not words:
        raise _invalid("neither an --entrypoint nor a command line says what to run; the image's own is not known here")
    return words


def started() -> Body:
    """The containerInfo of a container that was just started."""
    return {"containerId": secrets.token_hex(32), "state": "running"}


@functools.lru_cache(256)
def _words(text: str) -> tuple[str, ...]:
    """Split by shell rules; the tasks of a job mostly have one command line, and splitting it takes 0.1 ms."""
    return tuple(shlex.split(text))


def _entrypoint(options: Sequence[str]) -> str | None:
    found = None
    for option, following in zip(options, [*options[1:], None], strict=True):
        if option == "--entrypoint":
            found = following
        elif option.startswith("--entrypoint="):
            found = option.partition("=")[2]
    return found


def _invalid(reason: str) -> CannotStart:
    return CannotStart("ContainerInvalidSettings", "One or more container settings are invalid", Reason=reason)
