"""Random state: fresh in each worker process, or one stream per item under `seed=`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import random
import sys
from collections.abc import Iterator


def fresh() -> None:
    """Reseed `random` and numpy's legacy generator from the system: a forked child must not repeat its sibling."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def prepare() -> None:
    """Have numpy's generator there before items are seeded, as user code may import it only later."""
    if "numpy.random" not in sys.modules and importlib.util.find_spec("numpy") is not None:
        importlib.import_module("numpy.random")


def for_item(seed: int, item: int) -> None:
    """Put `random` and numpy's legacy generator at the start of the stream of this item of this executor."""
    digest = hashlib.sha256(f"batchexec|{seed}|{item}".encode()).digest()
    random.seed(int.from_bytes(digest, "big"))
    if "numpy.random" in sys.modules:
        words = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)]
        sys.modules["numpy.random"].seed(words)


@contextlib.contextmanager
def borrowed(seed: int | None, item: int) -> Iterator[None]:
    """The item's stream for the length of a block, in a process that has a state of its own to keep."""
    if seed is None:
        yield
        return
    prepare()
    state = random.getstate()
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random else None
    for_item(seed, item)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy_random:
            numpy_random.set_state(numpy_state)
