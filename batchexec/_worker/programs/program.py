"""One run of a program: its directory, its files, its environment, its result."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from batchexec._wire import names
from batchexec._worker import patterns, trees

from . import processes
from .streams import Stream

if TYPE_CHECKING:
    from batchexec._worker.context import Context

APP = names.APP_PLACE
_RUNS = "runs"  # in the task's working directory
_PYTHONS = ("python", "python3")


class Surroundings(NamedTuple):
    """What a run finds where it is: on a node, or on the client's own machine."""

    place: Callable[[str, str], object]  # (id of a file set, directory): have its files there
    kept: Callable[[str], str]  # id of a file set: a directory that has its files
    unpacked: Callable[[str, str], str]  # (id of a file set, name of the archive in it): where it was unpacked to
    python: str
    bin: Optional[str]  # directory with the programs of the packages
    guarded: bool
    streams: Callable[[], tuple[Stream, Stream]]  # what takes standard output and error of a run


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """On a node: what a Command's items are sent to. `spec` is made by the client, as `perform` reads it."""
    from batchexec._worker import context

    current = context.current
    assert current is not None
    attachments, made = current.attachments, current.environment
    assert attachments is not None
    surroundings = Surroundings(
        place=lambda set_id, directory: current.files.place(set_id, directory),
        kept=lambda set_id: current.files.kept(set_id),
        unpacked=lambda set_id, name: _unpacked_once(current, set_id, name),
        python=made.python if made is not None else sys.executable,
        bin=made.bin if made is not None else None,
        guarded=True,
        streams=lambda: (Stream(1, current.streams.replay), Stream(2, current.streams.replay)),
    )
    directory = os.path.join(current.task.work_dir, _RUNS, str(attachments.number))
    trees.remove(directory)  # of an earlier try
    kept = f"{directory}.kept"
    result = perform(spec, directory, kept, surroundings)
    for path, _ in result["outputs"]:
        attachments.add(path, os.path.join(kept, *path.split("/")))
    return result


def perform(spec: dict[str, Any], directory: str, kept: str, surroundings: Surroundings) -> dict[str, Any]:
    """Run the program in the new `directory`, which is gone afterwards; its outputs are then below `kept`.

    spec: `argv` (words) or `shell` (text), `env`, `sets` (ids of the file sets to place), `app` (id of a file set, or
    None), `archive` (its name in the app's set, or ""), `outputs` ([name or None, pattern, directory to look in,
    whether it stands for one file] each), `make` (directories to make), `when`, `timeout`.
    """
    started = time.perf_counter()
    os.makedirs(directory)
    try:
        for set_id in spec["sets"]:
            surroundings.place(set_id, directory)
        for name in spec["make"]:
            os.makedirs(os.path.join(directory, name), exist_ok=True)
        app = _app(spec, surroundings)
        shown = _words(spec, app)
        env = _environment(spec, directory, app, surroundings)
        argv, program = _command(spec, directory, app, env, surroundings)
        before = _stamps(directory) if spec["outputs"] else {}
        staging = time.perf_counter() - started
        streams = surroundings.streams()
        ended = processes.run(argv, program, directory, env, streams, spec["timeout"], surroundings.guarded)
        result = _result(ended, streams, shown, staging)
        is_good = result["exit_code"] == 0
        if {"success": is_good, "failure": not is_good, "always": True}[spec["when"]]:
            _collect(spec["outputs"], directory, kept, before, result)
        return result
    except processes.CannotStart as error:
        return {
            **{"cannot_start": str(error), "exit_code": error.exit_code, "signal": 0, "timed_out": False},
            **{"stdout": b"", "stderr": b"", "cut": False, "seconds": 0.0, "argv": shown, "outputs": []},
            **{"staging": round(time.perf_counter() - started, 6), "missing": [], "refused": []},
        }
    finally:
        trees.remove(directory)


def _app(spec: dict[str, Any], surroundings: Surroundings) -> Optional[str]:
    if spec["app"] is None:
        return None
    if spec["archive"]:
        return surroundings.unpacked(spec["app"], spec["archive"])
    return surroundings.kept(spec["app"])


def _unpacked_once(current: Context, set_id: str, name: str) -> str:
    """Once per node and job, for as long as there is room for it."""
    from batchexec._wire import archives
    from batchexec._worker.disk import room
    from batchexec._worker.refusals import Refusal

    shared = current.task.cache.trees

    def fill(directory: str) -> None:
        packed = os.path.join(directory, "packed")
        current.files.place(set_id, packed)
        archives.unpack(os.path.join(packed, name), os.path.join(directory, "app"), room.Claim(shared.cache).take)
        trees.remove(packed)

    try:
        unpacked = room.trying(shared.cache, lambda: shared.have(f"app-{set_id}", fill))
    except (archives.BadArchive, room.NoRoom, OSError) as error:
        raise Refusal("files", f"the app {name!r} cannot be unpacked on the node: {error}") from error
    return archives.root_of(os.path.join(unpacked, "app"))


def _environment(
    spec: dict[str, Any], directory: str, app: Optional[str], surroundings: Surroundings
) -> dict[str, str]:
    """The task's own, without what is meant for its worker; the directory is the program's home."""
    kept = (names.ENV_INSIDE,)
    env = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("BX_", "BATCHEXEC_FORK_"))
    }
    first = [app, os.path.join(app, "bin")] if app is not None else []
    if surroundings.bin is not None:
        first.append(surroundings.bin)
    env["PATH"] = os.pathsep.join([*first, env.get("PATH", os.defpath)])
    env["HOME"] = env["PWD"] = directory
    for name, value in spec["env"].items():
        env[name] = value.replace(APP, app or "")
    return env


def _words(spec: dict[str, Any], app: Optional[str]) -> list[str]:
    """The command line as it was asked for."""
    if spec["shell"] is not None:
        return ["/bin/sh", "-c", spec["shell"].replace(APP, shlex.quote(app or ""))]
    return [word.replace(APP, app or "") for word in spec["argv"]]


def _command(
    spec: dict[str, Any], directory: str, app: Optional[str], env: dict[str, str], surroundings: Surroundings
) -> tuple[list[str], str]:
    """The words, and the program to run with them."""
    argv = _words(spec, app)
    if spec["shell"] is not None:
        return argv, argv[0]
    own = [os.path.join(app, place, argv[0]) for place in ("", "bin")] if app is not None else []
    if argv[0] in _PYTHONS and not any(map(os.path.exists, own)):
        argv[0] = surroundings.python
    program = processes.find(argv[0], directory, env["PATH"])
    if "/" not in argv[0]:
        argv[0] = program
    return argv, program


def _result(ended: processes.Ended, streams: tuple[Stream, Stream], argv: list[str], staging: float) -> dict[str, Any]:
    out, err = streams
    return {
        "cannot_start": "",
        # One that was told to end, and says that all is well: as timeout(1) has it.
        "exit_code": 128 - ended.status if ended.status < 0 else ended.status or 124 * ended.timed_out,
        "signal": max(0, -ended.status),
        "timed_out": ended.timed_out,
        "stdout": out.tail,
        "stderr": err.tail,
        "cut": out.cut or err.cut,
        "seconds": round(ended.seconds, 6),
        "staging": round(staging, 6),
        "argv": argv,
        "outputs": [],  # [path below `kept`, [names]] each
        "missing": [],  # patterns without wildcards that nothing matched
        "refused": [],  # texts on files that cannot be taken
    }


def _stamps(directory: str) -> dict[str, tuple[int, int, int]]:
    """Every file that is there before the program; what it does not change is no output."""
    found = {}
    for root, _, files in os.walk(directory):
        for name in files:
            path = os.path.join(root, name)
            found[path] = _stamp(path)
    return found


def _stamp(path: str) -> tuple[int, int, int]:
    state = os.lstat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def _collect(
    wanted: list[Any], directory: str, kept: str, before: dict[str, tuple[int, int, int]], result: dict[str, Any]
) -> None:
    """Move the files that match to `kept`, and list them in `result`."""
    found: dict[str, list[str]] = {}
    for name, pattern, inside, single in wanted:
        matches, refused = patterns.find(directory, [f"{inside}/{pattern}" if inside else pattern])
        result["refused"] += refused
        changed = [path for path in matches if before.get(path_in(directory, path)) != _stamp(path_in(directory, path))]
        if single and not changed:
            result["missing"].append(pattern)
        for path in changed:
            names_of = found.setdefault(path, [])
            if name is not None:
                names_of.append(name)
    for path in patterns.in_order_of_taking(directory, found):
        source, target = path_in(directory, path), path_in(kept, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(source):
            shutil.copy2(source, target)
        else:
            os.rename(source, target)
            os.chmod(target, stat.S_IMODE(os.stat(target).st_mode) | stat.S_IRUSR | stat.S_IWUSR)
    result["outputs"] = [[path, found[path]] for path in sorted(found)]


def path_in(directory: str, path: str) -> str:
    return os.path.join(directory, *path.split("/"))
