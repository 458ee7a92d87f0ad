"""A run on this machine: `cmd(...)`, `rerun_locally()`, and executors with where="inline"."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchexec._source.files.sets import FileSet
from batchexec._wire import archives
from batchexec._worker.programs import program
from batchexec._worker.programs.streams import Stream
from batchexec.errors import FilesError
from batchexec.futures import Outcome

from .binding import Bound, Run
from .results import outcome
from .values import CommandResult

if TYPE_CHECKING:
    from batchexec.command import Command


def run_here(command: Command, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CommandResult:
    """Its outputs stay in a temporary directory. Raises what a future of it would."""
    return run(Bound(command), args, kwargs)


def run(bound: Bound, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CommandResult:
    """As `run_here`."""
    value, error = perform(bound, bound.run(args, kwargs))
    if error is not None:
        raise error
    assert isinstance(value, CommandResult)
    return value


def perform(bound: Bound, one: Run, destination: Path | None = None) -> Outcome:
    """`destination`: the directory for outputs; default: a new temporary one."""
    sets = {one.id: one for one in (*bound.sets, one.own) if one is not None}
    scratch = tempfile.mkdtemp(prefix="batchexec-")
    kept = os.path.join(scratch, "outputs")
    apps: list[_Unpacked] = []  # in use until this returns

    def unpacked(set_id: str, name: str) -> str:
        apps.append(_unpacked(bound.app.path if bound.app is not None else "", set_id))
        return apps[-1].root

    surroundings = program.Surroundings(
        place=lambda set_id, directory: _place(sets[set_id], directory),
        kept=lambda set_id: bound.app.path if bound.app is not None else "",
        unpacked=unpacked,
        python=sys.executable,
        bin=None,
        guarded=False,
        streams=lambda: (Stream(), Stream()),
    )
    there = False  # whether the caller finds its outputs in `scratch`
    try:
        said = program.perform(one.spec, os.path.join(scratch, "run"), kept, surroundings)
        paths = [Path(kept, *path.split("/")) for path, _ in said["outputs"]]
        if destination is not None:
            moved = []
            for (relative, _), path in zip(said["outputs"], paths, strict=True):
                target = destination.joinpath(*relative.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
                moved.append(target)
            paths = moved
        there = destination is None and bool(paths)
    finally:
        if not there:
            shutil.rmtree(scratch)
    return outcome(bound, one, said, paths)


def _place(files: FileSet, directory: str) -> None:
    if files.blobs:
        blob = files.blobs[0]
        raise FilesError(
            f"BlobPath('{blob.container}/{blob.prefix}') is read by the nodes of an executor, not on this machine: "
            "give local files to run the command here"
        )
    for path in files.directories:
        os.makedirs(os.path.join(directory, *path.split("/")), exist_ok=True)
    for entry in files.entries:
        target = os.path.join(directory, *entry.path.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(entry.source, target)
        os.chmod(target, 0o755 if entry.executable else 0o644)


class _Unpacked:
    """An archive, unpacked; its files go with it, or when this process ends."""

    def __init__(self, path: str) -> None:
        directory = tempfile.mkdtemp(prefix="batchexec-app-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        target = os.path.join(directory, "app")
        try:
            archives.unpack(path, target)
        except archives.BadArchive as error:
            raise FilesError(f"app={path!r} cannot be unpacked: {error}") from error
        self.root = archives.root_of(target)


@functools.lru_cache(maxsize=8)
def _unpacked(path: str, set_id: str) -> _Unpacked:
    """Once for several runs."""
    return _Unpacked(path)
