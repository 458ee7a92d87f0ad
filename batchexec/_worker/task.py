"""One task: fetch the chunk, run its items, store the result once."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from batchexec._wire import envelope, names, payload, seeds, shared

from . import cache, logs, surroundings
from .store import Store, StoreError

if TYPE_CHECKING:
    from .files.placing import NodeFiles
    from .outputs import Attachments
    from .packages.installer import Made


_ENVIRONMENT = f"{__package__}.environment"  # loaded where a task has one


class StartPlainly(Exception):
    """This process has modules loaded that the task needs of another version: a fresh one has to run it."""


class Refusal(Exception):
    """The chunk as a whole cannot be run; `code` says why to the client, `fields` what it needs to know."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.fields = fields
        self.frames: list[payload.Frame] = []  # the exception behind it, pickled

    @classmethod
    def for_error(cls, code: str, error: BaseException, **fields: Any) -> Refusal:
        """With class, message and traceback of `error`, and itself where it can be pickled."""
        from . import items

        about = items.error_fields(error)
        refusal = cls(code, about.pop("text"), **about, **fields)
        refusal.frames = items.pickled_error(error)
        return refusal


class Task:
    """What the environment says of the task. Key and SAS are taken out of `env` here."""

    def __init__(self, env: dict[str, str], work_dir: str) -> None:
        spec = json.loads(env[names.ENV_CHUNK])
        self.job = env[names.ENV_JOB]
        self.key = base64.b64decode(env[names.ENV_KEY])
        self.client_python = env[names.ENV_PYTHON]
        self.chunk: int = spec["chunk"]
        self.generation: int = spec["gen"]
        self.spec = spec
        self.node = env.get("AZ_BATCH_NODE_ID", "")
        self.work_dir = work_dir
        self.task_dir = env.get("AZ_BATCH_TASK_DIR", work_dir)
        self.store = Store(env[names.ENV_STORE])
        self.cache = cache.NodeCache(
            os.path.join(env.get("AZ_BATCH_JOB_PREP_WORKING_DIR", work_dir), "cache"), self.store, spec["blobs"]
        )
        self.result_name = names.result_blob(self.chunk, self.generation)
        self.gpus = "" if "CUDA_VISIBLE_DEVICES" in env else env.get(names.ENV_GPUS, "")
        self.files: NodeFiles | None = None  # of a chunk that names some
        self.attachments: Attachments | None = None  # of a chunk whose items may leave files
        self.pip: dict[str, Any] = json.loads(env.get(names.ENV_PIP) or "{}")  # see names.ENV_PIP
        self.environment: Made | None = None  # where its packages are
        self.is_forked = False  # from a process that may have loaded more than a fresh one
        for name in names.ENV_SECRET:
            env.pop(name, None)
            os.environ.pop(name, None)
        os.environ[names.ENV_INSIDE] = "1"

    def has_result(self) -> bool:
        return self.store.exists(self.result_name, self.spec["out"])

    def fetch(self) -> tuple[dict[str, Any], list[memoryview]]:
        """Header and frames of the chunk. Raises Refusal when it is not what our client signed."""
        start, stop = self.spec["range"]
        data = self.store.get(names.pack_blob(self.spec["pack"]), self.spec["in"], (start, stop))
        about = envelope.context("chunk", self.job, self.chunk, self.generation)
        try:
            return envelope.unseal(self.key, about, data)
        except envelope.BadEnvelope as error:
            raise Refusal("tampered", f"chunk {self.chunk}: {error}") from error

    def store_result(self, header: dict[str, Any], frames: list[payload.Frame]) -> bool:
        """Whether all of it is stored, and not only why it cannot be. `frames` end with the tails of the streams."""
        if self.attachments is not None and self.attachments.entries:
            from .outputs import store_with

            return store_with(self, header, frames)
        data = self.sealed(header, frames)
        if len(data) > names.PUT_LIMIT:
            self.store_failure("too_large", f"the chunk's results take {len(data) / 2**20:,.0f} MiB", frames)
            return False
        self.put_result(data, len(data))
        return True

    def store_failure(self, code: str, text: str, frames: list[payload.Frame]) -> None:
        """In place of a result: why it cannot be stored, and the tails of the streams, with which `frames` end."""
        data = self.sealed({"node": self.node, "failure": {"code": code, "text": text}}, frames[-2:])
        self.put_result(data, len(data))

    def put_result(self, body: Any, length: int) -> None:
        """`body`: bytes, or a file."""
        self.store.put_new(self.result_name, self.spec["out"], body, length)

    def sealed(self, header: dict[str, Any], frames: list[payload.Frame]) -> bytes:
        about = envelope.context("result", self.job, self.chunk, self.generation)
        return envelope.seal(self.key, about, header, frames)


def run(task: Task, preloads: PreloadRequest | None = None, first_run: bool = False) -> int | None:
    """Run the task in this process and store its result. The exit code; None to be started again after preloading.

    `first_run`: the node knows that the task never ran before, so there is no result to look for.
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
        try:
            if task.client_python != names.running_python():
                raise Refusal("python_mismatch", "", client=task.client_python, worker=names.running_python())
            chunk, chunk_frames = task.fetch()
            if preloads is not None and preloads.wants(_preloadable(task, chunk)):
                return None
            surroundings.have_home(task.work_dir)
            if task.gpus:
                from . import gpus

                gpus.take(task.gpus, os.environ.get("AZ_BATCH_NODE_SHARED_DIR", task.task_dir))
            header, frames = _run_chunk(task, chunk, chunk_frames, streams)
        except Refusal as refusal:
            header["failure"] = {"code": refusal.code, "text": str(refusal), **refusal.fields}
            frames = refusal.frames
            task.attachments = None
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
            upload_log(task, streams.paths, {"tails": [len(tail) for tail in tails]}, tails)
            header["log"] = True
        done = task.store_result(header, [*frames, *tails]) and "failure" not in header
        return 0
    except StoreError as error:
        print(f"batchexec worker: {error}", file=sys.stderr)
        return names.EXIT_NO_RESULT
    finally:
        streams.replay()
        task.store.close()
        if task.gpus:
            from . import gpus

            gpus.release()
        if done:
            surroundings.empty(task.work_dir)


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


def upload_log(task: Task, paths: list[str], header: dict[str, Any], frames: list[bytes]) -> None:
    """Both streams whole, after a signed head with sizes and tails. Overwrites what an earlier try left."""
    about = envelope.context("log", task.job, task.chunk, task.generation)
    header = {**header, "node": task.node, "log_sizes": logs.sizes(paths)}
    file, length = logs.log_file(envelope.seal(task.key, about, header, frames), paths)
    with file:
        task.store.put(names.log_blob(task.chunk, task.generation), task.spec["log"], file, length)


def _run_chunk(
    task: Task, chunk: dict[str, Any], frames: list[memoryview], streams: logs.Streams
) -> tuple[dict[str, Any], list[payload.Frame]]:
    import importlib

    from . import items  # cloudpickle is imported here: never before the versions were compared

    started = time.perf_counter()
    if chunk["environment"] or _ENVIRONMENT in sys.modules:  # there already: in a process that stays
        from .packages import environment

        environment.enter(task, chunk["environment"])
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
        _place_files(task, chunk["files"])
    seeds.fresh()
    if chunk["seed"] is not None:
        seeds.prepare()
    if "init" in chunk["parts"]:
        initializer, initargs = _load(parts, "init", "the initializer")
        try:
            initializer(*initargs)
        except BaseException as error:
            raise Refusal.for_error("initializer", error) from error
    function = _load(parts, "code", "the callable")
    arguments = _load(parts, "items", "the arguments")
    loaded = time.perf_counter()
    if "outputs" in chunk:
        from . import context
        from .outputs import Attachments

        task.attachments = Attachments(task.work_dir, chunk["outputs"])
        if context.current is None or context.current.task is not task:
            context.current = context.Context(task)
        context.current.attachments = task.attachments
    ran = items.run_items(function, arguments, chunk["numbers"], chunk["seed"], streams.sizes, task.attachments)
    header = {
        "outcomes": ran.outcomes,
        "marks": ran.marks,
        "seconds": ran.seconds,
        "load_seconds": round(loaded - started, 6),
        "run_seconds": round(time.perf_counter() - loaded, 6),
    }
    return header, ran.frames


def _preloadable(task: Task, chunk: dict[str, Any]) -> list[str]:
    """The modules that tasks find in the image itself: those of an environment are for its own tasks only."""
    if chunk["environment"]:
        from .packages import environment

        if not environment.is_enough(task, chunk["environment"]):
            return []
    modules: list[str] = chunk["modules"]
    return modules


def _place_files(task: Task, said: dict[str, Any]) -> None:
    """The sets of files that the chunk names are within reach, and its own are placed in the working directory."""
    from . import context
    from .files import placing as files

    task.files = files.NodeFiles(task.cache.directory, task.store, said["sets"], task.cache.listing)
    if context.current is None or context.current.task is not task:
        context.current = context.Context(task)
    if said["place"] is not None:
        task.files.place(said["place"], task.work_dir)


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

    def load(self, name: str) -> Any:
        return payload.load(self._frames[name])


def _load(parts: _Parts, name: str, what: str) -> Any:
    try:
        return parts.load(name)
    except ModuleNotFoundError as error:
        raise Refusal("missing_module", str(error), module=error.name or "", what=what) from error
    except BaseException as error:
        raise Refusal.for_error("unloadable", error, what=what) from error
