"""What tests have workers do. Imports nothing that a bare interpreter lacks."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Any


def double(number: int) -> int:
    return 2 * number


def unsteady(number: int) -> int:
    """Doubles most numbers; raises for some, dies of others."""
    if number % 50 == 1:
        raise KeyError(number)
    if number % 50 == 2:
        os._exit(5)
    return double(number)


def mark(folder: str, number: int) -> int:
    """Leave a trace that can be left again."""
    open(os.path.join(folder, str(number)), "w").close()
    return number


def lock_from(number: int) -> Any:
    return threading.Lock() if number == 1 else number


class Unsendable(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Unreadable(Exception):
    """Is pickled, but not unpickled: its arguments are not those of its constructor."""

    def __init__(self, text: str, more: int) -> None:
        super().__init__(text)


def raise_unsendable(text: str) -> None:
    raise Unsendable(text)


def raise_unreadable(text: str) -> None:
    raise Unreadable(text, 1)


class OnlyThere:
    """A value that no process but a worker can load."""

    def __reduce__(self) -> Any:
        return _load_there, ()


def _load_there() -> OnlyThere:
    if "AZ_BATCH_TASK_ID" not in os.environ:
        raise ValueError("this is not the worker")
    return OnlyThere()


def only_there(number: int) -> Any:
    return OnlyThere() if number == 1 else number


class Exiting:
    """Ends whoever unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def exiting(number: int) -> Any:
    return Exiting() if number == 1 else number


def last_words() -> None:
    print("said before the end")
    print("warned before the end", file=sys.stderr, flush=True)
    sys.stdout.flush()


def die(how: str) -> None:
    """End this process by `how`, after some words."""
    last_words()
    if how == "exit":
        os._exit(3)
    elif how == "overflow":
        faulthandler._stack_overflow()  # type: ignore[attr-defined]
    elif how == "null":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), getattr(signal, how))


def die_once(marker: str, number: int) -> int:
    if not os.path.exists(marker):
        open(marker, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(number)


def die_at_two(number: int) -> int:
    if number == 2:
        die("SIGKILL")
    return number


def leave(code: int) -> None:
    last_words()
    sys.exit(code)


def hoard() -> int:
    """More memory than this process may have."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    return len(bytearray(2**32))


def recurse(depth: int) -> int:
    return recurse(depth + 1)


def write_to_full(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x" * 10)


def write_here(size: int) -> None:
    """Write a file into the working directory."""
    with open("file", "wb", buffering=0) as file:
        while size > 0:
            size -= file.write(bytes(min(size, 1 << 16)))


def fill(folder: str) -> None:
    """Make files until the disk has room for no byte and no file; they stay."""
    os.mkdir(folder)
    try:
        with open(os.path.join(folder, "large"), "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        for number in range(10_000):
            open(os.path.join(folder, str(number)), "x").close()


def touch_and_sleep(path: str, seconds: float = 600.0) -> None:
    """Tell that this runs, then sleep, longer than any test waits."""
    open(path, "w").close()
    time.sleep(seconds)


def sleep_with_family(folder: str, number: int, family: tuple[str, ...] = ("child", "grandchild")) -> None:
    """A child, and a grandchild that left its session; then sleep. Each tells that it runs."""
    for name in family:
        if os.fork() == 0:
            if name == "grandchild":
                os.setsid()
                if os.fork():
                    os._exit(0)
            touch_and_sleep(os.path.join(folder, f"{name}{number}"))
            os._exit(0)
    touch_and_sleep(os.path.join(folder, f"task{number}"))


def touch_and_wait_for(folder: str, name: str) -> None:
    """Tell that this runs; end when the file `go` is there."""
    open(os.path.join(folder, name), "w").close()
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
