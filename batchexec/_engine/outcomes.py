"""A result blob as what it means: values, exceptions with their remote tracebacks, or a typed failure of the chunk."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from batchexec._wire import envelope, payload
from batchexec.errors import (
    BatchExecError,
    InitializerError,
    MissingModuleError,
    PayloadError,
    PythonMismatchError,
    RemoteError,
    RemoteExit,
    RemoteTraceback,
    ResultPicklingError,
    ResultStoreError,
    TamperedError,
    TaskError,
)
from batchexec.futures import Delivery, Outcome, Timing


class Identity(Protocol):
    """What there is to know of a chunk to read its result."""

    @property
    def number(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def task_id(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def is_map(self) -> bool: ...
    @property
    def sent_at(self) -> float: ...
    @property
    def failed(self) -> dict[int, PayloadError]:
        """Items that could not be sent, by their place in the chunk."""


class Failure(Exception):
    """The chunk has no outcomes; `error` says why. One that is a BrokenBatchExecutor breaks the executor."""

    def __init__(self, error: BatchExecError) -> None:
        super().__init__(str(error))
        self.error = error


def decode(data: bytes, key: bytes, job: str, chunk: Identity) -> Delivery:
    """The chunk's delivery. Runs user code (unpickling). Raises Failure."""
    where: dict[str, Any] = {"job_id": job, "task_id": chunk.task_id}
    about = envelope.context("result", job, chunk.number, chunk.generation)
    try:
        header, frames = envelope.unseal(key, about, data)
    except envelope.BadEnvelope as error:
        raise Failure(
            TamperedError(
                f"the result of task {chunk.task_id} is not what a worker of this job signed ({error}): it was not "
                "used. Someone else may write to the storage account.",
                **where,
            )
        ) from error
    tails = [bytes(frame) for frame in frames[-2:]]
    frames = frames[:-2]
    where["node_id"] = header.get("node") or None
    if "failure" in header:
        texts = [tail.decode("utf-8", "replace") for tail in tails]
        raise Failure(chunk_failure(header["failure"], frames, {**where, "stdout": texts[0], "stderr": texts[1]}))
    outcomes: list[Outcome] = []
    start = 0
    arrived = iter(header["outcomes"])
    for index in range(chunk.size):
        if index in chunk.failed:
            outcomes.append(Outcome(None, chunk.failed[index]))
            continue
        fields = next(arrived)
        own = frames[start : start + fields["n"]]
        start += fields["n"]
        number = chunk.offset + index if chunk.is_map else None
        outcomes.append(_outcome(fields, own, number, header.get("node", "")))
    timing = Timing(
        queued=max(0.0, header["began"] - chunk.sent_at),
        load=header["load_seconds"],
        run=header["run_seconds"],
        total=header["ended"] - header["began"],
        peak_memory=header["peak_rss"],
    )
    streams = (tails[0], tails[1])
    return Delivery(outcomes, timing, streams, chunk.task_id, header["node"], tuple(header["marks"]))


def chunk_failure(failure: dict[str, Any], frames: list[memoryview], where: dict[str, Any]) -> BatchExecError:
    """The typed error for a worker's word that it could not run the chunk at all."""
    code, text = failure["code"], failure["text"]
    original = _cause(failure, frames)
    if code == "python_mismatch":
        return PythonMismatchError(
            f"this is {failure['client']}, the worker runs {failure['worker']}: pickled functions do not travel "
            f"between them. Use an image or an interpreter with {failure['client']} (image=, python=)."
        )
    if code == "initializer":
        error: BatchExecError = InitializerError(
            f"the initializer raised {failure['type']}: {text}; the executor can run nothing more"
        )
    elif code == "missing_module":
        name = failure["module"]
        error = MissingModuleError(
            f"the worker has no module {name!r}, which {failure['what']} needs. Install it on the nodes (image=), "
            "or, if it is your own, import it from a file here so that it can be shipped.",
            module=name,
            **where,
        )
    elif code == "unloadable":
        if isinstance(original, BatchExecError):
            error, original = original, RemoteTraceback(failure["traceback"])
        else:
            error = PayloadError(f"the worker could not load {failure['what']}: {failure['type']}: {text}")
    elif code == "tampered":
        error = TamperedError(f"the worker refused to run it: {text} (it was changed in storage)", **where)
    elif code == "too_large":
        error = ResultStoreError(f"{text}, more than the 5,000 MiB that one result may take: return less", **where)
    else:
        error = TaskError(f"the worker could not run the chunk: {code}: {text}", **where)
    error.__cause__ = original
    return error


def _cause(failure: dict[str, Any], frames: list[memoryview]) -> BaseException | None:
    """The worker's own exception, with its traceback; as text where it could not travel."""
    if "traceback" not in failure:
        return None
    error, _ = _load(frames)
    if not isinstance(error, BaseException):
        return RemoteTraceback(failure["traceback"])
    error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def _load(frames: list[memoryview]) -> tuple[Any, Exception | None]:
    """What the frames hold, or why it cannot be loaded."""
    if not frames:
        return None, None
    try:
        return payload.load(frames), None
    except Exception as error:  # noqa: BLE001 - unpickling runs user code; the caller reports it
        return None, error


def _outcome(fields: dict[str, Any], frames: list[memoryview], number: int | None, node: str) -> Outcome:
    value, broken = _load(frames)
    if "unpicklable" in fields:
        error: BaseException = ResultPicklingError(
            f"the result, of type {fields['unpicklable']}, cannot be pickled by the worker: "
            f"{fields['type']}: {fields['text']}"
        )
        error.__cause__ = RemoteTraceback(fields["traceback"])
        return Outcome(None, error)
    if "type" not in fields:
        if broken is None:
            return Outcome(value, None)
        error = ResultPicklingError(f"the result cannot be unpickled here: {type(broken).__name__}: {broken}")
        error.__cause__ = broken
        return Outcome(None, error)
    item = fields["call"] if number is None else f"item {number}: {fields['call']}"
    text = f"{fields['traceback']}\nin {item}" + (f", on node {node}" if node else "")
    if isinstance(value, BaseException):
        error = value
    elif fields.get("exit"):
        reason = "it would have ended this process too"
        error = RemoteExit(fields["type"], fields["text"], fields["traceback"], reason)
    else:
        reason = f"it cannot be unpickled here: {broken}" if broken else "it cannot be pickled by the worker"
        error = RemoteError(fields["type"], fields["text"], fields["traceback"], reason)
    error.__cause__ = RemoteTraceback(text)
    if sys.version_info >= (3, 11):
        error.add_note(f"in {item}")
    return Outcome(None, error)
