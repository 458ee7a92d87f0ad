"""What the conformance tests run in workers. Standard library only, so that a worker imports it fast."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from typing import Any

STATE = "never initialised"


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def square(x: int) -> int:
    return x * x


def fail(text: str) -> None:
    raise LookupError(text, 42)


def invert(x: int) -> float:
    return 1 / x


def until(path: str, value: Any = None, limit: float = 30.0) -> Any:
    """Wait until the file is there, then return `value`."""
    end = time.monotonic() + limit
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.005)
    return value


def note(path: str, text: object) -> None:
    """Append a line, whole even when several processes do."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def note_and_wait(log: str, text: object, gate: str) -> object:
    note(log, text)
    return until(gate, text)


def fail_or_wait(item: int, log: str, gate: str) -> int:
    note(log, item)
    if item == 1:
        raise LookupError(item)
    if item > 1:
        until(gate)
    return item


def initialise(value: str) -> None:
    global STATE
    STATE = value


def state(_: object = None) -> str:
    return STATE


def fail_to_initialise() -> None:
    raise ValueError("no licence")


def who() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def pid(_: object = None) -> int:
    return os.getpid()


def say(word: object) -> object:
    print(f"say {word}")
    print(f"complain {word}", file=sys.stderr)
    return word


def draw(_: object = None) -> tuple[float, float]:
    """One number from each of the two generators that hold global state."""
    import numpy.random

    return random.random(), float(numpy.random.random())


def mean_and_writable(array: Any, item: int) -> tuple[float, int]:
    return float(array[item]), len(array)


def note_pid_and_wait(log: str, gate: str) -> None:
    note(log, os.getpid())
    until(gate)


class Counter:
    """An object with state and methods."""

    def __init__(self, start: int) -> None:
        self.count = start

    def plus(self, x: int) -> int:
        return self.count + x

    def __call__(self, x: int) -> int:
        return self.count * x


def stop_at_two(number: int) -> int:
    if number == 2:
        raise StopIteration
    return number
