"""What a task's container settings mean: whether they fit the pool, what runs, and what the container is given."""

from __future__ import annotations

import functools
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from batchexec.emulator.state import Body

from .directories import refuse_links
from .failures import CannotStart

NOTICE = (
    "there is no container runtime here: what asks for a container runs as a process of the node, from its "
    "--entrypoint or command line; images and other run options are ignored"
)
# What of a node's environment says something of the host alone: a container has its image's own.
_OF_THE_HOST = frozenset(("HOME", "LANG", "PATH", "TMPDIR", "USER"))
NO_IMAGE = "One or more container images specified are invalid"
INSIDE = "<what runs in the container>"  # in place of a program and its arguments, which the image may know alone
_MOUNTED = {"Shared": "shared", "Startup": "startup", "VfsMounts": "fsmounts", "Applications": "applications"}


def enabled(pool: Body) -> bool:
    """Whether the nodes of a pool have containers, and so its tasks must ask for one."""
    return bool(_configuration(pool))


def images(pool: Body) -> list[str]:
    """Images that a node of the pool fetches before it takes tasks."""
    return _configuration(pool).get("containerImageNames") or []


def registries(pool: Body, task: Body | None = None) -> list[Body]:
    """Where images may come from, with names and passwords: the task's own registry, then the pool's."""
    own = ((task or {}).get("containerSettings") or {}).get("registry")
    return [*([own] if own else []), *(_configuration(pool).get("containerRegistries") or [])]


def _configuration(pool: Body) -> Body:
    return (pool.get("virtualMachineConfiguration") or {}).get("containerConfiguration") or {}


def check(body: Body, offered: bool, host_will_do: bool) -> None:
    """Raise CannotStart where container settings are given and not offered, or offered and not given."""
    if body.get("containerSettings"):
        if not offered:
            raise invalid("containerSettings are given, but the pool has no containerConfiguration")
    elif offered and not host_will_do:
        # Code and text as quoted in microsoft/ga4gh-tes#525.
        raise CannotStart(
            "ContainerTaskSettingsNotFound", "Container-enabled compute node requires task container settings"
        )


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
        raise invalid("neither an --entrypoint nor a command line says what to run; the image's own is not known here")
    return words


def started() -> Body:
    """The containerInfo of a container that was just started."""
    return {"containerId": secrets.token_hex(32), "state": "running"}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """What of a node's own environment a container is given."""
    return {name: value for name, value in env.items() if name not in _OF_THE_HOST}


def create_options(body: Body, node_root: Path, task_root: Path, prep_root: str | None) -> list[str]:
    """Mounts, working directory and the task's own run options, in the words of `docker create`.

    Raises ValueError where the run options cannot be split, CannotStart where a mount cannot be.
    """
    settings = body["containerSettings"]
    options = []
    for source, is_read_only in _mounts(settings, node_root, task_root, prep_root):
        fields = ["type=bind", _quoted(f"source={source}"), _quoted(f"target={source}")]
        options += ["--mount", ",".join([*fields, "readonly"] if is_read_only else fields)]
    if settings.get("workingDirectory") != "containerImageDefault":
        options += ["--workdir", f"{task_root}/wd"]
    # The container is removed in any case, but not before it was asked how it ended.
    return options + [word for word in run_options(body) if word not in ("--rm", "--rm=true")]


def run_options(body: Body) -> tuple[str, ...]:
    return _words(body["containerSettings"].get("containerRunOptions") or "")


def arguments(body: Body) -> tuple[str, ...]:
    """What follows the image; where there is nothing, the image's own command is run."""
    return _words(body["commandLine"])


def _mounts(settings: Body, root: Path, task_root: Path, prep_root: str | None) -> Iterator[tuple[str, bool]]:
    """Directories of the node that the container sees under the same path, and whether it can only read them."""
    listed = settings.get("containerHostBatchBindMounts")
    if listed is None:
        yield str(root), False
        return
    for mount in listed:
        source = mount.get("source")
        if source == "Task":
            path = str(task_root)
        elif source == "JobPrep":
            if prep_root is None:
                raise invalid("JobPrep is to be mounted, but the job has no preparation task")
            path = prep_root
        elif source in _MOUNTED:
            path = str(root / _MOUNTED[source])
        else:
            raise invalid(f"there is no data path {source!r} to mount")
        refuse_links(root, path)  # else the runtime would mount what the link leads to
        Path(path).mkdir(parents=True, exist_ok=True)
        yield path, bool(mount.get("isReadOnly"))


def _quoted(field: str) -> str:
    """One field of a line of comma-separated values."""
    return '"' + field.replace('"', '""') + '"' if "," in field or '"' in field else field


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


def invalid(reason: str) -> CannotStart:
    """Code, text and the shape of the details as quoted in Azure/Batch#4."""
    return CannotStart(
        "ContainerInvalidSettings", "At least one value of specified task container settings is invalid", Message=reason
    )


def no_image(reason: str) -> CannotStart:
    """An image that cannot be had, on a task or a node: as quoted in Azure/Batch#122 and nextflow-io/nextflow#2099."""
    return CannotStart("ContainerInvalidImage", NO_IMAGE, ContainerImage=reason)
