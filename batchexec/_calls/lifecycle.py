"""The state of an executor: open, broken or shut; its engine; and the numbers of its items and chunks."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import TYPE_CHECKING

from batchexec._exits import exiting, register
from batchexec._inline import Initialization
from batchexec._report.progress import Progress
from batchexec.config import BatchConfig

from .capacity import Capacity

if TYPE_CHECKING:
    from batchexec._engine.engine import Engine


class Lifecycle:
    """Held by its executor, and by what still brings calls of it: when all these are gone, the engine drains."""

    def __init__(
        self, config: BatchConfig, where: str, capacity: Capacity, initialization: Initialization | None
    ) -> None:
        """`initialization`: of calls that run in this process (where="inline"); such an executor has no engine."""
        self.engine: Engine | None = None
        self.items = 0
        """Items that were submitted."""
        self._config = config
        self._where = where
        self._capacity = capacity
        self._initialization = initialization
        self._lock = threading.RLock()  # a finalizer may shut it wherever it is held
        self._chunks = itertools.count()
        self._shut = False
        self._pid = os.getpid()

    @property
    def broken(self) -> BaseException | None:
        if self.engine is not None:
            return self.engine.board.broken
        return self._initialization.failed if self._initialization is not None else None

    @property
    def base(self) -> str:
        """The directory that relative places of outputs start from."""
        return self.engine.board.base if self.engine is not None else os.getcwd()

    def ready(self, items: int, chunks: int = 1) -> tuple[int, int]:
        """Numbers for the next chunk and item, with the engine there to take them. Raises RuntimeError when the
        executor takes no more, and what broke it."""
        if os.getpid() != self._pid:  # before the lock, which another thread may have held at the fork
            raise RuntimeError(
                "this BatchExecutor belongs to the parent process: create one of its own in a forked child"
            )
        with self._lock:
            if self.engine is not None:
                self.engine.board.raise_if_broken()
            elif self._initialization is not None and self._initialization.failed is not None:
                raise self._initialization.failed
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if exiting():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._initialization is not None:
                self._initialization.begin()
            elif self.engine is None:
                self.engine = self._started()
            first, self.items = self.items, self.items + items
            number = next(self._chunks)
            for _ in range(chunks - 1):
                next(self._chunks)
            return number, first

    def shut(self) -> Engine | None:
        """Take no more work; the engine, if there is one that is this process's own."""
        if os.getpid() != self._pid:  # before the lock, as in `ready`
            return None
        with self._lock:
            self._shut = True
            engine = self.engine
        return None if engine is None or engine.foreign else engine

    def _started(self) -> Engine:
        if self._where == "local":
            from batchexec._engine import local

            local.start()  # before the imports below, so that it starts while they go on
        from batchexec._engine.engine import Engine

        config = self._config
        echo = self._where == "local" if config.echo is None else config.echo
        progress = Progress(show=config.progress, echo=echo, remote=self._where == "azure")
        progress.announce(self._told(), always=self._where == "azure")
        engine = Engine(config, self._capacity.place(), progress)
        register(engine)
        # Dropping the executor drains it, as with the standard library's.
        weakref.finalize(self, engine.end, "drain").atexit = False
        return engine

    def _told(self) -> str:
        """Where the work will run."""
        config = self._config
        if self._where == "local":
            reason = " (no Azure account is configured)" if config.where == "auto" else ""
            return f"on this machine, {self._capacity.at_once} processes at once{reason}"
        from batchexec._engine.pools import pool

        return (
            f"Azure Batch account {config.batch_account}, pool {pool.pool_id(config)}, up to "
            f"{self._capacity.place().nodes} {config.vm_size} nodes of {config.slots_per_node} slots, released after "
            f"{config.idle_minutes} idle minutes"
        )
