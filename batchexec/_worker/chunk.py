"""A chunk: all that it names is brought within reach, and its items are run."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from batchexec._wire import envelope, payload, seeds, shared

from . import items, surroundings
from .context import Context
from .refusals import Refusal
from .task import Task

_ENVIRONMENT = f"{__package__}.packages.environment"  # loaded where a task has one


def preloadable(task: Task, chunk: dict[str, Any]) -> list[str]:
    """The modules that tasks find in the image itself: those of an environment are for its own tasks only."""
    if chunk["environment"]:
        from .packages import environment

        if not environment.is_enough(task, chunk["environment"]):
            return []
    modules: list[str] = chunk["modules"]
    return modules


def run(
    context: Context, chunk: dict[str, Any], frames: list[memoryview]
) -> tuple[dict[str, Any], list[payload.Frame]]:
    """The result's header and frames, of a chunk as `Task.fetch` gives it. Raises Refusal, StartPlainly, StoreError."""
    task = context.task
    started = time.perf_counter()
    if chunk["environment"] or _ENVIRONMENT in sys.modules:  # there already: in a process that stays
        from .packages import environment

        context.environment = environment.enter(task, chunk["environment"])
    try:
        for index, digest in chunk["external"].items():
            frames[int(index)] = task.cache.data(digest)
        shared.open_with(lambda digest: payload.load(envelope.split_frames(task.cache.code(digest))[1]))
        parts = _Parts(task, chunk["parts"], frames)
        if chunk["source"]:
            surroundings.find_modules_in(task.cache.source(chunk["source"]))
            importlib.invalidate_caches()
    except envelope.BadEnvelope as error:
        raise Refusal("tampered", str(error)) from error
    if "files" in chunk:
        _have_files(context, chunk["files"])
    seeds.fresh()
    if chunk["seed"] is not None:
        seeds.prepare()
    if "init" in chunk["parts"]:
        initializer, initargs = parts.load("init", "the initializer")
        try:
            initializer(*initargs)
        except BaseException as error:
            raise items.refusal("initializer", error) from error
    function = parts.load("code", "the callable")
    arguments = parts.load("items", "the arguments")
    loaded = time.perf_counter()
    if "outputs" in chunk:
        from .outputs import Attachments

        context.attachments = Attachments(task.work_dir, chunk["outputs"])
    log_sizes, attachments = context.streams.sizes, context.attachments
    ran = items.run_items(function, arguments, chunk["numbers"], chunk["seed"], log_sizes, attachments)
    header = {
        "outcomes": ran.outcomes,
        "marks": ran.marks,
        "seconds": ran.seconds,
        "load_seconds": round(loaded - started, 6),
        "run_seconds": round(time.perf_counter() - loaded, 6),
    }
    return header, ran.frames


def _have_files(context: Context, said: dict[str, Any]) -> None:
    """The sets of files that the chunk names are within reach, and its own are placed in the working directory."""
    from .files.placing import NodeFiles

    task = context.task
    context.named_files = NodeFiles(task.cache.trees, task.store, said["sets"], task.cache.listing)
    if said["place"] is not None:
        context.files.place(said["place"], task.work_dir)


class _Parts:
    """The pickled parts of a chunk: frames of its own in order, or blobs by their hash."""

    def __init__(self, task: Task, parts: dict[str, Any], frames: list[memoryview]) -> None:
        self._frames: dict[str, list[memoryview]] = {}
        start = 0
        for name, where in parts.items():
            if isinstance(where, str):
                self._frames[name] = envelope.split_frames(task.cache.code(where))[1]
            else:
                self._frames[name] = frames[start : start + where]
                start += where

    def load(self, name: str, what: str) -> Any:
        """The object; `what` it is, for a message. Raises Refusal."""
        try:
            return payload.load(self._frames[name])
        except ModuleNotFoundError as error:
            raise Refusal("missing_module", str(error), module=error.name or "", what=what) from error
        except BaseException as error:
            raise items.refusal("unloadable", error, what=what) from error
