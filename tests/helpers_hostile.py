"""Results and exceptions whose classes do what they should not. Imports nothing that a bare interpreter lacks."""

from __future__ import annotations

import os
import sys
from typing import Any


class Wordless(Exception):
    """Raises itself, when it is asked for its text."""

    def __str__(self) -> str:
        raise self


class Fixed(Exception):
    """Takes no attribute, a cause among them."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("fixed")


class Unreadable:
    def __reduce__(self) -> Any:
        return _only_there, ()


def _only_there() -> int:
    if "AZ_BATCH_TASK_ID" not in os.environ:
        raise Wordless
    return 1


class Exiting:
    def __reduce__(self) -> Any:
        sys.exit(4)


def item(number: int) -> Any:
    if number == 2:
        raise Fixed("two")
    if number == 3:
        raise Wordless
    if number == 5:
        child = os.fork()
        if child == 0:
            return "of the child"
        os.waitpid(child, 0)
        return "of the parent"
    if number == 6:
        sys.stdout = None  # type: ignore[assignment]
        sys.stderr = object()  # type: ignore[assignment]
        return "without streams"
    if number == 7:
        os.closerange(0, 200)
    return {1: Unreadable(), 4: Exiting()}.get(number, number)


def talk(number: int) -> int:
    print("of", number)
    return number
