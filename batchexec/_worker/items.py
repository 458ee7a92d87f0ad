"""Running the items of a chunk one by one, and what came of each."""

from __future__ import annotations

import os
import reprlib
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable

import cloudpickle

from batchexec._wire import payload, seeds

from .refusals import Refusal
from .store import StoreError

if TYPE_CHECKING:
    from .outputs import Attachments


class Ran:
    """What came of a chunk: outcomes in order, the frames they own, where in the logs each item began."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.frames: list[payload.Frame] = []
        self.marks: list[list[int]] = []
        self.seconds: list[float] = []


def run_items(
    function: Callable[..., Any],
    items: list[tuple[tuple[Any, ...], dict[str, Any]]],
    numbers: list[int],
    seed: int | None,
    log_sizes: Callable[[], list[int]],
    attachments: Attachments | None = None,
) -> Ran:
    """Call `function` on each item. `numbers` are the items' numbers in their executor, which name their seeds.

    `attachments` takes the files that each item leaves.
    """
    ran = Ran()
    if attachments is not None:
        attachments.begin()
    for (args, kwargs), number in zip(items, numbers):
        ran.marks.append(log_sizes())
        if seed is not None:
            seeds.for_item(seed, number)
        if attachments is not None:
            attachments.number = number
        process = os.getpid()
        start = time.perf_counter()
        try:
            value = function(*args, **kwargs)
        except (Refusal, StoreError):
            raise  # ours: by a function of the worker that runs in the place of the user's
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
            outcome, frames = _failure(error), _pickled(error)
            outcome["call"] = _describe_call(function, args, kwargs)
        else:
            outcome, frames = _success(value)
            del value
        if os.getpid() != process:
            os._exit(0)  # a child that the item forked has no business here: its parent has the result
        ran.seconds.append(round(time.perf_counter() - start, 6))
        if attachments is not None:
            refused = attachments.collect()
            if refused:
                outcome["refused"] = refused
        outcome["n"] = len(frames)
        ran.outcomes.append(outcome)
        ran.frames += frames
    ran.marks.append(log_sizes())
    return ran


def _describe_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """`name(args)`, short: for messages only."""
    if getattr(function, "calls_its_first", False) and args:
        function, args = args[0], args[1:]
    shorten = reprlib.Repr()
    shorten.maxother = shorten.maxstring = 60
    try:
        words = [shorten.repr(arg) for arg in args] + [f"{k}={shorten.repr(v)}" for k, v in kwargs.items()]
    except BaseException as error:  # noqa: BLE001 - a broken __repr__ must not hide the error being described
        words = [f"arguments whose repr raises {type(error).__name__}"]
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    text = f"{name}({', '.join(words)})"
    return text if len(text) <= 200 else text[:197] + "..."


def _error_fields(error: BaseException) -> dict[str, Any]:
    """Class, message and traceback of an exception as text. Frames of the worker itself are left out."""
    trace = error.__traceback__
    while trace is not None and "batchexec/_worker/" in trace.tb_frame.f_code.co_filename.replace("\\", "/"):
        trace = trace.tb_next
    try:
        text = str(error)
    except BaseException as broken:  # noqa: BLE001 - a broken __str__ must not hide the error itself
        text = f"<no text: its __str__ raises {type(broken).__name__}>"
    kind = type(error)
    return {
        "type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        "text": text,
        "traceback": _traceback(error, trace),
    }


def _traceback(error: BaseException, trace: Any) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as broken:  # noqa: BLE001 - of a __str__ that would end the process
        return "".join(traceback.format_tb(trace)) + f"<no text: its __str__ raises {type(broken).__name__}>"


def _failure(error: BaseException) -> dict[str, Any]:
    outcome = _error_fields(error)
    if not isinstance(error, Exception):
        outcome["exit"] = True
    return outcome


def _pickled(error: BaseException) -> list[payload.Frame]:
    """The exception's frames; none when it cannot be pickled, then it travels as text."""
    if not isinstance(error, Exception):
        return []
    try:
        return payload.dump(error, cloudpickle.dumps)
    except BaseException:  # noqa: BLE001 - pickling runs user code; the outcome's text says what was raised
        return []


def refusal(code: str, error: BaseException, **fields: Any) -> Refusal:
    """Of a chunk, for `error`: with its class, message and traceback, and itself where it can be pickled."""
    about = _error_fields(error)
    refused = Refusal(code, about.pop("text"), **about, **fields)
    refused.frames = _pickled(error)
    return refused


def _success(value: object) -> tuple[dict[str, Any], list[payload.Frame]]:
    try:
        return {}, payload.dump(value, cloudpickle.dumps)
    except BaseException as error:  # noqa: BLE001 - pickling runs user code, sys.exit among it
        reason = _error_fields(error)
        return {"unpicklable": type(value).__qualname__, **reason}, []
