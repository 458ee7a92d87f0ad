"""The packages of a task: found in the image, or in an environment of the node, made once for all its tasks."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping

from batchexec._worker import own_directories
from batchexec._worker.refusals import Refusal, StartPlainly

from .install_failures import InstallError
from .installer import Made, has_all, image_paths, install
from .pip_settings import PipSettings
from .runs import Say, Work

if TYPE_CHECKING:
    from batchexec._worker.task import Task

    from .node_environments import NodeEnvironments

__all__ = ["InstallError", "Made", "enter", "is_enough", "prepare"]

Blob = Callable[[str], Any]  # by SHA-256, checked: bytes-like

_entered: tuple[str, Made] | None = None  # what this process works in; there is no way out of it


def enter(task: Task, digest: str | None) -> Made | None:
    """Have the packages of the spec of that SHA-256 importable before all that the image has; None: the image's alone.

    Installs them where no task of this node has done so; waits where one is at it. Raises Refusal ("requirements")
    where they cannot be had, StartPlainly where this process cannot load them any more.
    """
    global _entered
    if _entered is not None and _entered[0] != digest:
        raise StartPlainly
    if digest is None:
        return None
    made = _entered[1] if _entered is not None else _found(task, digest)
    if made.site is not None and _entered is None:
        _refuse_what_is_loaded(made.site, task.is_forked)
        _put_on_path(made.site)
        _entered = digest, made
    if made.bin is not None:
        sys.executable = made.python
        os.environ["PATH"] = os.pathsep.join([made.bin, os.environ.get("PATH", os.defpath)])
    return made


def _found(task: Task, digest: str) -> Made:
    from batchexec._wire.envelope import BadEnvelope

    def read() -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(bytes(task.cache.data(digest)))
        return spec

    def prepared() -> Made:
        return _prepared(digest, read, task.cache.data, task.pip, _root(task), task.job, _say)

    began = time.monotonic()
    try:
        try:
            return prepared()
        except InstallError as error:
            if error.kind != "disk" or not _has_made_room(task):
                raise
            _say("the disk was full; what jobs keep there and do not use is gone, once more")
            return prepared()
    except BadEnvelope as error:
        raise Refusal("tampered", str(error)) from error
    except InstallError as error:
        seconds = round(time.monotonic() - began, 1)
        _say(f"the packages could not be installed ({error.kind})")
        raise Refusal(
            "requirements",
            str(error),
            kind=error.kind,
            reason=error.reason,
            installer=error.installer,
            seconds=seconds,
        ) from error


def _has_made_room(task: Task) -> bool:
    from batchexec._worker.disk import room

    return room.empty(task.cache.directory) > 0


def is_enough(task: Task, digest: str) -> bool:
    """Whether an earlier task has found that this interpreter needs no environment for that spec."""
    try:
        return os.path.exists(os.path.join(_root(task), f"{_key(digest, PipSettings(task.pip))}.enough"))
    except InstallError:  # there is no directory for packages: `enter` says so
        return False


def prepare(
    spec: Mapping[str, Any], blob: Blob, pip: Mapping[str, Any], root: str, *, job: str = "", say: Say | None = None
) -> Made:
    """The environment of `spec` below the directory `root`, made where it is not there.

    `blob` gives the contents of wheels, installer and certificates by their SHA-256, `pip` the options, proxy and
    certificates (docs/packages.md). Raises InstallError.
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _prepared(digest, lambda: dict(spec), blob, pip, root, job, say or _say)


def _prepared(
    digest: str, read: Callable[[], dict[str, Any]], blob: Blob, pip: Mapping[str, Any], root: str, job: str, say: Say
) -> Made:
    try:
        settings = PipSettings(pip)
        key = _key(digest, settings)
        environments = _environments(root, job, say)
        made = environments.ready(key)
        if made is not None:
            return made
        spec = read()
        if spec["check"] is not None and has_all(spec["check"]):
            return environments.not_needed(key)

        def build(directory: str, scratch: str) -> None:
            began = time.monotonic()
            say(settings.masked(f"installing {_named(spec)} for this node"))
            work = _work(spec, blob, pip, scratch, environments.cache)
            install(work, directory, lambda line: environments.progress(key, line))
            say(f"installed in {time.monotonic() - began:.1f} s")

        return environments.make(key, build)
    except OSError as error:
        raise InstallError.of(error) from error


def _work(spec: Mapping[str, Any], blob: Blob, pip: Mapping[str, Any], scratch: str, cache: str) -> Work:
    """What is to be installed, with all that it takes in files below `scratch`."""
    folder = os.path.join(scratch, "wheels")
    os.mkdir(folder)
    wheels = {name: _written(folder, name, blob(digest)) for name, digest in spec["wheels"].items()}
    sent = next(iter((spec["installer"] or {}).values()), None)
    installer = functools.partial(_fetched_pip, scratch, blob, sent) if sent else None
    ca = bytes(blob(pip["ca"])).decode("utf-8", "replace") if pip.get("ca") else None
    settings = PipSettings(pip, ca)
    return Work(spec["requirements"], spec["constraints"], wheels, installer, settings, cache, scratch)


def _fetched_pip(scratch: str, blob: Blob, digest: str) -> str:
    return _written(scratch, "pip.whl", blob(digest))


def _written(folder: str, name: str, data: Any) -> str:
    if os.path.basename(name) != name or not name.endswith(".whl"):
        raise InstallError("other", f"{name!r} is no wheel's file name")
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _root(task: Task) -> str:
    """Where the node's environments are: all tasks that ever run there share it, those of other jobs too.

    A container may run under another user than the node's tasks: each user has a directory of its own.
    """
    problem = OSError("no directory of the node is this user's")
    shared = os.environ.get("AZ_BATCH_NODE_SHARED_DIR", "")
    job = os.environ.get("AZ_BATCH_JOB_PREP_WORKING_DIR", "")
    for place in filter(None, (shared, job, tempfile.gettempdir())):
        for path in own_directories.places(place, "environments"):
            try:
                os.makedirs(path, exist_ok=True)
                if own_directories.is_own(path) and os.access(path, os.W_OK):
                    return path
            except OSError as error:  # not ours to write to: the next
                problem = error
    raise InstallError.of(problem)


def _environments(root: str, job: str, say: Say) -> NodeEnvironments:
    from .node_environments import NodeEnvironments

    return NodeEnvironments(root, job, say)


def _key(digest: str, settings: PipSettings) -> str:
    """The environment's name: the same for the same spec and options in the same interpreter of the same image."""
    said: list[str] = [digest, *settings.identity(), sys.version, sys.base_prefix, sys.prefix]
    if hasattr(os, "uname"):
        said.append(os.uname().machine)
    # Since the start of the machine: what was not on the disk when it went down may be half there.
    for path in ("/etc/os-release", "/proc/sys/kernel/random/boot_id"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                said.append(file.read())
        except OSError:
            said.append("")
    for directory in image_paths():
        said += [
            directory,
            *sorted(name for name in os.listdir(directory) if name.endswith((".dist-info", ".egg-info"))),
        ]
    return hashlib.sha256("\0".join(said).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _refuse_what_is_loaded(site: str, is_forked: bool) -> None:
    """Raise StartPlainly where modules of the image are loaded of which the environment has another version."""
    tops = {name.partition(".")[0] for name in os.listdir(site)}
    images = tuple(os.path.join(path, "") for path in image_paths())
    loaded = [
        name
        for name, module in sys.modules.items()
        if name.partition(".")[0] in tops and str(getattr(module, "__file__", None)).startswith(images)
    ]
    if not loaded:
        return
    if is_forked:
        raise StartPlainly
    for name in loaded:  # by the interpreter itself at its start, as files of the image told it
        del sys.modules[name]


def _put_on_path(directory: str) -> None:
    """As in the environment's own interpreter: after the standard library, before the image's packages."""
    import importlib
    import site

    images = image_paths()
    before = list(sys.path)
    site.addsitedir(directory)
    new = [path for path in sys.path if path not in before]
    place = min((before.index(path) for path in images), default=len(before))
    sys.path[:] = [*before[:place], *new, *before[place:]]
    importlib.invalidate_caches()


def _named(spec: Mapping[str, Any]) -> str:
    lines = [*spec["requirements"], *spec["wheels"]]
    shown = ", ".join(line.split(" --hash")[0] for line in lines[:5])
    return shown + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")


def _say(line: str) -> None:
    print(f"batchexec: {line}", file=sys.stderr, flush=True)
