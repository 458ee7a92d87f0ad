"""A result blob as what it means: values, exceptions with their remote tracebacks, or a typed failure of the chunk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from batchexec._report.words import described, text_of
from batchexec._wire import envelope, payload
from batchexec.errors import (
    BatchExecError,
    FilesError,
    InitializerError,
    MissingModuleError,
    OutputError,
    PayloadError,
    PythonMismatchError,
    RemoteError,
    RemoteExit,
    RemoteTraceback,
    RequirementsError,
    ResultPicklingError,
    ResultStoreError,
    TamperedError,
    TaskError,
)
from batchexec.futures import Delivery, Outcome, Timing

if TYPE_CHECKING:
    from .collector import Brought


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
    def first_item(self) -> int: ...
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
    return delivery(*opened(data, key, job, chunk), job, chunk)


def opened(data: bytes, key: bytes, job: str, chunk: Identity) -> tuple[dict[str, Any], list[memoryview]]:
    """Header and frames of a result's envelope. Raises Failure where no worker of the job signed it."""
    about = envelope.context("result", job, chunk.number, chunk.generation)
    try:
        return envelope.unseal(key, about, data)
    except envelope.BadEnvelope as error:
        raise Failure(
            TamperedError(
                f"the result of task {chunk.task_id} is not what a worker of this job signed ({error}): it was not "
                "used. Someone else may write to the storage account.",
                job_id=job,
                task_id=chunk.task_id,
            )
        ) from error


def delivery(
    header: dict[str, Any], frames: list[memoryview], job: str, chunk: Identity, brought: Brought | None = None
) -> Delivery:
    """What an opened result means, with the files that were `brought`. Runs user code (unpickling). Raises Failure."""
    where: dict[str, Any] = {"job_id": job, "task_id": chunk.task_id, "node_id": header.get("node") or None}
    tails = [bytes(frame) for frame in frames[-2:]]
    frames = frames[:-2]
    if "failure" in header:
        texts = [tail.decode("utf-8", "replace") for tail in tails]
        raise Failure(chunk_failure(header["failure"], frames, {**where, "stdout": texts[0], "stderr": texts[1]}))
    outputs: list[list[Any]] = []
    outcomes: list[Outcome] = []
    start = 0
    arrived = iter(header["outcomes"])
    for index in range(chunk.size):
        if index in chunk.failed:
            outcomes.append(Outcome(None, chunk.failed[index]))
            if brought is not None:
                outputs.append([])
            continue
        fields = next(arrived)
        own = frames[start : start + fields["n"]]
        start += fields["n"]
        number = chunk.offset + index if chunk.is_map else None
        outcome = _as_it_can_be(fields, own, number, header.get("node", ""))
        if "refused" in fields:
            outcome = _spoilt(outcome, _refused(chunk.first_item + index, fields["refused"], where))
        if brought is not None:
            outputs.append(brought.paths.get(chunk.first_item + index, []))
            outcome = _spoilt(outcome, brought.errors.get(chunk.first_item + index))
        outcomes.append(outcome)
    timing = Timing(
        queued=max(0.0, header["began"] - chunk.sent_at),
        load=header["load_seconds"],
        run=header["run_seconds"],
        total=header["ended"] - header["began"],
        peak_memory=header["peak_rss"],
    )
    streams = (tails[0], tails[1])
    return Delivery(
        outcomes,
        timing,
        streams,
        chunk.task_id,
        header["node"],
        tuple(header["marks"]),
        tuple(header["seconds"]),
        tuple(outputs),
    )


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
        told = f"the initializer raised {failure['type']}: {text}; the executor can run nothing more"
        error: BatchExecError = InitializerError(_hinted(told, failure, original))
    elif code == "missing_module":
        name = failure["module"]
        from . import lacking

        advice = lacking.advice(name) or (
            "Name the package that has it (requirements=), use an image that has it (image=), or, if it is your own, "
            "import it from a file here so that it can be shipped."
        )
        error = MissingModuleError(
            f"the worker has no module {name!r}, which {failure['what']} needs. {advice}",
            module=name,
            **where,
        )
    elif code == "unloadable":
        if isinstance(original, BatchExecError):
            error, original = original, RemoteTraceback(failure["traceback"])
        else:
            from . import hints

            hint = hints.missing_in_main(text)
            told = f"the worker could not load {failure['what']}: {failure['type']}: {text}"
            error = PayloadError(f"{told}. {hint}" if hint else _hinted(told, failure, original))
    elif code == "requirements":
        from . import unmet

        said = unmet.told(failure["kind"], failure["reason"], text, where["node_id"])
        error = RequirementsError(said, kind=failure["kind"])
    elif code == "tampered":
        error = TamperedError(f"the worker refused to run it: {text} (it was changed in storage)", **where)
    elif code == "files":
        error = FilesError(f"node {where['node_id']}: {text}")
    elif code == "too_large":
        error = ResultStoreError(f"{text}, more than the 5,000 MiB that one result may take: return less", **where)
    elif code == "outputs_too_large":
        error = OutputError(
            f"{text}. One result may take 5,000 MiB, with all files of its items: leave less, or have fewer items in a "
            "chunk (chunksize=)",
            **where,
        )
    elif code == "output_changed":
        error = OutputError(f"{text} was changed after its item had ended: something still writes to it", **where)
    else:
        error = TaskError(f"the worker could not run the chunk: {code}: {text}", **where)
    error.__cause__ = original
    return error


def _hinted(told: str, failure: dict[str, Any], original: BaseException | None) -> str:
    """With what to do about a module that could not be imported."""
    if not isinstance(original, ImportError) and "No module named" not in failure["traceback"]:
        return told
    from . import lacking

    hint = lacking.advice_on(failure["text"], failure["traceback"], isinstance(original, ImportError))
    return f"{told}. {hint}" if hint else told


def _cause(failure: dict[str, Any], frames: list[memoryview]) -> BaseException | None:
    """The worker's own exception, with its traceback; as text where it could not travel."""
    if "traceback" not in failure:
        return None
    error, _ = _load(frames)
    if not isinstance(error, BaseException):
        return RemoteTraceback(failure["traceback"])
    error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def _load(frames: list[memoryview]) -> tuple[Any, BaseException | None]:
    """What the frames hold, or why it cannot be loaded."""
    if not frames:
        return None, None
    try:
        return payload.load(frames), None
    except KeyboardInterrupt:
        raise  # the user's, where a job is fetched: that is done in the main thread
    except BaseException as error:  # noqa: BLE001 - unpickling runs user code (sys.exit, too); the caller reports it
        return None, error


def _refused(item: int, texts: list[str], where: dict[str, Any]) -> OutputError:
    return OutputError(f"files of item {item} were not taken: {'; '.join(texts)}", **where)


def _spoilt(outcome: Outcome, error: BaseException | None) -> Outcome:
    """An item whose files did not all come has that error; one that raised keeps its own, with a note."""
    if error is None:
        return outcome
    if outcome.error is None:
        return Outcome(None, error)
    if sys.version_info >= (3, 11):
        outcome.error.add_note(str(error))
    return outcome


def _as_it_can_be(fields: dict[str, Any], frames: list[memoryview], number: int | None, node: str) -> Outcome:
    """An item's outcome. What its exception's class does to those who read it or add to it harms no other item."""
    try:
        return _outcome(fields, frames, number, node)
    except BaseException as error:  # noqa: BLE001 - of user code: __setattr__, properties, __str__
        reason = f"{described(error)} was raised in reading it"
        kind, text = fields.get("type", "an exception"), fields.get("text", "")
        return Outcome(None, RemoteError(kind, text, fields.get("traceback", ""), reason))


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
        error = ResultPicklingError(f"the result cannot be unpickled here: {described(broken)}")
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
        reason = f"it cannot be unpickled here: {text_of(broken)}" if broken else "it cannot be pickled by the worker"
        error = RemoteError(fields["type"], fields["text"], fields["traceback"], reason)
    hint = None
    if isinstance(error, FileNotFoundError):
        from . import hints

        hint = hints.missing_file(error)
    elif isinstance(error, ImportError) or "No module named" in text:
        from . import lacking

        hint = lacking.advice_on(fields["text"], fields["traceback"], isinstance(error, ImportError))
    error.__cause__ = RemoteTraceback(f"{text}\n{hint}" if hint else text)
    if sys.version_info >= (3, 11):
        error.add_note(f"in {item}")
        if hint:
            error.add_note(hint)
    return Outcome(None, error)
