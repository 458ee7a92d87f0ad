"""`share(obj)`: a handle that travels in place of an object which many calls use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from batchexec._source import Reached
from batchexec._wire import shared
from batchexec.errors import PicklingError

_pickling = threading.local()


class Shared:
    """Stands for an object among the arguments of `submit` and `map`; the function gets the object itself.

    The object is pickled once, stored once, and read once per node; large arrays in it are memory-mapped read-only.
    """

    def __init__(self, value: Any, digest: str, data: bytes, reached: Reached) -> None:
        self.value = value
        self.reached = reached
        self.digest = digest
        self.data = data

    def __repr__(self) -> str:
        return f"<shared {type(self.value).__qualname__}, {len(self.data):,} bytes>"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        met: list[Shared] | None = getattr(_pickling, "met", None)
        if met is None:
            raise PicklingError("a shared object travels among the arguments of submit() and map() only")
        met.append(self)
        return shared.fetch, (self.digest,)


@contextlib.contextmanager
def collecting() -> Iterator[list[Shared]]:
    """The handles met while this thread pickles in the block."""
    _pickling.met = []
    try:
        yield _pickling.met
    finally:
        del _pickling.met


def opened(value: Any) -> Any:
    """The object behind a handle, any other value as it is: for calls that run in this process."""
    return value.value if isinstance(value, Shared) else value
