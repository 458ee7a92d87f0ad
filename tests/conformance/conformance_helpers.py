"""What the conformance tests share: kinds of executors, gates for calls, and waiting for other processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from batchexec import BatchExecutor

KINDS: dict[str, Callable[..., Executor]] = {"threads": ThreadPoolExecutor, "batch": BatchExecutor}


class Gate:
    """A file that calls in other processes wait for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        Path(self.path).touch()

    @contextlib.contextmanager
    def opened_at_the_end(self) -> Iterator[None]:
        """For a block after which an executor waits for its calls."""
        try:
            yield
        finally:
            self.open()


def lines_of(log: str) -> list[str]:
    path = Path(log)
    return path.read_text().splitlines() if path.exists() else []


def eventually(condition: Callable[[], object], limit: float = 20.0) -> None:
    """Wait for what another thread or process is about to do."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)
