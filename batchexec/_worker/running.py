"""The course of a task: its chunk is fetched and run, and its result stored, or why there is none."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from batchexec._wire import names, payload

from . import context, logs, surroundings
from .refusals import Refusal
from .store import StoreError
from .task import Task


def run(task: Task, preloads: PreloadRequest | None = None, first_run: bool = False) -> int | None:
    """Run the task in this process and store its result. The exit code; None to be started again after preloading.

    `first_run`: the node knows that the task never ran before, so there is no result to look for. Raises StartPlainly.
    """
    began = time.time()
    header: dict[str, Any] = {"node": task.node}
    frames: list[payload.Frame] = []
    streams = logs.Streams(task.task_dir, task.work_dir)
    done = False  # whether the directory's files are of no use to anybody any more
    try:
        if not first_run and task.has_result():
            done = True
            return 0
        own = context.current = context.Context(task, streams)
        try:
            if task.client_python != names.running_python():
                raise Refusal("python_mismatch", "", client=task.client_python, worker=names.running_python())
            from . import chunk  # cloudpickle is imported here: never before the versions were compared

            said, chunk_frames = task.fetch()
            if preloads is not None and preloads.wants(chunk.preloadable(task, said)):
                return None
            surroundings.have_home(task.work_dir)
            if task.gpus:
                from . import gpus

                gpus.take(task.gpus, os.environ.get("AZ_BATCH_NODE_SHARED_DIR", task.task_dir))
            header, frames = chunk.run(own, said, chunk_frames)
        except Refusal as refusal:
            header["failure"] = {"code": refusal.code, "text": str(refusal), **refusal.fields}
            frames = refusal.frames
            own.attachments = None
        tails = _close_header(task, header, streams, began)
        done = _store(own, header, [*frames, *tails]) and "failure" not in header
        return 0
    except StoreError as error:
        print(f"batchexec worker: {error}", file=sys.stderr)
        return names.EXIT_NO_RESULT
    finally:
        streams.replay()
        task.store.close()
        task.cache.close()
        if task.gpus:
            from . import gpus

            gpus.release()
        if done:
            surroundings.empty(task.work_dir)


def _close_header(task: Task, header: dict[str, Any], streams: logs.Streams, began: float) -> list[bytes]:
    """Add what is known at the end of a task. The tails of its streams; long ones are stored whole too."""
    sizes = streams.sizes()
    tails = [logs.tail(path, size) for path, size in zip(streams.paths, sizes)]
    header.update(
        node=task.node,
        began=began,
        ended=time.time(),
        peak_rss=surroundings.peak_memory(),
        log_sizes=sizes,
        pid=os.getpid(),
    )
    if any(size > names.TAIL_BYTES for size in sizes):
        task.upload_log(streams.paths, {"tails": [len(tail) for tail in tails]}, tails)
        header["log"] = True
    return tails


def _store(own: context.Context, header: dict[str, Any], frames: list[payload.Frame]) -> bool:
    """As `Task.store_result`, with the files that the items have left."""
    if own.attachments is None or not own.attachments.entries:
        return own.task.store_result(header, frames)
    from . import outputs

    return outputs.store_with(own.task, own.attachments, header, frames)


class PreloadRequest:
    """The way to ask the node's fork server for modules; must be closed before user code runs."""

    def __init__(self, descriptor: int, attempted: set[str]) -> None:
        self._descriptor = descriptor
        self._attempted = attempted

    def wants(self, modules: list[str]) -> bool:
        """True when the server was asked to import some of `modules` that it has not tried yet."""
        missing = [name for name in modules if name not in self._attempted and name not in sys.modules]
        if missing:
            os.write(self._descriptor, json.dumps(missing).encode() + b"\n")
        os.close(self._descriptor)
        return bool(missing)
